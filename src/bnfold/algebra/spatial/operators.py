"""Reads operators that are linear over space, and tells whether one Conv of them costs less."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from bnfold.algebra.pooling import Pool
from bnfold.algebra.spatial.convolution import Convolution
from bnfold.graph.constants import constant, is_overridable
from bnfold.graph.sizes import ENDLESS
from bnfold.rewriting.contract import Common, Refusal, Refused, require
from bnfold.rewriting.query import is_op, is_used, shape_of

_WEIGHT = 16
"""How many multiplications take as long as reading a weight, as measured on small maps."""


_MOST_TAPS = 2**16
"""Positions of a window up to which an average is written out as a kernel."""


class NotOneConv(Refusal):
    """Why linear operators do not become one Conv; see `NOT_ONE_CONV` for all reasons."""

    OTHER_STRIDES = "the branches have different strides"
    NOT_ALIGNED = "the branches' kernels and paddings cannot be aligned"
    COSTLIER = "the merged kernel would take more multiplications than the operators together"
    PADDED_BETWEEN = (
        "an operator pads with zeros where the one before it would compute something else",
        "pad the input of both instead",
    )
    SMALLER_THAN_WINDOW = (
        "onnxruntime's AveragePool runs on a map smaller than its window, and a Conv does not",
        "fix the sizes of the input (--set-shape)",
    )
    UNEVEN_WINDOWS = (
        "the AveragePool counts fewer elements at the border (padding, or ceil_mode)",
        "count padding (count_include_pad)",
    )


NOT_ONE_CONV = (
    *NotOneConv,
    Common.PADDED_BY_SIZE,
    Common.SHARED,
    Common.WEIGHT_NOT_CONSTANT,
    Common.WEIGHT_OVERRIDABLE,
)
"""All reasons of this module."""


def convolution_of(conv: ir.Node) -> Convolution:
    """Return a Conv or ConvTranspose as arrays.

    Raises:
        Refused: if a weight is not constant, or padding depends on the size of the input.
    """
    convolution = Convolution.of(conv)
    if convolution is None:
        weights = [value for value in conv.inputs[1:] if value is not None]
        require(not any(map(is_overridable, weights)), Common.WEIGHT_OVERRIDABLE, conv)
        is_known = all(constant(value) is not None for value in weights)
        require(is_known, Common.WEIGHT_NOT_CONSTANT, conv)
        raise Refused(Common.PADDED_BY_SIZE, conv)
    return convolution


def average_of(pool: ir.Node, channels: int, like: Convolution) -> Convolution:
    """Return an AveragePool as a depthwise Conv, of the type of another one beside it.

    Raises:
        Refused: UNEVEN_WINDOWS; COSTLIER, if its windows are larger than any kernel should be.
    """
    require(math.prod(Pool.of(pool).kernel) <= _MOST_TAPS, NotOneConv.COSTLIER, pool)
    average = Convolution.of_average(pool, channels, like)
    if average is None:
        raise Refused(NotOneConv.UNEVEN_WINDOWS, pool)
    return average


def picks_positions(node: ir.Node) -> bool:
    """Say whether the node is a MaxPool over one element, or a Slice from some start to the end."""
    if is_op(node, "MaxPool"):
        pool = Pool.of(node)
        return (
            not pool.may_pad and set(pool.kernel) == {1} and not any(map(is_used, node.outputs[1:]))
        )
    return is_op(node, "Slice") and _picked(node) is not None


def subsampling_of(node: ir.Node, channels: int, like: Convolution) -> Convolution:
    """Return an operator that `picks_positions` as a depthwise Conv of one tap.

    Raises:
        Refused: NOT_ALIGNED, if it picks something along the batch or the channels, too.
    """
    rank = len(like.size)
    starts, strides = [0] * rank, [1] * rank
    if is_op(node, "MaxPool"):
        strides = list(Pool.of(node).strides)
    for axis, start, step in _picked(node) or []:
        axis %= rank + 2
        require(axis > 1 or (start == 0 and step == 1), NotOneConv.NOT_ALIGNED, node)
        if axis > 1:
            starts[axis - 2], strides[axis - 2] = start, step
    require(len(strides) == rank, NotOneConv.NOT_ALIGNED, node)
    before = tuple(-start for start in starts)
    itself = replace(Convolution.identity(channels, like), transposed=False)
    return replace(itself, strides=tuple(strides), before=before)


def _picked(node: ir.Node) -> list[tuple[int, int, int]] | None:
    """Return axis, start and step of a Slice to the end, or None if it is something else."""
    if len(node.inputs) != 5:
        return None
    given = [content for content in map(constant, node.inputs[1:]) if content is not None]
    if len(given) != 4:
        return None
    starts, ends, axes, steps = (content.reshape(-1).tolist() for content in given)
    if len({len(axes), len(starts), len(ends), len(steps)}) != 1:
        return None
    if min(starts, default=0) < 0 or min(ends, default=ENDLESS) < ENDLESS:
        return None
    if min(steps, default=1) < 1:
        return None
    return list(zip(axes, starts, steps, strict=True))


def is_cheaper(
    merged_shape: Sequence[int],
    before: Sequence[tuple[Convolution, float]],
    result: ir.Value,
) -> bool:
    """Say whether a kernel of this shape takes no more time than the operators before.

    Each of these comes with the number of positions of its result per position of `result`. Time is
    multiplications; if the result is known to be small, reading weights takes its share.
    """
    shape = shape_of(result)
    space = shape.dims[2:] if shape is not None else (None,)
    known = [size for size in space if isinstance(size, int)]
    positions = math.prod(known) if len(known) == len(space) else 0
    per_weight = _WEIGHT / positions if positions else 0.0
    cost = sum(conv.kernel.size * (share + per_weight) for conv, share in before)
    return math.prod(merged_shape) * (1 + per_weight) <= cost
