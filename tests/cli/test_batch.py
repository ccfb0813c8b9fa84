"""The command `bnfold batch`: its messages, its exit code, and what it prints."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from bnfold.batch.estimate import Status
from bnfold.batch.folder import Folder
from bnfold.cli.batch import OPTIONS, jobs_of
from bnfold.cli.batch_options import words_of
from bnfold.cli.batch_progress import BatchProgress, duration, in_words
from bnfold.cli.main import app
from bnfold.record.batch import read_index
from tests.support.batch import INDEX, foldable, names, save, with_pages, worked_here
from tests.support.cli import parse_strictly, run
from tests.support.files import raising

QUICK = ("--no-bench", "--truth", "off", "--certify", "off")
COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save(tmp_path / "models" / "a" / "m.onnx", foldable(1))
    save(tmp_path / "models" / "m.onnx", foldable(2))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_batch_and_its_resumption(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.batch.run.run_all", worked_here)
    (folder / "models" / "bad.onnx").write_text("no model")
    outcome = run("batch", "models", "--out", "out", *QUICK)
    assert (outcome.code, outcome.err) == (3, "")
    assert "bad.onnx (exit code 3): models/bad.onnx is not an ONNX model" in " ".join(
        outcome.out.split()
    )
    assert "3 models: 2 pass, 1 failed" in outcome.out
    assert "index: out/index.html" in outcome.out
    assert names(folder / "out") == with_pages("a/m.onnx", "m.onnx") | INDEX
    index = read_index(folder / "out" / "index.json")
    assert index is not None
    assert index.command[1:] == ["batch", "models", "--out", "out", *QUICK]
    record = parse_strictly((folder / "out" / "a" / "m.onnx.json").read_text())
    assert record["model"]["path"] == "models/a/m.onnx"
    assert record["output"]["path"] == "a/m.onnx"
    assert record["command"] == [
        "bnfold", "optimize", "models/a/m.onnx", "out/a/m.onnx", *QUICK,
    ]  # fmt: skip
    (folder / "models" / "bad.onnx").unlink()
    before = (folder / "out" / "m.onnx").stat().st_mtime_ns
    again = run("batch", "models/**/*.onnx", "--out", "out", *QUICK, "--resume", "--json")
    assert again.code == 0
    assert parse_strictly(again.out)["schema"] == "bnfold.batch/1"
    assert (folder / "out" / "m.onnx").stat().st_mtime_ns == before


def test_what_a_batch_of_fewer_models_leaves_is_still_of_a_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnfold.batch.run.run_all", worked_here)
    assert run("batch", "models", "--out", "out", *QUICK).code == 0
    assert run("batch", "models/m.onnx", "--out", "out", *QUICK).code == 0
    index = read_index(folder / "out" / "index.json")
    assert index is not None
    assert [row.name for row in index.rows] == ["m.onnx"]
    assert [row.name for row in index.earlier] == ["a/m.onnx"]
    before = (folder / "out" / "a" / "m.onnx").stat().st_mtime_ns
    assert run("batch", "models", "--out", "out", *QUICK, "--resume").code == 0
    assert (folder / "out" / "a" / "m.onnx").stat().st_mtime_ns == before
    index = read_index(folder / "out" / "index.json")
    assert index is not None
    assert not index.earlier
    assert run("batch", "models", "--out", "out", *QUICK).code == 0
    assert names(folder / "out") == with_pages("a/m.onnx", "m.onnx") | INDEX


def test_a_model_that_goes_to_two_places(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.batch.run.run_all", worked_here)
    entry = '[[model]]\npath = "models/m.onnx"\nname = "{}"\nsamples = {}\n'
    (folder / "two.toml").write_text(entry.format("p.onnx", 2) + entry.format("q.onnx", 4))
    assert run("batch", "two.toml", "--out", "out", *QUICK).code == 0
    assert names(folder / "out") == with_pages("p.onnx", "q.onnx") | INDEX


def test_no_more_workers_than_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.batch.run.run_all", worked_here)
    outcome = run("batch", "models", "--out", "out", *QUICK, "-j", "50")
    assert "by loky, 2 workers" in outcome.out


def wrong(folder: Path) -> Iterator[tuple[str, list[str], str]]:
    """Yield a name, arguments, and what the one line must say."""
    out = ["--out", "out"]
    yield "no out", ["models"], "--out"
    yield "no models", out, "MODELS"
    yield "missing", ["none.onnx", *out], "none.onnx does not exist; name"
    yield "no match", ["x*.onnx", *out], "no .onnx file matches"
    yield "an empty folder", ["empty", *out], "no .onnx file is in empty"
    yield "out is a file", ["models", "--out", "file"], "--out file is not a folder"
    yield "out is nowhere", ["models", "--out", "no/where"], "--out no/where: the folder that it"
    yield "out is the models'", ["models", "--out", "models"], "is one of the models"
    yield "out is foreign", ["models", "--out", "foreign"], "m.onnx is not of an earlier batch"
    yield "no index", ["models", "--out", "other"], "is not the index of a batch"
    yield "a link out", ["models", "--out", "linked"], "behind a link that leads out"
    yield "a manifest", ["models.toml", *out], "line 2: unknown option 'pth'"
    yield "options of a model", ["wrong.toml", *out], "models/m.onnx: --samples 0 is not a number"
    yield "unknown pass", ["models", *out, "--only", "nope"], "unknown pass 'nope'"
    yield (
        "unknown backend",
        ["models", *out, "--backend", "x"],
        "unknown --backend 'x'; known: loky",
    )
    yield "unknown place", ["models", *out, "--bench-on", "x"], "unknown --bench-on 'x'"
    yield "unknown way", ["models", *out, "--send", "x"], "unknown --send 'x'; known: auto, path"
    yield "no scheduler", ["models", *out, "--backend", "dask"], "needs --scheduler ADDRESS"
    yield "a scheduler", ["models", *out, "--scheduler", "x"], "--scheduler is of a cluster"
    yield "jobs of a cluster", ["models", *out, "--backend", "ray", "-j", "2"], "--jobs is of this"
    yield "each of none", ["models", *out, "--bench-on", "each", "--no-bench"], "leaves out"
    each = ["--bench-on", "each", "--require-speedup", "1"]
    yield "each of one", ["models", *out, *each], "not for --bench-on each"
    yield "no jobs", ["models", *out, "--jobs", "0"], "--jobs"


CASES = {name: (arguments, words) for name, arguments, words in wrong(Path())}


@pytest.mark.parametrize("case", CASES)
def test_wrong_usage_is_one_line_and_writes_nothing(folder: Path, case: str) -> None:
    arguments, words = CASES[case]
    (folder / "empty").mkdir()
    (folder / "file").touch()
    for name in ("foreign", "other", "linked"):
        (folder / name).mkdir()
    (folder / "foreign" / "m.onnx").touch()
    (folder / "other" / "index.json").write_text("{}")
    (folder / "linked" / "a").symlink_to(folder / "empty")
    (folder / "models.toml").write_text('[[model]]\npth = "models"\npath = "models"\n')
    (folder / "wrong.toml").write_text('[[model]]\nsamples = 0\npath = "models/m.onnx"\n')
    before = names(folder)
    outcome = run("batch", *arguments)
    outcome.failed(2, words)
    assert outcome.out == ""
    assert names(folder) == before
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("package", "options"),
    [
        ("joblib", []),
        ("distributed", ["--backend", "dask", "--scheduler", "x"]),
        ("ray", ["--backend", "ray"]),
    ],
)
def test_a_missing_package_is_told_and_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, package: str, options: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    outcome = run("batch", "models", "--out", "out", *options)
    outcome.failed(2, f"{package} cannot be imported", f"pip install {package}")
    assert not (folder / "out").exists()


def test_two_batches_in_one_folder(folder: Path) -> None:
    with Folder(folder / "out"):
        outcome = run("batch", "models", "--out", "out", *QUICK)
    outcome.failed(2, "another batch writes to", "name another --out")


def test_each_option_of_a_model_is_one_of_the_command_and_of_optimize() -> None:
    of_batch, of_optimize = (
        {param.name for param in COMMANDS[name].params} for name in ("batch", "optimize")
    )
    assert set(OPTIONS) <= of_batch & of_optimize
    left = {"model", "output", "output_option", "save_inputs", "report", "verbose"}
    left |= {"external_data_name"}
    assert of_optimize - of_batch == left
    assert of_optimize - left - set(OPTIONS) == {"force", "quiet", "json", "help"} & of_optimize


def test_the_command_that_does_the_same_for_one_model() -> None:
    usual = {param.name: param.default for param in COMMANDS["optimize"].params}
    values = {name: usual[name] for name in OPTIONS}
    assert words_of(values) == []
    changed = {"skip": ["a", "b"], "check": False, "tune": True, "samples": 5, "truth": "off"}
    assert words_of(values | changed) == [
        "--skip", "a", "--skip", "b", "--no-check", "--tune", "--samples", "5", "--truth", "off",
    ]  # fmt: skip
    unchecked = {"check": False, "certify": "always", "require": "pass"}
    assert words_of(values | unchecked) == ["--no-check"]  # together, they are a usage error
    untimed = {"bench": False, "require_speedup": 1.0}
    assert words_of(values | untimed) == ["--require-speedup", "1.0"]


def test_a_manifest_counts_more_than_the_command_line(folder: Path) -> None:
    text = '[[model]]\npath = "models/m.onnx"\nsamples = 7\n[[model]]\npath = "models"\n'
    (folder / "models.toml").write_text(text)
    usual = {param.name: param.default for param in COMMANDS["batch"].params}
    given = {name: usual[name] for name in OPTIONS} | {"samples": 5}
    jobs = jobs_of(["models.toml"], Folder(folder / "out"), Path("out"), given)
    samples = {job.name: job.asked.execution.inputs.samples for job in jobs}
    assert samples == {"m.onnx": 7, "a/m.onnx": 5}


def test_help_fits_a_terminal() -> None:
    lines = run("batch", "--help").out.splitlines()
    assert not [line for line in lines if len(line) > 80]
    assert "1 not equivalent, 70 a bug" in " ".join(" ".join(lines).split())


def test_the_progress_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    status = Status("checking", 1200, 2000, 3, 95.0)
    assert in_words(status) == "checking 1,200 of 2,000, 3 failed, about 2 min left"
    assert in_words(Status("timing", 0, 2, 0, None)) == "timing 0 of 2"
    assert [duration(each) for each in (0.2, 89, 5000, 9000)] == ["1 s", "89 s", "83 min", "2.5 h"]
    for quiet in (False, True):
        with BatchProgress(quiet=quiet) as progress:
            progress(status)
    assert capsys.readouterr() == ("", "")


def test_a_system_without_semaphores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where /dev/shm cannot be written to: joblib warns, and works in threads."""
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr("multiprocessing.synchronize.Lock", raising(denied))
    outcome = run("batch", "models", "--out", "out", *QUICK)
    outcome.failed(2, "cannot share semaphores: Permission denied", "/dev/shm", "one model at")
    assert not (folder / "out").exists()
    assert re.search("semaphores +no .*Permission denied", run("doctor").out)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_workers_and_what_is_finished_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for each in range(3, 7):
        save(folder / "models" / f"{each}.onnx", foldable(each))
    command = [sys.executable, "-m", "bnfold", "batch", "models", "--out", "out", *QUICK, "-j", "2"]
    scratch = folder / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # nohup ignores SIGHUP
    )
    end = time.monotonic() + 120
    while not list((folder / "out").glob("*.onnx")) and time.monotonic() < end:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err == f"bnfold: ended by {signal.Signals(number).name}\n"
    index = read_index(folder / "out" / "index.json")
    assert index is not None
    assert not index.finished
    done = {row.name for row in index.rows if row.verdict == "pass"}
    assert done
    assert len(index.rows) == 6
    assert names(folder / "out") == with_pages(*done) | INDEX
    assert not [path for path in scratch.iterdir() if path.name.startswith("bnfold")]
    monkeypatch.setattr("bnfold.batch.run.run_all", worked_here)
    resumed = run("batch", "models", "--out", "out", *QUICK, "--resume", "--quiet")
    assert resumed.code == 0
    assert "6 models: 6 pass" in resumed.out
