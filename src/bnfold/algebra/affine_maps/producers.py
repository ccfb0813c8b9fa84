"""The linear operators that absorb a per-channel affine map after them, into their outputs.

Before the map, a linear operator L absorbs it into its output channels: ``A(s, t) ∘ L`` is again an
L. Each function implements one identity; the table lists which operators have one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import Affine, batch_norm_parameters
from bnfold.algebra.affine_maps.carrying import known_rank
from bnfold.algebra.affine_maps.linear import (
    NotAbsorbed,
    along,
    axis_of_weight,
    data_input,
    gemm_weight,
    gemm_with,
    left_matmul_with,
    matmul_with,
    on_axis,
    store,
    store_left,
)
from bnfold.algebra.weights import optional_weight_of, weight_of
from bnfold.arrays import Array, FloatArray
from bnfold.rewriting.contract import Op, require, same_op
from bnfold.rewriting.query import int_attribute, is_used, rank_of


def _conv(affine: Affine, conv: ir.Node) -> Op:
    """A(s,t)(W∗x + b) = (s·W)∗x + (s·b + t), on W's first axis. W is (Cout, Cin/groups, k…).

    So it is for a DeformConv, at whatever positions its offsets and its mask let it read.
    """
    weight = weight_of(conv, 1)
    require(weight.ndim >= 3, NotAbsorbed.CHANNELS_DIFFER, conv)
    affine = on_axis(affine, 1, weight.shape[0], conv)
    scale = affine.scale.reshape(-1, *[1] * (weight.ndim - 1))
    return _convolution(affine, conv, weight, scale, channel_axis=0)


def _conv_transpose(affine: Affine, conv: ir.Node) -> Op:
    """As for Conv. W is (Cin, Cout/groups, k…); output channel g·(Cout/groups)+j is W[group g, j].

    The input channels are split into equal consecutive groups.
    """
    weight = weight_of(conv, 1)
    groups = int_attribute(conv, "group", 1)
    require(weight.ndim >= 3 and weight.shape[0] % groups == 0, NotAbsorbed.CHANNELS_DIFFER, conv)
    affine = on_axis(affine, 1, weight.shape[1] * groups, conv)
    scale = np.repeat(affine.scale.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    scale = scale.reshape(*scale.shape, *[1] * (weight.ndim - 2))
    return _convolution(affine, conv, weight, scale, channel_axis=1)


def _convolution(
    affine: Affine, conv: ir.Node, old: Array, scale: FloatArray, channel_axis: int
) -> Op:
    bias_at = 3 if conv.op_type == "DeformConv" else 2  # after the offsets
    bias = optional_weight_of(conv, bias_at)
    if bias is not None:
        require(bias.size == affine.channels, NotAbsorbed.CHANNELS_DIFFER, conv)
    shift = affine.shift if bias is None else affine.scale * bias + affine.shift
    weight = store(old, conv, 1, channel_axis, scale=scale)
    others = conv.inputs[2:bias_at], conv.inputs[bias_at + 1 :]
    total = store(shift, conv, bias_at)
    return same_op(conv, [conv.inputs[0], weight, *others[0], total, *others[1]])


def _gemm(affine: Affine, gemm: ir.Node) -> Op:
    """A(s,t)(α·A'B' + β·C) = α·A'(B'·s) + β·(s·C + t/β), on the columns of B' = B or Bᵀ.

    C may be a scalar, (N,), (1,N), (M,1) or (M,N); the new C has the shape to which
    s·C broadcasts. Without C, or with β = 0, the new C is t, with β = 1.
    """
    weight, transposed = gemm_weight(gemm)
    affine = on_axis(affine, 1, weight.shape[0 if transposed else 1], gemm)
    scale = affine.scale[:, None] if transposed else affine.scale
    folded = store(weight, gemm, 1, channel_axis=0 if transposed else 1, scale=scale)
    return gemm_with(gemm, gemm.inputs[0], folded, affine.scale, affine.shift)


def _matmul(affine: Affine, matmul: ir.Node) -> Op:
    """A(s,t)(x·B) = x·(B·s) + t, where the channels are on the last axis, or are the matrices."""
    if data_input(matmul) == 1:
        return _left_matmul(affine, matmul)
    weight, rank = weight_of(matmul, 1), known_rank(matmul.outputs[0], matmul)
    axis = axis_of_weight(affine, rank, weight, -1, matmul)
    has_rows = (rank_of(matmul.inputs[0]) or 0) >= 2  # of a vector, the result has an axis less
    require(axis == -1 or has_rows, NotAbsorbed.OTHER_AXIS, matmul)
    affine = on_axis(affine, rank + axis, weight.shape[axis], matmul)
    folded = store(weight, matmul, 1, channel_axis=axis, scale=along(affine.scale, axis))
    return matmul_with(matmul, matmul.inputs[0], folded, along(affine.shift, axis), rank)


def _left_matmul(affine: Affine, matmul: ir.Node) -> Op:
    """A(s,t)(A·x) = (s·A)·x + t, where the channels are the rows of A, or the matrices."""
    weight, data = weight_of(matmul, 0), matmul.inputs[1]
    rank = known_rank(matmul.outputs[0], matmul)
    require((rank_of(data) or 0) >= 2, NotAbsorbed.OTHER_AXIS, matmul)
    axis = axis_of_weight(affine, rank, weight, -2, matmul)
    affine = on_axis(affine, rank + axis, weight.shape[axis], matmul)
    folded = store_left(weight, matmul, axis, along(affine.scale, axis))
    return left_matmul_with(matmul, data, folded, along(affine.shift, axis), rank)


def _batch_normalization(affine: Affine, bn: ir.Node) -> Op:
    """A(s,t)(γ·z + β) = (s·γ)·z + (s·β + t), where z is x normalized."""
    gamma, beta, _, _ = batch_norm_parameters(bn)
    return _normalization(affine, bn, 1, gamma, beta)


def _instance_normalization(affine: Affine, node: ir.Node) -> Op:
    """A(s,t)(γ·z + β) = (s·γ)·z + (s·β + t), where z is x normalized; γ and β are (C,)."""
    return _normalization(affine, node, 1, weight_of(node, 1), optional_weight_of(node, 2))


def _layer_normalization(affine: Affine, node: ir.Node) -> Op:
    """As for an InstanceNormalization, over the last axis alone; γ and β are (C,)."""
    require(not any(map(is_used, node.outputs[1:])), NotAbsorbed.OTHER_AXIS, node)
    rank = known_rank(node.outputs[0], node)
    is_last = int_attribute(node, "axis", -1) in (-1, rank - 1)
    require(is_last, NotAbsorbed.OTHER_AXIS, node)
    return _normalization(affine, node, rank - 1, weight_of(node, 1), optional_weight_of(node, 2))


def _normalization(
    affine: Affine, node: ir.Node, axis: int, gamma: Array, beta: Array | None
) -> Op:
    require(gamma.ndim == 1, NotAbsorbed.CHANNELS_DIFFER, node)
    affine = on_axis(affine, axis, gamma.size, node)
    with np.errstate(all="ignore"):
        shift = affine.shift if beta is None else affine.scale * beta + affine.shift
        scale = affine.scale * gamma
    new = store(scale, node, 1), store(shift, node, 2)
    return same_op(node, [node.inputs[0], *new, *node.inputs[3:]])


IntoProducer = Callable[[Affine, ir.Node], Op]

PRODUCERS: Mapping[str, IntoProducer] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DeformConv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_normalization,
    "InstanceNormalization": _instance_normalization,
    "LayerNormalization": _layer_normalization,
}
"""Maps an operator before an affine map to an expression for both."""
