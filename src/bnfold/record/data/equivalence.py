"""Whether two models compute the same values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from bnfold.record.data.certificates import ModelCertificate
from bnfold.record.data.outputs import OutputComparison, Truth, Worst

Verdict: TypeAlias = Literal["pass", "fail", "not-verified"]

OverallVerdict: TypeAlias = Literal["pass", "certified", "fail", "not-verified", "identical"]

Cause: TypeAlias = Literal["", "cannot-load", "constant-output", "other-ties"]

LevelName: TypeAlias = Literal["disabled", "all"]


@dataclass(frozen=True)
class Culprit:
    """The rewrite that makes the check fail, or the first of several that do so together.

    `worst` is the element furthest beyond its tolerance with this rewrite.
    """

    pass_name: str
    site: str
    nodes: list[str]
    detail: str
    reason: str
    """Why the check fails with it."""
    output: str
    worst: Worst | None
    dropped: bool
    """Whether ``--drop-culprit`` dropped the rewrite."""
    is_certified: bool = False
    """Whether it is the rewrite's own certificate that shows the difference."""


@dataclass(frozen=True)
class LevelComparison:
    """The comparison at one of onnxruntime's optimization levels.

    `against` is the level of the original. It is "disabled" unless optimization alone changes the
    original beyond its tolerance.
    """

    level: LevelName
    verdict: Verdict
    outputs: list[OutputComparison]
    against: LevelName = "disabled"


@dataclass(frozen=True)
class Unsettled:
    """A sample that is inconclusive for an output, because the original is unstable there.

    `noise` is the RMS of the original's change when its inputs change by their last bit, relative
    to the RMS of its values.
    """

    sample: int
    output: str
    noise: float


@dataclass(frozen=True)
class Inconclusive:
    """An output that shows nothing by itself, so that the verdict rests on the others."""

    output: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """How outputs are compared whose rows are selected by values that may tie.

    Before the operators that select, the two models are compared value by value: all `outputs` of
    the comparison are such values. After that, both have the same operators; or others, which give
    the same results on what the original computes before.
    """

    operators: list[str]
    """Those that select."""
    outputs: list[str]
    """The outputs that depend on them, or are passed on."""
    rows: int
    """How many rows the original's outputs have, on the samples on which they were matched."""
    same: int
    """How many of them the optimized model has, too; the others tie with those that it has."""
    same_operators: bool = True
    """Whether both have the same operators after those that select."""


@dataclass(frozen=True)
class ProviderEquivalence:
    """The verdict on one execution provider.

    `outputs` compares without onnxruntime's optimizations, `levels` at each level; `noise_floor`
    compares the original with itself across the levels. All of them exclude the `unsettled`
    samples. `tf32` compares like `outputs` on a CUDA device, but with the device's default
    precision for products. `placement` is the number of nodes by provider, of the original and of
    the optimized model.
    """

    provider: str
    verdict: Verdict
    reason: str
    outputs: list[OutputComparison]
    levels: list[LevelComparison]
    noise_floor: list[OutputComparison]
    unsettled: list[Unsettled] = field(default_factory=list)
    truth: Truth | None = None
    tf32: list[OutputComparison] = field(default_factory=list)
    placement: list[dict[str, int]] | None = None
    inconclusive: list[Inconclusive] = field(default_factory=list)
    draws: int = 0
    """How often the original was run to estimate its rounding noise."""
    selection: Selection | None = None
    """What was compared in place of outputs whose rows are selected; null if nothing was."""
    narrow: bool = False
    """Whether float64 shows slightly more than rounding explains, and certificates let it pass."""
    cause: Cause = ""
    """What the reason is, if it is one of these: onnxruntime cannot load the original; what it
    gives is one number throughout; or functions that increase with the same values tie where the
    other model's do not. Else empty."""


@dataclass(frozen=True)
class InputsRecord:
    """How the inputs were made, so that they can be reproduced.

    `shapes` holds the input shapes of each sample, by name; `ranges` the largest values of integer
    inputs.
    """

    seed: int
    samples: int
    source: str
    shapes: list[dict[str, list[int]]]
    ranges: dict[str, int]
    sha256: str


@dataclass(frozen=True)
class Divergence:
    """The first value within the models that they compute otherwise, by ``--outputs all``."""

    value: str
    op_type: str
    """The operator that computes it in the original."""
    node: str
    compared: int
    """How many values within the models were paired and compared."""
    max_abs: float | None
    """How far the two are apart; null if nothing in the other model has this shape."""
    worst: Worst | None
    other_value: str = ""
    """What the other model computes in its place; empty if that was not found."""
    other_op_type: str = ""


@dataclass(frozen=True)
class Equivalence:
    """Whether two models compute the same values."""

    verdict: OverallVerdict
    reason: str = ""
    providers: list[ProviderEquivalence] = field(default_factory=list)
    inputs: InputsRecord | None = None
    culprits: list[Culprit] = field(default_factory=list)
    """The rewrites that make the check fail, or did and were dropped."""
    certificate: ModelCertificate | None = None
    """How far the two are proven equal; null where each rewrite has a certificate of its own."""
    divergence: Divergence | None = None
    """Where the models first diverge, if that was asked for and they do."""

    @property
    def causes(self) -> set[Cause]:
        """The causes of the providers' verdicts."""
        return {provider.cause for provider in self.providers}
