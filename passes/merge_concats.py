"""Concatenate once instead of twice.

    Concat(a, Concat(b, c), d) = Concat(a, b, c, d)        along one axis

Concats in each other, at any depth, become one.

Conditions: an inner Concat is read by Concats along its axis alone, all in its graph. Where it is
read more than once, that is at most 8 times, and the whole has 256 operands at most.

Profit: an operator and a copy less. Exporters concatenate shapes piece by piece, and networks what
branches of branches compute.

BITWISE.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.rewriting.contract import Exactness, Replace, rewrite, same_op
from bnfold.rewriting.query import int_attribute, is_op, producer, rank_of, sole_use

_MOST_READS = 8
_MOST_OPERANDS = 256
"""Where Concats are read twice, each level of them may double the number of operands."""


@rewrite("merge-concats", roots=["Concat"], exactness=Exactness.BITWISE, refusals=[])
def merge_concats(node: ir.Node) -> Replace | None:
    """Let a Concat read what the Concats read whose results it reads.

    Return None if another Concat takes over the operands of this one, so that each of a long row is
    visited once.
    """
    result = node.outputs[0]
    if sole_use(result) and _is_merged(node):
        return None
    merged: dict[ir.Node, None] = {}
    operands: list[ir.Value | None] = []
    pending = [(node, index) for index in reversed(range(len(node.inputs)))]
    while pending:
        reader, index = pending.pop()
        inner = producer(reader, index, "Concat")
        if inner is not None and _is_merged(inner):
            count = len(operands) + len(pending) + len(inner.inputs)
            if sole_use(inner.outputs[0]) or count <= _MOST_OPERANDS:
                merged.pop(inner, None)  # so that it comes after each of its readers
                merged[inner] = None
                pending += [(inner, place) for place in reversed(range(len(inner.inputs)))]
                continue
        operands.append(reader.inputs[index])
    if not merged:
        return None
    detail = f"{len(merged) + 1} Concats into one"
    return Replace([*reversed(merged), node], {result: same_op(node, operands)}, detail)


def _is_merged(inner: ir.Node) -> bool:
    """Say whether a Concat may be merged into each node that reads it."""
    value = inner.outputs[0]
    uses = value.uses()
    return (
        len(uses) <= _MOST_READS
        and not value.is_graph_output()
        and all(use.node.graph is inner.graph and _are_alike(use.node, inner) for use in uses)
    )


def _are_alike(reader: ir.Node, inner: ir.Node) -> bool:
    """Say whether a reader of a Concat is one along the same axis, of as many."""
    if not is_op(reader, "Concat"):
        return False
    difference = int_attribute(reader, "axis", 1) - int_attribute(inner, "axis", 1)
    rank = rank_of(inner.outputs[0])
    return difference == 0 or (rank is not None and difference in (rank, -rank))
