"""Fold an inference BatchNormalization into the linear operator in front of it.

    BN(L(x)) = s·(W·x + b) + t        s = γ / √(σ² + ε),  t = β − μ·s,  one each per channel
             = (s·W)·x + (s·b + t)

for L = Conv and ConvTranspose (1-D to 3-D, grouped, depthwise, with and without bias), Gemm (any
α, β, transA, transB and shape of C), MatMul, and MatMul → Add. The last two become a Gemm.

Conditions: the BatchNormalization runs in inference mode; its four parameters and the operator's
weights are constants; nothing else reads the operator's result; the new weights are finite.

ROUNDED: equal in the reals. The new weights are computed in float64 and rounded once.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.affine import NotAbsorbed, NotAffine, absorb, batch_normalization
from bnfold.contract import Exactness, NotStorable, Replace, rewrite


@rewrite(
    "fold-batchnorm",
    roots=["BatchNormalization"],
    exactness=Exactness.ROUNDED,
    refusals=[NotAffine, NotAbsorbed, NotStorable],
)
def fold_batchnorm(bn: ir.Node) -> Replace:
    """Replace ``BN ∘ L`` by one L. Never silent: each BatchNormalization folds or is explained."""
    absorbed = absorb(batch_normalization(bn), bn)
    detail = f"into {absorbed.nodes[0].op_type}"
    return Replace([*absorbed.nodes, bn], {bn.outputs[0]: absorbed.op}, detail)
