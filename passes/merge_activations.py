"""Merge activations in a row that clamp: Relu and Clip, and Max and Min with a constant.

    clamp(clamp(x; l₁, h₁); l₂, h₂) = clamp(x; clamp(l₁; l₂, h₂), clamp(h₁; l₂, h₂))

where clamp(x; l, h) = min(h, max(l, x)): what is clamped twice is clamped once, to the first bounds
clamped to the second. The result is a Relu, a Max, a Min or a Clip: Clip(Relu(x); ., 6) =
Min(Relu(x), 6) = Clip(x; 0, 6). If it is the first clamp itself, as in Relu(Relu(x)), the second
one goes.

Conditions: the bounds are constant numbers; unless the second one just goes, nothing else reads the
first one's result. A Clip of Max and Min is of a type that onnxruntime clips wherever it has these:
floats, from opset 12 on also doubles, half floats and 64-bit integers.

Profit: one operator less. onnxruntime fuses only one of them into the Conv before it.

BITWISE.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.algebra.clamping import CLAMPING, clamp
from bnfold.rewriting.contract import Common, Exactness, Replace, require, rewrite
from bnfold.rewriting.query import sole_use


@rewrite(
    "merge-activations",
    roots=CLAMPING,
    exactness=Exactness.BITWISE,
    refusals=[Common.SHARED],
)
def merge_activations(node: ir.Node) -> Replace | None:
    """Replace two clamps in a row by one, or by the first if the second does nothing."""
    second = clamp(node)
    source = second.data.producer() if second is not None else None
    first = clamp(source) if source is not None and source.graph is node.graph else None
    if second is None or source is None or first is None:
        return None
    merged = second.after(first)
    if merged.bounds == first.bounds:
        return Replace([source, node], {node.outputs[0]: second.data}, f"{node.op_type} goes")
    expression = merged.to_op([source, node], node)
    if expression is None:
        return None
    require(sole_use(second.data), Common.SHARED, source)
    detail = f"{source.op_type} and {node.op_type} into {expression.op_type}"
    return Replace([source, node], {node.outputs[0]: expression}, detail)
