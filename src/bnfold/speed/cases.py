"""Times models on the requested providers and batch sizes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bnfold.errors import TooSlowError
from bnfold.options import ExecutionOptions, InputOptions, TimingOptions
from bnfold.progress import Progress
from bnfold.record.data import SpeedRecord
from bnfold.running.runtime import Level
from bnfold.speed.measure import compare_speed, for_one_image
from bnfold.speed.statistics import FEWEST_BLOCKS


def time_models(
    original: Path,
    optimized: Path | None,
    execution: ExecutionOptions,
    timing: TimingOptions,
    progress: Progress,
) -> list[SpeedRecord]:
    """Time one or two models, on every provider and batch size, at both optimization levels.

    All cases get an equal share of the time. If one level uses up the time of both, the other is
    skipped, and a note says so.

    Raises:
        ProviderError: if a provider is not available.
        SessionError: if onnxruntime cannot load or run a model.
        UsageError: if the request for inputs does not fit the model.
    """
    cases = cases_of(execution, timing)
    share = timing.seconds / len(cases)
    records: list[SpeedRecord] = []
    for provider, request in cases:
        end = time.monotonic() + share
        for level in (Level.ALL, Level.DISABLED):
            if level is Level.DISABLED and records[-1].note and time.monotonic() > end:
                note = f"{records[-1].note}; no time was left for optimization {level.value}"
                records[-1] = replace(records[-1], note=note)
                continue
            records.append(
                compare_speed(
                    original,
                    optimized,
                    provider=provider,
                    level=level,
                    request=request,
                    threads=execution.threads,
                    seconds=share / 2,
                    memory=timing.memory,
                    progress=progress,
                )
            )
    return records


def cases_of(execution: ExecutionOptions, timing: TimingOptions) -> list[tuple[str, InputOptions]]:
    """Return each provider with each batch size, as what is asked of the inputs."""
    usual = for_one_image(execution.inputs)
    requests = [replace(usual, batch_sizes=(batch,)) for batch in timing.batches] or [usual]
    return [(provider, request) for provider in execution.providers for request in requests]


def require_speedup(
    speed: Sequence[SpeedRecord], required: float | None, at: str = "bound", note: str = ""
) -> None:
    """Require this speed-up with all of onnxruntime's optimizations, in every case.

    Args:
        speed: all timings.
        required: the speed-up; nothing is required if it is None.
        at: what must reach it: the lower ``bound`` of the 95 % interval, or the ``median``.
        note: why nothing was timed, if that is so.

    Raises:
        TooSlowError: if it is not reached, or if too little was timed to tell.
    """
    if required is None:
        return
    timed = [
        record for record in speed if record.level == Level.ALL.value and record.speedup is not None
    ]
    if not timed:
        raise TooSlowError(
            f"a speed-up of {required:g} is required, but {note or 'nothing was timed'}"
        )
    for record in timed:
        if record.speedup is None or record.ci95 is None:
            continue
        if at == "bound" and len(record.samples) < FEWEST_BLOCKS:
            raise TooSlowError(
                f"a speed-up of {required:g} is required, but there was too little time to "
                "measure one; raise the seconds, or pass --require-speedup-at median"
            )
        reached = record.ci95[0] if at == "bound" else record.speedup
        if reached < required:
            raise TooSlowError(
                f"a speed-up of {required:g} is required, but on {record.provider} it is "
                f"{record.speedup:.3f} [{record.ci95[0]:.3f}, {record.ci95[1]:.3f}] "
                f"(control {record.control:.3f})"
            )
