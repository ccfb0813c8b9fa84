"""Composition of affine maps: what two of them in a row are, and along which axis."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.algebra.affine_maps.affine import Affine, NotAffine
from bnfold.rewriting.contract import Refused


def per_channel(axis: int, seed: int = 0) -> Affine:
    generator = np.random.default_rng(seed)
    return Affine(generator.normal(size=3), generator.normal(size=3), axis)


UNIFORM = Affine(np.array([2.0]), np.array([-1.0]), 0)


@pytest.mark.parametrize(
    ("second", "first", "axis"),
    [
        (per_channel(2, 1), per_channel(2, 2), 2),
        (UNIFORM, per_channel(2), 2),
        (per_channel(2), UNIFORM, 2),
        (UNIFORM, UNIFORM, 0),
    ],
)
def test_two_maps_in_a_row_are_one(second: Affine, first: Affine, axis: int) -> None:
    """A uniform map has no axis of its own: the other one's counts, on either side."""
    both = second.after(first)
    x = np.linspace(-3, 3, 3)
    np.testing.assert_allclose(
        both.scale * x + both.shift,
        second.scale * (first.scale * x + first.shift) + second.shift,
    )
    assert both.axis == axis


def test_maps_along_different_axes_are_not_one() -> None:
    with pytest.raises(Refused) as refused:
        per_channel(1).after(per_channel(2))
    assert refused.value.reason is NotAffine.NOT_PER_CHANNEL
