"""Reshape once instead of twice.

    Reshape(Reshape(x; s); t) = Reshape(x; t)

Flatten, Squeeze and Unsqueeze are Reshapes, too, and so are a Transpose that moves only axes of
size 1, and a mean or sum over such axes: all keep the elements in their order.

Conditions: only Reshapes read the result in between, 8 at most, and each can read x instead. If
the whole has the shape of x, it is x, whatever else reads the result in between. Else its shape can
be written as a constant, in which 0 stands for a size of x on the same axis, or one −1 for a size
that follows from the others, none of which may be 0 then.

Profit: an operator less, and one copy less for runtimes that copy. Exports for sequences of one
step, or images of one row, transpose axes of size 1 between Reshapes.

BITWISE.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.algebra.reshapes import constant_target, keeps_order
from bnfold.graph.constants import constant
from bnfold.graph.shapes import have_equal_shapes
from bnfold.rewriting.contract import Exactness, Op, Replace, Weight, rewrite
from bnfold.rewriting.query import (
    input_of,
    is_op,
    may_take_over,
    opset,
    producer,
    readers_alike,
    shape_of,
)

_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_REDUCTIONS = ("ReduceMean", "ReduceSum")
_ROOTS = (*_RESHAPES, *_REDUCTIONS, "Transpose")


@rewrite("merge-reshapes", roots=_ROOTS, exactness=Exactness.BITWISE, refusals=[])
def merge_reshapes(node: ir.Node) -> Replace | None:
    """Let the second of two Reshapes read what the first one reads.

    Two Transposes are merge-transposes'.
    """
    first = producer(node, 0) if opset(node) >= 5 else None
    data = input_of(first, 0) if first is not None else None
    if first is None or data is None or not _only_reshapes(first):
        return None
    result = node.outputs[0]
    is_undone = have_equal_shapes(data, result) and _only_reshapes(node)
    if is_undone and may_take_over(data, result):
        return Replace((first, node), {result: data})
    readers = readers_alike(first.outputs[0], *_ROOTS)
    sizes = {reader: _target(data, first, reader) for reader in readers}
    own = sizes.get(node)
    if own is None or None in sizes.values():
        return None
    target = Weight.of_integers(own, f"{result.name}.shape")
    return Replace((first, node), {result: Op("Reshape", [data, target], (), node)})


def _target(data: ir.Value, *pair: ir.Node) -> list[int] | None:
    """Return the shape that two Reshapes together give, if they are such and it is constant."""
    if not any(is_op(node, *_RESHAPES) for node in pair) or not all(map(_only_reshapes, pair)):
        return None
    return constant_target(
        data,
        pair[1].outputs[0],
        leaves_one_open=any(map(_leaves_one_open, pair)),
        copies_sizes=True,
    )


def _only_reshapes(node: ir.Node) -> bool:
    if is_op(node, "Transpose"):
        return keeps_order(node)
    return is_op(node, *_RESHAPES) or (is_op(node, *_REDUCTIONS) and _reduces_only_ones(node))


def _reduces_only_ones(node: ir.Node) -> bool:
    """Say whether all axes that a reduction takes away are of size 1, so that the rest stays."""
    before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    if before is None or after is None or before.rank() == after.rank():
        return False  # strip-identity removes one that keeps the axes
    kept = [_name(size) for size in before if size != 1]
    return None not in kept and kept == [_name(size) for size in after if size != 1]


def _name(size: int | ir.SymbolicDim) -> int | str | None:
    return size if isinstance(size, int) else size.value


def _leaves_one_open(node: ir.Node) -> bool:
    """Say whether a Reshape to a constant shape finds out a size, as no data without elements has.

    A Reshape that copies zeros and leaves a size open fails for these.
    """
    shape = constant(input_of(node, 1)) if is_op(node, "Reshape") else None
    return shape is not None and -1 in shape and 0 in shape
