"""How far one output of a model is from that of another, over all samples."""

from __future__ import annotations

import numpy as np

from bnfold.arrays import Array, FloatArray
from bnfold.proof.scores import Agreement, look_like_scores
from bnfold.proof.tolerance import Allowance
from bnfold.record.data import SHARES, NonFinite, OutputComparison, Tolerance, Worst

_LARGEST_JUMP = 0.1
"""As a share of the largest value."""


class Accumulator:
    """Gathers the comparison of one output, sample by sample.

    Up to `excusable` elements may be beyond their tolerance, but not by much.
    """

    def __init__(self, name: str, allowance: Allowance, excusable: int = 0) -> None:
        self._name = name
        self._excusable = excusable
        self._largest = 0.0
        self._allowance = allowance
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

    def add(self, place: int, sample: int, original: Array, optimized: Array) -> None:
        """Compare one sample, which stands at this place among those of the allowance."""
        self._dtype, self._shape = original.dtype.name, list(original.shape)
        if original.dtype != optimized.dtype or original.shape != optimized.shape:
            found, expected = (_type_and_shape(each) for each in (optimized, original))
            self._mismatch = f"is {found} for sample {sample}, not {expected}"
            self._excusable = 0
        elif self._allowance.is_exact:
            self._add_exact(sample, original, optimized)
        else:
            wide = original.astype(np.float64), optimized.astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                self._add_floats(place, sample, *wide)
            if look_like_scores(original):
                self._agreement = self._agreement or Agreement()
                self._agreement.add(sample, *wide)

    def _add_exact(self, sample: int, original: Array, optimized: Array) -> None:
        self._share = max(self._share, 0.0)
        different = original != optimized
        count = int(np.count_nonzero(different))
        self._shares[[0, -1]] += [original.size - count, count]
        if not count:
            return
        at = tuple(int(i) for i in np.argwhere(different)[0])
        self._mismatch = self._mismatch or (
            f"must be equal, and differs at {count} of {original.size} places: "
            f"{optimized[at]!s} at {list(at)} of sample {sample}, not {original[at]!s}"
        )
        if original.dtype.kind in "iub":
            a, b = original.astype(np.float64), optimized.astype(np.float64)
            self._max_abs = max(self._max_abs, float(np.abs(a - b).max()))
            self._worst = self._worst or Worst(sample, list(at), float(a[at]), float(b[at]))

    def _add_floats(
        self, place: int, sample: int, original: FloatArray, optimized: FloatArray
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
            self._excusable = 0
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
        self._largest = max(self._largest, largest)
        relative = error / np.maximum(np.abs(a), 1e-3 * largest if largest else 1.0)
        self._max_rel = max(self._max_rel, float(relative.max()))
        atol = np.broadcast_to(self._allowance.atol(place), error.shape)
        allowed = atol + self._allowance.rtol * np.abs(a)
        share = np.divide(error, allowed, out=np.where(error > 0, np.inf, 0.0), where=allowed > 0)
        self._shares += np.bincount(
            np.searchsorted(SHARES, share[finite]), minlength=len(SHARES) + 1
        )
        at = int(share.argmax())
        if self._worst is None or float(share.flat[at]) > self._share:
            self._share, self._atol = float(share.flat[at]), float(atol.flat[at])
            index = [int(i) for i in np.unravel_index(at, share.shape)]
            self._worst = Worst(sample, index, float(a.flat[at]), float(b.flat[at]))

    def comparison(self) -> OutputComparison:
        """Return what was gathered. `tolerance` is the one at the worst element."""
        norms = np.sqrt(self._original_norm) * np.sqrt(self._optimized_norm)
        tolerance = Tolerance(self._allowance.rtol, self._atol)
        needed = None
        excused = int(self._shares[-1])
        jumps_far = not self._allowance.is_exact and self._max_abs > _LARGEST_JUMP * self._largest
        if excused > self._excusable or jumps_far:
            excused = 0
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
            excused=excused,
            mismatch="" if excused else self._mismatch,
            shares=[int(each) for each in self._shares],
            top1_agreement=self._agreement.top1 if self._agreement else None,
            top5_agreement=self._agreement.top5 if self._agreement else None,
            flips=self._agreement.flips if self._agreement else [],
        )


def _type_and_shape(values: Array) -> str:
    return f"{values.dtype.name}[{','.join(map(str, values.shape))}]"
