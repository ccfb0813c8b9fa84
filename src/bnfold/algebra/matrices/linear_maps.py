"""Linear maps of the last axis as arrays, x·W + b, and the operators that compute them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bnfold.arrays import FloatArray
from bnfold.rewriting.contract import Op, Operand, Weight
from bnfold.rewriting.query import opset, shape_of


@dataclass(frozen=True, eq=False)
class Matrix:
    """The map x·weight + bias of the last axis of x.

    A weight of one axis is a diagonal; one of a single element holds for every size. One of more
    than two axes is a batch of matrices. The bias broadcasts to the result.
    """

    weight: FloatArray
    bias: FloatArray = field(default_factory=lambda: np.zeros(()))

    @property
    def is_diagonal(self) -> bool:
        """Whether each element of the result depends on one element of x."""
        return self.weight.ndim == 1

    def then(self, second: Matrix) -> Matrix:
        """Compose: (x·W + b)·V + c = x·(W·V) + (b·V + c)."""
        first, then = self.weight, second.weight
        with np.errstate(all="ignore"):  # values that are not finite are refused when stored
            if second.is_diagonal:
                return Matrix(first * then, self.bias * then + second.bias)
            weight = first[:, None] * then if self.is_diagonal else first @ then
            if not self.bias.any():
                return Matrix(weight, second.bias)
            wide = np.broadcast_to(self.bias, (*self.bias.shape[:-1], then.shape[-2]))
            if then.ndim > 2:  # each matrix of the batch is for several rows
                wide = np.atleast_2d(wide)
            return Matrix(weight, wide @ then + second.bias)

    def plus(self, other: Matrix, sign: int) -> Matrix:
        """Add or subtract: x·W + b ± (x·V + c) = x·(W ± V) + (b ± c)."""
        pair = (self, other)
        weights = [each.weight for each in pair]
        if self.is_diagonal != other.is_diagonal:
            size = next(each.weight.shape[-2] for each in pair if not each.is_diagonal)
            weights = [each.weight_as_matrix(size) for each in pair]
        with np.errstate(all="ignore"):
            return Matrix(weights[0] + sign * weights[1], self.bias + sign * other.bias)

    def weight_as_matrix(self, size: int) -> FloatArray:
        """Return the weight with two axes; a diagonal is one over `size` elements."""
        return np.diag(np.broadcast_to(self.weight, size)) if self.is_diagonal else self.weight


def product(
    result: ir.Value,
    data: Operand,
    weight: Weight,
    bias: Weight | None,
    like: ir.Node,
    *,
    is_gemm: bool,
    is_transposed: bool = False,
) -> Op:
    """Return data·weight + bias, or dataᵀ·weight + bias, to compute `result`.

    It is a Gemm, if that is possible and there is a bias, else a MatMul, and an Add if needed.
    """
    legacy = [ir.AttrInt64("broadcast", 1)] if opset(like) < 7 else []
    if is_gemm and bias is not None:
        transposed = [ir.AttrInt64("transA", 1)] if is_transposed else []
        return Op("Gemm", [data, weight, bias], [*legacy, *transposed], like)
    if bias is None:
        return Op("MatMul", [data, weight], (), like)
    matmul = Op("MatMul", [data, weight], (), like, shape_of(result), result)
    return Op("Add", [matmul, bias], legacy)
