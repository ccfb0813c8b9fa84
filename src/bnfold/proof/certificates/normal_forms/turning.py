"""Transposes what elementwise operators read, instead of what they compute, or the other way round.

    Transpose(f(x, k)) = f(Transpose(x), Transpose(k))

So do Concats, Pads, Softmaxes, Resizes and reductions along other axes; a reduction or Squeeze that
drops axes computes the same of what is transposed, if the others keep their order. Transposes that
cancel go. Where one side transposes before f and back, both then are f alone; where both transpose
what a Conv computes, as exports of channels-last models do, f follows the Conv.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.graph.schemas import NUMPY_BROADCASTING_SINCE, REDUCTIONS, opsets_of
from bnfold.proof.certificates.normal_forms.kept_axes import keeps_axes
from bnfold.proof.certificates.sizes.size_demands import rank_read
from bnfold.proof.certificates.submodels import Constants, needed_nodes
from bnfold.proof.certificates.windows import POINTWISE, NotShown, Window, ints

_ALONG_AN_AXIS = {"Concat": 4, "LogSoftmax": 13, "Softmax": 13}
"""Since which operator set these do the same to each line along one axis, which they name."""

_ELEMENTWISE = (POINTWISE | {"Gelu", "Max", "Min", "Mish", "Pow", "Sum"}) - {
    *("BatchNormalization", "Dropout")
}


def with_transposes_first(window: Window) -> Window:
    """Transpose what is read; return the window itself if nothing is transposed."""
    if not _has_transposes(window):
        return window
    return Window(*(_Turning(model).turned_model() for model in window.models))


def with_transposes_last(window: Window) -> Window:
    """Transpose what is computed; return the window itself if no result is transposed before."""
    if not _has_transposes(window):
        return window
    turned = [_Turning(model).turned_back_model() for model in window.models]
    return window if all(map(operator.is_, turned, window.models)) else Window(*turned)


def _has_transposes(window: Window) -> bool:
    """Say whether it transposes anything, and broadcasts as Transposes may be moved through."""
    versions = [opsets_of(model).get("", 0) for model in window.models]
    is_new = min(versions) >= NUMPY_BROADCASTING_SINCE
    return "Transpose" in window.operators and is_new and all(_ranks_known(window))


def _ranks_known(window: Window) -> Iterator[bool]:
    """Say of each input whether what is replaced reads one number of axes alone.

    A Transpose of what replaces it fails for any other one, also if it cancels.
    """
    for value in window.inputs:
        try:
            yield value.type.tensor_type.HasField("shape") or rank_read(window, value.name) > 0
        except NotShown:
            yield False


class _Turning:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._given = model
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._constants = Constants(model)
        self._opset = opsets_of(model).get("", 0)
        self._makers = {name: node for node in model.graph.node for name in node.output}
        described = [*model.graph.input, *model.graph.value_info, *model.graph.output]
        self._described = {
            value.name: value for value in described if value.type.tensor_type.HasField("shape")
        }
        self._ranks = {
            name: len(value.type.tensor_type.shape.dim) for name, value in self._described.items()
        }
        for node in model.graph.node:
            rank = self._rank_of_result(node)
            if rank is not None:
                self._ranks.setdefault(node.output[0], rank)
        self._made: dict[tuple[str, tuple[int, ...]], str] = {}
        self._taken = {*self._constants, *self._makers, *(each.name for each in described)}
        self._nodes: list[onnx.NodeProto] = []

    def _rank_of_result(self, node: onnx.NodeProto) -> int | None:
        """Return the rank of what is transposed, or of single elements; None if not known."""
        if node.op_type == "Transpose":
            return len(ints(node, "perm")) or None
        if node.op_type in (*_ALONG_AN_AXIS, *REDUCTIONS, "Pad", "Resize"):
            return self._ranks.get(node.input[0]) if keeps_axes(node) else None
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
                self._nodes.append(self._without_axes(node) or node)
        return self._rebuilt()

    def _without_axes(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Return what drops axes of a value before it is transposed instead, if it may."""
        drops = node.op_type in REDUCTIONS and not keeps_axes(node)
        if not drops and node.op_type != "Squeeze":
            return None
        order, axes = self._order_before(node.input[0]), self._numbers(node, "axes")
        if not order or not axes:
            return None
        places = [order[axis] for axis in axes]
        left = [axis for axis in order if axis not in places]
        if left != sorted(left):
            return None
        source = self._turned(node.input[0], _inverse(order))
        return self._with_numbers(node, "axes", sorted(places), source)

    def turned_back_model(self) -> onnx.ModelProto:
        """Return the model with what is transposed before an output transposed there instead."""
        outputs = [output.name for output in self._model.graph.output]
        orders = {name: order for name in outputs if (order := self._order_before(name))}
        if not orders:
            return self._given
        renamed = {name: self._fresh(f"{name} as computed") for name in orders}
        self._rename(renamed)
        self._nodes.extend(self._model.graph.node)
        for name, order in orders.items():
            source = self._turned(renamed[name], _inverse(order))
            self._nodes.append(onnx.helper.make_node("Transpose", [source], [name], perm=order))
        return self._rebuilt()

    def _order_before(self, name: str) -> list[int]:
        """Return the order of a Transpose after which a value is computed alike in any order."""
        pending, seen = [name], set[str]()
        while pending:
            name = pending.pop()
            node = self._makers.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            if node.op_type == "Transpose":
                return ints(node, "perm")
            if name in self._ranks and self._may_turn(node, self._ranks[name]):
                pending.extend(self._varying(node))
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
        made = self._fresh(f"{name} by {' '.join(map(str, order))}")
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
        self._describe(made, name, order)
        if node is None or not self._may_turn(node, len(order)):
            self._nodes.append(onnx.helper.make_node("Transpose", [name], [made], perm=order))
            return made
        copy = self._turned_node(node, order)
        copy.output[:] = [made]
        self._nodes.append(copy)
        return made

    def _fresh(self, name: str) -> str:
        """Return a name that no value has: a model may have been turned before."""
        while name in self._taken:
            name += "'"
        self._taken.add(name)
        return name

    def _describe(self, made: str, name: str, order: Sequence[int]) -> None:
        """Say what is known of a transposed value."""
        if name in self._described:
            value = onnx.ValueInfoProto()
            value.CopyFrom(self._described[name])
            value.name = made
            sizes = [value.type.tensor_type.shape.dim[axis] for axis in order]
            turned = onnx.TensorShapeProto(dim=sizes)
            value.type.tensor_type.shape.CopyFrom(turned)
            self._model.graph.value_info.append(value)

    def _may_turn(self, node: onnx.NodeProto, rank: int) -> bool:
        """Say whether a node computes the same along other axes of what is transposed."""
        if len(node.output) != 1 or any(self._ranks.get(n) != rank for n in self._varying(node)):
            return False
        if node.op_type in _ALONG_AN_AXIS:
            is_one = self._opset >= _ALONG_AN_AXIS[node.op_type]
            return is_one and (node.op_type != "Concat" or bool(ints(node, "axis")))
        if node.op_type in REDUCTIONS:
            return keeps_axes(node) and bool(self._numbers(node, "axes"))
        if node.op_type == "Pad":
            return len(self._numbers(node, "pads")) == 2 * rank and not any(node.input[3:])
        if node.op_type == "Resize":
            return self._is_by_scales(node, rank)
        return node.op_type in _ELEMENTWISE

    def _is_by_scales(self, node: onnx.NodeProto, rank: int) -> bool:
        """Say whether a Resize has a constant scale for each axis, and does the same to each."""
        scales = self._constants.get(node.input[2]) if len(node.input) == 3 else None
        names = {each.name for each in node.attribute}
        transform = next((a.s for a in node.attribute if a.name.startswith("coordinate")), b"")
        is_alike = "axes" not in names and transform != b"tf_crop_and_resize"
        return scales is not None and scales.shape == (rank,) and is_alike

    def _varying(self, node: onnx.NodeProto) -> list[str]:
        """Return the operands that are no constants, and have the axes of the result."""
        first_only = node.op_type in (*REDUCTIONS, "Pad", "Resize")
        read = node.input[:1] if first_only else node.input
        return [name for name in read if name and name not in self._constants]

    def _turned_node(self, node: onnx.NodeProto, order: Sequence[int]) -> onnx.NodeProto:
        if node.op_type in REDUCTIONS:
            axes = sorted(order.index(a % len(order)) for a in self._numbers(node, "axes"))
            source = self._turned(node.input[0], order)
            return self._with_numbers(node, "axes", axes, source)
        if node.op_type == "Pad":
            widths = self._numbers(node, "pads")
            turned = [widths[side + axis] for side in (0, len(order)) for axis in order]
            source = self._turned(node.input[0], order)
            return self._with_numbers(node, "pads", turned, source)
        if node.op_type == "Resize":
            made = self._fresh(f"{node.input[2]} by {order}")
            scales = self._constants[node.input[2]][list(order)]
            self._model.graph.initializer.append(onnx.numpy_helper.from_array(scales, made))
            return _reading(node, [self._turned(node.input[0], order), node.input[1], made])
        read = [self._turned(each, order) for each in node.input]
        if node.op_type in _ALONG_AN_AXIS:
            axis = order.index(ints(node, "axis", [-1])[0] % len(order))
            return _with_attribute(_reading(node, read), "axis", axis)
        return _reading(node, read)

    def _numbers(self, node: onnx.NodeProto, name: str) -> list[int]:
        """Return integers that are an attribute, or the second operand; none if that varies."""
        if name not in {each.name for each in node.attribute} and len(node.input) > 1:
            content = self._constants.get(node.input[1])
            return [] if content is None else [int(number) for number in content.reshape(-1)]
        return ints(node, name)

    def _with_numbers(
        self, node: onnx.NodeProto, name: str, numbers: list[int], source: str
    ) -> onnx.NodeProto:
        """Return a node that reads another value, with other integers where `_numbers` are."""
        if name in {each.name for each in node.attribute}:
            return _with_attribute(_reading(node, [source, *node.input[1:]]), name, numbers)
        made = self._fresh(f"{name} {numbers}")
        tensor = onnx.numpy_helper.from_array(np.array(numbers, np.int64), made)
        self._model.graph.initializer.append(tensor)
        return _reading(node, [source, made, *node.input[2:]])


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _reading(node: onnx.NodeProto, names: Sequence[str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = names
    return copy


def _with_attribute(node: onnx.NodeProto, name: str, value: int | list[int]) -> onnx.NodeProto:
    others = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend([*others, onnx.helper.make_attribute(name, value)])
    return node
