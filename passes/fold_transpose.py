"""Fold a Transpose into the matrix that reads its flattened result, or whose result it turns.

    flatten(T(x))·M = flatten(x)·T⁻¹(M)                T⁻¹ on the axes that the rows of M stand for
    T(unflatten(x·M + m)) = unflatten(x·T(M) + T(m))       T on those that its columns stand for

T permutes axes, but not the first. M is the matrix of a Gemm or MatMul; m may be added by an Add.
The flattening may be a Flatten, Reshape or Squeeze, its reverse a Reshape. Elementwise operators
between change places with T first: f(T(x)) = T(f(x)).

Conditions: the sizes of all axes but the first are known; weights are constant; nothing else reads
the values between. Before it is unflattened, f does the same to every element.

Profit: an operator less, and a copy less. Networks whose channels are last flatten them so before a
dense layer, and decoders make them of one.

ROUNDED: every weight keeps its bits, but a kernel may add the terms of a sum in another order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bnfold.algebra.matrices.linear_forms import PRODUCTS
from bnfold.algebra.permuting import (
    Order,
    elementwise_operand,
    inverse,
    order_of,
    turned_op,
    turned_shape,
)
from bnfold.algebra.weights import folded_name, weight_of
from bnfold.graph.shapes import are_equal
from bnfold.rewriting.contract import (
    Common,
    Exactness,
    Op,
    Operand,
    Replace,
    Weight,
    constant,
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
_MOST_BETWEEN = 8
"""Elementwise operators between a Transpose and the flattening."""


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
    """Replace ``flatten(T(x))·M`` by ``flatten(x)·M′``; if need be, move T there first."""
    flatten = producer(product, 0, "Flatten", "Reshape", "Squeeze")
    if flatten is None or int_attribute(product, "transA", 0):
        return None
    between, transpose = _elementwise_before(flatten.inputs[0])
    order = _order(transpose)
    if transpose is None or order is None or rank_of(product.inputs[1]) not in (1, 2, None):
        return None
    sizes = _sizes(transpose.outputs[0], product.inputs[0], transpose)
    if sizes is None:
        return None
    for node in (transpose, *between, flatten):
        require(sole_use(node.outputs[0]), Common.SHARED, node)
    if between:
        weight_of(product, 1)  # it is not moved in vain
        return _after_others(transpose, order, between)
    axis = 1 if int_attribute(product, "transB", 0) else 0
    weight = _permuted(product, 1, axis, sizes, inverse(order))
    data = transpose.inputs[0]
    flat = Op("Flatten", [data], (), flatten, shape_of(product.inputs[0]), data)
    whole = same_op(product, [flat, weight, *product.inputs[2:]])
    nodes = [transpose, flatten, product]
    return Replace(nodes, {product.outputs[0]: whole}, "with permuted rows")


def _into_columns(transpose: ir.Node) -> Replace | None:
    """Replace ``T(unflatten(x·M + m))`` by ``unflatten(x·M′ + m′)``; if need be, move T first."""
    order = _order(transpose)
    after, reshape = _elementwise_before(transpose.inputs[0])
    if order is None or reshape is None or not is_op(reshape, "Reshape"):
        return None
    before, source = _elementwise_before(reshape.inputs[0], is_alike=True)
    add = source if is_op(source, "Add") else None
    product = source if add is None else producer(add, 0, "MatMul") or producer(add, 1, "MatMul")
    if source is None or product is None or not is_op(product, *PRODUCTS):
        return None
    sizes = _sizes(reshape.outputs[0], source.outputs[0], reshape)
    is_matrix = rank_of(product.outputs[0]) == 2
    if sizes is None or not is_matrix or opset(reshape) < _SHAPE_IS_AN_INPUT_SINCE:
        return None
    nodes = [product, *([] if add is None else [add]), *before, reshape, *after]
    for node in nodes:
        require(sole_use(node.outputs[0]), Common.SHARED, node)
    if before or after:
        _require_weights(product, add)
        return _before_others(source.outputs[0], before, reshape, after, transpose, order)
    made = _with_permuted_columns(product, add, sizes, order)
    target = Weight.of_integers([0, *_permutation(sizes, order)], reshape.name or "shape")
    result = Op("Reshape", [made, target], (), reshape)
    detail = f"into the columns of {product.op_type}"
    return Replace([*nodes, transpose], {transpose.outputs[0]: result}, detail)


def _require_weights(product: ir.Node, add: ir.Node | None) -> None:
    """Require that what is multiplied with, and added, is constant.

    Raises:
        Refused: as `weight_of`.
    """
    for index in (1, 2):
        if input_of(product, index) is not None:
            weight_of(product, index)
    if add is not None:
        weight_of(add, _place_of_bias(add, product))


def _place_of_bias(add: ir.Node, product: ir.Node) -> int:
    return 0 if add.inputs[1] is product.outputs[0] else 1


def _with_permuted_columns(
    product: ir.Node, add: ir.Node | None, sizes: tuple[int, ...], order: Order
) -> Op:
    axis = 0 if int_attribute(product, "transB", 0) else 1
    operands = [product.inputs[0], _permuted(product, 1, axis, sizes, order)]
    if input_of(product, 2) is not None:
        operands.append(_permuted(product, 2, -1, sizes, order))
    made = _like(product, operands)
    if add is None:
        return made
    bias = _permuted(add, _place_of_bias(add, product), -1, sizes, order)
    return _like(add, [made, bias])


def _like(node: ir.Node, operands: list[Operand]) -> Op:
    """Return an operator with other operands, whose result has the same shape."""
    result = node.outputs[0]
    return same_op(node, operands, shape=shape_of(result), type_of=result)


def _elementwise_before(
    value: ir.Value | None, *, is_alike: bool = False
) -> tuple[list[ir.Node], ir.Node | None]:
    """Return the elementwise operators that lead to a value, in order, and what is before them.

    With `is_alike`, only those that do the same to every element.
    """
    found: list[ir.Node] = []
    while (node := value.producer() if value is not None else None) is not None:
        operand = elementwise_operand(node)
        is_other = operand is None or (is_alike and not _is_alike(node))
        if is_other or len(found) == _MOST_BETWEEN:
            break
        found.append(node)
        value = operand
    return found[::-1], node


def _is_alike(node: ir.Node) -> bool:
    contents = [constant(value) for value in node.inputs]
    return all(content is None or content.size == 1 for content in contents)


def _after_others(transpose: ir.Node, order: Order, others: Sequence[ir.Node]) -> Replace:
    """Replace ``f(T(x))`` by ``T(f(x))``."""
    made: Operand = transpose.inputs[0]
    for node in others:
        made = _turned(node, inverse(order), made)
    result = Op("Transpose", [made], [ir.AttrInt64s("perm", order)], transpose)
    outputs = {others[-1].outputs[0]: result}
    return Replace([transpose, *others], outputs, "after its reader", Exactness.BITWISE)


def _before_others(
    flat: ir.Value,
    before: Sequence[ir.Node],
    reshape: ir.Node,
    after: Sequence[ir.Node],
    transpose: ir.Node,
    order: Order,
) -> Replace:
    """Replace ``T(f(unflatten(g(x))))`` by ``f(g(T(unflatten(x))))``."""
    shaped = reshape.outputs[0]
    shape, perm = turned_shape(shaped, order), [ir.AttrInt64s("perm", order)]
    made: Op | None = Op("Reshape", [flat, reshape.inputs[1]], (), reshape, shape_of(shaped), flat)
    made = Op("Transpose", [made], perm, transpose, shape, flat)
    for node in before:
        operands = [made if constant(value) is None else value for value in node.inputs]
        made = same_op(node, operands, shape=shape, type_of=node.outputs[0])
    for node in after:
        made = _turned(node, order, made)
    assert made is not None
    nodes = [*before, reshape, *after, transpose]
    outputs = {transpose.outputs[0]: made}
    return Replace(nodes, outputs, "before what it reads", Exactness.BITWISE)


def _turned(node: ir.Node, order: Order, data: Operand) -> Op | None:
    """Return an elementwise operator of data whose axes are permuted."""
    return turned_op(node, order, lambda _: data)


def _order(transpose: ir.Node | None) -> Order | None:
    """Return how a Transpose permutes axes, if it leaves the first where it is."""
    if transpose is None or not is_op(transpose, "Transpose"):
        return None
    order = order_of(transpose)
    return None if order is None or order[0] != 0 else order


def _permutation(sizes: tuple[int, ...], order: Order) -> list[int]:
    """Return the sizes of all axes but the first, in another order."""
    return [sizes[axis - 1] for axis in order[1:]]


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
    places = np.arange(content.shape[axis]).reshape(1, *sizes).transpose(order).ravel()
    return Weight(np.take(content, places, axis), value.dtype, folded_name(node, index))
