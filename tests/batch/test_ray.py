"""Batches on a real Ray cluster of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bnfold.batch.clusters import Ray
from tests.support.batch import INDEX, QUICK, foldable, jobs, killing, names, run, save, with_pages

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


@pytest.mark.parametrize("times", [1, 2])
def test_a_worker_that_is_killed(models: Path, tmp_path: Path, engine: Ray, times: int) -> None:
    stage = tmp_path / "out" / ".bnfold"
    begun: list[str] = []

    def starts() -> list[str]:
        """Return the workers that began the model, by the folders that they made for it."""
        for path in stage.glob("00001-check-*"):
            if path.name not in begun:
                begun.append(path.name)
        return [f"ray:{pid}" for pid in pids()[: len(begun)]]

    def pids() -> list[int]:
        actors = ray.util.state.list_actors(filters=[("state", "=", "ALIVE")])
        return [actor.pid for actor in actors]

    with killing(starts, times) as killed:
        rows = run(jobs(models, QUICK), tmp_path / "out", engine, tmp_path)
    assert len(killed) == times
    row = rows.pop("b/model.onnx")
    assert {each.verdict for each in rows.values()} == {"pass"}
    assert row.verdict == ("pass" if times == 1 else "failed")
