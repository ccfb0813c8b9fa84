"""Blocks of networks that have more linear operators than they need, made from their formulas.

Weights are random: they change neither what is merged nor how long it takes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array

_RANK = 8


class Block:
    """A graph that grows operator by operator; each returns the name of its result."""

    def __init__(self, features: int) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)
        self._features = features

    def op(self, op_type: str, *operands: str, **attributes: Any) -> str:
        """Add an operator."""
        name = f"{op_type.lower()}_{len(self._nodes)}"
        node = onnx.helper.make_node(op_type, operands, [name], name, **attributes)
        self._nodes.append(node)
        return name

    def constant(self, content: Array) -> str:
        """Add an initializer."""
        name = f"weight_{len(self._weights)}"
        self._weights.append(onnx.numpy_helper.from_array(content, name))
        return name

    def linear(self, value: str, rows: int, columns: int, *, bias: bool = True) -> str:
        """Add x·W, or x·W + b, as torch writes a Linear of three axes."""
        scale = np.sqrt(1 / rows)
        weight = (self._random.normal(0, scale, (rows, columns))).astype(np.float32)
        product = self.op("MatMul", value, self.constant(weight))
        if not bias:
            return product
        shift = self._random.normal(0, 1, columns).astype(np.float32)
        return self.op("Add", product, self.constant(shift))

    def adapted(self, value: str, rows: int, columns: int, adapters: int) -> str:
        """Add x·W + b + Σ s·((x·A)·B): a Linear with adapters (Hu et al., "LoRA", 2021)."""
        total = self.linear(value, rows, columns)
        for _ in range(adapters):
            low = self.linear(value, rows, _RANK, bias=False)
            change = self.linear(low, _RANK, columns, bias=False)
            scaled = self.op("Mul", change, self.constant(np.array(2, np.float32)))
            total = self.op("Add", total, scaled)
        return total

    def model(self, result: str) -> onnx.ModelProto:
        """Return the model of x with a free batch and number of positions."""
        float32 = onnx.TensorProto.FLOAT
        sizes = ("batch", "positions", self._features)
        graph = onnx.helper.make_graph(
            self._nodes,
            "block",
            [onnx.helper.make_tensor_value_info("x", float32, sizes)],
            [onnx.helper.make_tensor_value_info(result, float32, ["batch", "positions", None])],
            self._weights,
        )
        opsets = [onnx.helper.make_opsetid("", 17)]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def lora(adapters: int, features: int = 768) -> onnx.ModelProto:
    """Return a Linear with adapters."""
    block = Block(features)
    return block.model(block.adapted("x", features, features, adapters))


def head(features: int = 768, hidden: int = 1024, classes: int = 1000) -> onnx.ModelProto:
    """Return two Linears with nothing in between but what inference leaves out."""
    block = Block(features)
    return block.model(block.linear(block.linear("x", features, hidden), hidden, classes))


def transformer(adapters: int, features: int = 384, heads: int = 6) -> onnx.ModelProto:
    """Return a transformer's layer with adapters on q, k, v and the output of its attention."""
    block, width = Block(features), features // heads
    ones, zeros = (block.constant(np.full(features, n, np.float32)) for n in (1, 0))
    split = block.constant(np.array([0, 0, heads, width], np.int64))
    join = block.constant(np.array([0, 0, features], np.int64))
    normed = block.op("LayerNormalization", "x", ones, zeros)
    q, k, v = (
        block.op(
            "Transpose",
            block.op("Reshape", block.adapted(normed, features, features, adapters), split),
            perm=perm,
        )
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    scores = block.op("Div", block.op("MatMul", q, k), block.constant(np.sqrt(np.float32(width))))
    mixed = block.op("MatMul", block.op("Softmax", scores, axis=-1), v)
    together = block.op("Reshape", block.op("Transpose", mixed, perm=[0, 2, 1, 3]), join)
    residual = block.op("Add", "x", block.adapted(together, features, features, adapters))
    normed = block.op("LayerNormalization", residual, ones, zeros)
    hidden = block.op("Relu", block.linear(normed, features, 4 * features))
    return block.model(block.op("Add", residual, block.linear(hidden, 4 * features, features)))


BLOCKS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "lora_1": lambda: lora(1),
    "lora_2": lambda: lora(2),
    "linear_head": head,
    "transformer_lora_1": lambda: transformer(1),
    "transformer_lora_2": lambda: transformer(2),
}
"""The blocks by name."""


if __name__ == "__main__":
    for name, make in BLOCKS.items():
        onnx.save(make(), Path(sys.argv[1]) / f"{name}.onnx")
