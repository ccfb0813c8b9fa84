"""docs/files.md: its examples are accepted."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support.cli import REWRITTEN, names, run

PAGE = (Path(__file__).parent.parent.parent / "docs" / "files.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_configuration_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = blocks("toml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(text)
    commands = re.findall(r"^\[tool\.bnfold\.(\w+)\]$", text, re.MULTILINE)
    assert commands == ["optimize", "check"]
    for command in commands:
        run(command, "missing.onnx", "out.onnx").failed(3, "missing.onnx")


def test_the_commands_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(REWRITTEN, tmp_path / "model.onnx")
    named, piped, custom = (block.split() for block in blocks("sh"))
    assert run(*named[1:], "--no-bench", "--no-check").code == 0
    assert names(tmp_path) == {"model.onnx", "fast.onnx", "fast.data"}
    assert piped[4:6] == ["bnfold", "optimize"]
    run(*custom[1:]).failed(2, "libcustom.so")
