"""Maps of which blocks of positions become channels, as exporters write them.

Concat of Slices     x[…, i::s, j::s] for several i and j, in one or more steps each
SpaceToDepth
Reshape, Transpose, Reshape     from (N, C, H, W) over (N, C, H/s, s, W/s, s)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from bnfold.graph.sizes import ENDLESS, sliced
from bnfold.rewriting.contract import Common, Refusal, Refused, require
from bnfold.rewriting.query import (
    input_of,
    int_attribute,
    ints_attribute,
    ints_parameter,
    is_op,
    producer,
    rank_of,
    shape_of,
    size_of,
)


class NotInBlocks(Refusal):
    """Why channels are not the positions of whole blocks."""

    PARTIAL = "the Slices do not keep every position of a block, to the end of each axis"


_MOST_CHANNELS = 2**16
"""More than any Conv reads; a block size may be any number, and all places are listed."""


@dataclass(frozen=True)
class Blocks:
    """A map made of another one: at each position, channels hold elements of a block of it."""

    data: ir.Value
    sizes: tuple[int, ...]
    """Of a block, along each spatial axis."""
    channels: Sequence[tuple[int, tuple[int, ...]]]
    """For each channel of the map, the channel of the data and the place within the block."""
    nodes: Sequence[ir.Node]


def blocks_before(node: ir.Node) -> Blocks | None:
    """Read what makes blocks of positions the channels that an operator reads; None if nothing.

    Raises:
        Refused: SHAPE_UNKNOWN, PARAMETER_NOT_CONSTANT, or with a reason from `NotInBlocks`.
    """
    source = producer(node, 0, "Concat", "SpaceToDepth", "Reshape")
    if source is None:
        return None
    if is_op(source, "SpaceToDepth"):
        return _of_operator(source)
    return _of_slices(source) if is_op(source, "Concat") else _of_reshapes(source)


def _of_operator(node: ir.Node) -> Blocks | None:
    data, size = node.inputs[0], int_attribute(node, "blocksize", 0)
    count = size_of(data, 1)
    if data is None or count is None:
        raise Refused(Common.SHAPE_UNKNOWN, node)
    if count * size**2 > _MOST_CHANNELS:
        return None
    places = itertools.product(range(size), repeat=2)
    channels = [(channel, place) for place in places for channel in range(count)]
    return Blocks(data, (size, size), channels, [node])


def _of_slices(concat: ir.Node) -> Blocks | None:
    """Read a Concat of Slices with steps, all of one value; None if it is of other values, too."""
    rank = rank_of(concat.outputs[0])
    if rank is None or rank < 3 or int_attribute(concat, "axis", 1) % rank != 1:
        return None
    found = [_Picked.of(concat, index, rank) for index in range(len(concat.inputs))]
    data = found[0].data
    if data is None or not all(each.nodes and each.data is data for each in found):
        return None
    sizes = found[0].steps
    starts = [each.starts for each in found]
    is_whole = all(
        {0, size - 1} <= {start[axis] for start in starts} for axis, size in enumerate(sizes)
    )
    is_alike = all(each.steps == sizes for each in found)
    require(is_alike and is_whole, NotInBlocks.PARTIAL, concat)
    count = size_of(data, 1)
    if count is None:
        raise Refused(Common.SHAPE_UNKNOWN, concat)
    channels = [(channel, start) for start in starts for channel in range(count)]
    nodes = dict.fromkeys(node for each in found for node in each.nodes)
    return Blocks(data, sizes, channels, [*nodes, concat])


@dataclass(frozen=True)
class _Picked:
    """Every so many positions of a value along each spatial axis, from a start to the end."""

    data: ir.Value | None
    starts: tuple[int, ...]
    steps: tuple[int, ...]
    nodes: tuple[ir.Node, ...]

    @staticmethod
    def of(reader: ir.Node, index: int, rank: int) -> _Picked:
        """Follow Slices with steps back from an input, each along axes of its own."""
        value = input_of(reader, index)
        along: dict[int, tuple[int, int]] = {}
        nodes: list[ir.Node] = []
        node = producer(reader, index, "Slice")
        while node is not None and (picked := _picks(node, rank)) and not picked.keys() & along:
            along |= picked
            nodes.insert(0, node)
            value = node.inputs[0]
            node = producer(node, 0, "Slice")
        starts, steps = zip(*(along.get(axis, (0, 1)) for axis in range(2, rank)), strict=True)
        return _Picked(value, starts, steps, tuple(nodes))


def _picks(node: ir.Node, rank: int) -> dict[int, tuple[int, int]]:
    """Return the start and step of a Slice along each axis; nothing unless all have a step."""
    starts, ends = ints_parameter(node, "starts", 1, ()), ints_parameter(node, "ends", 2, ())
    axes = ints_parameter(node, "axes", 3, tuple(range(len(starts))))
    steps = ints_parameter(node, "steps", 4, (1,) * len(starts))
    if not len(starts) == len(ends) == len(axes) == len(steps):
        return {}
    along = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = size_of(node.inputs[0], axis)
        if axis % rank < 2 or step < 2:
            return {}
        if size is None:
            is_whole = 0 <= start < step and end >= ENDLESS
        else:
            start = start + size if start < 0 else start
            is_whole = sliced(start, end, step, size) == range(start, size, step)
        if not is_whole or start >= step or axis % rank in along:
            return {}
        along[axis % rank] = (start, step)
    return along


def _of_reshapes(last: ir.Node) -> Blocks | None:
    """Read a Transpose between Reshapes that moves places within blocks to the channels."""
    turned = producer(last, 0, "Transpose")
    first = producer(turned, 0, "Reshape") if turned is not None else None
    if turned is None or first is None or first.inputs[0] is None:
        return None
    shapes = [shape_of(value) for value in (first.inputs[0], first.outputs[0], last.outputs[0])]
    if any(shape is None for shape in shapes):
        return None
    small, split, deep = (_known_sizes(shape) for shape in shapes if shape is not None)
    rank = len(small)
    space = rank - 2
    order = ints_attribute(turned, "perm", tuple(range(len(split)))[::-1])
    within, across = tuple(range(3, 2 * rank - 2, 2)), tuple(range(2, 2 * rank - 2, 2))
    is_split = space > 0 and len(split) == 2 * rank - 2 and len(deep) == rank
    moved = order[1 : space + 2]
    if not is_split or order != (0, *moved, *across):  # so these are the channels and places
        return None
    sizes = tuple(split[axis] or 0 for axis in within)
    counts = tuple(split[axis] for axis in across)
    channels, depth = split[1], math.prod(sizes) * (split[1] or 0)
    whole = tuple(size * (count or 0) for size, count in zip(sizes, counts, strict=True))
    is_known = small[1:] == (channels, *whole) and deep[1:] == (depth, *counts) and depth > 0
    if not is_known or 0 in whole or math.prod(sizes) == 1:
        return None
    places = itertools.product(*(range(split[axis] or 0) for axis in moved))
    found = [dict(zip(moved, place, strict=True)) for place in places]
    listed = [(at[1], tuple(at[axis] for axis in within)) for at in found]
    return Blocks(first.inputs[0], sizes, listed, [first, turned, last])


def _known_sizes(shape: ir.Shape) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in shape)
