"""The names of nodes in a record, and sketches of a few of them."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from bnfold.record.data import NodeSketch
from bnfold.rewriting.query import is_op


def sites(model: ir.Model) -> dict[ir.Node, str]:
    """Name every node: its own name or its first output's, after the name of its body.

    A body is named by its owner and attribute, ``loop_1/body/conv``; a function by its name.
    """
    names: dict[ir.Node, str] = {}
    pending = [(model.graph, "")]
    pending += [(f.graph, f"{f.domain}.{f.name}/") for f in model.functions.values()]
    while pending:
        graph, prefix = pending.pop()
        for node in graph:
            names[node] = prefix + local_site(node)
            for name, attribute in node.attributes.items():
                if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                    pending.append((attribute.as_graph(), f"{names[node]}/{name}/"))
    return names


def local_site(node: ir.Node) -> str:
    """Return the node's name, or its first output's if it has none."""
    outputs = (output.name for output in node.outputs if output.name)
    return node.name or next(outputs, node.op_type)


def sketch(nodes: Iterable[ir.Node]) -> list[NodeSketch]:
    """Describe which of these nodes, in order, read each other; constants are left out."""
    drawn = [node for node in nodes if not is_op(node, "Constant")]
    places = {node: place for place, node in enumerate(drawn)}
    sketches = []
    outside: dict[ir.Value, int] = {}
    for node in drawn:
        reads = []
        for value in node.inputs:
            source = value.producer() if value is not None else None
            if value is None or is_op(source, "Constant") or value.is_initializer():
                continue
            inside = places.get(source) if source is not None else None
            reads.append(outside.setdefault(value, -1 - len(outside)) if inside is None else inside)
        sketches.append(NodeSketch(node.op_type, reads))
    return sketches
