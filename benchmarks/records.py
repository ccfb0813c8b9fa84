"""The record of the comparison on one model, as written to JSON."""

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
    """A file and the operators in it, subgraphs and functions included.

    `constants` are Constant nodes, which are not among the other `nodes`: they are another way to
    write an initializer, but what shows a file counts them.
    `run_error` is the relative RMS error of its outputs in onnxruntime without optimizations; the
    truth is the original evaluated in float64. `weight_error` is that of the file evaluated in
    float64, which leaves only the rounding of its weights: null if it uses operators that only
    onnxruntime has.
    """

    sha256: str
    bytes: int
    nodes: int
    batch_normalizations: int
    dropouts: int
    constants: int = 0
    run_error: float | None = None
    weight_error: float | None = None

    @property
    def all_nodes(self) -> int:
        """How many nodes there are in the file."""
        return self.nodes + self.constants


@dataclass(frozen=True)
class ToolRecord:
    """A tool's result on a model, and its cost: one value per run, in seconds and MB.

    It has either a `failure`, in words, or a `graph`. `speed` holds a speed record per level, and
    is empty if the result is `identical` to the original, byte for byte. `speed_seconds` is how
    long each level was measured.
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
    """One model: the original, the machine, and the result of each tool."""

    name: str
    library: str
    architecture: str
    shape: list[int]
    original: Graph
    environment: dict[str, Any]
    tools: dict[str, ToolRecord] = field(default_factory=dict)

    def with_tool(self, name: str, record: ToolRecord) -> ModelRecord:
        """Return a copy with the record of a tool."""
        return dataclasses.replace(self, tools={**self.tools, name: record})

    def without(self, name: str) -> ModelRecord:
        """Return a copy without the record of a tool."""
        tools = {tool: record for tool, record in self.tools.items() if tool != name}
        return dataclasses.replace(self, tools=tools)


def save(record: ModelRecord, folder: Path) -> None:
    """Write the record atomically to a file named after the model."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{record.name}.json"
    content = json.dumps(dataclasses.asdict(record), indent=1, allow_nan=False)
    write_text(place, _ROW_OF_NUMBERS.sub(_on_one_line, content) + "\n")


def load(path: Path) -> ModelRecord:
    """Read a record back."""
    content = json.loads(path.read_text(encoding="utf-8"))
    tools = {name: _tool(tool) for name, tool in content.pop("tools").items()}
    return ModelRecord(**{**content, "original": Graph(**content["original"]), "tools": tools})


def load_all(folder: Path) -> list[ModelRecord]:
    """Read all records of a folder, by name."""
    return [load(path) for path in sorted(folder.glob("*.json"))]


def _tool(content: dict[str, Any]) -> ToolRecord:
    graph = content.pop("graph")
    speed = {level: _speed(record) for level, record in content.pop("speed").items()}
    return ToolRecord(**content, graph=Graph(**graph) if graph else None, speed=speed)


def _speed(content: dict[str, Any]) -> SpeedRecord:
    samples = [SpeedBlock(**block) for block in content.pop("samples")]
    return SpeedRecord(**content, samples=samples)


def _on_one_line(row: re.Match[str]) -> str:
    return re.sub(r"\s+", "", row[0]).replace(",", ", ")
