"""The record of a run: plain data, from which every table and report is made.

Field names are those of the schema ``bnfold.report/1``. Fields that a later version adds are
new keys; none is renamed.
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
OverallVerdict: TypeAlias = Literal["pass", "fail", "not-verified", "identical"]
LevelName: TypeAlias = Literal["disabled", "all"]
ExactnessName: TypeAlias = Literal["bitwise", "rounded", "semantic"]
SpeedVerdict: TypeAlias = Literal["faster", "slower", "no significant difference"]


@dataclass(frozen=True)
class ModelRecord:
    """What a model file is. `bytes` counts the file itself, without external data."""

    path: str | None
    sha256: str | None
    """None where nobody wanted it: of a large model, it takes long."""
    bytes: int
    ir_version: int
    opset: dict[str, int]
    nodes: int
    ops: dict[str, int]
    """How many nodes of each operator, bodies and functions included."""


@dataclass(frozen=True)
class NodeSketch:
    """A node as part of a small drawing: its operator, and the nodes of the drawing that it reads.

    They are given by their place in the drawing. Negative numbers, one each, stand for values that
    come from elsewhere; weights are left out.
    """

    op_type: str
    reads: list[int]


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
    """The operator by site of each BatchNormalization and Dropout that went with it: it took them
    over, or nothing else read them."""
    before: list[NodeSketch] = field(default_factory=list)
    """The nodes of the pattern, in graph order, as in `nodes`; empty beyond a pass's first hundred
    rewrites, as is `after`."""
    after: list[NodeSketch] = field(default_factory=list)
    """The nodes that took their place."""


@dataclass(frozen=True)
class PassRecord:
    """A pass that was chosen, and what it says of itself: its identity and conditions."""

    name: str
    exactness: ExactnessName
    documentation: str


@dataclass(frozen=True)
class RefusalRecord:
    """One node that a pass would rewrite but may not."""

    pass_name: str
    site: str
    op_type: str
    reason: str
    message: str
    remedy: str
    in_the_way: str
    also_reason: str = ""
    """Why a second attempt of the pass, from the other side, was refused as well."""
    also_message: str = ""
    also_in_the_way: str = ""


@dataclass(frozen=True)
class Tolerance:
    """An element may differ by ``atol + rtol·|original|``; `atol` in the output's own unit."""

    rtol: float
    atol: float


@dataclass(frozen=True)
class Worst:
    """The element that comes closest to its tolerance, or exceeds it most."""

    sample: int
    index: list[int]
    original: float
    optimized: float


@dataclass(frozen=True)
class NonFinite:
    """How many elements are NaN or infinite, and whether both models have the same at each."""

    original: int
    optimized: int
    same: bool


@dataclass(frozen=True)
class Flip:
    """A sample in which the class with the highest score is another.

    `index` names the row of scores. `margin` is by how much the original prefers its own class
    over the one that the optimized model prefers, in the unit of the scores.
    """

    sample: int
    index: list[int]
    original: int
    optimized: int
    margin: float


SHARES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The bounds of `OutputComparison.shares`; what lies beyond the last one fails."""


@dataclass(frozen=True)
class OutputComparison:
    """How far an output of one model is from the other's, over all samples.

    Differences are over the elements that are finite in both. `tolerance` is the one at the worst
    element, and `needed` the one that would just have passed there: null where none would, because
    shapes, non-finite values, or values that must be equal differ. `shares` counts the elements by
    the share of their tolerance that they are off by: up to each of `SHARES`, and beyond. Where an
    output looks like scores of classes, the agreements are the shares of rows whose best class,
    or five best, are the same.
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
    """How many elements beyond their tolerance count for nothing: the model rounds to steps, and
    the original itself jumps to another one at about as many places."""
    mismatch: str = ""
    """What makes the outputs impossible to compare, or unequal where they must be equal."""
    shares: list[int] = field(default_factory=list)
    top1_agreement: float | None = None
    top5_agreement: float | None = None
    flips: list[Flip] = field(default_factory=list)


@dataclass(frozen=True)
class TruthOutput:
    """How far both models are from the float64 evaluation of the original.

    Errors are root mean squares, relative to that of the truth itself, on the sample on which the
    original is steadiest; `noise` is how far it moves when its inputs change by their last bit, in
    the same measure; and `computed_exactly` is the error of the optimized model when it, too, is
    evaluated in float64: what the rounding of its new weights comes to.
    """

    name: str
    dtype: str
    original: float
    optimized: float
    computed_exactly: float
    noise: float = 0.0
    limit: float | None = None
    """How far the optimized model may be; null in records of versions that did not note it."""


@dataclass(frozen=True)
class Truth:
    """The float64 evaluation. Without outputs, `note` says why there is none."""

    samples: int
    note: str
    outputs: list[TruthOutput] = field(default_factory=list)
    needless: bool = False
    """Whether there is nothing that float64 would give more exactly."""


@dataclass(frozen=True)
class Culprit:
    """The rewrite without which the models are equivalent, or the first of several together.

    The values are those of the element that is furthest beyond its tolerance with this rewrite.
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
    """Whether the rewrite was then left out, by ``--drop-culprit``."""


@dataclass(frozen=True)
class LevelComparison:
    """The comparison at one of onnxruntime's optimization levels, against the plain original.

    Where optimization alone changes the original beyond its tolerance, it is against the original
    with optimization instead, and `against` says so.
    """

    level: LevelName
    verdict: Verdict
    outputs: list[OutputComparison]
    against: LevelName = "disabled"


@dataclass(frozen=True)
class Unsettled:
    """A sample that says nothing of an output, because the original is not settled there.

    `noise` is the root mean square of its change, as a share of that of its values, when its inputs
    change by their last bit.
    """

    sample: int
    output: str
    noise: float


@dataclass(frozen=True)
class ProviderEquivalence:
    """The verdict on one execution provider.

    `outputs` compares without onnxruntime's optimizations, `levels` at each level; `noise_floor`
    compares the original with itself across the levels. Samples that are `unsettled` count in
    none of them. `tf32`, on a CUDA device, compares as
    `outputs` does, but with products that the device may round by its default. `placement` says
    how many nodes of the original, and of the optimized model, each provider got.
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


@dataclass(frozen=True)
class InputsRecord:
    """How the inputs were made, so that they can be made again.

    `shapes` are those of each sample, by name; `ranges` the largest values of integer inputs.
    """

    seed: int
    samples: int
    source: str
    shapes: list[dict[str, list[int]]]
    ranges: dict[str, int]
    sha256: str


@dataclass(frozen=True)
class Equivalence:
    """Whether two models compute the same."""

    verdict: OverallVerdict
    reason: str = ""
    providers: list[ProviderEquivalence] = field(default_factory=list)
    inputs: InputsRecord | None = None
    culprits: list[Culprit] = field(default_factory=list)
    """The rewrites that make the check fail, or made it fail and were dropped."""


@dataclass(frozen=True)
class SpeedBlock:
    """What one set of fresh sessions gave, by model: original, optimized, control.

    The control is a second session of the original. Its runs and theirs took turns: the numbers at
    one position of `run_ms` belong together.
    """

    load_ms: dict[str, float]
    run_ms: dict[str, list[float]]


@dataclass(frozen=True)
class SpeedSummary:
    """What the samples of a timing say; without a second model, what belongs to it is null.

    Times are milliseconds, medians over all turns; `speedup` is the median of the original's time
    over the optimized model's, turn by turn, and `control` that of the original over itself.
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
    """How fast a model runs, beside another if there is one; else what belongs to it is null.

    Times are milliseconds, medians over all turns; `speedup` is the median of the original's time
    over the optimized model's, turn by turn, and `control` that of the original over itself. All
    of them follow from `samples` (see `bnfold.speed.statistics.summarize`).
    """

    provider: str
    level: LevelName
    threads: int
    shapes: dict[str, list[int]]
    note: str
    load_ms: list[float]
    """Of the original, and of the optimized model if there is one."""
    peak_mb: list[float] | None
    """The memory that loading and one run take, likewise, in a process of its own; null where it
    was not measured."""
    placement: list[dict[str, int]] | None
    """How many nodes each provider got, likewise; null where onnxruntime does not tell."""
    samples: list[SpeedBlock]


@dataclass(frozen=True)
class TuningTrial:
    """How much faster the model is without some rewrites, and whether they were dropped for it.

    `without` gives their sites, by pass; the other fields are as in `SpeedRecord`.
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
    """The trials of ``--tune``, in their order, and how many seconds they were given."""

    seconds: float
    trials: list[TuningTrial]


@dataclass(frozen=True)
class OutputRecord:
    """What was, or would be, written. `bytes` counts the model file itself."""

    path: str | None
    same: bool
    """Whether it is the input, byte for byte."""
    written: bool
    sha256: str | None
    """None where nobody wanted it."""
    bytes: int
    nodes: int
    ops: dict[str, int]
    data: str | None = None
    """The file beside it that was written for its weights, if one was."""
    data_bytes: int = 0
    outgrew_one_file: bool = False
    """Whether the weights, which were in the model file before, exceed what one file may hold."""


def _tool() -> dict[str, str]:
    return {"name": "bnfold", "version": __version__}


@dataclass(frozen=True)
class Record:
    """All that a run found out. `to_json` gives the report's JSON.

    `command` is the command line, and empty where a program called bnfold's functions.
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
    """Why there is no timing, where one was wanted."""
    tuning: TuningRecord | None = None
    passes: list[PassRecord] = field(default_factory=list)
    """The passes that have rewritten or refused something."""
    tool: dict[str, str] = field(default_factory=_tool)
    """Whose record this is: `name` and `version`."""

    def to_json(self) -> str:
        """Return the record as JSON text, with sorted-out field names and no NaN."""
        content = {"schema": SCHEMA, "tool": self.tool} | _plain(self)
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
        return _LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Stands for a byte of a file's name that is no text. UTF-8 lacks it, but JSON can escape it."""


def json_key(name: str) -> str:
    """Return what a field of these classes is called in JSON."""
    return "pass" if name == "pass_name" else name


def _plain(value: Any) -> Any:
    """Turn dataclasses into dicts, and floats that JSON lacks into strings."""
    if dataclasses.is_dataclass(value):
        return {json_key(f.name): _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
