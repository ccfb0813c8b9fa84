"""Replaces the operators by which a value is linear in another one by one matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from bnfold.algebra.matrices.linear_forms import Linear, Source, matrix_of
from bnfold.algebra.matrices.linear_maps import product
from bnfold.algebra.operand import constant_operand
from bnfold.algebra.weights import NotStorable, folded_name, stored
from bnfold.graph.constants import is_overridable
from bnfold.rewriting.contract import (
    Common,
    Op,
    Operand,
    Refusal,
    Refused,
    Replace,
    Weight,
    require,
)
from bnfold.rewriting.query import is_op, rank_of


class NotOneMatrix(Refusal):
    """Why linear operators do not become one."""

    MORE_MULTIPLICATIONS = "one matrix for all would take more multiplications than these operators"


NOT_ONE_MATRIX = (
    *NotOneMatrix,
    *NotStorable,
    Common.SHARED,
    Common.WEIGHT_OVERRIDABLE,
)
"""All reasons of `as_one_matrix`."""


def as_one_matrix(root: ir.Node, forms: Iterable[Linear]) -> Replace | None:
    """Return the replacement for the first form that allows it; None if there are no forms.

    Raises:
        Refused: with a reason from `NOT_ONE_MATRIX`, for the first form.
    """
    first: tuple[Refusal, ir.Node | None] | None = None  # no exception: it holds on to its frames
    for form in forms:
        try:
            return _replacement(root, form)
        except Refused as refused:
            first = first or (refused.reason, refused.subject)
    if first is not None:
        raise Refused(*first)
    return None


def _replacement(root: ir.Node, form: Linear) -> Replace:
    sizes = {node: math.prod(matrix_of(node).shape[-2:]) for node in form.products}
    assert form.rows is not None
    assert form.columns is not None
    after = form.rows * form.columns
    is_smaller = form.elements <= sum(matrix_of(node).size for node in form.products)
    is_cheaper = after <= sum(sizes.values()) and is_smaller
    require(is_cheaper, NotOneMatrix.MORE_MULTIPLICATIONS)
    for node in form.nodes:
        weights = [value for value in node.inputs if value is not form.source.value]
        require(not any(map(is_overridable, weights)), Common.WEIGHT_OVERRIDABLE, node)
    is_gemm = rank_of(root.outputs[0]) == 2
    if form.source.leading is None:
        is_gemm = is_gemm or any(is_op(node, "Gemm") for node in form.nodes)
    gone = no_longer_needed(form.nodes, root)
    shared = next((node for node in form.nodes if node not in gone), None)
    if shared is not None:
        made = 2 if not is_gemm and any(map(_has_shift, form.nodes)) else 1
        made += form.source.leading is not None
        before = sum(size for node, size in sizes.items() if node in gone)
        is_cheaper = after <= before and made <= len(gone) and (after, made) != (before, len(gone))
        require(is_cheaper, Common.SHARED, shared)
    like = max((node for node in sizes if node in gone), key=lambda node: sizes[node])
    product_of_all = _product(root, form, like, is_gemm=is_gemm)
    return Replace(
        form.nodes, {root.outputs[0]: product_of_all}, f"{len(form.nodes)} operators into one"
    )


def _has_shift(node: ir.Node) -> bool:
    return is_op(node, "Add", "Sub") and constant_operand(node) is not None


def no_longer_needed(nodes: Sequence[ir.Node], root: ir.Node) -> set[ir.Node]:
    """Return those of some operators, in order, that nothing else reads than the root, at last."""
    gone = {root}
    for node in reversed(nodes):
        value = node.outputs[0]
        if not value.is_graph_output() and all(use.node in gone for use in value.uses()):
            gone.add(node)
    return gone


def _read(source: Source, width: int) -> Operand:
    """Return what the matrix is applied to."""
    value = source.value
    if source.leading is None:
        return value
    target = Weight.of_integers([*source.leading, width], "shape")
    sizes = [size if size >= 0 else None for size in (*source.leading, width)]
    return Op("Reshape", [value, target], shape=ir.Shape(sizes), type_of=value)


def _product(root: ir.Node, form: Linear, like: ir.Node, *, is_gemm: bool) -> Op:
    """Return x·W + b with the name and metadata of one of the operators."""
    matrix = form.matrix
    dtype = ir.DataType.from_numpy(matrix_of(like).dtype)
    weight = stored(matrix.weight, dtype, folded_name(like, 1), like, channel_axis=-1)
    bias = None
    if matrix.bias.any() or any(is_op(node, "Gemm") for node in form.nodes):
        values = np.broadcast_to(matrix.bias, (*matrix.bias.shape[:-1], matrix.weight.shape[-1]))
        bias = stored(values, dtype, folded_name(like, 2), like)
    return product(
        root.outputs[0],
        _read(form.source, matrix.weight.shape[-2]),
        weight,
        bias,
        like,
        is_gemm=is_gemm,
        is_transposed=form.source.is_transposed,
    )
