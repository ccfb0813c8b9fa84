"""The recipes of docs/pipeline.md run as written, except with shorter benchmarks."""

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

PAGE = Path(__file__).parent.parent / "docs" / "pipeline.md"
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
    extras = re.findall(r"[\w-]+", requirement)[1:]
    pyproject = (PAGE.parent.parent / "pyproject.toml").read_text()
    assert extras
    assert all(re.search(rf"^{extra} = \[", pyproject, re.MULTILINE) for extra in extras)


def test_the_pre_commit_hook(folder: Path) -> None:
    (config,) = [text for text in blocks("yaml") if "repos:" in text]
    (hook,) = yaml.safe_load(config)["repos"][0]["hooks"]
    assert hook["pass_filenames"] is False
    assert [bool(re.search(hook["files"], f)) for f in ("model.onnx", "model.fast.onnx")] == [1, 1]
    shutil.copy(folder / "model.onnx", folder / "model.fast.onnx")
    assert shell(folder, *shlex.split(hook["entry"])).returncode == 0
    shutil.copy(UNCHANGED, folder / "model.fast.onnx")
    assert shell(folder, *shlex.split(hook["entry"])).returncode == 1


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
