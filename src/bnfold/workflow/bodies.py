"""The bodies of nodes, as they are compared and cut out with their nodes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import onnx
import onnx_ir as ir

from bnfold.graph.walk import bodies_of


def is_plain(node: ir.Node) -> bool:
    """Say whether ONNX defines the operator, and nothing around it does: no function, no caller."""
    is_standard = node.domain in ("", "ai.onnx")
    return is_standard and not any(each.is_ref() for each in node.attributes.values())


def are_bodies_plain(node: ir.Node) -> bool:
    """Say whether ONNX defines all operators in the bodies of a node."""
    return all(
        is_plain(inner)
        for body in bodies_of(node)
        for graph in (body, *body.subgraphs())
        for inner in graph
    )


def rename_bodies(node: onnx.NodeProto, outside: Mapping[str | None, str], within: str) -> None:
    """Give what the bodies of a node read from outside other names, and number what is within."""
    numbers = itertools.count()
    _rename(node, outside, lambda: f"{within} {next(numbers)}")


def _rename(node: onnx.NodeProto, names: Mapping[str | None, str], new: Callable[[], str]) -> None:
    bodies = [each.g for each in node.attribute if each.HasField("g")]
    bodies += [body for each in node.attribute for body in each.graphs]
    for body in bodies:
        made = [value.name for value in (*body.input, *body.initializer)]
        made += [tensor.values.name for tensor in body.sparse_initializer]
        known = {**names, **{name: new() for name in dict.fromkeys(made)}}
        for value in (*body.input, *body.initializer):
            value.name = known[value.name]
        for tensor in body.sparse_initializer:
            tensor.values.name = known[tensor.values.name]
        for inner in body.node:
            for index, name in enumerate(inner.input):
                inner.input[index] = known.get(name, name)
            _rename(inner, known, new)
            for index, name in enumerate(inner.output):
                if name:
                    known[name] = inner.output[index] = new()
            for told in ("name", "doc_string", "metadata_props"):
                inner.ClearField(told)
        for value in body.output:
            value.name = known.get(value.name, value.name)
        for told in ("value_info", "doc_string", "metadata_props"):
            body.ClearField(told)
        body.name = "body"
