"""Outputs that look like class scores, and how often two models agree on the class."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.proof.scores import MOST_FLIPS, Agreement, look_like_scores
from tests.support.graphs import Array, normal


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (normal(2, 10), True),
        (normal(2, 2), True),
        (normal(2, 1), False),
        (normal(10), False),
        (np.ones((2, 10), np.int64), False),
        (normal(2, 3, 10), False),
        (np.full((2, 3, 4), 0.25, np.float32), True),
        (np.full((0, 3, 4), 0.25, np.float32), False),
    ],
)
def test_scores(values: Array, expected: bool) -> None:
    assert look_like_scores(values) is expected


def test_agreement_of_equal_scores() -> None:
    agreement = Agreement()
    agreement.add(0, *[normal(4, 10).astype(float)] * 2)
    assert (agreement.top1, agreement.top5, agreement.flips) == (1.0, 1.0, [])


def test_a_flip_has_its_margin() -> None:
    original = np.array([[5.0, 4.75, 0.0], [1.0, 2.0, 3.0]])
    optimized = np.array([[4.8, 4.9, 0.0], [1.0, 2.0, 3.0]])
    agreement = Agreement()
    agreement.add(7, original, optimized)
    assert agreement.top1 == 0.5
    assert agreement.top5 is None
    (flip,) = agreement.flips
    assert (flip.sample, flip.index, flip.original, flip.optimized) == (7, [0], 0, 1)
    assert flip.margin == 0.25


def test_top_five_is_a_set() -> None:
    original = np.arange(10.0)[None]
    swapped = original.copy()
    swapped[0, [8, 9]] = [9, 8]
    other = original.copy()
    other[0, 0] = 20
    agreement = Agreement()
    agreement.add(0, original, swapped)
    assert (agreement.top1, agreement.top5) == (0.0, 1.0)
    agreement.add(1, original, other)
    assert agreement.top5 == 0.5


def test_few_flips_are_kept_and_rows_that_are_not_finite_do_not_count() -> None:
    original, optimized = np.zeros((50, 3)), np.zeros((50, 3))
    original[:, 0], optimized[:, 1] = 1, 1
    original[0, 0] = np.nan
    agreement = Agreement()
    agreement.add(0, original, optimized)
    assert agreement.top1 == 0
    assert len(agreement.flips) == MOST_FLIPS
    nothing = Agreement()
    nothing.add(0, original[:1], optimized[:1])
    assert nothing.top1 is None
