"""Remove an operator whose results nothing reads.

    y = f(x), z = g(x); return y        becomes        y = f(x); return y

Conditions: no result is read by an operator, in a body or outside, or is an output of its graph.
What only this operator has read goes with it.

Profit: an operator less. Some exporters leave behind what they have found to be unneeded, and most
runtimes remove it when they load a model.

BITWISE.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.rewriting.contract import ANY, Exactness, Replace, rewrite
from bnfold.rewriting.query import is_used


@rewrite("strip-unused", roots=[ANY], exactness=Exactness.BITWISE, refusals=[])
def strip_unused(node: ir.Node) -> Replace | None:
    """Replace nothing, which removes the node; return None if something reads a result."""
    return None if any(map(is_used, node.outputs)) else Replace([node], {})
