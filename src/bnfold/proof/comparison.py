"""How far one output of a model is from that of another, over all samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bnfold.arrays import Array, FloatArray, type_and_shape
from bnfold.proof.noise import distance
from bnfold.proof.scores import Agreement, look_like_scores
from bnfold.proof.tolerance import Allowance
from bnfold.record.data import SHARES, NonFinite, OutputComparison, Tolerance, Worst

STEP_FACTOR = 2
"""One step away from the original may be so many times the elements that jump in one of its own
draws, and one more."""

_MOST_STEPS = 4096
"""Distinct values up to which an output is taken for a grid of steps."""


class Accumulator:
    """Gathers the comparison of one output, sample by sample.

    Args:
        name: of the output.
        allowance: what each element may be off by.
        jumps: whether a step (Round, Greater, ArgMax, a Cast to integers) lies on the way to it.
            Next to a step the last bit of its input decides, so an element beyond its tolerance is
            excused if the original itself, in one of its draws, gives that value there; or if it
            lies one step away, for about as many elements as jump in a draw of the original.
        has_neighbours: whether one value may be a step away from another. Classes are not.
    """

    def __init__(
        self,
        name: str,
        allowance: Allowance,
        *,
        jumps: bool = False,
        has_neighbours: bool = True,
    ) -> None:
        self._name = name
        self._allowance = allowance
        self._jumps = jumps
        self._has_neighbours = has_neighbours
        self._excused = 0
        self._dtype = ""
        self._shape: list[int] = []
        self._max_abs = self._max_rel = self._squares = 0.0
        self._dot = self._original_norm = self._optimized_norm = 0.0
        self._count = 0
        self._share = -1.0
        self._atol = 0.0
        self._worst: Worst | None = None
        self._mismatch = ""
        self._shares = np.zeros(len(SHARES) + 1, np.int64)
        self._agreement: Agreement | None = None
        self._nonfinite = NonFinite(0, 0, same=True)

    def add(
        self,
        sample: int,
        original: Array,
        optimized: Array,
        draws: Sequence[Array] = (),
    ) -> None:
        """Compare one sample.

        Args:
            sample: its number, by which the allowance knows it.
            original: what the original gives.
            optimized: what the other model gives.
            draws: what the original gave with changes that mean nothing.
        """
        self._dtype, self._shape = original.dtype.name, list(original.shape)
        if original.dtype != optimized.dtype or original.shape != optimized.shape:
            actual, expected = (type_and_shape(values) for values in (optimized, original))
            self._mismatch = f"is {actual} for sample {sample}, not {expected}"
        elif self._allowance.is_exact:
            self._add_exact(sample, original, optimized, draws)
        else:
            wide = original.astype(np.float64), optimized.astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                self._add_floats(sample, *wide, draws)
            if look_like_scores(original):
                self._agreement = self._agreement or Agreement()
                self._agreement.add(sample, *wide)

    def _add_exact(
        self, sample: int, original: Array, optimized: Array, draws: Sequence[Array]
    ) -> None:
        self._share = max(self._share, 0.0)
        different = np.asarray(original != optimized)
        if self._jumps and different.any():
            zero = np.zeros(original.shape)
            excused = different & self._excuses(original, optimized, draws, zero)
            self._excused += int(np.count_nonzero(excused))
            different &= ~excused
        count = int(np.count_nonzero(different))
        self._shares[[0, -1]] += [original.size - count, count]
        if original.dtype.kind in "iub":
            error = distance(original, optimized)
            self._max_abs = max(self._max_abs, float(error.max(initial=0.0)))
        if not count:
            return
        at = tuple(int(i) for i in np.argwhere(different)[0])
        self._mismatch = self._mismatch or (
            f"must be equal, and differs at {count} of {original.size} places: "
            f"{optimized[at]!s} at {list(at)} of sample {sample}, not {original[at]!s}"
        )
        if original.dtype.kind in "iub":
            values = float(original[at]), float(optimized[at])
            self._worst = self._worst or Worst(sample, list(at), *values)

    def _add_floats(
        self,
        sample: int,
        original: FloatArray,
        optimized: FloatArray,
        draws: Sequence[Array],
    ) -> None:
        finite = np.isfinite(original) & np.isfinite(optimized)
        same = bool(np.array_equal(original[~finite], optimized[~finite], equal_nan=True))
        self._nonfinite = NonFinite(
            self._nonfinite.original + int(np.count_nonzero(~np.isfinite(original))),
            self._nonfinite.optimized + int(np.count_nonzero(~np.isfinite(optimized))),
            self._nonfinite.same and same,
        )
        if not same:
            self._mismatch = "is NaN or infinite at other places"
        a, b = np.where(finite, original, 0.0), np.where(finite, optimized, 0.0)
        error = np.abs(a - b)
        self._count += int(np.count_nonzero(finite))
        self._squares += float(np.sum(error**2))
        self._dot += float(np.sum(a * b))
        self._original_norm += float(np.sum(a * a))
        self._optimized_norm += float(np.sum(b * b))
        self._share = max(self._share, 0.0)
        if not error.size:
            return
        self._max_abs = max(self._max_abs, float(error.max()))
        largest = float(np.abs(a).max())
        relative = error / np.maximum(np.abs(a), 1e-3 * largest if largest else 1.0)
        self._max_rel = max(self._max_rel, float(relative.max()))
        atol = np.broadcast_to(
            self._allowance.atol(sample, with_own_noise=not self._jumps), error.shape
        )
        allowed = atol + self._allowance.rtol * np.abs(a)
        share = np.divide(error, allowed, out=np.where(error > 0, np.inf, 0.0), where=allowed > 0)
        if self._jumps and float(share.max()) > 1:
            excused = (share > 1) & self._excuses(original, optimized, draws, allowed)
            self._excused += int(np.count_nonzero(excused))
            share = np.where(excused, 0.0, share)
        self._shares += np.bincount(
            np.searchsorted(SHARES, share[finite]), minlength=len(SHARES) + 1
        )
        at = int(share.argmax())
        if self._worst is None or float(share.flat[at]) > self._share:
            self._share, self._atol = float(share.flat[at]), float(atol.flat[at])
            index = [int(i) for i in np.unravel_index(at, share.shape)]
            self._worst = Worst(sample, index, float(a.flat[at]), float(b.flat[at]))

    def _excuses(
        self, original: Array, optimized: Array, draws: Sequence[Array], allowed: FloatArray
    ) -> Array:
        """Say of each element whether a step explains where the other model is."""
        comparable = [draw for draw in draws if draw.shape == original.shape]
        excused = np.zeros(original.shape, np.bool_)
        most_jumps = 0
        for draw in comparable:
            if original.dtype.kind in "fiu":
                excused |= distance(draw, optimized) <= allowed
                jumped = distance(draw, original) > allowed
            else:
                excused |= np.asarray(draw == optimized)
                jumped = np.asarray(draw != original)
            most_jumps = max(most_jumps, int(np.count_nonzero(jumped)))
        if not self._has_neighbours:
            return excused
        neighbours = ~excused & one_step_apart(original, optimized)
        beyond = ~excused & (distance(original, optimized) > allowed)
        if np.count_nonzero(neighbours & beyond) <= STEP_FACTOR * most_jumps + 1:
            excused |= neighbours
        return excused

    def comparison(self) -> OutputComparison:
        """Return what was gathered. `tolerance` is the one at the worst element."""
        norms = np.sqrt(self._original_norm) * np.sqrt(self._optimized_norm)
        tolerance = Tolerance(self._allowance.rtol, self._atol)
        needed = None
        if not self._mismatch and 0 <= self._share < np.inf:
            needed = Tolerance(tolerance.rtol * self._share, tolerance.atol * self._share)
        return OutputComparison(
            name=self._name,
            dtype=self._dtype,
            shape=self._shape,
            max_abs=self._max_abs,
            max_rel=self._max_rel,
            rms=float(np.sqrt(self._squares / self._count)) if self._count else 0.0,
            cosine=self._dot / float(norms) if norms else 1.0,
            worst=self._worst,
            tolerance=tolerance,
            needed=needed,
            nonfinite=self._nonfinite,
            excused=self._excused,
            mismatch=self._mismatch,
            shares=[int(count) for count in self._shares],
            top1_agreement=self._agreement.top1 if self._agreement else None,
            top5_agreement=self._agreement.top5 if self._agreement else None,
            flips=self._agreement.flips if self._agreement else [],
        )


def one_step_apart(original: Array, optimized: Array) -> Array:
    """Say of each element whether both values are the same step or neighbouring ones.

    Quantized integers have 8 or 16 bits; floats are steps where the original has few values.
    Anything else, such as the index of a class, has no neighbours.
    """
    none = np.zeros(original.shape, np.bool_)
    if original.dtype.kind in "iu":
        return distance(original, optimized) <= 1 if original.dtype.itemsize <= 2 else none
    if original.dtype.kind != "f":
        return none
    steps = np.unique(original)
    if not 2 <= len(steps) <= min(_MOST_STEPS, original.size // 4):
        return none
    gaps = np.diff(steps)
    at = np.searchsorted(steps, original)
    widest = np.maximum(gaps[np.maximum(at - 1, 0)], gaps[np.minimum(at, len(gaps) - 1)])
    return np.asarray(distance(original, optimized) <= 1.01 * widest)
