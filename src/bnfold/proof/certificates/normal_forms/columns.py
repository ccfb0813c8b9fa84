"""Multiplies by the columns of a matrix that are read, where what is computed of it is moved only.

    move(x · W + b) = gather(x · W[:, read] + b[read])

The queries, keys and values of an attention are columns of one product, which a Split takes apart.
Where one side scales the queries in the matrix, the columns of the keys are the same on both. The
filters of a Conv are such columns, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.helper

from bnfold.arrays import Array
from bnfold.proof.certificates.constant_folding import sizes_within
from bnfold.proof.certificates.submodels import Constants, needed_nodes, rebuilt
from bnfold.proof.certificates.windows import Window, ints
from bnfold.running.evaluation import evaluate

_MOVING = frozenset(
    {"Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)
"""Operators whose results are elements of their first operand; the others must be constant."""

_LARGEST = 2**22
"""Elements of a product of which is found out where they go."""


def with_columns_read(window: Window) -> Window:
    """Return the window itself if a size is free, or all columns of each matrix are read."""
    is_of_products = not window.operators.isdisjoint(("Conv", "MatMul"))
    if not is_of_products or window.has_free_sizes:
        return window
    models = [_Reading(model).reading_columns() for model in window.models]
    are_same = all(new is old for new, old in zip(models, window.models, strict=True))
    return window if are_same else Window(*models)


class _Reading:
    """A model, and what is found out of it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = Constants(model)
        self._made = {name: node for node in model.graph.node for name in node.output}
        self._outputs = [output.name for output in model.graph.output]
        self._read_else = {
            name for node in model.graph.node if not self._is_moving(node) for name in node.input
        }

    def reading_columns(self) -> onnx.ModelProto:
        """Return the model with the columns alone that are read; itself if these are all."""
        sizes = sizes_within(self._model)
        nodes: list[onnx.NodeProto] = []
        added: dict[str, Array] = {}
        for node in self._model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            nodes.append(copy)
            for place, name in enumerate(node.output if self._is_moving(node) else ()):
                if self._is_last(name) and (cut := self._cut(name, sizes)) is not None:
                    copy.output[place] = f"{name} of all"
                    nodes += cut[0]
                    added |= cut[1]
        if not added:
            return self._model
        needed = needed_nodes(nodes, self._outputs)
        return rebuilt(self._model, needed, self._model.graph.input, self._outputs, added)

    def _is_moving(self, node: onnx.NodeProto) -> bool:
        others = node.input[1:]
        return node.op_type in _MOVING and all(not n or n in self._constants for n in others)

    def _is_last(self, name: str) -> bool:
        """Say whether a value that was moved is read by what does not move it again."""
        return name in self._read_else or name in self._outputs

    def _cut(
        self, name: str, sizes: Mapping[str, Sequence[int]]
    ) -> tuple[list[onnx.NodeProto], dict[str, Array]] | None:
        """Return nodes that compute what was moved from the columns that it reads; else None."""
        moving, result = [], name
        while (node := self._made.get(result)) is not None and self._is_moving(node):
            moving.append(node)
            result = node.input[0]
        product = self._product(result)
        shape = sizes.get(result)
        if product is None or shape is None or math.prod(shape) > _LARGEST:
            return None
        at = self._places(moving[::-1], result, shape, name)
        if at is None:
            return None
        node, steps = product
        axis, of_weights = (len(shape) - 1, -1) if node.op_type == "MatMul" else (1, 0)
        along = list(np.unravel_index(at, shape))
        read, order = np.unique(along[axis], return_inverse=True)
        if len(read) == shape[axis]:
            return None
        along[axis] = order.reshape(at.shape)
        kept = [*shape[:axis], len(read), *shape[axis + 1 :]]
        added = {
            f"{name} flat": np.array([-1]),
            f"{name} places": np.ravel_multi_index(tuple(along), kept),
        }
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for place, operand in enumerate(node.input[1:], 1):
            weights = self._constants[operand]
            copy.input[place] = f"{name} operand {place} of all"
            added[copy.input[place]] = np.take(weights, read, of_weights)
        nodes = [copy]
        copy.output[0] = f"{name} product"
        for step, (kind, operand) in enumerate(steps):
            from_end = axis - len(shape)
            is_each = operand.ndim >= -from_end and operand.shape[from_end] > 1
            added[f"{name} operand {step}"] = (
                np.take(operand, read, from_end) if is_each else operand
            )
            last = nodes[-1].output[0]
            nodes.append(_node(kind, last, f"{name} operand {step}", f"{name} step {step}"))
        nodes.append(_node("Reshape", nodes[-1].output[0], f"{name} flat", f"{name} row"))
        nodes.append(_node("Gather", f"{name} row", f"{name} places", name))
        return nodes, added

    def _product(self, result: str) -> tuple[onnx.NodeProto, list[tuple[str, Array]]] | None:
        """Return the node that multiplies by a matrix, and what is done with each column after."""
        steps: list[tuple[str, Array]] = []
        node = self._made.get(result)
        while node is not None and node.op_type in ("Add", "Mul"):
            value, other = node.input if node.input[1] in self._constants else node.input[::-1]
            if other not in self._constants:
                return None
            steps.append((node.op_type, self._constants[other]))
            node = self._made.get(value)
        if node is None or any(name not in self._constants for name in node.input[1:]):
            return None
        is_product = node.op_type == "MatMul" and self._constants[node.input[1]].ndim == 2
        is_product |= node.op_type == "Conv" and ints(node, "group", [1]) == [1]
        return (node, steps[::-1]) if is_product else None

    def _places(
        self, moving: Sequence[onnx.NodeProto], data: str, shape: Sequence[int], result: str
    ) -> Array | None:
        """Return where the elements of what is moved come from, counted row by row."""
        model = rebuilt(self._model, moving, [], [result])
        del model.graph.value_info[:]  # which are of floats
        described = onnx.helper.make_tensor_value_info(data, onnx.TensorProto.INT64, shape)
        model.graph.input.append(described)
        found = evaluate(model, {data: np.arange(math.prod(shape)).reshape(shape)})
        return None if found is None else found[0]


def _node(kind: str, one: str, other: str, result: str) -> onnx.NodeProto:
    return onnx.helper.make_node(kind, [one, other], [result])
