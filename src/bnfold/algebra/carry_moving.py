"""The operators that carry a per-channel affine map because they only move elements, or copy them.

Each function follows the channels to their place on the other side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine import Affine
from bnfold.algebra.carrying import (
    Carrier,
    Direction,
    NotCarried,
    known_rank,
    last_sizes,
    through_removed_axes,
)
from bnfold.rewriting.contract import Common, Refused, require
from bnfold.rewriting.query import ints_attribute, ints_parameter


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
    """A Slice along other axes than the channels' picks positions, whichever they are."""
    if affine.is_uniform:
        return affine
    rank = known_rank(node.inputs[0], node)
    axes = ints_parameter(node, "axes", 3)
    if axes is None:
        axes = tuple(range(len(ints_parameter(node, "starts", 1, ()))))
    require(affine.axis not in {axis % rank for axis in axes}, NotCarried.AXIS_POOLED, node)
    return affine


MOVING: Mapping[str, Carrier] = {
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _reshape,
    "Reshape": _reshape,
    "Slice": _slice,
}
