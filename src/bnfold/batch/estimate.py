"""How far a batch is, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Status:
    """How far a batch is. `seconds_left` is None until something tells."""

    doing: str
    done: int
    total: int
    failed: int
    seconds_left: float | None


Watch: TypeAlias = Callable[[Status], None]
"""Called with each change."""


class Estimate:
    """Counts steps, and learns from each phase how long its steps take.

    Steps run side by side, so what counts is the time that passes, not that of each step.
    """

    def __init__(
        self,
        checks: int,
        timings: int,
        seconds_each: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left = {"check": checks, "time": timings}
        self._done = {"check": 0, "time": 0}
        self._begun: dict[str, float] = {}
        self._guess = {"time": seconds_each}
        """What a timing takes, as long as none is done."""
        self._clock = clock

    def begin(self, phase: str) -> None:
        self._begun[phase] = self._clock()

    def end_one(self, phase: str) -> None:
        self._left[phase] -= 1
        self._done[phase] += 1

    def drop_one(self, phase: str) -> None:
        """Count a step that need not be done."""
        self._left[phase] -= 1

    @property
    def done(self) -> int:
        return sum(self._done.values())

    @property
    def total(self) -> int:
        return self.done + sum(self._left.values())

    def seconds_left(self) -> float | None:
        """Return an estimate; None if there is nothing to learn from."""
        total = 0.0
        for phase, left in self._left.items():
            if left <= 0:
                continue
            each = self._guess.get(phase)
            if self._done[phase]:
                each = (self._clock() - self._begun[phase]) / self._done[phase]
            if each is None:
                return None
            total += left * each
        return total
