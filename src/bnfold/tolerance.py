"""How far an output may be off, and how far it is: everything about one output of two models."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bnfold.contract import Array, FloatArray
from bnfold.record import (
    SHARES,
    NonFinite,
    OutputComparison,
    Tolerance,
    TruthOutput,
    Worst,
)
from bnfold.scores import Agreement, look_like_scores

DEFAULT_TOLERANCES: dict[str, Tolerance] = {
    "float64": Tolerance(rtol=1e-9, atol=1e-10),
    "float32": Tolerance(rtol=1e-4, atol=2e-5),
    "float16": Tolerance(rtol=1e-2, atol=5e-3),
}
"""By type of output. Here `atol` is a share of a typical magnitude; see `Allowance`. Outputs of
other types must be equal."""

NOISE_FACTOR = 4.0
"""How many times the noise floor is always allowed: the original is no nearer to itself."""

MOST_NOISE = 1e-3
"""The share of the output's largest magnitude beyond which noise is no excuse."""

_UNSETTLED = 10.0
"""Where noise is so many times the relative tolerance, in the root mean square, a sample says
nothing: the original's own rounding decides what it gives."""

FLIPS_FACTOR = 10
FLIPS_SHARE = 1e-4
"""Where a model rounds to steps, so many times the elements that jump when the inputs change by
their last bit may jump, and this share of all."""

_LARGEST_JUMP = 0.1
"""As a share of the largest value."""

SMALL_NOISE = 1e-6
"""What noise anywhere in an output between 0 and 1 excuses everywhere, as a share of its largest
value: a saturated Sigmoid or Softmax has as much noise in values near zero as in others, and may
happen to show it in some only."""


TRUTH_FACTOR = 4.0
"""The optimized model may be so many times as far from the truth as the original is, or as the
original moves when its inputs change by their last bit: its error may be small by luck."""

NEGLIGIBLE = 4.0
"""In units of the output type's rounding error: what is never too far from the truth. An original
without any error, of small integers say, would otherwise allow none."""

_ROUNDING_ERRORS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""From 1 to the next number of the type."""


def most_error(output: TruthOutput) -> float:
    """Return how far the optimized model may be from the truth, as a relative root mean square.

    Raises:
        KeyError: if rounding errors of the output's type are not known.
    """
    rounding = NEGLIGIBLE * _ROUNDING_ERRORS[output.dtype]
    return max(TRUTH_FACTOR * max(output.original, output.noise), rounding)


@dataclass(frozen=True)
class ToleranceRequest:
    """What the user says of tolerances: None is the default. `atol` is in the output's unit."""

    rtol: float | None = None
    atol: float | None = None


class Allowance:
    """What each element of an output may be off by: ``atol + rtol·|original|``.

    By default `atol` is a share of the smallest of these magnitudes: the largest in the element's
    sample; the largest in its channel (axis 1) over all samples; the largest at its place on the
    last axis. So a channel of small values is not excused by one
    of large values, nor a sample by another. Where a channel has few values, their largest says
    little, and counts for more (see `_headroom`). The noise floor is allowed `NOISE_FACTOR` times.

    Args:
        request: what the user says.
        originals: what the original gives, sample by sample.
        noise: how far it is from itself at another optimization level, or None if not known yet.
    """

    def __init__(
        self, request: ToleranceRequest, originals: Sequence[Array], noise: Sequence[Array] | None
    ) -> None:
        default = DEFAULT_TOLERANCES.get(originals[0].dtype.name)
        self._request = request
        self._default = default or Tolerance(0.0, 0.0)
        self.is_exact = default is None
        self._magnitudes = [] if self.is_exact else list(map(_magnitude, originals))
        self._noise = list(noise) if noise is not None and not self.is_exact else []
        self._is_probability = not self.is_exact and all(
            each.min(initial=0.0) >= 0 and each.max(initial=0.0) <= 1 for each in originals
        )

    @property
    def rtol(self) -> float:
        """The relative tolerance."""
        if self.is_exact or self._request.rtol is None:
            return self._default.rtol
        return self._request.rtol

    def atol(self, sample: int) -> FloatArray:
        """Return the absolute tolerance of each element of a sample; it broadcasts to them."""
        if self._request.atol is not None:
            return np.array(self._request.atol)
        magnitude = self._magnitudes[sample]
        typical = np.array(magnitude.max(initial=0.0))
        for axes in _slices(magnitude.ndim):
            count = sum(math.prod(each.shape[axis] for axis in axes) for each in self._magnitudes)
            largest = _largest(self._magnitudes, axes) * _headroom(count)
            typical = np.minimum(typical, largest)
        return np.maximum(self._default.atol * typical, self._excused(magnitude.ndim))

    def _excused(self, rank: int) -> FloatArray:
        """Return what the noise floor allows: by slices, up to `MOST_NOISE`; anywhere, a little."""
        if not self._noise:
            return np.zeros(())
        everywhere = tuple(range(rank))
        by_slice = [_largest(self._noise, axes) for axes in _slices(rank) or [everywhere]]
        largest = float(_largest(self._magnitudes, everywhere).max())
        noise = float(_largest(self._noise, everywhere).max())
        of_slice = functools.reduce(np.minimum, by_slice)
        excused = np.minimum(NOISE_FACTOR * of_slice, MOST_NOISE * largest)
        small = SMALL_NOISE * largest if self._is_probability else 0.0
        allowed: FloatArray = np.maximum(excused, min(NOISE_FACTOR * noise, small))
        return allowed


def _headroom(count: int) -> float:
    """Return how far the largest of so few values may fall short of what is typical, by chance.

    The largest magnitude of n normal values is below σ·p^(1/n)/0.8 with probability p, about, since
    a single one is below x with a probability of at most 0.8·x/σ. Here p is 1 in 10,000.
    """
    return max(1.0, 0.8 * math.pow(1e4, 1 / max(count, 1)))


def _slices(rank: int) -> list[tuple[int, ...]]:
    """Return over which axes to look for the largest value: all but one, for each that counts."""
    kept = {1, rank - 1}
    return [tuple(a for a in range(rank) if a != axis) for axis in kept if 0 < axis < rank]


def _largest(samples: Sequence[Array], axes: tuple[int, ...]) -> FloatArray:
    """Return the largest over all samples and these axes, which stay with length 1."""
    found = [each.max(axis=axes, keepdims=True, initial=0.0) for each in samples]
    if any(each.shape != found[0].shape for each in found):
        return np.array(max(float(each.max(initial=0.0)) for each in found))
    largest: FloatArray = np.maximum.reduce(found)
    return largest


def _magnitude(values: Array) -> FloatArray:
    wide = np.abs(values.astype(np.float64))
    return np.where(np.isfinite(wide), wide, 0.0)


def difference(original: Array, other: Array) -> Array:
    """Return |original − other| where both are finite, else 0; zeros where they do not compare."""
    if original.dtype.kind != "f" or original.shape != other.shape:
        return np.zeros(original.shape)
    with np.errstate(invalid="ignore"):
        return _magnitude(original.astype(np.float64) - other.astype(np.float64))


def unsettled_share(original: Array, noise: Array) -> float | None:
    """Return how large the noise is (see `Unsettled`), where it is too much to compare anything.

    None where it is not. Outputs that must be equal have no noise.
    """
    tolerance = DEFAULT_TOLERANCES.get(original.dtype.name)
    if tolerance is None or not noise.size:
        return None
    typical = _root_mean_square(_magnitude(original))
    share = _root_mean_square(noise) / typical if typical else 0.0
    return share if share > _UNSETTLED * tolerance.rtol else None


def _root_mean_square(values: FloatArray) -> float:
    largest = float(values.max(initial=0.0))
    return largest * math.sqrt(float(np.mean((values / largest) ** 2))) if largest else 0.0


def within_tolerance(comparison: OutputComparison) -> bool:
    """Say whether the output stays within its tolerance at each element."""
    needed, allowed = comparison.needed, comparison.tolerance
    if comparison.excused:
        return True
    return needed is not None and needed.rtol <= allowed.rtol and needed.atol <= allowed.atol


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
