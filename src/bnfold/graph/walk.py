"""Lists the graphs of a model, and sorts their nodes."""

from __future__ import annotations

import onnx_ir as ir

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def has_body(node: ir.Node) -> bool:
    """Say whether the node is an If, Loop, Scan or another operator with a subgraph."""
    return any(attribute.type in _GRAPHS for attribute in node.attributes.values())


def bodies_of(node: ir.Node) -> list[ir.Graph]:
    """Return the bodies of a node, mostly none."""
    return [
        body
        for attribute in node.attributes.values()
        if attribute.type in _GRAPHS
        for body in bodies_in(attribute)
    ]


def bodies_in(attribute: ir.Attr) -> list[ir.Graph]:
    """Return the graphs that an attribute holds, mostly none."""
    if attribute.is_ref():
        return []
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    if attribute.type == ir.AttributeType.GRAPHS:
        return list(attribute.as_graphs())
    return []


def captured(node: ir.Node) -> list[ir.Value]:
    """Return the values from outside that the bodies of a node read."""
    read: dict[ir.Value, None] = {}
    made: set[ir.Value] = set()
    for body in bodies_of(node):
        for graph in (body, *body.subgraphs()):
            made.update(graph.inputs, graph.initializers.values())
            made.update(value for inner in graph for value in inner.outputs)
            read |= dict.fromkeys(value for inner in graph for value in inner.inputs if value)
            read |= dict.fromkeys(graph.outputs)
    return [value for value in read if value not in made]


def all_graphs(model: ir.Model) -> list[ir.Graph]:
    """Return the main graph and its bodies, then each function's graph and its bodies."""
    return [
        graph
        for outermost in outermost_graphs(model)
        for graph in (outermost, *outermost.subgraphs())
    ]


def outermost_graphs(model: ir.Model) -> list[ir.Graph]:
    """Return the main graph, then each function's."""
    return [model.graph, *(function.graph for function in model.functions.values())]


def sort(graph: ir.Graph) -> None:
    """Sort the nodes topologically, in place and stably; unnamed nodes stay unnamed.

    Raises:
        ValueError: if the graph has a cycle.
    """
    if _is_sorted(graph):
        return
    unnamed = [node for node in graph.all_nodes() if node.name is None]
    graph.sort()
    for node in unnamed:
        node.name = None


def _is_sorted(graph: ir.Graph) -> bool:
    """Say whether the nodes are in order, as they mostly are; False if any has a body."""
    done: set[ir.Node] = set()
    for node in graph:
        sources = (value.producer() for value in node.inputs if value is not None)
        if has_body(node) or not all(source is None or source in done for source in sources):
            return False
        done.add(node)
    return True
