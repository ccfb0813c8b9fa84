"""Standard output and error that are closed, full, or a pipe whose reader has gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import REWRITTEN, UNCHANGED, names, run

COMMANDS = {
    "optimize": (["optimize", "m.onnx", "out.onnx", "--no-check", "--no-bench"], 0),
    "optimize --json": (
        ["optimize", "m.onnx", "out.onnx", "--no-check", "--no-bench", "--json"],
        0,
    ),
    "check": (["check", "m.onnx", "m.onnx", "--truth", "off", "--certify", "off"], 0),
    "check of others": (["check", "m.onnx", "other.onnx"], 1),
    "bench": (["bench", "m.onnx", "--seconds", "0", "--no-memory"], 0),
    "explain": (["explain", "m.onnx"], 0),
    "explain --json": (["explain", "m.onnx", "--json"], 0),
    "report": (["report", "run.json"], 0),
    "passes": (["passes"], 0),
    "passes NAME": (["passes", "fold-batchnorm"], 0),
    "passes --json": (["passes", "--json"], 0),
    "help": (["--help"], 0),
    "help of a command": (["optimize", "--help"], 0),
    "version": (["--version"], 0),
    "no command": ([], 2),
}
FULL = "standard output cannot be written: No space left on device"
CLOSED = "standard output cannot be written: it is closed"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    shutil.copy(REWRITTEN, folder / "m.onnx")
    shutil.copy(UNCHANGED, folder / "other.onnx")
    report = folder / "run.json"
    options = ("--truth", "off", "--certify", "off", "--report", report)
    assert run("check", folder / "m.onnx", folder / "m.onnx", *options).code == 0
    return folder


def in_shell(folder: Path, redirection: str, *arguments: str) -> tuple[int, str]:
    """Run the command with its streams redirected, and return its exit code and stderr."""
    process = subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", sys.executable, "-m", "bnfold", *arguments],
        capture_output=True,
        check=False,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
    )
    return process.returncode, process.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
@pytest.mark.parametrize(
    "case", ["optimize", "optimize --json", "check of others", "report", "passes", "help"]
)
def test_a_full_disk_behind_standard_output_does_not_undo_the_work(folder: Path, case: str) -> None:
    arguments, code = COMMANDS[case]
    assert in_shell(folder, ">/dev/full", *arguments) == (code, f"bnfold: {FULL}\n")
    if case.startswith("optimize"):
        (folder / "out.onnx").unlink()


@pytest.mark.parametrize("case", COMMANDS)
def test_a_reader_that_has_gone_is_no_failure(folder: Path, case: str) -> None:
    arguments, code = COMMANDS[case]
    reading, writing = os.pipe()
    os.close(reading)  # the reader has gone before the first line
    process = subprocess.run(
        [sys.executable, "-m", "bnfold", *arguments],
        check=False,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (code, b"")
    if case.startswith("optimize"):
        (folder / "out.onnx").unlink()


@pytest.mark.parametrize("case", ["optimize", "explain --json", "passes", "help"])
def test_a_closed_standard_output_is_told(folder: Path, case: str) -> None:
    arguments, code = COMMANDS[case]
    assert in_shell(folder, ">&-", *arguments) == (code, f"bnfold: {CLOSED}\n")
    (folder / "out.onnx").unlink(missing_ok=True)


def test_with_all_streams_closed_the_files_are_what_they_should_be(folder: Path) -> None:
    arguments, _ = COMMANDS["optimize"]
    assert in_shell(folder, "", *arguments)[0] == 0
    expected = (folder / "out.onnx").read_bytes()
    (folder / "out.onnx").unlink()
    assert in_shell(folder, "<&- >&- 2>&-", *arguments) == (0, "")
    assert (folder / "out.onnx").read_bytes() == expected
    assert in_shell(folder, "2>/dev/full", "explain", "missing.onnx") == (3, "")
    (folder / "out.onnx").unlink()
    assert names(folder) == {"m.onnx", "other.onnx", "run.json"}


def test_without_standard_error_nothing_gets_into_the_record(folder: Path) -> None:
    process = subprocess.run(
        ["sh", "-c", '"$@" 2>&-', "sh", sys.executable, "-m", "bnfold", "explain", "no", "--json"],
        capture_output=True,
        check=False,
        cwd=folder,
        timeout=60,
    )
    assert (process.returncode, process.stdout) == (3, b"")
