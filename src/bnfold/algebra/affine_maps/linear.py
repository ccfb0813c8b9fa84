"""What linear operators need to absorb a per-channel affine map, on either side of them.

The reasons why one does not, which of its inputs are weights, and how new ones are stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import Affine
from bnfold.algebra.matrices.linear_maps import product
from bnfold.algebra.padding import padding_of
from bnfold.algebra.weights import folded_name, optional_weight_of, stored, weight_of
from bnfold.arrays import Array, FloatArray
from bnfold.graph.constants import is_constant, is_overridable
from bnfold.rewriting.contract import Common, Op, Operand, Refusal, Weight, require
from bnfold.rewriting.query import float_attribute, int_attribute, ints_attribute, opset, shape_of


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
"""All reasons why a linear operator does not absorb a map."""


def data_input(node: ir.Node) -> int:
    """Return which input of a linear operator is not a weight: the second of a MatMul, perhaps."""
    if node.op_type != "MatMul" or len(node.inputs) != 2:
        return 0
    is_left, is_right = (is_constant(value) or is_overridable(value) for value in node.inputs)
    return int(is_left and not is_right)


def pads(conv: ir.Node, weight_shape: Sequence[int]) -> bool:
    """Say whether any window of the Conv reaches over the border of its input."""
    kernel = weight_shape[2:]
    ones = [1] * len(kernel)
    strides, dilations = (ints_attribute(conv, name, ones) for name in ("strides", "dilations"))
    widths = padding_of(conv, kernel, strides, dilations)
    return widths is None or any(map(any, widths))


# --- The channels, and their weights -------------------------------------------------------------


def on_axis(affine: Affine, axis: int, channels: int, subject: ir.Node) -> Affine:
    """Return the map with one scale and shift per channel, if it is one over these channels."""
    if affine.is_uniform:
        return Affine(np.repeat(affine.scale, channels), np.repeat(affine.shift, channels), axis)
    require(affine.axis == axis, NotAbsorbed.OTHER_AXIS, subject)
    detail = f"{channels}, not {affine.channels}"
    require(affine.channels == channels, NotAbsorbed.CHANNELS_DIFFER, subject, detail)
    return affine.spread()


def store(
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


# --- Gemm and MatMul ----------------------------------------------------------------------------


def gemm_weight(gemm: ir.Node) -> tuple[Array, bool]:
    """Return B, and whether the Gemm transposes it."""
    weight = weight_of(gemm, 1)
    require(weight.ndim == 2, NotAbsorbed.CHANNELS_DIFFER, gemm)
    return weight, int_attribute(gemm, "transB", 0) != 0


def gemm_with(
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
    inputs = [data, weight, store(total, gemm, 2)]
    return Op("Gemm", inputs, tuple(attributes.values()), gemm)


def matmul_with(matmul: ir.Node, data: Operand, weight: Weight, shift: FloatArray, rank: int) -> Op:
    """Return data·weight + shift."""
    bias = store(shift, matmul, 2) if shift.any() else None
    is_gemm = rank == 2 and weight.array.ndim == 2
    return product(matmul.outputs[0], data, weight, bias, matmul, is_gemm=is_gemm)


def left_matmul_with(
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


def axis_of_weight(affine: Affine, rank: int, weight: Array, own: int, matmul: ir.Node) -> int:
    """Return the axis of the channels, counted from the last one of data or a result of this rank.

    It is the `own` one of a MatMul, or an axis of matrices of the weight.
    """
    axis = own if affine.is_uniform else affine.axis - rank
    fits = axis == own or (axis < -2 and opset(matmul) >= 7)
    require(weight.ndim >= max(2, -axis) and fits, NotAbsorbed.OTHER_AXIS, matmul)
    return axis


def along(values: FloatArray, axis: int) -> FloatArray:
    """Return the values, one for each channel, along an axis that is counted from the last one."""
    return values.reshape(-1, *[1] * (-1 - axis))


def store_left(weight: Array, matmul: ir.Node, channel_axis: int, scale: FloatArray) -> Weight:
    """Round the scaled weight of a MatMul that is its first input."""
    dtype, name = ir.DataType.from_numpy(weight.dtype), folded_name(matmul, 0)
    return stored(weight, dtype, name, matmul, channel_axis, scale=scale)
