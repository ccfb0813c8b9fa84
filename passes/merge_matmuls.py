"""Merge parallel MatMuls and Gemms of one value into one.

    (x·A + a) ± (x·B + b) = x·(A ± B) + (a ± b)
    (x·A + a) ± k·x       = x·(A ± diag k) + a
    x·W + s·((x·A)·B)     = x·(W + s·A·B)
    (x·A)·B ± (x·C)·D     = (x·[A C])·[B; ±D]

The third is a low-rank adapter (Hu et al., "LoRA", 2021), exported without merging it first. A
branch is whatever is linear in x along its last axis: products in a row, scales, shifts, and sums
of such branches. A Gemm's transposes, α and β are part of its matrix and its bias.

Conditions: finite data, because a weight of zero turns infinity into NaN; constant weights, biases
and scales, which do not enlarge what they are combined with.

Profit: the merged matrix has no more elements, and so takes no more multiplications for each row of
x, than the matrices of the branches together. The sum itself vanishes. Where something else reads a
branch, its operators stay, and do not count. Factors side by side take as many as before, in fewer
operators; nothing else reads any of these.

ROUNDED: equal in the reals. The matrix is computed in float64 and rounded once.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.algebra.matrices.linear_forms import linear_forms
from bnfold.algebra.matrices.low_rank import as_two_matrices
from bnfold.algebra.matrices.one_matrix import NOT_ONE_MATRIX, NotOneMatrix, as_one_matrix
from bnfold.algebra.operand import constant_operand
from bnfold.rewriting.contract import Exactness, Refused, Replace, rewrite


@rewrite(
    "merge-matmuls",
    roots=["Add", "Sub", "Sum"],
    exactness=Exactness.ROUNDED,
    refusals=NOT_ONE_MATRIX,
)
def merge_matmuls(root: ir.Node) -> Replace | None:
    """Merge all operands, if they are linear in one value and at least one is a product."""
    if constant_operand(root) is not None:
        return None
    try:
        return as_one_matrix(root, (form for form in linear_forms(root) if form.products))
    except Refused as refused:
        if refused.reason is not NotOneMatrix.MORE_MULTIPLICATIONS:
            raise
        two = as_two_matrices(root)
        if two is None:
            raise
        return two
