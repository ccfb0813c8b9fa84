"""Places the nodes of a small graph in rows, each below what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Name = str


@dataclass(frozen=True)
class Layout:
    """The rows of a graph, top down, and its edges as the names that they pass.

    An edge that skips rows passes a bend in each, so that it goes round the nodes there.
    """

    rows: Sequence[Sequence[Name]]
    edges: Sequence[Sequence[Name]]


def layout(reads: Mapping[Name, Sequence[Name]]) -> Layout:
    """Lay out a graph, given as what each node reads, in an order in which it could be run."""
    depths: dict[Name, int] = {}
    for name, sources in reads.items():
        depths[name] = 1 + max((depths[source] for source in sources), default=-1)
    rows: list[list[Name]] = [[] for _ in range(max(depths.values(), default=-1) + 1)]
    for name, depth in depths.items():
        rows[depth].append(name)
    edges: list[list[Name]] = []
    for name, sources in reads.items():
        for source in dict.fromkeys(sources):
            passed = [
                f"{source} → {name} {depth}" for depth in range(depths[source] + 1, depths[name])
            ]
            for bend in passed:
                rows[int(bend.rpartition(" ")[2])].append(bend)
            edges.append([source, *passed, name])
    return Layout(_untangled(rows, edges), edges)


def _untangled(rows: list[list[Name]], edges: Sequence[Sequence[Name]]) -> list[list[Name]]:
    """Order each row by the mean place of what it reads, so that few edges cross."""
    above: dict[Name, list[Name]] = {}
    for edge in edges:
        for source, target in pairwise(edge):
            above.setdefault(target, []).append(source)
    places: dict[Name, float] = {}
    ordered = []
    for row in rows:
        means = {
            name: sum(places[source] for source in above[name]) / len(above[name])
            for name in row
            if name in above
        }
        row = sorted(row, key=lambda name: means.get(name, 0.0))
        places |= {name: (2 * index + 1) / len(row) for index, name in enumerate(row)}
        ordered.append(row)
    return ordered
