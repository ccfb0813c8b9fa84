"""Makes new weights: computed in float64, rounded once to the type in which they are stored."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from bnfold.contract import Array, FloatArray, Refusal, Weight, input_of, require


class NotStorable(Refusal):
    """Why a new weight cannot be stored in the type of the old one."""

    NOT_REPRESENTABLE = "a folded weight is not finite in the type that the operator stores"
    LOSES_DIGITS = (
        "the weights of a channel get so small that their type holds them with fewer digits",
        "export the model in a type of wider range",
    )


def folded_name(node: ir.Node, index: int) -> str:
    """Return what to call the new weight for an input of a linear operator, whose weight is 1."""
    weight, value = input_of(node, 1), input_of(node, index)
    name = value.name if value is not None else f"{weight.name if weight is not None else ''}.bias"
    return f"{(name or '').removesuffix('.folded')}.folded"


def stored(
    values: FloatArray,
    dtype: ir.DataType,
    stem: str,
    subject: ir.Node,
    channel_axis: int | None = None,
) -> Weight:
    """Round float64 `values` once to `dtype`, to nearest with ties to even.

    Subnormal results become zero and are counted, because some processors compute with them
    many times slower; those of float16 stay, because there they are wanted (6e-8 to 6e-5).

    Raises:
        Refused: NOT_REPRESENTABLE, if a value is not finite in `dtype`. LOSES_DIGITS, if the
            values of a channel along `channel_axis` lose more than rounding takes elsewhere, and
            the channel is not negligible beside the others.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        array = _rounded(values, dtype)
    require(bool(np.isfinite(array).all()), NotStorable.NOT_REPRESENTABLE, subject)
    limits = ml_dtypes.finfo(array.dtype)  # type: ignore[no-untyped-call]
    magnitude = np.abs(array)
    subnormal = (magnitude > 0) & (magnitude < limits.smallest_normal)
    flushed = 0 if dtype == ir.DataType.FLOAT16 else int(np.count_nonzero(subnormal))
    if flushed:
        array = np.where(subnormal, array.dtype.type(0), array)
    if channel_axis is not None and subnormal.any():
        keeps = _keeps_digits(values, array, channel_axis, float(limits.eps))
        require(keeps, NotStorable.LOSES_DIGITS, subject)
    return Weight(array, dtype, stem, flushed)


def _keeps_digits(exact: FloatArray, array: Array, channel_axis: int, epsilon: float) -> bool:
    """Compare each channel's error, in norm, with the ε/2 that rounding normal numbers takes."""
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
