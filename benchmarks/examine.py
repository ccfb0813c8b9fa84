"""Examines a tool's output: the operators left in it, its accuracy and its speed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from benchmarks.models import Model
from benchmarks.records import Graph
from bnfold.arrays import Array
from bnfold.modelfile.protos import node_lists_of
from bnfold.options import InputOptions
from bnfold.proof.float64.evaluation import NoTruth, Truth64
from bnfold.record.data import SpeedRecord
from bnfold.running.input_search import make_inputs
from bnfold.running.runtime import Feeds, Level, Session
from bnfold.speed.blocks import Case
from bnfold.speed.measure import measure, record_of


@dataclass(frozen=True)
class Truth:
    """One input of a model, and what the model computes of it in float64."""

    path: Path
    feeds: Feeds

    @cached_property
    def outputs(self) -> Mapping[str, Array]:
        """The outputs, evaluated when they are first asked for; empty if they cannot be."""
        return _in_float64(self.path, self.feeds)


def request_of(model: Model, path: Path) -> InputOptions:
    """Return the request for one signed input of the model's shape."""
    (name,) = [value.name for value in Session(path, "cpu", Level.DISABLED).inputs]
    return InputOptions(samples=1, shapes={name: model.shape})


def truth_of(path: Path, request: InputOptions) -> Truth:
    """Draw an input of the original."""
    feeds = next(make_inputs(Session(path, "cpu", Level.DISABLED), request).feeds())
    return Truth(path, feeds)


def graph_of(path: Path, truth: Truth, *, is_original: bool = False) -> Graph:
    """Count the operators in a model, and compare its outputs with the truth.

    Raises:
        SessionError: if onnxruntime cannot load or run it.
    """
    model = onnx.load(path)
    types = [node.op_type for nodes in node_lists_of(model) for node in nodes]
    constants = types.count("Constant")
    outputs = Session(path, "cpu", Level.DISABLED).run(truth.feeds)
    return Graph(
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        bytes=path.stat().st_size,
        nodes=len(types) - constants,
        batch_normalizations=types.count("BatchNormalization"),
        dropouts=types.count("Dropout"),
        constants=constants,
        run_error=relative_rms(outputs, truth.outputs),
        weight_error=0.0 if is_original else _weight_error(path, truth),
    )


_MORE = (1.5, 8.0)
"""How many times as long a level may take, and a large model of which that gives no interval."""


def speeds_of(
    original: Path,
    results: Mapping[str, Path],
    request: InputOptions,
    threads: int | None,
    seconds: float,
) -> dict[str, dict[str, SpeedRecord]]:
    """Time results by their names against the original, in the same turns, at both levels.

    With all optimizations, which counts most, it takes `seconds`; without, half of that. Large
    models, of which an interval takes longer, get more.

    Raises:
        SessionError: if onnxruntime cannot load or run it.
    """
    speeds: dict[str, dict[str, SpeedRecord]] = {name: {} for name in results}
    for level, share in ((Level.ALL, 1.0), (Level.DISABLED, 0.5)):
        for more in _MORE:
            records = _compare_speeds(
                original,
                results,
                level=level,
                request=request,
                threads=threads,
                seconds=seconds * share,
                at_most=seconds * more,
            )
            if all(record.ci95 for record in records.values()):
                break
        for name, record in records.items():
            speeds[name][level.value] = record
    return speeds


def _compare_speeds(
    original: Path,
    others: Mapping[str, Path],
    *,
    level: Level,
    request: InputOptions,
    threads: int | None,
    seconds: float,
    at_most: float,
) -> dict[str, SpeedRecord]:
    """Time several models against one on the CPU; return the record of each, by name.

    All take the same turns, with one control. So they can be compared with each other, too.
    """
    case = Case({"original": original, **others, "control": original}, level, threads, request)
    measurement, blocks = measure("cpu", case, seconds, at_most)
    return {name: record_of(measurement, blocks, "cpu", [name]) for name in others}


def _weight_error(path: Path, truth: Truth) -> float | None:
    return relative_rms(_in_float64(path, truth.feeds), truth.outputs)


def _in_float64(path: Path, feeds: Feeds) -> dict[str, Array]:
    try:
        return Truth64(path).outputs(feeds)
    except NoTruth:
        return {}


def relative_rms(actual: Mapping[str, Array], expected: Mapping[str, Array]) -> float | None:
    """Return the root mean square of the difference over that of the expected values.

    Of several outputs, the worst counts. None if there is nothing to compare, or if the result is
    not finite.
    """
    if not actual or not expected:
        return None
    ratios = []
    for name, content in expected.items():
        difference = np.asarray(actual[name], np.float64) - content
        ratios.append(float(np.sqrt(np.mean(difference**2) / np.mean(np.square(content)))))
    worst = max(ratios)
    return worst if np.isfinite(worst) else None
