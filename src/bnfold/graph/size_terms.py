"""What a graph computes from sizes, where it is a multiple of some of them for every input.

``Concat(Gather(Shape(x), [0, 1]), 2·Slice(Shape(x), 2, 4))`` is n, c, 2·h and 2·w, whatever these
are. Exporters write that for the sizes of a Resize, with casts to floats and rounding between,
which change nothing up to 2²⁴.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array
from bnfold.graph.asked_sizes import asked_places
from bnfold.graph.constants import constant
from bnfold.graph.shapes import shape_of

_MOST_NODES = 64
"""Nodes that one search visits."""

_MOST_TERMS = 64
"""Numbers in a shape, and more."""


_MOST_SIZES = 8
"""Sizes of which the product has a name."""

_PRODUCT, _TIMES, _NUMBER = "bnfold.product: ", " × ", "bnfold.number: "


@dataclass(frozen=True)
class Term:
    """A whole number of times a size, or a product of sizes; or a whole number."""

    factor: int
    size: str | None = None
    """The name of the size, or of the product, which is the same in whatever order."""

    @staticmethod
    def of(size: int | ir.SymbolicDim) -> Term | None:
        """Return a size of a shape; None if it has no name."""
        if isinstance(size, int):
            return Term(size)
        return None if size.value is None else _of_sizes(1, factors_of(size.value))

    @property
    def name(self) -> str | None:
        """Return the name of a size that is this term; None of a number, which has none."""
        if self.size is None or self.factor == 1:
            return self.size
        return f"{_PRODUCT}{_TIMES.join([f'{_NUMBER}{self.factor}', *self._sizes])}"

    @property
    def _sizes(self) -> list[str]:
        factors = [] if self.size is None else factors_of(self.size)
        return [each for each in factors if isinstance(each, str)]

    def times(self, other: Term) -> Term | None:
        """Return the product; None if it is one of too many sizes."""
        return _of_sizes(self.factor * other.factor, [*self._sizes, *other._sizes])

    def over(self, other: Term) -> Term | None:
        """Return the quotient; None if it is not a whole number of times some of the sizes."""
        left = Counter(self._sizes)
        left.subtract(other._sizes)
        if not other.factor or self.factor % other.factor or min(left.values(), default=0) < 0:
            return None
        return _of_sizes(self.factor // other.factor, list(left.elements()))


def factors_of(size: str) -> list[str | int]:
    """Return the names of the sizes, and numbers, of which one is the product; of most, its own."""
    factors = size.removeprefix(_PRODUCT).split(_TIMES) if size.startswith(_PRODUCT) else [size]
    return [
        int(each.removeprefix(_NUMBER)) if each.startswith(_NUMBER) else each for each in factors
    ]


def _of_sizes(factor: int, factors: Sequence[str | int]) -> Term | None:
    sizes = [each for each in factors if isinstance(each, str)]
    factor *= math.prod(each for each in factors if isinstance(each, int))
    if len(sizes) > _MOST_SIZES:
        return None
    name = _TIMES.join(sorted(sizes))
    return Term(factor, f"{_PRODUCT}{name}" if len(sizes) > 1 else name or None)


def product_of(factors: Iterable[Term]) -> Term | None:
    """Return the product of terms; None if it is one of too many sizes."""
    product: Term | None = Term(1)
    for factor in factors:
        product = None if product is None else product.times(factor)
    return product


def sizes_of(value: ir.Value | None) -> Sequence[Term] | None:
    """Return the sizes of a value; None if one is neither a number nor has a name."""
    shape = shape_of(value)
    return None if shape is None else _all_known([Term.of(size) for size in shape])


def terms(value: ir.Value | None) -> Sequence[Term] | None:
    """Return the elements of a vector or number that depends on sizes alone; None if it does not.

    They are those for every input.
    """
    return _Search().of(value)


def compared(node: ir.Node) -> Array | None:
    """Return what an Equal says of sizes and numbers, if that is the same for every input.

    Exporters look for the -1 that stands for a size in what they give an Expand: no size is -1.
    """
    if node.domain or node.op_type != "Equal" or len(node.inputs) != 2 or node.attributes:
        return None
    shape = shape_of(node.outputs[0])
    pair = [terms(value) for value in node.inputs]
    one, other = ([] if found is None else list(found) for found in pair)
    if shape is None or not shape.is_static() or not one or not other:
        return None
    count = max(len(one), len(other))
    one, other = (found * (count if len(found) == 1 else 1) for found in (one, other))
    answers = [_are_equal(*terms) for terms in zip(one, other, strict=False)]
    if len(one) != len(other) or math.prod(shape.numpy()) != count or None in answers:
        return None
    return np.array(answers, np.bool_).reshape(shape.numpy())


def _are_equal(one: Term, other: Term) -> bool | None:
    """Say whether two terms are equal for every input, or for none; None if that depends on it."""
    if one == other:
        return True
    if one.size is None and other.size is None:
        return False
    low, high = sorted((one, other), key=lambda term: term.size is not None)
    return False if low.size is None and low.factor < 0 <= high.factor else None


class _Search:
    def __init__(self) -> None:
        self._left = _MOST_NODES

    def of(self, value: ir.Value | None) -> Sequence[Term] | None:
        content = constant(value)
        if content is not None:
            return _whole_numbers(content)
        node, shape = value.producer() if value is not None else None, shape_of(value)
        if node is None or node.domain or node.op_type not in _OPERATORS or not self._left:
            return None
        if shape is None or shape.rank() > 1:
            return None
        if any(attribute.is_ref() for attribute in node.attributes.values()):
            return None
        self._left -= 1
        found = _OPERATORS[node.op_type](self, node)
        return found if found is not None and len(found) <= _MOST_TERMS else None

    def shape(self, node: ir.Node) -> Sequence[Term] | None:
        shape = shape_of(node.inputs[0])
        if shape is None:
            return None
        start = node.attributes.get_int("start", 0) or 0
        dims = shape.dims[start : node.attributes.get_int("end", None)]
        return _all_known([Term.of(size) for size in dims])

    def same(self, node: ir.Node) -> Sequence[Term] | None:
        """Numbers that stay whole, in an order that stays."""
        return self.of(node.inputs[0])

    def cast(self, node: ir.Node) -> Sequence[Term] | None:
        target = ir.DataType(node.attributes["to"].as_int())
        return self.of(node.inputs[0]) if target in _WIDE else None

    def chosen(self, node: ir.Node) -> Sequence[Term] | None:
        given = self.of(node.inputs[0])
        places = asked_places(node, len(given)) if given is not None else None
        if given is None or places is None:
            return None
        return [given[place] for place in places.reshape(-1)]

    def concat(self, node: ir.Node) -> Sequence[Term] | None:
        parts = [self.of(value) for value in node.inputs]
        known = [part for part in parts if part is not None]
        return None if len(known) < len(parts) else [term for part in known for term in part]

    def product(self, node: ir.Node) -> Sequence[Term] | None:
        return self._each(node, Term.times)

    def sum(self, node: ir.Node) -> Sequence[Term] | None:
        return self._each(node, _sum)

    def quotient(self, node: ir.Node) -> Sequence[Term] | None:
        """What has no remainder, whatever the sizes are; floats over a size may be no number."""
        by = self.of(node.inputs[1])
        is_integer = node.inputs[1] is not None and node.inputs[1].dtype in _INTEGERS
        if by is None or not (is_integer or all(term.size is None for term in by)):
            return None
        return self._each(node, Term.over)

    def _each(
        self, node: ir.Node, combine: Callable[[Term, Term], Term | None]
    ) -> Sequence[Term] | None:
        one, other = (self.of(value) for value in node.inputs)
        if one is None or other is None:
            return None
        if 1 in (len(one), len(other)):
            one, other = list(one) * len(other), list(other) * len(one)
        if len(one) != len(other):
            return None
        return _all_known([combine(*pair) for pair in zip(one, other, strict=True)])


def _whole_numbers(content: Array) -> Sequence[Term] | None:
    if content.size > _MOST_TERMS or content.dtype.kind not in "fiu":
        return None
    numbers = content.reshape(-1).tolist()
    is_whole = all(math.isfinite(number) and number == int(number) for number in numbers)
    return [Term(int(number)) for number in numbers] if is_whole else None


def _all_known(found: Sequence[Term | None]) -> Sequence[Term] | None:
    known = [term for term in found if term is not None]
    return known if len(known) == len(found) else None


def _sum(one: Term, other: Term) -> Term | None:
    return Term(one.factor + other.factor, one.size) if one.size == other.size else None


_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)

_WIDE = (*_INTEGERS, ir.DataType.FLOAT, ir.DataType.DOUBLE)
"""Types that hold any size."""

_OPERATORS: Mapping[str, Callable[[_Search, ir.Node], Sequence[Term] | None]] = {
    "Add": _Search.sum,
    "Cast": _Search.cast,
    "Ceil": _Search.same,
    "Concat": _Search.concat,
    "Div": _Search.quotient,
    "Floor": _Search.same,
    "Gather": _Search.chosen,
    "Identity": _Search.same,
    "Mul": _Search.product,
    "Reshape": _Search.same,
    "Round": _Search.same,
    "Shape": _Search.shape,
    "Slice": _Search.chosen,
    "Squeeze": _Search.same,
    "Unsqueeze": _Search.same,
}
