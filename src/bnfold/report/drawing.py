"""Draws a few nodes and the edges between them, before and after a rewrite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnfold.record.data import NodeSketch
from bnfold.report.canvas import INK, MUTED, NEUTRAL, PAPER, label, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LAYER = 0.42
"""The distance between layers of nodes, in inches."""


def neighbourhood(
    before: Sequence[NodeSketch], after: Sequence[NodeSketch], name: str, alternative: str
) -> str:
    """Draw both side by side, each with its inputs at the top and its results at the bottom."""
    sides = [("before", before, MUTED), ("after", after, NEUTRAL)]
    depth = max(len(_layers(sketch)) for _, sketch, _ in sides)
    with picture(0.4 + _LAYER * (depth + 1)) as drawn:
        for axes, (title, sketch, colour) in zip(drawn.pair_of_axes(), sides, strict=True):
            axes.set_title(title, color=MUTED)
            axes.set_axis_off()
            axes.set_xlim(-1, 1)
            axes.set_ylim(-depth - 0.1, 1.1)
            _draw(axes, sketch, colour)
        return drawn.svg(name, alternative)


def _draw(axes: Axes, sketch: Sequence[NodeSketch], colour: str) -> None:
    if not sketch:
        _arrow(axes, (0, 1), (0, -0.6), 0)
        return
    places = _places(sketch)
    read = {source for node in sketch for source in node.reads}
    for index, node in enumerate(sketch):
        x, y = places[index]
        for source in dict.fromkeys(node.reads):
            if source in places and source != index:
                skips = places[source][1] - y > 1.5 and places[source][0] == x
                _arrow(axes, places[source], (x, y), 0.45 if skips else 0)
        if any(source < 0 for source in node.reads):
            _arrow(axes, (x, y + 1), (x, y), 0)
        if index not in read:
            _arrow(axes, (x, y), (x, y - 1), 0)
    for index, node in enumerate(sketch):
        box = {"boxstyle": "round,pad=0.35", "facecolor": PAPER, "edgecolor": colour}
        axes.text(
            *places[index],
            label(node.op_type),
            ha="center",
            va="center",
            color=INK,
            fontsize=8,
            bbox=box,
            zorder=3,
        )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float) -> None:
    style = {
        "arrowstyle": "-|>",
        "color": MUTED,
        "shrinkA": 8,
        "shrinkB": 8,
        "connectionstyle": f"arc3,rad={bend}",
    }
    axes.annotate("", end, start, arrowprops=style)


def _layers(sketch: Sequence[NodeSketch]) -> list[list[int]]:
    """Group the nodes by the length of the longest path that leads to them from outside.

    A node should only read earlier ones; reads of later ones are ignored.
    """
    depths: list[int] = []
    for index, node in enumerate(sketch):
        depths.append(
            1 + max([depths[source] for source in node.reads if 0 <= source < index], default=-1)
        )
    return [
        [index for index, depth in enumerate(depths) if depth == layer]
        for layer in range(max(depths, default=-1) + 1)
    ]


def _places(sketch: Sequence[NodeSketch]) -> dict[int, tuple[float, float]]:
    """Return the position of each node: a layer is an evenly divided row."""
    places = {}
    for depth, layer in enumerate(_layers(sketch)):
        for position, index in enumerate(layer):
            places[index] = ((2 * position + 1) / len(layer) - 1, float(-depth))
    return places
