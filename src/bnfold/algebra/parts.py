"""How a per-channel affine map passes a Concat: each of its inputs holds a part of the result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine import Affine
from bnfold.algebra.carry_moving import MOST_CHANNELS
from bnfold.algebra.carrying import NotCarried, known_rank
from bnfold.rewriting.contract import Common, Refused, require
from bnfold.rewriting.query import int_attribute, size_of


def divided(affine: Affine, concat: ir.Node) -> list[Affine]:
    """Return the map of each input of a Concat, for one of its result.

    Along the channels, an input takes its part of the map; along other axes, all of it.
    """
    axis = _axis(concat, concat.outputs[0])
    if affine.is_uniform or affine.axis != axis:
        return [affine] * len(concat.inputs)
    maps, start = [], 0
    for length in _sizes(concat.inputs, axis, concat):
        maps.append(affine.piece(start, length))
        start += length
    return maps


def joined(maps: Sequence[Affine | None], concat: ir.Node) -> Affine:
    """Return the map of the result of a Concat, for those of its inputs; None is no map at all.

    Along the channels, it consists of theirs. Along another axis, all inputs need the same map.
    """
    known = [affine for affine in maps if affine is not None]
    axis = _axis(concat, concat.outputs[0])
    if len(known) == len(maps) and _is_one(known, axis):
        return known[0]
    along = all(affine.is_uniform or affine.axis == axis for affine in known)
    require(along, NotCarried.PARTS_DIFFER, concat)
    sizes = _sizes(concat.inputs, axis, concat)
    require(sum(sizes) <= MOST_CHANNELS, NotCarried.TOO_MANY_CHANNELS, concat)
    parts = [_over(affine, size) for affine, size in zip(maps, sizes, strict=True)]
    scale = np.concatenate([part.scale for part in parts])
    return Affine(scale, np.concatenate([part.shift for part in parts]), axis)


def _over(affine: Affine | None, channels: int) -> Affine:
    """Return the map with a scale and shift for each of so many channels."""
    if affine is None:
        return Affine(np.ones(channels), np.zeros(channels), 0)
    if affine.is_uniform:
        scale, shift = (np.repeat(each, channels) for each in (affine.scale, affine.shift))
        return Affine(scale, shift, affine.axis)
    return affine.spread()


def _is_one(maps: Sequence[Affine], axis: int) -> bool:
    """Say whether all are the same map, of which no part depends on the place along the axis."""
    first = maps[0]
    return (first.is_uniform or first.axis != axis) and all(
        (first.is_uniform or affine.axis == first.axis)
        and (affine.run, affine.periods) == (first.run, first.periods)
        and np.array_equal(affine.scale, first.scale)
        and np.array_equal(affine.shift, first.shift)
        for affine in maps
    )


def _axis(node: ir.Node, value: ir.Value | None) -> int:
    return int_attribute(node, "axis", 1) % known_rank(value, node)


def _sizes(values: Sequence[ir.Value | None], axis: int, subject: ir.Node) -> list[int]:
    sizes = [size_of(value, axis) for value in values]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        raise Refused(Common.SHAPE_UNKNOWN, subject)
    return known
