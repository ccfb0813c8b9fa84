"""How tasks survive the deaths of workers, on threads that only seem to die."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bnfold.batch import engine
from bnfold.batch.asked import Asked
from bnfold.batch.engine import Deaths, NoWorkersError, run_all
from bnfold.batch.starts import Ledger
from bnfold.batch.tasks import MOST_STARTS, Outcome, Task
from bnfold.errors import UsageError


class DeathError(Exception):
    """A worker has died."""


class Threads:
    """An engine on threads."""

    name, workers, sharers = "threads", 3, 3
    deaths: Deaths = (DeathError,)

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.gone: set[threading.Thread] = set()
        """Threads of pools in which a worker has died: a pool of processes dies as a whole."""
        self.is_dead = False
        """Whether a worker of this pool has died: then no other one begins anything."""

    def kinds(self) -> Mapping[str, Sequence[str]]:
        return {}

    def settings(self, places: Sequence[str] | None) -> tuple[dict[str, Any], int]:
        self.gone, self.is_dead = set(threading.enumerate()), False
        return {"backend": "threading", "n_jobs": 3}, 3 if places is None else len(places)

    def close(self) -> None: ...


@pytest.fixture(params=[True, False], ids=["ledger", "no ledger"])
def threads(request: pytest.FixtureRequest, tmp_path: Path) -> Threads:
    return Threads(Ledger(tmp_path if request.param else None))


def tasks(number: int) -> list[Task]:
    return [Task(str(each), "check", "m", Path("m"), "m", Asked()) for each in range(number)]


def do(
    threads: Threads,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    act: Callable[[Task, int], Outcome],
    **options: Any,
) -> dict[str, Outcome]:
    """Do tasks with this in place of the work; it is also told how often it was begun before."""
    begun: Counter[str] = Counter()
    beginning = threading.Lock()

    def work(task: Task) -> Outcome:
        with beginning:
            if threads.is_dead or threading.current_thread() in threads.gone:
                raise DeathError
            begun[task.key] += 1
            start = begun[task.key]
            threads.ledger.begin(task.key, f"host:{start}")
        try:
            return act(task, start)
        except DeathError:
            with beginning:
                threads.is_dead = True
            raise

    monkeypatch.setattr(engine, "work", work)
    found = list(run_all(threads, tasks(number), _prepare, **options))
    assert len(found) == number
    assert all(task.key == outcome.key for task, outcome in found)
    return {task.key: outcome for task, outcome in found}


def _prepare(task: Task, as_bytes: bool) -> Task:
    return replace(task, files={}) if as_bytes else task


def done(task: Task, _: int) -> Outcome:
    return Outcome(task.key, "done")


def test_all_tasks_are_done(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    found = do(threads, monkeypatch, 20, done)
    assert {outcome.status for outcome in found.values()} == {"done"}
    assert do(threads, monkeypatch, 0, done) == {}


@pytest.mark.parametrize("killers", [{"4"}, {"0", "7"}, {"19"}])
@pytest.mark.parametrize("deaths", [1, 2])
def test_a_task_that_its_workers_die_of(
    threads: Threads, monkeypatch: pytest.MonkeyPatch, killers: set[str], deaths: int
) -> None:
    """Nothing is lost with a worker; and of those that it was lost with, none is blamed."""

    def act(task: Task, begun: int) -> Outcome:
        if task.key in killers and begun <= deaths:
            raise DeathError
        return Outcome(task.key, "done")

    found = do(threads, monkeypatch, 20, act)
    dead = {key for key, outcome in found.items() if outcome.status == "died"}
    expected = killers if deaths == 2 else set()
    if threads.ledger.is_known or len(killers) == 1:
        assert dead == expected
    else:  # one of them may be lost with the other's worker, before it is begun
        assert expected <= dead <= killers


def test_a_suspect_runs_alone(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    running, beside = 0, []
    lock = threading.Lock()

    def act(task: Task, begun: int) -> Outcome:
        nonlocal running
        with lock:
            running += 1
            beside.append((task.key, begun, running))
        try:
            if task.key == "2" and begun == 1:
                raise DeathError
            return Outcome(task.key, "done")
        finally:
            with lock:
                running -= 1

    do(threads, monkeypatch, 9, act)
    assert [number for key, begun, number in beside if (key, begun) == ("2", 2)] == [1]


def test_a_task_that_was_begun_often_beside_others_is_not_blamed(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where it was begun once more while its workers were ending."""

    def act(task: Task, begun: int) -> Outcome:
        if begun > 1:
            return Outcome(task.key, "done")
        for _ in range(MOST_STARTS):
            threads.ledger.begin(task.key, "host:late")
        raise DeathError

    found = do(threads, monkeypatch, 1, act)
    assert found["0"].status == "done"
    assert len(threads.ledger.starts("0")) == (1 if threads.ledger.is_known else 0)


def test_workers_that_die_before_they_begin(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(task: Task) -> Outcome:
        raise DeathError

    monkeypatch.setattr(engine, "work", work)
    found = list(run_all(threads, tasks(4), _prepare))
    assert sorted(task.key for task, _ in found) == ["0", "1", "2", "3"]
    assert {outcome.status for _, outcome in found} == {"died"}


def test_no_workers_are_left(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not done is told, once, with the reason."""
    settings = threads.settings

    def lost(places: Sequence[str] | None) -> tuple[dict[str, Any], int]:
        if threads.is_dead:
            raise NoWorkersError("the cluster is lost")
        return settings(places)

    def act(task: Task, begun: int) -> Outcome:
        if task.key == "6":
            raise DeathError
        return Outcome(task.key, "done")

    monkeypatch.setattr(threads, "settings", lost)
    found = do(threads, monkeypatch, 20, act)
    assert found["6"].status == "died"
    left = {outcome.reason for outcome in found.values() if outcome.status == "died"}
    assert left == {"the cluster is lost"}


@pytest.mark.parametrize("resend", [True, False])
def test_a_worker_that_sees_no_files_gets_them(
    threads: Threads, monkeypatch: pytest.MonkeyPatch, resend: bool
) -> None:
    def act(task: Task, begun: int) -> Outcome:
        return Outcome(task.key, "unseen" if task.files is None and task.key == "1" else "done")

    found = do(threads, monkeypatch, 3, act, resend=resend)
    assert found["1"].status == ("done" if resend else "unseen")


def test_workers_without_bnfold(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(task: Task, begun: int) -> Outcome:
        raise ModuleNotFoundError("No module named 'bnfold'")

    with pytest.raises(UsageError, match="the workers cannot import what they need: No module"):
        do(threads, monkeypatch, 3, act)
