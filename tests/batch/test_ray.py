"""Batches on a real Ray cluster of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bnfold.batch.clusters import Ray
from bnfold.batch.starts import Ledger
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

ray = pytest.importorskip("ray", reason="ray is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

GOOD = ["a/model.onnx", "b/model.onnx", "c.onnx"]


@pytest.fixture(scope="module")
def engine() -> Iterator[Ray]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=50)
    made = Ray(None)
    yield made
    made.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    for number, name in enumerate(GOOD):
        save(folder / name, foldable(number))
    return folder


@pytest.mark.parametrize("send", ["auto", "bytes"])
def test_models_and_a_broken_one(models: Path, tmp_path: Path, engine: Ray, send: str) -> None:
    (models / "broken.onnx").write_text("no model")
    rows = run(jobs(models, QUICK), tmp_path / "out", engine, tmp_path, send=send)
    assert rows.pop("broken.onnx").exit_code == 3
    assert {row.verdict for row in rows.values()} == {"pass"}
    assert all(row.speeds and not row.pending for row in rows.values())
    assert names(tmp_path / "out") == with_pages(*GOOD) | INDEX


class Watched(Ray):
    """An engine whose workers also write down what they begin."""

    def __init__(self, engine: Ray, folder: Path) -> None:
        vars(self).update(vars(engine))
        self.ledger = Ledger(folder)


@pytest.mark.parametrize("times", [1, 2])
def test_a_worker_that_is_killed(models: Path, tmp_path: Path, engine: Ray, times: int) -> None:
    watched = Watched(engine, tmp_path)
    with killing(lambda: watched.ledger.starts("00001-check"), times) as killed:
        rows = run(jobs(models, UNTIMED), tmp_path / "out", watched, tmp_path)
    assert len(killed) == times
    row = rows.pop("b/model.onnx")
    assert {each.verdict for each in rows.values()} == {"pass"}
    assert (row.verdict, row.starts) == ("pass" if times == 1 else "failed", 2)
