"""Certifies two models, from any tool, by values within both that should be the same.

These have one name in both, or the same place in the graph. Each is proven by the window between it
and those before it that are proven. Values that keep a name and change their meaning are not
proven, and the next window is larger. If all outputs are reached, the models are equal for all
inputs.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from bnfold.errors import BnfoldError
from bnfold.graph.constants import bytes_of_initializers
from bnfold.graph.walk import captured, has_body
from bnfold.progress import Counted, Progress
from bnfold.proof.bodies import rename_bodies
from bnfold.proof.certificate import certify, seconds_for_one
from bnfold.proof.learned import learned
from bnfold.proof.windows import NotShown
from bnfold.record.data import Certificate, Difference, ModelCertificate, OpenWindow
from bnfold.running.isolation import CrashedError, Forked, isolated
from bnfold.running.sharing import sharing
from bnfold.workflow.bodies import are_bodies_plain
from bnfold.workflow.operators import is_same_operator
from bnfold.workflow.slices import Names, Slice, are_equal_constants, content_of, spaceless
from bnfold.workflow.structure import pairs_by_structure
from bnfold.workflow.windows import Cut

if TYPE_CHECKING:
    from typing_extensions import Self

_LARGEST = 100
"""Nodes of a window on either side; a larger one is not tried."""

_MOST_BYTES_AT_ONCE = 2**29
"""Weights of two models that are proven equal while they run."""


class Certifying:
    """Proves the outputs of two models equal, as far as there is time, while others run them.

    It takes memory for both models: that of large ones is only proven when the result is asked for.
    """

    def __init__(self, reference: Path, candidate: Path, seconds: float) -> None:
        self._paths = reference, candidate
        self._seconds = seconds
        self._begun = Forked(self._shared) if self._is_small() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._begun is not None:
            self._begun.abandon()

    def result(self, progress: Progress) -> ModelCertificate | None:
        """Return what is proven; None if a model is unreadable. To be asked for once."""
        try:
            if self._begun is not None:
                return self._begun.result(progress)
            return isolated(self._work, progress)
        except (CrashedError, BnfoldError):
            return None

    def _is_small(self) -> bool:
        with suppress(Exception):  # whoever runs the models meets it, too, and says it in words
            graphs = [learned(path).ir.graph for path in self._paths]
            return sum(map(bytes_of_initializers, graphs)) < _MOST_BYTES_AT_ONCE
        return False

    def _shared(self, told: Progress) -> ModelCertificate:
        with sharing(2):
            return self._work(told)

    def _work(self, told: Progress) -> ModelCertificate:
        reference, candidate = (learned(path).ir for path in self._paths)
        return _Alignment(reference, candidate).certificate(self._seconds, told)


class _Names(Names):
    """Names of one side: proven values have one name on both, all others one of their own."""

    def __init__(self, side: str, proven: Mapping[ir.Value, str]) -> None:
        super().__init__()
        self._side, self._proven = side, proven

    def __getitem__(self, value: ir.Value) -> str:
        name = self._proven.get(value)
        own = spaceless(value.name if name is None else name)
        return f"{self._side} {own}" if name is None else f"both {own}"


class _Alignment:
    """Two models, and which of their values are proven equal."""

    def __init__(self, reference: ir.Model, candidate: ir.Model) -> None:
        self._models = reference, candidate
        self._nodes = tuple(set(model.graph) for model in self._models)
        self._proven: tuple[dict[ir.Value, str], dict[ir.Value, str]] = ({}, {})
        """The values that are proven equal to one of the other side, under the reference's name."""
        inputs = {value.name: value for value in candidate.graph.inputs}
        for value in reference.graph.inputs:
            twin = inputs.get(value.name)
            if twin is None or twin.dtype != value.dtype:
                continue
            if _content_of_default(value) == _content_of_default(twin):
                self._prove(value, twin)

    def certificate(self, seconds: float, told: Progress) -> ModelCertificate:
        """Go through the shared values in order, and say which outputs are reached."""
        begun = time.monotonic()
        proven: list[Certificate] = []
        failed: dict[str | None, str] = {}
        for pairs in self._ways():
            if not self._open_outputs():
                break
            for number, (value, twin) in enumerate(pairs, 1):
                if value in self._proven[0] or twin in self._proven[1]:
                    continue
                if time.monotonic() > begun + seconds:
                    failed[value.name] = "there was no time left"
                    continue
                told(Counted(f"certifying {value.name}", number, len(pairs)))
                found = self._certify(value, twin, seconds_for_one(seconds))
                if found.verdict == "certified":
                    self._prove(value, twin)
                    proven.append(found)
                else:
                    failed[value.name] = found.note or _why_not(found.worst)
        return ModelCertificate(
            values=len(proven),
            bound=max((found.bound for found in proven if found.bound), default=None),
            doubt=math.fsum(found.doubt or 0.0 for found in proven),
            open=[
                OpenWindow(name, failed.get(name, "the candidate has no such value"))
                for name in self._open_outputs()
            ],
            seconds=time.monotonic() - begun,
        )

    def _open_outputs(self) -> list[str]:
        """Return the names of the outputs that are not proven yet."""
        outputs = [value.name or "" for value in self._models[0].graph.outputs]
        names = {value.name for value in self._proven[0]}
        return [name for name in outputs if name not in names]

    def _ways(self) -> Iterator[list[tuple[ir.Value, ir.Value]]]:
        """Yield the pairs to try, in the reference's order: first one way, then the other.

        Names that another exporter has given mean nothing: unless most stand for the same operator
        in both, structure comes first.
        """
        values, others = map(_values, self._models)
        by_name = {value: others[name] for name, value in values.items() if name in others}
        kept = sum(_operator(value) == _operator(twin) for value, twin in by_name.items())
        are_names_kept = 2 * kept >= min(len(values), len(others))
        if are_names_kept:
            yield _in_order(by_name, values.values())
        yield _in_order(pairs_by_structure(*self._models), values.values())
        if not are_names_kept:
            yield _in_order(by_name, values.values())

    def _prove(self, value: ir.Value, twin: ir.Value) -> None:
        self._proven[0][value] = self._proven[1][twin] = value.name or ""

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
        if one is None or other is None:
            return False
        functions = (one.op_identifier() in model.functions for model in self._models)
        if value.index() != twin.index() or any(functions) or not is_same_operator(one, other):
            return False
        is_equal = all(map(self._is_equal, one.inputs, other.inputs))
        return is_equal and self._bodies(one, 0) == self._bodies(other, 1)

    def _bodies(self, node: ir.Node, side: int) -> list[object]:
        """Return what tells the bodies of a node of one side from others; mostly there are none.

        What they read from outside is named as it is proven, or by its content.
        """
        if not has_body(node):
            return []
        if not are_bodies_plain(node):
            return [object()]  # equal to nothing
        names = _Names(("reference", "candidate")[side], self._proven[side])
        outside = {value.name: _content(value) or names[value] for value in captured(node)}
        proto = ir.serde.serialize_node(node)
        rename_bodies(proto, outside, "within")
        bodies = sorted(
            (each.name, each.SerializeToString(deterministic=True))
            for each in proto.attribute
            if each.HasField("g") or each.graphs
        )
        return [sorted(self._models[side].opset_imports.items()), *bodies]

    def _is_equal(self, value: ir.Value | None, twin: ir.Value | None) -> bool:
        if value is None or twin is None:
            return value is twin
        if value in self._proven[0] and twin in self._proven[1]:
            return self._proven[0][value] == self._proven[1][twin]
        return are_equal_constants(value, twin)


def _why_not(difference: Difference | None) -> str:
    """Return why a value is not proven, from those that are."""
    if difference is None:
        return "it is not shown to be equal"
    apart = difference.mismatch or (
        f"{difference.before:.6g} and {difference.after:.6g} at {difference.index}"
    )
    return f"from some values of what is proven before it, the two compute {apart}"


def _in_order(
    pairs: Mapping[ir.Value, ir.Value], values: Iterable[ir.Value]
) -> list[tuple[ir.Value, ir.Value]]:
    """Return the pairs of values of one type, in this order."""
    return [
        (value, pairs[value])
        for value in values
        if value in pairs and value.dtype == pairs[value].dtype
    ]


def _content(value: ir.Value) -> str:
    """Return what tells a constant from others; nothing if it is none."""
    return "" if value.is_graph_input() else _content_of_default(value)


def _content_of_default(value: ir.Value) -> str:
    """Return what tells the content of a constant, or that a caller may override, from others."""
    content = content_of(value)
    if content is None:
        return ""
    is_text = content.dtype is ir.DataType.STRING
    stored = repr(content.numpy().tolist()).encode() if is_text else content.tobytes()
    return f"{content.dtype} {content.shape} {hashlib.sha256(stored).hexdigest()}"


def _operator(value: ir.Value) -> object:
    """Return which operator computes a value, and as which of its results."""
    node = value.producer()
    return None if node is None else (node.op_identifier(), value.index())


def _values(model: ir.Model) -> dict[str, ir.Value]:
    """Return what the nodes of the main graph compute, by name, in order."""
    return {value.name: value for node in model.graph for value in node.outputs if value.name}
