"""Shares the processors among processes that compute at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

from bnfold.running.environment import available_threads


@contextmanager
def sharing(processes: int) -> Iterator[None]:
    """Let numpy's matrix products take this process's share of the processors, at least one.

    Its threads wait for one another with all their might where others need the processor: of two
    on two cores, the second one doubles the processor time and saves a tenth of the time.
    """
    with threadpool_limits(limits=max(1, available_threads() // processes), user_api="blas"):
        yield
