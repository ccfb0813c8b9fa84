"""What a model's graph says of its inputs: their content, and the sizes to try."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

import onnx_ir as ir

from bnfold.graph.constants import constant
from bnfold.proof.differing_rows import differing_rows
from bnfold.proof.hinted_integers import (
    LIMITING,
    columns,
    compared_with,
    depths,
    known,
    limits_of,
    of_inputs,
    reach,
    uses_of_same_numbers,
)
from bnfold.proof.hinted_sizes import COMPARISONS, LARGEST_CUT, cuts, thresholds
from bnfold.running.hints import Hints

_Number = TypeVar("_Number", int, float)

_AT_ZERO = frozenset(["NonZero", "Sign"])
"""Operators that do something else at zero, as does a Cast to booleans."""

_BETWEEN = {
    "Round": (0.5, -0.5, 1.5, -1.5),
    **dict.fromkeys(("Ceil", "Floor"), (0.0, 1.0, -1.0, 2.0)),
}
"""Operators that jump from one whole number to the next, and some places where they do."""

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
        limits = list(limits_of(value, frozenset()))
        sizes, limited = known(limits) + depths(value), known(limits_of(value, LIMITING))
        if sizes or limited:
            hints.largest[name] = min(sizes or limited)
            if not limits and not sizes:
                hints.clipped.add(name)
        if found := columns(model, value):
            hints.columns[name] = found
            numbers = [each for each in found[1] if isinstance(each, int)]
            hints.largest[name] = max(numbers, default=hints.largest.get(name, 1))
        if within := sorted(of_inputs(model, limits)):
            hints.within[name] = within
        is_integer = value.dtype is not None and value.dtype.is_integer()
        if is_integer and not hints.limits(name) and (most := reach(model, value)):
            hints.reach[name] = most
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


def _levels(model: ir.Model) -> dict[str, list[float]]:
    """Return the numbers that float inputs are compared with or limited by.

    At most a few for each input, the least first.
    """
    found = {}
    for value in model.graph.inputs:
        is_drawn = not value.is_initializer()  # others are overridden in some samples
        if value.dtype is None or not value.dtype.is_floating_point() or not is_drawn:
            continue
        numbers: set[float] = set()
        for node, _ in uses_of_same_numbers(value, _KEEPS_POSITIVE):
            numbers.update(_levels_of(node))
        levels = sorted(each for each in numbers if abs(each) <= _LARGEST_LEVEL)
        if levels:
            found[value.name or ""] = sorted(levels, key=abs)[:_MOST_LEVELS]
    return found


def _levels_of(node: ir.Node) -> Iterator[float]:
    """Yield the numbers at which an operator does something else."""
    if node.op_type in COMPARISONS | LIMITING:
        contents = [constant(other) for other in node.inputs if other is not None]
        yield from (float(each.flat[0]) for each in contents if each is not None and each.size == 1)
    makes_booleans = node.op_type == "Cast" and node.outputs[0].dtype == ir.DataType.BOOL
    if node.op_type in _AT_ZERO or makes_booleans:
        yield 0.0
    yield from _BETWEEN.get(node.op_type, ())
    for name in _OF_ATTRIBUTES.get(node.op_type, ()):
        number = node.attributes.get_float(name, _DEFAULTS.get(name))
        if number is not None:
            yield from (number, -number) if node.op_type == "Shrink" else (number,)


def beside(own: Hints, model: ir.Model, other: ir.Model) -> Hints:
    """Return a model's hints, with those on where another does something else, or has other rows.

    Of both, there are some sizes only.
    """
    theirs = _where_it_changes(other)
    more = [each for each in theirs.cuts if each not in own.cuts]
    further = [each for each in theirs.thresholds if each not in own.thresholds]
    return replace(
        own,
        levels=_of_both(own.levels, theirs.levels),
        compared=_of_both(own.compared, theirs.compared),
        rows=differing_rows(model, other),
        cuts=[*own.cuts[:_OF_EACH], *more[:_OF_EACH]],
        thresholds=[*own.thresholds[:_OF_EACH], *further[:_OF_EACH]],
    )


def _of_both(
    own: dict[str, list[_Number]], others: dict[str, list[_Number]]
) -> dict[str, list[_Number]]:
    merged: dict[str, list[_Number]] = {}
    for name in (*own, *others):
        merged[name] = sorted(set(own.get(name, [])) | set(others.get(name, [])))
    return merged


def _where_it_changes(model: ir.Model) -> Hints:
    """Return the sizes, and the numbers of its inputs, at which a model does something else."""
    whole = {
        value.name or "": sorted(set(compared_with(value)))
        for value in model.graph.inputs
        if not value.is_initializer()
    }
    return Hints(
        cuts=cuts(model),
        thresholds=thresholds(model),
        levels=_levels(model),
        compared={name: numbers for name, numbers in whole.items() if numbers},
    )
