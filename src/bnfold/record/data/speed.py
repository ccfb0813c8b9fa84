"""How fast models run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from bnfold.record.data.equivalence import LevelName

SpeedVerdict: TypeAlias = Literal["faster", "slower", "no significant difference", "not measured"]


FEWEST_BLOCKS = 3
"""The smallest number of blocks that shows how far they are apart, and so an interval."""


@dataclass(frozen=True)
class SpeedBlock:
    """The times of one process and its sessions, by model: original, optimized, control.

    The control is a second session of the original. Runs are interleaved: the numbers at the same
    position of `run_ms` belong to the same turn.
    """

    load_ms: dict[str, float]
    run_ms: dict[str, list[float]]


@dataclass(frozen=True)
class OperatorTime:
    """The time that all nodes of an operator take in a run, in milliseconds."""

    op_type: str
    nodes: int
    ms: float


@dataclass(frozen=True)
class NodeTime:
    """The time that a node takes in a run, in milliseconds."""

    node: str
    op_type: str
    ms: float


@dataclass(frozen=True)
class ModelProfile:
    """Where the time of a model goes, by onnxruntime's profiler, in a pass of its own.

    Times are medians over the runs. Nodes are those that onnxruntime runs, after its optimizations:
    it fuses some, and adds others.
    """

    runs: int
    ms: float
    """The time of all nodes, in a run."""
    operators: list[OperatorTime]
    """Those that take longest first."""
    nodes: list[NodeTime]
    """The few that take longest."""


@dataclass(frozen=True)
class SpeedSummary:
    """The summary of a timing. Without a second model, the fields about it are null.

    Times are medians over all turns, in milliseconds. `speedup` is the ratio of the original's time
    to the optimized model's: the geometric mean over the blocks of each block's median, turn by
    turn. `control` is that of the original to the control. From fewer than three blocks there are
    no intervals, and the verdict is "not measured".
    """

    original_ms: float
    optimized_ms: float | None
    speedup: float | None
    ci95: list[float] | None
    control: float
    control_ci95: list[float] | None
    verdict: SpeedVerdict | None


@dataclass(frozen=True)
class SpeedRecord(SpeedSummary):
    """The timing of one or two models. Without a second model, the fields about it are null.

    The fields of the summary follow from `samples` (see `bnfold.speed.statistics.summarize`).
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
    profile: list[ModelProfile] = field(default_factory=list)
    """Of the original, and of the optimized model if there is one; empty if not measured."""
    profile_note: str = ""
    """Why there is no profile, if one was to be measured."""


@dataclass(frozen=True)
class TuningTrial:
    """The timing of the model without some rewrites, and whether they were dropped as a result.

    `without` holds their sites by pass; the other fields are as in `SpeedRecord`, but the verdict
    is by `interval`.
    """

    without: dict[str, list[str]]
    speedup: float
    ci95: list[float] | None
    control: float
    control_ci95: list[float] | None
    verdict: SpeedVerdict
    dropped: bool
    samples: list[SpeedBlock]
    interval: list[float] | None = None
    """The interval of `speedup` that decides, wider than `ci95`: of many trials, some would be
    beyond theirs by chance. Null in records of older versions, which decided by `ci95`."""


@dataclass(frozen=True)
class TuningRecord:
    """The trials of ``--tune`` in order, and the time limit in seconds."""

    seconds: float
    trials: list[TuningTrial]
    confidence: float = 0.95
    """That of each trial's `interval`, so that all of them together have 95 %."""
