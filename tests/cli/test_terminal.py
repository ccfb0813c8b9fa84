"""A real terminal of 80 columns: what fits, what disappears, and how it is left behind."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from bnfold.cli.main import main
from bnfold.cli.progress import StepProgress
from bnfold.progress import Counted
from tests.cli.test_main import COMMANDS
from tests.support.cli import MODELS, REWRITTEN

pytest.importorskip("pyte")
pytest.importorskip("pty")

from tests.support.terminal import Terminal

CHECKED = ("--truth", "off", "--certify", "off")


def bnfold(*arguments: str | Path) -> Callable[[], object]:
    def work() -> None:
        with mock.patch.object(sys, "argv", ["bnfold", "--no-config", *map(str, arguments)]):
            main()

    return work


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits(command: str) -> None:
    terminal = Terminal(bnfold(*([command] if command else []), "--help"))
    assert terminal.finish() == 0
    assert terminal.lines[0].startswith("Usage: bnfold")
    assert max(map(len, terminal.lines)) <= 80


@pytest.mark.parametrize(
    "arguments",
    [
        ("optimize", REWRITTEN, "{folder}/out.onnx"),
        ("check", REWRITTEN, REWRITTEN, *CHECKED),
        ("bench", REWRITTEN, "--seconds", "0", "--no-memory"),
        ("explain", MODELS / "preactivation_resnet.onnx"),
        ("inspect", REWRITTEN, MODELS / "conv_bn_conv.onnx"),
        pytest.param(("passes",), marks=pytest.mark.slow),
        pytest.param(("passes", "fold-batchnorm"), marks=pytest.mark.slow),
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_is_printed_fits_and_the_progress_is_gone(
    tmp_path: Path, arguments: tuple[str | Path, ...]
) -> None:
    paths = [str(argument).format(folder=tmp_path) for argument in arguments]
    terminal = Terminal(bnfold(*paths))
    assert terminal.finish() in (0, 1)
    for line in terminal.lines:
        is_one_word = any(len(word) > 76 for word in line.split())  # a path stays whole
        assert len(line) <= 80 or is_one_word, line
    assert not [line for line in terminal.lines if "…" in line and "0:00:0" in line]
    assert terminal.shows_cursor
    if arguments[0] in ("optimize", "check", "bench"):
        assert b"0:00:0" in terminal.sent  # there was some
    if arguments[0] == "optimize":
        assert terminal.lines[-1].startswith(("wrote", "  "))


def test_an_interrupt_ends_it_and_leaves_the_terminal_as_it_was() -> None:
    terminal = Terminal(bnfold("check", REWRITTEN, REWRITTEN, "--samples", "100000", *CHECKED))
    terminal.wait_for("sample")  # earlier, modules are imported, and it may end without a word
    terminal.press(b"\x03")
    assert terminal.finish() == 128 + signal.SIGINT
    assert terminal.shows_cursor
    shown = [line for line in terminal.lines if line != "^C"]
    assert [line.replace("^C", "") for line in shown] == ["bnfold: ended by SIGINT"]


def test_another_width_meanwhile_is_no_failure(tmp_path: Path) -> None:
    terminal = Terminal(bnfold("check", REWRITTEN, REWRITTEN, "--samples", "30", *CHECKED))
    terminal.wait_for("…")
    for columns in (40, 200, 20, 80):
        terminal.resize(columns)
        time.sleep(0.02)
    assert terminal.finish() == 0
    assert terminal.shows_cursor
    assert "equivalence: pass" in "\n".join(terminal.lines)


def test_what_is_counted_has_a_bar_and_names_are_only_shown() -> None:
    def work() -> None:
        with StepProgress() as progress:
            progress("reading [red]")
            time.sleep(0.15)
            for number in range(1, 5):
                progress(Counted(f"trial {number}\x1b[31m of '{'n' * 200}'", number, 4))
                time.sleep(0.15)
            progress("writing")
            time.sleep(0.15)

    terminal = Terminal(work)
    terminal.wait_for("reading [red] …")
    assert "━" not in terminal.sent.decode()
    terminal.wait_for("trial 3")
    assert "━" in terminal.sent.decode()
    assert b"trial 3\x1b[31m" not in terminal.sent
    assert max(map(len, terminal.lines)) <= 80
    terminal.wait_for("writing …")
    assert terminal.finish() == 0
    assert terminal.lines == []
    assert terminal.shows_cursor


def test_without_a_terminal_there_is_no_progress(capfd: pytest.CaptureFixture[str]) -> None:
    with StepProgress() as progress:
        progress(Counted("trial", 1, 4))
    assert capfd.readouterr() == ("", "")
