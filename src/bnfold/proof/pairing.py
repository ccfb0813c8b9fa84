"""Finds the values within two models that are meant to be the same, whatever their names.

Both models run once, and values of one type and shape that are nearly equal are paired. Names do
not decide, for exporters number them: they choose between values that are equally near, and pair
what has no value near it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from bnfold.arrays import Array, FloatArray

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
    near = _nearest(originals, others)
    back = _nearest(others, originals)
    same = {name: name for name in originals if name in others and name not in near}
    found = [*near.items(), *same.items(), *((name, other) for other, name in back.items())]
    return list(dict.fromkeys(found))


def _nearest(originals: Mapping[str, Array], others: Mapping[str, Array]) -> dict[str, str]:
    """Pair what is near, among values of one type and shape."""
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for name, value in others.items():
        if _can_be_projected(value):
            groups[value.dtype.str, value.shape].append(name)
    known = {
        key: np.array([_projections(others[name]) for name in names])
        for key, names in groups.items()
        if key in {(value.dtype.str, value.shape) for value in originals.values()}
    }
    near: dict[str, str] = {}
    for name, value in originals.items():
        key = value.dtype.str, value.shape
        if key not in known or not _can_be_projected(value):
            continue
        own = _projections(value)
        distances = np.abs(known[key] - own).max(axis=1) / max(float(np.abs(own).max()), 1e-30)
        best = int(distances.argmin())
        names = groups[key]
        if name in names and distances[names.index(name)] <= distances[best] + _TIE:
            best = names.index(name)
        if distances[best] <= _NEAR:
            near[name] = names[best]
    return near


def _can_be_projected(value: Array) -> bool:
    return value.dtype.kind in "fiub" and value.size > 0


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
