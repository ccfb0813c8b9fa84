"""Finds out which operators and nodes the time goes to, in a pass of its own after the timing.

A profiler slows a model down, so no session that is timed has one. The pass takes a share of the
time for timing, and is left out where loading and running the models again would take longer.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from bnfold.errors import SessionError
from bnfold.options import ExecutionOptions, InputOptions, TimingOptions
from bnfold.progress import Progress
from bnfold.record.data import ModelProfile, NodeTime, OperatorTime, SpeedRecord
from bnfold.running.input_search import make_inputs
from bnfold.running.runtime import Level, Session
from bnfold.speed.cases import requests_of, time_models
from bnfold.speed.statistics import median

SHARE = 0.2
"""The share of the time for timing that profiles may take."""

FEWEST_RUNS, MOST_RUNS = 3, 30

MOST_NODES = 10
"""How many nodes of a model are named."""

_KERNEL = "_kernel_time"
"""Follows the name of a node in the name of the event that it ran."""

_K = TypeVar("_K", bound=Hashable)


def time_and_profile(
    original: Path,
    optimized: Path | None,
    execution: ExecutionOptions,
    timing: TimingOptions,
    folder: Path,
    progress: Progress,
) -> list[SpeedRecord]:
    """Time one or two models as `time_models` does, then profile them if that was asked for.

    onnxruntime's files are in `folder` for a moment.
    """
    share = 1 - SHARE if timing.profile else 1.0
    records = time_models(original, optimized, execution, timing, progress, share=share)
    if not timing.profile:
        return records
    models = [original, *([optimized] if optimized is not None else [])]
    requests = requests_of(execution, timing) * len(execution.providers)
    best = [place for place, record in enumerate(records) if record.level == Level.ALL.value]
    for place, request in zip(best, requests, strict=False):
        seconds = timing.seconds_on(execution.providers)[records[place].provider] * SHARE
        seconds /= len(timing.batches) or 1
        records[place] = _with_profile(records[place], models, request, seconds, folder, progress)
    return records


def _with_profile(
    record: SpeedRecord,
    models: Sequence[Path],
    request: InputOptions,
    seconds: float,
    folder: Path,
    progress: Progress,
) -> SpeedRecord:
    """Return the record with a profile of each model, or with a note that says why not."""
    if record.provider != "cpu":
        return replace(record, profile_note="on a device, the profiler times launches alone")
    turn = record.original_ms + (record.optimized_ms or 0.0)
    left = seconds * 1e3 - sum(record.load_ms)
    runs = min(MOST_RUNS, int(left / turn) - 1)
    if runs < FEWEST_RUNS:
        return replace(record, profile_note="the time for the benchmark is too short")
    progress(f"profiling ({record.provider}, optimization {record.level})")
    try:
        return replace(record, profile=profiles(models, record, request, runs, folder))
    except (SessionError, OSError, ValueError) as error:  # the timing counts all the same
        return replace(record, profile_note=f"the profile cannot be read: {error}")


def profiles(
    models: Sequence[Path], record: SpeedRecord, request: InputOptions, runs: int, folder: Path
) -> list[ModelProfile]:
    """Run models in turns, under the conditions of the record, and sum up where time goes.

    Raises:
        SessionError: if onnxruntime cannot load or run one.
        OSError: if a profile cannot be written.
        ValueError: if it cannot be read, as some versions do not escape the names of nodes.
    """
    begin = folder / f"profile-{time.monotonic_ns()}"
    sessions: list[Session] = []
    try:
        for number, model in enumerate(models):
            path = begin.with_name(f"{begin.name}-{number}")
            sessions.append(
                Session(model, record.provider, Level.ALL, record.threads, tf32=True, profile=path)
            )
        feeds = next(make_inputs(sessions[0], request).feeds())
        for session in sessions:
            session.run(feeds)
        prepared = [session.prepared_run(feeds) for session in sessions]
        for run in prepared * runs:
            run()
        texts = [
            session.end_profiling().read_text(encoding="utf-8", errors="replace")
            for session in sessions
        ]
    finally:
        sessions.clear()
        for file in folder.glob(f"{begin.name}*"):
            file.unlink()
    return [summarize_events(json.loads(text)) for text in texts]


def summarize_events(events: Iterable[dict[str, Any]]) -> ModelProfile:
    """Sum up the events of a profile; the first run warms up, and does not count.

    Raises:
        ValueError: if there is no other run, or an event has another form than expected.
    """
    try:
        runs = list(_runs(events))[1:]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"an event of another form: {error}") from error
    if not runs:
        raise ValueError("no run is in it")
    nodes = _medians([((node, op_type), ms) for node, op_type, ms in run] for run in runs)
    operators = _medians([(op_type, ms) for _, op_type, ms in run] for run in runs)
    counts = Counter(op_type for (_, op_type), _ in nodes)
    return ModelProfile(
        runs=len(runs),
        ms=_rounded(median([sum(ms for *_, ms in run) for run in runs])),
        operators=[OperatorTime(op_type, counts[op_type], ms) for op_type, ms in operators],
        nodes=[NodeTime(node, op_type, ms) for (node, op_type), ms in nodes[:MOST_NODES]],
    )


def _runs(events: Iterable[dict[str, Any]]) -> Iterator[list[tuple[str, str, float]]]:
    """Yield the nodes of each run, with operator and time: they are written before the run is."""
    kernels = []
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            kernels.append(event)
        elif event["name"] == "model_run":
            yield [
                (event["name"].removesuffix(_KERNEL), event["args"]["op_name"], ms)
                for event, ms in _own_times(kernels)
            ]
            kernels = []


def _own_times(kernels: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], float]]:
    """Return each event with its milliseconds, without those of the nodes of its own subgraphs."""
    ordered = sorted(kernels, key=lambda event: (event["ts"], -event["dur"]))
    own = [float(event["dur"]) for event in ordered]
    around: list[int] = []
    for place, event in enumerate(ordered):
        while around and _end(ordered[around[-1]]) < _end(event):
            around.pop()
        if around and event["ts"] < _end(ordered[around[-1]]):
            own[around[-1]] -= event["dur"]
        around.append(place)
    return [(event, max(0.0, time_of / 1e3)) for event, time_of in zip(ordered, own, strict=True)]


def _end(event: dict[str, Any]) -> float:
    return float(event["ts"] + event["dur"])


def _medians(runs: Iterable[Sequence[tuple[_K, float]]]) -> list[tuple[_K, float]]:
    """Return the median over all runs of what each key sums up to in a run, the largest first."""
    sums: list[dict[_K, float]] = []
    for run in runs:
        total: dict[_K, float] = {}
        for key, ms in run:
            total[key] = total.get(key, 0.0) + ms
        sums.append(total)
    keys = dict.fromkeys(key for total in sums for key in total)
    medians = [(key, _rounded(median([total.get(key, 0.0) for total in sums]))) for key in keys]
    return sorted(medians, key=lambda item: -item[1])


def _rounded(ms: float) -> float:
    return round(ms, 4)
