"""What each element of an output may be off by, without a float64 evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from bnfold.arrays import Array, FloatArray
from bnfold.options import CheckOptions
from bnfold.proof.noise import Noise, widened
from bnfold.record.data import OutputComparison, Tolerance

DEFAULT_TOLERANCES: dict[str, Tolerance] = {
    "float64": Tolerance(rtol=1e-9, atol=1e-10),
    "float32": Tolerance(rtol=1e-4, atol=2e-5),
    "float16": Tolerance(rtol=1e-2, atol=5e-3),
    "bfloat16": Tolerance(rtol=4e-2, atol=2e-2),
}
"""By rounding unit: the coarsest float type on the way to an output, weights included. Here `atol`
is a share of a typical magnitude; see `Allowance`. Outputs that are not floats must be equal."""

COARSE = 2.0**-22
"""How far apart two Sigmoids of the same number may be, in all: each is off by up to 1.7e-7, also
where it is much less than that, and no draw of the noise shows it where all of a slice is."""

DEVIATIONS = 2.0
"""The scale of the noise is allowed so many times √(2 ln N), for N elements: that is where the
largest of N normal values lies. Twice that, because noise has heavier tails."""


class Allowance:
    """What each element of an output may be off by: ``atol + rtol·|original| + k·noise``.

    By default `atol` is a share of the smallest of these magnitudes: the largest in the element's
    sample, and the largest in its slice along each axis (over all samples, where they have the same
    size there). So a slice of small values is not excused by one of large values, nor a sample by
    another. Where a slice has few values, their largest says little, and counts for more (see
    `_headroom`). The noise is the original's own; see `Noise`.

    Args:
        options: the tolerances asked for.
        unit: the rounding unit of the output, by its name.
        originals: what the original gives, by the number of the sample.
        noise: how far it is from itself, or None if not known yet.
        is_coarse: whether it is what a Sigmoid gives.
    """

    def __init__(
        self,
        options: CheckOptions,
        unit: str,
        originals: Mapping[int, Array],
        noise: Noise | None = None,
        *,
        is_coarse: bool = False,
    ) -> None:
        default = DEFAULT_TOLERANCES.get(unit)
        self._options = options
        types = {values.dtype.name for values in originals.values()}
        self.is_exact = default is None or not types <= DEFAULT_TOLERANCES.keys()
        self._default = default if default and not self.is_exact else Tolerance(0.0, 0.0)
        self._magnitudes = (
            {}
            if self.is_exact
            else {sample: np.abs(widened(values)) for sample, values in originals.items()}
        )
        self._noise = None if self.is_exact else noise
        self._least = COARSE if is_coarse else 0.0
        elements = sum(values.size for values in originals.values())
        self.deviations = DEVIATIONS * math.sqrt(2 * math.log(max(elements, 8)))
        """How many times the scale of the noise is allowed."""

    @property
    def rtol(self) -> float:
        """The relative tolerance."""
        if self.is_exact or self._options.rtol is None:
            return self._default.rtol
        return self._options.rtol

    def atol(self, sample: int, *, with_own_noise: bool = True) -> FloatArray:
        """Return the absolute tolerance of each element of a sample; it broadcasts to them.

        It is what was asked for; or the default, and on top the noise: its scale in the element's
        slices or, `with_own_noise`, the largest draw at the element itself, if that is more.
        """
        tolerance = np.array(self._options.atol or 0.0)
        if self._options.atol is None:
            magnitude = self._magnitudes[sample]
            typical = np.array(magnitude.max(initial=0.0))
            for axis in range(magnitude.ndim):
                typical = np.minimum(typical, self._largest_in_slices(sample, axis))
            tolerance = np.maximum(self._default.atol * typical, self._least)
        if self._noise is None or self._options.atol is not None:
            return tolerance
        scale = self._noise.scale(sample)
        if with_own_noise:
            scale = np.maximum(scale, self._noise.largest[sample])
        allowed: FloatArray = tolerance + self.deviations * scale
        return allowed

    def limits(self, sample: int, original: Array) -> FloatArray:
        """Return what each element of a sample may be off by in all, its own draws aside."""
        if self.is_exact:
            return np.zeros(original.shape)
        size = np.abs(original.astype(np.float64))
        return np.asarray(self.atol(sample, with_own_noise=False) + self.rtol * size)

    def _largest_in_slices(self, sample: int, axis: int) -> FloatArray:
        """Return the largest magnitude in each slice along an axis, with headroom for few values.

        Over all samples, if they have as many slices, and axes; else over this one alone.
        """
        magnitude = self._magnitudes[sample]
        size = magnitude.shape[axis]
        alike = [
            values
            for values in self._magnitudes.values()
            if axis > 0 and values.ndim == magnitude.ndim and values.shape[axis] == size
        ]
        others = tuple(other for other in range(magnitude.ndim) if other != axis)
        chosen = alike or [magnitude]
        found = [values.max(axis=others, keepdims=True, initial=0.0) for values in chosen]
        count = sum(values.size for values in chosen) // max(size, 1)
        largest: FloatArray = np.maximum.reduce(found) * _headroom(count)
        return largest


def _headroom(count: int) -> float:
    """Return how far the largest of so few values may fall short of what is typical, by chance.

    The largest magnitude of n normal values is below σ·p^(1/n)/0.8 with probability p, about, since
    a single one is below x with a probability of at most 0.8·x/σ. Here p is 1 in 10,000.
    """
    return max(1.0, 0.8 * math.pow(1e4, 1 / max(count, 1)))


def within_tolerance(comparison: OutputComparison) -> bool:
    """Say whether the output stays within its tolerance at each element."""
    if comparison.by_float64:
        return True
    needed, allowed = comparison.needed, comparison.tolerance
    return needed is not None and needed.rtol <= allowed.rtol and needed.atol <= allowed.atol
