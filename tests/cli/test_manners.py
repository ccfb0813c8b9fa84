"""What a pipeline meets first: folders that are read-only, other people's homes, and completion."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bnfold.running.runtime import require_provider
from tests.support.cli import REWRITTEN, names, run
from tests.support.files import raising

QUICK = ("--no-check", "--no-bench")


# --- A folder that cannot be written to -----------------------------------------------------------


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Be a user to whom permissions apply."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """Return a folder with a model that everybody can read, and nobody write to."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    shutil.copy(REWRITTEN, folder / "m.onnx")
    (folder / "m.onnx").chmod(0o444)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_real_read_only_folder(read_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = read_only / "m.onnx"
    assert run("optimize", model, "-", *QUICK).code == 0  # imports what it needs
    for arguments in (
        ("optimize", model),
        ("optimize", model, read_only / "out.onnx"),
        ("optimize", model, model),
        ("optimize", model, read_only / "out.onnx", "--external-data", "always"),
    ):
        with without_privileges():
            outcome = run(*arguments, *QUICK)
        outcome.failed(2, str(read_only), "Permission denied")
    monkeypatch.setattr("bnfold.api.explain", raising(AssertionError("the work has started")))
    with without_privileges():
        outcome = run("explain", model, "--report", read_only / "run.md")
    outcome.failed(2, str(read_only / "run.md"), "Permission denied")
    assert names(read_only) == {"m.onnx"}


# --- What the runtime does without being asked ----------------------------------------------------


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_the_telemetry_of_the_runtime_is_off_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str
) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    if given is not None:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", given)
    require_provider("cpu")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == expected


def test_a_run_leaves_nothing_in_the_home_and_no_line_of_the_runtime(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    off = ("--truth", "off", "--certify", "off", "--quiet")
    process = subprocess.run(
        [sys.executable, "-m", "bnfold", "check", REWRITTEN, REWRITTEN, *off],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env=environment,
        text=True,
        timeout=60,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert len(process.stdout.splitlines()) == 1
    assert names(home) == set()
    assert names(tmp_path) == {"home"}


# --- The command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [("bnfold opt", {"optimize"}), ("bnfold optimize --external-data-n", {"--external-data-name"})],
)
def test_shells_complete_commands_and_options(
    monkeypatch: pytest.MonkeyPatch, words: str, expected: set[str]
) -> None:
    monkeypatch.setenv("_BNFOLD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    outcome = run()
    assert (outcome.code, outcome.err) == (0, "")
    assert set(outcome.out.split()) == expected


def test_a_suffix_may_be_in_any_case(tmp_path: Path) -> None:
    reports = [tmp_path / name for name in ("a.MD", "b.Html", "c.JSON")]
    options = [word for report in reports for word in ("--report", report)]
    assert run("explain", REWRITTEN, *options).code == 0
    starts = [report.read_text()[0] for report in reports]
    assert starts == ["#", "<", "{"]


def test_what_an_option_takes_is_said_by_name() -> None:
    text = run("optimize", "--help").out
    for option in ("--bench-seconds SECONDS", "--tune-seconds SECONDS", "--threads N", "--seed N"):
        assert option in text
    assert not re.search(r"--[a-z-]+ (INTEGER|FLOAT|TEXT|PATH)\b", text)


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/stderr", "/dev/fd/2", "/proc/self/fd/1"])
def test_an_open_stream_is_no_place_for_a_model(place: str) -> None:
    if not os.path.exists(place):
        pytest.skip("there is none here")
    run("optimize", REWRITTEN, place, *QUICK).failed(2, place, "not")
