"""The linear operators that absorb a per-channel affine map before them, into their inputs.

After the map, a linear operator L absorbs it into its input channels: ``L ∘ A(s, t)`` is again an
L. Each function implements one identity; the table lists which operators have one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import Affine, batch_normalization
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
    pads,
    store,
    store_left,
)
from bnfold.algebra.weights import optional_weight_of, weight_of
from bnfold.arrays import Array
from bnfold.rewriting.contract import Op, Operand, require, same_op
from bnfold.rewriting.query import float_attribute, int_attribute, opset


def _conv(affine: Affine, conv: ir.Node, data: Operand) -> Op:
    """W∗(s·x + t) + b = (W·s)∗x + (b + Σ_{i,k} W_{o,i,k}·t_i), on W's second axis, by groups.

    If the Conv pads, its border sees zeros instead of t, so this is exact only for t = 0.
    """
    weight = weight_of(conv, 1)
    groups = int_attribute(conv, "group", 1)
    require(weight.ndim >= 3 and weight.shape[0] % groups == 0, NotAbsorbed.CHANNELS_DIFFER, conv)
    affine = on_axis(affine, 1, weight.shape[1] * groups, conv)
    require(not affine.has_shift or not pads(conv, weight.shape), NotAbsorbed.PADDED_SHIFT, conv)
    scale, shift = (
        np.repeat(values.reshape(groups, -1), weight.shape[0] // groups, axis=0).reshape(
            *weight.shape[:2], *[1] * (weight.ndim - 2)
        )
        for values in (affine.scale, affine.shift)
    )
    constant_part = (weight.astype(np.float64) * shift).sum(axis=tuple(range(1, weight.ndim)))
    bias = optional_weight_of(conv, 2)
    inputs: list[Operand] = [data, store(weight, conv, 1, channel_axis=1, scale=scale)]
    if bias is not None or affine.has_shift:
        total = constant_part if bias is None else bias + constant_part
        inputs.append(store(total, conv, 2))
    return same_op(conv, inputs)


def _conv_transpose(affine: Affine, conv: ir.Node, data: Operand) -> Op:
    """W∗(s·x) = (s·W)∗x, on W's first axis, which holds the input channels of all groups.

    A shift reaches each position as often as there are taps that do, so only t = 0 is exact.
    """
    weight = weight_of(conv, 1)
    require(weight.ndim >= 3, NotAbsorbed.CHANNELS_DIFFER, conv)
    affine = on_axis(affine, 1, weight.shape[0], conv)
    require(not affine.has_shift, NotAbsorbed.TRANSPOSED_SHIFT, conv)
    scale = affine.scale.reshape(-1, *[1] * (weight.ndim - 1))
    return same_op(conv, [data, store(weight, conv, 1, 0, scale=scale), *conv.inputs[2:]])


def _gemm(affine: Affine, gemm: ir.Node, data: Operand) -> Op:
    """α·(x·s + t)B' + β·C = α·x·(s·B') + β·(C + (α/β)·t·B'), on the rows of B' = B or Bᵀ."""
    weight, transposed = gemm_weight(gemm)
    axis = 0 if int_attribute(gemm, "transA", 0) else 1
    affine = on_axis(affine, axis, weight.shape[1 if transposed else 0], gemm)
    rows = weight.T if transposed else weight
    shift = float_attribute(gemm, "alpha", 1.0) * (affine.shift @ rows.astype(np.float64))
    scale = affine.scale if transposed else affine.scale[:, None]
    folded = store(weight, gemm, 1, channel_axis=int(transposed), scale=scale)
    return gemm_with(gemm, data, folded, 1.0, shift)


def _matmul(affine: Affine, matmul: ir.Node, data: Operand) -> Op:
    """(x·s + t)·B = x·(s·B) + t·B: the channels are on the last axis of x, or are the matrices."""
    if data_input(matmul) == 1:
        return _left_matmul(affine, matmul, data)
    weight, rank = weight_of(matmul, 1), known_rank(matmul.inputs[0], matmul)
    axis = axis_of_weight(affine, rank, weight, -1, matmul)
    _require_shift_fits(weight, rank, matmul)
    rows = -2 if axis == -1 else axis
    affine = on_axis(affine, rank + axis, weight.shape[rows], matmul)
    folded = store(weight, matmul, 1, channel_axis=rows, scale=along(affine.scale, rows))
    row = along(affine.shift, axis)
    if weight.ndim > 2:
        row = np.broadcast_to(row, (*row.shape[:-2], 1, weight.shape[-2]))
    return matmul_with(matmul, data, folded, row @ weight.astype(np.float64), rank)


def _left_matmul(affine: Affine, matmul: ir.Node, data: Operand) -> Op:
    """A·(s·x + t) = (A·s)·x + A·t: the channels are on x's last axis but one, or the matrices."""
    weight, rank = weight_of(matmul, 0), known_rank(matmul.inputs[1], matmul)
    require(rank >= 2, NotAbsorbed.OTHER_AXIS, matmul)
    axis = axis_of_weight(affine, rank, weight, -2, matmul)
    _require_shift_fits(weight, rank, matmul)
    columns = -1 if axis == -2 else axis
    affine = on_axis(affine, rank + axis, weight.shape[columns], matmul)
    folded = store_left(weight, matmul, columns, along(affine.scale, columns))
    column = along(affine.shift, axis)
    column = np.broadcast_to(column, (*column.shape[:-2], weight.shape[-1], 1))
    return left_matmul_with(matmul, data, folded, weight.astype(np.float64) @ column, rank)


def _batch_normalization(affine: Affine, bn: ir.Node, data: Operand) -> Op:
    """BN ∘ A = A(s', t'), written as the BatchNormalization of mean 0, variance 1 and ε = 0."""
    both = batch_normalization(bn).after(affine)
    gamma = weight_of(bn, 1)
    both = on_axis(both, 1, gamma.size, bn)
    ones, zeros = np.ones(gamma.size), np.zeros(gamma.size)
    attributes = dict(bn.attributes)
    attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.0)
    inputs = [
        data,
        *(
            store(values, bn, index)
            for index, values in enumerate((both.scale, both.shift, zeros, ones), 1)
        ),
    ]
    return Op("BatchNormalization", inputs, tuple(attributes.values()), bn)


def _recurrent(affine: Affine, node: ir.Node, data: Operand) -> Op:
    """W·(s·x + t) + Wb + … = (W·s)·x + (Wb + W·t) + …, in each gate and direction.

    W is (directions, gates·hidden, inputs), and B holds Wb and then Rb along its last axis: (ONNX,
    LSTM, GRU and RNN). The channels are on the last axis of x, whichever its layout is. Initial
    states, peepholes and the lengths of sequences do not depend on x.
    """
    weight, recurrent = weight_of(node, 1), weight_of(node, 2)
    fits = weight.ndim == 3 and recurrent.shape[:2] == weight.shape[:2]
    require(fits, NotAbsorbed.CHANNELS_DIFFER, node)
    affine = on_axis(affine, 2, weight.shape[2], node)
    shift = weight.astype(np.float64) @ affine.shift
    bias = optional_weight_of(node, 3)
    inputs = list[Operand](node.inputs)
    inputs[:2] = data, store(weight, node, 1, channel_axis=2, scale=affine.scale)
    if affine.has_shift:
        total = np.concatenate([shift, np.zeros_like(shift)], axis=1)
        if bias is not None:
            require(bias.shape == total.shape, NotAbsorbed.CHANNELS_DIFFER, node)
            total = bias + total
        inputs[3:4] = [store(total, node, 3)]
    return replace(same_op(node, inputs), outputs=len(node.outputs))


def _require_shift_fits(weight: Array, rank: int, matmul: ir.Node) -> None:
    """Require that what each matrix makes of the shift can be added to the result."""
    fits = weight.ndim == 2 or (rank >= 2 and opset(matmul) >= 7)
    require(fits, NotAbsorbed.OTHER_AXIS, matmul)


IntoConsumer = Callable[[Affine, ir.Node, Operand], Op]

CONSUMERS: Mapping[str, IntoConsumer] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_normalization,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
"""Maps an operator after an affine map, and the data of the map, to an expression for both."""
