"""Fold a Gather or Slice that only permutes channels into the weight of what reads it.

    L(x[π]; W) = L(x; W′)      where W′ at channel π(j) is W at channel j

L is a Conv or ConvTranspose of one group, a MatMul or a Gemm, linear in the channels of x.

Conditions: π is constant, and picks each channel of x once; W is constant; nothing else reads x[π].

Profit: a copy less. Models that were trained on RGB, and are given BGR, begin with one.

ROUNDED: every weight keeps its bits, but a kernel may add the terms of a sum in another order.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.carry_moving import axes_picked_along, picked
from bnfold.algebra.channel_removal.narrowing import LINEAR_OPERATORS
from bnfold.algebra.matrices.linear_forms import PRODUCTS
from bnfold.algebra.weights import folded_name, weight_of
from bnfold.arrays import IntArray
from bnfold.rewriting.contract import (
    Common,
    Exactness,
    Refused,
    Replace,
    Weight,
    require,
    rewrite,
    same_op,
)
from bnfold.rewriting.query import int_attribute, is_op, producer, rank_of, sole_use


@rewrite(
    "fold-gather",
    roots=LINEAR_OPERATORS,
    exactness=Exactness.ROUNDED,
    refusals=[Common.SHARED, Common.WEIGHT_NOT_CONSTANT, Common.WEIGHT_OVERRIDABLE],
)
def fold_gather(node: ir.Node) -> Replace | None:
    """Permute the channels of a weight instead of those of what it is multiplied with."""
    pick = producer(node, 0, "Gather", "Slice")
    is_mixed = int_attribute(node, "group", 1) == 1 and not int_attribute(node, "transA", 0)
    order = _permutation(pick, node) if pick is not None and is_mixed else None
    if pick is None or order is None:
        return None
    require(sole_use(pick.outputs[0]), Common.SHARED, pick)
    content, value = weight_of(node, 1), node.inputs[1]
    if value is None or value.dtype is None:
        return None
    permuted = np.take(content, np.argsort(order), _axis_of_weight(node, content.ndim))
    weight = Weight(permuted, value.dtype, folded_name(node, 1))
    whole = same_op(node, [pick.inputs[0], weight, *node.inputs[2:]])
    return Replace([pick, node], {node.outputs[0]: whole}, f"{pick.op_type} into {node.op_type}")


def _permutation(pick: ir.Node, reader: ir.Node) -> IntArray | None:
    """Return which channel of its data each channel of a result is, if it is a permutation.

    Whatever else a Gather or Slice is for, or if that is not known, there is nothing to fold.
    """
    rank = rank_of(pick.inputs[0])
    if not rank or rank_of(pick.outputs[0]) != rank:
        return None
    axis = rank - 1 if is_op(reader, *PRODUCTS) else 1
    try:
        if axes_picked_along(pick) != [axis]:
            return None
        chosen, count = picked(pick, axis)
    except Refused:
        return None
    return chosen if np.array_equal(np.sort(chosen), np.arange(count)) else None


def _axis_of_weight(node: ir.Node, rank: int) -> int:
    """Return the axis of a weight along which it is multiplied with channels."""
    if is_op(node, "Conv") or int_attribute(node, "transB", 0):
        return 1
    if is_op(node, "ConvTranspose") or rank == 1:
        return 0
    return rank - 2
