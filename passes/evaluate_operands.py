"""Evaluate operands that are expressions of constants.

    op(x, f(c)) = op(x, c')          c' = f(c), computed once

Conditions: c are constants that no caller may override, f consists of operators that give the same
bits in every implementation, c' is small, and x is not constant itself.

Profit: onnxruntime fuses a Clip into the preceding Conv only if its bounds are constants, and never
evaluates CastLike, which torch's dynamo exporter uses in those of a ReLU6. In many exports, most
nodes compute shapes, starts, ends and axes; other tools then need not evaluate them.

BITWISE.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.arrays import Array
from bnfold.graph.constants import constant, is_constant, is_deferred
from bnfold.rewriting.contract import Exactness, Replace, Weight, rewrite, same_op
from bnfold.rewriting.query import is_op

_EXACT = (
    *("Add", "Cast", "CastLike", "Concat", "ConstantOfShape", "Div", "Expand", "Flatten", "Gather"),
    *("Identity", "Mul", "Neg", "Reshape", "Shape", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose"),
    "Unsqueeze",
)
"""Data movement, and arithmetic that IEEE 754 rounds to the nearest."""

_LARGEST = 1024
"""Maximum number of elements: a larger operand is a weight, and stays as it is."""


@rewrite(
    "evaluate-operands",
    roots=[
        *("Add", "Clip", "Div", "Expand", "Mul", "Pad", "Pow"),
        *("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Reshape", "Resize"),
        *("Slice", "Squeeze", "Sub", "Tile", "Unsqueeze", "Upsample"),
    ],
    exactness=Exactness.BITWISE,
    refusals=[],
)
def evaluate_operands(node: ir.Node) -> Replace | None:
    """Replace ``op(x, f(c))`` by ``op(x, c')``, for as many operands as possible."""
    if all(value is None or is_constant(value) for value in node.inputs):
        return None
    evaluated = {
        value: Weight(content, ir.DataType.from_numpy(content.dtype), value.name or "")
        for value in node.inputs
        if value is not None and (content := _evaluated(value)) is not None
    }
    if not evaluated:
        return None
    inputs = [value and evaluated.get(value, value) for value in node.inputs]
    return Replace([node], {node.outputs[0]: same_op(node, inputs)}, f"of {node.op_type}")


def _evaluated(value: ir.Value) -> Array | None:
    """Return the content of a small numeric operand that exact operators compute."""
    content = None if is_deferred(value) else constant(value)  # only large ones are deferred
    if content is None or content.dtype.kind in "OSU" or content.size > _LARGEST:
        return None
    return content if _is_exact_expression(value) else None


def _is_exact_expression(value: ir.Value) -> bool:
    """Say whether only exact operators compute the value.

    The values that the expression starts from are not checked here. CastLike reads only a type,
    and Shape only a shape, which may be constant although the value is not.
    """
    producer = value.producer()
    if producer is None or is_op(producer, "Constant"):
        return False
    pending, seen = [producer], {producer}
    while pending:
        node = pending.pop()
        if not is_op(node, "Constant", *_EXACT):
            return False
        if is_op(node, "Shape"):
            continue
        read = node.inputs[:1] if is_op(node, "CastLike") else node.inputs
        sources = [operand.producer() for operand in read if operand is not None]
        new = {source for source in sources if source is not None} - seen
        pending += new
        seen |= new
    return True
