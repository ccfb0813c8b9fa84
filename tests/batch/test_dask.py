"""Batches on a real Dask scheduler with two workers, all in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bnfold.batch.clusters import Dask
from bnfold.errors import UsageError
from tests.support.batch import (
    INDEX,
    QUICK,
    UNTIMED,
    foldable,
    jobs,
    killing,
    names,
    run,
    save,
    with_pages,
)

distributed = pytest.importorskip("distributed", reason="distributed is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
GOOD = ["a/model.onnx", "b/model.onnx", "c.onnx"]


def confine(cores: set[int]) -> None:
    """Let this process, and those that it starts from now on, use these processors alone."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a scheduler and two workers that may use one and two processors; return its address."""
    folder = tmp_path_factory.mktemp("dask")
    place = folder / "scheduler.json"

    def start(module: str, *options: str, on: set[int] = CORES) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *options]
        command += ["--scheduler-file", str(place), "--no-dashboard"]
        confine(on)
        try:
            return subprocess.Popen(
                command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        finally:
            confine(CORES)

    processes = [start("dask_scheduler", "--port", "0", "--host", "127.0.0.1")]
    processes += [start("dask_worker", "--nthreads", "1", on=on) for on in (CORES, {min(CORES)})]
    try:
        client = distributed.Client(scheduler_file=str(place), timeout=60, set_as_default=False)
        client.wait_for_workers(2, timeout=60)
        yield client.scheduler.address
        client.close()
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


@pytest.fixture
def engine(address: str) -> Iterator[Dask]:
    """Return the engine, once a worker that another test has killed has started again."""
    with distributed.Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    made = Dask(address)
    yield made
    made.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    for number, name in enumerate(GOOD):
        save(folder / name, foldable(number))
    return folder


def test_models_by_path_and_a_broken_one(models: Path, tmp_path: Path, engine: Dask) -> None:
    (models / "broken.onnx").write_text("no model")
    rows = run(jobs(models, QUICK), tmp_path / "out", engine, tmp_path)
    assert rows.pop("broken.onnx").exit_code == 3
    assert {row.verdict for row in rows.values()} == {"pass"}
    assert all(row.speeds and not row.pending for row in rows.values())
    assert names(tmp_path / "out") == with_pages(*GOOD) | INDEX
    assert engine.workers == 2


@pytest.mark.parametrize(("times", "send"), [(1, "auto"), (2, "bytes")])
def test_a_worker_that_is_killed(
    models: Path, tmp_path: Path, engine: Dask, times: int, send: str
) -> None:
    with killing(lambda: engine.ledger.starts("00001-check"), times) as killed:
        rows = run(jobs(models, UNTIMED), tmp_path / "out", engine, tmp_path, send=send)
    assert len(killed) == times
    row = rows.pop("b/model.onnx")
    assert {each.verdict for each in rows.values()} == {"pass"}
    if times == 1:
        assert row.verdict == "pass"
        assert any(killed[0] in note for note in row.notes)
        assert names(tmp_path / "out") == with_pages(*GOOD) | INDEX
    else:
        assert (row.verdict, row.exit_code) == ("failed", 5)
        assert killed[0] in row.reason
        assert names(tmp_path / "out") == with_pages(GOOD[0], GOOD[2]) | INDEX


@pytest.mark.skipif(len(CORES) < 2, reason="both workers have the same processor")
def test_models_are_timed_on_each_kind_of_machine(
    models: Path, tmp_path: Path, engine: Dask
) -> None:
    kinds = engine.kinds()
    assert len(kinds) == 2
    assert all(len(places) == 1 for places in kinds.values())
    out = tmp_path / "out"
    rows = run(jobs(models, QUICK), out, engine, tmp_path, each=True)
    for name, row in rows.items():
        assert row.machines == list(kinds)
        assert {speed.page for speed in row.speeds} == {f"{name}.html", f"{name}.on-2.html"}
    assert names(out) - INDEX - with_pages(*GOOD) == {
        f"{name}.on-2.{suffix}" for name in GOOD for suffix in ("html", "json")
    }


def test_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.batch.clusters.SECONDS_TO_CONNECT", 1)
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        Dask("tcp://127.0.0.1:9")
    with pytest.raises(UsageError, match="no Dask scheduler answers at nonsense"):
        Dask("nonsense://x")
    assert time.monotonic() - began < 30
