"""How far an output may be off, and how far it is: everything about one output of two models."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from bnfold.arrays import Array, FloatArray
from bnfold.options import CheckOptions
from bnfold.record.data import OutputComparison, Tolerance

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


SMALL_NOISE = 1e-6
"""What noise anywhere in an output between 0 and 1 excuses everywhere, as a share of its largest
value: a saturated Sigmoid or Softmax has as much noise in values near zero as in others, and may
happen to show it in some only."""


class Allowance:
    """What each element of an output may be off by: ``atol + rtol·|original|``.

    By default `atol` is a share of the smallest of these magnitudes: the largest in the element's
    sample; the largest in its channel (axis 1) over all samples; the largest at its place on the
    last axis. So a channel of small values is not excused by one
    of large values, nor a sample by another. Where a channel has few values, their largest says
    little, and counts for more (see `_headroom`). The noise floor is allowed `NOISE_FACTOR` times.

    Args:
        options: the tolerances asked for.
        originals: what the original gives, sample by sample.
        noise: how far it is from itself at another optimization level, or None if not known yet.
    """

    def __init__(
        self, options: CheckOptions, originals: Sequence[Array], noise: Sequence[Array] | None
    ) -> None:
        default = DEFAULT_TOLERANCES.get(originals[0].dtype.name)
        self._options = options
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
        if self.is_exact or self._options.rtol is None:
            return self._default.rtol
        return self._options.rtol

    def atol(self, sample: int) -> FloatArray:
        """Return the absolute tolerance of each element of a sample; it broadcasts to them."""
        if self._options.atol is not None:
            return np.array(self._options.atol)
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
    typical = root_mean_square(_magnitude(original))
    share = root_mean_square(noise) / typical if typical else 0.0
    return share if share > _UNSETTLED * tolerance.rtol else None


def root_mean_square(values: FloatArray) -> float:
    """Return √(mean(x²)), scaled on the way so that no square overflows; 0 for no values."""
    largest = float(np.abs(values).max(initial=0.0))
    return largest * math.sqrt(float(np.mean((values / largest) ** 2))) if largest else 0.0


def within_tolerance(comparison: OutputComparison) -> bool:
    """Say whether the output stays within its tolerance at each element."""
    needed, allowed = comparison.needed, comparison.tolerance
    if comparison.excused:
        return True
    return needed is not None and needed.rtol <= allowed.rtol and needed.atol <= allowed.atol
