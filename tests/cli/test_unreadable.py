"""Models that may not be read: exit code 3, whatever the command, and whichever file it is."""

from __future__ import annotations

import builtins
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.batch import foldable, save, worked_here
from tests.support.cli import run
from tests.support.files import save_external

COMMANDS = {
    "optimize": ["optimize", "{}", "out.onnx"],
    "check": ["check", "{}", "other.onnx"],
    "check, the other": ["check", "other.onnx", "{}"],
    "bench": ["bench", "{}"],
    "bench, the other": ["bench", "other.onnx", "{}"],
    "explain": ["explain", "{}"],
    "inspect": ["inspect", "{}"],
    "inspect, the other": ["inspect", "other.onnx", "{}"],
}


def deny(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    """Let the system deny all access to what is at these paths, or below: nothing stops root."""
    denied = tuple(map(str, paths))

    def denying(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(path: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(denied):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return call(path, *args, **kwargs)

        return called

    access = os.access
    monkeypatch.setattr(builtins, "open", denying(builtins.open))
    monkeypatch.setattr(os, "lstat", denying(os.lstat))
    monkeypatch.setattr(
        os, "access", lambda path, mode: os.path.abspath(path) not in denied and access(path, mode)
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save(tmp_path / "other.onnx", foldable())
    save_external(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("file", ["m.onnx", "m.data"])
@pytest.mark.parametrize("command", COMMANDS)
def test_each_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, file: str
) -> None:
    deny(monkeypatch, folder / "models" / file)
    outcome = run(*(word.format("models/m.onnx") for word in COMMANDS[command]))
    outcome.failed(3, f"models/{file} cannot be read: Permission denied")


@pytest.mark.parametrize("file", ["m.onnx", "m.data", ""])
def test_a_batch(folder: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """Without a file: the folder may not be searched."""
    monkeypatch.setattr("bnfold.batch.run.run_all", worked_here)
    deny(monkeypatch, folder / "models" / file)
    models = ["models/m.onnx", "other.onnx"]
    options = ("--no-bench", "--truth", "off", "--certify", "off")
    outcome = run("batch", *models, "--out", "out", *options)
    assert (outcome.code, outcome.err) == (3, "")
    said = " ".join(outcome.out.split())
    assert "m.onnx (exit code 3): " in said
    assert f"models/{file or 'm.onnx'} cannot be read: Permission denied" in said
    assert "2 models: 1 failed, 1 pass" in said or "2 models: 1 pass, 1 failed" in said
