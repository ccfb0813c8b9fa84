"""Fold a Transpose into the matrix that reads its flattened result, or whose result it turns.

    flatten(T(x))·M = flatten(x)·T⁻¹(M)                T⁻¹ on the axes that the rows of M stand for
    T(unflatten(x·M + m)) = unflatten(x·T(M) + T(m))       T on those that its columns stand for

T permutes axes, but not the first. M is the matrix of a Gemm or MatMul; m may be added by an Add.
The flattening may be a Flatten, Reshape or Squeeze, its reverse a Reshape.

Conditions: the sizes of all axes but the first are known; weights are constant; nothing else reads
the values between.

Profit: an operator less, and a copy less. Networks whose channels are last flatten them so before a
dense layer, and decoders make them of one.

ROUNDED: every weight keeps its bits, but a kernel may add the terms of a sum in another order.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from bnfold.algebra.linear_forms import PRODUCTS
from bnfold.algebra.permuting import Order, inverse, order_of
from bnfold.algebra.weights import folded_name, weight_of
from bnfold.graph.shapes import are_equal
from bnfold.rewriting.contract import (
    Common,
    Exactness,
    Op,
    Operand,
    Replace,
    Weight,
    require,
    rewrite,
    same_op,
)
from bnfold.rewriting.query import (
    input_of,
    int_attribute,
    is_op,
    opset,
    producer,
    rank_of,
    shape_of,
    sole_use,
)

_SHAPE_IS_AN_INPUT_SINCE = 5


@rewrite(
    "fold-transpose",
    roots=[*PRODUCTS, "Transpose"],
    exactness=Exactness.ROUNDED,
    refusals=[
        Common.SHAPE_UNKNOWN,
        Common.SHARED,
        Common.WEIGHT_NOT_CONSTANT,
        Common.WEIGHT_OVERRIDABLE,
    ],
)
def fold_transpose(node: ir.Node) -> Replace | None:
    """Permute the rows of a matrix, or its columns, instead of what it reads, or computes."""
    return _into_columns(node) if is_op(node, "Transpose") else _into_rows(node)


def _into_rows(product: ir.Node) -> Replace | None:
    """Replace ``flatten(T(x))·M`` by ``flatten(x)·M′``."""
    flatten = producer(product, 0, "Flatten", "Reshape", "Squeeze")
    transpose = producer(flatten, 0, "Transpose") if flatten is not None else None
    order = _order(transpose)
    if flatten is None or transpose is None or order is None:
        return None
    if int_attribute(product, "transA", 0) or rank_of(product.inputs[1]) not in (1, 2, None):
        return None
    sizes = _sizes(transpose.outputs[0], product.inputs[0], transpose)
    if sizes is None:
        return None
    for between in (transpose, flatten):
        require(sole_use(between.outputs[0]), Common.SHARED, between)
    axis = 1 if int_attribute(product, "transB", 0) else 0
    weight = _permuted(product, 1, axis, sizes, inverse(order))
    data = transpose.inputs[0]
    flat = Op("Flatten", [data], (), flatten, shape_of(product.inputs[0]), data)
    whole = same_op(product, [flat, weight, *product.inputs[2:]])
    return Replace([transpose, flatten, product], {product.outputs[0]: whole}, "with permuted rows")


def _into_columns(transpose: ir.Node) -> Replace | None:
    """Replace ``T(unflatten(x·M + m))`` by ``unflatten(x·M′ + m′)``."""
    order = _order(transpose)
    reshape = producer(transpose, 0, "Reshape")
    if order is None or reshape is None or opset(reshape) < _SHAPE_IS_AN_INPUT_SINCE:
        return None
    add = producer(reshape, 0, "Add")
    place = 1 if add is not None and producer(add, 1, "MatMul") is not None else 0
    product = producer(reshape, 0, *PRODUCTS) if add is None else producer(add, place, "MatMul")
    if product is None or rank_of(product.outputs[0]) != 2:
        return None
    sizes = _sizes(reshape.outputs[0], reshape.inputs[0], reshape)
    if sizes is None:
        return None
    nodes = [node for node in (product, add, reshape) if node is not None]
    for between in nodes:
        require(sole_use(between.outputs[0]), Common.SHARED, between)
    axis = 0 if int_attribute(product, "transB", 0) else 1
    operands = [product.inputs[0], _permuted(product, 1, axis, sizes, order)]
    if input_of(product, 2) is not None:
        operands.append(_permuted(product, 2, -1, sizes, order))
    made = _like(product, operands)
    if add is not None:
        bias = _permuted(add, 1 - place, -1, sizes, order)
        made = _like(add, [made, bias])
    target = Weight.of_integers([0, *(sizes[axis] for axis in order)], reshape.name or "shape")
    result = Op("Reshape", [made, target], (), reshape)
    detail = f"into the columns of {product.op_type}"
    return Replace([*nodes, transpose], {transpose.outputs[0]: result}, detail)


def _like(node: ir.Node, operands: list[Operand]) -> Op:
    """Return an operator with other operands, whose result has the same shape."""
    result = node.outputs[0]
    return same_op(node, operands, shape=shape_of(result), type_of=result)


def _order(transpose: ir.Node | None) -> Order | None:
    """Return how a Transpose permutes all axes but the first; None if it moves that, too."""
    order = order_of(transpose) if transpose is not None else None
    if order is None or order[0] != 0:
        return None
    return tuple(axis - 1 for axis in order[1:])


def _sizes(
    value: ir.Value | None, flat: ir.Value | None, subject: ir.Node
) -> tuple[int, ...] | None:
    """Return the sizes of all axes but the first, if the matrix has a row for each sample.

    Raises:
        Refused: SHAPE_UNKNOWN, if one is not known for every input.
    """
    shape, rows = shape_of(value), shape_of(flat)
    if shape is None or rows is None or rows.rank() != 2 or not are_equal(shape[0], rows[0]):
        return None
    known = tuple(size for size in shape[1:] if isinstance(size, int))
    require(len(known) == shape.rank() - 1, Common.SHAPE_UNKNOWN, subject)
    return known if math.prod(known) == rows[1] and 0 not in known else None


def _permuted(
    node: ir.Node, index: int, axis: int, sizes: tuple[int, ...], order: Order
) -> Operand:
    """Return a weight of which an axis stands for others, with these permuted.

    It is left as it is if that axis is single: then it broadcasts.
    """
    content, value = weight_of(node, index), node.inputs[index]
    if value is None or value.dtype is None or content.ndim == 0 or content.shape[axis] == 1:
        return value
    places = np.arange(math.prod(sizes)).reshape(sizes).transpose(order).ravel()
    return Weight(np.take(content, places, axis), value.dtype, folded_name(node, index))
