"""What a model's graph says of its inputs: their content, and the sizes to try."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import onnx_ir as ir

from bnfold.errors import BnfoldError
from bnfold.graph.constants import constant
from bnfold.graph.shapes import rank_of, shape_of, size_of
from bnfold.proof.learned import learned
from bnfold.running.inputs import Hints

TABLES = {"Gather": (0, 1), "GatherElements": (0, 1)}
"""Operators that look up positions along an axis: which inputs are the table and the positions."""

_LENGTHS = {"GRU": 4, "LSTM": 4, "RNN": 4, "ReverseSequence": 1}
"""Operators that take lengths of sequences, and as which input; the sequences are the first."""

SAME_NUMBERS = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze"}
    | {"Tile", "Transpose", "Unsqueeze"}
)
"""Operators that pass integers on unchanged."""

COMPARISONS = frozenset(["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])

_LIMITS = frozenset(["Clip", "Max", "Min"])
"""Operators that limit what they read, such as positions before they are looked up."""

_LARGEST_CUT = 2048
"""Sizes that a Slice cuts off are tried up to this one: larger inputs take too long."""

_LEAST_LEVEL, _LARGEST_LEVEL = 20.0, 1e4
"""Numbers with which floats are compared: smaller ones are drawn anyway, and larger ones mean that
nothing is as large."""

_MOST_LEVELS = 4

_LARGEST_OVERRIDE = 2**20
"""Elements of an overridable initializer up to which it is overridden in a sample."""

_MOST_WRITTEN = 8
"""Sizes in the constants of Reshapes that are tried, where the usual ones do not run."""

_OF_EACH = 2
"""Cuts and thresholds of each of two models that are tried."""

_OF_POSITIONS = {"Abs": 0, "Range": 1, "Sub": 0}
"""Operators of positions, and which operand says how large they are."""

_SIZING = COMPARISONS | {"Max", "Min", "Slice"}
"""Operators that may do something else from a certain size on."""


def hints_of(model: ir.Model) -> Hints:
    """Return what the graph says of the content and sizes of its inputs."""
    hints = replace(_where_it_changes(model), written=_written(model))
    for value in model.graph.inputs:
        name = value.name or ""
        if value.is_initializer():
            content = value.const_value
            is_small = content is not None and content.size <= _LARGEST_OVERRIDE
            if content is not None and is_small and content.numpy().dtype.kind in "fiub":
                hints.overrides[name] = content.numpy()
            continue
        limits = list(_limits(value, frozenset()))
        sizes, limited = _known(limits), _known(_limits(value, _LIMITS))
        if limited:
            hints.largest[name] = min(sizes or limited)
            if not limits:
                hints.clipped.add(name)
        if within := sorted(_of_inputs(model, limits)):
            hints.within[name] = within
        if constants := sorted(set(_compared_with(value))):
            hints.compared[name] = constants
        if any(node.op_type == "Dropout" and index == 1 for node, index in value.uses()):
            hints.ratios.add(name)
    return hints


def _written(model: ir.Model) -> list[int]:
    """Return the sizes that Reshapes have as constants, the most frequent first.

    A tracer writes the size that it has met where the model computes with it.
    """
    found: Counter[int] = Counter()
    for node in model.graph:
        shape = node.inputs[1] if node.op_type == "Reshape" and len(node.inputs) > 1 else None
        made = shape.producer() if shape is not None else None
        parts = made.inputs if made is not None and made.op_type == "Concat" else [shape]
        for part in parts:
            content = constant(part)
            if content is not None:
                found.update(int(size) for size in content.reshape(-1))
    sizes = [size for size, _ in found.most_common() if 1 < size <= _LARGEST_CUT]
    return sizes[:_MOST_WRITTEN]


_Limit: TypeAlias = tuple[ir.Value, int, int]
"""A value, and the axis whose size limits integers, less a number."""


def _limits(value: ir.Value, others: frozenset[str]) -> Iterator[_Limit]:
    """Yield what limits this value's content: the tables it looks up, the sequences it cuts."""
    for node, position in _uses_of_same_numbers(value, others):
        source, axis, less = node.inputs[0], None, 1
        if node.op_type in TABLES and position == TABLES[node.op_type][1]:
            source = node.inputs[TABLES[node.op_type][0]]
            axis = node.attributes.get_int("axis", 0)
        elif _LENGTHS.get(node.op_type) == position:
            name = "time_axis" if node.op_type == "ReverseSequence" else "layout"
            axis, less = node.attributes.get_int(name, 0), 0
        elif node.op_type == "RoiAlign" and position == 2:
            axis = 0  # images of the batch
        if source is not None and axis is not None:
            yield source, axis, less


def _known(limits: Iterable[_Limit]) -> list[int]:
    """Return the largest integers, as far as the sizes that limit them are known."""
    sizes = ((size_of(source, axis), less) for source, axis, less in limits)
    return [size - less for size, less in sizes if size]


def _of_inputs(model: ir.Model, limits: Iterable[_Limit]) -> set[tuple[str, int, int]]:
    """Return the inputs and axes that have the free sizes among those that limit integers."""
    found = set()
    for source, axis, less in limits:
        if size_of(source, axis) is None and (place := _axis_of_input(model, source, axis)):
            found.add((*place, less))
    return found


def _compared_with(value: ir.Value) -> Iterator[int]:
    """Yield the integer constants that this value's content is compared with."""
    for node, position in _uses_of_same_numbers(value, frozenset()):
        if node.op_type in COMPARISONS:
            content = constant(node.inputs[1 - position])
            if content is not None and content.dtype.kind in "iu" and content.size <= 16:
                yield from (int(number) for number in content.reshape(-1))


def _levels(model: ir.Model) -> dict[str, list[float]]:
    """Return the numbers, beyond what is drawn, that float inputs are compared with or limited by.

    At most a few for each input, the least first.
    """
    found = {}
    for value in model.graph.inputs:
        if value.dtype is None or not value.dtype.is_floating_point():
            continue
        numbers: set[float] = set()
        for node, _ in _uses_of_same_numbers(value, frozenset()):
            if node.op_type not in COMPARISONS | _LIMITS:
                continue
            contents = [constant(other) for other in node.inputs if other is not None]
            numbers.update(float(c.flat[0]) for c in contents if c is not None and c.size == 1)
            if node.op_type == "Clip":  # before operator set 11
                numbers.update(node.attributes.get_float(name, 0.0) for name in ("min", "max"))
        levels = sorted(each for each in numbers if _LEAST_LEVEL < abs(each) <= _LARGEST_LEVEL)
        if levels:
            found[value.name or ""] = sorted(levels, key=abs)[:_MOST_LEVELS]
    return found


def _uses_of_same_numbers(value: ir.Value, others: frozenset[str]) -> Iterator[tuple[ir.Node, int]]:
    """Yield the uses of a value, past operators that pass its numbers on, and `others`."""
    pending, seen = deque([value]), {value}
    while pending:
        for node, position in pending.popleft().uses():
            yield node, position
            passes = node.op_type in SAME_NUMBERS or (node.op_type in others and position == 0)
            if passes:
                pending.extend(output for output in node.outputs if output not in seen)
                seen.update(node.outputs)


def _cuts(model: ir.Model) -> list[tuple[int, int]]:
    """Return axes with the largest constant end of a Slice that their free size may exceed."""
    cuts: dict[int, int] = {}
    for node in model.graph:
        if node.op_type != "Slice" or node.inputs[0] is None:
            continue
        ends = _integers(node, "ends", 2)
        axes = _integers(node, "axes", 3) or list(range(len(ends)))
        rank = rank_of(node.inputs[0])
        rank = 4 if rank is None else rank
        for axis, end in zip(axes, ends, strict=False):
            is_free = size_of(node.inputs[0], axis) is None  # not so the sizes in a Shape
            if is_free and 1 < end <= _LARGEST_CUT and -rank <= axis < rank:
                cuts[axis % rank] = max(end, cuts.get(axis % rank, 0))
    return sorted(cuts.items(), key=lambda cut: -cut[1])


def _thresholds(model: ir.Model) -> list[tuple[str, int, int]]:
    """Return inputs, axes and the constants with which their sizes are compared, or limited."""
    found: set[tuple[str, int, int]] = set()
    for node in model.graph:
        for value, other in _compared(node):
            number = constant(other) if other is not None else None
            measured = _measured(model, value)
            if measured is None or number is None or number.size != 1:
                continue
            if 1 <= abs(number.flat[0]) <= _LARGEST_CUT:
                found.add((*measured, int(abs(number.flat[0]))))
    return sorted(found)


def _compared(node: ir.Node) -> list[tuple[ir.Value | None, ir.Value | None]]:
    """Return the pairs of operands of which one is compared with, or limited by, the other."""
    if node.op_type == "Clip":
        return [(node.inputs[0], limit) for limit in node.inputs[1:]]
    if node.op_type in _SIZING and len(node.inputs) == 2:
        return [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])]
    return []


def _measured(model: ir.Model, value: ir.Value | None) -> tuple[str, int] | None:
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
            places = _integers(node, "starts", 1)
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
    return _axis_of_input(model, source, axes[place or 0])


def _axis_of_input(model: ir.Model, source: ir.Value, axis: int) -> tuple[str, int] | None:
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


def _integers(node: ir.Node, name: str, index: int) -> list[int]:
    """Return integers that are an attribute in early opsets, and an input since; [] if unknown."""
    if name in node.attributes:
        return list(node.attributes[name].as_ints())
    content = constant(node.inputs[index]) if index < len(node.inputs) else None
    return [] if content is None else [int(number) for number in content.reshape(-1)]


def with_sizes_of(own: Hints, other: Path) -> Hints:
    """Return hints with some sizes of its own, and with sizes and levels that another model has."""
    theirs = _of_another(other)
    more = [each for each in theirs.cuts if each not in own.cuts]
    further = [each for each in theirs.thresholds if each not in own.thresholds]
    levels = {
        name: sorted({*own.levels.get(name, []), *theirs.levels.get(name, [])})
        for name in own.levels | theirs.levels
    }
    return replace(
        own,
        levels=levels,
        cuts=[*own.cuts[:_OF_EACH], *more[:_OF_EACH]],
        thresholds=[*own.thresholds[:_OF_EACH], *further[:_OF_EACH]],
    )


def _of_another(path: Path) -> Hints:
    try:
        return _where_it_changes(learned(path).ir)
    except BnfoldError:
        return Hints()


def _where_it_changes(model: ir.Model) -> Hints:
    """Return the sizes, and the numbers of its inputs, at which a model does something else."""
    return Hints(cuts=_cuts(model), thresholds=_thresholds(model), levels=_levels(model))
