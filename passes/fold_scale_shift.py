"""Fold a Mul, Div, Add or Sub of a per-channel constant into adjacent linear operators.

    k·x = A(k, 0)(x)     x/k = A(1/k, 0)(x)     x ± k = A(1, ±k)(x)     k − x = A(−1, k)(x)

and an affine map A(s, t) is absorbed like a BatchNormalization:

    before   A(s, t)(W·x + b) = (s·W)·x + (s·b + t)
    after    W·A(s, t)(x) + b = (W·s)·x + (W·t + b)
    in part  W·A(s, t)(x) + b = (W·s)·(x + t/s) + b

The last, where the operator after pads and two or more such nodes are in a row: one Add stays. On
its way downstream, a scale passes products with other values: (s·x)·y = s·(x·y).

Conditions: k is constant and varies along at most one axis of x, after right-aligned broadcasting;
k is not part of a decomposed GELU or LayerNormalization, which onnxruntime would no longer
recognize, nor of a HardSigmoid or HardSwish, which recognise-hard-activations replaces; k does not
round what it is added to, as 2²³ rounds float32 values to whole numbers; otherwise as for
fold-batchnorm. Most Mul and Add nodes of a model are something else, residual sums or gates, so no
other refusal is reported.

Profit: an operator less. onnxruntime folds a Mul or Add directly after a Conv itself when it loads
a model; the gain is in those that it does not fold.

ROUNDED: equal in the reals. The new weights are computed in float64 and rounded once.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.algebra.affine_maps.absorption import (
    absorb_into_consumers,
    absorb_into_producers,
    absorb_scale_into_consumers,
)
from bnfold.algebra.affine_maps.affine import NotAffine
from bnfold.algebra.fusions import within_fused_pattern
from bnfold.algebra.hard_sigmoid import hard_activation
from bnfold.rewriting.contract import Exactness, Refused, Replace, rewrite


@rewrite(
    "fold-scale-shift",
    roots=["Mul", "Div", "Add", "Sub"],
    exactness=Exactness.ROUNDED,
    refusals=[NotAffine.ROUNDS],
)
def fold_scale_shift(node: ir.Node) -> Replace | None:
    """Fold into the operators before, else after, else the scale alone, else return None."""
    if within_fused_pattern(node) or hard_activation(node) is not None:
        return None
    for absorb in (absorb_into_producers, absorb_into_consumers, absorb_scale_into_consumers):
        try:
            return absorb(node)
        except Refused as refused:
            if refused.reason is NotAffine.ROUNDS:
                raise
    return None
