"""Store what Constant nodes hold as initializers.

    f(x, Constant(c)) = f(x, c)        c: an initializer of the same name

Conditions: the graph is not that of a function, which has no initializers; the content is numbers,
and no output of its graph. All Constant nodes of a graph are stored in one step, when all other
rewrites are made. A graph in which nothing else is rewritten keeps them.

Profit: nodes less. Exporters write each axis, bound and factor as a node of its own, up to half of
the nodes of a file. onnxruntime makes initializers of them when it loads the model; other runtimes
and tools may take a node for something to compute.

BITWISE.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.graph.constants import may_hold_initializers, tensor_of
from bnfold.graph.memory import memory
from bnfold.rewriting.contract import Exactness, Replace, Stage, Stored, rewrite
from bnfold.rewriting.query import is_op


@rewrite(
    "store-constants",
    roots=["Constant"],
    exactness=Exactness.BITWISE,
    refusals=[],
    stage=Stage.LAST,
)
def store_constants(node: ir.Node) -> Replace | None:
    """Replace all Constant nodes of a graph, at the first of them; each alone if one is to stay."""
    graph = node.graph
    if not isinstance(graph, ir.Graph) or not may_hold_initializers(graph):
        return None
    first = memory().answers("first Constant").setdefault(graph, node)
    stored = {
        other: tensor
        for other in (graph if first is node else [node])
        if is_op(other, "Constant") and (tensor := _tensor(other)) is not None
    }
    if not stored:
        return None
    outputs = {
        other.outputs[0]: Stored(tensor, other.outputs[0].name or "")
        for other, tensor in stored.items()
    }
    return Replace(list(stored), outputs, f"{len(stored)} in all")


def _tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """Return what a Constant holds, if it is numbers and no output."""
    tensor = None if node.outputs[0].is_graph_output() else tensor_of(node)
    return None if tensor is None or tensor.dtype == ir.DataType.STRING else tensor
