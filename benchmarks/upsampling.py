"""Makes blocks of networks that enlarge or fold up space, with random weights.

The functions in `BLOCKS` take no arguments and return a model. Run as a module, it writes each one
to a folder, so that ``bnfold optimize`` can time it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_END = 2**63 - 1


class _Graph:
    """Nodes and weights, of maps of one image."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._numbers = count()
        self._generator = np.random.default_rng(0)

    def input(self, channels: int, size: int) -> str:
        name = f"input_{len(self._inputs)}"
        shape = (1, channels, size, size)
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op_type}_{next(self._numbers)}"
        self._nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def constant(self, content: object, dtype: type = np.float32) -> str:
        name = f"constant_{next(self._numbers)}"
        self._weights.append(numpy_helper.from_array(np.asarray(content, dtype), name))
        return name

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 3, activation: str = "") -> str:
        """Add a Conv that keeps the size, with a bias; and its activation."""
        deviation = (2 / (inputs * kernel**2)) ** 0.5
        shape = (outputs, inputs, kernel, kernel)
        weight = self.constant(self._generator.normal(0, deviation, shape))
        bias = self.constant(self._generator.normal(0, 0.1, outputs))
        y = self.node("Conv", x, weight, bias, pads=[kernel // 2] * 4, kernel_shape=[kernel] * 2)
        if activation == "Silu":
            return self.node("Mul", y, self.node("Sigmoid", y))
        return self.node(activation, y) if activation else y

    def upsampled(self, x: str) -> str:
        """Double a map, as torch exports it."""
        scales = self.constant([1, 1, 2, 2])
        return self.node(
            "Resize",
            *(x, "", scales),
            coordinate_transformation_mode="asymmetric",
            mode="nearest",
            nearest_mode="floor",
        )

    def every_second(self, x: str, start: int, axis: int) -> str:
        numbers = [self.constant([each], np.int64) for each in (start, _END, axis, 2)]
        return self.node("Slice", x, *numbers)

    def model(self, y: str) -> onnx.ModelProto:
        outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self._nodes, "block", self._inputs, outputs, self._weights)
        opsets = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def decoder(
    channels: Sequence[int] = (256, 128, 64), size: int = 32, *, skip: bool
) -> onnx.ModelProto:
    """Make the decoder of a U-Net: upsampling, a skip connection, two Convs, twice."""
    graph = _Graph()
    x = graph.conv(graph.input(channels[0], size), channels[0], channels[0], activation="Relu")
    for before, after in pairwise(channels):
        size *= 2
        x, width = graph.upsampled(x), before
        if skip:
            x, width = graph.node("Concat", x, graph.input(after, size), axis=1), before + after
        x = graph.conv(x, width, after, activation="Relu")
        x = graph.conv(x, after, after, activation="Relu")
    return graph.model(x)


def super_resolution(channels: int = 64, size: int = 64) -> onnx.ModelProto:
    """Make the tail of Real-ESRGAN: twice upsampling and a Conv, then two Convs."""
    graph = _Graph()
    x = graph.input(channels, size)
    for _ in range(2):
        x = graph.conv(graph.upsampled(x), channels, channels, activation="LeakyRelu")
    x = graph.conv(x, channels, channels, activation="LeakyRelu")
    return graph.model(graph.conv(x, channels, 3))


def diffusion_decoder(channels: int = 128, size: int = 32) -> onnx.ModelProto:
    """Make a block of a latent diffusion model's decoder: a residual block, then upsampling."""
    graph = _Graph()
    x = graph.input(channels, size)
    h = graph.conv(graph.conv(x, channels, channels, activation="Silu"), channels, channels)
    y = graph.upsampled(graph.node("Add", x, h))
    return graph.model(graph.conv(y, channels, channels))


def focus(outputs: int = 32, size: int = 640, order: str = "yolov5") -> onnx.ModelProto:
    """Make the stem of early YOLOv5 or of YOLOX: pixels of 2×2 as channels, then two Convs."""
    graph = _Graph()
    x = graph.input(3, size)
    places = [(0, 0), (1, 0), (0, 1), (1, 1)]
    parts = []
    for row, column in places:
        if order == "yolox":  # columns first
            parts.append(graph.every_second(graph.every_second(x, column, 3), row, 2))
        else:
            parts.append(graph.every_second(graph.every_second(x, row, 2), column, 3))
    x = graph.conv(graph.node("Concat", *parts, axis=1), 12, outputs, activation="Silu")
    return graph.model(graph.conv(x, outputs, outputs, kernel=1, activation="Silu"))


BLOCKS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "unet_decoder": partial(decoder, skip=True),
    "decoder_without_skips": partial(decoder, skip=False),
    "super_resolution": super_resolution,
    "diffusion_decoder": diffusion_decoder,
    "yolov5_stem": focus,
    "yolox_stem": partial(focus, order="yolox"),
}
"""The blocks by name."""


def main() -> None:
    """Write each block to the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in BLOCKS.items():
        onnx.save(make(), folder / f"{name}.onnx")


if __name__ == "__main__":
    main()
