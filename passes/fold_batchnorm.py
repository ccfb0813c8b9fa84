"""Fold an inference BatchNormalization into linear operators, in front of it or behind it.

    BN(x) = s·x + t        s = γ / √(σ² + ε),  t = β − μ·s,  one each per channel

    in front   BN(W·x + b) = (s·W)·x + (s·b + t)
    behind     W·BN(x) + b = (W·s)·x + (W·t + b)

In front: Conv and ConvTranspose (1-D to 3-D, grouped, depthwise), Gemm, MatMul, and another
BatchNormalization. Behind: Conv that does not pad (or t = 0), Gemm, MatMul, BatchNormalization. On
its way the map passes what averages, picks or rearranges elements (pools, Reshape, Transpose and
the like), other affine maps, and in front also every branch of a Concat or an Add.

Conditions: the BatchNormalization runs in inference mode; its parameters and the operators' weights
are constants; in front, nothing else reads what is passed; behind, every reader absorbs the map;
the new weights are finite; there are fewer operators afterwards.

ROUNDED: equal in the reals. The new weights are computed in float64 and rounded once.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.algebra.absorption import NOT_FOLDED, absorb_into_consumers, absorb_into_producers
from bnfold.algebra.affine import batch_normalization
from bnfold.rewriting.contract import Exactness, Refused, Replace, rewrite


@rewrite(
    "fold-batchnorm",
    roots=["BatchNormalization"],
    exactness=Exactness.ROUNDED,
    refusals=NOT_FOLDED,
)
def fold_batchnorm(bn: ir.Node) -> Replace:
    """Fold to the front, else to the back. Never silent: each one folds or is explained."""
    batch_normalization(bn)  # what is refused here would be refused twice below
    try:
        return absorb_into_producers(bn)
    except Refused as in_front:
        try:
            return absorb_into_consumers(bn)
        except Refused as behind:
            raise in_front.and_also(behind) from behind
