"""Makes operators with bodies comparable: two are the same if their bodies and operands are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

import onnx
import onnx.helper

from bnfold.graph.schemas import opsets_of
from bnfold.proof.cutting import bodies, nodes_within, reads
from bnfold.proof.windows import NotShown, Window, is_random

CLOSED = "bnfold.closed"
"""The domain of operators that stand for one with bodies: what these read are operands, too."""


def with_bodies_closed(window: Window) -> Window:
    """Let an operator stand for each one with bodies, whose names do not matter then.

    Raises:
        NotShown: if one draws random numbers.
    """
    if not any(any(bodies(node)) for node in window.nodes()):
        return window
    return Window(*map(_with_closed, window.models))


def _with_closed(model: onnx.ModelProto) -> onnx.ModelProto:
    closed = onnx.ModelProto()
    closed.CopyFrom(model)
    opsets = sorted(f"{domain} {version}" for domain, version in opsets_of(model).items())
    for node in closed.graph.node:
        if any(bodies(node)):
            if any(is_random(inner, {}) for inner in nodes_within(node)):
                raise NotShown("it draws random numbers")
            _close(node, opsets)
    return closed


def _close(node: onnx.NodeProto, opsets: list[str]) -> None:
    captured = list(dict.fromkeys(_read_outside(node)))
    rename_bodies(node, {name: f"outside {at}" for at, name in enumerate(captured)}, "within")
    for each in node.attribute:
        if each.HasField("g") or each.graphs:
            graphs = [each.g] if each.HasField("g") else each.graphs
            stored = [graph.SerializeToString(deterministic=True) for graph in graphs]
            each.CopyFrom(onnx.helper.make_attribute(each.name, stored))
    node.attribute.append(onnx.helper.make_attribute("opsets", opsets))
    node.input.extend(captured)
    node.domain = CLOSED


def _read_outside(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what the bodies of a node read from outside, in the order in which they do.

    No name within is one outside: loaded models are normalized so.
    """
    names = reads(node)
    for inner in nodes_within(node):
        if inner is not node:
            yield from (name for name in inner.input if name in names)
        yield from (out.name for body in bodies(inner) for out in body.output if out.name in names)


def rename_bodies(node: onnx.NodeProto, outside: Mapping[str | None, str], within: str) -> None:
    """Give what the bodies of a node read from outside other names, and number what is within."""
    numbers = itertools.count()
    _rename(node, outside, lambda: f"{within} {next(numbers)}")


def _rename(node: onnx.NodeProto, names: Mapping[str | None, str], new: Callable[[], str]) -> None:
    for body in bodies(node):
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
