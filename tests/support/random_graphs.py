"""Random models of everything that passes look at, in random node order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.support.graphs import Array, batch_norm

_ACTIVATIONS = ("Relu", "LeakyRelu", "Softplus", "Sigmoid", "Tanh", "Elu", "HardSwish", "Identity")


class Builder:
    """Adds random nodes to a graph; the values so far are of shape (2, C, H, W)."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng([17, seed])
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.shapes: dict[str, tuple[int, ...]] = {"x": (2, 3, 9, 11)}
        self.current = "x"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[self.current]

    def number(self, low: int, high: int) -> int:
        return int(self.generator.integers(low, high + 1))

    def weight(self, content: Array) -> str:
        """Add a constant; sometimes wrap it, as exporters do."""
        name = f"w{len(self.weights)}"
        self.weights[name] = content
        choice = self.generator.random()
        if choice > 0.3:
            return name
        wrapped = f"{name}_expression"
        if choice < 0.1 and content.dtype == np.float32:
            self.weights[name] = content.astype(np.float64)
            self.nodes.append(helper.make_node("CastLike", [name, "x"], [wrapped]))
        elif choice < 0.2 and content.ndim:
            self.weights[f"{name}_shape"] = np.array(content.shape, np.int64)
            self.weights[name] = content.reshape(-1)
            self.nodes.append(helper.make_node("Reshape", [name, f"{name}_shape"], [wrapped]))
        else:
            self.nodes.append(helper.make_node("Identity", [name], [wrapped]))
        return wrapped

    def floats(self, *shape: int, scale: float = 1.0) -> Array:
        return (self.generator.standard_normal(shape) * scale).astype(np.float32)

    def add(
        self, op_type: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any
    ) -> None:
        name = f"v{len(self.shapes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        self.shapes[name] = shape
        self.current = name

    # --- What may come next -----------------------------------------------------------------------

    def conv(self) -> None:
        batch, channels, height, width = self.shape
        kernel, stride = self.number(1, 3), self.number(1, 2)
        pad = self.number(0, kernel - 1)
        sizes = [(size + 2 * pad - kernel) // stride + 1 for size in (height, width)]
        if min(height, width) + 2 * pad < kernel:
            return
        groups = channels if self.number(0, 3) == 0 else 1
        outputs = channels if groups > 1 else self.number(1, 6)
        scale = (channels // groups * kernel**2) ** -0.5
        inputs = [self.current]
        inputs.append(self.weight(self.floats(outputs, channels // groups, kernel, kernel) * scale))
        if self.number(0, 1):
            inputs.append(self.weight(self.floats(outputs)))
        self.add(
            "Conv",
            inputs,
            (batch, outputs, *sizes),
            pads=[pad] * 4,
            strides=[stride] * 2,
            group=groups,
        )

    def batch_norm(self) -> None:
        parameters = batch_norm(self.shape[1], seed=self.number(0, 10**6)).values()
        names = [self.weight(parameter) for parameter in parameters]
        self.add("BatchNormalization", [self.current, *names], self.shape)

    def affine(self) -> None:
        op_type = str(self.generator.choice(["Mul", "Add", "Sub", "Div"]))
        size = self.shape[1] if self.number(0, 2) else 1
        content = np.abs(self.floats(1, size, 1, 1)) + np.float32(0.5)
        operands = [self.current, self.weight(content if self.number(0, 1) else content[0])]
        self.add(op_type, operands, self.shape)

    def activation(self) -> None:
        self.add(str(self.generator.choice(_ACTIVATIONS)), [self.current], self.shape)

    def clip(self) -> None:
        bounds = [self.weight(np.array(bound, np.float32)) for bound in (-0.5, 1.5)]
        self.add("Clip", [self.current, *bounds], self.shape)

    def dropout(self) -> None:
        self.add("Dropout", [self.current], self.shape)

    def pool(self) -> None:
        batch, channels, *sizes = self.shape
        kernel, stride = self.number(1, 3), self.number(1, 2)
        pad = self.number(0, kernel - 1) if self.number(0, 1) else 0
        if min(sizes) < kernel:
            return
        sizes = [(size + 2 * pad - kernel) // stride + 1 for size in sizes]
        op_type = str(self.generator.choice(["MaxPool", "AveragePool"]))
        self.add(
            op_type,
            [self.current],
            (batch, channels, *sizes),
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
        )

    def global_pool(self) -> None:
        if self.number(0, 2):
            return
        self.add("GlobalAveragePool", [self.current], (*self.shape[:2], 1, 1))

    def resize(self) -> None:
        batch, channels, height, width = self.shape
        if height > 20:
            return
        scales = self.weight(np.array([1, 1, 2, 2], np.float32))
        mode = str(self.generator.choice(["nearest", "linear"]))
        shape = (batch, channels, height * 2, width * 2)
        self.add("Resize", [self.current, "", scales], shape, mode=mode)

    def crop(self) -> None:
        batch, channels, height, width = self.shape
        end = int(self.generator.choice([2**31 - 1, max(height - 1, 1), height]))
        numbers = [self.weight(np.array([n], np.int64)) for n in (0, end, 2, 1)]
        shape = (batch, channels, min(height, end), width)
        self.add("Slice", [self.current, *numbers], shape)

    def pad(self) -> None:
        amount = self.number(0, 1)
        batch, channels, height, width = self.shape
        pads = self.weight(np.array([0, 0, amount, 0, 0, 0, 0, amount], np.int64))
        shape = (batch, channels, height + amount, width + amount)
        self.add("Pad", [self.current, pads], shape)

    def transposed(self) -> None:
        batch, channels, height, width = self.shape
        self.add("Transpose", [self.current], (batch, height, width, channels), perm=[0, 2, 3, 1])
        self.add("Transpose", [self.current], (batch, channels, height, width), perm=[0, 3, 1, 2])

    def reshaped(self) -> None:
        """Flatten space and restore it, by sizes that are computed."""
        shape, source = self.shape, self.current
        self.add("Shape", [source], (4,))
        sizes = self.current
        self.current = source
        flat = self.weight(np.array([0, 0, -1], np.int64))
        self.add("Reshape", [source, flat], (*shape[:2], shape[2] * shape[3]))
        self.add("Reshape", [self.current, sizes], shape)

    def branches(self) -> None:
        """Compute the sum or the concatenation of two ways from here, or of what there was."""
        start = self.current
        for step in self.generator.choice(4, self.number(1, 2)):
            [self.conv, self.batch_norm, self.affine, self.activation][step]()
        one = self.current
        alike = [v for v, s in self.shapes.items() if s == self.shapes[one] and v != one]
        other = str(self.generator.choice(alike)) if alike else start
        batch, channels, *sizes = self.shapes[one]
        if self.shapes[other] == self.shapes[one] and self.number(0, 1):
            self.add("Add", [one, other], self.shapes[one])
        elif self.shapes[other][2:] == tuple(sizes):
            total = channels + self.shapes[other][1]
            self.add("Concat", [one, other], (batch, total, *sizes), axis=1)

    def steps(self) -> list[Callable[[], None]]:
        return [
            *[self.conv] * 3,
            *[self.batch_norm] * 3,
            *[self.affine] * 2,
            *[self.branches] * 3,
            *(self.activation, self.clip, self.dropout, self.pool, self.global_pool, self.resize),
            *(self.crop, self.pad, self.transposed, self.reshaped),
        ]


def random_model(seed: int) -> onnx.ModelProto:
    """Return a model of some 20 nodes in random order, whose input x has free sizes or none."""
    builder = Builder(seed)
    for _ in range(builder.number(4, 18)):
        steps = builder.steps()
        steps[builder.number(0, len(steps) - 1)]()
    if builder.current == "x":
        builder.activation()
    order = builder.generator.permutation(len(builder.nodes))
    free = builder.generator.random(4) < builder.generator.choice([0, 0.5, 1])
    free[1] = False
    sizes = [f"s{axis}" if free[axis] else size for axis, size in enumerate(builder.shapes["x"])]
    graph = helper.make_graph(
        [builder.nodes[index] for index in order],
        "random",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info(builder.current, onnx.TensorProto.FLOAT, list("abcd"))],
        [numpy_helper.from_array(content, name) for name, content in builder.weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
