"""Cuts smaller models out of the models of a window."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array
from bnfold.proof.certificates.windows import Window


class Constants(Mapping[str, Array]):
    """The constants of a model by name, each read when it is asked for."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._read: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._read:
            self._read[name] = onnx.numpy_helper.to_array(self._tensors[name])
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def of_one_output(window: Window) -> list[Window]:
    """Return a window for each output."""
    names = ([output.name for output in model.graph.output] for model in window.models)
    return [cut(window, *pair) for pair in zip(*names, strict=True)]


def of_pool_inputs(model: onnx.ModelProto) -> list[onnx.ModelProto]:
    """Return models of what each MaxPool reads."""
    read = [node.input[0] for node in model.graph.node if node.op_type == "MaxPool"]
    return [
        rebuilt(model, needed_nodes(model.graph.node, [name]), model.graph.input, [name])
        for name in read
    ]


def cut(window: Window, one: str, other: str) -> Window:
    """Return the window of one value of each side."""
    if all(
        [output.name for output in model.graph.output] == [name]
        for model, name in zip(window.models, (one, other), strict=True)
    ):
        return window
    return Window(
        *(
            rebuilt(model, needed_nodes(model.graph.node, [name]), model.graph.input, [name])
            for model, name in zip(window.models, (one, other), strict=True)
        )
    )


def of_value(
    model: onnx.ModelProto,
    result: str,
    inputs: Iterable[onnx.ValueInfoProto],
    renamed: Mapping[str, str],
    nodes: Iterable[onnx.NodeProto],
    tensors: Iterable[onnx.TensorProto],
) -> onnx.ModelProto:
    """Return the model of one value, of nodes that read some values by other names.

    These may be inputs, or what the nodes or tensors that are not in the model make.
    """
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, read in enumerate(copy.input):
            copy.input[index] = renamed.get(read, read)
        copies.append(copy)
    result = renamed.get(result, result)
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.initializer.extend(tensors)
    del whole.graph.value_info[:]
    return rebuilt(whole, needed_nodes(copies, [result]), inputs, [result])


def needed_nodes(nodes: Sequence[onnx.NodeProto], names: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes that some values depend on, in order."""
    needed = set(names)
    chosen = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            chosen.append(node)
            needed.update(node.input)
    return chosen[::-1]


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Let a graph have these nodes instead, of which some may be its own."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def set_attribute(node: onnx.NodeProto, name: str, value: int | Sequence[int]) -> None:
    """Let a node have this attribute, whether it has one of this name or not."""
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    kept.append(onnx.helper.make_attribute(name, value))
    del node.attribute[:]
    node.attribute.extend(kept)


def rebuilt(
    model: onnx.ModelProto,
    nodes: Iterable[onnx.NodeProto],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[str],
    more: Mapping[str, Array] | None = None,
) -> onnx.ModelProto:
    """Return a model of some of the nodes, with the constants that they read, and more by name."""
    nodes, outputs = list(nodes), list(outputs)
    read = {name for node in nodes for name in node.input} | set(outputs)
    rebuilt = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = rebuilt.graph
    graph.name = "window"
    graph.node.extend(nodes)
    graph.input.extend(inputs)
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
    graph.initializer.extend(each for each in model.graph.initializer if each.name in read)
    added = (more or {}).items()
    graph.initializer.extend(onnx.numpy_helper.from_array(each, name) for name, each in added)
    graph.value_info.extend(model.graph.value_info)
    return rebuilt
