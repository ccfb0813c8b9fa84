"""What the picture of a timing shows: the ratio of each turn, and the part of the axis around it.

The picture is about the intervals, so the axis is clipped to them; turns beyond it are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bnfold.record.data import FEWEST_BLOCKS, SpeedRecord
from bnfold.report.wording import count

_TONES = {"faster": "good", "slower": "bad"}


@dataclass(frozen=True)
class Row:
    """A model in the picture."""

    title: str
    tone: str
    """``good`` if it is faster, ``bad`` if it is slower, ``muted`` for the control."""
    middle: float
    bounds: Sequence[float] | None
    """Its 95 % interval; None if it is not known."""
    turns: list[float]


def rows_of(record: SpeedRecord) -> list[Row]:
    """Return the control, and the second model if there is one."""
    is_known = len(record.samples) >= FEWEST_BLOCKS
    bounds = record.control_ci95 if is_known else None
    rows = [Row("control", "muted", record.control, bounds, _ratios(record, "control"))]
    if record.speedup is not None:
        tone = _TONES.get(record.verdict or "", "neutral")
        bounds = record.ci95 if is_known else None
        rows.append(Row("optimized", tone, record.speedup, bounds, _ratios(record, "optimized")))
    return rows


def limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the ends of the axis: around 1, the medians and their intervals, or else all turns."""
    ends = [1.0, *(row.middle for row in rows)]
    for row in rows:
        ends += row.turns if row.bounds is None else row.bounds
    low, high = min(ends), max(ends)
    margin = max(0.02, (high - low) * (0.05 if any(row.bounds is None for row in rows) else 0.5))
    return max(0.0, low - margin), high + margin


def turns_note(record: SpeedRecord) -> str:
    """Say what the picture shows: how many turns, and how many the axis leaves out."""
    rows = rows_of(record)
    low, high = limits(rows)
    dots = [ratio for row in rows for ratio in row.turns]
    beyond = sum(not low <= ratio <= high for ratio in dots)
    turns = count(sum(len(block.run_ms.get("original", [])) for block in record.samples), "turn")
    sets = f"{turns} in {count(len(record.samples), 'set')} of sessions"
    parts = ["each dot is a turn", sets]
    parts += [f"{beyond:,} of {len(dots):,} dots lie beyond the axis"] if beyond else []
    if any(row.bounds for row in rows):
        parts[0] += ", the bar is the 95 % interval"
    else:
        parts.append("too few sets for an interval")
    return "; ".join(parts)


def _ratios(record: SpeedRecord, title: str) -> list[float]:
    """Return the ratio of the original's time to this one's, turn by turn."""
    return [
        original / other
        for block in record.samples
        for original, other in zip(
            block.run_ms.get("original", []), block.run_ms.get(title, []), strict=False
        )
        if other > 0
    ]
