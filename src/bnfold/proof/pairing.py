"""Finds the values within two models that are meant to be the same, whatever their names.

Both models run once, and values of one type and shape that are nearly equal are paired. Names do
not decide, for exporters number them: they choose between values that are equally near, and pair
what has no value near it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np

from bnfold.arrays import Array, FloatArray

_Kind: TypeAlias = tuple[str, tuple[int, ...]]
"""A type and a shape."""

_NEAR = 1e-2
"""Distance, as a share of the norm, below which two values are taken to be meant as one."""

_TIE = 1e-4
"""Further apart than others by less than this, a value of the same name is preferred."""

_BLOCK = 1024

_PROJECTIONS = 8
"""Numbers that stand for a value: its products with so many random vectors."""


def pairs(originals: Mapping[str, Array], others: Mapping[str, Array]) -> list[tuple[str, str]]:
    """Return the pairs of a value of the original and one of the other model to be compared.

    Each value of either is paired with one that is near it, if there is any: nodes that compute the
    same may have been merged, or doubled.
    """
    ours, theirs = _projected(originals), _projected(others)
    near = _nearest(ours, theirs)
    back = _nearest(theirs, ours)
    same = {name: name for name in originals if name in others and name not in near}
    found = [*near.items(), *same.items(), *((name, other) for other, name in back.items())]
    return list(dict.fromkeys(found))


def _projected(values: Mapping[str, Array]) -> dict[_Kind, dict[str, FloatArray]]:
    """Return what stands for each value, by name, in groups of one type and shape."""
    groups: dict[_Kind, dict[str, FloatArray]] = defaultdict(dict)
    for name, value in values.items():
        if value.dtype.kind in "fiub" and value.size > 0:
            groups[value.dtype.str, value.shape][name] = _projections(value)
    return groups


def _nearest(
    ones: Mapping[_Kind, Mapping[str, FloatArray]], others: Mapping[_Kind, Mapping[str, FloatArray]]
) -> dict[str, str]:
    """Return for each value of one model the nearest one of the other, if it is near."""
    near: dict[str, str] = {}
    for kind in (kind for kind in ones if kind in others):
        names = np.array(list(others[kind]), np.object_)
        known = np.array(list(others[kind].values()))
        own = np.array(list(ones[kind].values()))
        sizes = np.maximum(np.abs(own).max(axis=1), 1e-30)
        for place, (name, chosen) in enumerate(
            zip(ones[kind], _within(known, own, _NEAR * sizes), strict=True)
        ):
            if not chosen.size:
                continue
            distances = np.abs(known[chosen] - own[place]).max(axis=1) / sizes[place]
            same = distances[names[chosen] == name]
            best = int(distances.argmin())
            if distances[best] > _NEAR:
                continue
            is_named = same.size and same[0] <= min(distances[best] + _TIE, _NEAR)
            near[name] = name if is_named else names[chosen][best]
    return near


def _within(known: FloatArray, own: FloatArray, limits: FloatArray) -> Iterator[Array]:
    """Yield the places of the rows that may be as near to each row: in one column, they are.

    It is the column in which the fewest are, so that a search takes time in proportion to these.
    """
    orders = known.argsort(axis=0, kind="stable")
    columns = list(np.take_along_axis(known, orders, axis=0).T)
    targets = list(zip(columns, own.T, strict=True))
    first = np.array([np.searchsorted(column, each - limits) for column, each in targets])
    last = np.array([np.searchsorted(column, each + limits, "right") for column, each in targets])
    fewest = (last - first).argmin(axis=0)
    for row, column in enumerate(fewest):
        yield np.sort(orders[first[column, row] : last[column, row], column])


def _projections(value: Array) -> FloatArray:
    """Return the products of a value with random vectors of signs, and its norm.

    The difference of two values is of norm d with products of about d, by the lemma of Johnson and
    Lindenstrauss. The vectors are the same for all values of one size: blocks of one matrix of
    signs, each block with signs of its own.
    """
    flat = np.nan_to_num(value.astype(np.float64).ravel(), posinf=1e30, neginf=-1e30)
    draw = np.random.default_rng(0)
    signs = _signs(draw, (_BLOCK, _PROJECTIONS))
    whole = flat.size // _BLOCK
    products = flat[: whole * _BLOCK].reshape(whole, _BLOCK) @ signs
    products *= _signs(draw, (whole, _PROJECTIONS))
    rest = flat[whole * _BLOCK :]
    total = products.sum(axis=0) + rest @ signs[: rest.size]
    return np.array([*total, np.linalg.norm(flat)], np.float64)


def _signs(draw: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    return np.where(draw.integers(0, 2, shape, dtype=np.int8) == 0, 1.0, -1.0)
