"""Leave it to an elementwise operator to broadcast: Expand and Tile before it do the same.

    f(Expand(x; s), y) = f(x, y)        where y has the sizes that the Expand gives to x

A Tile that repeats only axes of size 1 is an Expand.

Conditions: on each axis, x or another operand has the size that the Expand asks for, for every
input; the operator broadcasts as NumPy does.

Profit: an operator less, with what computes its shape, and one tensor of the size of the result.
PyTorch writes an Expand, with a Shape, for each ``expand_as``, as in ``normalize``.

BITWISE.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from bnfold.graph.shapes import are_equal
from bnfold.graph.size_terms import Term, terms
from bnfold.rewriting.contract import Exactness, Replace, rewrite, same_op
from bnfold.rewriting.query import input_of, opset, producer, shape_of, sole_use

_COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_LOGICAL = ("And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Or", "Where", "Xor")
_ARITHMETIC = ("Add", "Div", "Max", "Mean", "Min", "Mod", "Mul", "Pow", "Sub", "Sum")

_FIRST_OPSET = 8
"""From this one on, all of these operators broadcast as NumPy does."""


@rewrite(
    "strip-expand",
    roots=[*_COMPARISONS, *_LOGICAL, *_ARITHMETIC],
    exactness=Exactness.BITWISE,
    refusals=[],
)
def strip_expand(node: ir.Node) -> Replace | None:
    """Let an elementwise operator read what an Expand reads; None if that would change its shape.

    One Expand at a time: of two, only one may have to be done.
    """
    if opset(node) < _FIRST_OPSET:
        return None
    for place in range(len(node.inputs)):
        expand = producer(node, place, "Expand", "Tile")
        if expand is None or expand.inputs[0] is None:
            continue
        data, expanded = expand.inputs[0], expand.outputs[0]
        operands = [data if value is expanded else value for value in node.inputs]
        sizes = _expanded(expand)
        if sizes is not None and _cover(operands, sizes):
            gone = [expand, node] if sole_use(expanded) else [node]
            return Replace(gone, {node.outputs[0]: same_op(node, operands)})
    return None


def _expanded(node: ir.Node) -> Sequence[Term | None] | None:
    """Return the sizes that an Expand, or a Tile that is one, brings to what it reads."""
    if node.op_type == "Expand" and (asked := terms(input_of(node, 1))) is not None:
        return asked
    data, result = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    if result is None:
        return None
    if node.op_type == "Tile":
        if data is None:
            return None
        pairs = zip(data, result, strict=True)
        if not all(one == 1 or are_equal(one, other) for one, other in pairs):
            return None
    return list(map(Term.of, result))


def _cover(operands: Sequence[ir.Value | None], sizes: Sequence[Term | None]) -> bool:
    """Say whether one of the operands has each size, where it is not 1."""
    shapes = [shape for operand in operands if (shape := shape_of(operand)) is not None]
    known = [[*map(Term.of, reversed(shape.dims))] for shape in shapes]
    return any(len(own) >= len(sizes) for own in known) and all(
        size == Term(1) or (size is not None and any(size in own[axis : axis + 1] for own in known))
        for axis, size in enumerate(reversed(sizes))
    )
