"""Reports that cannot be written: what else there is, is told."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bnfold import atomic
from tests.support.cli import REWRITTEN, UNCHANGED, names, run

REPORTS = ("--report", "a.md", "--report", "full.html", "--report", "b.json")
OPTIONS = ("--truth", "off", "--certify", "off")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in which the disk is full for one report."""
    shutil.copy(REWRITTEN, tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    overwrite = atomic.overwrite

    def filling(path: Path, *args: Any, **kwargs: Any) -> None:
        if "full.html" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        overwrite(path, *args, **kwargs)

    monkeypatch.setattr("bnfold.atomic.overwrite", filling)
    return tmp_path


def test_the_line_names_what_is_written_already(folder: Path) -> None:
    outcome = run("optimize", "m.onnx", "out.onnx", "--no-bench", *OPTIONS, *REPORTS)
    outcome.failed(2, "full.html cannot be written: No space", "before it: out.onnx, a.md")
    assert "equivalence: pass" in outcome.out
    assert names(folder) == {"m.onnx", "out.onnx", "a.md"}


def test_a_verdict_counts_more(folder: Path) -> None:
    outcome = run("check", "m.onnx", UNCHANGED, *OPTIONS, *REPORTS, "--json")
    outcome.failed(1, "full.html cannot be written: No space", "before it: a.md")
    assert outcome.record["equivalence"]["verdict"] == "fail"
    slow = ("--no-check", "--require-speedup", "1000", "--bench-seconds", "0.1")
    outcome = run("optimize", "m.onnx", "out.onnx", *slow, *REPORTS)
    assert outcome.code == 6
    report, failure = outcome.err.splitlines()
    assert report.endswith(
        "full.html cannot be written: No space left on device; written before it: a.md"
    )
    assert "nothing was written" in failure
    assert names(folder) == {"m.onnx", "a.md"}


def test_records_that_are_rendered(folder: Path) -> None:
    assert run("check", "m.onnx", "m.onnx", *OPTIONS, "--report", "run.json").code == 0
    outcome = run("report", "run.json", "-o", "a.md", "-o", "full.html")
    outcome.failed(2, "full.html cannot be written: No space", "before it: a.md")
