"""Elementwise operators, of any number of operands, as operators that work on each channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.helper
import onnx_ir as ir

from bnfold.algebra.channel_removal.channels import Channelwise, computed, kept_of, not_constant
from bnfold.algebra.channel_removal.narrowing import Mask
from bnfold.arrays import Array, FloatArray
from bnfold.graph.constants import constant
from bnfold.rewriting.contract import Op, Operand
from bnfold.rewriting.query import is_op, opset, rank_of, size_of

ELEMENTWISE = (
    *("Abs", "Add", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish"),
    *("Identity", "LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Relu", "Selu"),
    *("Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu"),
)


class Elementwise(Channelwise):
    """f(x, y, …), broadcast. Constants are taken per channel, or are the same for all channels."""

    def __init__(self, node: ir.Node, axis: int) -> None:
        super().__init__(node, axis)
        places = range(len(node.inputs))
        self.operands = tuple(place for place in places if self._has_channels(place))
        self.channels = size_of(node.outputs[0], axis)

    def _has_channels(self, index: int) -> bool:
        value = self.node.inputs[index]
        if value is None or constant(value) is not None:
            return False
        return rank_of(value) is not None and size_of(value, self._place(value)) != 1

    def _place(self, value: ir.Value) -> int:
        """Return the axis, counted from the last, that is aligned with the channels."""
        rank = rank_of(self.node.outputs[0])
        return self.axis - rank if rank is not None else 0

    @property
    def is_sound(self) -> bool:
        """All operands are known, and those with the channels have all axes of the result."""
        result = self.node.outputs[0]
        rank = rank_of(result)
        if (
            rank is None
            or self.channels is None
            or (opset(self.node) < 7 and len(self.node.inputs) > 1)
        ):
            return False
        values = [self.node.inputs[index] for index in self.operands]
        if not all(rank_of(v) == rank and size_of(v, self.axis) == self.channels for v in values):
            return False
        return all(v is None or rank_of(v) is not None for v in self.node.inputs) and bool(values)

    def constants(self, given: Sequence[FloatArray]) -> FloatArray:
        rank = rank_of(self.node.outputs[0])
        assert rank is not None
        if not is_op(self.node, "Mul") and all(np.isnan(each).all() for each in given):
            return given[0]
        shape = [1] * rank
        shape[self.axis] = given[0].size
        operands: list[Array | None] = []
        sources = dict(zip(self.operands, given, strict=True))
        for index, value in enumerate(self.node.inputs):
            if index in sources:
                operands.append(sources[index].reshape(shape))
            elif value is not None:
                content = constant(value)
                if content is not None and not np.isfinite(content).all():
                    return not_constant(given[0])
                operands.append(np.full((), np.nan) if content is None else content)
            else:
                operands.append(None)
        result = _evaluated(self.node, operands)
        if result is None or list(result.shape) != shape:
            return not_constant(given[0])  # a constant varies along another axis
        is_known = all(each is None or not np.isnan(each).all() for each in operands)
        values = computed(
            result.reshape(-1), *given, np.full(given[0].size, 0.0 if is_known else np.nan)
        )
        if is_op(self.node, "Mul"):
            factors = [np.broadcast_to(each, shape) for each in operands if each is not None]
            is_zero = np.any([each == 0 for each in factors], axis=0).reshape(-1)
            values = np.where(is_zero & ~np.any(np.isinf(given), axis=0), 0.0, values)
        return values

    def narrowed(self, operands: Sequence[Operand], kept: Mask) -> Op:
        inputs: list[Operand] = list(self.node.inputs)
        for index, value in enumerate(self.node.inputs):
            if value is not None and index not in self.operands:
                inputs[index] = kept_of(value, self._place(value), kept)
        for index, operand in zip(self.operands, operands, strict=True):
            inputs[index] = operand
        return self._with(inputs, kept)


def _evaluated(node: ir.Node, operands: Sequence[Array | None]) -> Array | None:
    """Compute the operator in float64, by onnx's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    names = ["" if each is None else f"x{index}" for index, each in enumerate(operands)]
    feeds = {
        name: each.astype(np.float64)
        for name, each in zip(names, operands, strict=True)
        if each is not None
    }
    proto = onnx.NodeProto(op_type=node.op_type, input=names, output=["y"])
    proto.attribute.extend(ir.serde.serialize_node(node).attribute)
    double = onnx.TensorProto.DOUBLE
    graph = onnx.helper.make_graph(
        [proto],
        "constants",
        [onnx.helper.make_tensor_value_info(name, double, None) for name in feeds],
        [onnx.helper.make_tensor_value_info("y", double, None)],
    )
    opsets = [onnx.helper.make_opsetid("", opset(node))]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    try:
        with np.errstate(all="ignore"):
            (result,) = ReferenceEvaluator(model).run(None, feeds)
            return np.asarray(result)
    except Exception:  # the evaluator lacks some types and versions: then not a constant
        return None
