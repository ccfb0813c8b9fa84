"""Take the branch of an If whose condition is constant.

    If(true; f, g) = f        If(false; f, g) = g

Conditions: the condition is constant, or follows from sizes that are the same for every input, and
no caller may override it.

Profit: an operator less, and what it has hidden can be rewritten. torch's older exporter writes a
Squeeze as an If over the size of its axis.

BITWISE.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.graph.constants import constant
from bnfold.graph.walk import bodies_in
from bnfold.rewriting.contract import Exactness, Replace, rewrite


@rewrite("take-branch", roots=["If"], exactness=Exactness.BITWISE, refusals=[])
def take_branch(node: ir.Node) -> Replace | None:
    """Replace the results by those of the branch; return None if the condition may vary."""
    condition = constant(node.inputs[0]) if node.inputs else None
    if condition is None or condition.size != 1:
        return None
    attribute = node.attributes.get("then_branch" if condition.item() else "else_branch")
    branches = bodies_in(attribute) if attribute is not None else []
    if len(branches) != 1 or len(branches[0].outputs) != len(node.outputs):
        return None
    outputs = dict(zip(node.outputs, branches[0].outputs, strict=True))
    return Replace([node], outputs, hoisted=branches[0])
