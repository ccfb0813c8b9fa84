"""Recognize a Gemm where it is written out as a MatMul and an Add.

    x·W + y = Gemm(x, W, y)

Conditions: x is a matrix, W a constant one, nothing else reads the product, and y broadcasts to its
shape, which it does not enlarge; the type is one that onnxruntime has both for. It waits until no
other pass rewrites anything, because some look for a sum.

Profit: an operator less for runtimes and tools that do not fuse the two. onnxruntime does: it runs
the same FusedGemm for either. Exporters write a MatMul and an Add for `x @ W + b`, and for cells of
recurrent layers that are unrolled.

ROUNDED: equal in the reals; y is added to a sum before or after its other terms.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.graph.constants import kind_of_constant
from bnfold.graph.schemas import NUMPY_BROADCASTING_SINCE
from bnfold.graph.shapes import are_equal
from bnfold.rewriting.contract import Common, Exactness, Op, Refused, Replace, Stage, rewrite
from bnfold.rewriting.query import opset, producer, rank_of, shape_of, sole_use

_SUPPORTED = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@rewrite(
    "recognise-gemm",
    roots=["Add"],
    exactness=Exactness.ROUNDED,
    refusals=[Common.SHARED],
    stage=Stage.LATE,
)
def recognise_gemm(add: ir.Node) -> Replace | None:
    """Replace the sum of a product of a matrix and a constant one, and of what broadcasts to it."""
    if opset(add) < NUMPY_BROADCASTING_SINCE:
        return None
    refused = None
    for place in (0, 1):
        product, other = producer(add, place, "MatMul"), add.inputs[1 - place]
        if product is None or other is None or not _is_product_of_matrices(product):
            continue
        result = product.outputs[0]
        if other.dtype not in _SUPPORTED or not _is_broadcast(other, result):
            continue
        if sole_use(result):
            gemm = Op("Gemm", [*product.inputs, other], (), product)
            return Replace([product, add], {add.outputs[0]: gemm})
        refused = refused or Refused(Common.SHARED, product)
    if refused is not None:
        raise refused
    return None


def _is_product_of_matrices(product: ir.Node) -> bool:
    """Say whether the second one is constant; the product over no elements is left to MatMul."""
    kind = kind_of_constant(product.inputs[1])
    is_matrix = kind is not None and len(kind.shape) == 2 and 0 not in kind.shape
    return is_matrix and rank_of(product.inputs[0]) == 2


def _is_broadcast(value: ir.Value, product: ir.Value) -> bool:
    """Say whether a value has one element for each of a product, each column or row, or for all."""
    shape, whole = shape_of(value), shape_of(product)
    if shape is None or whole is None or shape.rank() > 2:
        return False
    pairs = zip([1, 1, *shape][-2:], whole, strict=True)
    return all(size == 1 or are_equal(size, full) for size, full in pairs)
