"""The picture of a timing is about its intervals, and claims nothing from one turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bnfold.record.data import SpeedBlock, SpeedRecord
from bnfold.report import pictures
from bnfold.report.turns import limits, rows_of, turns_note
from tests.support.pages import parse
from tests.support.records import speed


def with_blocks(number: int, **changes: Any) -> SpeedRecord:
    record = speed()
    return replace(record, samples=record.samples[:number], **changes)


@pytest.mark.parametrize("blocks", [1, 2])
def test_fewer_than_three_sets_of_sessions_have_no_interval(blocks: int) -> None:
    record = with_blocks(blocks)
    assert [row.bounds for row in rows_of(record)] == [None, None]
    assert "too few sets for an interval" in turns_note(record)
    assert "the bar" not in turns_note(record)
    assert "(no interval)" in pictures.speed(record, "one")


def test_three_sets_of_sessions_have_one() -> None:
    record = with_blocks(3)
    assert [row.bounds for row in rows_of(record)] == [record.control_ci95, record.ci95]
    assert turns_note(record).startswith("each dot is a turn, the bar is the 95 % interval")
    assert "120 turns in 3 sets of sessions" in turns_note(record)


def test_a_record_may_have_no_interval() -> None:
    record = replace(speed(), ci95=None)
    control, optimized = rows_of(record)
    assert control.bounds
    assert optimized.bounds is None
    assert pictures.speed(record, "one")


@pytest.mark.parametrize(
    ("verdict", "tone"),
    [
        ("faster", "good"),
        ("slower", "bad"),
        ("no significant difference", "neutral"),
        ("not measured", "neutral"),
        (None, "neutral"),
    ],
)
def test_the_colour_is_that_of_the_verdict(verdict: Any, tone: str) -> None:
    record = replace(speed(), verdict=verdict)
    assert [row.tone for row in rows_of(record)] == ["muted", tone]
    drawn = pictures.speed(record, "one")
    for name in ("good", "bad", "neutral"):
        assert (f"var(--{name})" in drawn) == (name == tone)


def test_the_axis_is_clipped_to_the_intervals_and_counts_what_is_beyond() -> None:
    times = {"original": [10.0] * 9 + [90.0], "optimized": [9.0] * 10, "control": [10.0] * 10}
    record = with_blocks(3, ci95=[1.1, 1.12], control_ci95=[0.99, 1.01], speedup=1.11, control=1.0)
    record = replace(record, samples=[SpeedBlock({}, times)] * 3)
    low, high = limits(rows_of(record))
    assert (low, high) == pytest.approx((0.99 - 0.065, 1.12 + 0.065))
    assert "6 of 60 dots lie beyond the axis" in turns_note(record)


def test_no_ratio_is_below_zero() -> None:
    record = with_blocks(3, ci95=[0.1, 12.0], control_ci95=[0.2, 9.0])
    assert limits(rows_of(record)) == pytest.approx((0.0, 12.0 + 5.95))


def test_without_an_interval_the_axis_has_all_turns() -> None:
    record = with_blocks(1)
    rows = rows_of(record)
    low, high = limits(rows)
    assert all(low < ratio < high for row in rows for ratio in row.turns)
    assert "beyond" not in turns_note(record)


def test_one_model_alone_has_a_control() -> None:
    assert [row.title for row in rows_of(speed(alone=True))] == ["control"]
    assert "control" in parse(pictures.speed(speed(alone=True), "one")).text
