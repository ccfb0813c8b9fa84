"""How an output of one model differs from that of the other."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tolerance:
    """An element may differ by ``atol + rtol·|original|``; `atol` is in the output's unit."""

    rtol: float
    atol: float


@dataclass(frozen=True)
class Worst:
    """The element that uses most of its tolerance, or exceeds it most."""

    sample: int
    index: list[int]
    original: float
    optimized: float


@dataclass(frozen=True)
class NonFinite:
    """The number of NaN or infinite elements, and whether they are the same in both models."""

    original: int
    optimized: int
    same: bool


@dataclass(frozen=True)
class Flip:
    """A sample in which the class with the highest score differs.

    `index` names the row of scores. `margin` is the original's score of its own class minus its
    score of the class that the optimized model prefers.
    """

    sample: int
    index: list[int]
    original: int
    optimized: int
    margin: float


SHARES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The bounds of `OutputComparison.shares`. An element beyond the last one fails."""


@dataclass(frozen=True)
class OutputComparison:
    """The difference between an output of one model and that of the other, over all samples.

    Differences are over the elements that are finite in both. `tolerance` applies to the worst
    element, and `needed` is the smallest tolerance that would have passed there: null if none would
    because shapes, non-finite values, or values that must be equal differ. `shares` counts the
    elements by the share of their tolerance that they use: up to each of `SHARES`, and beyond. If
    an output looks like class scores, the agreements are the shares of rows with the same best
    class, or the same five best.
    """

    name: str
    dtype: str
    shape: list[int]
    max_abs: float
    max_rel: float
    rms: float
    cosine: float
    worst: Worst | None
    tolerance: Tolerance
    needed: Tolerance | None
    nonfinite: NonFinite
    excused: int = 0
    """The number of ignored elements beyond their tolerance: the model rounds to steps, and the
    original itself gives these values when its inputs or weights change by their last bits, or
    they are one step away."""
    mismatch: str = ""
    """Why the outputs cannot be compared, or are unequal where they must be equal."""
    shares: list[int] = field(default_factory=list)
    top1_agreement: float | None = None
    top5_agreement: float | None = None
    flips: list[Flip] = field(default_factory=list)
    samples: int = 0
    """The number of samples that count; 0 in records of older versions."""
    exchanged: int = 0
    """The number of rows that changed places, because the values that order them tie."""
    replaced: int = 0
    """The number of rows that are others than the original's, because the values that select them
    tie: the original itself selects these when its inputs or weights change by their last bits."""
    by_float64: bool = False
    """Whether it exceeds its tolerance and passes all the same: against the float64 evaluation, the
    original's own rounding is as large."""


@dataclass(frozen=True)
class TruthOutput:
    """The error of both models against the float64 evaluation of the original (the truth).

    Errors are RMS, relative to the RMS of the truth, on the sample where the original is most
    stable. `noise` is the change of the original, in the same measure, when its inputs change by
    their last bit. `computed_exactly` is the error of the optimized model when it is evaluated in
    float64, too: the effect of rounding its new weights.
    """

    name: str
    dtype: str
    original: float
    optimized: float
    computed_exactly: float
    noise: float = 0.0
    limit: float | None = None
    """The largest error allowed for the optimized model; null in records of older versions."""
    unit: str = "float32"
    """The rounding unit: the coarsest float type on the way to the output."""
    ratio: float | None = None
    """`computed_exactly`, in the slice or element where it is largest compared with what rounding
    explains, as a multiple of that; above 1, the two models are not the same function."""
    where: str = ""
    """That slice or element."""


@dataclass(frozen=True)
class Truth:
    """The float64 evaluation. If it has no outputs, `note` says why."""

    samples: int
    note: str
    outputs: list[TruthOutput] = field(default_factory=list)
    needless: bool = False
    """Whether float64 would give no output more exactly."""
