"""Compares bnfold with other tools on the suite, and writes the result to docs/benchmarks/.

    python -m benchmarks.compare [--only MODEL] [--tool TOOL] [--seconds 20] [--threads N]

Every tool runs in its own process, on models made by `python -m benchmarks.suite --build`. The
results of all tools on a model are timed in the same turns. Measurements of the same version that
took at least as long are not repeated: an interrupted run resumes where it stopped. Nothing else
should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import page, records
from benchmarks.examine import Truth, graph_of, request_of, speeds_of, truth_of
from benchmarks.models import FOLDER, Model, chosen
from benchmarks.processes import ROOT, CommandError, Cost, run_alone
from benchmarks.records import AUTHORS, BNFOLD, ModelRecord, ToolRecord
from benchmarks.tools import TOOLS, Tool
from bnfold.errors import BnfoldError
from bnfold.options import InputOptions
from bnfold.running.environment import available_threads, environment
from bnfold.running.runtime import Level, Session

TIMEOUT = 300
"""Seconds that a tool may take for one model."""

MOST_RUNS = 3
ENOUGH_SECONDS = 3.0
"""A tool runs up to three times on a model, but not again after this many seconds."""

_EXPORTERS = ("torch", "torchvision", "timm", "rapidocr-onnxruntime")


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description="Compare bnfold with other tools.")
    parser.add_argument("--only", action="append", metavar="MODEL", help="repeatable")
    names = [*(tool.name for tool in TOOLS), AUTHORS]
    parser.add_argument("--tool", action="append", choices=names, help="repeatable")
    parser.add_argument(
        "--seconds", type=float, default=20, help="of timing per model and level; 0 to skip it"
    )
    parser.add_argument("--threads", type=int, help="of each session; default: all cores")
    parser.add_argument("--models", type=Path, default=FOLDER, help="folder of the models")
    parser.add_argument("--output", type=Path, default=page.FOLDER, help="folder of the results")
    options = parser.parse_args()
    for model in chosen(options.only):
        if not model.path(options.models).exists():
            raise SystemExit(f"{model.name} is missing: python -m benchmarks.suite --build")
        data = options.output / "data"
        Comparison(model, options.models, data, options.seconds, options.threads).run(
            options.tool or names
        )
    if options.seconds:
        page.write(options.output)


class Comparison:
    """All measurements of one model. The truth is evaluated at most once, when needed."""

    def __init__(
        self,
        model: Model,
        models: Path,
        data: Path,
        seconds: float,
        threads: int | None = None,
    ) -> None:
        self.model, self.models, self.data = model, models, data
        self.seconds, self.threads = seconds, threads
        self.original = model.path(models)
        self._truth: Truth | None = None
        self._request: InputOptions | None = None

    def run(self, tools: Sequence[str]) -> None:
        """Update the record of the model, tool by tool, and time the new results together."""
        record = self._record()
        with tempfile.TemporaryDirectory(prefix="bnfold-benchmark-") as folder:
            results: dict[str, Path] = {}
            for name in tools:
                if name == AUTHORS and not self.model.twin:
                    continue
                tool = next((candidate for candidate in TOOLS if candidate.name == name), None)
                label = _version(tool)
                known = record.tools.get(name)
                if self._is_done(known, label):
                    continue
                print(f"{self.model.name}: {name}", flush=True)
                result = Path(folder) / f"{len(results)}.onnx"
                tool_record = (
                    self._rewrite(tool, label, result, known) if tool else self._authors(label)
                )
                record = record.with_tool(name, tool_record)
                records.save(record, self.data)
                if tool_record.graph is not None and not tool_record.identical:
                    results[name] = result if tool else self.model.twin_path(self.models)
            if self.seconds and results:
                records.save(self._timed(record, results), self.data)

    def _timed(self, record: ModelRecord, results: Mapping[str, Path]) -> ModelRecord:
        print(f"{self.model.name}: timing {len(results)} results", flush=True)
        speeds = speeds_of(self.original, results, self.request, self.threads, self.seconds)
        for name, speed in speeds.items():
            timed = dataclasses.replace(record.tools[name], speed=speed, speed_seconds=self.seconds)
            record = record.with_tool(name, timed)
        return record

    def _record(self) -> ModelRecord:
        """Return the existing record if it is of the same file and machine, else a new one."""
        facts = _environment()
        place = self.data / f"{self.model.name}.json"
        if place.exists():
            known = records.load(place)
            same_file = known.original.sha256 == _digest(self.original)
            if same_file and known.environment == facts:
                return known
        return ModelRecord(
            name=self.model.name,
            library=self.model.library,
            architecture=self.model.architecture,
            shape=list(self.model.shape),
            original=graph_of(self.original, self.truth, is_original=True),
            environment=facts,
        )

    def _is_done(self, record: ToolRecord | None, label: str) -> bool:
        if record is None or record.version != label:
            return False
        timed = bool(record.failure) or record.identical or record.graph is None
        return timed or record.speed_seconds >= self.seconds

    @property
    def truth(self) -> Truth:
        """What the original computes, in float64."""
        self._truth = self._truth or truth_of(self.original, self.request)
        return self._truth

    @property
    def request(self) -> InputOptions:
        """The request for the model's input."""
        self._request = self._request or request_of(self.model, self.original)
        return self._request

    def _rewrite(
        self, tool: Tool, label: str, output: Path, known: ToolRecord | None
    ) -> ToolRecord:
        costs: list[Cost] = []
        command = tool.command(self.original, output)
        if tool.package == BNFOLD:
            command += self.model.options
        try:
            while len(costs) < MOST_RUNS and sum(cost.seconds for cost in costs) < ENOUGH_SECONDS:
                costs.append(run_alone(command, timeout=TIMEOUT))
            if not output.exists():
                raise CommandError("it succeeded but wrote no output")
        except CommandError as error:
            return ToolRecord(label, failure=str(error))
        record = ToolRecord(
            version=label,
            seconds=[round(cost.seconds, 3) for cost in costs],
            peak_mb=[round(cost.peak_mb, 1) for cost in costs],
        )
        return record if tool.same_result_as else self._examine(output, record, known)

    def _authors(self, label: str) -> ToolRecord:
        return self._examine(self.model.twin_path(self.models), ToolRecord(label), None)

    def _examine(self, result: Path, record: ToolRecord, known: ToolRecord | None) -> ToolRecord:
        """Add what is in a result, which is known already if it is the same file."""
        digest = _digest(result)
        graph = known.graph if known else None
        try:
            if graph is None or graph.sha256 != digest:
                graph = graph_of(result, self.truth)
            Session(result, "cpu", Level.ALL).run(self.truth.feeds)
        except BnfoldError as error:
            return dataclasses.replace(record, failure=f"its result does not run: {error}")
        identical = digest == _digest(self.original)
        return dataclasses.replace(record, graph=graph, identical=identical)


def _version(tool: Tool | None) -> str:
    """Return a tool's version; for bnfold, with the commit that last changed it."""
    if tool is None:
        return f"timm {version('timm')}"
    if tool.package != BNFOLD:
        return tool.version()
    command = ["git", "log", "-1", "--format=%h", "--", "src", "passes"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return f"{tool.version()} ({commit})" if commit else tool.version()


def _environment() -> dict[str, Any]:
    return environment() | {"threads": available_threads(), "exporters": _exporters()}


def _exporters() -> dict[str, str]:
    versions = {}
    for package in _EXPORTERS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
