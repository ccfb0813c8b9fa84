"""The record of a run: plain data, from which every table and report is made.

Field names are those of the schema ``bnfold.report/1``. Fields that a later version adds are
new keys; none is renamed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from dataclasses import dataclass, field
from typing import Any

SCHEMA = "bnfold.report/1"

Verdict = str
"""``pass``, ``fail``, ``not-verified`` or ``identical``."""


@dataclass(frozen=True)
class ModelRecord:
    """What a model file is. `bytes` counts the file itself, without external data."""

    path: str | None
    sha256: str
    bytes: int
    ir_version: int
    opset: dict[str, int]
    nodes: int
    ops: dict[str, int]
    """How many nodes of each operator, bodies and functions included."""


@dataclass(frozen=True)
class RewriteRecord:
    """One application of a pass."""

    pass_name: str
    site: str
    op_type: str
    """The operator at the site."""
    nodes: list[str]
    exactness: str
    detail: str
    gone: dict[str, str] = field(default_factory=dict)
    """The operator by site of each BatchNormalization and Dropout that went with it: it took them
    over, or nothing else read them."""


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
class OutputComparison:
    """How far an output of one model is from the other's, over all samples.

    Differences are over the elements that are finite in both. `tolerance` is the one at the worst
    element, and `needed` the one that would just have passed there: null where none would, because
    shapes, non-finite values, or values that must be equal differ.
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


@dataclass(frozen=True)
class LevelComparison:
    """The comparison at one of onnxruntime's optimization levels, against the plain original."""

    level: str
    verdict: Verdict
    outputs: list[OutputComparison]


@dataclass(frozen=True)
class ProviderEquivalence:
    """The verdict on one execution provider.

    `outputs` compares without onnxruntime's optimizations, `levels` at each level; `noise_floor`
    compares the original with itself across the levels.
    """

    provider: str
    verdict: Verdict
    reason: str
    outputs: list[OutputComparison]
    levels: list[LevelComparison]
    noise_floor: list[OutputComparison]


@dataclass(frozen=True)
class InputsRecord:
    """How the inputs were made, so that they can be made again."""

    seed: int
    samples: int
    source: str
    shapes: dict[str, list[int]]
    sha256: str


@dataclass(frozen=True)
class Equivalence:
    """Whether two models compute the same."""

    verdict: Verdict
    reason: str = ""
    providers: list[ProviderEquivalence] = field(default_factory=list)
    inputs: InputsRecord | None = None


@dataclass(frozen=True)
class OutputRecord:
    """What was, or would be, written. `bytes` counts the model file itself."""

    path: str | None
    same: bool
    """Whether it is the input, byte for byte."""
    written: bool
    sha256: str
    bytes: int
    nodes: int
    ops: dict[str, int]
    data: str | None = None
    """The file beside it that was written for its weights, if one was."""
    data_bytes: int = 0
    outgrew_one_file: bool = False
    """Whether the weights, which were in the model file before, exceed what one file may hold."""


@dataclass(frozen=True)
class Record:
    """All that a run found out. `to_json` gives the report's JSON."""

    command: list[str]
    model: ModelRecord
    environment: dict[str, Any]
    candidate: ModelRecord | None = None
    output: OutputRecord | None = None
    rewrites: list[RewriteRecord] = field(default_factory=list)
    refusals: list[RefusalRecord] = field(default_factory=list)
    equivalence: Equivalence | None = None

    def to_json(self) -> str:
        """Return the record as JSON text, with sorted-out field names and no NaN."""
        from bnfold import __version__

        content = {"schema": SCHEMA, "tool": {"name": "bnfold", "version": __version__}}
        content |= {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Turn dataclasses into dicts, and floats that JSON lacks into strings."""
    if dataclasses.is_dataclass(value):
        return {
            "pass" if f.name == "pass_name" else f.name: _plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def environment() -> dict[str, Any]:
    """Describe the machine and the libraries that the run depends on."""
    import onnx

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _processor(),
        "onnx": onnx.__version__,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = (
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            )
            return next(names, platform.machine())
    except OSError:
        return platform.processor() or platform.machine()
