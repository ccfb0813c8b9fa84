"""The output in README.md is real, and its examples work."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from bnfold.cli import main as cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def without_measurements(text: str) -> str:
    """Remove what differs between machines (rounding, speed) and the padding of tables."""
    timings = r"(?<=^speed: ).*|^  (all|disabled|control)\b.*|^.* at the start$"
    measured = rf"\d(\.\d+)?e[+-]\d+|(?<= )(< )?0?\.\d+$|[\d.]+ MB|{timings}| +$"
    same = re.sub(r" {2,}", "  ", re.sub(measured, "", text.strip(), flags=re.MULTILINE))
    return re.sub(r"\s*\n", "\n", same)


def test_the_output_shown_is_real(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command, _, shown = BLOCKS[0][1].partition("\n")
    _, _, action, model, output = command.split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bnfold", action, str(ROOT / model), output])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == 0
    assert without_measurements(capsys.readouterr().out) == without_measurements(shown)


def test_the_python_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    (example,) = [text for language, text in BLOCKS if language == "python"]
    exec(compile(example, "README.md", "exec"), {})
    verdict, first_operator, first_refusal, *_ = capsys.readouterr().out.splitlines()
    assert (verdict, first_operator) == ("pass", "Conv")
    assert first_refusal == "/1/bn1/BatchNormalization SHARED"
