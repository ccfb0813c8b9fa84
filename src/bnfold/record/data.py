"""The record of a run: plain data from which every table and report is made.

Field names are those of the schema ``bnfold.report/1``. Later versions may add fields, but do not
rename any.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from bnfold.version import __version__

SCHEMA = "bnfold.report/1"


Verdict: TypeAlias = Literal["pass", "fail", "not-verified"]
OverallVerdict: TypeAlias = Literal["pass", "certified", "fail", "not-verified", "identical"]
LevelName: TypeAlias = Literal["disabled", "all"]
ExactnessName: TypeAlias = Literal["bitwise", "rounded", "semantic"]
SpeedVerdict: TypeAlias = Literal["faster", "slower", "no significant difference"]


@dataclass(frozen=True)
class ModelRecord:
    """A model file. `bytes` is the size of the file itself, without external data."""

    path: str | None
    sha256: str | None
    """None if not requested: hashing a large model is slow."""
    bytes: int
    ir_version: int
    opset: dict[str, int]
    nodes: int
    ops: dict[str, int]
    """The number of nodes by operator, subgraphs and functions included."""


@dataclass(frozen=True)
class NodeSketch:
    """A node in a small drawing: its operator, and the nodes of the drawing that it reads.

    `reads` holds indices into the drawing. Each negative number stands for one value from outside
    it; weights are omitted.
    """

    op_type: str
    reads: list[int]


CertificateVerdict: TypeAlias = Literal["certified", "sampled", "differs", "open"]
CertificateKind: TypeAlias = Literal[
    "constant", "copying", "linear", "maximum", "channels", "selection", "sampled", ""
]


@dataclass(frozen=True)
class Difference:
    """An element at which the two sides of a window differ; or why they cannot be compared."""

    output: str
    index: list[int]
    before: float | None
    after: float | None
    mismatch: str = ""


@dataclass(frozen=True)
class Certificate:
    """Whether what a rewrite replaced, and what replaced it, compute the same for all inputs.

    `kind` is how that was proven: "constant" and "copying" bit by bit; "linear" by a bound on each
    row of the difference, "maximum" likewise for each element that a maximum is over, "channels"
    between functions that read the same; "selection" by which elements these are. "sampled" proves
    nothing, but found no difference. "open" has neither, and `note` says why.
    """

    verdict: CertificateVerdict
    kind: CertificateKind = ""
    note: str = ""
    probes: int = 0
    """The number of inputs that both sides were evaluated on."""
    bound: float | None = None
    """An output differs by at most this share of its row's norm times that of the input."""
    doubt: float | None = None
    """The probability that the bound does not hold."""
    shapes: list[dict[str, list[int]]] = field(default_factory=list)
    """The shapes of the inputs, in turn."""
    seconds: float = 0.0
    worst: Difference | None = None


@dataclass(frozen=True)
class OpenWindow:
    """An output of a model that is not proven, and why."""

    output: str
    reason: str


@dataclass(frozen=True)
class ModelCertificate:
    """How far two models are proven equal for all inputs, by the values with one name in both."""

    values: int
    """How many are proven, each from those before it."""
    bound: float | None
    """The largest of `Certificate.bound`."""
    doubt: float
    """The probability that one of the bounds does not hold."""
    open: list[OpenWindow]
    """The outputs that are not proven; none if the models are equal."""
    seconds: float


@dataclass(frozen=True)
class RewriteRecord:
    """One application of a pass."""

    pass_name: str
    site: str
    op_type: str
    """The operator at the site."""
    nodes: list[str]
    exactness: ExactnessName
    detail: str
    gone: dict[str, str] = field(default_factory=dict)
    """Each BatchNormalization and Dropout that was also removed, as operator by site: absorbed, or
    no longer read."""
    before: list[NodeSketch] = field(default_factory=list)
    """The nodes of the pattern, in graph order, as in `nodes`. Like `after`, it is empty beyond the
    first hundred rewrites of a pass."""
    after: list[NodeSketch] = field(default_factory=list)
    """The nodes that replace them."""
    certificate: Certificate | None = None
    """The proof that both compute the same; null if it was not asked for."""


@dataclass(frozen=True)
class PassRecord:
    """A selected pass, with its documentation: identity and conditions."""

    name: str
    exactness: ExactnessName
    documentation: str


@dataclass(frozen=True)
class RefusalRecord:
    """A node that matches a pass but must not be rewritten."""

    pass_name: str
    site: str
    op_type: str
    reason: str
    message: str
    remedy: str
    in_the_way: str
    also_reason: str = ""
    """Why the pass could not rewrite the node from the other side either."""
    also_message: str = ""
    also_in_the_way: str = ""


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
    """How many values with one name in both models were compared."""
    max_abs: float
    worst: Worst | None


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


@dataclass(frozen=True)
class SpeedBlock:
    """The times of one set of fresh sessions, by model: original, optimized, control.

    The control is a second session of the original. Runs are interleaved: the numbers at the same
    position of `run_ms` belong to the same turn.
    """

    load_ms: dict[str, float]
    run_ms: dict[str, list[float]]


@dataclass(frozen=True)
class SpeedSummary:
    """The summary of a timing. Without a second model, the fields about it are null.

    Times are medians over all turns, in milliseconds. `speedup` is the median ratio of the
    original's time to the optimized model's, turn by turn; `control` is that of the original to the
    control.
    """

    original_ms: float
    optimized_ms: float | None
    speedup: float | None
    ci95: list[float] | None
    control: float
    control_ci95: list[float]
    verdict: SpeedVerdict | None


@dataclass(frozen=True)
class SpeedRecord(SpeedSummary):
    """The timing of one or two models. Without a second model, the fields about it are null.

    Times are medians over all turns, in milliseconds. `speedup` is the median ratio of the
    original's time to the optimized model's, turn by turn; `control` is that of the original to the
    control. All of them follow from `samples` (see `bnfold.speed.statistics.summarize`).
    """

    provider: str
    level: LevelName
    threads: int
    shapes: dict[str, list[int]]
    note: str
    load_ms: list[float]
    """Of the original, and of the optimized model if there is one."""
    peak_mb: list[float] | None
    """The memory for loading and one run of each model in its own process; null if not measured."""
    placement: list[dict[str, int]] | None
    """The number of nodes by provider, of each model; null if onnxruntime does not report it."""
    samples: list[SpeedBlock]


@dataclass(frozen=True)
class TuningTrial:
    """The timing of the model without some rewrites, and whether they were dropped as a result.

    `without` holds their sites by pass; the other fields are as in `SpeedRecord`.
    """

    without: dict[str, list[str]]
    speedup: float
    ci95: list[float]
    control: float
    control_ci95: list[float]
    verdict: SpeedVerdict
    dropped: bool
    samples: list[SpeedBlock]


@dataclass(frozen=True)
class TuningRecord:
    """The trials of ``--tune`` in order, and the time limit in seconds."""

    seconds: float
    trials: list[TuningTrial]


@dataclass(frozen=True)
class OutputRecord:
    """What was, or would be, written. `bytes` is the size of the model file itself."""

    path: str | None
    same: bool
    """Whether it is the input, byte for byte."""
    written: bool
    sha256: str | None
    """None if not requested."""
    bytes: int
    nodes: int
    ops: dict[str, int]
    data: str | None = None
    """The external data file written for its weights, if any."""
    data_bytes: int = 0
    outgrew_one_file: bool = False
    """Whether the weights moved out of the model file because they exceed its size limit."""


def _tool() -> dict[str, str]:
    return {"name": "bnfold", "version": __version__}


@dataclass(frozen=True)
class Record:
    """The results of a run. `to_json` returns the JSON report.

    `command` is the command line; it is empty if bnfold was called from Python.
    """

    command: list[str]
    model: ModelRecord
    environment: dict[str, Any]
    candidate: ModelRecord | None = None
    output: OutputRecord | None = None
    rewrites: list[RewriteRecord] = field(default_factory=list)
    refusals: list[RefusalRecord] = field(default_factory=list)
    equivalence: Equivalence | None = None
    speed: list[SpeedRecord] = field(default_factory=list)
    speed_note: str = ""
    """Why a requested timing is missing."""
    tuning: TuningRecord | None = None
    passes: list[PassRecord] = field(default_factory=list)
    """The passes that rewrote or refused something."""
    tool: dict[str, str] = field(default_factory=_tool)
    """The `name` and `version` of the tool that made the record."""

    def to_json(self) -> str:
        """Return the record as strict JSON, with the field names of the schema."""
        return strict_json({"schema": SCHEMA, "tool": self.tool} | _plain(self))


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Represents an undecodable byte of a file name. UTF-8 cannot encode it, but JSON can escape it."""


def strict_json(content: dict[str, Any]) -> str:
    """Return plain data as JSON that every parser reads: no NaN, no halves of characters."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    return _LONE_SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def json_key(name: str) -> str:
    """Return the JSON key of a field of these classes."""
    return "pass" if name == "pass_name" else name


def _plain(value: Any) -> Any:
    """Convert dataclasses to dicts, and non-finite floats to strings."""
    if dataclasses.is_dataclass(value):
        return {json_key(f.name): _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(content) for key, content in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(element) for element in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
