"""How far an output of the original is from itself: rounding as a random quantity.

The original is run again and again with changes that mean nothing: its inputs and weights moved to
an adjacent number, onnxruntime's optimizations on. Each run is a draw of its rounding noise. One
draw at one element is luck; what is estimated is a scale by sample, and along every axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bnfold.arrays import Array, FloatArray

MOST_DEVIATIONS = 5.0
"""In units of the scale. Draws beyond it count as much as this in the scale: rare outliers, such as
jumps from step to step, must not excuse a whole channel."""

UNSETTLED: dict[str, float] = {"float64": 0.02, "float32": 0.02, "float16": 0.1, "bfloat16": 0.1}
"""By rounding unit. A sample on which the noise of an output is a larger share of its values (in
the root mean square) says nothing: what the original gives there is decided by its rounding."""


def root_mean_square(values: FloatArray) -> float:
    """Return √(mean(x²)), scaled on the way so that no square overflows; 0 for no values."""
    largest = float(np.abs(values).max(initial=0.0))
    return largest * math.sqrt(float(np.mean((values / largest) ** 2))) if largest else 0.0


def widened(values: Array) -> FloatArray:
    """Return the values as float64, those that are not finite as 0."""
    wide = values.astype(np.float64)
    return np.where(np.isfinite(wide), wide, 0.0)


def distance(original: Array, other: Array) -> FloatArray:
    """Return |original − other| where both are finite, else 0; zeros where they do not compare."""
    if original.dtype.kind not in "fiub" or original.shape != other.shape:
        return np.zeros(original.shape)
    return gap(original, other)


def gap(original: Array, other: Array) -> FloatArray:
    """Return |original − other|, numbers that broadcast, where both are finite, else 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        found = np.abs(np.subtract(original, other, dtype=np.float64))
    return found if np.isfinite(found).all() else widened(found)


class Noise:
    """The noise of one output, gathered over draws.

    Args:
        originals: what the original gives, sample by sample.
        jumps: whether a step lies on the way, so that draws have outliers.
    """

    def __init__(self, originals: Sequence[Array], *, jumps: bool = False) -> None:
        self._originals = list(originals)
        self._jumps = jumps
        self.largest = [np.zeros(values.shape) for values in originals]
        """The largest difference of any draw, element by element."""
        self._draws: list[list[Array]] = [[] for _ in originals]
        self._slices: dict[int, list[Slices]] = {}

    @property
    def draws(self) -> int:
        """How many draws there are."""
        return len(self._draws[0]) if self._draws else 0

    def add(self, results: Sequence[Array]) -> None:
        """Add a draw: what the original gave on each sample."""
        self._slices.clear()
        for sample, (original, result) in enumerate(zip(self._originals, results, strict=True)):
            found = distance(original, result)
            self._draws[sample].append(found.astype(np.float32))
            self.largest[sample] = np.maximum(self.largest[sample], found)

    def share(self, sample: int) -> float:
        """Return how large the noise is on a sample, as a share of the values."""
        draws = (draw.astype(np.float64) for draw in self._draws[sample])
        noise = max(map(root_mean_square, draws), default=0.0)
        size = root_mean_square(widened(self._originals[sample]))
        return noise / size if size else (math.inf if noise else 0.0)

    def is_settled(self, sample: int, unit: str) -> bool:
        """Say whether what the original gives on a sample is more than its own rounding."""
        return self.share(sample) <= UNSETTLED.get(unit, 0.0)

    def slices(self, sample: int) -> list[Slices]:
        """Return the noise's scale in each slice of a sample, along each axis in turn.

        One slice of all there is where there are no axes. A scale is a root mean square over the
        slice and over all draws; past a step, with deviations limited to `MOST_DEVIATIONS`.
        """
        if sample not in self._slices:
            draws = self._draws[sample]
            stacked = np.stack(draws) if draws else np.zeros((1, *self._originals[sample].shape))
            self._slices[sample] = [
                Slices(
                    _scale(stacked, axes, limited=self._jumps),
                    stacked.size // max(stacked.shape[kept], 1),
                )
                for kept, axes in _axes(stacked.ndim)
            ] or [Slices(_scale(stacked, (0,), limited=self._jumps), len(stacked))]
        return self._slices[sample]

    def scale(self, sample: int) -> FloatArray:
        """Return the scale at each element of a sample: the least of those of its slices.

        With headroom where a slice has few values.
        """
        least: FloatArray = np.full((1,) * self._originals[sample].ndim, math.inf)
        for slices in self.slices(sample):
            least = np.minimum(least, slices.scale * headroom(slices.count))
        return least


@dataclass(frozen=True)
class Slices:
    """A scale in each slice along an axis: of its size there, and of size 1 along the others."""

    scale: FloatArray
    count: int
    """How many values a slice has, over all draws."""


def headroom(count: int) -> float:
    """Return how far a scale that so few values give may fall short by chance.

    The sum of m squares of normal values is below x with a probability of about
    (x/2)^(m/2) / Γ(m/2 + 1), the first term of the χ² distribution; here that is 1 in 10,000. For
    many values the distribution is taken to be normal. Half of the values count: many are zero, or
    alike in several draws.
    """
    values = max(count // 2, 1)
    if values >= _MANY:
        return 1 / math.sqrt(1 - _TAIL * math.sqrt(2 / values))
    least = 2 * math.exp((math.log(1e-4) + math.lgamma(values / 2 + 1)) / (values / 2))
    return math.sqrt(values / least)


_MANY = 60
_TAIL = 3.72
"""Standard deviations below which 1 in 10,000 normal values lies."""


def _axes(rank: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return each axis but the first, which counts draws, with all others."""
    return [(kept, tuple(axis for axis in range(rank) if axis != kept)) for kept in range(1, rank)]


def _scale(draws: Array, axes: tuple[int, ...], *, limited: bool) -> FloatArray:
    """Return the root mean square over axes (which stay, the first aside)."""
    largest = float(draws.max(initial=0.0))
    if not largest or not draws.size:
        return np.zeros([1 if axis in axes else size for axis, size in enumerate(draws.shape)][1:])
    squares = (draws.astype(np.float64) / largest) ** 2
    mean = squares.mean(axis=axes, keepdims=True)
    for _ in range(2 if limited else 0):
        mean = np.minimum(squares, MOST_DEVIATIONS**2 * mean).mean(axis=axes, keepdims=True)
    scale: FloatArray = largest * np.sqrt(mean[0])
    return scale


# --- Changes that mean nothing --------------------------------------------------------------------

_RELATIVE = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""From 1 to the next number of a rounding unit."""


def moved(
    arrays: Mapping[str, Array], seed: int, unit: str = "float32", steps: int = 1
) -> dict[str, Array]:
    """Return arrays whose floats are moved up or down, at random, by some steps of the unit.

    Rounding on the way is no smaller than one. A unit coarser than the array's own type counts: a
    model that rounds its inputs to float16 does not see their last bits.
    """
    generator = np.random.default_rng(seed)
    result = {}
    for name, content in arrays.items():
        if content.dtype.kind != "f":
            result[name] = content
            continue
        relative = max(_RELATIVE.get(unit, 0.0), float(np.finfo(content.dtype).eps))
        step = content.dtype.type(relative * steps)
        with np.errstate(over="ignore", invalid="ignore"):
            changed = np.empty(content.shape, content.dtype)
            np.multiply(_bits(generator, content.shape), 2 * step, out=changed, dtype=changed.dtype)
            changed += 1 - step
            changed *= content
        is_finite = np.isfinite(changed)
        result[name] = changed if is_finite.all() else np.where(is_finite, changed, content)
    return result


def _bits(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return zeros and ones at random: a bit is drawn for each, not a number."""
    count = math.prod(shape)
    drawn = np.frombuffer(generator.bytes(-(-count // 8)), np.uint8)
    return np.unpackbits(drawn, count=count).reshape(shape)
