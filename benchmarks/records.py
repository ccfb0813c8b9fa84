"""What the comparison found out about one model, as it is written to JSON."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnfold.atomic import write_text
from bnfold.record.data import SpeedBlock, SpeedRecord

BNFOLD = "bnfold"
AUTHORS = "authors' re-parameterisation"
"""In place of a tool: the export after the architecture's own code has merged its branches."""

_ROW_OF_NUMBERS = re.compile(r"\[[-+.,\deE\s]+\]")


@dataclass(frozen=True)
class Graph:
    """A file and what is in it, bodies and functions included.

    Constants do not count as nodes: they are another way to write an initializer.
    `run_error` is how far its outputs are from the truth, the original evaluated in float64, when
    onnxruntime computes them as written: a relative RMS. `weight_error` is the same with the file
    evaluated in float64, too, which leaves the rounding of its weights: null where it uses
    operators that only onnxruntime has.
    """

    sha256: str
    bytes: int
    nodes: int
    batch_normalizations: int
    dropouts: int
    run_error: float | None = None
    weight_error: float | None = None


@dataclass(frozen=True)
class ToolRecord:
    """What a tool made of a model, and what that cost: one value a run, in seconds and MB.

    Either there is a `failure`, in words, or a `graph`. `speed` holds bnfold's record of a speed by
    level, and is empty where `identical` says that the result is the original, byte for byte.
    `speed_seconds` is how long each was measured.
    """

    version: str
    failure: str = ""
    seconds: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    identical: bool = False
    graph: Graph | None = None
    speed_seconds: float = 0
    speed: dict[str, SpeedRecord] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelRecord:
    """All about one model: the original, the machine, and what each tool made of it."""

    name: str
    library: str
    architecture: str
    shape: list[int]
    original: Graph
    environment: dict[str, Any]
    tools: dict[str, ToolRecord] = field(default_factory=dict)

    def with_tool(self, name: str, record: ToolRecord) -> ModelRecord:
        """Return a copy with what a tool did."""
        return dataclasses.replace(self, tools={**self.tools, name: record})


def save(record: ModelRecord, folder: Path) -> None:
    """Write the record to a file named after the model, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{record.name}.json"
    content = json.dumps(dataclasses.asdict(record), indent=1, allow_nan=False)
    write_text(place, _ROW_OF_NUMBERS.sub(_on_one_line, content) + "\n")


def load(path: Path) -> ModelRecord:
    """Read a record back."""
    content = json.loads(path.read_text(encoding="utf-8"))
    tools = {name: _tool(each) for name, each in content.pop("tools").items()}
    return ModelRecord(**{**content, "original": Graph(**content["original"]), "tools": tools})


def load_all(folder: Path) -> list[ModelRecord]:
    """Read all records of a folder, by name."""
    return [load(path) for path in sorted(folder.glob("*.json"))]


def _tool(content: dict[str, Any]) -> ToolRecord:
    graph = content.pop("graph")
    speed = {level: _speed(each) for level, each in content.pop("speed").items()}
    return ToolRecord(**content, graph=Graph(**graph) if graph else None, speed=speed)


def _speed(content: dict[str, Any]) -> SpeedRecord:
    samples = [SpeedBlock(**each) for each in content.pop("samples")]
    return SpeedRecord(**content, samples=samples)


def _on_one_line(row: re.Match[str]) -> str:
    return re.sub(r"\s+", "", row[0]).replace(",", ", ")
