"""Values are paired with the nearest ones, as all of them compared with all would be."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.arrays import Array
from bnfold.proof.pairing import _NEAR, _TIE, _projections, pairs


def drawn(seed: int, prefix: str) -> dict[str, Array]:
    """Return values of which many are near one another, or of the other model, or zero."""
    kinds, own = np.random.default_rng(seed), np.random.default_rng([seed, len(prefix)])
    known = [kinds.standard_normal((3, 4)) * 10.0 ** kinds.integers(-3, 3) for _ in range(8)]
    values = {}
    for number in range(25):
        off = own.choice([0, 1e-6, 2e-4, 5e-3, 0.1]) * own.standard_normal((3, 4))
        value = known[own.integers(8)] * (1 + off) * (own.random() > 0.05)
        values[f"{number}" if own.random() < 0.7 else f"{prefix}{number}"] = value
    return values


def nearest(ones: dict[str, Array], others: dict[str, Array]) -> dict[str, str]:
    """Return the nearest value of the others, if it is near, by comparing with each."""
    found = {}
    for name, value in ones.items():
        own = _projections(value)
        size = max(float(np.abs(own).max()), 1e-30)
        apart = {n: np.abs(_projections(v) - own).max() / size for n, v in others.items()}
        best = min(apart.values())
        if best > _NEAR:
            continue
        if apart.get(name, np.inf) <= min(best + _TIE, _NEAR):
            found[name] = name
        else:
            found[name] = next(n for n, distance in apart.items() if distance == best)
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_values_are_paired_with_the_nearest(seed: int) -> None:
    ones, others = drawn(seed, "a"), drawn(seed, "bc")
    near, back = nearest(ones, others), nearest(others, ones)
    same = {name: name for name in ones if name in others and name not in near}
    expected = [*near.items(), *same.items(), *((name, other) for other, name in back.items())]
    assert pairs(ones, others) == list(dict.fromkeys(expected))
