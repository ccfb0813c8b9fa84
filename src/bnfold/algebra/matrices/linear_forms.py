"""Values that are linear in others: by which operators, and what one matrix for all would be.

A value is linear in x, along the last axis, if it is x itself, or, for a value u that is linear in
x and constants W, b and k, if it is u·W + b, k·u or u + k, or a sum or difference of such values.
Then it is x·W + b for one W and one b.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from bnfold.algebra.matrices.linear_maps import Matrix
from bnfold.algebra.operand import ConstantOperand, constant_operand
from bnfold.algebra.rounding import is_for_rounding
from bnfold.arrays import Array
from bnfold.graph.constants import Kind, constant, is_overridable, kind_of_constant
from bnfold.rewriting.contract import Refused
from bnfold.rewriting.query import (
    float_attribute,
    input_of,
    int_attribute,
    is_op,
    opset,
    rank_of,
    shape_of,
    size_of,
)

PRODUCTS = ("Gemm", "MatMul")
"""Operators that multiply by a matrix."""

_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
"""Operators that may give a value another shape with the same last axis."""

_MOST_OPERATORS = 16
"""Operators that one search visits."""


@dataclass(frozen=True)
class Source:
    """What a value is linear in."""

    value: ir.Value
    is_transposed: bool = False
    """Whether a Gemm reads it transposed."""
    leading: tuple[int, ...] | None = None
    """The sizes before the last axis of another shape that it is read in, −1 where not known."""

    def has_known_shape(self) -> bool:
        """Say whether the number of elements tells its shape."""
        return self.leading is None or self.leading.count(-1) <= 1


@dataclass(frozen=True, eq=False)
class Linear:
    """A value as x·W + b: the operators between x and it, in graph order, and the shape of W.

    A size is None where no operator tells it: where all of them work on each element by itself.
    """

    source: Source
    compute: Callable[[], Matrix]
    nodes: tuple[ir.Node, ...] = ()
    rows: int | None = None
    columns: int | None = None

    @cached_property
    def matrix(self) -> Matrix:
        """W and b."""
        return self.compute()

    @property
    def elements(self) -> int:
        """The number of elements of W."""
        assert self.rows is not None
        assert self.columns is not None
        batches = (matrix_of(node).shape[:-2] for node in self.products)
        return math.prod(np.broadcast_shapes(*batches)) * self.rows * self.columns

    @property
    def products(self) -> list[ir.Node]:
        """The operators that multiply by a matrix."""
        return [node for node in self.nodes if is_op(node, *PRODUCTS)]


_Forms: TypeAlias = Mapping[Source, Linear]
"""All ways in which a value is linear, nearest first."""


def linear_forms(root: ir.Node) -> list[Linear]:
    """Return all ways in which the result of an operator is linear, nearest first.

    Overridable weights count as constants here.
    """
    forms = _Search(root).of(root.outputs[0]).values()
    return [form for form in forms if form.nodes and form.source.has_known_shape()]


class _Search:
    def __init__(self, root: ir.Node) -> None:
        self._graph = root.graph
        self._left = _MOST_OPERATORS
        self._known: dict[ir.Value, _Forms] = {}

    def of(self, value: ir.Value) -> _Forms:
        if value not in self._known:
            self._known[value] = self._forms(value)
        return self._known[value]

    def _forms(self, value: ir.Value) -> _Forms:
        itself = Linear(Source(value), lambda: Matrix(np.ones(1)))
        forms = {itself.source: itself}
        node = value.producer()
        if node is None or node.graph is not self._graph or node.domain or not self._left:
            return forms
        self._left -= 1
        with suppress(Refused):  # an attribute is not known here
            forms |= {form.source: form for form in self._through(node)}
        return forms

    def _through(self, node: ir.Node) -> Iterator[Linear]:
        operand = constant_operand(node)
        if is_op(node, *PRODUCTS):
            yield from self._product(node)
        elif operand is not None:
            yield from self._elementwise(node, operand)
        elif is_op(node, "Add", "Sub", "Sum"):
            yield from self._sum(node)
        elif is_op(node, *_RESHAPES):
            yield from self._reshaped(node)

    def _product(self, node: ir.Node) -> Iterator[Linear]:
        """Yield u·W + b for each form of u; only x itself may be read transposed."""
        data, weight = input_of(node, 0), _kind(input_of(node, 1))
        if (
            data is None
            or weight is None
            or not _is_matrix(weight, data)
            or not _has_constant_bias(node)
        ):
            return
        rows, columns = weight.shape[-2:]
        is_gemm = is_op(node, "Gemm")
        if is_gemm and int_attribute(node, "transB", 0):
            rows, columns = columns, rows
        of_node = partial(_gemm if is_gemm else _matmul, node)
        if is_gemm and int_attribute(node, "transA", 0):
            yield Linear(Source(data, True), of_node, (node,), rows, columns)
            return
        for form in self.of(data).values():
            if form.columns in (None, rows):
                yield Linear(
                    form.source,
                    _then(form, of_node),
                    (*form.nodes, node),
                    rows if form.rows is None else form.rows,
                    columns,
                )

    def _elementwise(self, node: ir.Node, operand: ConstantOperand) -> Iterator[Linear]:
        """Yield k·u or u + k for each form of u, where k does not enlarge it."""
        data = input_of(node, 1 - operand.index)
        is_shift = is_op(node, "Add", "Sub")
        if data is None or (is_shift and is_for_rounding(node, operand)):
            return
        for form in self.of(data).values():
            width = size_of(data, -1) if form.columns is None else form.columns
            if _fits(node, operand.content, data, width, along_last=not is_shift):
                nodes = (*form.nodes, node)
                compute = _then(form, partial(_diagonal, node))
                yield Linear(form.source, compute, nodes, form.rows, form.columns)

    def _reshaped(self, node: ir.Node) -> Iterator[Linear]:
        """Yield u in another shape with the same last axis, for each form of u.

        Then u is x·W + b for x in that shape, if W and b are the same for all rows.
        """
        data, shape = input_of(node, 0), shape_of(node.outputs[0])
        if data is None or shape is None or not shape.rank():
            return
        *leading, width = (size if isinstance(size, int) else -1 for size in shape.dims)
        if size_of(data, -1) != width or 0 in leading:
            return
        for form in self.of(data).values():
            if not form.source.is_transposed and all(map(_is_alike_in_rows, form.nodes)):
                source = replace(form.source, leading=tuple(leading))
                nodes = (*form.nodes, node)
                compute = _in_any_shape(form)
                yield Linear(source, compute, nodes, form.rows, form.columns)

    def _sum(self, node: ir.Node) -> Iterator[Linear]:
        """Yield u ± v for all forms of u and v that are linear in the same value."""
        values = [value for value in node.inputs if value is not None]
        if len(values) < max(2, len(node.inputs)):
            return
        operands = [self.of(value) for value in values]
        for source in filter(Source.has_known_shape, operands[0]):
            forms = [each[source] for each in operands if source in each]
            sizes = _common_sizes(forms) if len(forms) == len(operands) else None
            if sizes is not None:
                nodes = dict.fromkeys(each for form in forms for each in form.nodes)
                compute = _total(forms, sign=-1 if is_op(node, "Sub") else 1)
                yield Linear(source, compute, (*nodes, node), *sizes)


def _common_sizes(forms: Sequence[Linear]) -> tuple[int | None, int | None] | None:
    """Return the numbers of rows and columns of a sum; None if its terms broadcast."""
    rows = {form.rows for form in forms if form.rows is not None}
    columns = {form.columns for form in forms if form.columns is not None}
    must_be_square = any(form.columns is None for form in forms)
    if len(rows) > 1 or len(columns) > 1 or (must_be_square and rows != columns):
        return None
    return next(iter(rows), None), next(iter(columns), None)


def _content(value: ir.Value | None) -> Array | None:
    """Return the content of a constant, or of an initializer that a caller may override."""
    if value is not None and is_overridable(value) and value.const_value is not None:
        return value.const_value.numpy()
    return constant(value)


def _kind(value: ir.Value | None) -> Kind | None:
    """Return the type and shape of what has a `_content`; an initializer is not read."""
    if value is not None and is_overridable(value) and value.const_value is not None:
        return Kind.of(value.const_value)
    return kind_of_constant(value)


def matrix_of(product: ir.Node) -> Array:
    """Return the constant matrix of one of the `products` of a form, as it is stored."""
    content = _content(product.inputs[1])
    assert content is not None
    return content


def _is_matrix(weight: Kind, data: ir.Value) -> bool:
    """Say whether it is a matrix of floats, or a batch of them, as large as that of the data."""
    rank = len(weight.shape)
    if not weight.dtype.is_floating_point() or rank < 2 or 0 in weight.shape:
        return False
    sizes = [size_of(data, axis - rank) for axis in range(rank - 2)]
    is_known = rank == 2 or rank <= (rank_of(data) or 0)
    return is_known and all(
        own in (1, size) for own, size in zip(weight.shape, sizes, strict=False)
    )


def _is_alike_in_rows(node: ir.Node) -> bool:
    """Say whether all constants of an operator are the same for all rows of what it reads."""
    kinds = [_kind(value) for value in node.inputs]
    own = 2 if is_op(node, *PRODUCTS) else 1
    return all(
        kind is None
        or is_op(node, *_RESHAPES)
        or math.prod(kind.shape) == math.prod(kind.shape[-(own if index == 1 else 1) :])
        for index, kind in enumerate(kinds)
    )


def _has_constant_bias(node: ir.Node) -> bool:
    value = input_of(node, 2)
    return value is None or _content(value) is not None


def _matmul(node: ir.Node) -> Matrix:
    weight = matrix_of(node)
    is_one = weight.size == weight.shape[-2] * weight.shape[-1]
    return Matrix(weight.reshape(weight.shape[-2 if is_one else 0 :]).astype(np.float64))


def _gemm(node: ir.Node) -> Matrix:
    """Return α·B' and β·C, where B' is B or its transpose."""
    alpha, beta = (float_attribute(node, name, 1.0) for name in ("alpha", "beta"))
    weight = alpha * matrix_of(node).astype(np.float64)
    bias = _content(input_of(node, 2)) if beta else None
    shift = np.zeros(()) if bias is None else beta * bias.astype(np.float64)
    return Matrix(weight.T if int_attribute(node, "transB", 0) else weight, shift)


def _diagonal(node: ir.Node) -> Matrix:
    operand = constant_operand(node)
    assert operand is not None
    if is_op(node, "Add", "Sub"):
        return Matrix(operand.scale[:1], operand.shift.reshape(operand.content.shape))
    return Matrix(operand.scale)


def _then(form: Linear, step: Callable[[], Matrix]) -> Callable[[], Matrix]:
    return lambda: form.matrix.then(step())


def _in_any_shape(form: Linear) -> Callable[[], Matrix]:
    """Return the matrix of a form that is alike in rows, with a bias of one axis."""
    return lambda: replace(form.matrix, bias=form.matrix.bias.reshape(form.matrix.bias.shape[-1:]))


def _total(forms: Sequence[Linear], sign: int) -> Callable[[], Matrix]:
    return lambda: reduce(
        lambda total, form: total.plus(form.matrix, sign), forms[1:], forms[0].matrix
    )


def _fits(
    node: ir.Node, content: Array, data: ir.Value, width: int | None, *, along_last: bool
) -> bool:
    """Say whether a constant broadcasts to the data, and not the data to it.

    Along the last axis, of this width, it may vary; along others only if `along_last` is false.
    """
    if content.ndim == 0:
        return True
    if not content.size or content.shape[-1] not in (1, width):
        return False
    leading, shape = content.shape[:-1], shape_of(data)
    if opset(node) < 7 and "axis" in node.attributes:
        axis = int_attribute(node, "axis", 0)
        if shape is None or axis % max(shape.rank(), 1) != shape.rank() - content.ndim:
            return False
    if not leading:
        return True
    if shape is None or shape.rank() < content.ndim:
        return False
    before = shape.dims[shape.rank() - content.ndim : -1]
    sizes = zip(leading, before, strict=True)
    return all(size == 1 or (size == own and not along_last) for size, own in sizes)
