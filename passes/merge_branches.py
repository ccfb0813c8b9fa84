"""Merge parallel linear operators of one value into one Conv.

    (W₁∗x + b₁) ± (W₂∗x + b₂) = (W₁ ± W₂)∗x + (b₁ ± b₂)
    (W∗x + b) ± (s·x + t)     = (W ± s·δ)∗x + (b ± t)        δ: 1 in the centre, channel to itself
    W₂∗(W₁∗x + b₁) + b₂       = (W₂∗W₁)∗x + (Σ W₂·b₁ + b₂)
    Average(x)                = A∗x                          A: 1/n, each channel to itself

Branches may be chains of such operators, and sums of sums. A smaller kernel is a larger one with
zeros around it: tap j of a kernel with p zeros of padding at the start reads position
j·dilation − p, so kernels are aligned by their padding, and the merged padding is the larger one on
each side. A dilated kernel is a larger one with zeros between its taps. A Conv with more groups is
one with fewer, with zeros between channels of different groups. The authors of RepVGG, ACNet, DBB,
ECBSR, MobileOne, FastViT and UniRepLKNet do this by hand before they export (Ding et al., "RepVGG",
2021). ConvTransposes beside ConvTransposes merge likewise, by what they write instead of read.

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

import onnx_ir as ir

from bnfold.algebra.linear_expression import LinearExpression
from bnfold.algebra.operators import NOT_ONE_CONV
from bnfold.algebra.weights import NotStorable
from bnfold.rewriting.contract import Exactness, Replace, rewrite


@rewrite(
    "merge-branches",
    roots=["Add", "Sub", "Sum"],
    exactness=Exactness.ROUNDED,
    refusals=[*NOT_ONE_CONV, *NotStorable],
)
def merge_branches(root: ir.Node) -> Replace | None:
    """Merge all operands, if each is linear in one value and at least one is a Conv."""
    expression = LinearExpression.of(root) if len(root.inputs) > 1 else None
    if expression is None:
        return None
    conv = expression.normal_form().to_op(expression.data, expression.conv)
    detail = f"{len(root.inputs)} branches into {conv.op_type}"
    return Replace(expression.nodes, {root.outputs[0]: conv}, detail)
