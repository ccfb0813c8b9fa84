"""The pictures of a report. Each has its numbers in a table and a text alternative."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

import numpy as np

from bnfold.arrays import FloatArray
from bnfold.record.data import (
    SHARES,
    OutputComparison,
    ProviderEquivalence,
    SpeedRecord,
    TruthOutput,
)
from bnfold.report.canvas import ACCENT, BAD, INK, MUTED, label, picture
from bnfold.report.summary import OperatorChange
from bnfold.report.wording import count, interval, number, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 12
"""The most outputs or operators drawn in one picture; the tables hold them all."""

_Row: TypeAlias = tuple[str, str, float, list[float] | None]
"""A title, its colour, its median and interval."""

_MOST_DOTS = 150
_ROW = 0.34
_FRAME = 0.85


def yardsticks(provider: ProviderEquivalence, name: str) -> str:
    """Draw the largest difference of each output, with the noise floor and the tolerance."""
    outputs = provider.outputs[:MOST_ROWS]
    titles = [output.name for output in outputs]
    floor = {output.name: output.max_abs for output in provider.noise_floor}
    series = [
        _Series("noise floor", MUTED, "o", [floor.get(title) for title in titles], hollow=True),
        _Series("tolerance", BAD, "|", [_allowed(output) for output in outputs]),
    ]
    for level, marker in zip(provider.levels, "xD", strict=False):
        errors = {output.name: output.max_abs for output in level.outputs}
        series.append(_Series(level.level, ACCENT, marker, [errors.get(t) for t in titles]))
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
            colour = ACCENT if number_of else MUTED
            at = places + (number_of - (len(levels) - 1) / 2) * width
            axes.bar(at, heights, width, color=colour, label=level)
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
    series = [
        _Series("original", INK, "o", [row.original for row in rows], hollow=True),
        _Series("optimized", ACCENT, "D", [row.optimized for row in rows]),
        _Series("weights", MUTED, "x", [row.computed_exactly for row in rows]),
        _Series("limit", BAD, "|", [row.limit for row in rows]),
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
    """Draw the ratio of each turn, with the median and its interval, above the control's."""
    rows: list[_Row] = [("control", MUTED, record.control, record.control_ci95)]
    if record.speedup is not None:
        rows.append(("optimized", ACCENT, record.speedup, record.ci95))
    ratios = [_ratios(record, title) for title, *_ in rows]
    with picture(_FRAME + 0.5 * len(rows)) as drawn:
        axes = drawn.axes()
        axes.axvline(1, color=MUTED, linewidth=0.8)
        for place, ((_, colour, middle, bounds), dots) in enumerate(zip(rows, ratios, strict=True)):
            across = place + _spread(len(dots))
            axes.plot(dots, across, ".", color=colour, alpha=0.35, markersize=4, markeredgewidth=0)
            if bounds is not None:
                axes.plot(bounds, [place, place], color=INK, linewidth=2.5, solid_capstyle="butt")
            axes.plot([middle], [place], "|", color=INK, markersize=13, markeredgewidth=2)
        axes.set_yticks(range(len(rows)), [title for title, *_ in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(*_focus(ratios, rows))
        axes.set_xlabel("times as fast as the original, turn by turn")
        return drawn.svg(
            name,
            "Speed against the original, median and 95 % interval: "
            + ", ".join(f"{title} {interval(middle, ci)}" for title, _, middle, ci in rows),
        )


def operators(changes: Sequence[OperatorChange], name: str) -> str:
    """Draw the number of nodes of each operator, before and after."""
    rows = changes[:MOST_ROWS]
    with picture(_FRAME + 0.4 * len(rows)) as drawn:
        axes = drawn.axes()
        places = np.arange(len(rows))
        for offset, title, colour, values in (
            (-0.19, "before", MUTED, [row.before for row in rows]),
            (0.19, "after", ACCENT, [row.after for row in rows]),
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

    def draw(self, axes: Axes) -> None:
        places = [(value, row) for row, value in enumerate(self.values) if _has_place(value)]
        axes.plot(
            [value for value, _ in places],
            [row for _, row in places],
            self.marker,
            color=self.colour,
            label=self.title,
            markersize={"|": 11, "o": 9}.get(self.marker, 6),
            markeredgewidth=2 if self.marker == "|" else 1.2,
            markerfacecolor="none" if self.hollow else self.colour,
        )


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


def _ratios(record: SpeedRecord, title: str) -> list[float]:
    """Return the ratio of the original's time to this one's, turn by turn, evenly thinned out."""
    ratios = [
        original / other
        for block in record.samples
        for original, other in zip(
            block.run_ms.get("original", []), block.run_ms.get(title, []), strict=False
        )
        if other > 0
    ]
    return ratios[:: max(1, math.ceil(len(ratios) / _MOST_DOTS))]


def _spread(size: int) -> FloatArray:
    """Return offsets from the middle of a row, the same on every call."""
    return np.random.default_rng(0).uniform(-0.3, 0.3, size)


def _focus(ratios: Sequence[Sequence[float]], rows: Sequence[_Row]) -> tuple[float, float]:
    """Return limits that include all intervals and all dots but outliers."""
    dots = [ratio for row in ratios for ratio in row]
    ends = [bound for *_, bounds in rows for bound in bounds or []] + [1.0]
    if dots:
        ends += list(np.percentile(dots, [3, 97]))
    low, high = min(ends), max(ends)
    margin = max(0.02, (high - low) * 0.08)
    return low - margin, high + margin
