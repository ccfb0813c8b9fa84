"""Apply a pointwise Conv before upsampling: the same values, from a Conv on fewer positions.

    W·Resize(x) + b = Resize(W·x + b)

because Resize makes each position a weighted mean of input positions, W acts on the channels of one
position, and the weights of nearest and linear interpolation add up to one, so that b stays b.

Conditions: the Conv is 1×1 with stride 1 and no padding, with any number of groups; the
interpolation is nearest or linear, fills in nothing from outside, and does not resize batch or
channels (their scale is 1, or they keep their size; sizes, if given instead of scales, are
constant, because they include the number of channels); nothing else reads the upsampled map; and no
GlobalAveragePool reads the Conv's result, because that goes before the Conv.

Profit: Resize makes S positions of one, so the Conv does 1/S of its work, while Resize works on the
Conv's output channels instead of its input channels.

ROUNDED: equal in the reals; sums are taken in another order.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from bnfold.algebra.affine_maps.carry import (
    averages_positions,
    fills_in_from_outside,
    leaves_axis_alone,
)
from bnfold.algebra.spatial.convolution import Convolution, shape_with_channels
from bnfold.graph.constants import constant
from bnfold.graph.sizes import resize_scales
from bnfold.rewriting.contract import (
    Common,
    Exactness,
    Operand,
    Refusal,
    Refused,
    Replace,
    Weight,
    require,
    rewrite,
    same_op,
)
from bnfold.rewriting.query import input_of, is_op, producer, shape_of, sole_use


class Why(Refusal):
    """Reasons to leave a pointwise Conv after upsampling."""

    NOT_AVERAGING = "the interpolation is neither nearest nor linear"
    OTHER_AXES = "the Resize may change the batch or the channels"
    POOLED = "a GlobalAveragePool reads the Conv's result: it goes first, and leaves one position"


@rewrite(
    "conv-before-resize",
    roots=["Conv"],
    exactness=Exactness.ROUNDED,
    refusals=[*Why, Common.CROPPED, Common.NO_GAIN, Common.SHAPE_UNKNOWN, Common.SHARED],
)
def conv_before_resize(conv: ir.Node) -> Replace | None:
    """Replace ``Conv1×1 ∘ Resize`` by ``Resize ∘ Conv1×1``, where it is exact and pays off."""
    resize = producer(conv, 0, "Resize", "Upsample")
    convolution = Convolution.of(conv) if resize is not None else None
    if resize is None or convolution is None or not convolution.is_pointwise:
        return None
    require(not _is_pooled(conv), Why.POOLED)
    require(sole_use(resize.outputs[0]), Common.SHARED, resize)
    require(averages_positions(resize), Why.NOT_AVERAGING, resize)
    require(not fills_in_from_outside(resize), Common.CROPPED, resize)
    factor = _upsampling_factor(resize)
    work = math.prod(convolution.kernel.shape)
    before = (work + convolution.input_channels) * factor
    after = work + convolution.bias.size * factor
    require(factor > 1 and after < before, Common.NO_GAIN, resize)
    data = resize.inputs[0]
    assert data is not None
    shape = shape_with_channels(data, convolution.bias.size)
    convolved = same_op(conv, [data, *conv.inputs[1:]], shape=shape, type_of=data)
    upsampled = same_op(resize, [convolved, *_parameters(resize, convolution.bias.size)])
    return Replace([resize, conv], {conv.outputs[0]: upsampled}, f"across {resize.op_type}")


def _is_pooled(conv: ir.Node) -> bool:
    """Say whether pool-before-conv applies to the Conv, and leaves it less to do."""
    uses = conv.outputs[0].uses()
    return sole_use(conv.outputs[0]) and all(is_op(u.node, "GlobalAveragePool") for u in uses)


def _parameters(resize: ir.Node, channels: int) -> list[Operand]:
    """Return the inputs of a Resize of other channels: sizes, if given, include their number."""
    inputs: list[Operand] = list(resize.inputs[1:])
    sizes = input_of(resize, 3)
    if sizes is not None and "axes" not in resize.attributes:
        content = constant(sizes)
        if content is None:
            raise Refused(Common.SHAPE_UNKNOWN, resize)
        changed = content.copy()
        changed[1] = channels
        inputs[2] = Weight(changed, ir.DataType.INT64, f"{sizes.name}.channels")
    return inputs


def _upsampling_factor(resize: ir.Node) -> float:
    """Return the number of positions of the result per position of the data."""
    data, result = resize.inputs[0], resize.outputs[0]
    before, after = shape_of(data), shape_of(result)
    if before is None or after is None:
        raise Refused(Common.SHAPE_UNKNOWN, resize)
    old, new = before.dims, after.dims
    require(all(leaves_axis_alone(resize, axis) for axis in (0, 1)), Why.OTHER_AXES, resize)
    scales = resize_scales(resize)
    if scales is not None:
        return math.prod(scales)
    sizes = [[size for size in dims[2:] if isinstance(size, int)] for dims in (old, new)]
    known = len(sizes[0]) == len(sizes[1]) == len(old) - 2
    require(known and math.prod(sizes[0]) > 0, Common.SHAPE_UNKNOWN, resize)
    return math.prod(sizes[1]) / math.prod(sizes[0])
