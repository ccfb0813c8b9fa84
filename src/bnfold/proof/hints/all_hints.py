"""What a model's graph says of its inputs: their content, and the sizes to try."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import onnx_ir as ir

from bnfold.graph.constants import constant
from bnfold.proof.hints.demanded_sizes import demanded_sizes
from bnfold.proof.hints.differing_rows import differing_rows, differing_sizes
from bnfold.proof.hints.integers import (
    LIMITING,
    columns,
    compared_with,
    depths,
    is_mask,
    known,
    limits_of,
    of_inputs,
    reach,
)
from bnfold.proof.hints.levels import Levels, deciding, few, few_of_both, levels
from bnfold.proof.hints.sizes import LARGEST_CUT, cuts, thresholds
from bnfold.proof.hints.words import missing, words
from bnfold.running.hints import Hints

_Item = TypeVar("_Item", int, float, str)

_LARGEST_OVERRIDE = 2**20
"""Elements of an overridable initializer up to which it is overridden in a sample."""

_MOST_WRITTEN = 8
"""Sizes in the constants of Reshapes that are tried, where the usual ones do not run."""

_OF_EACH = 2
"""Cuts and thresholds of each of two models that are tried."""


def hints_of(model: ir.Model) -> Hints:
    """Return what the graph says of the content and sizes of its inputs."""
    hints = replace(
        _where_it_changes(model, levels(model)),
        written=_written(model),
        sizes=demanded_sizes(model),
    )
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
        if is_integer and not hints.limits(name) and is_mask(value):
            hints.largest[name] = 1
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


def beside(own: Hints, model: ir.Model, other: ir.Model) -> Hints:
    """Return a model's hints, with those on where another does something else, or has other rows.

    Of both, there are some sizes only.
    """
    found = levels(model), levels(other)
    theirs = _where_it_changes(other, found[1])
    numbers = few_of_both(*found)
    more = [each for each in theirs.cuts if each not in own.cuts]
    further = [each for each in theirs.thresholds if each not in own.thresholds]
    return replace(
        own,
        levels=numbers,
        exact=deciding(numbers, *found),
        missing=_united(own.missing, theirs.missing),
        words=_united(own.words, theirs.words),
        compared=_united(own.compared, theirs.compared),
        rows=differing_rows(model, other),
        cuts=[*own.cuts[:_OF_EACH], *more[:_OF_EACH]],
        thresholds=[
            *differing_sizes(model, other)[:_OF_EACH],
            *own.thresholds[:_OF_EACH],
            *further[:_OF_EACH],
        ],
    )


def _united(
    own: Mapping[str, list[_Item]], others: Mapping[str, list[_Item]]
) -> dict[str, list[_Item]]:
    """Return what both have under each name, once."""
    return {
        name: list(dict.fromkeys(own.get(name, []) + others.get(name, [])))
        for name in (*own, *others)
    }


def _where_it_changes(model: ir.Model, found: Levels) -> Hints:
    """Return the sizes, and the numbers of its inputs, at which a model does something else."""
    floats = [each for each in model.graph.inputs if each.dtype and each.dtype.is_floating_point()]
    whole = {
        value.name or "": sorted(set(compared_with(value)))
        for value in model.graph.inputs
        if not value.is_initializer() and value not in floats
    }
    strings = [each for each in model.graph.inputs if each.dtype is ir.DataType.STRING]
    none = {value.name or "": missing(value) for value in floats}
    return Hints(
        missing={name: numbers for name, numbers in none.items() if numbers},
        words={value.name or "": words(value) for value in strings},
        cuts=cuts(model),
        thresholds=thresholds(model),
        levels=few(found),
        exact=deciding(few(found), found),
        compared={name: numbers for name, numbers in whole.items() if numbers},
    )
