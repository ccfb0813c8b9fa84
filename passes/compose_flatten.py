"""Make one Gemm of a Conv and the Gemm that reads its flattened result.

    flatten(W∗x + b)·M + m = flatten(x)·(W†M) + (b̃·M + m)

Where the map has a fixed size, a Conv is a matrix of its positions, too. W†M is its transpose
applied to each column of M: row (i, u) of the product is the sum of W_{o,i,j}·M_{(o,p),n} over all
taps j of results p that read position u. What lies in the padding falls away. b̃ repeats b over the
positions.

The flattening may be a Flatten, Reshape or Squeeze, and the Gemm a MatMul, with any scale or bias
of its own.

Conditions: finite data, because what a weight of zero leaves out is multiplied after all; constant
weights; known spatial sizes; nothing else reads the values between.

Profit: the product takes no more multiplications for a sample than both, where reading a weight
counts as four: a Conv's serves all positions, a Gemm's only one. Measured on onnxruntime, one
thread, 64 channels on 7²: a 3×3 Conv before 10 columns takes 2.8 times as long as the product, and
8.8 times with 8 samples; before 128 columns 1.5 and 2.8 times, 1.0 and 1.8 if it halves the
channels. A Conv that makes few channels of many stays.

ROUNDED: equal in the reals. The product is computed in float64 and rounded once.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from bnfold.algebra.matrices.linear_forms import PRODUCTS, Linear, linear_forms
from bnfold.algebra.matrices.linear_maps import product
from bnfold.algebra.spatial.convolution import Convolution
from bnfold.algebra.spatial.operators import convolution_of
from bnfold.algebra.weights import NotStorable, folded_name, stored
from bnfold.arrays import FloatArray
from bnfold.graph.constants import is_overridable
from bnfold.rewriting.contract import (
    Common,
    Exactness,
    Op,
    Refused,
    Replace,
    require,
    rewrite,
)
from bnfold.rewriting.query import is_op, producer, rank_of, size_of, sole_use

_READ = 4
"""How many multiplications take as long as reading a weight."""


@rewrite(
    "compose-flatten",
    roots=PRODUCTS,
    exactness=Exactness.ROUNDED,
    refusals=[
        *NotStorable,
        Common.NO_GAIN,
        Common.PADDED_BY_SIZE,
        Common.SHAPE_UNKNOWN,
        Common.SHARED,
        Common.WEIGHT_NOT_CONSTANT,
        Common.WEIGHT_OVERRIDABLE,
    ],
)
def compose_flatten(root: ir.Node) -> Replace | None:
    """Replace ``Gemm ∘ Flatten ∘ Conv`` by a Gemm, if it costs less."""
    flatten = producer(root, 0, "Flatten", "Reshape", "Squeeze")
    conv = producer(flatten, 0, "Conv") if flatten is not None else None
    if flatten is None or conv is None or rank_of(root.inputs[0]) != 2:
        return None
    gemm = _gemm(root)
    if gemm is None:
        return None
    before, after = (_sizes(value, conv) for value in (conv.inputs[0], conv.outputs[0]))
    if gemm.rows != math.prod(after):
        return None  # it flattens the batch, too
    first = convolution_of(conv)
    if min(*first.before, *first.after) < 0:
        return None
    assert gemm.columns is not None
    cost = first.kernel.size * (math.prod(after[1:]) + _READ) + gemm.rows * gemm.columns * (
        1 + _READ
    )
    is_cheaper = math.prod(before) * gemm.columns * (1 + _READ) <= cost
    require(is_cheaper and math.prod(before) > 0, Common.NO_GAIN, conv)
    for node in (conv, flatten):
        require(sole_use(node.outputs[0]), Common.SHARED, node)
    require(not any(map(is_overridable, root.inputs)), Common.WEIGHT_OVERRIDABLE)
    weight = gemm.matrix.weight.reshape(*after, gemm.columns)
    shift = gemm.matrix.bias + first.bias @ weight.sum(axis=tuple(range(1, weight.ndim - 1)))
    bias = None
    if shift.any() or is_op(root, "Gemm"):
        bias = stored(shift, first.dtype, folded_name(root, 2), root)
    shape = ir.Shape([None, math.prod(before)])
    data = Op("Flatten", [conv.inputs[0]], like=flatten, shape=shape, type_of=conv.inputs[0])
    composed = product(
        root.outputs[0],
        data,
        stored(_transposed(first, weight, before), first.dtype, folded_name(root, 1), root, 1),
        bias,
        root,
        is_gemm=True,
    )
    detail = f"Conv and {root.op_type} into one product"
    return Replace([conv, flatten, root], {root.outputs[0]: composed}, detail)


def _gemm(root: ir.Node) -> Linear | None:
    """Return the root as a matrix, if it is one, of what it reads first."""
    forms = (form for form in linear_forms(root) if form.nodes == (root,))
    form = next(forms, None)
    return None if form is None or form.source.is_transposed else form


def _sizes(value: ir.Value | None, conv: ir.Node) -> tuple[int, ...]:
    """Return the number of channels, and the spatial sizes."""
    sizes = [size_of(value, axis) for axis in range(1, rank_of(value) or 0)]
    known = tuple(size for size in sizes if size is not None)
    if not known or len(known) < len(sizes):
        raise Refused(Common.SHAPE_UNKNOWN, conv)
    return known


def _transposed(conv: Convolution, weight: FloatArray, sizes: tuple[int, ...]) -> FloatArray:
    """Apply the transpose of a Conv to each column; `sizes` are those of what the Conv reads."""
    groups, channels = conv.groups, sizes[0]
    outputs, *positions, columns = weight.shape
    rows = np.zeros((channels, *sizes[1:], columns))
    for tap in np.ndindex(*conv.size):
        axes = [_within(conv, axis, at, positions[axis], sizes[1 + axis])
                for axis, at in enumerate(tap)]  # fmt: skip
        given = weight[(slice(None), *(results for results, _ in axes))]
        taps = conv.kernel[(..., *tap)].reshape(groups, outputs // groups, -1)
        read = taps.swapaxes(1, 2) @ given.reshape(groups, outputs // groups, -1)
        rows[(slice(None), *(places for _, places in axes))] += read.reshape(
            channels, *given.shape[1:]
        )
    return rows.reshape(-1, columns)


def _within(conv: Convolution, axis: int, tap: int, count: int, size: int) -> tuple[slice, slice]:
    """Return for which results a tap reads no padding along an axis, and what it reads then."""
    stride = conv.strides[axis]
    offset = tap * conv.dilations[axis] - conv.before[axis]
    first = max(0, -(offset // stride))
    end = max(first, min(count, (size - 1 - offset) // stride + 1))
    start = first * stride + offset
    return slice(first, end), slice(start, start + (end - first) * stride, stride)
