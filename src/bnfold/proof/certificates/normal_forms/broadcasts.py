"""Writes out what elementwise operators broadcast, so that an Expand before them changes nothing.

    f(x, y) = f(Expand(x; s), Expand(y; s))        s the sizes of the result

by ONNX's definition of broadcasting, and Expand(Expand(x; r); s) = Expand(x; s). So both sides read
operands of the same size, expanded once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array
from bnfold.graph.schemas import opsets_of
from bnfold.proof.certificates.constant_folding import sizes_within
from bnfold.proof.certificates.submodels import Constants, needed_nodes, rebuilt
from bnfold.proof.certificates.windows import Window

_EXPANDING = frozenset({"Expand", "Tile"})

_BROADCASTING = frozenset(
    {"Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater"}
    | {"GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow"}
    | {"Sub", "Sum", "Where", "Xor"}
)

_MOST_ELEMENTS = 2**20
"""Of a constant in the size of a result."""

_FIRST_OPSET = 8
"""From this one on there is an Expand, and all of these operators broadcast."""


def expands_operands(window: Window) -> bool:
    """Say whether a side may expand what an elementwise operator reads."""
    return not (
        window.operators.isdisjoint(_EXPANDING) or window.operators.isdisjoint(_BROADCASTING)
    )


def with_broadcasts(window: Window) -> Window:
    """Expand each operand of an elementwise operator to the size of the result, once."""
    if not expands_operands(window):
        return window
    return Window(*(_with_broadcasts(model, of_constants=False) for model in window.models))


def with_constants_expanded(window: Window) -> Window:
    """Do the same to constants, too: one side may have computed what its operators broadcast."""
    if window.operators.isdisjoint(_BROADCASTING):
        return window
    return Window(*(_with_broadcasts(model, of_constants=True) for model in window.models))


def _with_broadcasts(model: onnx.ModelProto, *, of_constants: bool) -> onnx.ModelProto:
    if opsets_of(model).get("", 0) < _FIRST_OPSET:
        return model
    expanding = _Expanding(model, of_constants)
    for node in model.graph.node:
        expanding.add(node)
    outputs = [output.name for output in model.graph.output]
    nodes = needed_nodes(expanding.nodes, outputs)
    targets = {name: np.array(sizes, np.int64) for sizes, name in expanding.targets.items()}
    return rebuilt(model, nodes, model.graph.input, outputs, targets | expanding.constants)


class _Expanding:
    """The nodes of a model, with each operand expanded."""

    def __init__(self, model: onnx.ModelProto, of_constants: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.targets: dict[tuple[int, ...], str] = {}
        """The sizes to add as constants, by their content."""
        self.constants: dict[str, Array] = {}
        """Constants in the size of a result, by name."""
        self._of_constants = of_constants
        self._constants = Constants(model)
        self._sizes: Mapping[str, Sequence[int]] = sizes_within(model)
        self._sources: dict[str, str] = {}
        """Of what is expanded, what it is expanded from."""
        self._made: set[str] = set()

    def add(self, node: onnx.NodeProto) -> None:
        """Add a node, or what it is written as."""
        if node.domain or node.op_type not in _EXPANDING | _BROADCASTING:
            self.nodes.append(node)
            return
        sizes = self._sizes.get(node.output[0])
        if node.op_type in _EXPANDING:
            data = node.input[0]
            if sizes is not None and self._is_broadcast(data, sizes):
                self._sources[node.output[0]] = self._sources.get(data, data)
            self.nodes.append(node)
            return
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if sizes is not None:
            copy.input[:] = [self._expanded(name, tuple(sizes)) for name in node.input]
        self.nodes.append(copy)

    def _is_broadcast(self, name: str, sizes: Sequence[int]) -> bool:
        own = self._sizes.get(name)
        if own is None or len(own) > len(sizes):
            return False
        aligned = sizes[len(sizes) - len(own) :]
        return all(one in (1, other) for one, other in zip(own, aligned, strict=True))

    def _expanded(self, name: str, sizes: tuple[int, ...]) -> str:
        """Return what holds a value in these sizes; constants are left as they are, but if told."""
        source = self._sources.get(name, name)
        own = self._sizes.get(source)
        if source in self._constants:
            return self._constant(source, sizes)
        if own is None:
            return name
        if tuple(own) == sizes:
            return source
        target = self.targets.setdefault(sizes, f"sizes {sizes}")
        result = f"{source} in {sizes}"
        if result not in self._made:
            self._made.add(result)
            self.nodes.append(onnx.helper.make_node("Expand", [source, target], [result]))
        return result

    def _constant(self, name: str, sizes: tuple[int, ...]) -> str:
        content = self._constants[name]
        if not self._of_constants or content.shape == sizes or math.prod(sizes) > _MOST_ELEMENTS:
            return name
        result = f"{name} in {sizes}"
        self.constants[result] = np.broadcast_to(content, sizes)
        return result
