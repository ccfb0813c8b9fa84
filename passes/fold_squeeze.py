"""Fold a Squeeze or Unsqueeze into the reduction before it, which keeps its axes or drops them.

    Unsqueeze(Reduce(x; a, keepdims = 0); a) = Reduce(x; a, keepdims = 1)
    Squeeze(Reduce(x; a, keepdims = 1); a) = Reduce(x; a, keepdims = 0)

Reduce is any reduction, ArgMax or ArgMin. A Reshape or Flatten to the same shape is a Squeeze or
Unsqueeze, too.

Conditions: nothing else reads the result of the reduction; both have the same axes, which are
constant, or the sizes tell that the shape is the same.

Profit: an operator less, and a copy less for runtimes that copy. torch exports `x.mean(1)[:, None]`
so, and an average of all positions is flattened.

BITWISE.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from bnfold.graph.schemas import REDUCTIONS
from bnfold.graph.shapes import are_equal
from bnfold.rewriting.contract import (
    Common,
    Exactness,
    Op,
    Refused,
    Replace,
    attributes_with,
    require,
    rewrite,
)
from bnfold.rewriting.query import (
    int_attribute,
    ints_parameter,
    is_op,
    producer,
    rank_of,
    shape_of,
    sole_use,
)

_ARG = ("ArgMax", "ArgMin")
_BY_AXES = ("Squeeze", "Unsqueeze")


@rewrite(
    "fold-squeeze",
    roots=[*_BY_AXES, "Flatten", "Reshape"],
    exactness=Exactness.BITWISE,
    refusals=[Common.PARAMETER_NOT_CONSTANT, Common.SHARED],
)
def fold_squeeze(node: ir.Node) -> Replace | None:
    """Let a reduction keep its axes, or not, as the operator after it makes of its result."""
    reduction = producer(node, 0, *REDUCTIONS, *_ARG)
    if reduction is None:
        return None
    is_kept = int_attribute(reduction, "keepdims", 1) != 0
    if not _has_same_axes(node, reduction, is_kept) and not _has_its_shape(
        node, reduction, not is_kept
    ):
        return None
    require(sole_use(reduction.outputs[0]), Common.SHARED, reduction)
    attributes = attributes_with(reduction, ir.AttrInt64("keepdims", int(not is_kept)))
    whole = Op(reduction.op_type, reduction.inputs, attributes, reduction)
    return Replace([reduction, node], {node.outputs[0]: whole})


def _has_same_axes(node: ir.Node, reduction: ir.Node, is_kept: bool) -> bool:
    """Say whether an operator gives back, or takes away, the axes of the reduction by their names.

    Both count these among the axes of what is reduced. Of some that count from either end, two may
    be one.

    Raises:
        Refused: PARAMETER_NOT_CONSTANT, if the axes are computed.
    """
    if not is_op(node, "Squeeze" if is_kept else "Unsqueeze"):
        return False
    axes, own = _reduced(reduction), ints_parameter(node, "axes", 1)
    if axes is None or not own:
        return False
    return axes == {*own} and (min(own) >= 0) == (max(own) >= 0)


def _has_its_shape(node: ir.Node, reduction: ir.Node, is_kept: bool) -> bool:
    """Say whether the result has the shape that the reduction has if it keeps its axes, or not."""
    data, after = shape_of(reduction.inputs[0]), shape_of(node.outputs[0])
    if data is None or after is None or data.rank() == 0:
        return False
    try:
        axes = _reduced(reduction)
    except Refused:
        return False  # its own result is not known either
    places = {axis % data.rank() for axis in axes or ()}
    sizes = _without(data, places, is_kept)
    return len(sizes) == after.rank() and all(map(are_equal, sizes, after))


def _without(data: ir.Shape, places: set[int], is_kept: bool) -> Sequence[int | ir.SymbolicDim]:
    if is_kept:
        return [1 if axis in places else size for axis, size in enumerate(data)]
    return [size for axis, size in enumerate(data) if axis not in places]


def _reduced(node: ir.Node) -> set[int] | None:
    """Return the axes that a reduction takes away, as it names them; None if there are none."""
    if is_op(node, *_ARG):
        return {int_attribute(node, "axis", 0)}
    axes = ints_parameter(node, "axes", 1, ())
    if axes:
        return {*axes}
    rank = rank_of(node.inputs[0])
    if not rank or int_attribute(node, "noop_with_empty_axes", 0):
        return None
    return {*range(rank)}
