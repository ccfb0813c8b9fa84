"""Proves many windows: side by side, in the time that there is, and whatever crashes.

What takes longer than others is tried again after them: a few may take most of the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial

from bnfold.progress import Counted, Progress, silent
from bnfold.proof.certificates.certificate import certify_any, failed
from bnfold.proof.certificates.windows import NotShown, Window
from bnfold.record.data import Certificate
from bnfold.running.environment import available_threads
from bnfold.running.isolation import CrashedError, Forked, isolated
from bnfold.running.sharing import sharing


def certify_all(
    windows: Sequence[Callable[[], Iterable[Window]]],
    seconds: float,
    progress: Progress = silent,
    *,
    processes: int = 1,
) -> list[Certificate]:
    """Prove windows in processes of their own, side by side, in the time that there is.

    Args:
        windows: each makes a window when it is its turn, or several, of which one is enough; it
            raises NotShown if there is none.
        seconds: for all of them, of which each may take `SECONDS_FOR_A_WINDOW`; what is not proven
            by then is open.
        progress: called with what is being done.
        processes: at most so many, if there is enough to prove for each.
    """
    count = max(1, min(processes, len(windows) // _FEWEST_WINDOWS))
    certificates: list[Certificate] = [Certificate("open", note=_LATE)] * len(windows)
    end = time.monotonic() + seconds
    with ExitStack() as running:
        shares = []
        for first in range(count):
            share = windows[first::count]
            work = partial(_certify_share, share, seconds, len(windows))
            shares.append((share, running.enter_context(Forked(work))))
        for first, (share, forked) in enumerate(shares):
            try:
                certificates[first::count] = forked.result(progress)
            except CrashedError:  # over one of them
                certificates[first::count] = [
                    _apart(window, min(seconds, end - time.monotonic())) for window in share
                ]
    return certificates


def _certify_share(
    windows: Sequence[Callable[[], Iterable[Window]]], seconds: float, total: int, told: Progress
) -> list[Certificate]:
    """Prove one window after another, of which other processes have as many as this one."""
    end = time.monotonic() + seconds
    found = [Certificate("open", note=_LATE)] * len(windows)
    pending = list(range(len(windows)))
    with sharing(available_threads()):  # their products are small
        for most in _rounds(seconds):
            slow = []
            for number, index in enumerate(pending, 1):
                begun = time.monotonic()
                if begun > end:
                    for late in pending[number - 1 :]:
                        found[late] = Certificate("open", note=_LATE)
                    return found
                reached = number * total // len(pending)
                told(Counted(f"certifying rewrite {reached} of {total}", reached, total))
                found[index] = _certify_made(windows[index], most)
                if found[index].verdict == "open" and time.monotonic() > begun + most:
                    slow.append(index)
            pending = slow
    return found


def _apart(window: Callable[[], Iterable[Window]], seconds: float) -> Certificate:
    """Prove a window in a process of its own."""
    if seconds <= 0:
        return Certificate("open", note=_LATE)
    try:
        return isolated(lambda _: _certify_made(window, seconds_for_one(seconds)), silent)
    except CrashedError as crash:
        return Certificate("open", note=str(crash))


def _certify_made(make: Callable[[], Iterable[Window]], seconds: float) -> Certificate:
    """Prove one of the windows that are made; one that cannot be made is open."""
    try:
        return certify_any(make(), seconds)
    except NotShown as reason:
        return Certificate("open", note=str(reason))
    except Exception as error:  # a model may be anything, and then the whole is still compared
        return Certificate("open", note=failed(error))


def _rounds(seconds: float) -> list[float]:
    """Return how long each proof may take, first and then: a few may take most of the time."""
    longest = seconds_for_one(seconds)
    first = min(_SECONDS_AT_FIRST, longest)
    return [longest] if longest in (math.inf, first) else [first, longest]


_LATE = "there was no time left; --certify always takes it"

_FEWEST_WINDOWS = 4
"""A process of its own, which takes milliseconds, is made for no fewer."""

_SECONDS_AT_FIRST = 0.5
"""What takes longer is tried again after the others."""

SECONDS_FOR_A_WINDOW = 5.0
"""Where all windows have some time together, each has this at most; none is started after that."""


def seconds_for_one(seconds: float) -> float:
    """Return how long one of several proofs may take that have so many seconds together."""
    return min(seconds, SECONDS_FOR_A_WINDOW) if seconds < math.inf else math.inf
