"""Slice once instead of twice.

    Slice(Slice(x; s, e, t); s', e', t') = Slice(x; s + t·s', min(e, s + t·e'), t·t')

along one axis; along different axes, one Slice has the bounds of both.

Conditions: only Slices read the result in between, 8 at most, and each can read x instead; starts,
ends, axes and steps are constants.
Where the size of an axis that both slice is not known, neither counts its start from the end, both
step forward, and what the end counts from follows from one of the two ends.

Profit: an operator and a copy less. torch exports `x[:, a:b, c:d]` as a Slice for each axis.

BITWISE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from bnfold.graph.constants import constant
from bnfold.graph.sizes import ENDLESS, sliced
from bnfold.rewriting.contract import Exactness, Op, Operand, Replace, Weight, rewrite
from bnfold.rewriting.query import (
    input_of,
    ints_attribute,
    opset,
    producer,
    rank_of,
    readers_alike,
    size_of,
)

_INPUTS = ("starts", "ends", "axes", "steps")

_INPUTS_SINCE = 10


@dataclass(frozen=True)
class _Bounds:
    """Where a Slice starts and ends along an axis; what is below 0 counts from the end."""

    start: int
    end: int
    step: int = 1


@rewrite("merge-slices", roots=["Slice"], exactness=Exactness.BITWISE, refusals=[])
def merge_slices(node: ir.Node) -> Replace | None:
    """Let the second of two Slices read what the first one reads."""
    first = producer(node, 0, "Slice")
    data = input_of(first, 0) if first is not None else None
    if first is None or data is None:
        return None
    inner, readers = _bounds(first), readers_alike(first.outputs[0], "Slice")
    if inner is None or node not in readers:
        return None
    merged = {reader: _of_both(data, inner, _bounds(reader)) for reader in readers}
    bounds = merged[node]
    if bounds is None or None in merged.values():
        return None
    return Replace([first, node], {node.outputs[0]: _slice(node, data, bounds)})


def _of_both(
    data: ir.Value, inner: Mapping[int, _Bounds], outer: Mapping[int, _Bounds] | None
) -> Mapping[int, _Bounds] | None:
    """Return the bounds of two Slices by axis, or None if they depend on sizes."""
    if outer is None:
        return None
    merged = {**inner, **outer}
    for axis in inner.keys() & outer.keys():
        both = _composed(inner[axis], outer[axis], size_of(data, axis))
        if both is None:
            return None
        merged[axis] = both
    return dict(sorted(merged.items()))


def _bounds(node: ir.Node) -> Mapping[int, _Bounds] | None:
    """Return the bounds by axis, if they are constant and each axis has a number."""
    given = [_integers(node, place) for place in range(len(_INPUTS))]
    starts, ends, axes, steps = given
    if starts is None or ends is None or axes is None or steps is None:
        return None
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    rank = rank_of(node.inputs[0])
    if rank is not None:
        axes = [axis + rank if axis < 0 else axis for axis in axes]
    lengths = {len(starts), len(ends), len(axes), len(steps), len(set(axes))}
    if len(lengths) > 1 or min(axes, default=0) < 0:
        return None
    bounds = map(_Bounds, starts, ends, steps)
    return dict(zip(axes, bounds, strict=True))


def _integers(node: ir.Node, place: int) -> list[int] | None:
    """Return a parameter, or nothing if it is left out; None if it is computed."""
    if opset(node) < _INPUTS_SINCE:
        return list(ints_attribute(node, _INPUTS[place]))
    value = input_of(node, place + 1)
    if value is None:
        return []
    content = constant(value)
    return None if content is None else [int(number) for number in content.reshape(-1)]


def _composed(inner: _Bounds, outer: _Bounds, size: int | None) -> _Bounds | None:
    """Return the bounds of both along one axis, or None if they depend on its size."""
    is_plain = min(inner.start, outer.start) >= 0 and min(inner.step, outer.step) > 0
    end = _end(inner, outer) if is_plain else None
    if end is None:
        return None if size is None else _of_known_size(inner, outer, size)
    return _Bounds(inner.start + inner.step * outer.start, end, inner.step * outer.step)


def _of_known_size(inner: _Bounds, outer: _Bounds, size: int) -> _Bounds | None:
    first = sliced(inner.start, inner.end, inner.step, size)
    second = None if first is None else sliced(outer.start, outer.end, outer.step, len(first))
    if first is None or second is None:
        return None
    if not second:
        return _Bounds(0, 0)
    places = [first[second[place]] for place in (0, -1)]
    step = first.step * second.step
    end = places[1] + (1 if step > 0 else -1)
    return _Bounds(places[0], end if end >= 0 else -size - 1, step)


def _end(inner: _Bounds, outer: _Bounds) -> int | None:
    """Return the end of both, of Slices that start at a number and step forward."""
    if outer.end >= ENDLESS:
        return inner.end
    if outer.end >= 0:
        end = inner.start + inner.step * outer.end
        return None if inner.end < 0 else min(inner.end, end)
    if inner.step > 1 or 0 <= inner.end < ENDLESS:
        return None
    return outer.end + min(inner.end, 0)


def _within_range(number: int) -> int:
    """Return the nearest number of 64 bits: beyond them, no axis has more elements to leave out."""
    return min(max(number, -(2**63)), 2**63 - 1)


def _slice(node: ir.Node, data: ir.Value, bounds: Mapping[int, _Bounds]) -> Op:
    """Return a Slice as the operator set of a node has it."""
    parameters = {
        "starts": [_within_range(each.start) for each in bounds.values()],
        "ends": [_within_range(each.end) for each in bounds.values()],
        "axes": list(bounds),
        "steps": [_within_range(each.step) for each in bounds.values()],
    }
    if opset(node) < _INPUTS_SINCE:
        attributes = [ir.AttrInt64s(name, parameters[name]) for name in _INPUTS[:3]]
        return Op("Slice", [data], attributes, node)
    stem = node.outputs[0].name
    weights: list[Operand] = [
        Weight.of_integers(numbers, f"{stem}.{name}") for name, numbers in parameters.items()
    ]
    return Op("Slice", [data, *weights], (), node)
