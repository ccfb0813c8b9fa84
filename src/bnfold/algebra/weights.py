"""Reads weights, and makes new ones: computed in float64, rounded once to the stored type."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import EllipsisType

import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array, FloatArray, float_limits
from bnfold.graph.constants import constant, is_overridable
from bnfold.rewriting.contract import Common, Refusal, Refused, Weight, require
from bnfold.rewriting.query import input_of


class NotStorable(Refusal):
    """Why a new weight cannot be stored in the type of the old one."""

    NOT_REPRESENTABLE = "a folded weight is not finite in the type of the operator's weights"
    LOSES_DIGITS = (
        "the weights of a channel become so small that their type stores them with fewer digits",
        "export the model in a type with a wider range",
    )


def folded_name(node: ir.Node, index: int) -> str:
    """Return a name for the new weight of a linear operator's input; input 1 is its weight."""
    weight, value = input_of(node, 1), input_of(node, index)
    name = value.name if value is not None else f"{weight.name if weight is not None else ''}.bias"
    return f"{(name or '').removesuffix('.folded')}.folded"


def weight_of(node: ir.Node, index: int) -> Array:
    """Return the weight that is input `index` of a linear operator.

    Raises:
        Refused: WEIGHT_OVERRIDABLE or WEIGHT_NOT_CONSTANT, if it may be another at run time.
    """
    value = input_of(node, index)
    name = (value.name or "") if value is not None else ""
    require(not is_overridable(value), Common.WEIGHT_OVERRIDABLE, node, name)
    content = constant(value)
    if content is None:
        raise Refused(Common.WEIGHT_NOT_CONSTANT, node, name)
    return content


def optional_weight_of(node: ir.Node, index: int) -> FloatArray | None:
    """Return the weight in float64, or None if there is no such input."""
    return None if input_of(node, index) is None else weight_of(node, index).astype(np.float64)


_BLOCK = 2**17
"""Elements that are rounded at a time: few enough to stay in the processor's cache."""


def stored(
    values: Array,
    dtype: ir.DataType,
    stem: str,
    subject: ir.Node,
    channel_axis: int | None = None,
    *,
    scale: FloatArray | None = None,
    shift: FloatArray | None = None,
) -> Weight:
    """Round `values`, or ``values · scale + shift`` computed in float64, once to `dtype`.

    It rounds to nearest, ties to even. `scale` and `shift` broadcast to the values. Subnormal
    results become zero and are counted, because some processors compute with them many times
    slower; those of float16 stay, because they are needed there (6e-8 to 6e-5).

    Raises:
        Refused: NOT_REPRESENTABLE, if a value is not finite in `dtype`. LOSES_DIGITS, if the
            values of a channel along `channel_axis` lose more than rounding normally costs, and
            the channel is not negligible compared with the others.
    """
    array = np.empty(values.shape, dtype.numpy())
    limits = float_limits(array.dtype)
    flushed, has_subnormals = 0, False
    for block in _blocks(values.shape):
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = _rounded(_mapped(values, scale, shift, block), dtype)
        require(bool(np.isfinite(rounded).all()), NotStorable.NOT_REPRESENTABLE, subject)
        array[block] = rounded
        magnitude = np.abs(rounded)
        subnormal = (magnitude > 0) & (magnitude < float(limits.smallest_normal))
        if subnormal.any():
            has_subnormals = True
            if dtype != ir.DataType.FLOAT16:
                flushed += int(np.count_nonzero(subnormal))
                array[block][subnormal] = 0
    if channel_axis is not None and has_subnormals:
        exact = _mapped(values, scale, shift, ...)
        keeps = _keeps_digits(exact, array, channel_axis, float(limits.eps))
        require(keeps, NotStorable.LOSES_DIGITS, subject)
    return Weight(array, dtype, stem, flushed)


def _blocks(shape: tuple[int, ...]) -> Iterator[slice | EllipsisType]:
    """Yield indices that together cover an array of this shape."""
    if math.prod(shape) <= _BLOCK:
        yield ...
        return
    rows = max(1, _BLOCK // math.prod(shape[1:]))
    for start in range(0, shape[0], rows):
        yield slice(start, start + rows)


def _mapped(
    values: Array,
    scale: FloatArray | None,
    shift: FloatArray | None,
    block: slice | EllipsisType,
) -> FloatArray:
    exact: FloatArray = np.asarray(values[block], np.float64)
    if scale is not None:
        exact = exact * np.broadcast_to(scale, values.shape)[block]
    return exact if shift is None else exact + np.broadcast_to(shift, values.shape)[block]


def _keeps_digits(exact: FloatArray, array: Array, channel_axis: int, epsilon: float) -> bool:
    """Return whether each channel's error, in norm, is at most twice what rounding takes, ε/2."""
    others = tuple(axis for axis in range(exact.ndim) if axis != channel_axis % exact.ndim)
    largest = float(np.abs(exact).max())  # norms of numbers around 1e-300 would be zero
    norms = np.sqrt(np.sum((exact / largest) ** 2, axis=others))
    error = (array.astype(np.float64) - exact) / largest
    errors = np.sqrt(np.sum(error**2, axis=others))
    return bool((errors <= epsilon * np.maximum(norms, epsilon * norms.max())).all())


def _rounded(values: FloatArray, dtype: ir.DataType) -> Array:
    if dtype != ir.DataType.BFLOAT16:
        return values.astype(dtype.numpy())
    # ml_dtypes goes through float32, which would round twice. Rounding to odd in between makes
    # the second rounding see on which side of a tie the float64 value lay (Boldo and Melquiond,
    # "When double rounding is odd", 2005).
    single = values.astype(np.float32)
    bits = single.view(np.uint32)
    away = np.abs(single.astype(np.float64)) > np.abs(values)
    truncated = np.where(away, bits - 1, bits)
    inexact = single.astype(np.float64) != values
    odd = np.where(inexact, truncated | 1, bits).astype(np.uint32).view(np.float32)
    return odd.astype(dtype.numpy())
