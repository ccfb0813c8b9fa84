"""Draws the plots of docs/benchmarks/ as SVG, legible on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

from benchmarks.records import AUTHORS, BNFOLD, ModelRecord
from benchmarks.summary import cost, graph_or_original, speedup, tools_of

GREY = "#8b949e"
"""For all text and lines: visible on white and on black."""
OURS = "#e8590c"
OTHERS = ("#1c7ed6", "#0ca678", "#ae3ec9", "#f59f00", "#6f7bf7", "#e64980")
MARKERS = ("s", "^", "v", "D", "P", "X")

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bnfold",
    "font.family": "sans-serif",
    "font.size": 9,
    "savefig.transparent": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    **dict.fromkeys(
        (
            "text.color",
            "axes.edgecolor",
            "axes.labelcolor",
            "axes.titlecolor",
            "xtick.color",
            "ytick.color",
            "grid.color",
        ),
        GREY,
    ),
    "legend.frameon": False,
}


def draw(records: Sequence[ModelRecord], folder: Path) -> None:
    """Write speed.svg, left.svg and cost.svg."""
    matplotlib.use("svg")
    with matplotlib.rc_context(_STYLE):
        for name, plot in (("speed", _speed), ("left", _left), ("cost", _cost)):
            figure = plot(records)
            figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)


def _canvas(width: float, height: float, panels: int = 1) -> tuple[Any, Any]:
    """Return a figure of this size in inches, with one panel or several side by side."""
    figure, axes = plt.subplots(1, panels, figsize=(width, height))
    return figure, axes


def _legend(figure: Any, axes: Any) -> None:
    """Draw the legend of a panel below the figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, fontsize=8)


def _scatter(axes: Any, points: Sequence[tuple[float | None, float | None]], **look: Any) -> None:
    """Draw the points that are known."""
    known = [point for point in points if None not in point]
    axes.scatter([x for x, _ in known], [y for _, y in known], **look)


def _look(tools: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the color and marker of each tool: bnfold has its own, the others cycle."""
    others = [tool for tool in tools if not tool.startswith(BNFOLD)]
    look = {
        tool: {"color": OTHERS[i % len(OTHERS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, tool in enumerate(others)
    }
    return look | {
        tool: {"color": OURS, "marker": "o" if tool == BNFOLD else "*"}
        for tool in tools
        if tool.startswith(BNFOLD)
    }


def _speed(records: Sequence[ModelRecord]) -> Any:
    """Draw bnfold's speed-ups with their intervals over the controls', and the other tools'.

    Only of the models that bnfold changes, and that some tool makes faster or slower.
    """
    timed = [
        r for r in records if BNFOLD in r.tools and r.tools[BNFOLD].speed and _makes_a_difference(r)
    ]
    timed.sort(key=lambda record: speedup(record, BNFOLD, "all") or 1)
    figure, axes = _canvas(8, 1.5 + 0.22 * len(timed))
    tools = [name for name in tools_of(records) if not name.startswith(BNFOLD)]
    look = _look(tools_of(records))
    for tool in tools:
        _scatter(
            axes,
            [(speedup(r, tool, "all"), row) for row, r in enumerate(timed)],
            **{"s": 12, "alpha": 0.6, "label": tool, **look[tool]},
        )
    for row, record in enumerate(timed):
        speed = record.tools[BNFOLD].speed["all"]
        if speed.ci95 is None or speed.control_ci95 is None:
            continue
        low, high = speed.control_ci95
        axes.barh(row, high - low, left=low, height=0.7, color=GREY, alpha=0.35)
        axes.plot(speed.ci95, (row, row), color=OURS, linewidth=2)
    ours = [(speedup(record, BNFOLD, "all"), row) for row, record in enumerate(timed)]
    _scatter(axes, ours, s=28, label=BNFOLD, zorder=3, **look[BNFOLD])
    limits = [(speedup(record, AUTHORS, "all"), row) for row, record in enumerate(timed)]
    _scatter(axes, limits, s=70, color=GREY, marker="|", label=AUTHORS)
    axes.axvline(1, color=GREY, linewidth=1)
    axes.set_yticks(range(len(timed)), [record.name for record in timed])
    axes.set_ylim(-0.7, len(timed) - 0.3)
    axes.set_xlabel("speed-up with onnxruntime's optimizations (bar: the control's interval)")
    _legend(figure, axes)
    return figure


def _makes_a_difference(record: ModelRecord) -> bool:
    """Say whether some tool makes the model faster or slower."""
    speeds = [tool.speed.get("all") for tool in record.tools.values()]
    return any(speed is not None and speed.verdict in ("faster", "slower") for speed in speeds)


def _left(records: Sequence[ModelRecord]) -> Any:
    """Draw the share of BatchNormalizations that each tool leaves, over all models."""
    whole = sum(record.original.batch_normalizations for record in records) or 1
    tools = [t for t in tools_of(records) if any(r.tools[t].graph for r in records if t in r.tools)]
    figure, axes = _canvas(8, 0.8 + 0.3 * len(tools))
    for row, tool in enumerate(reversed(tools)):
        left = sum(graph_or_original(record, tool).batch_normalizations for record in records)
        axes.barh(row, 100 * left / whole, color=_look(tools)[tool]["color"], height=0.6)
        axes.annotate(f" {left}", (100 * left / whole, row), va="center")
    axes.set_yticks(range(len(tools)), list(reversed(tools)))
    axes.set_xlabel(f"% of {whole} BatchNormalizations left in {len(records)} models")
    axes.grid(visible=False, axis="y")
    return figure


def _cost(records: Sequence[ModelRecord]) -> Any:
    """Draw each tool's seconds and peak memory over the size of the model."""
    tools = tools_of(records)
    figure, panels = _canvas(10, 4.2, panels=2)
    look = _look(tools)
    for tool in tools:
        known = [(r.original.bytes / 1e6, cost(r, tool)) for r in records]
        for position, axes in enumerate(panels):
            points = [(size, costs[position] if costs else None) for size, costs in known]
            _scatter(axes, points, s=14, alpha=0.8, label=tool, **look[tool])
    for axes, label in zip(panels, ("seconds", "peak memory, MB"), strict=True):
        axes.set(xscale="log", yscale="log", xlabel="size of the model, MB", ylabel=label)
    _legend(figure, panels[0])
    return figure
