"""What an operator that works on each channel by itself does to constants, and with fewer of them.

Output channel c of such an operator depends on channel c of its operands alone, so a channel can go
from both. A channel that is one number everywhere becomes another number, or none: the border of a
depthwise Conv that pads sees zeros, too.

A channel that is no constant is NaN here. One that is infinite, or not a number, is infinite here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bnfold.algebra.channel_removal.narrowing import Mask, with_size
from bnfold.arrays import FloatArray
from bnfold.graph.constants import constant
from bnfold.rewriting.contract import Op, Operand, Weight, same_op
from bnfold.rewriting.query import shape_of


class Channelwise:
    """An operator whose channels lie along `axis` of its result, and of each of its operands.

    This class serves for operators without parameters per channel, and of which it is not known
    what becomes of a constant.
    """

    operands: tuple[int, ...] = (0,)
    """The inputs that have these channels."""
    copies: int = 1
    """How many consecutive output channels each channel of an operand becomes."""
    channels: int | None = None
    """How many channels each operand must have, if the operator has parameters for each."""
    pads: bool = False
    """Whether it may add positions of other values, or divide by a number that counts them."""

    def __init__(self, node: ir.Node, axis: int) -> None:
        self.node = node
        self.axis = axis

    @property
    def is_sound(self) -> bool:
        """Whether the operator is one of this kind, and all is known that must be."""
        return True

    def constants(self, given: Sequence[FloatArray]) -> FloatArray:
        """Return the constant of each output channel, given those of the operands; NaN if none."""
        return np.full(given[0].size * self.copies, np.nan)

    def narrowed(self, operands: Sequence[Operand], kept: Mask) -> Op:
        """Return the operator on operands with fewer channels; `kept` are those of the result."""
        return self._with([*operands, *self.node.inputs[1:]], kept)

    def _with(self, inputs: Sequence[Operand], kept: Mask) -> Op:
        output = self.node.outputs[0]
        shape = with_size(shape_of(output), self.axis, int(kept.sum()))
        return same_op(self.node, inputs, shape=shape, type_of=output)


def kept_of(value: ir.Value | None, axis: int, kept: Mask) -> Operand:
    """Return the kept channels of a constant; the value itself if it has none along the axis."""
    content = constant(value)
    if value is None or content is None:
        return value
    if content.ndim < (axis + 1 if axis >= 0 else -axis) or content.shape[axis] != kept.size:
        return value
    stem = f"{(value.name or '').removesuffix('.folded')}.folded"
    dtype = ir.DataType.from_numpy(content.dtype)
    return Weight(np.ascontiguousarray(np.compress(kept, content, axis)), dtype, stem)


def not_constant(values: FloatArray) -> FloatArray:
    """Return NaN for each value; what is infinite stays so."""
    return np.where(np.isinf(values), np.inf, np.nan)


def zeros_of(values: FloatArray) -> FloatArray:
    """Return the values that are zero; the others are no constants."""
    return np.where(values == 0, 0.0, not_constant(values))


def computed(values: FloatArray, *given: FloatArray) -> FloatArray:
    """Return values computed from others: as little constant as these, or infinite."""
    result = np.where(np.isfinite(values), values, np.inf)
    for each in given:
        result = np.where(np.isnan(each), np.nan, result)
    for each in given:
        result = np.where(np.isinf(each), np.inf, result)
    return result
