"""Merge two products with constants in a row into one, and two sums likewise.

    (x · k₁) · k₂ = x · (k₁·k₂)        (x + k₁) + k₂ = x + (k₁ + k₂)

where x / k is x · (1/k), and x − k is x + (−k). The constants may be numbers, or broadcast along
any axes.

Conditions: nothing else reads the first result; the merged constant is no larger than the larger
one of both, finite, and no less exact; neither constant is part of a pattern that onnxruntime or
recognise-hard-activations replaces as a whole, or there to round what it is added to.

Profit: one operator less.

ROUNDED: equal in the reals. The constant is computed in float64 and rounded once. A product that
overflows in between no longer does.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from bnfold.algebra.fusions import within_fused_pattern
from bnfold.algebra.hard_sigmoid import hard_activation
from bnfold.algebra.operand import ConstantOperand, constant_operand
from bnfold.algebra.rounding import is_for_rounding
from bnfold.algebra.weights import NotStorable, stored
from bnfold.arrays import FloatArray
from bnfold.graph.schemas import NUMPY_BROADCASTING_SINCE
from bnfold.rewriting.contract import Common, Exactness, Op, Replace, require, rewrite
from bnfold.rewriting.query import input_of, is_op, opset, producer, sole_use

_PRODUCTS = ("Mul", "Div")
_SUMS = ("Add", "Sub")


@rewrite(
    "merge-constants",
    roots=[*_PRODUCTS, *_SUMS],
    exactness=Exactness.ROUNDED,
    refusals=[*NotStorable, Common.SHARED],
)
def merge_constants(node: ir.Node) -> Replace | None:
    """Replace two operators by a Mul or Add of one constant."""
    family = _PRODUCTS if is_op(node, *_PRODUCTS) else _SUMS
    is_row = any(producer(node, index, *family) is not None for index in (0, 1))
    second = constant_operand(node) if is_row else None
    first_node = producer(node, 1 - second.index, *family) if second is not None else None
    first = constant_operand(first_node) if first_node is not None else None
    if first_node is None or first is None or second is None:
        return None
    data = input_of(first_node, 1 - first.index)
    merged = _merged(first, second, is_product=family is _PRODUCTS)
    if data is None or merged is None or opset(node) < NUMPY_BROADCASTING_SINCE:
        return None
    if _is_for_another(node, second):
        return None
    require(sole_use(first_node.outputs[0]), Common.SHARED, first_node)
    if _is_for_another(first_node, first):
        return None
    dtype = ir.DataType.from_numpy(second.content.dtype)
    stem = f"{node.outputs[0].name}.{'factor' if family is _PRODUCTS else 'term'}"
    weight = stored(merged, dtype, stem, node)
    vanishes = bool(((weight.array == 0) & (merged != 0)).any())
    require(not weight.flushed and not vanishes, NotStorable.LOSES_DIGITS, node)
    expression = Op("Mul" if family is _PRODUCTS else "Add", [data, weight], like=node)
    detail = f"{first_node.op_type} and {node.op_type} into {expression.op_type}"
    return Replace([first_node, node], {node.outputs[0]: expression}, detail)


def _is_for_another(node: ir.Node, operand: ConstantOperand) -> bool:
    """Say whether an operator of a constant is k − x, is there to round, or part of a pattern."""
    is_negated = is_op(node, "Sub") and operand.index == 0
    is_pattern = within_fused_pattern(node) or hard_activation(node) is not None
    return is_negated or is_pattern or is_for_rounding(node, operand)


def _merged(
    first: ConstantOperand, second: ConstantOperand, *, is_product: bool
) -> FloatArray | None:
    """Return the merged constant in float64; None if it would have more elements than either."""
    values = [
        (operand.scale if is_product else operand.shift).reshape(operand.content.shape)
        for operand in (first, second)
    ]
    try:
        shape = np.broadcast_shapes(*(array.shape for array in values))
    except ValueError:  # the model cannot run
        return None
    if math.prod(shape) > max(array.size for array in values):
        return None
    with np.errstate(all="ignore"):  # values that are not finite are refused when stored
        merged: FloatArray = values[0] * values[1] if is_product else values[0] + values[1]
    return merged
