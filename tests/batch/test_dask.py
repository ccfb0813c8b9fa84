"""Batches on a real Dask scheduler with two workers, all in processes of their own."""

from __future__ import annotations

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

GOOD = ["a/model.onnx", "b/model.onnx", "c.onnx"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a scheduler and two workers that may use one and two processors; return its address."""
    folder = tmp_path_factory.mktemp("dask")
    place = folder / "scheduler.json"

    def start(module: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *options]
        command += ["--scheduler-file", str(place), "--no-dashboard"]
        return subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    processes = [start("dask_scheduler", "--port", "0", "--host", "127.0.0.1")]
    processes += [start("dask_worker", "--nthreads", "1") for _ in range(2)]
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


def test_the_kinds_of_machines(address: str, engine: Dask) -> None:
    ((kind, places),) = engine.kinds().items()
    assert "onnxruntime" in kind
    assert len(places) == 1  # both workers are on one machine


def test_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.batch.clusters.SECONDS_TO_CONNECT", 1)
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        Dask("tcp://127.0.0.1:9")
    with pytest.raises(UsageError, match="no Dask scheduler answers at nonsense"):
        Dask("nonsense://x")
    assert time.monotonic() - began < 30
