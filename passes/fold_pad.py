"""Fold a Pad into the operators that read it, where they pad with the same number themselves.

    Op(Pad(x; a, n); p) = Op(x; p + a)          where n is

    0                          Conv; AveragePool, if it counts padding, or has none of its own yet
    the zero point             ConvInteger, QLinearConv
    no more than any element   MaxPool: −∞, the lowest number, or 0 after a Relu

because a window that reaches over the border then sees the same either way.

Conditions: the Pad fills in one constant number, along spatial axes only, and removes nothing: an
operator would pad again what a negative width cuts off. Every reader takes the Pad, and its own
padding does not depend on a size that is not known (auto_pad). A Conv's weights are finite. A pool
pads less than its window, as onnxruntime demands, and does not round the number of windows up
(ceil_mode), unless there is nothing to round. Every window of a MaxPool holds an element of x, and
its Indices are unused.

Profit: one copy of x less. onnxruntime folds a Pad into a Conv or AveragePool itself when it loads
a model, but none into a MaxPool, such as those that Keras writes after a Relu.

BITWISE for a MaxPool and for integers. ROUNDED for a Conv and an AveragePool, which may add in
another order, and for a MaxPool after a Pad of the lowest finite number, if x is infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bnfold.algebra.clamping import clamp
from bnfold.algebra.padding import Widths, padding_of
from bnfold.algebra.pooling import Pool
from bnfold.arrays import float_limits
from bnfold.graph.constants import constant
from bnfold.rewriting.contract import (
    Common,
    Exactness,
    Op,
    Refusal,
    Refused,
    Replace,
    require,
    rewrite,
)
from bnfold.rewriting.query import (
    float_attribute,
    input_of,
    int_attribute,
    ints_attribute,
    ints_parameter,
    is_op,
    is_used,
    opset,
    rank_of,
    shape_of,
    string_attribute,
)


class Why(Refusal):
    """Reasons to leave a Pad before a Conv or pool."""

    OTHER_MODE = "the Pad repeats or mirrors its input instead of filling in a number"
    CROPS = "a width of the Pad is negative, and what it cuts off would be padded again"
    PADS_CHANNELS = "the Pad widens the batch or the channels"
    OTHER_NUMBER = "the operator after the Pad pads with another number"
    NOT_COUNTED = "the AveragePool does not count its own padding, but does count the Pad"
    TOO_WIDE = "onnxruntime's pools pad less than the size of their window"
    ROUNDS_UP = "the pool rounds up the number of its windows, which its padding limits"


_POOLS = ("AveragePool", "MaxPool")
_INTEGER_CONVS = ("ConvInteger", "QLinearConv")
_READERS = ("Conv", *_INTEGER_CONVS, *_POOLS)

_INTEGERS = (ir.DataType.INT8, ir.DataType.UINT8)
"""The integers of which there is a MaxPool."""

_PADDING = ("auto_pad", "count_include_pad", "pads")

_COUNTS_SINCE = 7
"""The first opset in which an AveragePool can count its padding."""


@dataclass(frozen=True)
class _Border:
    """What a Pad adds to a value: (before, after) for each spatial axis, filled with a number."""

    data: ir.Value
    widths: tuple[tuple[int, int], ...]
    number: float | int


@rewrite(
    "fold-pad",
    roots=["Pad"],
    exactness=Exactness.ROUNDED,
    refusals=[
        *Why,
        Common.INDICES_USED,
        Common.PADDED_BY_SIZE,
        Common.PADDING_ONLY_WINDOW,
        Common.PARAMETER_NOT_CONSTANT,
        Common.SHAPE_UNKNOWN,
        Common.SHARED,
    ],
)
def fold_pad(pad: ir.Node) -> Replace | None:
    """Add the Pad to the padding of all operators that read it."""
    padded = pad.outputs[0]
    readers = [node for node, index in padded.uses() if index == 0 and is_op(node, *_READERS)]
    border = _border(pad) if readers else None
    if border is None:
        return None
    is_theirs = len(readers) == len(padded.uses()) and not padded.is_graph_output()
    require(is_theirs and all(node.graph is pad.graph for node in readers), Common.SHARED)
    outputs = {reader.outputs[0]: _folded(reader, border) for reader in readers}
    for reader in readers:
        _require_number(reader, border)
    is_exact = all(_is_exact(reader, border) for reader in readers)
    exactness = Exactness.BITWISE if is_exact else Exactness.ROUNDED
    detail = f"into {', '.join(sorted({reader.op_type for reader in readers}))}"
    source = border.data.producer() if _least(border.data) is not None else None
    nodes = [pad, *readers] if source is None else [source, pad, *readers]
    return Replace(nodes, outputs, detail, exactness)


def _border(pad: ir.Node) -> _Border | None:
    """Read a Pad; None if it adds nothing."""
    data = input_of(pad, 0)
    amounts = ints_parameter(pad, "pads", 1)
    if data is None or amounts is None or not any(amounts):
        return None
    require(string_attribute(pad, "mode", "constant") == "constant", Why.OTHER_MODE)
    half = len(amounts) // 2
    rank = rank_of(data) if input_of(pad, 3) is not None else half
    axes = ints_parameter(pad, "axes", 3, tuple(range(half)))
    known = rank is not None and all(-rank <= axis < rank for axis in axes)
    if rank is None or not known or len(amounts) != 2 * len(axes):
        raise Refused(Common.SHAPE_UNKNOWN)
    widths = [(0, 0)] * rank
    for axis, before, after in zip(axes, amounts[:half], amounts[half:], strict=True):
        widths[axis] = (before, after)
    require(min(amounts) >= 0, Why.CROPS)
    require(not any(map(any, widths[:2])), Why.PADS_CHANNELS)
    value = input_of(pad, 2)
    number = float_attribute(pad, "value", 0.0) if value is None else _number(pad, value)
    return _Border(data, tuple(widths[2:]), number)


def _folded(reader: ir.Node, border: _Border) -> Op:
    """Return the operator with the Pad in its own padding."""
    own = _own_padding(reader, len(border.widths))
    widths = tuple(
        (start + before, end + after)
        for (start, end), (before, after) in zip(own, border.widths, strict=True)
    )
    attributes = [a for a in reader.attributes.values() if a.name not in _PADDING]
    pads = [*(before for before, _ in widths), *(after for _, after in widths)]
    attributes.append(ir.AttrInt64s("pads", pads))
    if is_op(reader, *_POOLS):
        pool = replace(Pool.of(reader), pads=widths, auto_pad="NOTSET")
        require(pool.spatial_rank == len(own), Common.SHAPE_UNKNOWN, reader)
        _require_pool(pool, border, reader)
    if is_op(reader, "AveragePool"):
        counts = int_attribute(reader, "count_include_pad", 0) != 0 or not any(map(any, own))
        require(counts and opset(reader) >= _COUNTS_SINCE, Why.NOT_COUNTED, reader)
        attributes.append(ir.AttrInt64("count_include_pad", 1))
    return Op(reader.op_type, [border.data, *reader.inputs[1:]], attributes, reader)


def _own_padding(reader: ir.Node, rank: int) -> Widths:
    """Return what the operator pads by itself: (before, after) along each axis."""
    flat = ints_attribute(reader, "pads", [0] * 2 * rank)
    kernel = ints_attribute(reader, "kernel_shape") or _spatial_sizes(reader)
    require(len(flat) == 2 * rank and len(kernel) == rank, Common.SHAPE_UNKNOWN, reader)
    ones = [1] * rank
    strides, dilations = (ints_attribute(reader, name, ones) for name in ("strides", "dilations"))
    own = padding_of(reader, kernel, strides, dilations)
    if own is None:
        raise Refused(Common.PADDED_BY_SIZE, reader)
    return own


def _spatial_sizes(conv: ir.Node) -> tuple[int, ...]:
    """Return the size of a Conv's kernel."""
    shape = shape_of(input_of(conv, 3 if is_op(conv, "QLinearConv") else 1))
    sizes = shape.dims[2:] if shape is not None else ()
    return tuple(size for size in sizes if isinstance(size, int))


def _require_pool(pool: Pool, border: _Border, reader: ir.Node) -> None:
    """Refuse padding that onnxruntime does not accept, or that would change the windows."""
    pairs = zip(pool.kernel, pool.pads, strict=True)
    require(all(max(pair) < kernel for kernel, pair in pairs), Why.TOO_WIDE, reader)
    require(not pool.ceil_mode or pool.ends_with(border.data), Why.ROUNDS_UP, reader)
    if is_op(reader, "MaxPool"):
        require(not any(map(is_used, reader.outputs[1:])), Common.INDICES_USED, reader)
        require(pool.every_window_is_real(border.data), Common.PADDING_ONLY_WINDOW, reader)


def _require_number(reader: ir.Node, border: _Border) -> None:
    """Refuse a number that the operator does not pad with itself."""
    if is_op(reader, "MaxPool"):
        least = _least(border.data)
        fits = border.number <= (_lowest(border.data) if least is None else least)
    else:
        zero_point = input_of(reader, 2) if is_op(reader, *_INTEGER_CONVS) else None
        fits = border.number == (0 if zero_point is None else _number(reader, zero_point))
    require(fits, Why.OTHER_NUMBER, reader)


def _is_exact(reader: ir.Node, border: _Border) -> bool:
    """Say whether kernels compute the same bits, also where x is infinite."""
    if not is_op(reader, "MaxPool"):
        return is_op(reader, *_INTEGER_CONVS)
    is_bounded = _least(border.data) is not None or isinstance(_lowest(border.data), int)
    return is_bounded or border.number == -math.inf


def _least(value: ir.Value) -> float | int | None:
    """Return a number that no element is below, infinite ones included; None if none is known."""
    source = value.producer()
    is_float = value.dtype is not None and value.dtype.is_floating_point()
    if is_op(source, "Abs") and is_float:  # the lowest integer has no absolute value
        return 0
    clamped = clamp(source) if source is not None else None
    return None if clamped is None or clamped.low == -math.inf else clamped.low


def _lowest(value: ir.Value) -> float | int:
    """Return the lowest number of the value's type."""
    dtype = value.dtype
    if dtype is None or not (dtype.is_floating_point() or dtype in _INTEGERS):
        return -math.inf
    limits = np.iinfo if dtype in _INTEGERS else float_limits
    lowest: float | int = limits(dtype.numpy()).min
    return int(lowest) if dtype in _INTEGERS else float(lowest)


def _number(node: ir.Node, value: ir.Value) -> float | int:
    content = constant(value)
    if content is None or content.size != 1:
        raise Refused(Common.PARAMETER_NOT_CONSTANT, node, value.name or "")
    number = content.reshape(-1)[0]
    return int(number) if np.issubdtype(content.dtype, np.integer) else float(number)
