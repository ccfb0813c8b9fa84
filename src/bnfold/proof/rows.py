"""Rows in an order that ties leave open, as NonMaxSuppression, TopK and sorting give them.

Where two scores are equal up to rounding, which comes first is decided by the last bit, and of the
last ones, which is kept. So the outputs are compared as sets of rows: each row of the other model
is matched with the row of the original that it equals in every output. Only a tie excuses another
order. There is one where the original itself changes a row when its inputs move by their last bit;
or where the rows of an output with one number each, the scores, are equal within their tolerance.
A row that the original does not have is excused if the original has it in a draw of its noise; and
one that the other model does not have, if a draw has not, either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bnfold.arrays import Array, FloatArray
from bnfold.proof.noise import distance

_MOST_REPLACED = 0.5
"""Where more rows than this share have no match, they are no longer those of the original."""

_LOOSE = 30.0
"""In a draw of its noise, a row that is off by so many times its tolerance is the same row."""


@dataclass(frozen=True)
class Matched:
    """The outputs of the other model, in the order of the original."""

    outputs: dict[str, Array]
    exchanged: dict[str, int]
    """By output, how many rows changed places."""
    replaced: dict[str, int]
    """By output, how many rows there are others for in draws of the original, too. The original's
    own are in their place."""


def matched(
    original: Mapping[str, Array],
    other: Mapping[str, Array],
    allowed: Mapping[str, FloatArray],
    draws: Sequence[Mapping[str, Array]] = (),
    *,
    any_order: bool = False,
) -> Matched:
    """Return the other model's outputs with rows in the original's order, and how many moved.

    Outputs whose rows are counted by the same leading axes are matched together: boxes with their
    scores and classes. Where a row has no match that is excused, all stay where they are, and are
    compared there.

    Args:
        original: what the original gives, those outputs alone whose order may be open.
        other: what the other model gives.
        allowed: what each element may be off by, in the original's order; it broadcasts.
        draws: what the original gives with changes that mean nothing.
        any_order: whether any order is as good as another, ties or not, and any row as another: the
            other model is the original itself.
    """
    result = dict(other)
    exchanged, replaced = dict.fromkeys(original, 0), dict.fromkeys(original, 0)
    for axis in (0, 1):
        groups: dict[tuple[int, ...], list[str]] = {}
        for name, values in original.items():
            if values.ndim > axis and _are_rows(values, result[name], axis):
                sizes = *values.shape[: axis + 1], result[name].shape[axis]
                groups.setdefault(sizes, []).append(name)
        for sizes, names in groups.items():
            for batch in np.ndindex(*sizes[:axis]):
                rows = [_rows(original[name][batch], result[name][batch]) for name in names]
                limits = [
                    np.broadcast_to(allowed[name], original[name].shape)[batch].reshape(each.shape)
                    for name, (each, _) in zip(names, rows, strict=True)
                ]
                drawn = [
                    [_flat(draw[name][batch]) for name in names]
                    for draw in draws
                    if all(_are_rows(original[name], draw[name], axis) for name in names)
                    and len({draw[name].shape[axis] for name in names}) == 1
                ]
                order = _order(rows, limits, drawn, any_order=any_order)
                if order is None:
                    continue
                is_left = order < 0
                moved = int(np.count_nonzero(~is_left & (order != np.arange(len(order)))))
                if sizes[axis] == sizes[-1] and not moved and not is_left.any():
                    continue
                for name in names:
                    ours = original[name][batch]
                    taken = ours.astype(result[name].dtype)
                    taken[~is_left] = result[name][batch][order[~is_left]]
                    if taken.shape == result[name][batch].shape:
                        changed = result[name].copy()
                        changed[batch] = taken
                    elif axis == 0 or original[name].shape[0] == 1:
                        changed = taken.reshape(original[name].shape)
                    else:
                        continue
                    result[name] = changed
                    exchanged[name] += moved
                    replaced[name] += int(np.count_nonzero(is_left))
    return Matched(result, exchanged, replaced)


def common(
    original: Mapping[str, Array], other: Mapping[str, Array], allowed: Mapping[str, FloatArray]
) -> tuple[int, int]:
    """Return how many rows the original has, and how many of them the other model has anywhere.

    Of the outputs whose rows are on the first axis, those with the most rows of one number.
    """
    groups: dict[tuple[int, int], list[str]] = {}
    for name, values in original.items():
        if values.ndim and _are_rows(values, other[name], 0):
            groups.setdefault((len(values), len(other[name])), []).append(name)
    if not groups:
        return 0, 0
    sizes, names = max(groups.items(), key=lambda group: (len(group[1]), group[0]))
    widest = _widest([_flat(np.broadcast_to(allowed[n], original[n].shape)) for n in names])
    found = _found([_flat(original[n]) for n in names], [_flat(other[n]) for n in names], widest)
    return sizes[0], int(np.count_nonzero(found))


def _are_rows(original: Array, other: Array, axis: int) -> bool:
    """Say whether two outputs have rows of the same size along an axis."""
    sizes = [(*each.shape[:axis], *each.shape[axis + 1 :]) for each in (original, other)]
    return other.ndim == original.ndim and sizes[0] == sizes[1]


def _flat(values: Array) -> Array:
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _rows(original: Array, other: Array) -> tuple[Array, Array]:
    return _flat(original), _flat(other)


def _open(
    rows: Sequence[tuple[Array, Array]],
    limits: Sequence[FloatArray],
    draws: Sequence[Sequence[Array]],
) -> Array:
    """Say of each row whether the original itself has another one there in a draw."""
    found = np.zeros(len(limits[0]), np.bool_)
    for draw in draws:
        for (original, _), limit, drawn in zip(rows, limits, draw, strict=True):
            if drawn.shape != original.shape:
                found[:] = True
            else:
                found |= ~_within(original, drawn, limit)
    return found


def _order(
    rows: Sequence[tuple[Array, Array]],
    limits: Sequence[FloatArray],
    draws: Sequence[Sequence[Array]],
    *,
    any_order: bool,
) -> Array | None:
    """Return which row of the other model takes each place, -1 where it is the original's own.

    None if a row has no match that is excused.
    """
    count, others = len(limits[0]), len(rows[0][1])
    as_they_are = np.arange(others)
    is_open = _open(rows, limits, draws) | any_order
    order = np.full(count, -1)
    common = min(count, others)
    same = np.ones(common, np.bool_)
    for (original, other), limit in zip(rows, limits, strict=True):
        same &= _within(original[:common], other[:common], limit[:common])
    order[:common][same] = np.flatnonzero(same)
    free = np.setdiff1d(as_they_are, order[:common][same])
    for row in np.flatnonzero(order < 0):
        fits = np.ones(len(free), np.bool_)
        for (original, other), limit in zip(rows, limits, strict=True):
            fits &= _within(original[[row]], other[free], limit[row])
        at = np.minimum(free, count - 1)
        fits &= _ties(int(row), at, rows, limits) | (is_open[row] & is_open[at])
        candidates = free[fits]
        if len(candidates):
            nearest = candidates[np.argmin(np.abs(candidates - row))]
            order[row] = nearest
            free = free[free != nearest]
    left = np.flatnonzero(order < 0)
    if not len(left) and not len(free):
        return order
    if max(len(left), len(free)) > _MOST_REPLACED * max(count, others):
        return None
    if any_order:
        return _loosely(order, left, free, rows, limits)
    known = np.zeros(len(free), np.bool_)
    missing = np.zeros(len(left), np.bool_)
    for draw in draws:
        known |= _found([other[free] for _, other in rows], draw, _widest(limits))
        missing |= ~_found([original[left] for original, _ in rows], draw, _widest(limits))
    # A row that the original has once, and the other model twice, is no other row.
    known &= ~_found([other[free] for _, other in rows], [one for one, _ in rows], _widest(limits))
    return order if known.all() and missing.all() else None


def _loosely(
    order: Array,
    left: Array,
    free: Array,
    rows: Sequence[tuple[Array, Array]],
    limits: Sequence[FloatArray],
) -> Array:
    """Match what is left with the nearest row that differs by a little more."""
    for row in left:
        fits = np.ones(len(free), np.bool_)
        off = np.zeros(len(free))
        for (original, other), limit in zip(rows, limits, strict=True):
            fits &= _within(original[[row]], other[free], _LOOSE * limit[row])
            off += distance(np.broadcast_to(original[[row]], other[free].shape), other[free]).sum(1)
        if fits.any():
            nearest = free[np.argmin(np.where(fits, off, math.inf))]
            order[row] = nearest
            free = free[free != nearest]
    return order


def _widest(limits: Sequence[FloatArray]) -> list[FloatArray]:
    """Return what an element of any row may be off by: in a draw, a row may be anywhere."""
    return [limit.max(axis=0, keepdims=True, initial=0.0) for limit in limits]


def _found(rows: Sequence[Array], among: Sequence[Array], limits: Sequence[FloatArray]) -> Array:
    """Say of each row whether it is among others."""
    found = np.zeros(len(rows[0]), np.bool_)
    for number in range(len(found)):
        fits = np.ones(len(among[0]), np.bool_)
        for own, others, limit in zip(rows, among, limits, strict=True):
            fits &= _within(own[[number]], others, limit)
        found[number] = fits.any()
    return found


def _ties(
    row: int,
    places: Array,
    rows: Sequence[tuple[Array, Array]],
    limits: Sequence[FloatArray],
) -> Array:
    """Say of each place whether the original has a float there, one by row, that equals the row's.

    That is, within what both may be off by.
    """
    ties = np.zeros(len(places), np.bool_)
    for (original, _), limit in zip(rows, limits, strict=True):
        if original.dtype.kind == "f" and original.shape[1] == 1:
            ties |= _within(original[[row]], original[places], limit[row] + limit[places])
    return ties


def _within(original: Array, other: Array, limit: FloatArray) -> Array:
    """Say of each row whether all of its elements are within the limit."""
    original = np.broadcast_to(original, other.shape)
    if original.dtype.kind in "fiu":
        near = distance(original, other) <= limit
    else:
        near = np.asarray(original == other)
    return np.asarray(near.all(axis=1))
