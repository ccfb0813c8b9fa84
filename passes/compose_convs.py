"""Make one Conv of two linear operators in a row.

    W₂∗(W₁∗x + b₁) + b₂   = (W₂∗W₁)∗x + (Σ W₂·b₁ + b₂)
    Average(W₁∗x + b₁)    = (A∗W₁)∗x + b₁                    A: 1/n, each channel to itself

Tap l of W₂ over tap j of W₁ reads position l·dilation₂·stride₁ + j·dilation₁, so a k×k Conv and an
AveragePool 2×2 of stride 2 are a (k+1)×(k+1) Conv of stride 2; strides multiply, and paddings add
up, those of the second times the stride of the first. Groups stay as far as both have them: a
depthwise Conv of a depthwise Conv is one.

Conditions: finite data, because a tap of weight zero turns infinity into NaN; constant weights;
nothing else reads the first Conv's result. Where the second pads with zeros, the first must compute
zero, which takes that it has no bias and reads only padding there: a 1×1 Conv without bias and
padding does, a padded 3×3 Conv does not. An AveragePool counts padding, or has none, and its window
is no larger than its map: onnxruntime's pool makes a position of one that is smaller by less than
the stride, which ONNX does not define, and a Conv fails. Free sizes are taken to be large enough.

Profit: the product takes no more multiplications than both, per position of its result, of which a
stride makes one from several of the map between. Measured on onnxruntime, 64 to 256 channels at 56²
to 14², 1 and 2 threads: a 3×3 Conv and an AveragePool 2×2/2 1.4 to 1.9 (36 : 16 multiplications),
5×5 2.3 to 3.2 (100 : 36), 1×1 and 3×3 1.1 at equal channels (10 : 9), and up to 4.7 with few input
channels; two 3×3 depthwise Convs 0.91 to 1.01 (18 : 25), so these stay. If the result is known to
be small, reading a weight counts as 16 multiplications: a 3×3 Conv of 512 channels and an
AveragePool on 8² measured 1.2, on 4² 0.85.

Where BatchNormalizations pad with their own shift, as in the blocks of DBB as they are trained, the
border is written over, and both stay.

A 1×1 Conv before an AveragePool stays, and a 1×1 Conv whose result a pool reads: pool-before-conv
does less. Depthwise and pointwise Convs in a row, as in separable ones, stay without a refusal.

ROUNDED: equal in the reals. The product is computed in float64 and rounded once.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from bnfold.algebra.spatial.composition import composed, composed_shape, fills_a_window, is_exact
from bnfold.algebra.spatial.operators import NotOneConv, average_of, convolution_of, is_cheaper
from bnfold.algebra.weights import NotStorable
from bnfold.rewriting.contract import Common, Exactness, Refusal, Replace, require, rewrite
from bnfold.rewriting.query import is_op, producer, size_of, sole_use


class Why(Refusal):
    """Reasons to leave two linear operators in a row."""

    POOL_GOES_FIRST = "a pool reads the Conv's result: it goes first, and leaves fewer positions"
    BORDER_OVERWRITTEN = (
        "what a Pad adds between the two is overwritten (ScatterND)",
        "pad the input of both instead, or export the model in its deployed form",
    )


_MOST_OVERWRITES = 8
"""Operators between a Pad and what reads its border: four sides, and Transposes between."""


@rewrite(
    "compose-convs",
    roots=["Conv", "AveragePool"],
    exactness=Exactness.ROUNDED,
    refusals=[
        *Why,
        *NotStorable,
        Common.NO_GAIN,
        Common.PADDED_BY_SIZE,
        Common.SHARED,
        Common.WEIGHT_NOT_CONSTANT,
        Common.WEIGHT_OVERRIDABLE,
        NotOneConv.COSTLIER,
        NotOneConv.PADDED_BETWEEN,
        NotOneConv.SMALLER_THAN_WINDOW,
        NotOneConv.UNEVEN_WINDOWS,
    ],
)
def compose_convs(root: ir.Node) -> Replace | None:
    """Replace ``Conv ∘ Conv`` and ``AveragePool ∘ Conv`` by one Conv, if it costs no more."""
    conv = producer(root, 0, "Conv")
    if conv is None:
        require(not _reads_overwritten_border(root), Why.BORDER_OVERWRITTEN, producer(root, 0))
        return None
    first = convolution_of(conv)
    if is_op(root, "Conv"):
        second = convolution_of(root)
        require(not (second.is_pointwise and _is_pooled(root)), Why.POOL_GOES_FIRST)
    elif first.is_pointwise:
        return None
    else:
        second = average_of(root, first.output_channels, first)
    if second.input_channels != first.output_channels:
        return None
    data, result = conv.inputs[0], root.outputs[0]
    assert data is not None
    before = [(first, math.prod(second.strides)), (second, 1)]
    shape = composed_shape(second, first)
    if not is_cheaper(shape, before, result):
        is_separable = is_op(root, "Conv") and first.groups != second.groups
        require(is_separable, Common.NO_GAIN, conv)
        return None
    require(sole_use(conv.outputs[0]), Common.SHARED, conv)
    sizes = [size_of(data, axis + 2) for axis in range(len(first.size))]
    require(is_exact(second, first, sizes), NotOneConv.PADDED_BETWEEN, conv)
    like = root if is_op(root, "Conv") else conv
    has_room = is_op(root, "Conv") or fills_a_window(second, first, sizes)
    require(has_room, NotOneConv.SMALLER_THAN_WINDOW, root)
    product = composed(second, first).to_op(data, like)
    return Replace([conv, root], {result: product}, f"{conv.op_type} and {root.op_type} into Conv")


def _reads_overwritten_border(root: ir.Node) -> bool:
    """Say whether a Pad of a Conv's result, written over, is what the root reads: DBB's blocks."""
    node, is_overwritten = root, False
    for _ in range(_MOST_OVERWRITES):
        before = producer(node, 0, "ScatterND", "Transpose", "Pad")
        if before is None or is_op(before, "Pad"):
            is_padded = before is not None and producer(before, 0, "Conv") is not None
            return is_overwritten and is_padded
        node, is_overwritten = before, is_overwritten or is_op(before, "ScatterND")
    return False


def _is_pooled(conv: ir.Node) -> bool:
    """Say whether pool-before-conv may take the Conv, and leave it less to do."""
    uses = conv.outputs[0].uses()
    pools = ("AveragePool", "GlobalAveragePool", "ReduceMean")
    return sole_use(conv.outputs[0]) and all(is_op(use.node, *pools) for use in uses)
