"""The pictures of a report. Each has its numbers in a table and a text alternative.

Colours have meanings: red is beyond a limit, or slower; green is faster; blue is the second model,
and grey what it is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from bnfold.arrays import FloatArray
from bnfold.record.data import (
    SHARES,
    OutputComparison,
    ProviderEquivalence,
    SpeedRecord,
    TruthOutput,
)
from bnfold.report.canvas import BAD, GOOD, INK, MUTED, NEUTRAL, label, picture
from bnfold.report.changes import OperatorChange
from bnfold.report.figures import TimeRow
from bnfold.report.turns import limits, rows_of, turns_note
from bnfold.report.wording import count, interval, milliseconds, number, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 12
"""The most outputs or operators drawn in one picture; the tables hold them all."""

_MOST_DOTS = 150
_COLOURS = {"good": GOOD, "bad": BAD, "neutral": NEUTRAL, "muted": MUTED}
_ROW = 0.34
_FRAME = 0.85


def yardsticks(provider: ProviderEquivalence, name: str) -> str:
    """Draw the largest difference of each output, with the noise floor and the tolerance."""
    outputs = provider.outputs[:MOST_ROWS]
    titles = [output.name for output in outputs]
    floor = {output.name: output.max_abs for output in provider.noise_floor}
    allowed = [_allowed(output) for output in outputs]
    series = [
        _Series("noise floor", MUTED, "o", [floor.get(title) for title in titles], hollow=True),
        _Series("tolerance", BAD, "|", allowed),
    ]
    for level, marker, shift in zip(provider.levels, "sD", (-0.17, 0.17), strict=False):
        errors = {output.name: output.max_abs for output in level.outputs}
        values = [errors.get(title) for title in titles]
        series.append(_Series(level.level, NEUTRAL, marker, values, shift=shift, limits=allowed))
    parts = [
        f"{shortened(output.name, 40)} {number(output.max_abs)} of {number(_allowed(output))}"
        for output in outputs
    ]
    return _dot_plot(
        series,
        titles,
        "largest difference (log scale)",
        name,
        "Largest difference of each output, out of the tolerance of its worst element: "
        + "; ".join(parts),
    )


def distribution(levels: Sequence[tuple[str, OutputComparison]], name: str) -> str:
    """Draw a histogram of the elements of an output by the share of their tolerance they use."""
    bounds = ["0", *(_power(share) for share in SHARES[1:]), "more"]
    places = np.arange(len(bounds))
    width = 0.8 / len(levels)
    with picture(1.9) as drawn:
        axes = drawn.axes()
        for number_of, (level, output) in enumerate(levels):
            heights = np.array(output.shares[: len(bounds)], float)
            colour = NEUTRAL if number_of else MUTED
            at = places + (number_of - (len(levels) - 1) / 2) * width
            bars = axes.bar(at, heights, width, color=colour, label=level)
            bars[-1].set_color(BAD)
        axes.axvline(len(SHARES) - 0.5, color=BAD, linewidth=1)
        axes.text(
            len(SHARES) - 0.45, 1.02, "fails", color=BAD, transform=axes.get_xaxis_transform()
        )
        axes.set_yscale("symlog", linthresh=1)
        most = max(max(output.shares) for _, output in levels)
        counts = [0, *(10**power for power in range(len(str(most)) + 1))]
        axes.set_yticks(counts, [f"{tick:,}" for tick in counts])
        axes.set_yticks([], minor=True)
        axes.set_ylim(0, 2 * most)
        axes.set_xticks(places, bounds)
        axes.grid(visible=True, axis="y")
        axes.tick_params(axis="y", labelcolor=MUTED)
        axes.set_xlabel("share of its tolerance, up to")
        axes.set_ylabel("elements")
        _legend(axes)
        level, output = levels[-1]
        parts = [f"{n:,} up to {bound}" for n, bound in zip(output.shares, bounds, strict=False)]
        words = ", ".join(parts)
        return drawn.svg(name, f"Elements by share of tolerance, optimization {level}: {words}")


def truth(outputs: Sequence[TruthOutput], name: str) -> str:
    """Draw the errors of both models against the float64 evaluation."""
    rows = outputs[:MOST_ROWS]
    limits_of = [row.limit for row in rows]
    optimized = [row.optimized for row in rows]
    series = [
        _Series("original", INK, "o", [row.original for row in rows], hollow=True, shift=-0.17),
        _Series("optimized", NEUTRAL, "D", optimized, limits=limits_of),
        _Series("weights", MUTED, "s", [row.computed_exactly for row in rows], shift=0.17),
        _Series("limit", BAD, "|", limits_of),
    ]
    parts = [
        f"{shortened(row.name, 40)} {number(row.original)} → {number(row.optimized)}"
        for row in rows
    ]
    return _dot_plot(
        series,
        [row.name for row in rows],
        "relative error against float64 (log scale)",
        name,
        "Relative error against the float64 evaluation, before and after: " + "; ".join(parts),
    )


def speed(record: SpeedRecord, name: str) -> str:
    """Draw the ratio of each turn and the interval of them all, above the control's."""
    rows = rows_of(record)
    low, high = limits(rows)
    with picture(_FRAME + 0.5 * len(rows)) as drawn:
        axes = drawn.axes()
        axes.axvline(1, color=MUTED, linewidth=0.8)
        for place, row in enumerate(rows):
            dots = [ratio for ratio in row.turns if low <= ratio <= high]
            dots = dots[:: max(1, math.ceil(len(dots) / _MOST_DOTS))]
            colour = _COLOURS[row.tone]
            size = 8 if len(dots) < 60 else 6
            across = place + _spread(len(dots))
            axes.plot(dots, across, ".", color=colour, alpha=0.7, markersize=size, mew=0)
            if row.bounds:
                axes.plot(row.bounds, [place, place], color=INK, linewidth=3, solid_capstyle="butt")
                axes.plot([row.middle], [place], "|", color=INK, markersize=15, markeredgewidth=2)
        axes.set_yticks(range(len(rows)), [row.title for row in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(low, high)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel("times as fast as the original, turn by turn")
        found = ", ".join(f"{row.title} {interval(row.middle, row.bounds)}" for row in rows)
        words = f"Speed against the original, with its 95 % interval: {found}; "
        return drawn.svg(name, words + turns_note(record))


def times(rows: Sequence[TimeRow], name: str) -> str:
    """Draw the time by operator, before and after."""
    rows = rows[:MOST_ROWS]
    sides = [(-0.19, "before", MUTED), (0.19, "after", NEUTRAL)]
    sides = sides if len(rows[0].ms) > 1 else [(0.0, "time", MUTED)]
    with picture(_FRAME + 0.4 * len(rows)) as drawn:
        axes = drawn.axes()
        places = np.arange(len(rows))
        for at, (offset, title, colour) in enumerate(sides):
            values = [row.ms[at] for row in rows]
            bars = axes.barh(places + offset, values, 0.34, color=colour, label=title)
            texts = [milliseconds(value) for value in values]
            axes.bar_label(bars, texts, padding=3, color=MUTED, fontsize=8)
        _rows(axes, [label(row.op_type) for row in rows])
        axes.set_xlabel("milliseconds in a run, with onnxruntime's profiler")
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlim(0, max([1e-6, *(ms for row in rows for ms in row.ms)]) * 1.17)
        _legend(axes)
        parts = [
            f"{shortened(row.op_type, 40)} {' → '.join(map(milliseconds, row.ms))}" for row in rows
        ]
        return drawn.svg(name, f"Milliseconds in a run, by operator: {', '.join(parts)}")


def operators(changes: Sequence[OperatorChange], name: str) -> str:
    """Draw the number of nodes of each operator, before and after."""
    rows = changes[:MOST_ROWS]
    with picture(_FRAME + 0.4 * len(rows)) as drawn:
        axes = drawn.axes()
        places = np.arange(len(rows))
        for offset, title, colour, values in (
            (-0.19, "before", MUTED, [row.before for row in rows]),
            (0.19, "after", NEUTRAL, [row.after for row in rows]),
        ):
            bars = axes.barh(places + offset, values, 0.34, color=colour, label=title)
            axes.bar_label(bars, padding=3, color=MUTED, fontsize=8)
        _rows(axes, [label(row.name) for row in rows])
        axes.set_xlabel("nodes")
        axes.locator_params(axis="x", integer=True, nbins=6)
        axes.set_xlim(right=max([1, *(max(row.before, row.after) for row in rows)]) * 1.12)
        _legend(axes)
        return drawn.svg(
            name,
            f"Nodes before and after, {count(len(rows), 'operator')}: "
            + ", ".join(f"{shortened(row.name, 40)} {row.before} → {row.after}" for row in rows),
        )


# --- Parts ----------------------------------------------------------------------------------------


def _power(bound: float) -> str:
    """Format a power of ten, written out if that is short."""
    return f"{bound:g}" if bound >= 0.01 else f"1e{round(math.log10(bound))}"


def _allowed(output: OutputComparison) -> float:
    """Return the largest difference allowed for the worst element."""
    magnitude = abs(output.worst.original) if output.worst is not None else 0.0
    return output.tolerance.atol + output.tolerance.rtol * magnitude


@dataclass(frozen=True)
class _Series:
    """One value per row, all drawn with the same marker; a hollow one does not cover others."""

    title: str
    colour: str
    marker: str
    values: Sequence[float | None]
    hollow: bool = False
    shift: float = 0.0
    """How far below the middle of a row, so that no value covers another."""
    limits: Sequence[float | None] = ()
    """Values beyond these are red."""

    def draw(self, axes: Axes) -> None:
        places = [(value, row) for row, value in enumerate(self.values) if _has_place(value)]
        beyond = [self._is_beyond(value, row) for value, row in places]
        for colour, title, is_red in ((self.colour, self.title, False), (BAD, None, True)):
            shown = [
                place for place, is_far in zip(places, beyond, strict=True) if is_far == is_red
            ]
            if shown or not is_red:
                axes.plot(
                    [value for value, _ in shown],
                    [row + self.shift for _, row in shown],
                    self.marker,
                    color=colour,
                    label=title,
                    markersize={"|": 13, "o": 8, "s": 5}.get(self.marker, 5.5),
                    markeredgewidth=2 if self.marker == "|" else 1.2,
                    markerfacecolor="none" if self.hollow else colour,
                )

    def _is_beyond(self, value: float, row: int) -> bool:
        limit = self.limits[row] if self.limits else None
        return limit is not None and value > limit


def _dot_plot(
    series: Sequence[_Series], names: Sequence[str], unit: str, name: str, alternative: str
) -> str:
    with picture(_FRAME + _ROW * len(names)) as drawn:
        axes = drawn.axes()
        for dots in series:
            dots.draw(axes)
        _legend(axes)
        _rows(axes, [label(title) for title in names])
        _logarithmic(axes, [value for dots in series for value in dots.values])
        axes.set_xlabel(unit)
        return drawn.svg(name, alternative)


def _has_place(value: float | None) -> TypeGuard[float]:
    """Return whether the value can be drawn on a logarithmic scale."""
    return value is not None and 0 < value < math.inf


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=True, axis="y")


def _logarithmic(axes: Axes, values: Sequence[float | None]) -> None:
    places = [math.log10(value) for value in values if _has_place(value)]
    first = math.floor(min(places, default=-1.0) - 0.2)
    last = math.ceil(max(places, default=0.0) + 0.2)
    decades = range(first, last + 1, max(1, math.ceil((last - first) / 6)))
    axes.set_xscale("log")
    axes.set_xlim(10.0**first, 10.0**last)
    axes.set_xticks([10.0**decade for decade in decades], [f"1e{decade}" for decade in decades])
    axes.set_xticks([], minor=True)


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=4,
        handletextpad=0.3,
        columnspacing=1.2,
        borderaxespad=0.2,
    )


def _spread(size: int) -> FloatArray:
    """Return offsets from the middle of a row, the same on every call."""
    return np.random.default_rng(0).uniform(-0.3, 0.3, size)
