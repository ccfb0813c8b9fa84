"""Limits how long a proof takes: its steps ask whether there is time for another."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class OutOfTime(Exception):  # noqa: N818 - an answer, not an error
    """The time for a proof is over, and so for each other way to prove the same."""


_limit: ContextVar[tuple[float, float]] = ContextVar("limit", default=(math.inf, math.inf))
"""When it is over, by `time.monotonic`, and how many seconds that were."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Let `require_time` raise `OutOfTime` after so many seconds."""
    token = _limit.set((time.monotonic() + seconds, seconds))
    try:
        yield
    finally:
        _limit.reset(token)


def require_time() -> None:
    """Ask for the time of one more step.

    Raises:
        OutOfTime: if there is none.
    """
    end, seconds = _limit.get()
    if time.monotonic() > end:
        raise OutOfTime(f"its proof takes more than {seconds:g} s; --certify always takes them")
