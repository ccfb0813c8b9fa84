"""The output in README.md is real, and its examples work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from bnfold.cli import main as cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(
    r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL
)


def example() -> list[str]:
    """Return the lines of the example, commands and output."""
    (block,) = [text for _, text in BLOCKS if text.startswith("$ ")]
    return block.replace("\\\n", "").splitlines()


def test_the_output_shown_is_real(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Without the benchmark and what `--quiet` does not show anyway."""
    find, optimize, *shown = example()
    script = f"{find.removeprefix('$ ')}; echo $light"
    python = f'python() {{ "{sys.executable}" "$@"; }}; '
    found = subprocess.run(
        ["bash", "-c", python + script], capture_output=True, check=True, text=True
    )
    assert found.stdout.strip() == f"{onnx.__path__[0]}/backend/test/data/light"
    command = optimize.removeprefix("$ ").replace("$light", found.stdout.strip()).split()
    assert command[4:6] == ["--quiet", "--bench-seconds"]
    skipped = ["--quiet", "--no-bench", "--certify", "off", "--truth", "off"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*command[:4], *skipped])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        line for line in shown if not line.startswith("speed: ")
    ]


def test_the_python_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    (example,) = [text for language, text in BLOCKS if language == "python"]
    exec(compile(example, "README.md", "exec"), {})
    verdict, first_refusal, *_ = capsys.readouterr().out.splitlines()
    assert (verdict, first_refusal) == ("pass", "/1/bn1/BatchNormalization SHARED")


def test_it_is_a_page_to_read_at_once() -> None:
    assert len(README.split()) < 850
