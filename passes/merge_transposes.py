"""Transpose once instead of twice.

    Transpose(Transpose(x; p); q) = Transpose(x; p∘q)        (p∘q)ᵢ = p_{qᵢ}

Conditions: only Transposes read the result in between, 8 at most. If p∘q leaves all axes where they
are, the result is x itself, whatever else reads the one in between.

Profit: one copy less. Networks converted between layouts transpose back and forth.

BITWISE.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.algebra.permuting import order_of
from bnfold.rewriting.contract import Exactness, Op, Replace, rewrite
from bnfold.rewriting.query import (
    input_of,
    may_take_over,
    producer,
    readers_alike,
)


@rewrite("merge-transposes", roots=["Transpose"], exactness=Exactness.BITWISE, refusals=[])
def merge_transposes(node: ir.Node) -> Replace | None:
    """Compose a Transpose with the one whose result it reads."""
    first = producer(node, 0, "Transpose")
    data = input_of(first, 0) if first is not None else None
    if first is None or data is None:
        return None
    inner, outer = order_of(first), order_of(node)
    if inner is None or outer is None or sorted(inner) != sorted(outer):
        return None
    order = [inner[axis] for axis in outer]
    result = node.outputs[0]
    if order == sorted(order) and may_take_over(data, result):
        return Replace([first, node], {result: data})
    if not readers_alike(first.outputs[0], "Transpose"):
        return None
    whole = Op("Transpose", [data], [ir.AttrInt64s("perm", order)], node)
    return Replace([first, node], {result: whole})
