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
from bnfold.graph.shapes import size_of
from bnfold.proof.hinted_sizes import (
    COMPARISONS,
    LARGEST_CUT,
    SAME_NUMBERS,
    axis_of_input,
    cuts,
    thresholds,
)
from bnfold.proof.learned import learned
from bnfold.running.inputs import Hints

TABLES = {"Gather": (0, 1), "GatherElements": (0, 1)}
"""Operators that look up positions along an axis: which inputs are the table and the positions."""

_LENGTHS = {"GRU": 4, "LSTM": 4, "RNN": 4, "ReverseSequence": 1}
"""Operators that take lengths of sequences, and as which input; the sequences are the first."""

_LIMITS = frozenset(["Clip", "Max", "Min"])
"""Operators that limit what they read, such as positions before they are looked up."""

_AT_ZERO = frozenset(["NonZero", "Sign"])
"""Operators that do something else at zero, as does a Cast to booleans."""

_OF_ATTRIBUTES = {"Clip": ("min", "max"), "Shrink": ("lambd",), "ThresholdedRelu": ("alpha",)}
"""Operators that do something else from a number on that is an attribute; of Clip, before operator
set 11."""

_DEFAULTS = {"lambd": 0.5, "alpha": 1.0}

_KEEPS_POSITIVE = frozenset(["Abs", "Relu"])
"""Operators that pass positive numbers on unchanged."""

_LARGEST_LEVEL = 1e4
"""Numbers with which floats are compared: larger ones mean that nothing is as large."""

_MOST_LEVELS = 4

_LARGEST_OVERRIDE = 2**20
"""Elements of an overridable initializer up to which it is overridden in a sample."""

_MOST_WRITTEN = 8
"""Sizes in the constants of Reshapes that are tried, where the usual ones do not run."""

_OF_EACH = 2
"""Cuts and thresholds of each of two models that are tried."""


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
    sizes = [size for size, _ in found.most_common() if 1 < size <= LARGEST_CUT]
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
        if size_of(source, axis) is None and (place := axis_of_input(model, source, axis)):
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
    """Return the numbers that float inputs are compared with or limited by.

    At most a few for each input, the least first.
    """
    found = {}
    for value in model.graph.inputs:
        if value.dtype is None or not value.dtype.is_floating_point():
            continue
        numbers: set[float] = set()
        for node, _ in _uses_of_same_numbers(value, _KEEPS_POSITIVE):
            numbers.update(_levels_of(node))
        levels = sorted(each for each in numbers if abs(each) <= _LARGEST_LEVEL)
        if levels:
            found[value.name or ""] = sorted(levels, key=abs)[:_MOST_LEVELS]
    return found


def _levels_of(node: ir.Node) -> Iterator[float]:
    """Yield the numbers at which an operator does something else."""
    if node.op_type in COMPARISONS | _LIMITS:
        contents = [constant(other) for other in node.inputs if other is not None]
        yield from (float(each.flat[0]) for each in contents if each is not None and each.size == 1)
    makes_booleans = node.op_type == "Cast" and node.outputs[0].dtype == ir.DataType.BOOL
    if node.op_type in _AT_ZERO or makes_booleans:
        yield 0.0
    for name in _OF_ATTRIBUTES.get(node.op_type, ()):
        number = node.attributes.get_float(name, _DEFAULTS.get(name))
        if number is not None:
            yield from (number, -number) if node.op_type == "Shrink" else (number,)


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
    return Hints(cuts=cuts(model), thresholds=thresholds(model), levels=_levels(model))
