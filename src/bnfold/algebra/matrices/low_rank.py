"""Joins products of two matrices each into one product of two, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bnfold.algebra.matrices.linear_forms import Linear, Source, linear_forms, matrix_of
from bnfold.algebra.matrices.linear_maps import product
from bnfold.algebra.matrices.one_matrix import no_longer_needed
from bnfold.algebra.weights import folded_name, stored
from bnfold.graph.constants import is_overridable
from bnfold.rewriting.contract import Common, Op, Replace, require
from bnfold.rewriting.query import is_op, rank_of, shape_of


@dataclass(frozen=True)
class _Pair:
    """x·A + a, and then B and b: (x·A + a)·B + b."""

    first: Linear
    second: Linear

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        return (*self.first.nodes, *self.second.nodes)


def as_two_matrices(root: ir.Node) -> Replace | None:
    """Return the replacement of a sum of products x·A·B by one, x·[A₁ A₂]·[B₁; B₂].

    None unless all operands are such products of one x.

    Raises:
        Refused: SHARED or WEIGHT_OVERRIDABLE, or with a reason from `NotStorable`.
    """
    operands = [_pairs(value, root) for value in root.inputs]
    common = [source for source in operands[0] if all(source in each for each in operands)]
    if len(operands) < 2 or not common:
        return None
    pairs = [each[common[0]] for each in operands]
    nodes = [*dict.fromkeys(node for pair in pairs for node in pair.nodes), root]
    for node in nodes:
        require(not any(map(is_overridable, node.inputs[1:])), Common.WEIGHT_OVERRIDABLE, node)
    gone = no_longer_needed(nodes, root)
    shared = next((node for node in nodes if node not in gone), None)
    require(shared is None, Common.SHARED, shared)
    signs = [-1 if is_op(root, "Sub") and index else 1 for index in range(len(pairs))]
    made = _product(root, common[0].value, pairs, signs)
    return Replace(nodes, {root.outputs[0]: made}, f"{len(nodes)} operators into two")


def _pairs(value: ir.Value | None, root: ir.Node) -> dict[Source, _Pair]:
    """Return the ways in which a value is a product of two matrices, nearest first."""
    node = value.producer() if value is not None else None
    if node is None or node.graph is not root.graph:
        return {}
    found: dict[Source, _Pair] = {}
    for second in linear_forms(node):
        between = second.source.value.producer()
        if len(second.products) != 1 or not _is_plain(second) or between is None:
            continue
        for first in linear_forms(between):
            if len(first.products) == 1 and _is_plain(first):
                found.setdefault(first.source, _Pair(first, second))
    return found


def _is_plain(form: Linear) -> bool:
    """Say whether a form is of one matrix, with a bias of one axis, in the shape that x has."""
    is_untouched = form.source.leading is None and not form.source.is_transposed
    return is_untouched and form.matrix.weight.ndim == 2 and form.matrix.bias.ndim <= 1


def _product(root: ir.Node, data: ir.Value, pairs: Sequence[_Pair], signs: Sequence[int]) -> Op:
    """Return (x·[A₁ A₂])·[B₁; B₂] + Σ ±(a·B + b)."""
    signed = list(zip(signs, pairs, strict=True))
    one, other = pairs[0].first.products[0], pairs[0].second.products[0]
    columns = np.concatenate([pair.first.matrix.weight for pair in pairs], axis=1)
    rows = np.concatenate([sign * pair.second.matrix.weight for sign, pair in signed])
    shift = sum(
        (sign * pair.first.matrix.then(pair.second.matrix).bias for sign, pair in signed),
        np.zeros(rows.shape[1]),
    )
    dtype = ir.DataType.from_numpy(matrix_of(other).dtype)
    left = stored(columns, dtype, folded_name(one, 1), one, channel_axis=-1)
    right = stored(rows, dtype, folded_name(other, 1), other, channel_axis=-1)
    bias = stored(shift, dtype, folded_name(other, 2), other) if shift.any() else None
    between = one.outputs[0]
    leading = (shape_of(between) or ir.Shape([None])).dims[:-1]
    shape = ir.Shape([*leading, columns.shape[1]])
    inner = Op("MatMul", [data, left], (), one, shape, between)
    is_gemm = rank_of(root.outputs[0]) == 2
    return product(root.outputs[0], inner, right, bias, other, is_gemm=is_gemm)
