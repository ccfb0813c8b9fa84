"""Fold an inference BatchNormalization into the linear operators before or after it.

    BN(x) = s·x + t        s = γ / √(σ² + ε),  t = β − μ·s,  one per channel

    before   BN(W·x + b) = (s·W)·x + (s·b + t)
    after    W·BN(x) + b = (W·s)·x + (W·t + b)

Before: Conv and ConvTranspose (1-D to 3-D, grouped, depthwise), DeformConv, Gemm, MatMul, another
BatchNormalization, an InstanceNormalization or LayerNormalization (over the last axis, where the
channels are), and constants that nothing else reads, such as a table of embeddings. After:
Conv without padding (or with t = 0), ConvTranspose with t = 0, Gemm, MatMul, LSTM, GRU, RNN (of
their input, not of a state), BatchNormalization. The weight of a MatMul may be either operand:
A·(s·x + t) = (A·s)·x + A·t, where the channels are the rows of x. It may be a batch of matrices,
with channels along an axis of each, or one channel for each matrix.

On its way, the map passes

- operators that average, pick or rearrange elements: pools, Reshape, Transpose and similar ones;
- a Cast of floats, if the type beyond has all numbers of the type that the map's result is cast to
  in the end, or that its data was cast from: Conv (float16) → Cast → BN (float32) → Cast, back;
- a ReduceSum of n elements, which makes n·t of t; n must be known, unless t = 0;
- upstream, a MatMul with a constant P whose channels are those of what it multiplies:
  A(s, t)(P·x) = P·(s·x) + t, as in a graph convolution, which leaves an Add of t;
- other affine maps, and, upstream, every branch of a Concat, Add or Where, whatever a Where chooses
  by, and of a Max or Min, if no scale is negative, also where branches are broadcast, but along the
  channels: of a constant branch, each element is mapped;
- downstream, a Concat, whatever its other branches are: what reads it absorbs the map on these
  channels alone;
- Split, Slice and Gather: a part of the channels takes its part of the map.

Conditions: the BatchNormalization runs in inference mode; its parameters and the operators' weights
are constants; before it, nothing else reads the values on the way, unless it picks other channels
of them; after it, every reader absorbs the map; the new weights are finite; there are fewer
operators afterwards.

Profit: an operator less. onnxruntime folds a BatchNormalization directly after a Conv itself when
it loads a model; the gain is in those that it does not fold.

ROUNDED: equal in the reals. The new weights are computed in float64 and rounded once.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.algebra.affine_maps.absorption import (
    NOT_FOLDED,
    absorb_into_consumers,
    absorb_into_producers,
)
from bnfold.algebra.affine_maps.affine import batch_normalization
from bnfold.rewriting.contract import Exactness, Refused, Replace, rewrite


@rewrite(
    "fold-batchnorm",
    roots=["BatchNormalization"],
    exactness=Exactness.ROUNDED,
    refusals=NOT_FOLDED,
)
def fold_batchnorm(bn: ir.Node) -> Replace:
    """Fold into the operators before, else after; if both refuse, report both refusals."""
    batch_normalization(bn)  # a refusal here would occur twice below
    try:
        return absorb_into_producers(bn)
    except Refused as upstream:
        try:
            return absorb_into_consumers(bn)
        except Refused as downstream:
            raise upstream.and_also(downstream) from downstream
