"""Chooses free sizes such that what is computed from several inputs fits together.

Where parallel Convs of several kernels read inputs that have been padded each for its own, these
have other sizes: equal ones would give results that cannot be concatenated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import onnx

from bnfold.proof.certificates.constant_folding import sizes_within, with_sizes
from bnfold.proof.certificates.sizes.reshaping import MOST_ELEMENTS, elements, free_axes, with_size
from bnfold.proof.certificates.sizes.sizing import Shapes, Sizing
from bnfold.proof.certificates.windows import POINTWISE, Window, ints

_JOINING = (POINTWISE | {"Concat", "Max", "Mean", "Min", "Sum", "Where"}) - {"BatchNormalization"}
"""Operators whose operands have the same sizes, but for sizes of 1 and the axis of a Concat."""

_MOST_CHANGES = 16

_LARGEST_STRIDE = 8
"""Of the strides at which a larger size is looked for."""


def with_joins_fitting(window: Window, sizing: Sizing) -> Sizing:
    """Return the choice with larger free sizes, at which operands of what is replaced fit together.

    As far as few sizes do.
    """
    if not _has_several_free(window):
        return sizing
    shapes = sizing.shapes
    for _ in range(_MOST_CHANGES):
        closed = (_closed(window, shapes, gap) for gap in _gaps(*_known(window, shapes)))
        larger = next((each for each in closed if each is not None), None)
        if larger is None:
            break
        shapes = larger
    return replace(sizing, shapes=shapes)


def _has_several_free(window: Window) -> bool:
    """Say whether several inputs have free sizes that may have to differ, or to be the same.

    The first aside, where all inputs have as many axes.
    """
    free = free_axes(window).values()
    ranks = {len(value.type.tensor_type.shape.dim) for value in window.inputs}
    return sum(any(axes.values()) if len(ranks) == 1 else bool(axes) for axes in free) > 1


class _Gap(NamedTuple):
    """A value that is too small for those beside it."""

    name: str
    axis: int
    size: int
    needed: int


def _known(window: Window, shapes: Shapes) -> tuple[onnx.ModelProto, Mapping[str, Sequence[int]]]:
    """Return what is replaced, and the sizes of what is within it."""
    model = with_sizes(window, shapes).before
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return model, {**constants, **sizes_within(model), **shapes}


def _gaps(model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]]) -> Iterator[_Gap]:
    """Yield the operands that are too small, as far as sizes are known; some may be spread."""
    for node in model.graph.node:
        operands = {name: sizes[name] for name in node.input if sizes.get(name)}
        if node.op_type not in _JOINING or not operands:
            continue
        ranks = {*map(len, operands.values())}
        rank = max(ranks)
        joined = ints(node, "axis", [1])[0] % rank if node.op_type == "Concat" else rank
        if joined < rank and len(ranks) > 1:
            continue
        for axis in (axis for axis in range(-rank, 0) if axis + rank != joined):
            aligned = {name: each[axis] for name, each in operands.items() if len(each) >= -axis}
            needed = max(aligned.values())
            for name, size in aligned.items():
                if size < needed:
                    yield _Gap(name, len(operands[name]) + axis, size, needed)


def _closed(window: Window, shapes: Shapes, gap: _Gap) -> Shapes | None:
    """Return the shapes with a larger input, at which a value is as large as it is to be."""
    free = free_axes(window)
    for source in free:
        for symbol in (symbol for symbol, axis in free[source].items() if axis == gap.axis):
            for stride in range(1, _LARGEST_STRIDE + 1):
                size = shapes[source][gap.axis] + stride * (gap.needed - gap.size)
                larger = with_size(shapes, free, symbol, size)
                found = _known(window, larger)[1].get(gap.name)
                if found is not None and found[gap.axis] == gap.needed:
                    return larger if elements(larger) <= MOST_ELEMENTS else None
    return None
