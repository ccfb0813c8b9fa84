"""Cuts a model in two at some of its values: what computes them, and what they compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
import onnx.helper


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the bodies of an If, Loop or Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nodes_within(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield the node and those of its bodies."""
    yield node
    for body in bodies(node):
        for inner in body.node:
            yield from nodes_within(inner)


def reads(node: onnx.NodeProto) -> set[str]:
    """Return the values that a node reads, also in its bodies."""
    names = {name for name in node.input if name}
    for body in bodies(node):
        own = {value.name for value in body.input} | {each.name for each in body.initializer}
        own |= {name for inner in body.node for name in inner.output}
        read = {name for inner in body.node for name in reads(inner)}
        names |= (read | {value.name for value in body.output}) - own
    return names


def cut_off(whole: onnx.ModelProto, outputs: list[tuple[str, str, int]]) -> onnx.ModelProto:
    """Return the model with other outputs: by name, from a value, of a type."""
    model = onnx.ModelProto()
    model.CopyFrom(whole)
    graph = model.graph
    del graph.output[:]
    for name, value, kind in outputs:
        if name != value:
            graph.node.append(onnx.helper.make_node("Identity", [value], [name]))
        output = graph.output.add(name=name)
        if kind:
            output.type.tensor_type.elem_type = kind
    _keep_what_is_read(model, {name for name, _, _ in outputs})
    return model


def tail(whole: onnx.ModelProto, types: Mapping[str, int]) -> onnx.ModelProto:
    """Return what computes the model's outputs from values of these names, of these types."""
    model = onnx.ModelProto()
    model.CopyFrom(whole)
    graph = model.graph
    nodes = [node for node in graph.node if types.keys().isdisjoint(node.output)]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(copies)
    for name, kind in types.items():
        graph.input.add(name=name).type.tensor_type.elem_type = kind
    _keep_what_is_read(model, {output.name for output in graph.output})
    return model


def _keep_what_is_read(model: onnx.ModelProto, needed: set[str]) -> None:
    """Take out of a model, in place, what is not needed for these values."""
    graph = model.graph
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed |= reads(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    tensors = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
