"""Workers, driven by joblib, and how tasks survive their deaths."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from types import ModuleType
from typing import Any, Protocol, TypeAlias

from bnfold.batch.starts import Ledger
from bnfold.batch.tasks import MOST_STARTS, Outcome, Task
from bnfold.batch.work import work
from bnfold.errors import UsageError
from bnfold.report.wording import count

Deaths: TypeAlias = tuple[type[BaseException], ...]

BACKENDS = ("loky", "dask", "ray")


class NoWorkersError(Exception):
    """There are no workers left, and none will come."""


class Engine(Protocol):
    """Where tasks run."""

    name: str
    """What the index calls it."""
    workers: int
    sharers: int
    """How many of the workers are on one machine, at most."""
    deaths: Deaths
    """What joblib raises where a worker has died."""
    ledger: Ledger

    def kinds(self) -> Mapping[str, Sequence[str]]:
        """Return one place on each machine, by the kind of machine."""

    def settings(self, places: Sequence[str] | None) -> tuple[dict[str, Any], int]:
        """Return arguments for `joblib.parallel_config`, and how many tasks run side by side.

        On all workers, or one at a time in each of these places.

        Raises:
            NoWorkersError: if there are none.
        """

    def close(self) -> None:
        """Let go of the workers."""


_SAFE_PATH = "PYTHONSAFEPATH"
"""Keeps a Python that loky starts from importing the files of the current folder (from 3.11 on)."""


class Loky:
    """Processes on this machine."""

    def __init__(self, jobs: int, ledger: Ledger) -> None:
        from bnfold.running.environment import complaint_on_semaphores

        complaint = complaint_on_semaphores()
        if complaint:
            raise UsageError(f"{complaint}; or optimize one model at a time")
        require("joblib", "joblib")
        _start_tracker()
        self._safe_path = os.environ.get(_SAFE_PATH)
        os.environ[_SAFE_PATH] = "1"
        self.workers = self.sharers = jobs
        self.name = f"loky, {count(jobs, 'worker')}"
        self.deaths: Deaths = (BrokenProcessPool,)
        self.ledger = ledger

    def kinds(self) -> Mapping[str, Sequence[str]]:
        from bnfold.running.environment import kind_of_machine

        return {kind_of_machine(): ["here"]}

    def settings(self, places: Sequence[str] | None) -> tuple[dict[str, Any], int]:
        # of one worker, joblib makes none, and works in this process, where nothing may crash
        config = {"backend": "loky", "n_jobs": max(2, self.workers)}
        return config, self.workers if places is None else 1

    def close(self) -> None:
        """End the workers, which joblib would keep as long as this program runs."""
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)
        if self._safe_path is None:
            os.environ.pop(_SAFE_PATH, None)
        else:
            os.environ[_SAFE_PATH] = self._safe_path


def _start_tracker() -> None:
    """Start the process in which loky notes what is to be removed; a closed terminal spares it.

    It does not end by SIGINT and SIGTERM. Of SIGHUP it would, and the one that follows it knows
    nothing of what it is told to remove: it inherits that SIGHUP is blocked.
    """
    from joblib.externals.loky.backend.resource_tracker import ensure_running

    if sys.platform == "win32":
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    try:
        ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def require(module: str, package: str) -> ModuleType:
    """Import a module of a package that an extra of bnfold installs.

    Raises:
        UsageError: if it is not there.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{module} cannot be imported ({error}): pip install {package}") from error


def run_all(
    engine: Engine,
    tasks: Sequence[Task],
    prepare: Callable[[Task, bool], Task],
    places: Sequence[str] | None = None,
    *,
    resend: bool = True,
) -> Generator[tuple[Task, Outcome]]:
    """Do all tasks, and yield what came of each, in the order in which they end.

    `prepare` makes a task ready to be sent; if it is called with True, with the files themselves,
    which is done where a worker does not see them, and with `resend`.
    Where a worker dies, what it has begun is done again by another, alone, so that the model that
    a worker dies of is known: it fails, and no other. If workers die before they begin anything,
    each task is lost with them, as are all that are left where there are no more workers.
    """
    fresh = deque((task, False) for task in tasks)
    suspects: deque[tuple[Task, bool]] = deque()
    losses: Counter[str] = Counter()
    while fresh or suspects:
        is_alone = bool(suspects)
        queue = deque([suspects.popleft()]) if is_alone else fresh
        running: dict[str, tuple[Task, bool]] = {}
        lost: list[tuple[Task, bool]] = []
        has_begun = False
        with contextlib.closing(_results(engine, places, queue, running, prepare)) as results:
            try:
                for outcome in results:
                    has_begun = True
                    task, as_bytes = running.pop(outcome.key)
                    if outcome.status == "unseen" and resend and not as_bytes:
                        fresh.append((task, True))
                    else:
                        yield task, outcome
            except engine.deaths:
                lost = list(running.values())
            except NoWorkersError as error:
                for task, _ in (*queue, *suspects, *(fresh if is_alone else ())):
                    starts = engine.ledger.starts(task.key)
                    yield task, Outcome(task.key, "died", starts=starts, reason=str(error))
                return
            except ImportError as error:
                raise UsageError(
                    f"the workers cannot import what they need: {error}; install bnfold there"
                ) from error
        begun = {task.key: engine.ledger.starts(task.key) for task, _ in lost}
        has_begun = has_begun or any(begun.values())
        for task, as_bytes in lost:
            starts = begun[task.key]
            if engine.ledger.is_known and has_begun and not starts:
                fresh.appendleft((task, as_bytes))
                continue
            losses[task.key] += 1
            is_often = max(losses[task.key], len(starts)) >= MOST_STARTS
            if is_often and is_alone:
                yield task, Outcome(task.key, "died", starts=starts or ["?"] * MOST_STARTS)
                continue
            if is_often:  # it may have been begun while its workers were ending
                engine.ledger.forget(task.key)
            suspects.append((task, as_bytes))


def _results(
    engine: Engine,
    places: Sequence[str] | None,
    queue: deque[tuple[Task, bool]],
    running: dict[str, tuple[Task, bool]],
    prepare: Callable[[Task, bool], Task],
) -> Generator[Outcome]:
    """Yield outcomes as they come; `running` has the tasks that joblib has taken."""
    import joblib

    def feed() -> Iterator[Any]:
        while queue:
            task, as_bytes = queue.popleft()
            running[task.key] = task, as_bytes
            yield joblib.delayed(work)(prepare(task, as_bytes))

    settings, side_by_side = engine.settings(places)
    with joblib.parallel_config(**settings) as config, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of results that nobody waits for, and of large messages
        backend, usual = config["backend"], config["backend"].effective_n_jobs
        # of one worker, joblib makes none, and works in this process, where nothing may crash
        backend.effective_n_jobs = lambda n_jobs: max(2, usual(n_jobs))
        if not backend.supports_return_generator:  # Ray's says what holds for multiprocessing's
            backend.supports_return_generator = True
        parallel = joblib.Parallel(
            return_as="generator_unordered",
            batch_size=1,
            pre_dispatch=side_by_side,
            max_nbytes=None,
        )
        with contextlib.closing(parallel(feed())) as outcomes:
            yield from outcomes
