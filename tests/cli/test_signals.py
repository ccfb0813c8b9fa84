"""Signals end the command with 128 + their number, wherever it is, and leave nothing behind."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bnfold.atomic import AtomicFile
from tests.support.cli import REWRITTEN, names, run
from tests.support.files import save_external
from tests.support.slow import few

WHILE_IMPORTING = """
import builtins, os, runpy, signal, sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            {raising}
        return None

sys.meta_path.insert(0, Finder)
sys.argv = ["bnfold", *sys.argv[1:]]
runpy.run_module("bnfold", run_name="__main__")
"""
PLAIN = "signal.raise_signal(signal.{name})"
AS_IMPORT_ERROR = """
            try:
                signal.raise_signal(signal.{name})
            except BaseException as error:
                raise ImportError("initialization failed") from error  # as pybind11 does"""


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("module", "raising"),
    [
        ("bnfold.cli.main", PLAIN),
        ("typer", PLAIN),
        ("onnx", PLAIN),
        ("onnxruntime", PLAIN),
        ("onnxruntime", AS_IMPORT_ERROR),
        ("bnfold.proof.equivalence", PLAIN),
    ],
    ids=["main", "typer", "onnx", "onnxruntime", "import error", "equivalence"],
)
def test_a_signal_while_modules_are_imported(
    tmp_path: Path, module: str, raising: str, name: str
) -> None:
    shutil.copy(REWRITTEN, tmp_path / "m.onnx")
    script = WHILE_IMPORTING.format(module=module, raising=raising.format(name=name))
    process = subprocess.run(
        [sys.executable, "-c", script, "optimize", "m.onnx", "out.onnx", "--report", "run.json"],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        text=True,
        timeout=60,
    )
    assert process.returncode == 128 + getattr(signal, name), process.stderr
    assert process.stderr in ("", f"bnfold: ended by {name}\n")
    assert process.stdout == ""
    assert names(tmp_path) == {"m.onnx"}


MAKERS = ["os.open", "os.mkdir", "pathlib.Path.chmod", "os.replace", "os.close"]


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("external", few([False, True], [True]))
def test_a_signal_right_after_each_call_that_makes_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maker: str, external: bool
) -> None:
    """The n-th call is made, and then a signal comes; for each n."""
    if external:
        model = save_external(tmp_path)
    else:
        model = Path(shutil.copy(REWRITTEN, tmp_path / "m.onnx"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "old.onnx").write_bytes(b"old")
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = names(tmp_path)
    options = ("--no-bench", "--truth", "off", "--report", tmp_path / "run.json")
    arguments = ("optimize", model, tmp_path / "old.onnx", *options)
    target, _, name = maker.rpartition(".")
    owner = Path if target == "pathlib.Path" else os
    make = getattr(owner, name)
    process = os.getpid()
    for number in range(1, 200):
        calls = itertools.count(1)

        def made(
            *args: object, calls: Iterator[int] = calls, last: int = number, **kwargs: object
        ) -> object:
            result = make(*args, **kwargs)
            if os.getpid() == process and next(calls) == last:
                signal.raise_signal(signal.SIGTERM)
            return result

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, made)
            outcome = run(*arguments)
        assert names(scratch) == set()
        if next(calls) <= number:
            assert outcome.code == 0
            return
        assert outcome.code == 128 + signal.SIGTERM
        whole = {"old.onnx", "run.json"} | {each for each in names(tmp_path) if "onnx." in each}
        assert names(tmp_path) - whole == before - {"old.onnx"}
        assert not [each for each in names(tmp_path) if each.endswith(".tmp")]
        if (tmp_path / "old.onnx").read_bytes() == b"old":
            assert names(tmp_path) == before
    raise AssertionError("it never ended")


def test_a_signal_that_a_library_swallows_still_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(REWRITTEN, tmp_path / "m.onnx")

    def swallowed(_: object) -> None:
        with contextlib.suppress(SystemExit):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("bnfold.api._runtime_of", swallowed)
    outcome = run("check", tmp_path / "m.onnx", tmp_path / "m.onnx")
    assert (outcome.code, outcome.err) == (128 + signal.SIGTERM, "bnfold: ended by SIGTERM\n")


def test_an_interrupted_exit_of_a_file_that_was_never_created(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "x")
    file.__exit__(None, None, None)
    assert names(tmp_path) == set()
