"""Lets each reduction keep its axes, which a Squeeze after it then takes away.

    Reduce(x; a, keepdims = 0) = Squeeze(Reduce(x; a, keepdims = 1); a)

What is left to prove of two reductions that differ in no more is how they shape the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.graph.schemas import AXES_OF_SQUEEZE_READ_SINCE, REDUCTIONS, opsets_of
from bnfold.proof.certificates.submodels import Constants
from bnfold.proof.certificates.windows import Window, ints

_ARG = frozenset({"ArgMax", "ArgMin"})


def with_axes_kept(window: Window) -> Window:
    """Return the window itself if all of its reductions keep their axes, or none does."""
    kept = {keeps_axes(node) for node in window.nodes() if node.op_type in (*REDUCTIONS, *_ARG)}
    return Window(*(_Keeping(model).model for model in window.models)) if len(kept) > 1 else window


def keeps_axes(node: onnx.NodeProto) -> bool:
    """Say whether a reduction keeps its axes, as any other operator does."""
    return ints(node, "keepdims", [1]) == [1]


class _Keeping:
    """A model whose reductions keep their axes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self._constants = Constants(model)
        self._opset = opsets_of(model).get("", 1)
        self._described = {
            value.name: value for value in (*model.graph.input, *model.graph.value_info)
        }
        self._axes: dict[str, Sequence[int]] = {}
        """Of reductions, by their results."""
        self._whole: dict[str, str] = {}
        """These results with all axes, by what they are without."""
        nodes = [each for node in model.graph.node for each in self._in_place_of(node)]
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)

    def _in_place_of(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        result, read = node.output[0], node.input[0] if node.input else ""
        if node.op_type in (*REDUCTIONS, *_ARG) and (axes := self._reduced(node)):
            whole = result if keeps_axes(node) else f"{result} with its axes"
            self._axes[whole] = axes
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            rest = [each for each in node.attribute if each.name != "keepdims"]
            del copy.attribute[:]
            copy.attribute.extend([*rest, onnx.helper.make_attribute("keepdims", 1)])
            copy.output[0] = whole
            if whole == result:
                return [copy]
            self._whole[result] = whole
            self._describe(whole, node, axes)
            return [copy, self._squeeze(whole, axes, result)]
        own = self._named(node) if node.op_type in ("Squeeze", "Unsqueeze") else None
        whole = self._whole.get(read, read) if node.op_type == "Unsqueeze" else read
        if own and sorted(own) == sorted(self._axes.get(whole, ())):
            if node.op_type == "Squeeze":
                return [self._squeeze(read, self._axes[whole], result)]
            if whole != read:
                return [onnx.helper.make_node("Identity", [whole], [result])]
        return [node]

    def _reduced(self, node: onnx.NodeProto) -> Sequence[int] | None:
        """Return the axes that a reduction takes, as it names them, if they are known."""
        if node.op_type in _ARG:
            return ints(node, "axis", [0])
        axes = self._named(node)
        if axes or axes is None or ints(node, "noop_with_empty_axes") == [1]:
            return axes
        return [*range(len(self._shape(node.input[0])))]

    def _named(self, node: onnx.NodeProto) -> list[int] | None:
        """Return the axes that a node names: none if it names none, None if they are computed."""
        if len(node.input) < 2 or not node.input[1]:
            return ints(node, "axes")
        content = self._constants.get(node.input[1])
        return None if content is None else [int(axis) for axis in content.reshape(-1)]

    def _shape(self, name: str) -> Sequence[onnx.TensorShapeProto.Dimension]:
        value = self._described.get(name)
        return () if value is None else value.type.tensor_type.shape.dim

    def _describe(self, whole: str, node: onnx.NodeProto, axes: Sequence[int]) -> None:
        """Say what is known of a result with all axes."""
        data = self._described.get(node.input[0])
        shape = self._shape(node.input[0])
        if data is None or not shape:
            return
        places = {axis % len(shape) for axis in axes}
        sizes = [
            1 if place in places else size.dim_value or size.dim_param or None
            for place, size in enumerate(shape)
        ]
        is_arg = node.op_type in _ARG
        kind = onnx.TensorProto.INT64 if is_arg else data.type.tensor_type.elem_type
        value = onnx.helper.make_tensor_value_info(whole, kind, sizes)
        self.model.graph.value_info.append(value)

    def _squeeze(self, name: str, axes: Sequence[int], result: str) -> onnx.NodeProto:
        if self._opset < AXES_OF_SQUEEZE_READ_SINCE:
            return onnx.helper.make_node("Squeeze", [name], [result], axes=axes)
        tensor = onnx.numpy_helper.from_array(np.array(axes, np.int64), f"axes of {result}")
        self.model.graph.initializer.append(tensor)
        return onnx.helper.make_node("Squeeze", [name, tensor.name], [result])
