"""What a model holds and computes: parameters, and multiplications of its linear operators."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from bnfold.graph.shapes import shape_of
from bnfold.graph.walk import all_graphs

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Cost:
    """The cost of a model, for one image: a free first axis counts as one."""

    parameters: int
    """Elements of all weights that are numbers, each weight once."""
    multiplications: int
    """Multiply-adds of the linear operators whose sizes are known."""
    unknown: int
    """Linear operators whose sizes depend on the input."""


def cost_of(model: ir.Model) -> Cost:
    """Add up the cost of all operators; the shapes must have been learned."""
    parameters = {
        id(value): math.prod(value.const_value.shape.numpy())
        for graph in all_graphs(model)
        for value in graph.initializers.values()
        if value.const_value is not None
    }
    constants = (
        attribute.as_tensor().shape.numpy()
        for graph in all_graphs(model)
        for node in graph
        if node.op_type == "Constant"
        for attribute in node.attributes.values()
        if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref()
    )
    counts = [
        _multiplications(node)
        for graph in all_graphs(model)
        for node in graph
        if node.op_type in _LINEAR and node.domain == ""
    ]
    return Cost(
        sum(parameters.values()) + sum(map(math.prod, constants)),
        sum(count for count in counts if count is not None),
        sum(count is None for count in counts),
    )


def _multiplications(node: ir.Node) -> int | None:
    """Return the multiply-adds of a linear operator; None if a size is not known.

    Each element of the result, or for a ConvTranspose of the data, meets so many weights.
    """
    inputs: list[ir.Value | None] = [*node.inputs, None, None]  # a model may be invalid
    outputs: list[ir.Value | None] = [*node.outputs, None]
    data, weight, result = map(_sizes, [*inputs[:2], outputs[0]])
    if weight is None or data is None or result is None or len(weight) < 2:
        return None
    if node.op_type == "Conv":
        return math.prod(result) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(data) * math.prod(weight[1:])
    if node.op_type == "Gemm":
        is_transposed = _number(node, "transB") != 0
        return math.prod(result) * weight[1 if is_transposed else 0]
    return math.prod(result) * weight[-2]


def _number(node: ir.Node, name: str) -> int:
    """Return an attribute that is 0 by default, and where the caller of a function gives it."""
    attribute = node.attributes.get(name)
    is_known = attribute is not None and not attribute.is_ref()
    return attribute.as_int() if attribute is not None and is_known else 0


def _sizes(value: ir.Value | None) -> list[int] | None:
    """Return the sizes of a value, with 1 for a free first axis."""
    shape = shape_of(value)
    if shape is None:
        return None
    sizes = [size if isinstance(size, int) else None for size in shape]
    if sizes and sizes[0] is None:
        sizes[0] = 1
    known = [size for size in sizes if size is not None]
    return known if len(known) == len(sizes) else None
