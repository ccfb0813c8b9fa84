"""One block of timings, in the process that runs it.

Runs of the models are interleaved, in balanced orders, on the same inputs. Thread pools do not
spin, because spinning threads would take the other sessions' cores: on two cores, a model with
spinning threads measures 1.3 to 1.5 against itself.
"""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bnfold.errors import SessionError
from bnfold.options import InputOptions
from bnfold.progress import Progress
from bnfold.running.runtime import Feeds, Level, Session, require_provider, trust_provider

_SHORTEST_SAMPLE = 1e-3
"""Seconds. A shorter run is repeated for one sample."""

_STABLE = 0.02
"""A model is warm when two consecutive runs differ by at most this share."""

_DESCRIPTIONS = {"optimized": "other model", "control": "original"}


@dataclass(frozen=True)
class Case:
    """What to time: the models by name, and how they run."""

    paths: Mapping[str, Path]
    level: Level
    threads: int | None
    request: InputOptions


@dataclass(frozen=True)
class Loaded:
    """What is known once all sessions have run: times and placements by model, and the inputs."""

    load_ms: dict[str, float]
    first_ms: dict[str, float]
    placement: dict[str, dict[str, int] | None]
    feeds: Feeds
    making_inputs: float
    """Seconds, of which later blocks take none."""


class Block:
    """The sessions of one block: one per model."""

    def __init__(self, progress: Progress, provider: str) -> None:
        trust_provider(provider)
        require_provider(provider)  # imports onnxruntime
        self._progress, self._provider = progress, provider
        self._runs: dict[str, Callable[[], object]] = {}
        self._repeats = 1
        self._where = provider

    def load(self, case: Case, number: int, feeds: Feeds | None) -> Loaded:
        """Load a session per model and run each once; the block's number says which is first.

        Without inputs, they are made for the first session.
        """
        self._runs = {}
        self._where = f"{self._provider}, optimization {case.level.value}"
        names = list(case.paths)
        first = number % len(names)
        load_ms, first_ms, placement = {}, {}, {}
        making_inputs = 0.0
        for name in [*names[first:], *names[:first]]:
            self._progress(f"loading ({self._where})")
            begun = time.perf_counter()
            try:
                session = Session(
                    case.paths[name], self._provider, case.level, case.threads, tf32=True
                )
                load_ms[name] = _milliseconds(time.perf_counter() - begun)
                begun = time.perf_counter()
                if feeds is None:
                    feeds = _inputs(session, case.request)
                    making_inputs = time.perf_counter() - begun
                    begun = time.perf_counter()
                session.run(feeds)
            except SessionError as error:
                described = _DESCRIPTIONS.get(name, name)
                raise SessionError(f"the {described}: {error}") from error
            first_ms[name] = _milliseconds(time.perf_counter() - begun)
            placement[name] = session.placement
            self._runs[name] = session.prepared_run(feeds)
        assert feeds is not None
        self._runs = {name: self._runs[name] for name in names}
        return Loaded(load_ms, first_ms, placement, feeds, making_inputs)

    def warm_up(self, seconds: float) -> float:
        """Run each model until its time is stable; return the seconds of a turn."""
        self._progress(f"timing ({self._where})")
        end = time.perf_counter() + seconds
        last: dict[str, float] = {}
        for name, run in self._runs.items():
            last[name] = _seconds(run)
            while time.perf_counter() < end:
                now = _seconds(run)
                is_stable = abs(now - last[name]) <= _STABLE * last[name]
                last[name] = now
                if is_stable:
                    break
        self._repeats = max(1, math.ceil(_SHORTEST_SAMPLE / min(last.values())))
        return sum(last.values()) * self._repeats

    def take_turns(self, number: int, seconds: float) -> dict[str, list[float]]:
        """Run the models in turns for so long, but once at least; return the times of each.

        The block's number says which is first, as even the order may matter. Sessions end then.
        """
        run_ms: dict[str, list[float]] = {name: [] for name in self._runs}
        orders = balanced_orders(list(self._runs))
        first = number % len(orders)
        stop = time.perf_counter() + seconds
        with _no_garbage_collection():
            for order in itertools.cycle([*orders[first:], *orders[:first]]):
                for name in order:
                    run_ms[name].append(_milliseconds(_seconds(self._runs[name], self._repeats)))
                if time.perf_counter() >= stop:
                    break
        self._runs = {}
        return run_ms


def balanced_orders(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return orders in which each is as often at each place, and as often next after each other.

    They are n orders for an even n, and 2n for an odd one: E. J. Williams, "Experimental designs
    balanced for the estimation of residual effects of treatments", Australian Journal of Scientific
    Research A 2, 1949. Of three, these are all orders.
    """
    count = len(names)
    steps = [step // 2 + 1 if step % 2 else -(step // 2) for step in range(count)]
    designs = [steps] if count % 2 == 0 else [steps, steps[::-1]]
    return [
        tuple(names[(first + step - design[0]) % count] for step in design)
        for design in designs
        for first in range(count)
    ]


def _inputs(session: Session, request: InputOptions) -> Feeds:
    from bnfold.running.input_search import make_inputs  # slow to import: only one process needs it

    return next(make_inputs(session, request).feeds())


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
