"""Choose at once what a Where chooses for every input.

    Where(true; x, y) = x        Where(false; x, y) = y        Where(¬c; x, y) = Where(c; y, x)
    Where([m, n]; k, Concat(a, b)) = Concat(Where(m; k, a), Where(n; k, b))

in the last line for a constant condition [m, n] and constants k, where each part is chosen as a
whole or is constant itself; the constants may also be the second choice.

Conditions: the condition is constant, or the result of a Not that nothing else reads; what is
chosen has the shape of the result. The Concat is of vectors whose sizes are known.

Profit: an operator less, and what the condition is computed from. For each `expand`, torch's
TorchScript exporter replaces what is −1 in a vector of sizes.

BITWISE.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array
from bnfold.graph.constants import constant
from bnfold.graph.shapes import have_equal_shapes
from bnfold.rewriting.contract import Exactness, Operand, Replace, Weight, rewrite, same_op
from bnfold.rewriting.query import (
    may_take_over,
    producer,
    shape_of,
    size_of,
    sole_use,
)

_INPUTS = 3


@rewrite("simplify-where", roots=["Where"], exactness=Exactness.BITWISE, refusals=[])
def simplify_where(node: ir.Node) -> Replace | None:
    """Replace a Where by what it chooses, or let it do without a Not."""
    condition, *choices = node.inputs
    content = constant(condition)
    if content is None:
        negation = producer(node, 0, "Not")
        if negation is None or not sole_use(negation.outputs[0]):
            return None
        swapped = same_op(node, [negation.inputs[0], *reversed(choices)])
        return Replace([negation, node], {node.outputs[0]: swapped})
    chosen = {choices[0 if is_true else 1] for is_true in np.unique(content)}
    (whole,) = chosen if len(chosen) == 1 else (None,)
    if whole is not None and have_equal_shapes(whole, node.outputs[0]):
        if not may_take_over(whole, node.outputs[0]):
            return None
        return Replace([node], {node.outputs[0]: whole})
    return _of_parts(node, content)


def _of_parts(node: ir.Node, condition: Array) -> Replace | None:
    """Choose among the parts of a Concat of vectors, and numbers."""
    for place in (1, 2):
        join, other = producer(node, place, "Concat"), node.inputs[_INPUTS - place]
        result = node.outputs[0]
        if join is None or not have_equal_shapes(join.outputs[0], result):
            continue
        count, numbers = size_of(result, 0), constant(other)
        shape = shape_of(result)
        if count is None or numbers is None or shape is None or shape.rank() != 1:
            continue
        kept = np.broadcast_to(condition if place == 1 else ~condition, (count,))
        parts = _parts(join.inputs, kept, np.broadcast_to(numbers, (count,)), result)
        if parts is not None:
            return Replace([join, node], {result: same_op(join, parts)})
    return None


def _parts(
    operands: Sequence[ir.Value | None], kept: Array, numbers: Array, result: ir.Value
) -> Sequence[Operand] | None:
    """Return the operands of a Concat, with numbers for those that are not kept."""
    parts: list[Operand] = []
    start = 0
    for value in operands:
        count = size_of(value, 0)
        if value is None or count is None:
            return None
        place = slice(start, start + count)
        start += count
        content = constant(value)
        if kept[place].all():
            parts.append(value)
            continue
        if content is None and kept[place].any():
            return None
        chosen = (
            numbers[place] if content is None else np.where(kept[place], content, numbers[place])
        )
        parts.append(Weight(chosen, ir.DataType.from_numpy(chosen.dtype), f"{result.name}.part"))
    return parts
