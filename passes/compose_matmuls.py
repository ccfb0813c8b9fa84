"""Multiply the matrices of MatMuls and Gemms in a row, where one product costs no more than two.

    (x·A + a)·B + b = x·(A·B) + (a·B + b)

Between the two, there may be whatever else is linear in x along its last axis: scales, shifts, and
sums of parallel MatMuls. A Gemm's transposes, α and β are part of its matrix and its bias. Batches
of matrices multiply one by one. A Reshape that keeps the last axis goes before both.

Conditions: constant weights and biases; a bias, scale or batch does not enlarge what it is combined
with; what comes before a Reshape is the same for all rows.

Profit: a matrix of n rows and m columns takes n·m multiplications for each row of x. A·B takes no
more than A and B together, and has no more elements. So a factorization of low rank stays, such as
a weight that has been compressed, or an adapter by itself. Where something else reads a result in
between, what computes it stays, and does not count: A·B must have fewer elements than B alone.

ROUNDED: equal in the reals. A·B is computed in float64 and rounded once.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.algebra.matrices.linear_forms import PRODUCTS, linear_forms
from bnfold.algebra.matrices.one_matrix import NOT_ONE_MATRIX, as_one_matrix
from bnfold.rewriting.contract import Exactness, Replace, rewrite


@rewrite("compose-matmuls", roots=PRODUCTS, exactness=Exactness.ROUNDED, refusals=NOT_ONE_MATRIX)
def compose_matmuls(root: ir.Node) -> Replace | None:
    """Compose with a product before, the nearest first."""
    forms = (form for form in linear_forms(root) if len(form.products) > 1)
    return as_one_matrix(root, forms)
