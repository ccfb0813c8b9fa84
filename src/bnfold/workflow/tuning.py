"""Finds out which rewrites do not pay on this machine, by measuring the model without them.

A trial takes a group of rewrites away and times what is left against the model with them. Groups
are the rewrites of a pass first; a group that is not worth dropping whole is halved, and its halves
are tried later, while time lasts. Last of all the original itself is tried, where no rewrites are.
All but the measured times is deterministic.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeAlias

from bnfold.progress import Progress
from bnfold.record.data import RewriteRecord, SpeedRecord, TuningRecord, TuningTrial
from bnfold.rewriting.engine import Site

TRIALS_IN_TIME = 8
"""Into so many trials the time is divided."""

Measure: TypeAlias = Callable[[Path, Path, float], SpeedRecord]
"""Times the first model against the second, for so many seconds."""


def tune(
    rewrites: Sequence[RewriteRecord],
    make: Callable[[Collection[Site]], Path],
    measure: Measure,
    discard: Callable[[Path], None],
    seconds: float,
    progress: Progress,
) -> tuple[frozenset[Site], TuningRecord]:
    """Return the sites that are better left alone, and the trials that say so.

    Args:
        rewrites: those of the model as it is optimized in full.
        make: returns a model, optimized but for these sites.
        measure: times one model against another.
        discard: is told of each model that is no longer needed.
        seconds: how long to go on. At least two trials are made, if there is anything to try.
        progress: is told what is tried.
    """
    groups = deque(_by_pass(rewrites))
    everything = tuple(site for group in groups for site in group)
    dropped: frozenset[Site] = frozenset()
    trials: list[TuningTrial] = []
    share = seconds / TRIALS_IN_TIME
    end = time.monotonic() + seconds - share  # the last share is for the original itself
    current = make(dropped)

    def is_faster_without(group: Sequence[Site]) -> bool:
        nonlocal dropped, current
        names = ", ".join(dict.fromkeys(name for name, _ in group))
        progress(f"tuning: {len(group)} rewrites of {names}")
        candidate = make(dropped | set(group))
        speed = measure(current, candidate, share)
        is_faster = speed.verdict == "faster"
        trials.append(_trial(group, speed))
        discard(current if is_faster else candidate)
        if is_faster:
            dropped, current = dropped | set(group), candidate
        return is_faster

    while groups and (not trials or time.monotonic() + share <= end):
        group = groups.popleft()
        if not is_faster_without(group) and len(group) > 1:
            middle = len(group) // 2
            groups += [group[:middle], group[middle:]]
    remaining = [site for site in everything if site not in dropped]
    if remaining and set(remaining) not in [set(_sites(trial)) for trial in trials]:
        is_faster_without(remaining)
    return dropped, TuningRecord(seconds, trials)


def _by_pass(rewrites: Sequence[RewriteRecord]) -> list[tuple[Site, ...]]:
    groups: dict[str, dict[Site, None]] = {}
    for each in rewrites:
        groups.setdefault(each.pass_name, {})[each.pass_name, each.site] = None
    return [tuple(sites) for sites in groups.values()]


def _trial(group: Sequence[Site], speed: SpeedRecord) -> TuningTrial:
    assert speed.speedup is not None
    assert speed.ci95 is not None
    assert speed.verdict is not None
    sites: dict[str, list[str]] = {}
    for name, site in group:
        sites.setdefault(name, []).append(site)
    return TuningTrial(
        without=sites,
        speedup=speed.speedup,
        ci95=speed.ci95,
        control=speed.control,
        control_ci95=speed.control_ci95,
        verdict=speed.verdict,
        dropped=speed.verdict == "faster",
        samples=speed.samples,
    )


def _sites(trial: TuningTrial) -> list[Site]:
    return [(name, site) for name, sites in trial.without.items() for site in sites]
