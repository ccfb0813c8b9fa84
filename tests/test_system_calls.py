"""System calls that fail: each call of a run, one by one, ends in words, and leaves nothing."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnfold.errors import LONGEST_LINE, error_line
from tests.support.cli import REWRITTEN, names, run, untouched
from tests.support.files import save_external
from tests.support.files import scratch as scratch
from tests.support.slow import few

CAUSES = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE, errno.EDQUOT, errno.EROFS]
CALLS = {
    "open": (os, "open"),
    "write": (os, "write"),
    "read": (os, "pread"),
    "mkdir": (os, "mkdir"),
    "chmod": (os, "chmod"),
    "rename": (os, "replace"),
    "unlink": (os, "unlink"),
    "sync": (os, "fsync"),
    "pipe": (os, "pipe"),
    "fork": (os, "fork"),
    "stat": (os, "stat"),
    "size": (os, "fstat"),
}


BY_THE_HUNDRED = ("stat", "size", "read")
"""Calls of which a run makes many from few places: the slow tests make each third one fail, and the
others each eighth one."""

UNUSED_BY_PROOFS = ("stat", "read")
"""Calls of which a run makes as many without certificates, which take a third of its time."""


QUICK = [*((name, 1) for name in CALLS if name not in BY_THE_HUNDRED), ("size", 8), ("read", 8)]
SLOW = [(name, 3) for name in BY_THE_HUNDRED]
IN_TURN = [(*call, number % 2 == 0) for number, call in enumerate(QUICK)]
"""Those of a model with weights in a file of their own, and of one without, in turn."""


class Failing:
    """A system call that fails the n-th time, in this process or one that it forks."""

    def __init__(self, call: Callable[..., Any], number: int, cause: int) -> None:
        self.call, self.left, self.cause = call, number, cause
        self.failed = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            self.failed = True
            place = args[0] if args and isinstance(args[0], (str, os.PathLike)) else None
            raise OSError(self.cause, os.strerror(self.cause), place)
        return self.call(*args, **kwargs)


@pytest.mark.parametrize(
    ("name", "stride", "external"),
    few([(*call, external) for call in [*QUICK, *SLOW] for external in (False, True)], IN_TURN),
)
def test_each_call_of_a_run_fails_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stride: int, external: bool
) -> None:
    model = (
        save_external(tmp_path) if external else Path(shutil.copy(REWRITTEN, tmp_path / "m.onnx"))
    )
    output, report = tmp_path / "old.onnx", tmp_path / "run.json"
    output.write_bytes(b"old")
    before = {path: untouched(path) for path in tmp_path.iterdir()}
    options: tuple[str | Path, ...] = ("--no-bench", "--truth", "off", "--report", report)
    if name in UNUSED_BY_PROOFS:
        options = (*options, "--certify", "off")
    owner, attribute = CALLS[name]
    number = 0
    while True:
        number += stride
        failing = Failing(getattr(owner, attribute), number, CAUSES[number // stride % len(CAUSES)])
        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, failing)
            outcome = run("optimize", model, output, *options)
        state = {path: untouched(path) for path in tmp_path.iterdir() if path in before}
        if outcome.code == 0:
            assert output.read_bytes() != b"old"
        else:
            cause = os.strerror(failing.cause)
            assert outcome.code in (2, 3, 5), (number, outcome)
            assert outcome.err.count("\n") == 1, (number, outcome.err)
            assert cause in outcome.err or name == "stat", (number, outcome.err)
        if output.read_bytes() == b"old":
            assert state == before
            if name != "unlink":  # what cannot be removed stays
                assert names(tmp_path) - {"run.json"} == {path.name for path in before}
        if not failing.failed and outcome.code == 0:
            break
        for path in tmp_path.iterdir():
            if path not in before:
                path.unlink()
        output.write_bytes(b"old")
        before = {path: untouched(path) for path in tmp_path.iterdir()}
    assert number < 400


def test_a_line_is_of_sane_length_and_only_shown() -> None:
    line = error_line("the node '\x1b[2J\x1b]0;title\x07" + "n" * 10_000 + "\u202e'\n; try --this")
    assert len(line) < LONGEST_LINE + 10
    assert line.startswith("the node '␛[2J␛]0;title␇nnn")
    assert line.endswith("\\u202e' ; try --this")
    assert line.isprintable()


def test_messages_of_the_command_are_such_lines(tmp_path: Path) -> None:
    name = "\x1b[31m" + "n" * 100
    outcome = run("explain", tmp_path / name)
    outcome.failed(3, "␛[31mnnn", "does not exist")
    assert "\x1b" not in outcome.err
    outcome = run("explain", REWRITTEN, "--only", "\x1b[31m" + "x" * 5000)
    outcome.failed(2, "unknown pass", " … ")
    assert len(outcome.err) < LONGEST_LINE + 20


def test_no_temporary_folder_is_made_unless_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    model = shutil.copy(REWRITTEN, tmp_path / "m.onnx")
    output = tmp_path / "out.onnx"
    assert run("optimize", model, output, "--no-bench").code == 0
    assert run("check", model, output).code == 0
    assert run("explain", model).code == 0
    run("check", model, output, "--outputs", "all").failed(2, "TMPDIR")


def test_a_temporary_folder_that_cannot_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    outcome = run("check", REWRITTEN, REWRITTEN, "--outputs", "all")
    outcome.failed(2, "/proc/nowhere", "No such file or directory", "TMPDIR")


def test_the_umask_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(_: int) -> int:
        raise AssertionError("the umask was touched")

    monkeypatch.setattr(os, "umask", touched)
    model = shutil.copy(REWRITTEN, tmp_path / "m.onnx")
    options = ("--no-bench", "--truth", "off", "--report", tmp_path / "r.md")
    assert run("optimize", model, tmp_path / "out.onnx", *options).code == 0
