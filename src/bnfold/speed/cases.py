"""Times models on the requested providers and batch sizes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bnfold.errors import TooSlowError, parameter
from bnfold.options import ExecutionOptions, InputOptions, TimingOptions
from bnfold.progress import Progress
from bnfold.record.data import SpeedRecord
from bnfold.running.runtime import Level
from bnfold.speed.measure import compare_speed, for_one_image
from bnfold.speed.processes import Processes

_LEAST_SHARE = 0.25
"""Of the time for both levels: what the second level must have left."""


def time_models(
    original: Path,
    optimized: Path | None,
    execution: ExecutionOptions,
    timing: TimingOptions,
    progress: Progress,
    *,
    share: float = 1.0,
) -> list[SpeedRecord]:
    """Time one or two models, on every provider and batch size, at both optimization levels.

    All batch sizes get an equal part of this share of a provider's time. If one level needs the
    time of both, the other is skipped, and a note says so.

    Raises:
        ProviderError: if a provider is not available.
        SessionError: if onnxruntime cannot load or run a model.
        CrashedError: if it crashes.
        UsageError: if the request for inputs does not fit the model.
    """
    requests = requests_of(execution, timing)
    records: list[SpeedRecord] = []
    for provider, seconds in timing.seconds_on(execution.providers).items():
        part = seconds * share / len(requests)
        with Processes(provider, progress) as processes:
            for request in requests:
                end = time.monotonic() + part
                for level in (Level.ALL, Level.DISABLED):
                    left = end - time.monotonic()
                    if level is Level.DISABLED and left < part * _LEAST_SHARE:
                        note = f"no time was left for optimization {level.value}"
                        note = "; ".join(filter(None, [records[-1].note, note]))
                        records[-1] = replace(records[-1], note=note)
                        continue
                    record = compare_speed(
                        original,
                        optimized,
                        provider=provider,
                        level=level,
                        request=request,
                        threads=execution.threads,
                        seconds=min(left, part / 2),
                        at_most=left,
                        memory=timing.memory,
                        processes=processes,
                        progress=progress,
                    )
                    records.append(record)
    return records


def requests_of(execution: ExecutionOptions, timing: TimingOptions) -> list[InputOptions]:
    """Return what is asked of the inputs, for each batch size: the cases of a provider."""
    usual = for_one_image(execution.inputs)
    return [replace(usual, batch_sizes=(batch,)) for batch in timing.batches] or [usual]


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
        assert record.speedup is not None
        measured = f"{record.speedup:.3f}"
        if record.ci95 is not None and record.control_ci95 is not None:
            measured += f" [{record.ci95[0]:.3f}, {record.ci95[1]:.3f}]"
            measured += f" (control {record.control:.3f})"
        elif at == "bound":
            raise TooSlowError(
                f"a speed-up of {required:g} is required, but on {record.provider} it is not "
                f"measured: {record.note or 'there are too few blocks'}; "
                f"raise {parameter('seconds')}"
            )
        reached = record.ci95[0] if at == "bound" and record.ci95 else record.speedup
        if reached < required:
            needed = ": the lower bound of its interval must reach it" if at == "bound" else ""
            raise TooSlowError(
                f"a speed-up of {required:g} is required, but on {record.provider} it is "
                f"{measured}{needed}"
            )
