"""The pages: links lead somewhere, commands are as the command line takes them, code runs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import onnx
import pytest
import typer

import bnfold
from bnfold.cli.main import app
from bnfold.rewriting.registry import ENTRY_POINT_GROUP
from tests.support.graphs import build, normal, operators
from tests.support.passes import run_pass

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "passes").glob("*.md")),
]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str | None = None) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for tag, text in found if language is None or tag == language]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file(page: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    assert [each for each in targets if not (page.parent / each).exists()] == []


def typed() -> list[tuple[str, str]]:
    """Return each command of a page that can be typed as it stands, with the name of the page."""
    found = []
    for page in PAGES:
        inline = re.findall(r"`(bnfold [^`\n]+)`", page.read_text())
        lines = [line for block in blocks(page) for line in block.replace("\\\n", "").splitlines()]
        for line in [*inline, *(line.strip().removeprefix("$ ") for line in lines)]:
            command = re.split(r"\s+\|\||\s+#|\s{3,}\S", line)[0]
            is_shown = command.startswith("bnfold ") and "[" not in command and "…" not in command
            if is_shown and not command.startswith("bnfold COMMAND"):
                found.append((name_of(page), command))
    return sorted(set(found))


@pytest.mark.parametrize(("page", "command"), typed())
def test_every_command_is_one_that_can_be_typed(page: str, command: str) -> None:
    name, *arguments = shlex.split(command)[1:]
    group: Any = typer.main.get_command(app)
    if name == "--help":
        return
    assert name in group.commands, page
    if arguments:  # else it is the name of a command in a sentence
        group.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_of_python_is_python(page: Path) -> None:
    for text in blocks(page, "python"):
        compile(text, page.name, "exec")


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder,
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_recipe_for_quantization_prints_what_the_page_says(tmp_path: Path) -> None:
    page = ROOT / "docs" / "quantization.md"
    (code,) = blocks(page, "python")
    shown = blocks(page, "")[0]
    (tmp_path / "models").symlink_to(ROOT / "models")
    printed = [line.split() for line in run(code, tmp_path).splitlines()]
    expected = [line.split() for line in shown.splitlines()]
    assert [line[:3] for line in printed] == [line[:3] for line in expected]
    errors = [float(line[3]) for line in printed]
    assert errors == pytest.approx([float(line[3]) for line in expected], rel=0.1)


def test_the_example_of_the_api_runs(tmp_path: Path) -> None:
    (code,) = blocks(ROOT / "docs" / "api.md", "python")
    (tmp_path / "models").symlink_to(ROOT / "models")
    verdict, operator, refusal, *_ = run(code, tmp_path).splitlines()
    assert (verdict, operator) == ("pass", "Conv")
    assert refusal == "/1/bn1/BatchNormalization SHARED"


def test_the_pass_of_another_package_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "plugins.md"
    (code,) = blocks(page, "python")
    (project,) = blocks(page, "toml")
    (tmp_path / "my_passes.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert f'[project.entry-points."{ENTRY_POINT_GROUP}"]' in project
    name, value = re.findall(r'^([\w-]+) = "(\w+:\w+)"$', project, re.MULTILINE)[0]
    offered = [EntryPoint(name, value, ENTRY_POINT_GROUP)]
    monkeypatch.setattr("bnfold.rewriting.registry.offered", lambda: offered)

    def clipped(low: float) -> onnx.ModelProto:
        text = "(float[4] x, float h) => (float[4] y) { c = Clip(x, l, h) y = Abs(c) }"
        return build(text, l=abs(normal()) * 0 + low)

    assert operators(run_pass(clipped(0.5), name).to_proto()) == ["Clip"]
    refused = run_pass(clipped(-0.5), name)
    assert operators(refused.to_proto()) == ["Clip", "Abs"]
    assert [each.reason for each in refused.record.refusals] == ["MAY_BE_NEGATIVE"]


def test_the_tutorial_checks_on_the_file_that_it_makes(tmp_path: Path) -> None:
    """Its second script, on a sample in place of the export."""
    page = ROOT / "docs" / "tutorial.md"
    _, code = blocks(page, "python")
    model = ROOT / "models" / "conv_bn_relu_pool.onnx"
    shutil.copy(model, tmp_path / "model.onnx")
    bnfold.optimize(model, tmp_path / "fast.onnx", check=False)
    name = onnx.load(model).graph.input[0].name
    code = code.replace("256, 256", "8, 8").replace("(1, 3, ", "(1, 1, ").replace("image", name)
    first, second = (line.split() for line in run(code, tmp_path).splitlines())
    assert (first[0], second[0]) == ("model.onnx", "fast.onnx")
    assert first[1] == second[1]
    assert (tmp_path / f"{name}.npz").exists()
