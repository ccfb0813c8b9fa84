"""Rows in an order that ties leave open, as NonMaxSuppression, TopK and sorting give them.

Where two scores are equal up to rounding, which comes first is decided by the last bit. So the
outputs are compared as sets of rows: each row of the other model is matched with the row of the
original that it equals in every output. Only a tie excuses another order. There is one where the
original itself changes a row when its inputs move by their last bit; or where the rows of an output
with one number each, the scores, are equal within their tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from bnfold.arrays import Array, FloatArray
from bnfold.proof.noise import distance


def matched(
    original: Mapping[str, Array],
    other: Mapping[str, Array],
    allowed: Mapping[str, FloatArray],
    draws: Sequence[Mapping[str, Array]] = (),
    *,
    any_order: bool = False,
) -> tuple[dict[str, Array], dict[str, int]]:
    """Return the other model's outputs with rows in the original's order, and how many moved.

    Outputs whose rows are counted by the same leading axes are matched together: boxes with their
    scores and classes. Where a row has no match, all stay where they are, and are compared there.

    Args:
        original: what the original gives, those outputs alone whose order may be open.
        other: what the other model gives.
        allowed: what each element may be off by, in the original's order; it broadcasts.
        draws: what the original gives with changes that mean nothing.
        any_order: whether any order is as good as another, ties or not: the other model is the
            original itself.
    """
    result, exchanged = dict(other), dict.fromkeys(original, 0)
    for axis in (0, 1):
        groups: dict[tuple[int, ...], list[str]] = {}
        for name, values in original.items():
            if values.ndim > axis and values.shape == result[name].shape:
                groups.setdefault(values.shape[: axis + 1], []).append(name)
        for leading, names in groups.items():
            for batch in np.ndindex(*leading[:-1]):
                rows = [_rows(original[name][batch], result[name][batch]) for name in names]
                limits = [
                    np.broadcast_to(allowed[name], original[name].shape)[batch].reshape(each.shape)
                    for name, (each, _) in zip(names, rows, strict=True)
                ]
                drawn = [
                    [draw[name][batch] for name in names]
                    for draw in draws
                    if all(draw[name].shape == original[name].shape for name in names)
                ]
                is_open = _open(rows, limits, drawn) | any_order
                order = _order(rows, limits, is_open)
                moved = int(np.count_nonzero(order != np.arange(leading[-1])))
                for name in names if moved else ():
                    changed = result[name].copy()
                    changed[batch] = result[name][batch][order]
                    result[name] = changed
                    exchanged[name] += moved
    return result, exchanged


def _rows(original: Array, other: Array) -> tuple[Array, Array]:
    shape = len(original), math.prod(original.shape[1:])
    return original.reshape(shape), other.reshape(shape)


def _open(
    rows: Sequence[tuple[Array, Array]],
    limits: Sequence[FloatArray],
    draws: Sequence[Sequence[Array]],
) -> Array:
    """Say of each row whether the original itself has another one there in a draw."""
    found = np.zeros(len(limits[0]), np.bool_)
    for draw in draws:
        for (original, _), limit, drawn in zip(rows, limits, draw, strict=True):
            found |= ~_within(original, drawn.reshape(original.shape), limit)
    return found


def _order(
    rows: Sequence[tuple[Array, Array]], limits: Sequence[FloatArray], is_open: Array
) -> Array:
    """Return which row of the other model takes each place; as they are if one has no match."""
    count = len(limits[0])
    as_they_are = np.arange(count)
    same = np.ones(count, np.bool_)
    for (original, other), limit in zip(rows, limits, strict=True):
        same &= _within(original, other, limit)
    free = [int(row) for row in np.flatnonzero(~same)]
    order = as_they_are.copy()
    for row in list(free):
        fits = np.ones(len(free), np.bool_)
        for (original, other), limit in zip(rows, limits, strict=True):
            here = np.broadcast_to(original[row], (len(free), original.shape[1]))
            fits &= _within(here, other[free], limit[row])
        fits &= _ties(row, free, rows, limits) | (is_open[row] & is_open[free])
        candidates = [place for place, fit in zip(free, fits, strict=True) if fit]
        if not candidates:
            return as_they_are
        nearest = min(candidates, key=lambda place: abs(place - row))
        order[row] = nearest
        free.remove(nearest)
    return order


def _ties(
    row: int,
    places: Sequence[int],
    rows: Sequence[tuple[Array, Array]],
    limits: Sequence[FloatArray],
) -> Array:
    """Say of each place whether the original has a float there, one by row, that equals the row's.

    That is, within what both may be off by.
    """
    ties = np.zeros(len(places), np.bool_)
    for (original, _), limit in zip(rows, limits, strict=True):
        if original.dtype.kind == "f" and original.shape[1] == 1:
            here = np.broadcast_to(original[row], (len(places), 1))
            ties |= _within(here, original[places], limit[row] + limit[places])
    return ties


def _within(original: Array, other: Array, limit: FloatArray) -> Array:
    """Say of each row whether all of its elements are within the limit."""
    if original.dtype.kind in "fiu":
        near = distance(original, other) <= limit
    else:
        near = np.asarray(original == other)
    return np.asarray(near.all(axis=1))
