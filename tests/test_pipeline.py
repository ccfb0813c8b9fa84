"""The recipes of docs/pipeline.md, the action and the hooks run as written.

Except that nothing is installed, and benchmarks are shorter.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from bnfold.record.schema import record_schema
from tests.support.cli import REWRITTEN, UNCHANGED, parse_strictly

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "pipeline.md"
BLOCKS = re.findall(
    r"^```(\w+)\n(.*?)^```",
    PAGE.read_text().replace("bnfold optimize ", "bnfold optimize --bench-seconds 0 "),
    re.MULTILINE | re.DOTALL,
)


def blocks(language: str) -> list[str]:
    return [text for tag, text in BLOCKS if tag == language]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a project with its model checked in."""
    shutil.copy(REWRITTEN, tmp_path / "model.onnx")
    return tmp_path


def shell(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder; `bnfold` is the one under test."""
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_makefile_step(folder: Path) -> None:
    (rule,) = blocks("make")
    (folder / "Makefile").write_text(rule)
    made = shell(folder, "make", "model.fast.onnx")
    assert made.returncode == 0, made.stderr
    report = parse_strictly((folder / "model.report.json").read_text())
    assert report["equivalence"]["verdict"] == "pass"
    assert (folder / "model.report.html").exists()
    again = shell(folder, "make", "model.fast.onnx")
    assert "up to date" in again.stdout
    (folder / "broken.onnx").write_text("no model")
    assert shell(folder, "make", "broken.fast.onnx").returncode != 0
    assert not (folder / "broken.fast.onnx").exists()


def job() -> list[dict[str, Any]]:
    (workflow,) = [text for text in blocks("yaml") if "jobs:" in text]
    steps: list[dict[str, Any]] = yaml.safe_load(workflow)["jobs"]["optimize"]["steps"]
    return steps


def test_the_actions_job(folder: Path) -> None:
    (step,) = [step for step in job() if "GITHUB_STEP_SUMMARY" in step.get("run", "")]
    summary = folder / "summary.md"
    # As GitHub runs it: bash -e, and a file for the summary.
    done = shell(folder, "bash", "-e", "-c", step["run"], GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0, done.stderr
    assert "bnfold: pass" in summary.read_text()
    (upload,) = [step for step in job() if "upload-artifact" in step.get("uses", "")]
    assert all((folder / name).exists() for name in upload["with"]["path"].split())


@pytest.mark.slow
def test_the_actions_job_fails_as_bnfold_does_and_shows_why(folder: Path) -> None:
    (step,) = [step for step in job() if "GITHUB_STEP_SUMMARY" in step.get("run", "")]
    demanding = step["run"].replace("bnfold optimize", "bnfold optimize --require-speedup 99")
    summary = folder / "summary.md"
    done = shell(folder, "bash", "-e", "-c", demanding, GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 6
    assert "bnfold: pass" in summary.read_text()
    (folder / "model.onnx").write_text("no model")
    summary.unlink()
    (folder / "report.md").unlink()
    done = shell(folder, "bash", "-e", "-c", step["run"], GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 3
    assert not summary.exists()


def test_the_job_installs_existing_extras() -> None:
    (install,) = [step["run"] for step in job() if "pip install" in step.get("run", "")]
    (requirement,) = shlex.split(install)[2:]
    _, extras, address = re.split(r"[][]", requirement)
    assert address.startswith(" @ git+")
    assert_extras(extras.split(","))


def assert_extras(extras: list[str]) -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert extras
    assert all(re.search(rf"^{extra} = \[", pyproject, re.MULTILINE) for extra in extras)


def test_nothing_is_installed_by_its_name_alone() -> None:
    """No package index has bnfold, so a recipe names a repository, a clone or a wheel."""
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "action.yml"]:
        for command in re.findall(r"pip install ([^`\n#]*)", path.read_text()):
            by_name = re.search(r"(^|['\s])bnfold(\[[\w,]*\])?('|\s*$)", command)
            assert by_name is None, (path.name, command)


def action(step: int, folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run a step of the action in the folder, with these inputs, as GitHub does."""
    text = (ROOT / "action.yml").read_text()
    declared = yaml.safe_load(text)
    assert {*inputs} <= {*declared["inputs"]}
    given = {name: each.get("default", "") for name, each in declared["inputs"].items()} | inputs
    script = declared["runs"]["steps"][step]
    expressions = {
        name: re.fullmatch(r"\$\{\{ inputs\.(\w+) }}", content)
        for name, content in script["env"].items()
    }
    environment = {name: given[match[1]] for name, match in expressions.items() if match}
    assert {*environment} == {*script["env"]}
    (folder / "bnfold").mkdir(exist_ok=True)
    scripts = folder / "bnfold" / "bin"
    if not scripts.exists():
        scripts.symlink_to(sysconfig.get_path("scripts"))
    return shell(
        folder,
        "bash",
        "-e",
        "-c",
        script["run"],
        **environment,
        RUNNER_TEMP=str(folder),
        GITHUB_ACTION_PATH=str(ROOT),
        GITHUB_STEP_SUMMARY=str(folder / "summary.md"),
        GITHUB_OUTPUT=str(folder / "outputs"),
    )


@pytest.mark.slow
def test_the_action(folder: Path) -> None:
    inputs = {"model": "model.onnx", "output": "model.fast.onnx"}
    done = action(1, folder, **inputs, options="--no-bench --certify off")
    assert done.returncode == 0, done.stderr
    assert (folder / "model.fast.onnx").exists()
    assert "bnfold: pass" in (folder / "summary.md").read_text()
    assert (folder / "outputs").read_text() == "verdict=pass\n"
    kinds = sorted(path.name for path in (folder / "bnfold-report").iterdir())
    assert kinds == ["report.html", "report.json", "report.md"]


def test_the_action_fails_as_bnfold_does(folder: Path) -> None:
    (folder / "broken.onnx").write_text("no model")
    done = action(1, folder, model="broken.onnx", output="fast.onnx", report="r")
    assert done.returncode == 3
    assert not (folder / "summary.md").exists()
    assert not (folder / "outputs").exists()


def test_the_action_installs_existing_extras() -> None:
    declared = yaml.safe_load((ROOT / "action.yml").read_text())
    install = declared["runs"]["steps"][0]["run"]
    assert '"$GITHUB_ACTION_PATH[$EXTRA,report]"' in install
    assert_extras([declared["inputs"]["extra"]["default"], "cuda", "report"])


def test_the_page_lists_the_inputs_of_the_action() -> None:
    declared = yaml.safe_load((ROOT / "action.yml").read_text())
    (steps,) = [text for text in blocks("yaml") if "OWNER/bnfold@" in text and "jobs:" not in text]
    (step,) = [each for each in yaml.safe_load(steps)["steps"] if "OWNER" in each["uses"]]
    assert {*step["with"]} <= {*declared["inputs"]}
    required = {name for name, each in declared["inputs"].items() if each.get("required")}
    assert required <= {*step["with"]}
    assert all(f"`{name}`" in PAGE.read_text() for name in declared["inputs"])


def pre_commit(number: int) -> dict[str, Any]:
    (configuration,) = yaml.safe_load(
        [text for text in blocks("yaml") if "repos:" in text][number]
    )["repos"]
    (hook,) = configuration["hooks"]
    assert [bool(re.search(hook["files"], f)) for f in ("model.onnx", "model.fast.onnx")] == [1, 1]
    return dict(hook)


def hooks() -> dict[str, dict[str, Any]]:
    """Return the hooks that the repository offers, by name."""
    offered = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    return {hook["id"]: hook for hook in offered}


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1], ids=["by repository", "local"])
def test_the_pre_commit_hook(folder: Path, number: int) -> None:
    hook = pre_commit(number)
    hook = {**hooks()[hook["id"]], **hook} if number == 0 else hook
    assert hook["pass_filenames"] is False
    command = [*shlex.split(hook["entry"]), *hook.get("args", [])]
    shutil.copy(folder / "model.onnx", folder / "model.fast.onnx")
    assert shell(folder, *command).returncode == 0
    shutil.copy(UNCHANGED, folder / "model.fast.onnx")
    assert shell(folder, *command).returncode == 1


@pytest.mark.slow
def test_the_hook_that_asks_whether_a_model_is_optimized(folder: Path) -> None:
    command = shlex.split(hooks()["bnfold-explain"]["entry"])
    assert shell(folder, *command, "model.onnx").returncode == 1
    assert shell(folder, "bnfold", "optimize", "model.onnx", "fast.onnx", "--no-check",
                 "--no-bench").returncode == 0  # fmt: skip
    assert shell(folder, *command, "fast.onnx").returncode == 0


def test_every_hook_has_the_runtime_that_bnfold_needs() -> None:
    for hook in hooks().values():
        assert hook["language"] == "python"
        assert hook["additional_dependencies"] == ["onnxruntime"]
        assert hook["id"] in PAGE.read_text()


@pytest.mark.slow
def test_the_python_call(folder: Path) -> None:
    (example,) = blocks("python")
    done = shell(folder, sys.executable, "-c", example)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "<title>pass: model.onnx" in (folder / "report.html").read_text()
    (folder / "model.onnx").write_text("no model")
    done = shell(folder, sys.executable, "-c", example)
    assert done.returncode == 1
    assert "(exit code 3)" in done.stderr


def test_the_page_links_to_the_current_schema() -> None:
    assert f"({PAGE.with_name('report.schema.json').name})" in PAGE.read_text()
    assert record_schema()["properties"]["schema"] == {"const": "bnfold.report/1"}
