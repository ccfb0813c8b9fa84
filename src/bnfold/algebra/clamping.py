"""Operators that clamp: Clip and Relu, and Max and Min with a constant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array, FloatArray, float_limits
from bnfold.graph.constants import constant
from bnfold.graph.schemas import CLIP_READS_BOUNDS_SINCE
from bnfold.rewriting.contract import Op, Operand, Weight
from bnfold.rewriting.query import float_attribute, input_of, is_op, opset, rank_of

CLAMPING = ("Clip", "Max", "Min", "Relu")

_INTEGERS = frozenset(
    {
        *(ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
        *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
    }
)

_CLIPPED = frozenset(
    {
        *(ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16),
        *(ir.DataType.INT64, ir.DataType.UINT64),
    }
)
"""Types that onnxruntime has both Max or Min and, from `_CLIPPED_SINCE` on, Clip for, anywhere."""

_CLIPPED_SINCE = 12
_FLOATS_CLIPPED_SINCE = 6

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Clamp:
    """The function ``min(high, max(low, x))`` of a value; low <= high."""

    data: ir.Value
    low: float | int
    high: float | int
    dtype: ir.DataType | None = None
    """The type of the bounds, if they are stored as tensors."""

    @property
    def bounds(self) -> tuple[float | int, float | int]:
        """Both bounds."""
        return self.low, self.high

    def after(self, first: Clamp) -> Clamp:
        """Compose: what is clamped twice is clamped once, to the first bounds clamped again."""
        low, high = (min(self.high, max(self.low, bound)) for bound in first.bounds)
        return Clamp(first.data, low, high, self.dtype or first.dtype)

    def to_op(self, kinds: Sequence[ir.Node], like: ir.Node) -> Op | None:
        """Return an operator that computes this, if its type is known to be supported.

        It is if one of the nodes `kinds`, which clamp values of this type, is of that operator. A
        Clip may also be new.
        """
        if self.bounds == (0, math.inf) and any(is_op(node, "Relu") for node in kinds):
            return Op("Relu", [self.data], like=like)
        if not any(is_op(node, "Clip") for node in kinds):
            extremum = self._to_extremum(kinds, like)
            if extremum is not None or not self._may_be_clip(opset(like)):
                return extremum
        if opset(like) < CLIP_READS_BOUNDS_SINCE:
            return self._with_attributes(like)
        if self.dtype is None:
            return None
        inputs: list[Operand] = [self.data]
        for side, bound, limit in zip(
            ("min", "max"), self.bounds, _limits(self.dtype), strict=True
        ):
            inputs.append(None if bound == limit else self._weight(bound, like, side))
        while inputs[-1] is None:
            inputs.pop()
        return Op("Clip", inputs, like=like)

    def _to_extremum(self, kinds: Sequence[ir.Node], like: ir.Node) -> Op | None:
        """Return a Max or Min, if there is one bound and one of `kinds` is that operator."""
        low, high = self.bounds
        op_type, bound = ("Max", low) if high == math.inf else ("Min", high)
        has_other = low != -math.inf and high != math.inf
        if has_other or self.dtype is None or not any(is_op(node, op_type) for node in kinds):
            return None
        return Op(op_type, [self.data, self._weight(bound, like, op_type.lower())], like=like)

    def _may_be_clip(self, version: int) -> bool:
        if self.dtype == ir.DataType.FLOAT:
            return version >= _FLOATS_CLIPPED_SINCE
        return self.dtype in _CLIPPED and version >= _CLIPPED_SINCE

    def _weight(self, bound: float, like: ir.Node, side: str) -> Weight:
        assert self.dtype is not None
        array = np.array(bound, self.dtype.numpy())
        return Weight(array, self.dtype, f"{like.outputs[0].name}.{side}")

    def _with_attributes(self, like: ir.Node) -> Op | None:
        if any(float(np.float32(bound)) != bound for bound in self.bounds):
            return None
        low, high = self.bounds
        attributes = [ir.AttrFloat32("min", low), ir.AttrFloat32("max", high)]
        return Op("Clip", [self.data], attributes, like)


def clamp(node: ir.Node) -> Clamp | None:
    """Read a node as a clamp; None if it is another operator, or a bound is not constant."""
    data = input_of(node, 0)
    if data is None:
        return None
    if is_op(node, "Relu"):
        return Clamp(data, 0, math.inf)
    if is_op(node, "Clip"):
        return _clip_by_attributes(node, data) if _has_attributes(node) else _clip(node, data)
    if is_op(node, "Max", "Min") and len(node.inputs) == 2:
        return _extremum(node)
    return None


def _has_attributes(node: ir.Node) -> bool:
    return opset(node) < CLIP_READS_BOUNDS_SINCE


def _clip_by_attributes(node: ir.Node, data: ir.Value) -> Clamp:
    low = float_attribute(node, "min", -_LARGEST)
    high = float_attribute(node, "max", _LARGEST)
    return Clamp(data, min(low, high), high)


def _clip(node: ir.Node, data: ir.Value) -> Clamp | None:
    """Read bounds from inputs. Without one, a Clip ends at the last finite number of the type."""
    given = [input_of(node, index) for index in (1, 2)]
    contents = [constant(value) for value in given if value is not None]
    numbers = [_number(content) if content is not None else None for content in contents]
    dtype = data.dtype if not numbers or numbers[0] is None else numbers[0][1]
    if None in numbers or dtype is None or not _has_limits(dtype):
        return None
    bounds = list(_limits(dtype))
    for side, value in enumerate(given):
        if value is not None:
            number = numbers.pop(0)
            assert number is not None
            bounds[side] = number[0]
    return Clamp(data, min(bounds), bounds[1], dtype)


def _extremum(node: ir.Node) -> Clamp | None:
    """Read the maximum or minimum of a value and one number, in either order."""
    contents = [constant(input_of(node, index)) for index in (0, 1)]
    constants = [index for index in (0, 1) if contents[index] is not None]
    if len(constants) != 1:
        return None
    content, data = contents[constants[0]], input_of(node, 1 - constants[0])
    number = _number(content) if content is not None else None
    if content is None or data is None or number is None or not is_scalar(content, data):
        return None
    bound, dtype = number
    if is_op(node, "Max"):
        return Clamp(data, bound, math.inf, dtype)
    return Clamp(data, -math.inf, bound, dtype)


def is_scalar(content: Array | FloatArray, data: ir.Value) -> bool:
    """Say whether a constant is one number that, broadcast, leaves the shape of the data."""
    rank = rank_of(data)
    return content.size == 1 and (content.ndim == 0 or (rank is not None and content.ndim <= rank))


def _number(content: Array) -> tuple[float | int, ir.DataType] | None:
    """Return the one number of a constant, and its type; None if it has several, or NaN."""
    dtype = ir.DataType.from_numpy(content.dtype)
    if content.size != 1 or not _has_limits(dtype):
        return None
    number = content.reshape(-1)[0]
    exact = float(number) if dtype.is_floating_point() else int(number)
    return None if math.isnan(exact) else (exact, dtype)


def _has_limits(dtype: ir.DataType) -> bool:
    return dtype.is_floating_point() or dtype in _INTEGERS


def _limits(dtype: ir.DataType) -> tuple[float | int, float | int]:
    """Return the lowest and the highest finite number of a type."""
    if dtype.is_floating_point():
        limits = float_limits(dtype.numpy())
        return float(limits.min), float(limits.max)
    return int(np.iinfo(dtype.numpy()).min), int(np.iinfo(dtype.numpy()).max)
