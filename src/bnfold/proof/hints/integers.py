"""What a model's graph says of the integers that it reads: what they look up, or count."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from bnfold.graph.constants import constant
from bnfold.graph.shapes import rank_of, size_of
from bnfold.proof.hints.sizes import COMPARISONS, SAME_NUMBERS, axis_of_input, integers, number_of

TABLES = {"Gather": (0, 1), "GatherElements": (0, 1)}
"""Operators that look up positions along an axis: which inputs are the table and the positions."""

_SCATTERING = frozenset(["Scatter", "ScatterElements"])
"""Operators that write to positions along an axis of their first input: the second input."""

_LABELLED = frozenset(["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
"""Operators that read classes, which lie along the second axis of their first input."""

_BY_TUPLES = frozenset(["GatherND", "ScatterND"])
"""Operators whose second input holds tuples of positions, one along each of some axes."""

_LENGTHS = {"GRU": 4, "LSTM": 4, "RNN": 4, "ReverseSequence": 1}
"""Operators that take lengths of sequences, and as which input; the sequences are the first."""

ARITHMETIC = frozenset(
    {"Abs", "Add", "Clip", "Div", "Max", "Min", "Mod", "Mul", "Neg", "Relu", "Sub", "Where"}
)
"""Operators that positions may be computed by."""

LIMITING = frozenset({"Clip", "Max", "Min"})
"""Operators that limit what they read, such as positions before they are looked up."""

_BY_BITS = frozenset({"BitwiseAnd", "BitwiseOr", "BitwiseXor"})
"""Operators that look at the bits of integers: those of the number beside them."""

_VOCABULARIES = ("cats_int64s", "keys_int64s", "pool_int64s")
"""Attributes with integers that an operator looks for in what it reads."""

_MOST_OF_VOCABULARY = 64

_LARGEST_REACH = 2**31 - 1

_LARGEST_LIMIT = 2**16
"""A larger one means that there is none; and integers may be sizes."""

_MASKING = 1000.0
"""What is added where a mask excludes something, at least, in absolute value."""

_BESIDE_DATA = {"Where": 0}
"""The operand of these that is not among the numbers that they compute with."""

Most: TypeAlias = int | tuple[str, int, int] | None
"""The largest integer; or an input, an axis of it and a number, whose difference it is."""

_Limit: TypeAlias = tuple[ir.Value, int, int]
"""A value, and the axis whose size limits integers, less a number."""


def limits_of(value: ir.Value, others: frozenset[str]) -> Iterator[_Limit]:
    """Yield what limits this value's content: the tables it looks up, the sequences it cuts."""
    for node, position in uses_of_same_numbers(value, others):
        yield from _limits_at(node, position)


def _limits_at(node: ir.Node, position: int) -> Iterator[_Limit]:
    """Yield what limits an operand: at most one."""
    source, axis, less = node.inputs[0], None, 1
    if node.op_type in TABLES and position == TABLES[node.op_type][1]:
        source = node.inputs[TABLES[node.op_type][0]]
        axis = node.attributes.get_int("axis", 0)
    elif _LENGTHS.get(node.op_type) == position:
        name = "time_axis" if node.op_type == "ReverseSequence" else "layout"
        axis, less = node.attributes.get_int(name, 0), 0
    elif node.op_type == "RoiAlign" and position == 2:
        axis = 0  # images of the batch
    elif node.op_type in _SCATTERING and position == 1:
        axis = node.attributes.get_int("axis", 0)
    elif node.op_type in _LABELLED and position == 1:
        axis = 1
    if source is not None and axis is not None:
        yield source, axis, less


def known(limits: Iterable[_Limit]) -> list[int]:
    """Return the largest integers, as far as the sizes that limit them are known."""
    sizes = ((size_of(source, axis), less) for source, axis, less in limits)
    return [size - less for size, less in sizes if size]


def depths(value: ir.Value) -> list[int]:
    """Return the largest classes of the OneHots that read this value, as far as they are known."""
    found = []
    for node, position in uses_of_same_numbers(value, frozenset()):
        depth = constant(node.inputs[1]) if node.op_type == "OneHot" and position == 0 else None
        if depth is not None and depth.size == 1 and int(depth.flat[0]) > 0:
            found.append(int(depth.flat[0]) - 1)
    return found


def columns(model: ir.Model, value: ir.Value) -> tuple[int, list[Most]] | None:
    """Return an axis, and for each place along it the largest position that is looked up with it.

    As where the columns of a table of classes are looked up in a table each.
    """
    found: dict[int, dict[int, Most]] = {}
    for node, position in uses_of_same_numbers(value, frozenset(), frozenset(["Cast", "Identity"])):
        source = node.inputs[position]
        if source is None:
            continue
        parts = _of_parts(node, position, source)
        for axis, place, limit in [*parts, *_of_tuples(model, node, position)]:
            limits = found.setdefault(axis, {})
            before = limits.get(place)
            is_smaller = isinstance(before, int) and isinstance(limit, int) and before < limit
            limits[place] = before if is_smaller else limit
    for axis, limits in found.items():
        size = size_of(value, axis)
        if size is not None and len(set(limits.values())) + (len(limits) < size) > 1:
            return axis, [limits.get(place) for place in range(size)]
    return None


def _of_parts(node: ir.Node, position: int, source: ir.Value) -> Iterator[tuple[int, int, int]]:
    """Yield an axis, places along it that a node takes, and the largest position in each."""
    rank = rank_of(source)
    if node.op_type not in ("Gather", "Slice", "Split") or position != 0 or rank is None:
        return
    if node.op_type == "Slice":
        starts, ends, axes = (
            integers(node, name, index) for index, name in enumerate(("starts", "ends", "axes"), 1)
        )
        if not len(starts) == len(ends) == len(axes) == 1 or integers(node, "steps", 4) not in (
            [],
            [1],
        ):
            return
        (axis,) = axes
    else:
        axis = node.attributes.get_int("axis", 0)
    size = size_of(source, axis)
    if size is None:
        return
    every = np.arange(size)
    if node.op_type == "Slice":
        parts = [every[starts[0] : ends[0]]]
    elif node.op_type == "Gather":
        indices = constant(node.inputs[1])
        parts = [] if indices is None else [np.atleast_1d(every[indices % size])]
    else:
        sizes = integers(node, "split", 1) or [-(-size // len(node.outputs))] * len(node.outputs)
        parts = np.split(every, np.cumsum(sizes)[:-1])
    for part, result in zip(parts, node.outputs, strict=False):
        limits = [*known(limits_of(result, frozenset())), *depths(result)]
        if limits:
            yield from ((axis % rank, int(place), min(limits)) for place in part.reshape(-1))


def _of_tuples(model: ir.Model, node: ir.Node, position: int) -> Iterator[tuple[int, int, Most]]:
    """Yield the last axis of tuples of positions, places in them, and the largest positions."""
    data, indices = node.inputs[:2] if node.op_type in _BY_TUPLES else (None, None)
    if position != 1 or data is None or indices is None:
        return
    rank, first = rank_of(indices), node.attributes.get_int("batch_dims", 0)
    if rank is None:
        return
    for place in range(size_of(indices, -1) or 0):
        size = size_of(data, first + place)
        if size:
            yield rank - 1, place, size - 1
        elif free := axis_of_input(model, data, first + place):
            yield rank - 1, place, (*free, 1)


def reach(model: ir.Model, value: ir.Value) -> int | None:
    """Return the largest position that may be computed of this value, or None if it is unknown.

    Whether a model accepts it can only be tried. What is divided on the way goes further: seconds
    that an hour is computed of, up to the last hour that is looked up. What is taken modulo a
    number goes through it twice.
    """
    divided, limits = 1, []
    for node, position in uses_of_same_numbers(value, ARITHMETIC):
        limits += known(_limits_at(node, position))
        of_tuples = (most for _, _, most in _of_tuples(model, node, position))
        limits += (most for most in of_tuples if isinstance(most, int))
        is_divided = node.op_type in ("Div", "Mod") and position == 0
        divisor = number_of(node.inputs[1]) if is_divided else None
        if divisor is None or divisor <= 1:
            continue
        if node.op_type == "Div" and divisor.is_integer():
            divided *= int(divisor)
        if node.op_type == "Mod" and divisor <= _LARGEST_LIMIT:
            limits.append(2 * int(divisor))
    if not limits:
        return None
    return min((max(limits) + 1) * divided - 1, _LARGEST_REACH)


def of_inputs(model: ir.Model, limits: Iterable[_Limit]) -> set[tuple[str, int, int]]:
    """Return the inputs and axes that have the free sizes among those that limit integers."""
    found = set()
    for source, axis, less in limits:
        if size_of(source, axis) is None and (place := axis_of_input(model, source, axis)):
            found.add((*place, less))
    return found


def compared_with(value: ir.Value) -> Iterator[int]:
    """Yield the integers at which this value's content is what it is compared with, or limited to.

    It may have been multiplied or added to before. Those of a narrower type, of 16 bits at most,
    are limited to what it holds: beyond, they wrap around.
    """
    for node, position, factor, term in _affine_uses(value):
        if node.op_type in COMPARISONS | LIMITING | _BY_BITS:
            others = [other for place, other in enumerate(node.inputs) if place != position]
            for content in map(constant, others):
                if content is not None and content.dtype.kind in "iuf" and content.size <= 16:
                    numbers = [int(each) for each in content.reshape(-1) if math.isfinite(each)]
                    is_limit = node.op_type in LIMITING
                    yield from (
                        (n - term) // factor
                        for n in numbers
                        if not is_limit or abs(n) <= _LARGEST_LIMIT
                    )
        for name in _VOCABULARIES:
            if name in node.attributes:
                yield from node.attributes[name].as_ints()[:_MOST_OF_VOCABULARY]
        if factor == 1 and not term:
            yield from _ends_of_narrower(node)
        if node.op_type in _LABELLED and position == 1 and "ignore_index" in node.attributes:
            yield node.attributes.get_int("ignore_index", 0)


def _affine_uses(value: ir.Value) -> Iterator[tuple[ir.Node, int, int, int]]:
    """Yield the uses of a value, and of a·x + b computed of it, with a and b: a node, and where."""
    pending, seen = deque([(value, 1, 0)]), {value}
    while pending:
        read, factor, term = pending.popleft()
        for node, position in read.uses():
            yield node, position, factor, term
            made = _affine(node, position, factor, term)
            if made is not None:
                pending.extend((out, *made) for out in node.outputs if out not in seen)
                seen.update(node.outputs)


def _affine(node: ir.Node, position: int, factor: int, term: int) -> tuple[int, int] | None:
    """Return a and b of what a node computes of an operand a·x + b; None of other functions.

    What else is computed and added may be 0, as the first position in a text is.
    """
    if node.op_type in SAME_NUMBERS:
        return factor, term
    if node.op_type not in ("Add", "Mul", "Sub") or (node.op_type == "Sub" and position):
        return None
    if constant(node.inputs[1 - position]) is None:
        return None if node.op_type == "Mul" else (factor, term)
    step = number_of(node.inputs[1 - position])
    if step is None or not step.is_integer():
        return None
    if node.op_type == "Mul":
        return (factor * int(step), term * int(step)) if step >= 1 else None
    return factor, term + int(step if node.op_type == "Add" else -step)


def _ends_of_narrower(node: ir.Node) -> Iterator[int]:
    """Yield the ends of the type of integers that a Cast converts wider ones to."""
    source, result = node.inputs[0] if node.inputs else None, node.outputs[0].dtype
    if node.op_type != "Cast" or source is None or source.dtype is None or result is None:
        return
    are_whole = source.dtype.is_integer() and result.is_integer()
    if are_whole and 8 <= result.bitwidth <= 16 and result.bitwidth < source.dtype.bitwidth:
        limits = np.iinfo(result.numpy())
        yield from (int(limits.min), int(limits.max))


def is_mask(value: ir.Value) -> bool:
    """Say whether what is computed of a value is (1 − x)·c, with a large c, as of a mask.

    An attention mask is 1 where something is read, and 0 where it is not: a large negative number
    is added there. Other integers mean nothing.
    """
    for node, position in uses_of_same_numbers(value, frozenset()):
        if node.op_type == "Sub" and position == 1 and number_of(node.inputs[0]) == 1.0:
            for scaling, place in uses_of_same_numbers(node.outputs[0], frozenset()):
                factor = number_of(scaling.inputs[1 - place]) if scaling.op_type == "Mul" else None
                if factor is not None and abs(factor) >= _MASKING:
                    return True
    return False


def uses_of_same_numbers(
    value: ir.Value, others: frozenset[str], same: frozenset[str] = SAME_NUMBERS
) -> Iterator[tuple[ir.Node, int]]:
    """Yield the uses of a value, past operators that pass its numbers on, and `others`."""
    pending, seen = deque([value]), {value}
    while pending:
        for node, position in pending.popleft().uses():
            yield node, position
            is_data = position != _BESIDE_DATA.get(node.op_type, -1)
            if node.op_type in same or (node.op_type in others and is_data):
                pending.extend(output for output in node.outputs if output not in seen)
                seen.update(node.outputs)
