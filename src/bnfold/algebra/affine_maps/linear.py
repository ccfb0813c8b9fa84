"""The operators that absorb a per-channel affine map, as producers or as consumers.

Before the map, a linear operator L absorbs it into its output channels, ``A(s, t) ∘ L``; after the
map, into its input channels, ``L ∘ A(s, t)``. Both are again an L. Each function implements one
identity; the tables list which operators have which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import Affine, batch_norm_parameters, batch_normalization
from bnfold.algebra.affine_maps.carrying import known_rank
from bnfold.algebra.matrices.linear_maps import product
from bnfold.algebra.padding import padding_of
from bnfold.algebra.weights import folded_name, optional_weight_of, stored, weight_of
from bnfold.arrays import Array, FloatArray
from bnfold.graph.constants import is_constant, is_overridable
from bnfold.rewriting.contract import (
    Common,
    Op,
    Operand,
    Refusal,
    Weight,
    require,
    same_op,
)
from bnfold.rewriting.query import (
    float_attribute,
    int_attribute,
    ints_attribute,
    is_used,
    opset,
    rank_of,
    shape_of,
)


class NotAbsorbed(Refusal):
    """Why a linear operator cannot absorb an affine map."""

    CHANNELS_DIFFER = "the operator next to it has a different number of channels"
    OTHER_AXIS = "the operator next to it has its channels on a different axis"
    PADDED_SHIFT = (
        "the Conv after it pads with zeros, to which its shift would have to apply too",
        "pad before it instead, or not at all",
    )
    TRANSPOSED_SHIFT = (
        "the ConvTranspose after it would add its shift more often to some positions than to others"
    )


NOT_ABSORBED = (
    *NotAbsorbed,
    Common.SHAPE_UNKNOWN,
    Common.WEIGHT_NOT_CONSTANT,
    Common.WEIGHT_OVERRIDABLE,
)
"""All reasons of this module."""


# --- Producers: A ∘ L, on output channels -------------------------------------------------------


def _conv(affine: Affine, conv: ir.Node) -> Op:
    """A(s,t)(W∗x + b) = (s·W)∗x + (s·b + t), on W's first axis. W is (Cout, Cin/groups, k…).

    So it is for a DeformConv, at whatever positions its offsets and its mask let it read.
    """
    weight = weight_of(conv, 1)
    require(weight.ndim >= 3, NotAbsorbed.CHANNELS_DIFFER, conv)
    affine = _on_axis(affine, 1, weight.shape[0], conv)
    scale = affine.scale.reshape(-1, *[1] * (weight.ndim - 1))
    return _convolution(affine, conv, weight, scale, channel_axis=0)


def _conv_transpose(affine: Affine, conv: ir.Node) -> Op:
    """As for Conv. W is (Cin, Cout/groups, k…); output channel g·(Cout/groups)+j is W[group g, j].

    The input channels are split into equal consecutive groups.
    """
    weight = weight_of(conv, 1)
    groups = int_attribute(conv, "group", 1)
    require(weight.ndim >= 3 and weight.shape[0] % groups == 0, NotAbsorbed.CHANNELS_DIFFER, conv)
    affine = _on_axis(affine, 1, weight.shape[1] * groups, conv)
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
    weight = _store(old, conv, 1, channel_axis, scale=scale)
    others = conv.inputs[2:bias_at], conv.inputs[bias_at + 1 :]
    total = _store(shift, conv, bias_at)
    return same_op(conv, [conv.inputs[0], weight, *others[0], total, *others[1]])


def _gemm(affine: Affine, gemm: ir.Node) -> Op:
    """A(s,t)(α·A'B' + β·C) = α·A'(B'·s) + β·(s·C + t/β), on the columns of B' = B or Bᵀ.

    C may be a scalar, (N,), (1,N), (M,1) or (M,N); the new C has the shape to which
    s·C broadcasts. Without C, or with β = 0, the new C is t, with β = 1.
    """
    weight, transposed = _gemm_weight(gemm)
    affine = _on_axis(affine, 1, weight.shape[0 if transposed else 1], gemm)
    scale = affine.scale[:, None] if transposed else affine.scale
    folded = _store(weight, gemm, 1, channel_axis=0 if transposed else 1, scale=scale)
    return _gemm_with(gemm, gemm.inputs[0], folded, affine.scale, affine.shift)


def _matmul(affine: Affine, matmul: ir.Node) -> Op:
    """A(s,t)(x·B) = x·(B·s) + t, where the channels are on the last axis, or are the matrices."""
    if data_input(matmul) == 1:
        return _left_matmul(affine, matmul)
    weight, rank = weight_of(matmul, 1), known_rank(matmul.outputs[0], matmul)
    axis = _axis_of_weight(affine, rank, weight, -1, matmul)
    has_rows = (rank_of(matmul.inputs[0]) or 0) >= 2  # of a vector, the result has an axis less
    require(axis == -1 or has_rows, NotAbsorbed.OTHER_AXIS, matmul)
    affine = _on_axis(affine, rank + axis, weight.shape[axis], matmul)
    folded = _store(weight, matmul, 1, channel_axis=axis, scale=_along(affine.scale, axis))
    return _matmul_with(matmul, matmul.inputs[0], folded, _along(affine.shift, axis), rank)


def _left_matmul(affine: Affine, matmul: ir.Node) -> Op:
    """A(s,t)(A·x) = (s·A)·x + t, where the channels are the rows of A, or the matrices."""
    weight, data = weight_of(matmul, 0), matmul.inputs[1]
    rank = known_rank(matmul.outputs[0], matmul)
    require((rank_of(data) or 0) >= 2, NotAbsorbed.OTHER_AXIS, matmul)
    axis = _axis_of_weight(affine, rank, weight, -2, matmul)
    affine = _on_axis(affine, rank + axis, weight.shape[axis], matmul)
    folded = _store_left(weight, matmul, axis, _along(affine.scale, axis))
    return _left_matmul_with(matmul, data, folded, _along(affine.shift, axis), rank)


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
    affine = _on_axis(affine, axis, gamma.size, node)
    with np.errstate(all="ignore"):
        shift = affine.shift if beta is None else affine.scale * beta + affine.shift
        scale = affine.scale * gamma
    new = _store(scale, node, 1), _store(shift, node, 2)
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


# --- Consumers: L ∘ A, on input channels --------------------------------------------------------


def _conv_after(affine: Affine, conv: ir.Node, data: Operand) -> Op:
    """W∗(s·x + t) + b = (W·s)∗x + (b + Σ_{i,k} W_{o,i,k}·t_i), on W's second axis, by groups.

    If the Conv pads, its border sees zeros instead of t, so this is exact only for t = 0.
    """
    weight = weight_of(conv, 1)
    groups = int_attribute(conv, "group", 1)
    require(weight.ndim >= 3 and weight.shape[0] % groups == 0, NotAbsorbed.CHANNELS_DIFFER, conv)
    affine = _on_axis(affine, 1, weight.shape[1] * groups, conv)
    require(not affine.has_shift or not pads(conv, weight.shape), NotAbsorbed.PADDED_SHIFT, conv)
    scale, shift = (
        np.repeat(values.reshape(groups, -1), weight.shape[0] // groups, axis=0).reshape(
            *weight.shape[:2], *[1] * (weight.ndim - 2)
        )
        for values in (affine.scale, affine.shift)
    )
    constant_part = (weight.astype(np.float64) * shift).sum(axis=tuple(range(1, weight.ndim)))
    bias = optional_weight_of(conv, 2)
    inputs: list[Operand] = [data, _store(weight, conv, 1, channel_axis=1, scale=scale)]
    if bias is not None or affine.has_shift:
        total = constant_part if bias is None else bias + constant_part
        inputs.append(_store(total, conv, 2))
    return same_op(conv, inputs)


def _conv_transpose_after(affine: Affine, conv: ir.Node, data: Operand) -> Op:
    """W∗(s·x) = (s·W)∗x, on W's first axis, which holds the input channels of all groups.

    A shift reaches each position as often as there are taps that do, so only t = 0 is exact.
    """
    weight = weight_of(conv, 1)
    require(weight.ndim >= 3, NotAbsorbed.CHANNELS_DIFFER, conv)
    affine = _on_axis(affine, 1, weight.shape[0], conv)
    require(not affine.has_shift, NotAbsorbed.TRANSPOSED_SHIFT, conv)
    scale = affine.scale.reshape(-1, *[1] * (weight.ndim - 1))
    return same_op(conv, [data, _store(weight, conv, 1, 0, scale=scale), *conv.inputs[2:]])


def pads(conv: ir.Node, weight_shape: Sequence[int]) -> bool:
    """Say whether any window of the Conv reaches over the border of its input."""
    kernel = weight_shape[2:]
    ones = [1] * len(kernel)
    strides, dilations = (ints_attribute(conv, name, ones) for name in ("strides", "dilations"))
    widths = padding_of(conv, kernel, strides, dilations)
    return widths is None or any(map(any, widths))


def _gemm_after(affine: Affine, gemm: ir.Node, data: Operand) -> Op:
    """α·(x·s + t)B' + β·C = α·x·(s·B') + β·(C + (α/β)·t·B'), on the rows of B' = B or Bᵀ."""
    weight, transposed = _gemm_weight(gemm)
    axis = 0 if int_attribute(gemm, "transA", 0) else 1
    affine = _on_axis(affine, axis, weight.shape[1 if transposed else 0], gemm)
    rows = weight.T if transposed else weight
    shift = float_attribute(gemm, "alpha", 1.0) * (affine.shift @ rows.astype(np.float64))
    scale = affine.scale if transposed else affine.scale[:, None]
    folded = _store(weight, gemm, 1, channel_axis=int(transposed), scale=scale)
    return _gemm_with(gemm, data, folded, 1.0, shift)


def _matmul_after(affine: Affine, matmul: ir.Node, data: Operand) -> Op:
    """(x·s + t)·B = x·(s·B) + t·B: the channels are on the last axis of x, or are the matrices."""
    if data_input(matmul) == 1:
        return _left_matmul_after(affine, matmul, data)
    weight, rank = weight_of(matmul, 1), known_rank(matmul.inputs[0], matmul)
    axis = _axis_of_weight(affine, rank, weight, -1, matmul)
    _require_shift_fits(weight, rank, matmul)
    rows = -2 if axis == -1 else axis
    affine = _on_axis(affine, rank + axis, weight.shape[rows], matmul)
    folded = _store(weight, matmul, 1, channel_axis=rows, scale=_along(affine.scale, rows))
    row = _along(affine.shift, axis)
    if weight.ndim > 2:
        row = np.broadcast_to(row, (*row.shape[:-2], 1, weight.shape[-2]))
    return _matmul_with(matmul, data, folded, row @ weight.astype(np.float64), rank)


def _left_matmul_after(affine: Affine, matmul: ir.Node, data: Operand) -> Op:
    """A·(s·x + t) = (A·s)·x + A·t: the channels are on x's last axis but one, or the matrices."""
    weight, rank = weight_of(matmul, 0), known_rank(matmul.inputs[1], matmul)
    require(rank >= 2, NotAbsorbed.OTHER_AXIS, matmul)
    axis = _axis_of_weight(affine, rank, weight, -2, matmul)
    _require_shift_fits(weight, rank, matmul)
    columns = -1 if axis == -2 else axis
    affine = _on_axis(affine, rank + axis, weight.shape[columns], matmul)
    folded = _store_left(weight, matmul, columns, _along(affine.scale, columns))
    column = _along(affine.shift, axis)
    column = np.broadcast_to(column, (*column.shape[:-2], weight.shape[-1], 1))
    return _left_matmul_with(matmul, data, folded, weight.astype(np.float64) @ column, rank)


def _batch_normalization_after(affine: Affine, bn: ir.Node, data: Operand) -> Op:
    """BN ∘ A = A(s', t'), written as the BatchNormalization of mean 0, variance 1 and ε = 0."""
    both = batch_normalization(bn).after(affine)
    gamma = weight_of(bn, 1)
    both = _on_axis(both, 1, gamma.size, bn)
    ones, zeros = np.ones(gamma.size), np.zeros(gamma.size)
    attributes = dict(bn.attributes)
    attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.0)
    inputs = [
        data,
        *(
            _store(values, bn, index)
            for index, values in enumerate((both.scale, both.shift, zeros, ones), 1)
        ),
    ]
    return Op("BatchNormalization", inputs, tuple(attributes.values()), bn)


def _recurrent_after(affine: Affine, node: ir.Node, data: Operand) -> Op:
    """W·(s·x + t) + Wb + … = (W·s)·x + (Wb + W·t) + …, in each gate and direction.

    W is (directions, gates·hidden, inputs), and B holds Wb and then Rb along its last axis: (ONNX,
    LSTM, GRU and RNN). The channels are on the last axis of x, whichever its layout is. Initial
    states, peepholes and the lengths of sequences do not depend on x.
    """
    weight, recurrent = weight_of(node, 1), weight_of(node, 2)
    fits = weight.ndim == 3 and recurrent.shape[:2] == weight.shape[:2]
    require(fits, NotAbsorbed.CHANNELS_DIFFER, node)
    affine = _on_axis(affine, 2, weight.shape[2], node)
    shift = weight.astype(np.float64) @ affine.shift
    bias = optional_weight_of(node, 3)
    inputs = list[Operand](node.inputs)
    inputs[:2] = data, _store(weight, node, 1, channel_axis=2, scale=affine.scale)
    if affine.has_shift:
        total = np.concatenate([shift, np.zeros_like(shift)], axis=1)
        if bias is not None:
            require(bias.shape == total.shape, NotAbsorbed.CHANNELS_DIFFER, node)
            total = bias + total
        inputs[3:4] = [_store(total, node, 3)]
    return replace(same_op(node, inputs), outputs=len(node.outputs))


IntoConsumer = Callable[[Affine, ir.Node, Operand], Op]

CONSUMERS: Mapping[str, IntoConsumer] = {
    "Conv": _conv_after,
    "ConvTranspose": _conv_transpose_after,
    "Gemm": _gemm_after,
    "MatMul": _matmul_after,
    "BatchNormalization": _batch_normalization_after,
    "LSTM": _recurrent_after,
    "GRU": _recurrent_after,
    "RNN": _recurrent_after,
}
"""Maps an operator after an affine map, and the data of the map, to an expression for both."""


# --- Gemm and MatMul ----------------------------------------------------------------------------


def _gemm_weight(gemm: ir.Node) -> tuple[Array, bool]:
    weight = weight_of(gemm, 1)
    require(weight.ndim == 2, NotAbsorbed.CHANNELS_DIFFER, gemm)
    return weight, int_attribute(gemm, "transB", 0) != 0


def _gemm_with(
    gemm: ir.Node, data: Operand, weight: Weight, scale: FloatArray | float, shift: FloatArray
) -> Op:
    """Return the Gemm with other data and B, and with C' such that β·C' = β·scale·C + shift."""
    beta = float_attribute(gemm, "beta", 1.0)
    bias = optional_weight_of(gemm, 2)
    attributes = dict(gemm.attributes)
    if bias is None or beta == 0:
        attributes.pop("beta", None)
        total = shift
    else:
        fits = bias.ndim <= 2 and (bias.ndim == 0 or bias.shape[-1] in (1, shift.size))
        require(fits, NotAbsorbed.CHANNELS_DIFFER, gemm)
        with np.errstate(over="ignore"):
            total = scale * bias + shift / beta
    if opset(gemm) < 7:
        attributes["broadcast"] = ir.AttrInt64("broadcast", 1)
    inputs = [data, weight, _store(total, gemm, 2)]
    return Op("Gemm", inputs, tuple(attributes.values()), gemm)


def _matmul_with(
    matmul: ir.Node, data: Operand, weight: Weight, shift: FloatArray, rank: int
) -> Op:
    """Return data·weight + shift."""
    bias = _store(shift, matmul, 2) if shift.any() else None
    is_gemm = rank == 2 and weight.array.ndim == 2
    return product(matmul.outputs[0], data, weight, bias, matmul, is_gemm=is_gemm)


def _left_matmul_with(
    matmul: ir.Node, data: Operand, weight: Weight, shift: FloatArray, rank: int
) -> Op:
    """Return weight·data + shift, which has an element for each row, or for each matrix."""
    if not shift.any():
        return Op("MatMul", [weight, data], (), matmul)
    output, legacy = matmul.outputs[0], list[ir.Attr]()
    if opset(matmul) < 7:
        shift = shift.reshape(-1)
        legacy = [ir.AttrInt64("broadcast", 1), ir.AttrInt64("axis", rank - 2)]
    name = f"{weight.stem.removesuffix('.folded')}.bias.folded"
    made = Op("MatMul", [weight, data], (), matmul, shape_of(output), output)
    return Op("Add", [made, stored(shift, weight.dtype, name, matmul)], legacy)


def _axis_of_weight(affine: Affine, rank: int, weight: Array, own: int, matmul: ir.Node) -> int:
    """Return the axis of the channels, counted from the last one of data or a result of this rank.

    It is the `own` one of a MatMul, or an axis of matrices of the weight.
    """
    axis = own if affine.is_uniform else affine.axis - rank
    fits = axis == own or (axis < -2 and opset(matmul) >= 7)
    require(weight.ndim >= max(2, -axis) and fits, NotAbsorbed.OTHER_AXIS, matmul)
    return axis


def _require_shift_fits(weight: Array, rank: int, matmul: ir.Node) -> None:
    """Require that what each matrix makes of the shift can be added to the result."""
    fits = weight.ndim == 2 or (rank >= 2 and opset(matmul) >= 7)
    require(fits, NotAbsorbed.OTHER_AXIS, matmul)


def _along(values: FloatArray, axis: int) -> FloatArray:
    """Return the values, one for each channel, along an axis that is counted from the last one."""
    return values.reshape(-1, *[1] * (-1 - axis))


def _store_left(weight: Array, matmul: ir.Node, channel_axis: int, scale: FloatArray) -> Weight:
    dtype, name = ir.DataType.from_numpy(weight.dtype), folded_name(matmul, 0)
    return stored(weight, dtype, name, matmul, channel_axis, scale=scale)


def data_input(node: ir.Node) -> int:
    """Return which input of a linear operator is not a weight: the second of a MatMul, perhaps."""
    if node.op_type != "MatMul" or len(node.inputs) != 2:
        return 0
    is_left, is_right = (is_constant(each) or is_overridable(each) for each in node.inputs)
    return int(is_left and not is_right)


# --- Weights ------------------------------------------------------------------------------------


def _on_axis(affine: Affine, axis: int, channels: int, subject: ir.Node) -> Affine:
    """Return the map with one scale and shift per channel, if it is one over these channels."""
    if affine.is_uniform:
        return Affine(np.repeat(affine.scale, channels), np.repeat(affine.shift, channels), axis)
    require(affine.axis == axis, NotAbsorbed.OTHER_AXIS, subject)
    detail = f"{channels}, not {affine.channels}"
    require(affine.channels == channels, NotAbsorbed.CHANNELS_DIFFER, subject, detail)
    return affine.spread()


def _store(
    values: Array,
    node: ir.Node,
    index: int,
    channel_axis: int | None = None,
    *,
    scale: FloatArray | None = None,
) -> Weight:
    """Round new values for input `index` to the type of the operator's weight."""
    dtype = ir.DataType.from_numpy(weight_of(node, 1).dtype)
    return stored(values, dtype, folded_name(node, index), node, channel_axis, scale=scale)
