"""Whether an output looks like class scores, and how often two models agree on the class."""

from __future__ import annotations

import numpy as np

from bnfold.arrays import Array, FloatArray
from bnfold.record.data import Flip

MOST_FLIPS = 10
"""At most this many flips are kept; the agreement counts all."""

_FEWEST_CLASSES = 2
_TOP = 5


def look_like_scores(values: Array) -> bool:
    """Return whether the last axis looks like classes.

    It does in a matrix of at least two columns, and if it is a probability distribution.
    """
    if values.dtype.kind != "f" or values.ndim < 2 or values.shape[-1] < _FEWEST_CLASSES:
        return False
    if values.ndim == 2:
        return True
    wide = values.astype(np.float64)
    sums = wide.sum(axis=-1)
    return bool(values.size and wide.min() >= 0 and np.allclose(sums, 1, atol=1e-2))


class Agreement:
    """Counts the rows in which both models prefer the same classes."""

    def __init__(self) -> None:
        self._rows = self._same_best = self._same_top = 0
        self._has_top = False
        self.flips: list[Flip] = []

    def add(self, sample: int, original: FloatArray, optimized: FloatArray) -> None:
        """Count the rows of one sample, except those that are not finite."""
        finite = np.isfinite(original).all(axis=-1) & np.isfinite(optimized).all(axis=-1)
        best, other = original.argmax(axis=-1), optimized.argmax(axis=-1)
        self._rows += int(np.count_nonzero(finite))
        self._same_best += int(np.count_nonzero(finite & (best == other)))
        for row in np.argwhere(finite & (best != other))[: MOST_FLIPS - len(self.flips)]:
            at = tuple(int(i) for i in row)
            chosen, instead = int(best[at]), int(other[at])
            margin = float(original[at][chosen] - original[at][instead])
            self.flips.append(Flip(sample, list(at), chosen, instead, margin))
        if original.shape[-1] > _TOP:
            self._has_top = True
            top, others = (_best(scores) for scores in (original, optimized))
            self._same_top += int(np.count_nonzero(finite & (top == others).all(axis=-1)))

    @property
    def top1(self) -> float | None:
        """The share of rows with the same best class."""
        return self._same_best / self._rows if self._rows else None

    @property
    def top5(self) -> float | None:
        """The share of rows with the same five best classes, in any order."""
        return self._same_top / self._rows if self._rows and self._has_top else None


def _best(scores: FloatArray) -> Array:
    """Return the five best classes of each row, in ascending order."""
    return np.sort(np.argpartition(scores, -_TOP, axis=-1)[..., -_TOP:], axis=-1)
