"""What a caller may ask for, in groups that belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bnfold.errors import UsageError
from bnfold.inputs import InputRequest
from bnfold.tolerance import ToleranceRequest

TRUTH_CHOICES = ("auto", "off", "always")


@dataclass(frozen=True)
class PassOptions:
    """Which rewrites to make, and which changes of meaning were asked for.

    Raises:
        UsageError: if `keep_node` is no regular expression.
    """

    only: Iterable[str] = ()
    skip: Iterable[str] = ()
    keep_node: str | None = None
    force_inference: bool = False
    freeze_initializers: bool = False

    def keep_pattern(self) -> re.Pattern[str] | None:
        """Return `keep_node` as a pattern."""
        try:
            return re.compile(self.keep_node) if self.keep_node else None
        except re.error as error:
            raise UsageError(
                f"--keep-node {self.keep_node!r} is no regular expression: {error}"
            ) from error


@dataclass(frozen=True)
class RunOptions:
    """Where and on what to run models, and how strictly to compare them.

    Raises:
        UsageError: if `truth` is none of the choices.
    """

    providers: Sequence[str] = ("cpu",)
    inputs: InputRequest = field(default_factory=InputRequest)
    tolerances: ToleranceRequest = field(default_factory=ToleranceRequest)
    threads: int | None = None
    truth: str = "auto"
    """Whether to evaluate in float64, too: ``auto`` as far as a few seconds go, ``always`` or
    ``off``."""
    save_inputs: Path | None = None
    """A folder for the inputs."""

    def __post_init__(self) -> None:
        if self.truth not in TRUTH_CHOICES:
            raise UsageError(f"unknown truth {self.truth!r}; known: {', '.join(TRUTH_CHOICES)}")


@dataclass(frozen=True)
class TimingOptions:
    """How long to time models, and what to demand.

    Args:
        seconds: for all timing together, loading included; more where one turn takes longer.
        require_speedup: what the median speed-up at onnxruntime's best must come to, on every
            provider.
        tune_seconds: about how long tuning may take.
        batches: the sizes of the first dimension to time, where it is free; one if none is given.
        memory: whether to measure the memory, too.
    """

    seconds: float = 5.0
    require_speedup: float | None = None
    tune_seconds: float = 60.0
    batches: Sequence[int] = ()
    memory: bool = False
