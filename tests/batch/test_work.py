"""What a worker does with a task, in this process."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bnfold import api
from bnfold.batch.locks import lock_alone, timing_lock
from bnfold.batch.starts import Ledger
from bnfold.batch.tasks import MOST_STARTS, Task, packed
from bnfold.batch.work import seal, work
from tests.support.batch import UNTIMED, foldable, save
from tests.support.cli import plant_wrong_pass
from tests.support.files import save_external, scratch

__all__ = ["scratch"]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setattr("bnfold.report.render", lambda record, suffix: record.to_json())
    stage = tmp_path / "stage"
    stage.mkdir()
    seal(stage)
    model = save(tmp_path / "in" / "m.onnx", foldable())
    return Task(
        "k", "check", "a/m.onnx", model, "in/m.onnx", UNTIMED, stage=stage,
        size=model.stat().st_size, ledger=Ledger(tmp_path),
    )  # fmt: skip


def test_a_model_is_optimized_into_a_folder_of_its_own(task: Task) -> None:
    outcome = work(task)
    assert outcome.status == "done"
    assert outcome.row is not None
    assert outcome.folder is not None
    assert outcome.folder.parent == task.stage
    assert {path.name for path in outcome.folder.iterdir()} == {
        "m.onnx", "m.onnx.html", "m.onnx.json",
    }  # fmt: skip
    assert [file.path for file in outcome.row.files] == [
        "a/m.onnx", "a/m.onnx.html", "a/m.onnx.json",
    ]  # fmt: skip
    assert (outcome.row.verdict, outcome.row.batchnorm) == ("pass", [1, 0])


def test_a_model_that_is_not_equivalent_has_its_page_alone(task: Task) -> None:
    relu = "float[2,3,6,6] x) => (float[2,3,6,6] y) { y = Relu(x) }"
    from tests.support.graphs import build

    save(task.model, build(f"({relu}"))
    with plant_wrong_pass():
        outcome = work(replace(task, size=task.model.stat().st_size))
    assert outcome.row is not None
    assert (outcome.row.exit_code, outcome.row.verdict) == (1, "fail")
    assert [file.path for file in outcome.row.files] == ["a/m.onnx.html", "a/m.onnx.json"]
    assert outcome.folder is not None
    assert not (outcome.folder / "m.onnx").exists()


def test_an_unexpected_failure_is_told_in_the_row(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no way")

    monkeypatch.setattr(api, "optimize", fail)
    outcome = work(task)
    assert outcome.row is not None
    assert outcome.row.exit_code == 70
    assert "RuntimeError: no way" in outcome.row.reason
    assert outcome.row.files == []


@pytest.mark.parametrize("missing", ["model", "size", "folder"])
def test_a_worker_without_the_files_says_so(task: Task, missing: str) -> None:
    if missing == "model":
        task.model.unlink()
    elif missing == "size":
        task = replace(task, size=3)
    else:
        (task.stage / "here").unlink()
    assert work(task).status == "unseen"
    assert task.ledger.starts(task.key) == []


def test_a_model_that_is_nowhere_is_unreadable(task: Task) -> None:
    task.model.unlink()
    outcome = work(replace(task, size=-1))
    assert outcome.row is not None
    assert (outcome.row.exit_code, outcome.row.reason) == (3, "in/m.onnx does not exist")


def test_a_model_as_bytes_with_its_data(task: Task, tmp_path: Path) -> None:
    model = save_external(tmp_path / "external")
    sent = packed(replace(task, model=model), {"m.data": model.with_name("m.data")})
    for path in model.parent.iterdir():
        path.unlink()
    outcome = work(sent)
    assert outcome.row is not None
    assert outcome.row.verdict == "pass"
    assert outcome.files is not None
    assert {"m.onnx", "m.onnx.html", "m.onnx.json"} < {*outcome.files}
    assert len(outcome.files) == 4
    assert tempfile.gettempdir().encode() not in outcome.files["m.onnx.json"]


def test_a_model_that_was_begun_too_often_is_not_begun_again(task: Task) -> None:
    for number in range(MOST_STARTS):
        task.ledger.begin(task.key, f"host:{number}")
    outcome = work(task)
    assert outcome.status == "died"
    assert outcome.starts[:2] == ["host:0", "host:1"]


def test_a_worker_with_another_version_says_so(task: Task) -> None:
    outcome = work(replace(task, version="0.0"))
    assert outcome.row is not None
    assert outcome.row.exit_code == 2
    assert "not 0.0: install the same there" in outcome.row.reason


def _time_something(queue: Any, both: Any) -> None:
    both.wait()
    with timing_lock():
        begun = time.monotonic()
        time.sleep(0.1)
        queue.put((begun, time.monotonic()))


def test_processes_of_one_machine_time_one_after_the_other() -> None:
    context = multiprocessing.get_context("spawn")
    queue, both = context.Queue(), context.Barrier(2)
    processes = [context.Process(target=_time_something, args=(queue, both)) for _ in range(2)]
    for process in processes:
        process.start()
    (_, end), (begin, _) = sorted(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert begin >= end


def test_a_lock_that_is_held(tmp_path: Path) -> None:
    with lock_alone(tmp_path / "lock") as first, lock_alone(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
    with lock_alone(tmp_path / "lock") as again:
        assert again
