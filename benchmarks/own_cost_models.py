"""Makes the models for `own_cost.py`: networks of well-known shapes, with random weights.

python -m benchmarks.own_cost_models NAME FILE.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class _Network:
    """A sequence of layers, each reading the output of the one before it."""

    def __init__(self, shape: list[int | str]) -> None:
        self._generator = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._input = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
        self.value = "input"

    def layer(self, op_type: str, *weights: tuple[int, ...], **attributes: Any) -> str:
        """Append a layer with random weights of these shapes; return its output."""
        inputs = [self.value, *(self._weight(shape) for shape in weights)]
        return self.node(op_type, inputs, **attributes)

    def node(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node, whose output the next layer reads."""
        self.value = f"{op_type}_{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(op_type, inputs, [self.value], name=self.value, **attributes)
        )
        return self.value

    def convolution(self, inner: int, outer: int, size: int, stride: int = 1) -> str:
        """Append a Conv with a BatchNormalization."""
        pads = [size // 2] * 4
        self.layer("Conv", (outer, inner, size, size), pads=pads, strides=[stride] * 2)
        return self.layer("BatchNormalization", *[(outer,)] * 4)

    def _weight(self, shape: tuple[int, ...]) -> str:
        name = f"weight_{len(self._weights)}"
        content = self._generator.random(shape, np.float32) * np.float32(0.1)
        self._weights.append(numpy_helper.from_array(content + np.float32(0.01), name))
        return name

    def finish(self, shape: list[int | str]) -> onnx.ModelProto:
        """Return the model."""
        output = helper.make_tensor_value_info(self.value, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self._nodes, "network", [self._input], [output], self._weights)
        opset = helper.make_opsetid("", 17)
        return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def vgg19() -> onnx.ModelProto:
    """Return a VGG-19 with BatchNormalization."""
    network = _Network(["N", 3, 224, 224])
    inner = 3
    for outer, depth in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for _ in range(depth):
            network.convolution(inner, outer, 3)
            network.layer("Relu")
            inner = outer
        network.layer("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    network.layer("Flatten")
    for sizes in ((4096, 25088), (4096, 4096)):
        network.layer("Gemm", sizes, sizes[:1], transB=1)
        network.layer("Relu")
        network.layer("Dropout")
    network.layer("Gemm", (1000, 4096), (1000,), transB=1)
    return network.finish(["N", 1000])


def resnet50() -> onnx.ModelProto:
    """Return a ResNet-50."""
    network = _Network(["N", 3, 224, 224])
    network.convolution(3, 64, 7, 2)
    network.layer("Relu")
    network.layer("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inner = 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(depth):
            stride = 2 if stage and not block else 1
            start = network.value
            network.convolution(inner, width, 1)
            network.layer("Relu")
            network.convolution(width, width, 3, stride)
            network.layer("Relu")
            branch = network.convolution(width, 4 * width, 1)
            if not block:
                network.value = start
                start = network.convolution(inner, 4 * width, 1, stride)
            network.node("Add", [branch, start])
            network.layer("Relu")
            inner = 4 * width
    network.layer("GlobalAveragePool")
    network.layer("Flatten")
    network.layer("Gemm", (1000, 2048), (1000,), transB=1)
    return network.finish(["N", 1000])


def chain(length: int) -> onnx.ModelProto:
    """Return a chain of small Convs, each with a BatchNormalization and a Relu."""
    network = _Network(["N", 8, 16, 16])
    for _ in range(length):
        network.convolution(8, 8, 3)
        network.layer("Relu")
    return network.finish(["N", 8, 16, 16])


def make(name: str) -> onnx.ModelProto:
    """Return ``vgg19_bn``, ``resnet50``, or ``chain_N`` of N Convs."""
    if name.startswith("chain_"):
        return chain(int(name.removeprefix("chain_")))
    return {"vgg19_bn": vgg19, "resnet50": resnet50}[name]()


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(make(sys.argv[1]).SerializeToString())
