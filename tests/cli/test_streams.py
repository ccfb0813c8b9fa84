"""Standard output and error that are closed, full, or a pipe whose reader has gone."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.batch import worked_here
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
    "inspect": (["inspect", "m.onnx"], 0),
    "inspect --json": (["inspect", "m.onnx", "--json"], 0),
    "doctor --json": (["doctor", "--json"], 0),
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


class FullDisk(io.RawIOBase):
    """A file on a disk that is full."""

    def writable(self) -> bool:
        return True

    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def on_full_disk(*arguments: str) -> tuple[int, str]:
    """Run the command with its output on a full disk; return its exit code and messages."""
    full = io.TextIOWrapper(io.BufferedWriter(FullDisk()), "utf-8")
    outcome = run(*arguments, out=full)
    with contextlib.suppress(OSError):
        full.close()
    return outcome.code, outcome.err


@pytest.mark.parametrize("case", COMMANDS)
def test_a_full_disk_behind_standard_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """The work stays done where a file holds it; nothing at all is no success."""
    monkeypatch.chdir(folder)
    arguments, code = COMMANDS[case]
    if not case.startswith("optimize"):
        code = code or 2
    assert on_full_disk(*arguments) == (code, f"bnfold: {FULL}\n")
    if case.startswith("optimize"):
        (folder / "out.onnx").unlink()


@pytest.mark.parametrize("case", ["check", "explain --json", "report"])
def test_what_is_in_a_report_need_not_be_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(folder)
    arguments, _ = COMMANDS[case]
    written = ["--json", "-o", "full.md"] if case == "report" else ["--report", "full.md"]
    assert on_full_disk(*arguments, *written) == (0, f"bnfold: {FULL}\n")
    assert (folder / "full.md").read_text().startswith("#")
    (folder / "full.md").unlink()


def test_what_is_in_the_index_of_a_batch_need_not_be_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("bnfold.batch.run.run_all", worked_here)
    arguments = ("batch", "m.onnx", "--out", "index", "--no-bench", "--certify", "off")
    assert on_full_disk(*arguments) == (0, f"bnfold: {FULL}\n")
    assert (folder / "index" / "index.html").exists()
    shutil.rmtree(folder / "index")


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
@pytest.mark.parametrize(("case", "code"), [("optimize", 0), ("explain --json", 2), ("help", 2)])
def test_a_real_full_disk(folder: Path, case: str, code: int) -> None:
    arguments, _ = COMMANDS[case]
    assert in_shell(folder, ">/dev/full", *arguments) == (code, f"bnfold: {FULL}\n")
    (folder / "out.onnx").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case in ("optimize", "help") else pytest.mark.slow)
        for case in COMMANDS
    ],
)
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
    arguments, _ = COMMANDS[case]
    code = 0 if case == "optimize" else 2
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
