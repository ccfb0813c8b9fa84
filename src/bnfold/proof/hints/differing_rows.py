"""The rows in which the tables of two models differ: samples would look them up by chance only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array, FloatArray
from bnfold.graph.constants import constant
from bnfold.graph.shapes import size_of
from bnfold.proof.hints.integers import ARITHMETIC, uses_of_same_numbers
from bnfold.proof.hints.sizes import (
    LARGEST_CUT,
    SAME_NUMBERS,
    integers,
    measured,
    number_of,
)

_MOST_ROWS = 8

_POSITIONS = {"Gather": 1, "GatherND": 1, "OneHot": 0}
"""The operators that look up rows of a table, and which of their inputs says which rows."""

_GUARDING = frozenset({"Max", "Min", "Where"})
"""Operators that put a number in place of positions outside a table."""

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
        distances: dict[int, float] = {}
        for table, its in _alike(_looked_up(value), _looked_up(counterpart)):
            for row, distance in _furthest(table.rows, its.rows):
                position = row - table.offset
                distances[position] = max(distance, distances.get(position, 0.0))
        if distances:
            furthest = sorted(distances, key=distances.__getitem__, reverse=True)
            found[value.name or ""] = furthest[:_MOST_ROWS]
    return found


def differing_sizes(one: ir.Model, other: ir.Model) -> list[tuple[str, int, int]]:
    """Return inputs, axes, and sizes at which a table that they cut off differs in two models.

    A table of positions is as long as the longest text: its last rows are read at that size alone.
    """
    found: dict[tuple[str, int, int], None] = {}
    for table, its in _alike(_cut_off(one), _cut_off(other)):
        furthest = list(_furthest(table.rows, its.rows))
        largest = max((distance for _, distance in furthest), default=0.0)
        rows = [row - table.offset for row, distance in furthest if distance >= largest / 2]
        if rows and 0 <= min(rows) < LARGEST_CUT:
            found[(*table.place, min(rows) + 1)] = None
    return list(found)


@dataclass(frozen=True)
class _Table:
    """A constant table, its rows first, and where it is looked up."""

    rows: Array
    offset: int = 0
    """What is added to a position before the row is looked up."""
    place: tuple[str, int] = ("", 0)
    """The input and the axis whose size it is cut to."""


def _alike(tables: Iterable[_Table], others: Iterable[_Table]) -> Iterator[tuple[_Table, _Table]]:
    """Yield the tables of the same shape and place in two models, in their order."""
    rest = list(others)
    for table in tables:
        key = table.rows.shape, table.place
        at = next((n for n, each in enumerate(rest) if (each.rows.shape, each.place) == key), None)
        if at is not None:
            yield table, rest.pop(at)


def _looked_up(value: ir.Value) -> Iterator[_Table]:
    """Yield the tables of constants whose rows are looked up by an input or what it computes."""
    for node, position in uses_of_same_numbers(value, ARITHMETIC):
        rows = _rows(node)
        if rows is not None and position == _POSITIONS.get(node.op_type):
            yield _Table(rows, _without_offset(node.inputs[position])[1])


def _cut_off(model: ir.Model) -> Iterator[_Table]:
    """Yield the tables of constants that are cut to the size of an input, or looked up so far."""
    for node in model.graph:
        if node.op_type == "Gather":
            positions, offset = _without_offset(node.inputs[1])
            place, rows = measured(model, positions), _rows(node)
            if place is not None and rows is not None:
                yield _Table(rows, offset, place)
        elif node.op_type == "Slice" and len(node.inputs) > 2:
            table = _content(node.inputs[0])
            axes = integers(node, "axes", 3)
            for axis, end in zip(axes, _parts(node.inputs[2]), strict=False):
                place = measured(model, end)
                if table is not None and place is not None:
                    yield _Table(np.moveaxis(table, axis, 0), 0, place)


def _parts(value: ir.Value | None) -> Sequence[ir.Value | None]:
    """Return what a vector of sizes is put together from."""
    node = value.producer() if value is not None else None
    return node.inputs if node is not None and node.op_type == "Concat" else [value]


def _rows(node: ir.Node) -> Array | None:
    """Return the table that a node reads, the axis first along which it looks up positions."""
    if node.op_type == "Gather":
        table = _content(node.inputs[0])
        return None if table is None else np.moveaxis(table, node.attributes.get_int("axis", 0), 0)
    if node.op_type == "GatherND" and size_of(node.inputs[1], -1) == 1:
        return None if node.attributes.get_int("batch_dims", 0) else _content(node.inputs[0])
    if node.op_type == "OneHot" and node.attributes.get_int("axis", -1) == -1:
        products = (reader for reader, place in node.outputs[0].uses() if place == 0)
        return next(
            (_content(each.inputs[1]) for each in products if each.op_type == "MatMul"), None
        )
    return None


def _content(value: ir.Value | None) -> Array | None:
    """Return a constant of numbers, as it is stored: before it is widened, scaled or cut off."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in ("Cast", "DequantizeLinear", "Identity", "Slice"):
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    table = constant(value)
    return table if table is not None and table.ndim and table.dtype.kind in "fiub" else None


def _without_offset(value: ir.Value | None) -> tuple[ir.Value | None, int]:
    """Return what positions are computed of by adding a number, and that number."""
    offset = 0
    while value is not None and (node := value.producer()) is not None:
        step = number_of(node.inputs[-1]) if node.op_type in ("Add", "Sub") else None
        if step is not None and step.is_integer():
            offset += int(step) if node.op_type == "Add" else -int(step)
        elif node.op_type in _GUARDING:
            computed = [each for each in node.inputs[-2:] if number_of(each) is None]
            if len(computed) != 1:
                break
            value = computed[0]
            continue
        elif node.op_type not in SAME_NUMBERS - {"Concat"}:
            break
        value = node.inputs[0]
    return value, offset


def _furthest(one: Array, other: Array) -> Iterator[tuple[int, float]]:
    """Yield the rows of two tables of the same shape that differ most, and by how much."""
    step = max(1, _AT_ONCE * len(one) // max(1, one.size))
    distances = np.concatenate(
        [_distances(one[at : at + step], other[at : at + step]) for at in range(0, len(one), step)]
        or [np.zeros(0)]
    )
    for row in np.argsort(-distances, kind="stable")[:_MOST_ROWS]:  # the first ones of many alike
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
