"""Computes row by row of a tensor what one side computes row by row of a matrix of the same rows.

    reshape(f(reshape(x, (n, c))), (…, d)) = f(x)

where f takes each row along the last axis by itself. Some tools make a Gemm of a MatMul and an Add
in this way; it takes matrices only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx
import onnx.helper

from bnfold.graph.schemas import opsets_of
from bnfold.proof.certificates.constant_folding import sizes_within
from bnfold.proof.certificates.submodels import Constants, needed_nodes, rebuilt, set_attribute
from bnfold.proof.certificates.windows import Window, ints

_OF_ELEMENTS = frozenset(
    {"Abs", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity"}
    | {"LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus"}
    | {"Softsign", "Sqrt", "Tanh", "ThresholdedRelu"}
)
"""Operators of each element by itself, whose other operands are numbers."""

_OF_PAIRS = frozenset({"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"})

_OF_ROWS = frozenset({"LayerNormalization", "LogSoftmax", "Softmax"})
_BY_ONE_AXIS = 13
"""The operator set since which a Softmax is over one axis, the last one unless it says which."""


def with_rows_of_tensors(window: Window) -> Window:
    """Return the window itself if a size is free, or no matrix is of the rows of a tensor."""
    if window.operators.isdisjoint({"Flatten", "Reshape"}) or window.has_free_sizes:
        return window
    models = [_Rows(model).of_tensors() for model in window.models]
    are_same = all(new is old for new, old in zip(models, window.models, strict=True))
    return window if are_same else Window(*models)


class _Rows:
    """A model, and which matrices within it have the rows of which tensors."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = Constants(model)
        self._opset = opsets_of(model).get("", 1)
        self._sizes: Mapping[str, Sequence[int]] = sizes_within(model)
        self._tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
        """By matrix: the tensor that has the same rows, and its sizes but the last."""
        self._nodes: list[onnx.NodeProto] = []

    def of_tensors(self) -> onnx.ModelProto:
        """Return the model with operators of tensors; itself if none becomes a matrix and back."""
        is_changed = False
        for node in self._model.graph.node:
            if (tensor := self._restored(node)) is not None:
                self._add("Identity", [tensor], node.output[0])
                is_changed = True
                continue
            self._nodes.append(node)
            self._follow(node)
        if not is_changed:
            return self._model
        outputs = [output.name for output in self._model.graph.output]
        needed = needed_nodes(self._nodes, outputs)
        return rebuilt(self._model, needed, self._model.graph.input, outputs)

    def _restored(self, node: onnx.NodeProto) -> str | None:
        """Return the tensor that a node makes of a matrix with its rows; None of other nodes."""
        if node.op_type not in ("Flatten", "Reshape") or node.input[0] not in self._tensors:
            return None
        tensor, first = self._tensors[node.input[0]]
        is_restored = self._sizes.get(node.output[0]) == [*first, self._sizes[node.input[0]][-1]]
        return tensor if is_restored else None

    def _follow(self, node: onnx.NodeProto) -> None:
        """Compute of a tensor, too, what a node computes of a matrix with its rows."""
        if len(node.output) != 1 or node.domain:
            return
        data, result = node.input[0] if node.input else "", node.output[0]
        if node.op_type in ("Flatten", "Reshape"):
            sizes, rows = self._sizes.get(data, []), self._sizes.get(result, [])
            is_of_rows = len(sizes) > 2 and len(rows) == 2 and sizes[-1] == rows[1]
            if is_of_rows and math.prod(sizes[:-1]) == rows[0]:
                self._tensors[result] = data, tuple(sizes[:-1])
            return
        given = {self._tensors[name][1] for name in node.input if name in self._tensors}
        if len(given) != 1 or len(self._sizes.get(result, [])) != 2:
            return
        (first,) = given
        tensor = f"{result} of a tensor"
        if node.op_type == "Gemm" and self._is_plain(node):
            self._add_product(node, tensor)
        elif self._is_of_rows(node):
            read = [
                self._tensors[name][0] if name in self._tensors else name for name in node.input
            ]
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            del copy.input[:], copy.output[:]
            copy.input.extend(read)
            copy.output.append(tensor)
            if node.op_type in _OF_ROWS:
                set_attribute(copy, "axis", -1)
            self._nodes.append(copy)
        else:
            return
        self._tensors[result] = tensor, first

    def _is_plain(self, node: onnx.NodeProto) -> bool:
        """Say whether a Gemm is a product of rows and a matrix, and a sum with a vector."""
        numbers = {each.name: each.f for each in node.attribute if each.name in ("alpha", "beta")}
        is_product = node.input[0] in self._tensors and node.input[1] not in self._tensors
        is_scaled = any(number != 1 for number in numbers.values()) or any(ints(node, "transA"))
        return is_product and not is_scaled and all(map(self._is_of_columns, node.input[2:]))

    def _is_of_rows(self, node: onnx.NodeProto) -> bool:
        """Say whether a node computes each row by itself: the same if there are more axes."""
        others = [name for name in node.input if name not in self._tensors]
        if node.op_type == "MatMul":
            is_first = node.input[0] in self._tensors and node.input[1] not in self._tensors
            return is_first and len(self._shape(node.input[1]) or ()) == 2
        if node.op_type in _OF_ROWS:
            is_last = self._opset >= _BY_ONE_AXIS and ints(node, "axis", [-1])[0] in (-1, 1)
            return node.input[0] in self._tensors and is_last
        if node.op_type in _OF_ELEMENTS:
            return node.input[0] in self._tensors
        return node.op_type in _OF_PAIRS and all(map(self._is_of_columns, others))

    def _is_of_columns(self, name: str) -> bool:
        """Say whether an operand is a number, or one for each column."""
        sizes = self._shape(name)
        return not name or (sizes is not None and all(size == 1 for size in sizes[:-1]))

    def _shape(self, name: str) -> Sequence[int] | None:
        known = self._constants
        return self._sizes.get(name, known[name].shape if name in known else None)

    def _add_product(self, node: onnx.NodeProto, result: str) -> None:
        data, matrix, *bias = (name for name in node.input if name)
        if any(ints(node, "transB")):
            turned = f"{result} turned"
            self._nodes.append(onnx.helper.make_node("Transpose", [matrix], [turned], perm=[1, 0]))
            matrix = turned
        product = f"{result} product" if bias else result
        self._add("MatMul", [self._tensors[data][0], matrix], product)
        if bias:
            self._add("Add", [product, *bias], result)

    def _add(self, op_type: str, read: Sequence[str], result: str) -> None:
        self._nodes.append(onnx.helper.make_node(op_type, read, [result]))
