"""Average before a pointwise Conv: the same values, from a Conv on fewer positions.

    AveragePool(W·x + b)       = W·AveragePool(x) + b
    GlobalAveragePool(W·x + b) = W·GlobalAveragePool(x) + b       and ReduceMean over space likewise

because W acts on the channels of one position, the average on the positions of one channel, and
the average of a constant is that constant. A ReduceMean that drops the axes of space keeps them for
the Conv, and a Squeeze after it drops them.

Conditions: the Conv is 1×1 with stride 1 and no padding, with any number of groups; nothing else
reads its result; and if it has a bias, the average counts no padding, and every window holds a real
element.

Profit: the strides of the pool make one position of S, so the Conv does 1/S of its work, while the
pool works on the Conv's input channels instead of its output channels. If the size of the map is
not known, a global average is assumed to be over 49 positions.

ROUNDED: equal in the reals; sums are taken in another order.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from bnfold.algebra.pooling import Pool
from bnfold.algebra.spatial.convolution import Convolution, shape_with_channels
from bnfold.graph.schemas import AXES_OF_SQUEEZE_READ_SINCE
from bnfold.rewriting.contract import (
    Common,
    Exactness,
    Op,
    Refusal,
    Refused,
    Replace,
    Weight,
    require,
    rewrite,
    same_op,
)
from bnfold.rewriting.query import (
    int_attribute,
    ints_parameter,
    opset,
    producer,
    rank_of,
    shape_of,
    sole_use,
)


class Why(Refusal):
    """Reasons to leave a pool after a pointwise Conv."""

    COUNTED_PADDING = "the pool counts padding, to which the Conv's bias is not added"
    NOT_OVER_SPACE = "the mean is not over exactly the spatial axes"


_ASSUMED_POSITIONS = 49


@rewrite(
    "pool-before-conv",
    roots=["AveragePool", "GlobalAveragePool", "ReduceMean"],
    exactness=Exactness.ROUNDED,
    refusals=[
        *Why,
        Common.NO_GAIN,
        Common.PADDING_ONLY_WINDOW,
        Common.PARAMETER_NOT_CONSTANT,
        Common.SHAPE_UNKNOWN,
        Common.SHARED,
    ],
)
def pool_before_conv(pool: ir.Node) -> Replace | None:
    """Replace ``Pool ∘ Conv1×1`` by ``Conv1×1 ∘ Pool``, where it is exact and pays off."""
    conv = producer(pool, 0, "Conv")
    convolution = Convolution.of(conv) if conv is not None else None
    if conv is None or convolution is None or not convolution.is_pointwise:
        return None
    require(sole_use(conv.outputs[0]), Common.SHARED, conv)
    kernel, stride = _window(pool, conv, has_bias=bool(convolution.bias.any()))
    work = math.prod(convolution.kernel.shape)
    before = work * stride + convolution.bias.size * kernel
    after = work + convolution.input_channels * kernel
    require(stride > 1 and after < before, Common.NO_GAIN, conv)
    data, result = conv.inputs[0], pool.outputs[0]
    detail = f"{pool.op_type} across Conv"
    if int_attribute(pool, "keepdims", 1) == 0:
        return Replace([conv, pool], {result: _squeezed(pool, conv, convolution)}, detail)
    shape = shape_with_channels(result, convolution.input_channels)
    pooled = same_op(pool, [data, *pool.inputs[1:]], shape=shape, type_of=data)
    return Replace([conv, pool], {result: same_op(conv, [pooled, *conv.inputs[1:]])}, detail)


def _squeezed(mean: ir.Node, conv: ir.Node, convolution: Convolution) -> Op:
    """Return the Conv of a mean that keeps the spatial axes, without these."""
    data, result = conv.inputs[0], mean.outputs[0]
    batch, axes = (shape_of(result) or [None])[0], [*range(2, 2 + len(convolution.size))]
    kept = [each for each in mean.attributes.values() if each.name != "keepdims"]
    ones = [1] * len(axes)
    pooled = Op(
        mean.op_type,
        [data, *mean.inputs[1:]],
        kept,
        mean,
        ir.Shape([batch, convolution.input_channels, *ones]),
        data,
    )
    inner = same_op(
        conv,
        [pooled, *conv.inputs[1:]],
        shape=ir.Shape([batch, convolution.output_channels, *ones]),
        type_of=result,
    )
    if opset(mean) < AXES_OF_SQUEEZE_READ_SINCE:
        return Op("Squeeze", [inner], [ir.AttrInt64s("axes", axes)])
    return Op("Squeeze", [inner, Weight.of_integers(axes, f"{result.name}.axes")])


def _window(pool: ir.Node, conv: ir.Node, *, has_bias: bool) -> tuple[int, int]:
    """Return the number of positions in a window, and of positions of the map per window."""
    data = conv.outputs[0]
    if pool.op_type == "AveragePool":
        geometry = Pool.of(pool)
        if has_bias:
            counts = int_attribute(pool, "count_include_pad", 0) != 0
            require(not (counts and geometry.may_pad), Why.COUNTED_PADDING)
            require(geometry.every_window_is_real(data), Common.PADDING_ONLY_WINDOW)
        return math.prod(geometry.kernel), math.prod(geometry.strides)
    if pool.op_type == "ReduceMean":
        _require_over_space(pool, data)
    shape = shape_of(data)
    sizes = shape.dims[2:] if shape is not None else (None,)
    known = [size for size in sizes if isinstance(size, int)]
    positions = math.prod(known) if len(known) == len(sizes) else _ASSUMED_POSITIONS
    return positions, positions


def _require_over_space(mean: ir.Node, data: ir.Value) -> None:
    rank = rank_of(data)
    if rank is None:
        raise Refused(Common.SHAPE_UNKNOWN)
    axes = ints_parameter(mean, "axes", 1, ())
    space = set(range(2, rank))
    require({axis % rank for axis in axes} == space, Why.NOT_OVER_SPACE)
