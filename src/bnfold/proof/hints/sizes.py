"""What a model's graph says of the sizes at which it does something else."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from bnfold.graph.constants import constant
from bnfold.graph.shapes import rank_of, shape_of, size_of

SAME_NUMBERS = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze"}
    | {"Tile", "Transpose", "Unsqueeze"}
)
"""Operators that pass integers on unchanged."""

COMPARISONS = frozenset(["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])

LARGEST_CUT = 2048
"""Sizes that a Slice cuts off are tried up to this one: larger inputs take too long."""

_OF_POSITIONS = {"Abs": 0, "Range": 1, "Sub": 0}
"""Operators of positions, and which operand says how large they are."""

_OF_ONE = frozenset(["align_corners", "pytorch_half_pixel"])
"""Modes of Resize that place the only pixel of a size of 1 elsewhere."""

_SIZING = COMPARISONS | {"Max", "Min", "Slice"}
"""Operators that may do something else from a certain size on."""


def cuts(model: ir.Model) -> list[tuple[int, int]]:
    """Return axes with the largest constant end of a Slice that their free size may exceed."""
    found: dict[int, int] = {}
    for node in model.graph:
        if node.op_type != "Slice" or node.inputs[0] is None:
            continue
        ends = integers(node, "ends", 2)
        axes = integers(node, "axes", 3) or list(range(len(ends)))
        rank = rank_of(node.inputs[0])
        rank = 4 if rank is None else rank
        for axis, end in zip(axes, ends, strict=False):
            is_free = size_of(node.inputs[0], axis) is None  # not so the sizes in a Shape
            if is_free and 1 < end <= LARGEST_CUT and -rank <= axis < rank:
                found[axis % rank] = max(end, found.get(axis % rank, 0))
    return sorted(found.items(), key=lambda cut: -cut[1])


def thresholds(model: ir.Model) -> list[tuple[str, int, int]]:
    """Return inputs, axes and the constants with which their sizes are compared, or limited.

    And the sizes of which a Resize makes 1, where that is a case of its own.
    """
    found: set[tuple[str, int, int]] = set()
    for node in model.graph:
        found.update(_resized_to_one(model, node))
        for value, other in _compared(node):
            number = number_of(other)
            if number is None:
                continue
            for term, limit in _without_term(value, number):
                place = measured(model, term)
                if place is not None and 1 <= limit <= LARGEST_CUT:
                    found.add((*place, int(limit)))
    return sorted(found)


def _resized_to_one(model: ir.Model, node: ir.Node) -> Iterator[tuple[str, int, int]]:
    """Yield inputs, axes and the smallest sizes that a Resize makes 1."""
    mode = node.attributes.get_string("coordinate_transformation_mode", "")
    data = node.inputs[0] if node.op_type == "Resize" and len(node.inputs) > 2 else None
    scales = constant(node.inputs[2]) if data is not None and mode in _OF_ONE else None
    rank = rank_of(data)
    if data is None or scales is None or rank is None:
        return
    axes = node.attributes.get_ints("axes", list(range(rank)))
    for axis, scale in zip(axes, scales.tolist(), strict=False):
        place = axis_of_input(model, data, axis)
        if place is not None and 1 / LARGEST_CUT <= scale < 1:
            yield (*place, math.ceil(1 / scale))


def number_of(value: ir.Value | None) -> float | None:
    """Return a constant of one number, of any type of float ("V"); None of any other value."""
    content = constant(value)
    is_number = content is not None and content.size == 1 and content.dtype.kind in "biufV"
    return float(content.flat[0]) if content is not None and is_number else None


def _without_term(value: ir.Value | None, number: float) -> Iterator[tuple[ir.Value | None, float]]:
    """Yield a value and a number that it is compared with; and if it is a sum, that of its part.

    A size less 1 that is compared with 20 is a size that is compared with 21.
    """
    yield value, abs(number)  # distances of positions have both signs
    node = value.producer() if value is not None else None
    if node is None or node.op_type not in ("Add", "Sub") or len(node.inputs) != 2:
        return
    for part, other in (node.inputs, node.inputs[::-1]):
        term = number_of(other)
        if term is None:
            continue
        if node.op_type == "Add":
            yield part, number - term
        else:
            yield part, number + term if part is node.inputs[0] else term - number


def _compared(node: ir.Node) -> list[tuple[ir.Value | None, ir.Value | None]]:
    """Return the pairs of operands of which one is compared with, or limited by, the other."""
    if node.op_type == "Clip":
        return [(node.inputs[0], limit) for limit in node.inputs[1:]]
    if node.op_type in _SIZING and len(node.inputs) == 2:
        return [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])]
    return []


def measured(model: ir.Model, value: ir.Value | None) -> tuple[str, int] | None:
    """Return the input and the axis of which a value is the size; None if it is no size.

    Positions below a size, and their distances, reach as far as it does.
    """
    place: int | None = None
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Shape":
            return _input_as_long(model, node, place)
        if node.op_type in _OF_POSITIONS:
            value = node.inputs[_OF_POSITIONS[node.op_type]]
            continue
        if node.op_type in ("Gather", "Slice"):
            places = integers(node, "starts", 1)
            if place is not None or len(places) != 1:
                return None
            (place,) = places
        elif node.op_type not in SAME_NUMBERS or node.op_type == "Concat":
            return None
        value = node.inputs[0]
    return None


def _input_as_long(model: ir.Model, node: ir.Node, place: int | None) -> tuple[str, int] | None:
    """Return an input and an axis of it that have a size of those that a Shape returns."""
    source = node.inputs[0]
    shape = shape_of(source) if source is not None else None
    if source is None or shape is None:
        return None
    asked = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", None))
    axes = list(range(len(shape)))[asked]
    if place is None and len(axes) != 1:
        return None
    if not -len(axes) <= (place or 0) < len(axes):
        return None
    return axis_of_input(model, source, axes[place or 0])


def axis_of_input(model: ir.Model, source: ir.Value, axis: int) -> tuple[str, int] | None:
    """Return an input and an axis of it that have the size of an axis of a value, as is known."""
    shape = shape_of(source)
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    if source.is_graph_input():
        return source.name or "", axis % len(shape)
    for value in model.graph.inputs:
        sizes = shape_of(value)
        for its_axis, size in enumerate([] if sizes is None else sizes):
            if not isinstance(size, int) and size.value is not None and size == shape[axis]:
                return value.name or "", its_axis
    return None


def integers(node: ir.Node, name: str, index: int) -> list[int]:
    """Return integers that are an attribute in early opsets, and an input since; [] if unknown."""
    if name in node.attributes:
        return list(node.attributes[name].as_ints())
    content = constant(node.inputs[index]) if index < len(node.inputs) else None
    return [] if content is None else [int(number) for number in content.reshape(-1)]
