"""How a per-channel affine map passes a Concat or a Split: between a tensor and its parts.

The inputs of a Concat are the parts of its output, the outputs of a Split those of its input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import Affine
from bnfold.algebra.affine_maps.carry_moving import MOST_CHANNELS
from bnfold.algebra.affine_maps.carrying import NotCarried, known_rank
from bnfold.rewriting.contract import Common, Refused, require
from bnfold.rewriting.query import int_attribute, ints_parameter, is_op, size_of

MOST_PARTS = 256
"""Maximum number of parts of which one may have a map of its own: each makes all anew."""


def require_few_parts(node: ir.Node) -> None:
    """Require that the Concat or Split has at most `MOST_PARTS`."""
    require(len(_parts(node)) <= MOST_PARTS, NotCarried.TOO_MANY_PARTS, node)


def divided(affine: Affine, node: ir.Node) -> list[Affine]:
    """Return the map of each part of a Concat or Split, for that of the whole.

    Along the channels, each has its part of the map; along other axes, all of it.
    """
    axis = _axis(node)
    if affine.is_uniform or affine.axis != axis:
        return [affine] * len(_parts(node))
    maps, start = [], 0
    for length in _sizes(node, axis):
        maps.append(affine.piece(start, length))
        start += length
    return maps


def joined(maps: Sequence[Affine | None], node: ir.Node) -> Affine:
    """Return the map of the whole, for those of the parts of a Concat or Split; None is no map.

    Along the channels, it consists of theirs. Along another axis, all need the same map.
    """
    known = [affine for affine in maps if affine is not None]
    axis = _axis(node)
    if len(known) == len(maps) and _is_one(known, axis):
        return known[0]
    along = all(affine.is_uniform or affine.axis == axis for affine in known)
    require(along, NotCarried.PARTS_DIFFER, node)
    sizes = _sizes(node, axis)
    require(sum(sizes) <= MOST_CHANNELS, NotCarried.TOO_MANY_CHANNELS, node)
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


def _parts(node: ir.Node) -> Sequence[ir.Value | None]:
    return node.outputs if is_op(node, "Split") else node.inputs


def _axis(node: ir.Node) -> int:
    if is_op(node, "Split"):
        return int_attribute(node, "axis", 0) % known_rank(node.inputs[0], node)
    return int_attribute(node, "axis", 1) % known_rank(node.outputs[0], node)


def _sizes(node: ir.Node, axis: int) -> Sequence[int]:
    """Return the sizes of the parts along the axis."""
    given = ints_parameter(node, "split", 1) if is_op(node, "Split") else None
    if given is not None:
        return given
    if is_op(node, "Split"):  # into equal parts, of which the last may be smaller
        whole, count = size_of(node.inputs[0], axis), len(node.outputs)
        if whole is None:
            raise Refused(Common.SHAPE_UNKNOWN, node)
        most = -(-whole // count)
        return [min(most, max(0, whole - most * index)) for index in range(count)]
    sizes = [size_of(value, axis) for value in node.inputs]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        raise Refused(Common.SHAPE_UNKNOWN, node)
    return known
