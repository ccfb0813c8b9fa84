"""Certificates: whether two sides compute the same for all inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

CertificateVerdict: TypeAlias = Literal["certified", "sampled", "differs", "open"]

CertificateKind: TypeAlias = Literal[
    "constant", "copying", "weights", "linear", "maximum", "channels", "selection", "sampled", ""
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

    `kind` is how that was proven: "constant" and "copying" bit by bit; "weights" by a bound on each
    row of the weights that the same operators have; "linear" by one on each row of the difference,
    "maximum" likewise for each element that a maximum is over, "channels" between functions that
    read the same; "selection" by which elements these are. "sampled" proves nothing, but found no
    difference. "open" has neither, and `note` says why.
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
    differs: bool = False
    """Whether it differs for some values of what is proven before it, which may never occur."""


@dataclass(frozen=True)
class ModelCertificate:
    """How far two models are proven equal for all inputs, by values within both that correspond."""

    values: int
    """How many are proven, each from those before it."""
    bound: float | None
    """The largest of `Certificate.bound`."""
    doubt: float
    """The probability that one of the bounds does not hold."""
    open: list[OpenWindow]
    """The outputs that are not proven; none if the models are equal."""
    seconds: float
