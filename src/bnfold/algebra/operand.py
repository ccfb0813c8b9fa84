"""Reads an Add, Sub, Mul or Div of a constant as s·x + t."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array, FloatArray
from bnfold.graph.constants import constant
from bnfold.rewriting.query import input_of, is_op


@dataclass(frozen=True, eq=False)
class ConstantOperand:
    """The constant of an operator that computes s·x + t, and its flat s and t in float64."""

    content: Array
    index: int
    """Which input it is; x is the other one."""
    scale: FloatArray
    shift: FloatArray


def constant_operand(node: ir.Node) -> ConstantOperand | None:
    """Read x·k, k·x, x/k, x+k, k+x, x−k or k−x; None for k/x, for integers, and for all others.

    Integers wrap around where they overflow, so no identity of the reals holds for them.
    """
    if not is_op(node, "Add", "Sub", "Mul", "Div"):
        return None
    contents = [constant(input_of(node, index)) for index in (0, 1)]
    constants = [index for index in (1, 0) if contents[index] is not None]
    if len(constants) != 1:
        return None
    (index,) = constants
    content = contents[index]
    assert content is not None
    is_float = ir.DataType.from_numpy(content.dtype).is_floating_point()
    if not is_float or (is_op(node, "Div") and index == 0):
        return None
    operand = content.astype(np.float64).reshape(-1)
    one, zero = np.ones_like(operand), np.zeros_like(operand)
    with np.errstate(all="ignore"):  # values that are not finite are refused when stored
        scale, shift = {
            "Mul": (operand, zero),
            "Div": (one / operand, zero),
            "Add": (one, operand),
            "Sub": (one, -operand) if index == 1 else (-one, operand),
        }[node.op_type]
    return ConstantOperand(content, index, scale, shift)
