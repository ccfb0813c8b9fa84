"""Finds the rewrites that make the model slower on this machine, by timing it without them.

A trial removes a group of rewrites and times the model against the one with them. Groups are first
the rewrites of a pass; a group that is not dropped as a whole is halved, and its halves are tried
later, while time lasts. The last trial is the original itself, without any rewrite. Everything but
the measured times is deterministic.

Of many trials, some are faster by chance alone. So each is held to a wider interval, such that the
chance that any rewrite is dropped for nothing is 5 % at most, in all trials together (Bonferroni).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeAlias

from bnfold.progress import Counted, Progress
from bnfold.record.data import RewriteRecord, SpeedRecord, TuningRecord, TuningTrial
from bnfold.rewriting.contract import Stage
from bnfold.rewriting.engine import Site
from bnfold.rewriting.registry import all_passes
from bnfold.speed.statistics import judge, ratio

TRIALS_IN_TIME = 8
"""The time is divided into this many trials. There are no more."""

CONFIDENCE = 1 - 0.05 / TRIALS_IN_TIME
"""Of each trial's interval, so that all of them together have 95 %."""

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
        trial = _trial(group, measure(current, candidate, share))
        trials.append(trial)
        discard(current if trial.dropped else candidate)
        if trial.dropped:
            dropped, current = dropped | set(group), candidate
        return trial.dropped

    def is_time_left() -> bool:
        return len(trials) < TRIALS_IN_TIME - 1 and time.monotonic() + share <= end

    while groups and (not trials or is_time_left()):
        group = groups.popleft()
        if not is_faster_without(group) and len(group) > 1:
            middle = len(group) // 2
            groups += [group[:middle], group[middle:]]
    remaining = [site for site in everything if site not in dropped]
    if remaining and set(remaining) not in [set(_sites(trial)) for trial in trials]:
        is_faster_without(remaining)
    return dropped, TuningRecord(seconds, trials, CONFIDENCE)


def _by_pass(rewrites: Sequence[RewriteRecord]) -> list[tuple[Site, ...]]:
    """Return the sites of each pass that may change how long the model takes."""
    only_stores = {pass_.name for pass_ in all_passes() if pass_.stage is Stage.LAST}
    groups: dict[str, dict[Site, None]] = {}
    for rewrite in rewrites:
        if rewrite.pass_name in only_stores:
            continue
        groups.setdefault(rewrite.pass_name, {})[rewrite.pass_name, rewrite.site] = None
    return [tuple(sites) for sites in groups.values()]


def _trial(group: Sequence[Site], speed: SpeedRecord) -> TuningTrial:
    assert speed.speedup is not None
    _, interval = ratio(speed.samples, "optimized", CONFIDENCE)
    verdict = judge(interval, speed.control_ci95)
    sites: dict[str, list[str]] = {}
    for name, site in group:
        sites.setdefault(name, []).append(site)
    return TuningTrial(
        without=sites,
        speedup=speed.speedup,
        ci95=speed.ci95,
        control=speed.control,
        control_ci95=speed.control_ci95,
        verdict=verdict,
        dropped=verdict == "faster",
        samples=speed.samples,
        interval=interval,
    )


def _sites(trial: TuningTrial) -> list[Site]:
    return [(name, site) for name, sites in trial.without.items() for site in sites]
