"""Model files: what they hold, and what was written."""

from __future__ import annotations

from dataclasses import dataclass


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
class ModelFigures:
    """What a model takes, gives, holds and computes; a free first size counts as one."""

    inputs: dict[str, str]
    """The type and shape of each, as the file declares them: ``float32[N,3,224,224]``."""
    outputs: dict[str, str]
    parameters: int
    """Elements of all weights that are numbers, each weight once."""
    multiplications: int
    """Multiply-adds of the linear operators whose sizes are known."""
    unknown: int
    """Linear operators whose sizes depend on the inputs."""
    bytes: int
    """The size of the file and of its external data."""


@dataclass(frozen=True)
class NodeDifference:
    """How the nodes of the main graphs differ, by the names of what they compute."""

    gone: dict[str, str]
    """The operator of each that only the first model has."""
    new: dict[str, str]
    """The operator of each that only the second model has."""
    changed: dict[str, list[str]]
    """The operators, before and after, of those that have other inputs, attributes or operators."""


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
