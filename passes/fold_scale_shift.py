"""Fold a Mul, Div, Add or Sub of a per-channel constant into linear operators next to it.

    k·x = A(k, 0)(x)     x/k = A(1/k, 0)(x)     x ± k = A(1, ±k)(x)     k − x = A(−1, k)(x)

and an affine map A(s, t) is absorbed as a BatchNormalization is:

    in front   A(s, t)(W·x + b) = (s·W)·x + (s·b + t)
    behind     W·A(s, t)(x) + b = (W·s)·x + (W·t + b)

Conditions: k is constant and varies along one axis of x at most, after right-aligned broadcasting;
otherwise as for fold-batchnorm. Not where k belongs to a GELU or LayerNormalization written out,
which onnxruntime would no longer recognise. Most Mul and Add nodes of a model are something else, a
residual sum or a gate, so those that stay are not reported.

ROUNDED: equal in the reals. The new weights are computed in float64 and rounded once.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.algebra.absorption import absorb_into_consumers, absorb_into_producers
from bnfold.algebra.fusions import within_fused_pattern
from bnfold.rewriting.contract import Exactness, Refused, Replace, rewrite


@rewrite(
    "fold-scale-shift",
    roots=["Mul", "Div", "Add", "Sub"],
    exactness=Exactness.ROUNDED,
    refusals=[],
)
def fold_scale_shift(node: ir.Node) -> Replace | None:
    """Fold to the front, else to the back, else leave the node alone."""
    if within_fused_pattern(node):
        return None
    for absorb in (absorb_into_producers, absorb_into_consumers):
        try:
            return absorb(node)
        except Refused:
            continue
    return None
