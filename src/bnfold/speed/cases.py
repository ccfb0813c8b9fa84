"""Times models wherever and on whatever was asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bnfold.errors import TooSlowError
from bnfold.options import ExecutionOptions, TimingOptions
from bnfold.progress import Progress
from bnfold.record.data import SpeedRecord
from bnfold.running.runtime import Level
from bnfold.speed.measure import compare_speed, for_one_image


def time_models(
    original: Path,
    optimized: Path | None,
    execution: ExecutionOptions,
    timing: TimingOptions,
    progress: Progress,
) -> list[SpeedRecord]:
    """Time one model, or two, at both levels on every provider and batch size, in equal shares.

    Where one level has used up the time of both, the other is left out, and a note says so.

    Raises:
        ProviderError: if a provider is not available.
        SessionError: if onnxruntime cannot load or run a model.
        UsageError: if the request for inputs does not fit the model.
    """
    usual = for_one_image(execution.inputs)
    requests = [replace(usual, batch_sizes=(batch,)) for batch in timing.batches] or [usual]
    cases = [(provider, request) for provider in execution.providers for request in requests]
    share = timing.seconds / len(cases)
    found: list[SpeedRecord] = []
    for provider, request in cases:
        end = time.monotonic() + share
        for level in (Level.ALL, Level.DISABLED):
            if level is Level.DISABLED and found[-1].note and time.monotonic() > end:
                more = f"{found[-1].note}; no time was left for optimization {level.value}"
                found[-1] = replace(found[-1], note=more)
                continue
            found.append(
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
    return found


def require_speedup(speed: Sequence[SpeedRecord], required: float | None, note: str = "") -> None:
    """Require that the median speed-up at onnxruntime's best comes to this, wherever it was timed.

    Raises:
        TooSlowError: if not, or if nothing was timed; `note` says why.
    """
    if required is None:
        return
    found = [each for each in speed if each.level == Level.ALL.value and each.speedup is not None]
    if not found:
        raise TooSlowError(
            f"a speed-up of {required:g} is required, and {note or 'none was timed'}"
        )
    for each in found:
        if each.speedup is not None and each.speedup < required:
            raise TooSlowError(
                f"a speed-up of {required:g} is required, and on {each.provider} it is "
                f"{each.speedup:.3f} (control {each.control:.3f})"
            )
