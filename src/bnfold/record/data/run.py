"""A run, and its JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from bnfold.record.data.equivalence import Equivalence
from bnfold.record.data.models import ModelFigures, ModelRecord, NodeDifference, OutputRecord
from bnfold.record.data.rewrites import PassRecord, RefusalRecord, RewriteRecord
from bnfold.record.data.speed import SpeedRecord, TuningRecord
from bnfold.version import __version__

SCHEMA = "bnfold.report/1"


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
    figures: list[ModelFigures] = field(default_factory=list)
    """Of the original, and of the second model if there is one; empty if they were not asked for,
    or if a model cannot be read for it."""
    nodes: NodeDifference | None = None
    """In which nodes the two differ; null as above, or without a second model."""
    started: str | None = None
    """When the run began, in UTC: ``2026-11-27T08:30:00Z``."""
    seconds: float | None = None
    """How long it took, without writing reports."""
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
