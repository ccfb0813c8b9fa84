"""The processes that blocks of timings run in."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bnfold.progress import Progress
from bnfold.running.environment import available_threads
from bnfold.running.workers import Worker
from bnfold.speed.blocks import Block

if TYPE_CHECKING:
    from typing_extensions import Self


class Processes:
    """Processes for a provider, one per block; a context manager, whose exit ends them.

    They start when they are first needed, and serve one case after another: the first block of each
    case runs in the first of them, and so on. So the blocks of a case share no process, and to
    start takes time only once.
    """

    def __init__(self, provider: str, progress: Progress) -> None:
        self._provider, self._progress = provider, progress
        self._stack = ExitStack()
        self._workers: list[Worker[Block]] = []
        self._starting = 0.0

    def take(self, count: int) -> list[Worker[Block]]:
        """Return the first processes, after starting those that are missing, all at once.

        Raises:
            ProviderError: if the provider does not work there.
            SessionError: if no process can be started.
            CrashedError: if one crashes.
        """
        begun = time.perf_counter()
        missing = range(count - len(self._workers))
        started = [
            self._stack.enter_context(Worker(self._progress, Block, self._provider))
            for _ in missing
        ]
        for worker in started:
            worker.ready()
        if started and not self._workers:
            self._starting = time.perf_counter() - begun
        self._workers += started
        return self._workers[:count]

    def done(self, worker: Worker[Block]) -> None:
        """Note that a block is over: a process that may hold memory of a device ends."""
        if self._provider != "cpu":
            self._workers.remove(worker)
            worker.end()

    def seconds_to_take(self, count: int) -> float:
        """Return how long it takes until so many are there, if as many start at once as can run."""
        missing = max(0, count - len(self._workers))
        return math.ceil(missing / available_threads()) * self._starting

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
