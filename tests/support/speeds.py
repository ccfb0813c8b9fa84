"""Fake speed measurements, for tests of code that decides by speed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from bnfold.progress import Progress
from bnfold.record.data import LevelName, SpeedBlock, SpeedRecord
from bnfold.speed.statistics import summarize

Cost = Callable[[onnx.ModelProto], float]
"""Milliseconds of one run."""


class Here:
    """Stands in for a `Worker`, in this process: most tests are not about processes."""

    def __init__(self, progress: Progress, kind: Callable[..., Any], *arguments: Any) -> None:
        self._kind, self._arguments = kind, (progress, *arguments)
        self._object: Any = None

    def ready(self) -> None:
        """Make the object."""
        self._object = self._kind(*self._arguments)

    def call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of the object."""
        return method(self._object, *arguments)

    def end(self) -> None:
        """Forget the object."""
        self._object = None

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def fake_compare_speed(cost: Cost) -> Callable[..., SpeedRecord]:
    """Return a replacement for `compare_speed` in which models cost this much."""

    def compare(original: Path, optimized: Path, **options: Any) -> SpeedRecord:
        times = [cost(onnx.load(path)) for path in (original, optimized)]
        return speed_record(times[0], times[1])

    return compare


def speed_record(original_ms: float, optimized_ms: float, level: LevelName = "all") -> SpeedRecord:
    """Return a record of runs that all took exactly this long."""
    times = {"original": original_ms, "optimized": optimized_ms, "control": original_ms}
    block = SpeedBlock(dict.fromkeys(times, 1.0), {k: [v] * 3 for k, v in times.items()})
    blocks = [block] * 3
    summary = summarize(blocks)
    return SpeedRecord(
        provider="cpu",
        level=level,
        threads=1,
        shapes={},
        note="",
        load_ms=[1.0, 1.0],
        peak_mb=None,
        placement=None,
        samples=blocks,
        **vars(summary),
    )
