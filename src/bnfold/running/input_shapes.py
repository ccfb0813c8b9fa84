"""The shapes of inputs to try: sizes for the dimensions that are free."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from bnfold.options import InputOptions
from bnfold.running.runtime import Feeds, ValueSpec

ODD_SIZES = (47, 33)
"""Sizes that reveal errors at borders which even sizes hide."""


def candidate_shapes(
    specs: Sequence[ValueSpec],
    given: Feeds,
    request: InputOptions,
    *,
    batch_first: bool = True,
    spread: bool = False,
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Yield shapes to try. Dimensions of one name have one size.

    The first axis is the batch; or, unless it comes first, the first free axis, as in the states of
    an LSTM.

    If they are to `spread`, the first shapes have another size for each free dimension in turn, so
    that a model which takes one for another gives something else.
    """
    if not batch_first and not any(map(_first_free_axis, specs)):
        return  # as if it came first
    requested = request.shapes
    seen = []
    fixed: dict[str, int] = {}
    for spec in specs:
        known = given[spec.name].shape if spec.name in given else requested.get(spec.name)
        if known is not None:
            fixed |= {
                name: size
                for name, size in zip(spec.shape, known, strict=False)
                if isinstance(name, str)
            }
    images = [None] if request.image_size is None else [request.image_size, None]
    # Old exporters give all free dimensions one name, such as "?". So names come first, then not.
    others: list[tuple[int, ...]] = [(size,) for size in request.other_sizes]
    if spread:
        others = [ODD_SIZES, ODD_SIZES[::-1], *others]
    for shared, image, in_turn in itertools.product((True, False), images, others):
        for batch in request.batch_sizes:
            sizes = dict(fixed)
            shapes = {}
            other = itertools.cycle(in_turn)
            for spec in specs:
                if spec.name in given:
                    shapes[spec.name] = given[spec.name].shape
                elif spec.name in requested:
                    shapes[spec.name] = tuple(requested[spec.name])
                else:
                    names = sizes if shared else None
                    batch_axis = 0 if batch_first else _first_free_axis(spec)
                    shapes[spec.name] = _fill(spec, names, batch, batch_axis, other, image)
            if shapes not in seen:
                seen.append(shapes)
                yield shapes


def _fill(
    spec: ValueSpec,
    sizes: dict[str, int] | None,
    batch: int,
    batch_axis: int,
    others: Iterator[int],
    image: int | None,
) -> tuple[int, ...]:
    filled = []
    for axis, size in enumerate(spec.shape):
        if isinstance(size, int):
            filled.append(size)
        elif isinstance(size, str) and sizes is not None and size in sizes:
            filled.append(sizes[size])
        else:
            is_batch = axis == batch_axis
            filled.append(batch if is_batch else _free_size(axis, len(spec.shape), others, image))
            if isinstance(size, str) and sizes is not None:
                sizes[size] = filled[-1]
    return tuple(filled)


def _first_free_axis(spec: ValueSpec) -> int:
    return next((axis for axis, size in enumerate(spec.shape) if not isinstance(size, int)), 0)


def _free_size(axis: int, rank: int, others: Iterator[int], image: int | None) -> int:
    if rank == 4 and axis == 1:
        return 3
    return (rank == 4 and image) or next(others)
