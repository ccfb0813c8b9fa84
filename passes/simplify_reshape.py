"""Reshape to a constant shape where only one size is computed from the input's.

    Reshape(x; n(x), m(x), c) = Reshape(x; 0, 0, c)    n and m the sizes of x on the same axes
    Reshape(x; c, n(x), d) = Reshape(x; c, −1, d)      c and d the same for every input, not 0

Here 0 stands for the size of the data on the same axis; and a Reshape keeps the number of elements,
so that one size follows from the others.

Conditions: the sizes of the result follow from the graph, also that of a −1 where the sizes that
vary are the data's own; the shape is not constant yet.
With −1, no other size may be 0, also not for an empty batch, so that both forms are not mixed.

Profit: an operator or more less for each size. Exporters compute the sizes of a batch anew for each
Reshape, by a Shape, a Gather, an Unsqueeze and a Concat.

BITWISE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from bnfold.graph.constants import constant, is_constant
from bnfold.rewriting.contract import Exactness, Replace, Weight, rewrite, same_op
from bnfold.rewriting.query import input_of, int_attribute, is_op, shape_of

_Size: TypeAlias = int | ir.SymbolicDim


@rewrite("simplify-reshape", roots=["Reshape"], exactness=Exactness.BITWISE, refusals=[])
def simplify_reshape(node: ir.Node) -> Replace | None:
    """Replace the shape by a constant; return None if more of it depends on the input."""
    data, shape = input_of(node, 0), input_of(node, 1)
    if data is None or shape is None or is_constant(shape):
        return None
    result, own = shape_of(node.outputs[0]), shape_of(data)
    if result is None:
        return None
    told = list(result)
    if own is not None and _leaves_one_open(shape):
        told = _with_the_open_one_computed(told, list(own))
    sizes = None
    if own is not None and int_attribute(node, "allowzero", 0) == 0:
        sizes = _with_own_sizes(told, list(own))
    if sizes is None:
        sizes = _with_one_left_open(told)
    if sizes is None:
        return None
    target = Weight(np.array(sizes, np.int64), ir.DataType.INT64, f"{node.outputs[0].name}.shape")
    return Replace([node], {node.outputs[0]: same_op(node, [data, target])})


def _leaves_one_open(shape: ir.Value) -> bool:
    """Say whether a computed shape leaves a size open by a −1 among those that it joins."""
    join = shape.producer()
    if join is None or not is_op(join, "Concat"):
        return False
    contents = [constant(part) for part in join.inputs]
    return any(content is not None and -1 in content for content in contents)


def _with_the_open_one_computed(sizes: list[_Size], own: Sequence[_Size]) -> list[_Size]:
    """Fill in the only size that is not known, where others that vary are the data's, too.

    None of these is 0: onnxruntime then refuses the −1 that stands for the open one.
    """
    names = [size.value for size in own if not isinstance(size, int)]
    unknown = [
        axis
        for axis, size in enumerate(sizes)
        if not isinstance(size, int) and size.value not in names
    ]
    kept = [size.value for size in sizes if not isinstance(size, int) and size.value in names]
    if len(unknown) != 1 or None in names or sorted(map(str, kept)) != sorted(map(str, names)):
        return sizes
    count = math.prod(size for size in own if isinstance(size, int))
    others = math.prod(size for size in sizes if isinstance(size, int))
    if others == 0 or count % others:
        return sizes
    (axis,) = unknown
    return [*sizes[:axis], count // others, *sizes[axis + 1 :]]


def _with_one_left_open(sizes: Sequence[_Size]) -> list[int] | None:
    """Return the sizes with −1 for the only one that is not known, if there is none of 0."""
    told = [size if isinstance(size, int) else -1 for size in sizes]
    return told if told.count(-1) <= 1 and 0 not in told else None


def _with_own_sizes(sizes: Sequence[_Size], own: Sequence[_Size]) -> list[int] | None:
    """Return the sizes with 0 for those that the data has on the same axis, if that is all."""
    told = []
    for axis, size in enumerate(sizes):
        if isinstance(size, int) and size > 0:
            told.append(size)
        elif axis < len(own) and _are_the_same(size, own[axis]):
            told.append(0)
        else:
            return None
    return told


def _are_the_same(one: _Size, other: _Size) -> bool:
    if isinstance(one, int) or isinstance(other, int):
        return False
    return one.value is not None and one.value == other.value
