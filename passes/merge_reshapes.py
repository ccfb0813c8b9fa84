"""Reshape once instead of twice.

    Reshape(Reshape(x; s); t) = Reshape(x; t)

Flatten, Squeeze and Unsqueeze are Reshapes, too, and so is a Transpose that moves only axes of
size 1: all keep the elements in their order.

Conditions: nothing else reads the result in between; the shape of the whole can be written as a
constant, in which 0 stands for a size of x on the same axis, or one −1 for a size that follows from
the others, none of which may be 0 then.

Profit: an operator less, and one copy less for runtimes that copy. Exports for sequences of one
step, or images of one row, transpose axes of size 1 between Reshapes.

BITWISE.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnfold.algebra.reshapes import constant_target, keeps_order
from bnfold.graph.constants import constant
from bnfold.rewriting.contract import Exactness, Op, Replace, Weight, rewrite
from bnfold.rewriting.query import input_of, is_op, opset, producer, sole_use

_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


@rewrite(
    "merge-reshapes", roots=[*_RESHAPES, "Transpose"], exactness=Exactness.BITWISE, refusals=[]
)
def merge_reshapes(node: ir.Node) -> Replace | None:
    """Let the second of two Reshapes read what the first one reads.

    Two Transposes are merge-transposes'.
    """
    first = producer(node, 0) if opset(node) >= 5 else None
    data = input_of(first, 0) if first is not None else None
    if first is None or data is None or not sole_use(first.outputs[0]):
        return None
    pair = (first, node)
    if not any(is_op(each, *_RESHAPES) for each in pair) or not all(map(_only_reshapes, pair)):
        return None
    result = node.outputs[0]
    sizes = constant_target(
        data, result, leaves_one_open=any(map(_leaves_one_open, pair)), copies_sizes=True
    )
    if sizes is None:
        return None
    target = Weight(np.array(sizes, np.int64), ir.DataType.INT64, f"{result.name}.shape")
    return Replace(pair, {result: Op("Reshape", [data, target], (), node)})


def _only_reshapes(node: ir.Node) -> bool:
    return is_op(node, *_RESHAPES) or (is_op(node, "Transpose") and keeps_order(node))


def _leaves_one_open(node: ir.Node) -> bool:
    """Say whether a Reshape to a constant shape finds out a size, as no data without elements has.

    A Reshape that copies zeros and leaves a size open fails for these.
    """
    shape = constant(input_of(node, 1)) if is_op(node, "Reshape") else None
    return shape is not None and -1 in shape and 0 in shape
