"""The operators that carry a per-channel affine map because they only move elements, or copy them.

Each function follows the channels to their place on the other side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import Affine
from bnfold.algebra.affine_maps.carrying import (
    Carrier,
    Direction,
    NotCarried,
    known_rank,
    last_sizes,
    through_removed_axes,
)
from bnfold.arrays import IntArray
from bnfold.graph.constants import constant
from bnfold.graph.sizes import sliced
from bnfold.rewriting.contract import Common, Refused, require
from bnfold.rewriting.query import (
    int_attribute,
    ints_attribute,
    ints_parameter,
    opset,
    size_of,
    string_attribute,
)

MOST_CHANNELS = 2**24
"""Maximum number of channels that are followed one by one: no weight has as many."""


def _transpose(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """Output axis i is input axis perm[i]."""
    rank = known_rank(node.inputs[0], node)
    permutation = ints_attribute(node, "perm", list(range(rank))[::-1])
    if affine.is_uniform:
        return affine
    if direction is Direction.TO_INPUT:
        return affine.along(permutation[affine.axis])
    return affine.along(permutation.index(affine.axis))


def _squeeze(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    data = node.inputs[0]
    rank = known_rank(data, node)
    axes = ints_parameter(node, "axes", 1)
    if axes is None:
        sizes = last_sizes(data, node)
        require(len(sizes) == rank, Common.SHAPE_UNKNOWN, node)
        axes = tuple(axis for axis, size in enumerate(sizes) if size == 1)
    return through_removed_axes(affine, node, {axis % rank for axis in axes}, rank, direction)


def _unsqueeze(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    axes = ints_parameter(node, "axes", 1, ())
    rank = known_rank(node.inputs[0], node) + len(axes)
    opposite = Direction.TO_OUTPUT if direction is Direction.TO_INPUT else Direction.TO_INPUT
    return through_removed_axes(affine, node, {axis % rank for axis in axes}, rank, opposite)


def _reshape(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """Follow the channels to another shape of the same elements, compared by the last axes.

    In memory order, each scale repeats in a run as long as the product of the axes after the
    channels, with a period of C runs. The shortest suffix of the other shape that holds whole
    periods starts with the only axis along which the scale can vary: fewer axes hold none, and an
    axis before it sees whole periods. It varies along this axis alone if each step along the axis
    stays within one run.
    """
    if affine.is_uniform:
        return affine
    here, there = node.inputs[0], node.outputs[0]
    if direction is Direction.TO_INPUT:
        here, there = there, here
    axes_after = known_rank(here, node) - affine.axis - 1
    sizes = last_sizes(here, node)
    require(len(sizes) >= axes_after, Common.SHAPE_UNKNOWN, node)
    affine = _shortest(affine)
    run = math.prod(sizes[len(sizes) - axes_after :]) * affine.run
    period = run * affine.scale.size
    require(period > 0, NotCarried.AXIS_LOST, node)
    if affine.is_uniform:
        return affine
    step = 1  # along the axis, in elements
    for after, size in enumerate(reversed(last_sizes(there, node))):
        whole = step * size
        if whole > 0 and whole % period == 0:
            require(run % step == 0, NotCarried.AXIS_LOST, node)
            axis = known_rank(there, node) - 1 - after
            return replace(affine, axis=axis, run=run // step, periods=whole // period)
        step = whole
    raise Refused(NotCarried.AXIS_LOST, node)


def _shortest(affine: Affine) -> Affine:
    """Return the same map with the fewest scales: the shortest period, of the longest runs."""
    scale, shift = affine.scale, affine.shift
    count = scale.size
    differs = (scale[1:] != scale[:-1]) | (shift[1:] != shift[:-1])
    if not differs.any():
        return Affine(scale[:1], shift[:1], affine.axis)
    for period in _divisors(count):
        if all(np.array_equal(values[period:], values[:-period]) for values in (scale, shift)):
            count = period
            break
    changes = np.flatnonzero(differs[: count - 1]) + 1
    run = math.gcd(count, int(np.gcd.reduce(changes)))
    periods = affine.periods * (scale.size // count)
    part = slice(0, count, run)
    return Affine(scale[part], shift[part], affine.axis, affine.run * run, periods)


def _divisors(number: int) -> list[int]:
    """Return the divisors except 1 and the number itself, in order."""
    small = [n for n in range(2, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _slice(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """Along other axes than the channels' it picks positions, whichever they are."""
    if affine.is_uniform or affine.axis not in _sliced_axes(node):
        return affine
    return _through_choice(affine, node, *_sliced(node, affine.axis), direction)


def _sliced_axes(node: ir.Node) -> list[int]:
    rank = known_rank(node.inputs[0], node)
    axes = ints_parameter(node, "axes", 3)
    if axes is None:
        axes = tuple(range(len(ints_parameter(node, "starts", 1, ()))))
    return [axis % rank for axis in axes]


def _sliced(node: ir.Node, axis: int) -> tuple[IntArray, int]:
    """Return what a Slice picks along an axis, and of how many."""
    axes = _sliced_axes(node)
    ones = (1,) * len(axes)
    bounds = [
        ints_parameter(node, name, index, ones if name == "steps" else ())
        for index, name in ((1, "starts"), (2, "ends"), (4, "steps"))
    ]
    count = size_of(node.inputs[0], axis)
    are_read = axes.count(axis) == 1 and all(len(each) == len(axes) for each in bounds)
    if count is None or not are_read:
        raise Refused(Common.SHAPE_UNKNOWN, node)
    start, end, step = (each[axes.index(axis)] for each in bounds)
    kept = sliced(start, end, step, count)
    if kept is None:
        raise Refused(Common.SHAPE_UNKNOWN, node)
    require(count <= MOST_CHANNELS, NotCarried.TOO_MANY_CHANNELS, node)
    return np.array(kept, np.int64), count


def _gather(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """Along other axes than the channels' it picks positions, and has as many axes as the indices.

    A single index along the channels leaves one of them.
    """
    if affine.is_uniform:
        return affine
    axis = int_attribute(node, "axis", 0) % known_rank(node.inputs[0], node)
    indexed = known_rank(node.inputs[1], node)
    to_output = direction is Direction.TO_OUTPUT
    after, more = (axis + 1, indexed - 1) if to_output else (axis + indexed, 1 - indexed)
    if affine.axis < axis:
        return affine
    if affine.axis >= after:
        return affine.along(affine.axis + more)
    require(indexed <= 1, NotCarried.AXIS_LOST, node)
    return _through_choice(affine, node, *_gathered(node, axis), direction)


def _gathered(node: ir.Node, axis: int) -> tuple[IntArray, int]:
    """Return what a Gather picks along its axis, and of how many."""
    indices, count = constant(node.inputs[1]), size_of(node.inputs[0], axis)
    if indices is None:
        raise Refused(Common.PARAMETER_NOT_CONSTANT, node)
    if count is None:
        raise Refused(Common.SHAPE_UNKNOWN, node)
    require(0 < count <= MOST_CHANNELS, NotCarried.TOO_MANY_CHANNELS, node)
    return indices.reshape(-1).astype(np.int64) % count, count


def axes_picked_along(node: ir.Node) -> list[int]:
    """Return along which axes a Slice or Gather picks.

    Raises:
        Refused: SHAPE_UNKNOWN, if the rank of the input is not known.
    """
    if node.op_type == "Gather":
        return [int_attribute(node, "axis", 0) % known_rank(node.inputs[0], node)]
    return _sliced_axes(node)


def picked(node: ir.Node, axis: int) -> tuple[IntArray, int]:
    """Return what a Slice or Gather picks along an axis, and of how many.

    Raises:
        Refused: PARAMETER_NOT_CONSTANT, SHAPE_UNKNOWN or TOO_MANY_CHANNELS, if that is not known.
    """
    return _gathered(node, axis) if node.op_type == "Gather" else _sliced(node, axis)


def of_what_is_picked(affine: Affine, node: ir.Node) -> Affine:
    """Return the map of the input of a Slice or Gather that changes only what it picks.

    The map is the same for all elements.
    """
    axis = axes_picked_along(node)[0]  # of several, any would do: it is what the others leave
    chosen, count = picked(node, axis)
    there = Affine(np.ones(count), np.zeros(count), axis)
    there.scale[chosen], there.shift[chosen] = affine.scale, affine.shift
    return there


def _through_choice(
    affine: Affine, node: ir.Node, chosen: IntArray, count: int, direction: Direction
) -> Affine:
    """Follow channels of which the output has the `chosen` ones, of `count`.

    To the input, what is chosen twice must have one scale and shift; what is not chosen, and so
    read by nothing, stays as it is.
    """
    require(chosen.size > 0, NotCarried.AXIS_LOST, node)
    if direction is Direction.TO_OUTPUT:
        require(affine.channels == count, NotCarried.AXIS_LOST, node)
        return affine.picked(chosen)
    require(affine.channels == chosen.size, NotCarried.AXIS_LOST, node)
    here = affine.spread()
    there = Affine(np.ones(count), np.zeros(count), affine.axis)
    there.scale[chosen], there.shift[chosen] = here.scale, here.shift
    _require_equal(there.picked(chosen), here, node)
    return there


def _depth_to_space(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """b² input channels make one output channel: c·b² + i in mode CRD, i·C + c in mode DCR."""
    in_row = string_attribute(node, "mode", "DCR") == "CRD"
    return _through_blocks(affine, node, in_row, joins=direction is Direction.TO_OUTPUT)


def _space_to_depth(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """Each input channel makes b² output channels, as for DepthToSpace in mode DCR."""
    return _through_blocks(affine, node, in_row=False, joins=direction is Direction.TO_INPUT)


def _tile(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """All of the channels, several times."""
    if affine.is_uniform:
        return affine
    repeats = ints_parameter(node, "repeats", 1, ())
    require(affine.axis < len(repeats) and opset(node) >= 6, NotCarried.AXIS_LOST, node)
    copies = repeats[affine.axis]
    require(copies > 0, NotCarried.AXIS_LOST, node)
    if direction is Direction.TO_OUTPUT:
        return _split(affine, copies, in_row=False)
    return _joined(affine, node, copies, in_row=False)


def _expand(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """The last axes are the same; along the channels, there is nothing to repeat."""
    if affine.is_uniform:
        return affine
    more = known_rank(node.outputs[0], node) - known_rank(node.inputs[0], node)
    axis = affine.axis - more if direction is Direction.TO_INPUT else affine.axis
    require(axis >= 0, NotCarried.AXIS_LOST, node)
    size = size_of(node.inputs[0], axis)
    require(size is not None, Common.SHAPE_UNKNOWN, node)
    require(size == affine.channels, NotCarried.AXIS_LOST, node)
    return affine.along(axis if direction is Direction.TO_INPUT else axis + more)


def _through_blocks(affine: Affine, node: ir.Node, in_row: bool, joins: bool) -> Affine:
    """Follow channels that are split into b² each, or joined: those `in_row`, or C apart."""
    if affine.is_uniform or affine.axis == 0:
        return affine
    require(affine.axis == 1, NotCarried.AXIS_POOLED, node)
    copies = int_attribute(node, "blocksize", 0) ** 2
    require(copies > 0, NotCarried.AXIS_LOST, node)
    return _joined(affine, node, copies, in_row) if joins else _split(affine, copies, in_row)


def _split(affine: Affine, copies: int, in_row: bool) -> Affine:
    """Return the map of several channels for each: next to each other, or in whole periods."""
    if in_row:
        return replace(affine, run=affine.run * copies)
    return replace(affine, periods=affine.periods * copies)


def _joined(affine: Affine, node: ir.Node, copies: int, in_row: bool) -> Affine:
    """Return the map of which `_split` makes this one."""
    channels = affine.channels
    require(channels % copies == 0, NotCarried.AXIS_LOST, node)
    require(channels <= MOST_CHANNELS, NotCarried.TOO_MANY_CHANNELS, node)
    chosen = np.arange(channels)[::copies] if in_row else np.arange(channels // copies)
    joined = affine.picked(chosen)
    _require_equal(_split(joined, copies, in_row).spread(), affine.spread(), node)
    return joined


def _require_equal(one: Affine, other: Affine, node: ir.Node) -> None:
    """Require that two maps that are spread are the same."""
    equal = all(
        np.array_equal(mine, others, equal_nan=True)
        for mine, others in ((one.scale, other.scale), (one.shift, other.shift))
    )
    require(equal, NotCarried.CHANNELS_MERGED, node)


MOVING: Mapping[str, Carrier] = {
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _reshape,
    "Reshape": _reshape,
    "Slice": _slice,
    "Gather": _gather,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Tile": _tile,
    "Expand": _expand,
}
