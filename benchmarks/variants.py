"""Rewrites an export into what other exporters have made of such a network.

The network computes the same (with preprocessing: of images of bytes instead of numbers around 0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

_DOMAIN = "modules"

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def overridable(model: onnx.ModelProto) -> None:
    """List all weights among the inputs, as torch has done up to 1.3."""
    for tensor in model.graph.initializer:
        shape = list(tensor.dims)
        described = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, shape)
        model.graph.input.append(described)


def functions(model: onnx.ModelProto) -> None:
    """Make each Conv, BatchNormalization and Gemm a function, as torch 2.1 to 2.4 has done."""
    for number, node in enumerate(model.graph.node):
        if node.op_type in ("Conv", "BatchNormalization", "Gemm"):
            name = f"{node.op_type.lower()}_{number}"
            inner = onnx.NodeProto()
            inner.CopyFrom(node)
            function = onnx.helper.make_function(
                _DOMAIN, name, list(node.input), list(node.output), [inner], model.opset_import
            )
            model.functions.append(function)
            call = onnx.helper.make_node(name, node.input, node.output, node.name, domain=_DOMAIN)
            node.CopyFrom(call)
    model.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))


def casts(model: onnx.ModelProto) -> None:
    """Cast what each Conv and BatchNormalization computes to its own type, as from Caffe."""
    outputs = {output.name for output in model.graph.output}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type in ("Conv", "BatchNormalization", "Relu") and node.output[0] not in outputs:
            name = node.output[0]
            node.output[0] += "/uncast"
            kind = onnx.TensorProto.FLOAT
            nodes.append(onnx.helper.make_node("Cast", [node.output[0]], [name], to=kind))
    _replace_nodes(model, nodes)


def written_out(model: onnx.ModelProto) -> None:
    """Write each HardSwish as x · Clip(x + 3; 0, 6) / 6, as for opsets before 14."""
    for name, content in (("three", 3), ("zero", 0), ("six", 6)):
        tensor = onnx.numpy_helper.from_array(np.array(content, np.float32), name)
        model.graph.initializer.append(tensor)
    _replace_nodes(model, [each for node in model.graph.node for each in _written_out(node)])


def _written_out(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    if node.op_type != "HardSwish":
        yield node
        return
    (x,), (y,) = node.input, node.output
    yield onnx.helper.make_node("Add", [x, "three"], [f"{y}/moved"])
    yield onnx.helper.make_node("Clip", [f"{y}/moved", "zero", "six"], [f"{y}/clipped"])
    yield onnx.helper.make_node("Mul", [x, f"{y}/clipped"], [f"{y}/product"])
    yield onnx.helper.make_node("Div", [f"{y}/product", "six"], [y])


def preprocessing(model: onnx.ModelProto) -> None:
    """Begin with (x / 255 − mean) / deviation, as of an image of bytes."""
    name = model.graph.input[0].name
    for node in model.graph.node:
        for place, read in enumerate(node.input):
            if read == name:
                node.input[place] = f"{name}/normalized"
    steps = (("Div", 255.0), ("Sub", _MEAN), ("Div", _DEVIATION))
    nodes, value = [], name
    for number, (op_type, content) in enumerate(steps):
        constant = np.array(content, np.float32).reshape(-1, 1, 1)
        weight = f"{name}/{number}"
        result = f"{name}/normalized" if number == len(steps) - 1 else f"{name}/step_{number}"
        model.graph.initializer.append(onnx.numpy_helper.from_array(constant, weight))
        nodes.append(onnx.helper.make_node(op_type, [value, weight], [result]))
        value = result
    _replace_nodes(model, [*nodes, *model.graph.node])


def _replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


VARIANTS: Mapping[str, Callable[[onnx.ModelProto], None]] = {
    "overridable": overridable,
    "functions": functions,
    "casts": casts,
    "written_out": written_out,
    "preprocessing": preprocessing,
}
"""What can be made of an export, by name."""
