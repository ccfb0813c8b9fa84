"""Times models against each other.

The original, the optimized model and, as a control, the original again take turns on the same
inputs. Ratios are taken within a turn, so that whatever slows a turn down slows all of it. A
session may also be slow because of where its memory happens to lie. So there are several blocks,
each with new sessions in a process that starts anew, and the interval is that of what blocks have
in common. Processes start, and models are loaded, while nothing is timed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bnfold.options import InputOptions
from bnfold.progress import Progress, silent
from bnfold.record.data import FEWEST_BLOCKS, SpeedBlock, SpeedRecord
from bnfold.running.environment import available_threads
from bnfold.running.runtime import Feeds, Level
from bnfold.speed.blocks import Block, Case
from bnfold.speed.footprint import peak_mb
from bnfold.speed.processes import Processes
from bnfold.speed.statistics import median, summarize

USUAL_SIZE = 224

MOST_BLOCKS = 10

_SHARE_OF_PREPARING = 0.5
"""The largest share of the time for starting, loading and warming up; else there are fewer blocks.
The fewest are worth any share: still fewer measure nothing."""

_WARM_UP_SHARE = 0.1
"""Warming up ends after this share of a block's time, even if times are not stable yet."""


def compare_speed(
    original: Path,
    optimized: Path | None,
    *,
    provider: str = "cpu",
    level: Level = Level.ALL,
    request: InputOptions | None = None,
    threads: int | None = None,
    seconds: float = 5.0,
    at_most: float | None = None,
    memory: bool = False,
    processes: Processes | None = None,
    progress: Progress = silent,
) -> SpeedRecord:
    """Time a model, and another against it if given, for about this many seconds.

    Each model runs at least once, even if that takes longer. If the blocks that an interval needs
    take longer, they may take `at_most` so many seconds. `memory` also measures peak memory, which
    takes another process and run per model. `processes` of the provider serve several cases.

    Raises:
        ProviderError: if the provider is not available.
        SessionError: if onnxruntime cannot load or run a model.
        CrashedError: if it crashes.
        UsageError: if the request for inputs does not fit the model.
    """
    others = {"optimized": optimized} if optimized else {}
    case = Case(
        {"original": original, **others, "control": original},
        level,
        threads,
        request or for_one_image(InputOptions()),
    )
    measurement, blocks = measure(provider, case, seconds, at_most, processes, progress)
    peaks = None
    if memory:
        progress(f"measuring memory ({provider}, optimization {level.value})")
        paths = [original, *others.values()]
        peaks = [peak_mb(path, provider, level, threads, measurement.feeds) for path in paths]
    return record_of(measurement, blocks, provider, [*others], peaks)


def measure(
    provider: str,
    case: Case,
    seconds: float,
    at_most: float | None,
    processes: Processes | None = None,
    progress: Progress = silent,
) -> tuple[Measurement, list[SpeedBlock]]:
    """Time all models of a case in the same turns; return what it has learned, and the blocks."""
    with ExitStack() as stack:
        if processes is None:
            processes = stack.enter_context(Processes(provider, progress))
        measurement = Measurement(processes, case, seconds)
        blocks = measurement.blocks(seconds, max(seconds, at_most or 0))
    return measurement, blocks


def record_of(
    measurement: Measurement,
    blocks: Sequence[SpeedBlock],
    provider: str,
    others: Sequence[str],
    peaks: Sequence[float | None] | None = None,
) -> SpeedRecord:
    """Return the record of the original and at most one other model, with their control."""
    timed = ["original", *others]
    names = {"original": "original", **dict.fromkeys(others, "optimized"), "control": "control"}
    samples = [
        SpeedBlock(
            {names[name]: block.load_ms[name] for name in names},
            {names[name]: block.run_ms[name] for name in names},
        )
        for block in blocks
    ]
    placements = [measurement.placement.get(name) for name in timed]
    known_placements = [nodes for nodes in placements if nodes is not None]
    known_peaks = [peak for peak in peaks or () if peak is not None]
    return SpeedRecord(
        provider=provider,
        level=measurement.case.level.value,
        threads=measurement.case.threads or available_threads(),
        shapes={name: list(array.shape) for name, array in measurement.feeds.items()},
        note=measurement.note,
        load_ms=[median([block.load_ms[name] for block in blocks]) for name in timed],
        peak_mb=known_peaks if peaks and len(known_peaks) == len(peaks) else None,
        placement=known_placements if len(known_placements) == len(placements) else None,
        samples=samples,
        **vars(summarize(samples)),
    )


def for_one_image(request: InputOptions) -> InputOptions:
    """Return the request with free dimensions set to one image of the usual size.

    A check is better with several small inputs; timing should be typical.
    """
    return replace(request, samples=1, batch_sizes=(1, 2), image_size=USUAL_SIZE)


class Measurement:
    """The timing of one case."""

    def __init__(self, processes: Processes, case: Case, seconds: float) -> None:
        self._processes = processes
        self.case = case
        self._warm_up = seconds / MOST_BLOCKS * _WARM_UP_SHARE
        self.placement: Mapping[str, dict[str, int] | None] = {}
        self.feeds: Feeds = {}
        self.note = ""

    def blocks(self, seconds: float, at_most: float) -> list[SpeedBlock]:
        """Take samples for so long, in as many blocks as justify their preparation."""
        begun = time.perf_counter()
        (first,) = self._processes.take(1)
        started = time.perf_counter()
        loaded = first.call(Block.load, self.case, 0, None)
        self.placement, self.feeds = loaded.placement, loaded.feeds
        is_late = time.perf_counter() > begun + at_most
        turn = sum(loaded.first_ms.values()) / 1e3
        turn = turn if is_late else first.call(Block.warm_up, self._warm_up)
        now = time.perf_counter()
        preparing = now - started - loaded.making_inputs
        count, end = self._plan(begun, seconds, at_most, preparing, turn)
        if is_late:  # a first run may take a thousand times as long as the next one on a device
            return [SpeedBlock(loaded.load_ms, first.call(Block.take_turns, 0, 0.0))]
        blocks: list[SpeedBlock] = []
        for number, worker in enumerate(self._processes.take(count)):
            if number >= FEWEST_BLOCKS and time.perf_counter() > end:
                break
            load_ms = loaded.load_ms
            if number:
                load_ms = worker.call(Block.load, self.case, number, self.feeds).load_ms
            worker.call(Block.warm_up, self._warm_up)
            left = end - time.perf_counter() - (count - number - 1) * preparing
            run_ms = worker.call(Block.take_turns, number, left / (count - number))
            blocks.append(SpeedBlock(load_ms, run_ms))
            self._processes.done(worker)
        return blocks

    def _plan(
        self, begun: float, seconds: float, at_most: float, preparing: float, turn: float
    ) -> tuple[int, float]:
        """Return how many blocks there are to be, and when they should end."""
        now = time.perf_counter()
        for most, share, end in (
            (MOST_BLOCKS, _SHARE_OF_PREPARING, begun + seconds),
            (MOST_BLOCKS, _SHARE_OF_PREPARING, begun + at_most),
            (FEWEST_BLOCKS, 1.0, begun + at_most),
        ):
            for count in range(most, FEWEST_BLOCKS - 1, -1):
                needed = self._needed(count, preparing)
                if needed <= share * (end - now) and needed + count * turn <= end - now:
                    return count, end
        least = now - begun + self._needed(FEWEST_BLOCKS, preparing) + FEWEST_BLOCKS * turn
        allow = math.ceil(1.2 * least)
        self.note = f"an interval takes {FEWEST_BLOCKS} blocks; allow {allow} seconds per level"
        return 1, begun + seconds

    def _needed(self, count: int, preparing: float) -> float:
        """Return how long all blocks but the first take until they are ready."""
        return self._processes.seconds_to_take(count) + (count - 1) * preparing
