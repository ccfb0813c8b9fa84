"""Shapes that a Reshape can have as a constant, and Transposes that only reshape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import onnx_ir as ir

from bnfold.algebra.permuting import order_of
from bnfold.graph.shapes import are_equal, rank_of, shape_of, size_of
from bnfold.graph.size_terms import Term, terms

_Size: TypeAlias = int | ir.SymbolicDim


def constant_target(
    data: ir.Value, result: ir.Value, *, leaves_one_open: bool, copies_sizes: bool
) -> list[int] | None:
    """Return the constant shape by which a Reshape of `data` has the shape of `result`.

    0 stands for a size of the data on the same axis, which `copies_sizes` allows, and -1 for the
    only size that is not known. `leaves_one_open` says that some -1 already makes onnxruntime
    refuse data without elements. None if more than one size remains.
    """
    after, before = shape_of(result), shape_of(data)
    if after is None:
        return None
    told, own = list(after), list(before) if before is not None else []
    if leaves_one_open:
        told = _with_the_open_one_computed(told, own)
    with_own_sizes = _with_own_sizes(told, own) if copies_sizes else None
    return with_own_sizes or _with_one_left_open(told)


def target_that_copies(data: ir.Value, shape: ir.Value) -> list[int] | None:
    """Return a computed shape with 0 for each size of `data` on its axis; None if more is computed.

    Numbers stay, also a −1: whatever is reshaped, both shapes say the same.
    """
    asked, own = terms(shape), shape_of(data)
    if asked is None or own is None:
        return None
    sizes = [Term.of(size) for size in own]
    copied = [term.size is not None and sizes[i : i + 1] == [term] for i, term in enumerate(asked)]
    if not all(is_own or term.size is None for is_own, term in zip(copied, asked, strict=True)):
        return None
    return [0 if is_own else term.factor for is_own, term in zip(copied, asked, strict=True)]


def keeps_order(transpose: ir.Node) -> bool:
    """Say whether a Transpose leaves the axes that are not of size 1 in their order."""
    data = transpose.inputs[0]
    order = order_of(transpose)
    if order is None or rank_of(data) is None:
        return False
    moved = [axis for axis in order if size_of(data, axis) != 1]
    return moved == sorted(moved)


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
        elif not isinstance(size, int) and axis < len(own) and are_equal(size, own[axis]):
            told.append(0)
        else:
            return None
    return told
