"""Merge parallel linear operators of one value into one Conv.

    (W₁∗x + b₁) ± (W₂∗x + b₂) = (W₁ ± W₂)∗x + (b₁ ± b₂)
    (W∗x + b) ± (s·x + t)     = (W ± s·δ)∗x + (b ± t)        δ: 1 in the centre, channel to itself
    W₂∗(W₁∗x + b₁) + b₂       = (W₂∗W₁)∗x + (Σ W₂·b₁ + b₂)
    Average(x)                = A∗x                          A: 1/n, each channel to itself

    (W₁∗x + b₁) + r + (W₂∗x + b₂) = r + ((W₁ + W₂)∗x + (b₁ + b₂))

Branches may be chains of such operators, and sums of sums; what else is added stays beside them. A
smaller kernel is a larger one with zeros around it: tap j of a kernel with p zeros of padding at
the start reads position j·dilation − p, so kernels are aligned by their padding, and the merged
padding is the larger one on each side. A dilated kernel is a larger one with zeros between its
taps. A Conv with more groups is one with fewer, with zeros between channels of different groups.
The authors of RepVGG, ACNet, DBB, ECBSR, MobileOne, FastViT and UniRepLKNet do this by hand before
they export (Ding et al., "RepVGG", 2021). ConvTransposes beside ConvTransposes merge likewise, by
what they write instead of read.

Conditions: finite data, because a tap of weight zero turns infinity into NaN; constant weights; the
same strides and output size, whatever the size of the input; nothing else reads values within the
branches; an AveragePool counts padding, or has none, and if all branches have one, its window is no
larger than a map of a fixed size: onnxruntime's pools run on less, and a Conv does not. In a chain,
an operator pads
with zeros only where the one before it would compute zero there, which takes that it has no bias
and reads only padding: DBB and ECBSR pad between the two with the first one's bias, which is to pad
before both.

Profit: the merged kernel takes no more multiplications per output position than the branches
together. A depthwise Conv parallel to a dense one with an equally large kernel no longer costs
anything; a dense 1×1 Conv parallel to a large depthwise one stays.

ROUNDED: equal in the reals. The sums are computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from bnfold.algebra.spatial.expression_search import expressions_beside_others, smallest_expression
from bnfold.algebra.spatial.linear_expression import LinearExpression
from bnfold.algebra.spatial.operators import NOT_ONE_CONV
from bnfold.algebra.weights import NotStorable
from bnfold.graph.shapes import shape_of
from bnfold.rewriting.contract import Exactness, Op, Refused, Replace, rewrite


@rewrite(
    "merge-branches",
    roots=["Add", "Sub", "Sum"],
    exactness=Exactness.ROUNDED,
    refusals=[*NOT_ONE_CONV, *NotStorable],
)
def merge_branches(root: ir.Node) -> Replace | None:
    """Merge all operands, or some, if each is linear in one value and at least one is a Conv."""
    if len(root.inputs) < 2:
        return None
    try:
        expression = smallest_expression(root)
        if expression is not None:
            return _merged(expression, [])
        refused = None
    except Refused as reason:
        refused = reason
    for some, others in expressions_beside_others(root):
        try:
            return _merged(some, others)
        except Refused as reason:
            refused = refused or reason
    if refused is not None:
        raise refused
    return None


def _merged(expression: LinearExpression, others: Sequence[ir.Value]) -> Replace:
    """Return the Conv, to which the other addends are added, from the last on.

    Raises:
        Refused: with a reason from `NOT_ONE_CONV`.
    """
    total = expression.normal_form().to_op(expression.data, expression.conv)
    detail = f"{expression.branches} branches into {total.op_type}"
    result, root = expression.result, expression.nodes[-1]
    shape = shape_of(next(iter(expression.addends or [result])))
    total = replace(total, type_of=result, shape=shape)
    for place, value in reversed([*enumerate(others)]):
        shape = shape if shape == shape_of(value) else None
        like = None if place else root
        total = Op("Add", [value, total], like=like, type_of=result, shape=shape)
    return Replace(expression.nodes, {result: total}, detail)
