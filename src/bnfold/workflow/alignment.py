"""Certifies two models, from any tool, by values within both that should be the same.

These have one name in both, or the same place in the graph. Each is proven by the window between it
and those before it that are proven. Values that keep a name and change their meaning are not
proven, and the next window is larger. If all outputs are reached, the models are equal for all
inputs.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bnfold.graph.constants import digest
from bnfold.graph.walk import bodies_in, has_body
from bnfold.progress import Counted, Progress, silent
from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.constant_folding import sizes_within
from bnfold.proof.certificates.in_turn import seconds_for_one
from bnfold.proof.certificates.windows import NotShown, Window
from bnfold.record.data import Certificate, ModelCertificate, OpenWindow
from bnfold.rewriting.query import is_op
from bnfold.text import told_apart
from bnfold.workflow.bodies import are_bodies_plain, may_draw
from bnfold.workflow.determined import are_equal_constants, content_of, is_constant
from bnfold.workflow.operators import is_same_operator
from bnfold.workflow.proven import Proven
from bnfold.workflow.slices import Slice
from bnfold.workflow.ways import ways
from bnfold.workflow.windows import Cut

_LARGEST = 100
"""Nodes of a window on either side; a larger one is not tried."""

_LOST = (0.25, 0.5, 1.0)
"""Of the time, how much what is not proven may have taken, for the first way and the second one to
be left; then it goes on with the first one."""

_ROUNDS = 4
"""What one side takes in may read what the other one would have to take in, too."""

_WEIGHING = ("Conv", "ConvTranspose", "Gemm", "MatMul")

_CLEARLY = 0.01
"""Of their norm; a bfloat16 is rounded by less than half of it."""


_LATE = "there was no time left"


@dataclass
class _Search:
    """What has been found out, in the time that there is."""

    seconds: float
    begun: float
    proven: list[Certificate] = field(default_factory=list)
    failed: dict[str | None, OpenWindow] = field(default_factory=dict)
    tried: dict[tuple[ir.Value, ir.Value], float] = field(default_factory=dict)
    """How many values were proven when a pair was not; infinitely many if it is never to be tried
    again, as it differs, or takes longer than there is time for one."""
    lost: float = 0.0
    """How long what is not proven has taken."""

    def is_hopeless(self, value: ir.Value, twin: ir.Value) -> bool:
        """Say whether a pair has been tried, and nothing is known now that was not known then."""
        return self.tried.get((value, twin), -1) >= len(self.proven)

    def left(self) -> float:
        """Return how much time is left."""
        return self.begun + self.seconds - time.monotonic()


class Alignment:
    """Two graphs, and which of their values are proven equal."""

    def __init__(
        self, reference: Proven, candidate: Proven, outputs: Sequence[tuple[ir.Value, ir.Value]]
    ) -> None:
        self._sides = reference, candidate
        self._outputs = outputs

    @staticmethod
    def of(reference: ir.Model, candidate: ir.Model) -> Alignment:
        """Return that of two models, whose inputs and outputs correspond by their names."""
        sides = (
            Proven("reference", reference, reference.graph),
            Proven("candidate", candidate, candidate.graph),
        )
        twins = {value.name: value for value in candidate.graph.outputs}
        outputs = [
            (value, twins[value.name]) for value in reference.graph.outputs if value.name in twins
        ]
        alignment = Alignment(*sides, outputs)
        inputs = {value.name: value for value in candidate.graph.inputs}
        for value in reference.graph.inputs:
            twin = inputs.get(value.name)
            if twin is None or twin.dtype != value.dtype:
                continue
            if _content_of_default(value) == _content_of_default(twin):
                alignment.prove(value, twin)
        return alignment

    def certificate(self, seconds: float, told: Progress) -> ModelCertificate:
        """Go through the shared values in order, and say which outputs are reached."""
        search = _Search(seconds, time.monotonic())
        one, other = self._sides
        chosen = ways(one.graph, other.graph, self._outputs)
        for share, pairs in zip(_LOST, chosen, strict=True):
            if not self._open_outputs():
                break
            self._go(pairs, search, share * seconds, told)
        proven = search.proven
        return ModelCertificate(
            values=len(proven),
            bound=max((found.bound for found in proven if found.bound), default=None),
            doubt=math.fsum(found.doubt or 0.0 for found in proven),
            open=[
                search.failed.get(name, OpenWindow(name, "the candidate has no such value"))
                for name in self._open_outputs()
            ],
            seconds=time.monotonic() - search.begun,
        )

    def _go(
        self,
        pairs: Sequence[tuple[ir.Value, ir.Value]],
        search: _Search,
        most: float,
        told: Progress,
    ) -> None:
        """Go one way, until what is not proven has taken too long."""
        for number, (value, twin) in enumerate(pairs, 1):
            is_proven = all(each in side.names for side, each in self._with_sides(value, twin))
            if is_proven or search.is_hopeless(value, twin):
                continue
            started, left = time.monotonic(), search.left()
            if left < 0:
                search.failed[value.name] = OpenWindow(value.name or "", _LATE)
                continue
            if search.lost > most:
                return
            told(Counted(f"certifying {value.name}", number, len(pairs)))
            longest = min(left, seconds_for_one(search.seconds))
            found = self._certify(value, twin, longest)
            if found.verdict == "certified":
                self.prove(value, twin)
                search.proven.append(found)
                continue
            differs, spent = found.verdict == "differs", time.monotonic() - started
            search.failed[value.name] = OpenWindow(value.name or "", why_not(found), differs)
            search.lost += spent
            is_never = (differs or spent >= longest) and not self._is_output(value)
            search.tried[value, twin] = math.inf if is_never else len(search.proven)

    def prove(self, value: ir.Value, twin: ir.Value) -> None:
        """Let both, and those equal to them on their own side, have one name from here on."""
        one, other = self._sides
        name = one.names.get(value) or other.names.get(twin) or value.name or ""
        one.prove(value, twin, name)
        other.prove(twin, value, name)

    def _is_output(self, value: ir.Value) -> bool:
        return any(value is output for output, _ in self._outputs)

    def _with_sides(self, value: ir.Value, twin: ir.Value) -> Iterator[tuple[Proven, ir.Value]]:
        yield from zip(self._sides, (value, twin), strict=True)

    def _open_outputs(self) -> list[str]:
        """Return the names of the outputs that are not proven yet."""
        is_open = {value: False for value, _ in self._outputs}
        for value, twin in self._outputs:
            is_open[value] |= not self._is_proven(value, twin)
        outputs = dict.fromkeys(self._sides[0].graph.outputs)
        return [value.name or "" for value in outputs if is_open.get(value, True)]

    def _is_proven(self, value: ir.Value, twin: ir.Value) -> bool:
        name, its_name = (side.names.get(each) for side, each in self._with_sides(value, twin))
        return name is not None and name == its_name

    def _certify(self, value: ir.Value, twin: ir.Value, seconds: float) -> Certificate:
        """Prove one value from those that are proven."""
        nodes = value.producer(), twin.producer()
        pairs = list(self._with_sides(value, twin))
        if self._is_congruent(value, twin):
            one, other = nodes
            assert one is not None
            assert other is not None
            if may_draw(one) and any(each in side.names for side, each in pairs):
                return Certificate("open", note="it draws random numbers again")
            if not has_body(one) or self._are_bodies_the_same(one, other):
                return Certificate("certified", "constant")
            return self._certify_bodies(one, other, seconds)
        if self._has_other_weights(value, twin):
            return Certificate("open", note="the same operator has other weights")
        slices = [side.slice(each) for side, each in pairs]
        self._read_the_same(slices)
        if any(_size(each) > _LARGEST for each in slices):
            return Certificate("open", note="too many operators before it are not proven")
        try:
            before, after = (
                side.part(each) for side, each in zip(self._sides, slices, strict=True)
            )
            window = Cut(before, after).window()
            if _have_other_shapes(window):
                return Certificate("open", note="it has another shape there")
            return certify(window, seconds)
        except NotShown as reason:
            return Certificate("open", note=str(reason))

    def _read_the_same(self, slices: Sequence[Slice]) -> None:
        """Take in what computes values that one side alone reads from those that the other reads.

        One may read what the other transposes. Taken for inputs, both could be anything.
        """
        for _ in range(_ROUNDS):
            read = [
                {side.read[leaf] for leaf in cut.leaves if leaf in side.read}
                for side, cut in zip(self._sides, slices, strict=True)
            ]
            if read[0] == read[1]:
                return
            for side, cut, names in zip(self._sides, slices, read[::-1], strict=True):
                cut.expand({value for name in names for value in side.values.get(name, ())})

    def _is_congruent(self, value: ir.Value, twin: ir.Value) -> bool:
        """Say whether one operator computes both from proven values and equal constants.

        Its bodies may differ.
        """
        one, other = value.producer(), twin.producer()
        if one is None or other is None:
            return False
        functions = (one.op_identifier() in side.model.functions for side in self._sides)
        if value.index() != twin.index() or any(functions) or not is_same_operator(one, other):
            return False
        return all(map(self._is_equal, one.inputs, other.inputs))

    def _has_other_weights(self, value: ir.Value, twin: ir.Value) -> bool:
        """Say whether one linear operator, of the same values, has weights that differ clearly.

        Then it differs for some of these values; a proof takes long to find any.
        """
        one, other = value.producer(), twin.producer()
        if one is None or other is None or not is_op(one, *_WEIGHING):
            return False
        is_same = one.op_identifier() == other.op_identifier()
        if not is_same or one.attributes != other.attributes:
            return False
        (data, weights, *_), (its_data, its_weights, *_) = one.inputs, other.inputs
        return self._is_equal(data, its_data) and _differ_clearly(weights, its_weights)

    def _is_equal(self, value: ir.Value | None, twin: ir.Value | None) -> bool:
        if value is None or twin is None:
            return value is twin
        return self._is_proven(value, twin) or are_equal_constants(value, twin)

    def _are_bodies_the_same(self, node: ir.Node, other: ir.Node) -> bool:
        """Say whether the bodies of two nodes are the same operators over the same values."""
        for each in (node, other):
            if not are_bodies_plain(each) or may_draw(each):
                return False
        one, two = self._sides
        return one.bodies(node) == two.bodies(other)

    def _certify_bodies(self, node: ir.Node, other: ir.Node, seconds: float) -> Certificate:
        """Prove that the bodies of two nodes compute the same from whatever they are given."""
        found: list[ModelCertificate] = []
        begun = time.monotonic()
        for body, its_body in _bodies(node, other):
            interfaces = (body.inputs, its_body.inputs), (body.outputs, its_body.outputs)
            if any(len(ours) != len(theirs) for ours, theirs in interfaces):
                return Certificate("open", note="bodies within it have other inputs or outputs")
            inputs, outputs = (list(zip(*each, strict=True)) for each in interfaces)
            if any(value.dtype != twin.dtype for value, twin in inputs):
                return Certificate("open", note="bodies within it read values of other types")
            sides = self._sides[0].within(body), self._sides[1].within(its_body)
            alignment = Alignment(*sides, outputs)
            for value, twin in inputs:
                alignment.prove(value, twin)
            left = begun + seconds - time.monotonic()
            found.append(alignment.certificate(left, silent))
            if found[-1].open:
                return Certificate("open", note=found[-1].open[0].reason)
        bounds = [each.bound for each in found if each.bound is not None]
        doubt = math.fsum(each.doubt or 0.0 for each in found)
        return Certificate("certified", "constant", bound=max(bounds, default=None), doubt=doubt)


def _have_other_shapes(window: Window) -> bool:
    """Say whether the two values of a window have other shapes, as far as they are known."""
    shapes = [
        sizes_within(model).get(output.name)
        for model in window.models
        for output in model.graph.output
    ]
    return len(shapes) == 2 and None not in shapes and shapes[0] != shapes[1]


def _differ_clearly(weights: ir.Value | None, others: ir.Value | None) -> bool:
    """Say whether two values are stored floats that are further apart than any rounding."""
    tensors = []
    for value in (weights, others):
        tensor = None if value is None or value.is_graph_input() else content_of(value)
        if tensor is None or not tensor.dtype.is_floating_point():
            return False
        tensors.append(tensor)
    if tensors[0].shape != tensors[1].shape:
        return False
    one, other = (tensor.numpy().astype(np.float32).ravel() for tensor in tensors)
    apart, size = one - other, max(float(one @ one), float(other @ other))
    return float(apart @ apart) > _CLEARLY**2 * size


def _bodies(node: ir.Node, other: ir.Node) -> Iterator[tuple[ir.Graph, ir.Graph]]:
    """Yield the bodies of two nodes of one operator that correspond."""
    for name, attribute in node.attributes.items():
        if bodies := bodies_in(attribute):
            yield from zip(bodies, bodies_in(other.attributes[name]), strict=True)


def _size(cut: Slice) -> int:
    """Return how many operators something is computed by, those of constants aside."""
    return sum(not all(map(is_constant, node.outputs)) for node in cut.nodes)


def why_not(found: Certificate) -> str:
    """Return why a value is not proven, from those that are."""
    if found.verdict == "open" and found.note:
        return re.sub("'(both|candidate|reference) ", "'", found.note)  # names of the window's own
    if found.worst is None:
        return "it is not shown to be equal"
    worst, apart = found.worst, found.worst.mismatch
    if not apart and worst.before is not None and worst.after is not None:
        apart = f"{' and '.join(told_apart(worst.before, worst.after))} at {worst.index}"
    return f"from some values of what is proven before it, the two compute {apart}"


def _content_of_default(value: ir.Value) -> str:
    """Return what tells the content of a constant, or that a caller may override, from others."""
    content = content_of(value)
    return "" if content is None else digest(content)
