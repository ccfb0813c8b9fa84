"""Traverses protobuf models: all graphs and node lists, including bodies and functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import onnx


def count_operators(operators: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Count operators, given as domain and name; the most frequent come first."""
    counter = Counter(f"{domain}.{name}" if domain else name for domain, name in operators)
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def graphs_of(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    """Return the main graph and all bodies of If, Loop and Scan, including those in functions."""
    graphs = [proto.graph]
    for nodes in node_lists_of(proto):
        for node in nodes:
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs
    return graphs


def node_lists_of(proto: onnx.ModelProto) -> Iterator[Sequence[onnx.NodeProto]]:
    """Yield the nodes of each graph, function and body."""
    pending = [proto.graph.node, *(function.node for function in proto.functions)]
    while pending:
        nodes = pending.pop()
        yield nodes
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g.node)
                pending += [graph.node for graph in attribute.graphs]


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield all weights: initializers and tensor attributes."""
    for graph in graphs_of(proto):
        yield from graph.initializer
    for nodes in node_lists_of(proto):
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
