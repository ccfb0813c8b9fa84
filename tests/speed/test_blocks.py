"""One block: which model is first, how often it runs for a sample, and what it tells of loading."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bnfold.options import InputOptions
from bnfold.progress import silent
from bnfold.record.data import SpeedSummary
from bnfold.running.runtime import Level
from bnfold.speed import blocks
from bnfold.speed.blocks import Block, Case, Loaded, balanced_orders
from bnfold.speed.measure import Measurement, compare_speed
from bnfold.speed.processes import Processes
from tests.support.cli import REWRITTEN

NAMES = ("original", "optimized", "control")


def block_of(**runs: Callable[[], object]) -> Block:
    block = Block(silent, "cpu")
    block._runs = dict(runs)
    return block


def test_turns_go_through_every_order_and_blocks_begin_with_another_model() -> None:
    firsts = []
    for number in range(4):
        ran: list[str] = []
        block = block_of(**{name: partial(ran.append, name) for name in NAMES})
        block.take_turns(number, 0.05)
        turns = [tuple(ran[start : start + 3]) for start in range(0, len(ran), 3)]
        assert set(turns[:6]) == set(itertools.permutations(NAMES))
        firsts.append(turns[0][0])
    assert firsts == ["original", "optimized", "control", "original"]


@pytest.mark.parametrize("count", range(2, 11))
def test_each_model_is_as_often_at_each_place_and_after_each_other(count: int) -> None:
    names = [str(number) for number in range(count)]
    orders = balanced_orders(names)
    assert len(set(orders)) == count * (1 + count % 2)
    assert [order[0] for order in orders[:count]] == names, "blocks begin with another model"
    for places in zip(*orders, strict=True):
        assert set(Counter(places).values()) == {len(orders) // count}
        assert set(places) == set(names)
    followers = Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert set(followers) == set(itertools.permutations(names, 2))
    assert len(set(followers.values())) == 1


def test_two_models_take_turns_in_both_orders() -> None:
    firsts = []
    for number in range(3):
        ran: list[str] = []
        block = block_of(a=partial(ran.append, "a"), b=partial(ran.append, "b"))
        assert [len(times) for times in block.take_turns(number, 0.0).values()] == [1, 1]
        firsts.append(ran[0])
    assert firsts == ["a", "b", "a"]


def test_short_runs_are_repeated_for_a_sample() -> None:
    ran: list[int] = []
    block = block_of(original=lambda: ran.append(1), control=lambda: ran.append(1))
    seconds = block.warm_up(0.0)
    ran.clear()
    block.take_turns(0, 0.0)
    assert len(ran) > 50
    assert seconds > 0.0005


def test_models_are_loaded_in_turn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    class Session:
        placement = None

        def __init__(self, path: Path, *_: object, **__: object) -> None:
            loaded.append(str(path))

        def run(self, feeds: object) -> None:
            assert feeds == {}

        def prepared_run(self, _: object) -> Callable[[], None]:
            return lambda: None

    monkeypatch.setattr(blocks, "Session", Session)
    case = Case({name: Path(name) for name in NAMES}, Level.ALL, None, InputOptions())
    for number in range(4):
        told = Block(silent, "cpu").load(case, number, {})
        assert set(told.load_ms) == set(told.first_ms) == set(told.placement) == set(NAMES)
    turns = [loaded[start : start + 3] for start in range(0, len(loaded), 3)]
    assert [turn[0] for turn in turns] == ["original", "optimized", "control", "original"]
    assert all(set(turn) == set(NAMES) for turn in turns)


class Started:
    """Stands in for processes: each but the first takes 0.3 seconds to start."""

    def seconds_to_take(self, count: int) -> float:
        return 0.3 * (count - 1)


def test_no_first_run_is_reported_however_late_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device, the first run of a session tries algorithms for seconds."""
    block = block_of(**dict.fromkeys(NAMES, lambda: None))
    first_ms = {"original": 2.0, "optimized": 900.0, "control": 900.0}
    loaded = Loaded(first_ms, first_ms, dict.fromkeys(NAMES), {}, 0.0)
    monkeypatch.setattr(Block, "load", lambda *_: loaded)

    class Here:
        def call(self, method: Callable[..., Any], *arguments: object) -> object:
            return method(block, *arguments)

    class InThisProcess(Processes):
        def take(self, count: int) -> list[Any]:
            return [Here()] * count

    case = Case(dict.fromkeys(NAMES, REWRITTEN), Level.ALL, 1, InputOptions())
    (only,) = Measurement(InThisProcess("cpu", silent), case, 0.0).blocks(0.0, 0.0)
    assert only.load_ms == first_ms
    assert {name: len(times) for name, times in only.run_ms.items()} == dict.fromkeys(NAMES, 1)
    assert max(times[0] for times in only.run_ms.values()) < 1


@pytest.mark.parametrize(
    ("seconds", "at_most", "turn", "count", "end"),
    [
        (10.0, 20.0, 0.003, 10, 10.0),
        (2.5, 5.0, 0.003, 4, 2.5),
        (1.5, 3.0, 0.003, 4, 3.0),
        (0.7, 1.4, 0.003, 3, 1.4),
        (0.7, 0.9, 0.003, 3, 0.9),
        (0.4, 0.79, 0.003, 1, 0.4),
        (3.0, 3.0, 0.7, 3, 3.0),
        (3.0, 3.0, 0.8, 1, 3.0),
        (3.0, 4.0, 0.8, 3, 4.0),
        (0.0, 0.0, 0.003, 1, 0.0),
    ],
)
def test_there_are_as_many_blocks_as_justify_their_preparation(
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    at_most: float,
    turn: float,
    count: int,
    end: float,
) -> None:
    """A block takes 0.4 seconds to prepare; up to half of the time, and three blocks all of it."""
    monkeypatch.setattr("bnfold.speed.measure.time.perf_counter", lambda: 100.0)
    started: Any = Started()
    case = Case({}, Level.ALL, None, InputOptions())
    measurement = Measurement(started, case, seconds)
    assert measurement._plan(100.0, seconds, at_most, 0.1, turn) == (count, 100.0 + end)
    allow = {0.003: "allow 1 seconds", 0.8: "allow 4 seconds"}.get(turn, "")
    assert measurement.note == (
        f"an interval takes 3 blocks; {allow} per level" if count == 1 else ""
    )


def test_what_only_the_first_block_takes_is_not_counted_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that stands still, except while inputs are made."""
    clock = [100.0]
    planned: list[float] = []
    inputs = blocks._inputs

    def slow(*arguments: Any) -> Any:
        clock[0] += 1000
        return inputs(*arguments)

    def plan(_: object, begun: float, *rest: float) -> tuple[int, float]:
        planned.append(rest[2])
        return 1, begun

    monkeypatch.setattr(blocks, "_inputs", slow)
    monkeypatch.setattr(Measurement, "_plan", plan)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(
        "bnfold.speed.measure.summarize", lambda _: SpeedSummary(1, None, None, None, 1, None, None)
    )
    compare_speed(REWRITTEN, None, seconds=0, threads=1)
    assert planned == [0.0]
