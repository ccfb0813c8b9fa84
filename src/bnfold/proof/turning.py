"""Transposes what elementwise operators read, instead of what they compute.

    Transpose(f(x, k)) = f(Transpose(x), Transpose(k))

Transposes that cancel go. Where one side transposes before f and back, both then are f alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.graph.schemas import NUMPY_BROADCASTING_SINCE, opsets_of
from bnfold.proof.submodels import Constants, needed_nodes
from bnfold.proof.windows import POINTWISE, Window, ints

_ELEMENTWISE = (POINTWISE | {"Gelu", "Max", "Min", "Mish", "Pow", "Sum"}) - {
    *("BatchNormalization", "Dropout")
}


def with_transposes_first(window: Window) -> Window:
    """Transpose what is read; return the window itself if nothing is transposed."""
    versions = [opsets_of(model).get("", 0) for model in window.models]
    if "Transpose" not in window.operators or min(versions) < NUMPY_BROADCASTING_SINCE:
        return window
    return Window(*(_Turning(model).turned_model() for model in window.models))


class _Turning:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._constants = Constants(model)
        self._makers = {name: node for node in model.graph.node for name in node.output}
        described = [*model.graph.input, *model.graph.value_info, *model.graph.output]
        self._ranks = {
            value.name: len(value.type.tensor_type.shape.dim)
            for value in described
            if value.type.tensor_type.HasField("shape")
        }
        self._made: dict[tuple[str, tuple[int, ...]], str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def turned_model(self) -> onnx.ModelProto:
        for node in self._model.graph.node:
            order = tuple(ints(node, "perm")) if node.op_type == "Transpose" else ()
            if order:
                source = self._turned(node.input[0], order)
                self._nodes.append(onnx.helper.make_node("Identity", [source], node.output))
            else:
                self._nodes.append(node)
        outputs = [output.name for output in self._model.graph.output]
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        del self._model.graph.node[:]
        self._model.graph.node.extend(needed_nodes(nodes, outputs))
        return self._model

    def _turned(self, name: str, order: Sequence[int]) -> str:
        """Return the name of a value, transposed; make what it takes."""
        key = name, tuple(order)
        if not name or list(order) == sorted(order):
            return name
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]

    def _make(self, name: str, order: tuple[int, ...]) -> str:
        made = f"{name} by {' '.join(map(str, order))}"
        if name in self._constants:
            content = self._constants[name]
            if content.size == 1:
                return name
            wide = content.reshape((1,) * (len(order) - content.ndim) + content.shape)
            tensor = onnx.numpy_helper.from_array(wide.transpose(order), made)
            self._model.graph.initializer.append(tensor)
            return made
        node = self._makers.get(name)
        before = ints(node, "perm") if node is not None and node.op_type == "Transpose" else []
        if node is not None and before:
            return self._turned(node.input[0], [before[axis] for axis in order])
        if node is None or not self._is_elementwise(node, len(order)):
            self._nodes.append(onnx.helper.make_node("Transpose", [name], [made], perm=order))
            return made
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [self._turned(each, order) for each in node.input]
        copy.output[:] = [made]
        self._nodes.append(copy)
        return made

    def _is_elementwise(self, node: onnx.NodeProto, rank: int) -> bool:
        varying = [name for name in node.input if name and name not in self._constants]
        return (
            node.op_type in _ELEMENTWISE
            and len(node.output) == 1
            and all(self._ranks.get(name) == rank for name in varying)
        )
