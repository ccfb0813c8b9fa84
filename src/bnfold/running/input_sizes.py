"""Further shapes of inputs, at which a model may do something else than at the first ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bnfold.errors import SessionError
from bnfold.options import InputOptions
from bnfold.running.input_shapes import ODD_SIZES, candidate_shapes
from bnfold.running.inputs import Inputs
from bnfold.running.runtime import Session, ValueSpec

_OTHER_SIZES_TO_TRY = 6

_CUTS_TO_TRY = 4

_THRESHOLDS_TO_TRY = 4

_LARGER_BATCH = 3

_LARGE_BATCH = 17

_MANY = 2**20
"""Elements of all inputs beyond which an axis is not made several times as long as it must be."""

_SMALL = 4096
"""Elements of one input up to which `_LARGE_BATCH` costs nothing."""


Shapes = Mapping[str, tuple[int, ...]]


def other_shapes(
    session: Session, first: Inputs, request: InputOptions
) -> tuple[list[Shapes], int]:
    """Return the first shapes and others that the model accepts, and how many need more samples."""
    shapes = list(first.shapes)
    more = replace(
        request,
        batch_sizes=(_larger_batch(first), _LARGER_BATCH, *request.batch_sizes),
        other_sizes=(*ODD_SIZES, *request.other_sizes),
    )
    for batch_first in (True, False):
        spread = candidate_shapes(
            first.specs, first.given[0], more, batch_first=batch_first, spread=True
        )
        if len(shapes) == 1:
            shapes += _another_size(session, first, spread)
    free = {spec.name for spec in first.specs} - first.given[0].keys() - request.shapes.keys()
    special = _beyond_cuts(session, first, free)
    special += _around_thresholds(session, first, free, [*shapes, *special])
    shapes += special
    shapes += _batch_of_one(session, first, free, shapes)
    return shapes, len(special)


def _larger_batch(first: Inputs) -> int:
    """Return a larger batch: of a small input, one that gives each channel enough values."""
    elements = max((math.prod(shape[1:]) for shape in first.shapes[0].values()), default=0)
    return _LARGER_BATCH if elements > _SMALL else _LARGE_BATCH


def _another_size(session: Session, first: Inputs, candidates: Iterable[Shapes]) -> list[Shapes]:
    """Return the most different shapes that the model accepts, in a list; empty if none."""
    used = first.shapes[0]

    def same_sizes(shapes: Shapes) -> int:
        pairs = (zip(shapes[name], used[name], strict=True) for name in used)
        return sum(one == other for sizes in pairs for one, other in sizes)

    others = sorted((shapes for shapes in candidates if shapes != used), key=same_sizes)
    for shapes in others[:_OTHER_SIZES_TO_TRY]:
        try:
            session.run(next(replace(first, shapes=[shapes]).feeds()))
        except SessionError:
            continue
        return [shapes]
    return []


def _beyond_cuts(session: Session, first: Inputs, free: Collection[str]) -> list[Shapes]:
    """Return shapes, if the model accepts any, that are longer than where a Slice cuts an axis off.

    The Slice may come after a few strides. So the axis is made several times as long, alone, unless
    that takes long. What is longer than one cut is longer than a smaller one, too.
    """
    found: list[Shapes] = []
    cuts = sorted(first.hints.cuts[:_CUTS_TO_TRY], key=lambda cut: -cut[1])
    for axis, end in cuts:
        if any(shape[axis] > end for shapes in found for shape in _having(shapes, axis)):
            continue
        across = sum(
            math.prod(shape[:axis]) * math.prod(shape[axis + 1 :])
            for shape in _having(first.shapes[0], axis)
        )
        longer = (
            end * times + more
            for times in (8, 2, 1)
            for more in (7, 32)
            if times == 1 or (end * times + more) * across <= _MANY
        )
        found += itertools.islice(_of_sizes(session, first, free, axis, longer), 1)
    return found


def _having(shapes: Shapes, axis: int) -> list[tuple[int, ...]]:
    """Return the shapes that have this axis."""
    return [shape for shape in shapes.values() if axis < len(shape)]


def _around_thresholds(
    session: Session, first: Inputs, free: Collection[str], used: Sequence[Shapes]
) -> list[Shapes]:
    """Return shapes of the sizes that the model compares a size with, one less and one more.

    If it accepts them, and no shape is so yet on that side.
    """
    found: list[Shapes] = []
    for name, axis, size in first.hints.thresholds[:_THRESHOLDS_TO_TRY]:
        tried = {shapes[name][axis] for shapes in (*used, *found) if axis < len(shapes[name])}
        missing = [
            each
            for each, is_there in (
                (size - 1, any(other < size for other in tried)),
                (size, size in tried),
                (size + 1, any(other > size for other in tried)),
            )
            if each > 0 and not is_there
        ]
        found += _of_sizes(session, first, free, axis, missing)
    return found


def _of_sizes(
    session: Session, first: Inputs, free: Collection[str], axis: int, sizes: Iterable[int]
) -> Iterator[Shapes]:
    """Yield the first shapes with other sizes of an axis, where it is free and they are accepted.

    All inputs get the same size.
    """
    names = {
        spec.name
        for spec in first.specs
        if axis < len(spec.shape) and not isinstance(spec.shape[axis], int) and spec.name in free
    }
    for size in sizes if names else ():
        shapes = {
            name: (*shape[:axis], size, *shape[axis + 1 :]) if name in names else shape
            for name, shape in first.shapes[0].items()
        }
        if accepts(session, replace(first, shapes=[shapes]), sample=0):
            yield shapes


def _batch_of_one(
    session: Session, first: Inputs, free: Collection[str], shapes: Sequence[Shapes]
) -> list[Shapes]:
    """Return shapes with a batch of one, if the model accepts them and none is so yet.

    They are the second ones with their last two sizes exchanged, or else the first ones.
    """
    names = {
        spec.name
        for spec in first.specs
        if spec.shape and not isinstance(spec.shape[0], int) and spec.name in free
    }
    if not names or any(shape[name][0] == 1 for shape in shapes for name in names if shape[name]):
        return []
    second = shapes[min(1, len(shapes) - 1)]
    exchanged = {
        spec.name: _exchanged(spec, second[spec.name]) if spec.name in names else second[spec.name]
        for spec in first.specs
    }
    for chosen in (exchanged, shapes[0]):
        single = {
            name: (1, *shape[1:]) if name in names and shape else shape
            for name, shape in chosen.items()
        }
        if accepts(session, replace(first, shapes=[single]), sample=0):
            return [single]
    return []


def _exchanged(spec: ValueSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape with its last two sizes exchanged, if both are free and no batch."""
    are_free = len(shape) > 2 and not any(isinstance(size, int) for size in spec.shape[-2:])
    return (*shape[:-2], shape[-1], shape[-2]) if are_free else shape


def accepts(session: Session, inputs: Inputs, sample: int, *, finite: bool = False) -> bool:
    """Say whether the model accepts a sample and, if wanted, gives only finite numbers."""
    try:
        results = session.run(inputs.sample(sample))
    except SessionError:
        return False
    arrays = [each for each in results.values() if isinstance(each, np.ndarray)]
    numbers = [each for each in arrays if each.dtype.kind == "f"]
    return not finite or all(np.isfinite(each).all() for each in numbers)
