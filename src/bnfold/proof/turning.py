"""Transposes what elementwise operators read, instead of what they compute, or the other way round.

    Transpose(f(x, k)) = f(Transpose(x), Transpose(k))

Transposes that cancel go. Where one side transposes before f and back, both then are f alone; where
both transpose what a Conv computes, as exports of channels-last models do, f follows the Conv.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

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
    if not _may_turn(window):
        return window
    return Window(*(_Turning(model).turned_model() for model in window.models))


def with_transposes_last(window: Window) -> Window:
    """Transpose what is computed; return the window itself if no result is transposed before."""
    if not _may_turn(window):
        return window
    turned = [_Turning(model).turned_back_model() for model in window.models]
    return window if all(map(operator.is_, turned, window.models)) else Window(*turned)


def _may_turn(window: Window) -> bool:
    versions = [opsets_of(model).get("", 0) for model in window.models]
    return "Transpose" in window.operators and min(versions) >= NUMPY_BROADCASTING_SINCE


class _Turning:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._given = model
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
        for node in model.graph.node:
            rank = self._rank_of_result(node)
            if rank is not None:
                self._ranks.setdefault(node.output[0], rank)
        self._made: dict[tuple[str, tuple[int, ...]], str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def _rank_of_result(self, node: onnx.NodeProto) -> int | None:
        """Return the rank of what is transposed, or of single elements; None if not known."""
        if node.op_type == "Transpose":
            return len(ints(node, "perm")) or None
        if node.op_type not in _ELEMENTWISE:
            return None
        ranks = [
            self._constants[name].ndim if name in self._constants else self._ranks.get(name)
            for name in node.input
            if name
        ]
        known = [rank for rank in ranks if rank is not None]
        return max(known) if known and len(known) == len(ranks) else None

    def turned_model(self) -> onnx.ModelProto:
        for node in self._model.graph.node:
            order = tuple(ints(node, "perm")) if node.op_type == "Transpose" else ()
            if order:
                source = self._turned(node.input[0], order)
                self._nodes.append(onnx.helper.make_node("Identity", [source], node.output))
            else:
                self._nodes.append(node)
        return self._rebuilt()

    def turned_back_model(self) -> onnx.ModelProto:
        """Return the model with what is transposed before an output transposed there instead."""
        outputs = [output.name for output in self._model.graph.output]
        orders = {name: order for name in outputs if (order := self._order_before(name))}
        if not orders:
            return self._given
        self._rename({name: f"{name} as computed" for name in orders})
        self._nodes.extend(self._model.graph.node)
        for name, order in orders.items():
            source = self._turned(f"{name} as computed", sorted(order, key=order.__getitem__))
            self._nodes.append(onnx.helper.make_node("Transpose", [source], [name], perm=order))
        return self._rebuilt()

    def _order_before(self, name: str) -> list[int]:
        """Return the order of a Transpose of which a value is a function of single elements."""
        pending = [name]
        while pending:
            name = pending.pop()
            node = self._makers.get(name)
            if node is None:
                continue
            if node.op_type == "Transpose":
                return ints(node, "perm")
            if name in self._ranks and self._is_elementwise(node, self._ranks[name]):
                pending.extend(each for each in node.input if each not in self._constants)
        return []

    def _rename(self, names: Mapping[str, str]) -> None:
        for node in self._model.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        self._makers = {name: node for node in self._model.graph.node for name in node.output}
        self._ranks |= {new: self._ranks[old] for old, new in names.items() if old in self._ranks}

    def _rebuilt(self) -> onnx.ModelProto:
        """Return the model with the nodes that were made, as far as its outputs need them."""
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
        while made in self._makers or made in self._constants:  # it has been turned before
            made += "'"
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
