"""Merge parallel Convs and affine maps of one value into one Conv.

    (W₁∗x + b₁) ± (W₂∗x + b₂) = (W₁ ± W₂)∗x + (b₁ ± b₂)
    (W∗x + b) ± (s·x + t)     = (W ± s·δ)∗x + (b ± t)        δ: 1 in the centre, channel to itself

A smaller kernel is a larger one with zeros around it: tap j of a kernel with p zeros of padding at
the start reads position j − p, so kernels are aligned by their padding, and the merged padding is
the larger one on each side. The authors of RepVGG, MobileOne and FastViT do this by hand before
they export (Ding et al., "RepVGG", 2021).

A Conv with more groups is one with fewer, with zeros between channels of different groups.

Conditions: finite data, because a tap of weight zero turns infinity into NaN; constant weights; the
same strides and output size; no dilation, unless kernel sizes and paddings are the same; and
nothing else reads the branches.

Profit: the merged kernel has no more weights, and so no more multiplications per output position,
than the branches' kernels together. A depthwise Conv parallel to a dense one with an equally large
kernel no longer costs anything; a dense 1×1 Conv parallel to a large depthwise one stays.

ROUNDED: equal in the reals. The sums are computed in float64 and rounded once.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine import AFFINE_OPERATORS, affine_map
from bnfold.algebra.convolution import Convolution
from bnfold.algebra.weights import NotStorable
from bnfold.graph.constants import constant, is_overridable
from bnfold.rewriting.contract import Common, Exactness, Refusal, Refused, Replace, require, rewrite
from bnfold.rewriting.query import is_op, producer, sole_use


class Why(Refusal):
    """Reasons not to merge parallel branches."""

    OTHER_STRIDES = "the branches have different strides"
    NOT_ALIGNED = "the branches' kernels and paddings cannot be aligned"
    COSTLIER = "the merged kernel would have more weights than the branches together"


@rewrite(
    "merge-branches",
    roots=["Add", "Sub", "Sum"],
    exactness=Exactness.ROUNDED,
    refusals=[
        *Why,
        *NotStorable,
        Common.PADDED_BY_SIZE,
        Common.SHARED,
        Common.WEIGHT_NOT_CONSTANT,
        Common.WEIGHT_OVERRIDABLE,
    ],
)
def merge_branches(root: ir.Node) -> Replace | None:
    """Merge all operands, if each is linear in one value and at least one is a Conv."""
    if len(root.inputs) < 2:
        return None
    operands = range(len(root.inputs))
    convs: dict[ir.Value, ir.Node] = {}
    for conv in (producer(root, index, "Conv") for index in operands):
        data = conv.inputs[0] if conv is not None else None
        if conv is not None and data is not None:
            convs.setdefault(data, conv)
    for data, conv in convs.items():
        if all(_is_linear_in(data, root, index) for index in operands):
            return _merge(root, data, conv)
    return None


def _merge(root: ir.Node, data: ir.Value, conv: ir.Node) -> Replace:
    operands = [
        None if value is data else producer(root, index) for index, value in enumerate(root.inputs)
    ]
    pattern = list(dict.fromkeys(node for node in operands if node is not None))
    for node in pattern:
        require(sole_use(node.outputs[0]), Common.SHARED, node)
    convolutions = [_convolution(node) for node in pattern if is_op(node, "Conv")]
    affordable = sum(convolution.kernel.size for convolution in convolutions)
    groups = math.gcd(*(convolution.groups for convolution in convolutions))
    largest = max(convolution.kernel.size * convolution.groups for convolution in convolutions)
    require(largest // groups <= affordable, Why.COSTLIER, conv)
    merged, *others = (_branch(node, conv).in_groups(groups) for node in operands)
    for other, subject in zip(others, operands[1:], strict=True):
        require(merged.strides == other.strides, Why.OTHER_STRIDES, subject)
        require(merged.lies_over(other), Why.NOT_ALIGNED, subject)
        merged = merged.plus(other, sign=-1 if is_op(root, "Sub") else 1)
    require(merged.kernel.size <= affordable, Why.COSTLIER, conv)
    detail = f"{len(operands)} branches into Conv"
    return Replace([*pattern, root], {root.outputs[0]: merged.to_op(data, conv)}, detail)


def _is_linear_in(data: ir.Value, root: ir.Node, index: int) -> bool:
    """Say whether an operand is `data` itself, or a Conv or affine map of it in the same graph."""
    if root.inputs[index] is data:
        return True
    node = producer(root, index, "Conv", *AFFINE_OPERATORS)
    if node is None or is_op(node, "Conv"):
        return node is not None and node.inputs[0] is data
    try:
        return node.inputs[affine_map(node)[1]] is data
    except Refused:
        return False


def _branch(node: ir.Node | None, conv: ir.Node) -> Convolution:
    """Return an operand as a Conv like `conv`; None means the value that they all read."""
    if is_op(node, "Conv"):
        assert node is not None
        return _convolution(node)
    like = _convolution(conv)
    channels = like.input_channels
    if node is None:
        return like.pointwise(np.ones(channels), np.zeros(channels))
    affine, _ = affine_map(node)
    fits = affine.is_uniform or (affine.axis == 1 and affine.channels == channels)
    require(fits, Why.NOT_ALIGNED, node)
    scale, shift = (np.broadcast_to(values, channels) for values in (affine.scale, affine.shift))
    return like.pointwise(scale, shift)


def _convolution(conv: ir.Node) -> Convolution:
    convolution = Convolution.of(conv)
    if convolution is None:
        weights = [value for value in conv.inputs[1:] if value is not None]
        require(not any(map(is_overridable, weights)), Common.WEIGHT_OVERRIDABLE, conv)
        is_known = all(constant(value) is not None for value in weights)
        require(is_known, Common.WEIGHT_NOT_CONSTANT, conv)
        raise Refused(Common.PADDED_BY_SIZE, conv)
    return convolution
