"""Certifies two models, from any tool, by the values that have one name in both.

Each such value is proven by the window between it and those before it that are proven. Values that
keep a name and change their meaning are not proven, and the next window is larger. If all outputs
are reached, the models are equal for all inputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from bnfold.errors import BnfoldError
from bnfold.graph.facts import learn
from bnfold.graph.walk import has_body
from bnfold.modelfile.loading import load
from bnfold.progress import Counted, Progress
from bnfold.proof.certificate import certify, seconds_for_one
from bnfold.proof.windows import NotShown
from bnfold.record.data import Certificate, ModelCertificate, OpenWindow
from bnfold.running.isolation import CrashedError, isolated
from bnfold.running.learning import TOOLS
from bnfold.workflow.slices import Names, Slice, content_of
from bnfold.workflow.windows import Cut

_LARGEST = 100
"""Nodes of a window on either side; a larger one is not tried."""


def certify_models(
    reference: Path, candidate: Path, seconds: float, progress: Progress
) -> ModelCertificate | None:
    """Prove the outputs of two models equal, as far as there is time; None if one is unreadable."""

    def work(told: Progress) -> ModelCertificate:
        models = load(reference).ir, load(candidate).ir
        for model in models:
            learn(model, TOOLS)
        return _Alignment(*models).certificate(seconds, told)

    try:
        return isolated(work, progress)
    except (CrashedError, BnfoldError):
        return None


class _Names(Names):
    """Names of one side: proven values have one name on both, all others one of their own."""

    def __init__(self, side: str, proven: set[ir.Value]) -> None:
        super().__init__()
        self._side, self._proven = side, proven

    def __getitem__(self, value: ir.Value) -> str:
        return f"{value.name}" if value in self._proven else f"{self._side} {value.name}"


class _Alignment:
    """Two models, and which of their values are proven equal."""

    def __init__(self, reference: ir.Model, candidate: ir.Model) -> None:
        self._models = reference, candidate
        self._values = tuple(map(_values, self._models))
        self._nodes = tuple(set(model.graph) for model in self._models)
        self._proven: tuple[set[ir.Value], set[ir.Value]] = (set(), set())
        inputs = {value.name: value for value in candidate.graph.inputs}
        for value in reference.graph.inputs:
            twin = inputs.get(value.name)
            if twin is not None and twin.dtype == value.dtype:
                self._prove(value, twin)

    def certificate(self, seconds: float, told: Progress) -> ModelCertificate:
        """Go through the shared values in order, and say which outputs are reached."""
        begun = time.monotonic()
        proven, failed = [], {}
        pairs = list(self._pairs())
        for number, (value, twin) in enumerate(pairs, 1):
            if time.monotonic() > begun + seconds:
                failed[value.name] = "there was no time left"
                continue
            told(Counted(f"certifying {value.name}", number, len(pairs)))
            found = self._certify(value, twin, seconds_for_one(seconds))
            if found.verdict == "certified":
                self._prove(value, twin)
                proven.append(found)
            else:
                failed[value.name] = found.note or "it is not shown to be equal"
        outputs = [value.name or "" for value in self._models[0].graph.outputs]
        names = {value.name for value in self._proven[0]}
        return ModelCertificate(
            values=len(proven),
            bound=max((found.bound for found in proven if found.bound), default=None),
            doubt=math.fsum(found.doubt or 0.0 for found in proven),
            open=[
                OpenWindow(name, failed.get(name, "the candidate has no such value"))
                for name in outputs
                if name not in names
            ],
            seconds=time.monotonic() - begun,
        )

    def _pairs(self) -> Iterator[tuple[ir.Value, ir.Value]]:
        """Yield the values that both compute under one name, in the reference's order."""
        for name, value in self._values[0].items():
            twin = self._values[1].get(name)
            if twin is not None and twin.dtype == value.dtype:
                yield value, twin

    def _prove(self, value: ir.Value, twin: ir.Value) -> None:
        self._proven[0].add(value)
        self._proven[1].add(twin)

    def _certify(self, value: ir.Value, twin: ir.Value, seconds: float) -> Certificate:
        """Prove one value from those that are proven."""
        if self._is_congruent(value, twin):
            return Certificate("certified", "constant")
        slices = [
            Slice.of([each], nodes, proven)
            for each, nodes, proven in zip((value, twin), self._nodes, self._proven, strict=True)
        ]
        if max(len(each.nodes) for each in slices) > _LARGEST:
            return Certificate("open", note="too many operators before it are not proven")
        try:
            before, after = (
                each.part(_Names(side, proven), model)
                for each, side, proven, model in zip(
                    slices, ("reference", "candidate"), self._proven, self._models, strict=True
                )
            )
            return certify(Cut(before, after).window(), seconds)
        except NotShown as reason:
            return Certificate("open", note=str(reason))

    def _is_congruent(self, value: ir.Value, twin: ir.Value) -> bool:
        """Say whether the same operator computes both from proven values and equal constants."""
        one, other = value.producer(), twin.producer()
        if one is None or other is None or has_body(one) or has_body(other):
            return False
        if (one.op_identifier(), value.index()) != (other.op_identifier(), twin.index()):
            return False
        if one.op_identifier() in self._models[0].functions or one.attributes != other.attributes:
            return False
        same_opset = [model.opset_imports.get(one.domain) for model in self._models]
        if same_opset[0] != same_opset[1] or len(one.inputs) != len(other.inputs):
            return False
        return all(map(self._is_equal, one.inputs, other.inputs))

    def _is_equal(self, value: ir.Value | None, twin: ir.Value | None) -> bool:
        if value is None or twin is None:
            return value is twin
        if value in self._proven[0] and twin in self._proven[1]:
            return value.name == twin.name
        one, other = content_of(value), content_of(twin)
        if one is None or other is None or value.is_graph_input():
            return False
        same_type = one.dtype == other.dtype and one.shape == other.shape
        return same_type and one.tobytes() == other.tobytes()


def _values(model: ir.Model) -> dict[str, ir.Value]:
    """Return what the nodes of the main graph compute, by name, in order."""
    return {value.name: value for node in model.graph for value in node.outputs if value.name}
