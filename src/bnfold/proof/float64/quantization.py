"""Quantizing operators for the float64 evaluation.

Onnx's reference evaluator has no DequantizeLinear before opset 19, computes it in float32, and lets
QuantizeLinear wrap around where a quotient exceeds 32 bits; its DynamicQuantizeLinear rounds the
scale to float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.helper
import onnx.numpy_helper
from onnx.reference.op_run import OpRun

from bnfold.arrays import Array

_LIMITS = {
    "int16": (-(2**15), 2**15 - 1),
    "int2": (-2, 1),
    "int4": (-8, 7),
    "int8": (-128, 127),
    "uint16": (0, 2**16 - 1),
    "uint2": (0, 3),
    "uint4": (0, 15),
    "uint8": (0, 255),
}
"""The smallest and largest number of each integer type that is quantized to."""

_SATURATING = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
"""The types for which an attribute says what becomes of numbers beyond their range."""


class DequantizeLinear(OpRun):
    """(x − zero) · scale; both by tensor, by index of an axis, or by block along it."""

    def _run(
        self,
        x: Array,
        scale: Array,
        zero: Array | None = None,
        *,
        axis: int | None = None,
        block_size: int | None = None,
        **_: object,
    ) -> tuple[Array]:
        return (
            (x.astype(np.float64) - _zero(zero, x, axis, block_size))
            * _spread(scale, x, axis, block_size),
        )


class QuantizeLinear(OpRun):
    """x / scale, rounded to even, plus zero, within the limits of the type."""

    def _run(
        self,
        x: Array,
        scale: Array,
        zero: Array | None = None,
        *,
        axis: int | None = None,
        block_size: int | None = None,
        output_dtype: int | None = None,
        saturate: int | None = None,
        **_: object,
    ) -> tuple[Array]:
        dtype: Any = np.dtype(np.uint8)
        if zero is not None:
            dtype = zero.dtype
        elif output_dtype:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(output_dtype))
        quotient = x / _spread(scale, x, axis, block_size)
        if dtype.name in _LIMITS:
            return (_limited(np.rint(quotient) + _zero(zero, x, axis, block_size), dtype),)
        if dtype.name in _SATURATING and saturate != 0:
            return (onnx.numpy_helper.saturate_cast(quotient.astype(np.float32), dtype),)
        return (quotient.astype(dtype),)


class DynamicQuantizeLinear(OpRun):
    """QuantizeLinear to bytes, by the range of the values, which is made to contain 0."""

    def _run(self, x: Array, **_: object) -> tuple[Array, Array, Array]:
        lowest, highest = min(0.0, float(x.min(initial=0))), max(0.0, float(x.max(initial=0)))
        scale = (highest - lowest) / 255 if highest > lowest else 1.0
        zero = float(np.rint(min(max(-lowest / scale, 0.0), 255.0)))
        bytes_ = np.dtype(np.uint8)
        return _limited(np.rint(x / scale) + zero, bytes_), np.array(scale), np.array(zero, bytes_)


QUANTIZATION: list[type[OpRun]] = [DequantizeLinear, DynamicQuantizeLinear, QuantizeLinear]


def _limited(values: Array, dtype: Any) -> Array:
    """Return integers of the type: what is beyond its range becomes its limit, and NaN 0."""
    low, high = _LIMITS[dtype.name]
    return np.asarray(np.nan_to_num(np.clip(values, low, high)).astype(dtype))


def _zero(zero: Array | None, x: Array, axis: int | None, block_size: int | None) -> Array:
    return np.zeros(()) if zero is None else _spread(zero, x, axis, block_size)


def _spread(parameter: Array, x: Array, axis: int | None, block_size: int | None) -> Array:
    """Return a scale or zero in float64, in a shape that broadcasts to x."""
    wide = parameter.astype(np.float64)
    axis = 1 if axis is None else axis
    if block_size:
        return np.take(np.repeat(wide, block_size, axis), range(x.shape[axis]), axis)
    if wide.size == 1:
        return wide.reshape(())
    return wide.reshape([-1 if place == axis % x.ndim else 1 for place in range(x.ndim)])
