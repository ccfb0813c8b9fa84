"""The rows in which the tables of two models differ: samples would look them up by chance only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array, FloatArray
from bnfold.graph.constants import constant
from bnfold.proof.hints.integers import ARITHMETIC, uses_of_same_numbers

_MOST_ROWS = 8

_AT_ONCE = 2**22
"""Elements of a table that are compared at a time, so that little memory is needed."""


def differing_rows(one: ir.Model, other: ir.Model) -> dict[str, list[int]]:
    """Return, by input, some rows of the tables that it looks up where those of two models differ.

    Tables correspond to those of the same shape, in their order. Rows that differ most come first.
    """
    others = {value.name: value for value in other.graph.inputs}
    found = {}
    for value in one.graph.inputs:
        counterpart = others.get(value.name)
        if value.dtype is None or not value.dtype.is_integer() or counterpart is None:
            continue
        rest = list(_tables(counterpart))
        distances: dict[int, float] = {}
        for table in _tables(value):
            place = next((at for at, each in enumerate(rest) if each.shape == table.shape), None)
            if place is not None:
                for row, distance in _furthest(table, rest.pop(place)):
                    distances[row] = max(distance, distances.get(row, 0.0))
        if distances:
            furthest = sorted(distances, key=distances.__getitem__, reverse=True)
            found[value.name or ""] = furthest[:_MOST_ROWS]
    return found


def _tables(value: ir.Value) -> Iterator[Array]:
    """Yield the tables of constants whose rows are looked up by an input or what it computes."""
    for node, _ in uses_of_same_numbers(value, ARITHMETIC):
        table = constant(node.inputs[0]) if node.op_type == "Gather" else None
        if table is not None and table.ndim and table.dtype.kind in "fiub":
            yield np.moveaxis(table, node.attributes.get_int("axis", 0), 0)


def _furthest(one: Array, other: Array) -> Iterator[tuple[int, float]]:
    """Yield the rows of two tables of the same shape that differ most, and by how much."""
    step = max(1, _AT_ONCE * len(one) // max(1, one.size))
    distances = np.concatenate(
        [_distances(one[at : at + step], other[at : at + step]) for at in range(0, len(one), step)]
        or [np.zeros(0)]
    )
    for row in np.argsort(-distances)[:_MOST_ROWS]:
        if distances[row]:
            yield int(row), float(distances[row])


def _distances(one: Array, other: Array) -> FloatArray:
    """Return how far each row of one table is from the same one of another, at most."""
    is_other = (one != other) & ~((one != one) & (other != other))  # NaN is no difference to NaN
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(np.subtract(one, other, dtype=np.float64))
    apart = np.where(is_other, np.nan_to_num(apart, nan=np.inf), 0.0)
    rest = tuple(range(1, apart.ndim))
    return np.asarray(apart.max(axis=rest, initial=0.0), np.float64)
