"""Times models against each other.

Runs of the original, the optimized model and, as a control, the original again are interleaved,
cycling through every order, on the same inputs. Thread pools do not spin, because spinning threads
would take the other sessions' cores: on two cores, a model with spinning threads measures 1.3 to
1.5 against itself. Ratios are taken within a turn, so that whatever slows a turn down slows all of
it; the interval is a bootstrap interval. A session may also be slow because of where its memory
happens to lie. So there are several blocks, each with its own sessions, and the bootstrap resamples
blocks first.
"""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bnfold.errors import SessionError
from bnfold.options import InputOptions
from bnfold.progress import Progress, silent
from bnfold.record.data import SpeedBlock, SpeedRecord
from bnfold.running.environment import available_threads
from bnfold.running.input_search import make_inputs
from bnfold.running.inputs import Inputs
from bnfold.running.runtime import Level, Session
from bnfold.speed.footprint import peak_mb
from bnfold.speed.statistics import FEWEST_TURNS, median, summarize

USUAL_SIZE = 224


MOST_BLOCKS = 5


_SHORTEST_SAMPLE = 1e-3
"""Seconds. A shorter run is repeated for one sample."""


_SHARE_OF_PREPARING = 0.3
"""The largest share of a block's time for loading and warming up; else there are fewer blocks."""


_WARM_UP_SHARE = 0.1
"""Warming up ends after this share of a block's time, even if times are not stable yet."""


_STABLE = 0.02
"""A model is warm when two consecutive runs differ by at most this share."""


_DESCRIPTIONS = {"original": "original", "optimized": "other model", "control": "original"}


def compare_speed(
    original: Path,
    optimized: Path | None,
    *,
    provider: str = "cpu",
    level: Level = Level.ALL,
    request: InputOptions | None = None,
    threads: int | None = None,
    seconds: float = 5.0,
    memory: bool = False,
    progress: Progress = silent,
) -> SpeedRecord:
    """Time a model, and another against it if given, for about this many seconds.

    Each model runs at least once, even if that takes longer. `memory` also measures peak memory,
    which takes another process and run per model.

    Raises:
        ProviderError: if the provider is not available.
        SessionError: if onnxruntime cannot load or run a model.
        UsageError: if the request for inputs does not fit the model.
    """
    paths = {"original": original} | ({"optimized": optimized} if optimized else {})
    paths |= {"control": original}
    begun = time.perf_counter()
    request = request or for_one_image(InputOptions())
    measurement = _Measurement(paths, provider, level, threads, request, progress)
    blocks = measurement.blocks(seconds)
    summary = summarize(blocks)
    turns = sum(len(block.run_ms["original"]) for block in blocks)
    note = ""
    if turns < FEWEST_TURNS:
        needed = math.ceil((time.perf_counter() - begun) * FEWEST_TURNS / turns)
        note = f"too few turns ({turns}) for a verdict; allow about {needed} seconds per level"
    loaded = ["original", *(["optimized"] if optimized else [])]
    loads = [median([block.load_ms[name] for block in blocks]) for name in loaded]
    placements = [
        placement for placement in map(measurement.placement.get, loaded) if placement is not None
    ]
    return SpeedRecord(
        provider=provider,
        level=level.value,
        threads=threads or available_threads(),
        shapes={name: list(shape) for name, shape in measurement.inputs.shapes[0].items()},
        note=note,
        load_ms=loads,
        peak_mb=measurement.peak_mb(loaded) if memory else None,
        placement=placements if len(placements) == len(loaded) else None,
        samples=blocks,
        **vars(summary),
    )


def for_one_image(request: InputOptions) -> InputOptions:
    """Return the request with free dimensions set to one image of the usual size.

    A check is better with several small inputs; timing should be typical.
    """
    return replace(request, samples=1, batch_sizes=(1, 2), image_size=USUAL_SIZE)


class _Measurement:
    def __init__(
        self,
        paths: Mapping[str, Path],
        provider: str,
        level: Level,
        threads: int | None,
        request: InputOptions,
        progress: Progress,
    ) -> None:
        self._paths = paths
        self._provider, self._level, self._threads = provider, level, threads
        self._request = request
        self._progress = progress
        self._inputs: Inputs | None = None
        self.placement: dict[str, dict[str, int] | None] = {}

    @property
    def inputs(self) -> Inputs:
        """The inputs, once a session has been loaded."""
        assert self._inputs is not None
        return self._inputs

    def peak_mb(self, names: Sequence[str]) -> list[float] | None:
        """Return the peak memory of these models, or None if the system does not report it."""
        self._progress(f"measuring memory ({self._provider}, optimization {self._level.value})")
        feeds = next(self.inputs.feeds())
        peaks = [
            peak_mb(self._paths[name], self._provider, self._level, self._threads, feeds)
            for name in names
        ]
        known = [peak for peak in peaks if peak is not None]
        return known if len(known) == len(names) else None

    def blocks(self, seconds: float) -> list[SpeedBlock]:
        """Take samples for this many seconds, in as many blocks as justify their preparation."""
        blocks: list[SpeedBlock] = []
        end = time.perf_counter() + seconds
        while True:
            begun = time.perf_counter()
            share = (end - begun) / (MOST_BLOCKS - len(blocks))
            load_ms, first_ms, runs = self._load(offset=len(blocks))
            if not blocks and time.perf_counter() > end:
                return [SpeedBlock(load_ms, {name: [ms] for name, ms in first_ms.items()})]
            repeats = _warm_up(runs, share * _WARM_UP_SHARE)
            now = time.perf_counter()
            affordable = int((end - begun) * _SHARE_OF_PREPARING / (now - begun))
            blocks_left = max(1, min(MOST_BLOCKS - len(blocks), affordable))
            stop = now + (end - now) / blocks_left
            self._progress(f"timing ({self._provider}, optimization {self._level.value})")
            blocks.append(SpeedBlock(load_ms, _take_turns(runs, repeats, stop)))
            if blocks_left == 1:
                return blocks

    def _load(
        self, offset: int
    ) -> tuple[dict[str, float], dict[str, float], dict[str, Callable[[], object]]]:
        """Load a session per model, starting at `offset`, and run each session once.

        Returns the times of loading and of the first run, and a function per model to run it again.
        """
        names = list(self._paths)
        load_ms, first_ms, runs = {}, {}, {}
        for name in [*names[offset % len(names) :], *names[: offset % len(names)]]:
            self._progress(f"loading ({self._provider}, optimization {self._level.value})")
            begun = time.perf_counter()
            try:
                session = Session(
                    self._paths[name], self._provider, self._level, self._threads, tf32=True
                )
                load_ms[name] = _milliseconds(time.perf_counter() - begun)
                self._inputs = self._inputs or make_inputs(session, self._request)
                feeds = next(self.inputs.feeds())
                begun = time.perf_counter()
                session.run(feeds)
            except SessionError as error:
                raise SessionError(f"the {_DESCRIPTIONS[name]}: {error}") from error
            first_ms[name] = _milliseconds(time.perf_counter() - begun)
            self.placement[name] = session.placement
            runs[name] = session.prepared_run(feeds)
        return load_ms, first_ms, {name: runs[name] for name in names}


def _warm_up(runs: Mapping[str, Callable[[], object]], seconds: float) -> int:
    """Run each model until its time is stable; return how many runs make one sample."""
    end = time.perf_counter() + seconds
    shortest = math.inf
    for run in runs.values():
        last = _seconds(run)
        while time.perf_counter() < end:
            now = _seconds(run)
            if abs(now - last) <= _STABLE * last:
                break
            last = now
        shortest = min(shortest, last)
    return max(1, math.ceil(_SHORTEST_SAMPLE / shortest))


def _take_turns(
    runs: Mapping[str, Callable[[], object]], repeats: int, stop: float
) -> dict[str, list[float]]:
    """Run the models in turns until the clock reaches `stop`, but at least once."""
    run_ms: dict[str, list[float]] = {name: [] for name in runs}
    with _no_garbage_collection():
        for order in itertools.cycle(itertools.permutations(runs)):
            for name in order:
                run_ms[name].append(_milliseconds(_seconds(runs[name], repeats)))
            if time.perf_counter() >= stop:
                break
    return run_ms


def _seconds(run: Callable[[], object], repeats: int = 1) -> float:
    begun = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - begun) / repeats


def _milliseconds(seconds: float) -> float:
    """Convert to milliseconds, rounded to a nanosecond."""
    return round(seconds * 1e3, 6)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
