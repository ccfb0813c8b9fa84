"""Makes operators with bodies comparable: two are the same if their bodies and operands are."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping

import onnx
import onnx.helper
import onnx_ir as ir

from bnfold.graph.constants import digest, tensor_of
from bnfold.graph.schemas import opsets_of
from bnfold.proof.certificates.normal_forms.congruence import signature
from bnfold.proof.certificates.windows import NotShown, Window, is_random
from bnfold.proof.cutting import bodies, nodes_within, reads

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
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in closed.graph.node:
        if any(bodies(node)):
            if any(is_random(inner, {}) for inner in nodes_within(node)):
                raise NotShown("it draws random numbers")
            _close(node, tensors, opsets_of(model))
    return closed


def _close(
    node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto], opsets: Mapping[str, int]
) -> None:
    read = dict.fromkeys(_read_outside(node))
    captured = [name for name in read if name not in tensors]
    outside = {name: f"outside {at}" for at, name in enumerate(captured)}
    outside |= {
        name: digest(ir.serde.deserialize_tensor(tensors[name])) for name in read if name in tensors
    }
    for name, computed in what_bodies_compute(node, outside, opsets).items():
        each = next(each for each in node.attribute if each.name == name)
        each.CopyFrom(onnx.helper.make_attribute(name, computed))
    node.input.extend(captured)
    node.domain = CLOSED


def what_bodies_compute(
    node: onnx.NodeProto, outside: Mapping[str, str], opsets: Mapping[str, int]
) -> dict[str, list[str]]:
    """Return what tells what the bodies of a node compute from others, by attribute.

    Equal words mean the same operators over the same inputs and constants. Names, the order of
    nodes, and whether a constant is a node or stored, make no difference.

    Args:
        node: with bodies.
        outside: what tells each value that they read from outside from others, by name.
        opsets: of the model.
    """
    return {
        each.name: [
            _computed(graph, outside, opsets, 0)
            for graph in ([each.g] if each.HasField("g") else each.graphs)
        ]
        for each in node.attribute
        if each.HasField("g") or each.graphs
    }


def _computed(
    body: onnx.GraphProto, outside: Mapping[str, str], opsets: Mapping[str, int], depth: int
) -> str:
    known = {"": "none", **outside}
    for at, value in enumerate(body.input):
        of_tensor = value.type.tensor_type.elem_type
        kind = of_tensor or value.type.SerializeToString(deterministic=True)
        known[value.name] = _word("input", depth, at, kind)
    for tensor in body.initializer:
        known[tensor.name] = digest(ir.serde.deserialize_tensor(tensor))
    for sparse in body.sparse_initializer:
        known[sparse.values.name] = _word(sparse.SerializeToString(deterministic=True))
    for node in body.node:
        operands = [known[name] for name in node.input]
        if node.op_type == "Identity" and not node.domain:
            known[node.output[0]] = operands[0]
            continue
        if node.op_type == "Constant" and not node.domain:
            stored = tensor_of(ir.serde.deserialize_node(node))
            if stored is not None:
                known[node.output[0]] = digest(stored)
                continue
        plain, within = onnx.NodeProto(), []
        plain.CopyFrom(node)
        del plain.attribute[:]
        for each in node.attribute:
            if each.HasField("g") or each.graphs:
                graphs = [each.g] if each.HasField("g") else each.graphs
                within.append((each.name, [_computed(g, known, opsets, depth + 1) for g in graphs]))
            else:
                plain.attribute.append(each)
        made = _word(signature(plain, opsets), operands, sorted(within))
        for at, name in enumerate(node.output):
            if name:
                known[name] = _word(made, at)
    return _word([known[value.name] for value in body.output])


def _word(*told: object) -> str:
    return hashlib.sha256(repr(told).encode()).hexdigest()


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
