"""Finds the rewrites that make the model slower on this machine, by timing it without them.

A trial removes a group of rewrites and times the model against the one with them. Groups are first
the rewrites of a pass; a group that is not dropped as a whole is halved, and its halves are tried
later, while time lasts. The last trial is the original itself, without any rewrite. Everything but
the measured times is deterministic.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeAlias

from bnfold.progress import Counted, Progress
from bnfold.record.data import RewriteRecord, SpeedRecord, TuningRecord, TuningTrial
from bnfold.rewriting.engine import Site

TRIALS_IN_TIME = 8
"""The time is divided into this many trials."""

Measure: TypeAlias = Callable[[Path, Path, float], SpeedRecord]
"""Times the first model against the second, for this many seconds."""


def tune(
    rewrites: Sequence[RewriteRecord],
    make: Callable[[Collection[Site]], Path],
    measure: Measure,
    discard: Callable[[Path], None],
    seconds: float,
    progress: Progress,
) -> tuple[frozenset[Site], TuningRecord]:
    """Return the sites to leave unchanged, and the trials that decided it.

    Args:
        rewrites: the rewrites of the fully optimized model.
        make: returns a model that is optimized except at these sites.
        measure: times one model against another.
        discard: called with each model that is no longer needed.
        seconds: how long to continue. At least two trials are made, if there is anything to try.
        progress: called with a message for each trial.
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
        number = min(len(trials) + 1, TRIALS_IN_TIME)
        progress(Counted(f"tuning: {len(group)} rewrites of {names}", number, TRIALS_IN_TIME))
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
    for rewrite in rewrites:
        groups.setdefault(rewrite.pass_name, {})[rewrite.pass_name, rewrite.site] = None
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
