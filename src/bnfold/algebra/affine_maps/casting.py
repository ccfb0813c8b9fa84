"""Between which float types a map may move: never to one that cannot hold what it computes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import Affine
from bnfold.arrays import float_limits
from bnfold.rewriting.query import is_op

CASTS = ("Cast", "CastLike")

_HELD: Mapping[ir.DataType | None, frozenset[ir.DataType]] = {
    each: frozenset({each, *narrower})
    for each, narrower in {
        ir.DataType.FLOAT16: (),
        ir.DataType.BFLOAT16: (),
        ir.DataType.FLOAT: (ir.DataType.FLOAT16, ir.DataType.BFLOAT16),
        ir.DataType.DOUBLE: (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT),
    }.items()
}
"""Float types by those that have all of their numbers."""


def is_float(dtype: ir.DataType | None) -> bool:
    """Say whether a type is a float of at least two bytes."""
    return dtype in _HELD


def holds(dtype: ir.DataType | None, other: ir.DataType | None) -> bool:
    """Say whether a float type has all numbers of another one."""
    return other in _HELD.get(dtype, ())


def widens(cast: ir.Node) -> bool:
    """Say whether a Cast of floats is to a type that has all numbers of the one before."""
    data = cast.inputs[0]
    return data is not None and holds(cast.outputs[0].dtype, data.dtype)


def stays_in_range(affine: Affine, cast: ir.Node) -> bool:
    """Say whether s·x + t has the range of the type of a Cast, to one step, for all x that have."""
    dtype = cast.outputs[0].dtype
    if dtype is None:
        return False
    limits = float_limits(dtype.numpy())
    largest = float(limits.max)
    grown = np.abs(affine.scale) * largest + np.abs(affine.shift)
    return bool((grown <= largest * (1 + float(limits.eps))).all())


def type_kept_of(value: ir.Value) -> ir.DataType | None:
    """Return the type to which all that reads a value narrows it, else its own."""
    uses = value.uses()
    types = {use.node.outputs[0].dtype if is_op(use.node, *CASTS) else None for use in uses}
    only = types.pop() if len(types) == 1 and not value.is_graph_output() else None
    return only if holds(value.dtype, only) else value.dtype


def widening_before(value: ir.Value | None) -> ir.Node | None:
    """Return the Cast that has widened a value, if any."""
    node = value.producer() if value is not None else None
    if value is None or node is None or not is_op(node, *CASTS):
        return None
    source = node.inputs[0]
    if source is None or source.dtype == value.dtype or not holds(value.dtype, source.dtype):
        return None
    return node
