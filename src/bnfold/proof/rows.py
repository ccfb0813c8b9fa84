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
from bnfold.proof.noise import distance, gap

_MOST_REPLACED = 0.5
"""Where more rows than this share have no match, they are no longer those of the original."""

_MOST_AT_ONCE = 1 << 20
"""How many elements of pairs of rows are compared at once, at most."""

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
            differ = [_differ(original[name], result[name], allowed[name], axis) for name in names]
            for batch in map(tuple, np.argwhere(np.logical_or.reduce(differ))):
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


def _differ(original: Array, other: Array, allowed: FloatArray, axis: int) -> Array:
    """Say, by the axes before this one, whether rows would have to change places."""
    before, after = original.shape[:axis], math.prod(original.shape[axis:])
    if original.shape != other.shape:
        return np.ones(before, np.bool_)
    limit = np.broadcast_to(allowed, original.shape)
    flat = (each.reshape(*before, after) for each in (original, other, limit))
    return ~_within(*flat)


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
    order = np.full(count, -1)
    common = min(count, others)
    same = np.ones(common, np.bool_)
    for (original, other), limit in zip(rows, limits, strict=True):
        same &= _within(original[:common], other[:common], limit[:common])
    order[:common][same] = np.flatnonzero(same)
    if same.all() and count == others:
        return order
    free = np.setdiff1d(np.arange(others), order[:common][same])
    missed = np.flatnonzero(order < 0)
    excused = _excused(missed, free, rows, limits, draws, any_order)
    is_taken = np.zeros(len(free), np.bool_)
    for row, fits in zip(missed, excused, strict=True):
        candidates = np.flatnonzero(fits & ~is_taken)
        if len(candidates):
            nearest = candidates[np.argmin(np.abs(free[candidates] - row))]
            order[row] = free[nearest]
            is_taken[nearest] = True
    left = np.flatnonzero(order < 0)
    free = free[~is_taken]
    if not len(left) and not len(free):
        return order
    if max(len(left), len(free)) > _MOST_REPLACED * max(count, others):
        return None
    if any_order:
        return _loosely(order, left, free, rows, limits)
    widest = _widest(limits)
    # A row that the original has once, and the other model twice, is no other row.
    if _found([other[free] for _, other in rows], [one for one, _ in rows], widest).any():
        return None
    for draw in draws:
        free = free[~_found([other[free] for _, other in rows], draw, widest)]
        left = left[_found([original[left] for original, _ in rows], draw, widest)]
    return None if len(left) or len(free) else order


def _excused(
    missed: Array,
    free: Array,
    rows: Sequence[tuple[Array, Array]],
    limits: Sequence[FloatArray],
    draws: Sequence[Sequence[Array]],
    any_order: bool,
) -> Array:
    """Say of each row and each free one whether it may take the place: [missed, free]."""
    ours, theirs = [one[missed] for one, _ in rows], [other[free] for _, other in rows]
    fits = _all_pairs(ours, theirs, [limit[missed] for limit in limits])
    if not fits.any():
        return fits
    is_open = _open(rows, limits, draws) | any_order
    at = np.minimum(free, len(is_open) - 1)
    excused = is_open[missed][:, None] & is_open[at]
    for (original, _), limit in zip(rows, limits, strict=True):
        if original.dtype.kind == "f" and original.shape[1] == 1:
            # A tie: the original's own scores are equal within what both may be off by.
            both = limit[missed][:, None] + limit[at]
            excused |= _within(original[missed][:, None], original[at], both)
    return np.asarray(fits & excused)


def _loosely(
    order: Array,
    left: Array,
    free: Array,
    rows: Sequence[tuple[Array, Array]],
    limits: Sequence[FloatArray],
) -> Array:
    """Match what is left with the nearest row that differs by a little more."""
    loose = [_LOOSE * limit[left] for limit in limits]
    ours, theirs = [one[left] for one, _ in rows], [other[free] for _, other in rows]
    is_taken = np.zeros(len(free), np.bool_)
    for number, fits in enumerate(_all_pairs(ours, theirs, loose)):
        fits &= ~is_taken
        if fits.any():
            off = np.zeros(len(free))
            for one, other in zip(ours, theirs, strict=True):
                off += distance(np.broadcast_to(one[number], other.shape), other).sum(1)
            nearest = np.argmin(np.where(fits, off, math.inf))
            order[left[number]] = free[nearest]
            is_taken[nearest] = True
    return order


def _widest(limits: Sequence[FloatArray]) -> list[FloatArray]:
    """Return what an element of any row may be off by: in a draw, a row may be anywhere."""
    return [limit.max(axis=0, keepdims=True, initial=0.0) for limit in limits]


def _found(rows: Sequence[Array], among: Sequence[Array], limits: Sequence[FloatArray]) -> Array:
    """Say of each row whether it is among others."""
    return np.asarray(_all_pairs(rows, among, limits).any(axis=1))


def _all_pairs(
    rows: Sequence[Array], others: Sequence[Array], limits: Sequence[FloatArray]
) -> Array:
    """Say of each row and each other one whether they are equal in every output: [rows, others]."""
    fits = np.ones((len(rows[0]), len(others[0])), np.bool_)
    for own, other, limit in zip(rows, others, limits, strict=True):
        fits &= _pairs(own, other, np.broadcast_to(limit, own.shape))
    return fits


def _pairs(rows: Array, others: Array, limits: FloatArray) -> Array:
    """Say of each row and each other one whether all of their elements are equal."""
    at_once = max(1, _MOST_AT_ONCE // max(1, others.size))
    parts = [slice(at, at + at_once) for at in range(0, len(rows), at_once)]
    fits = [_within(rows[part][:, None], others, limits[part][:, None]) for part in parts]
    return np.concatenate([np.zeros((0, len(others)), np.bool_), *fits])


def _within(original: Array, other: Array, limit: FloatArray) -> Array:
    """Say of each row, on the last but one axis, whether all of its elements are within the limit.

    The axes before it broadcast.
    """
    if original.dtype.kind in "fiu":
        near = gap(original, other) <= limit
    else:
        near = np.asarray(original == other)
    return np.asarray(near.all(axis=-1))
