"""Reads a graph backwards from its outputs, beside another one: what computes a value from what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from onnx.reference import ReferenceEvaluator

from bnfold.arrays import Array
from bnfold.graph.constants import RANDOM
from bnfold.graph.schemas import opsets_of
from bnfold.graph.sizes import ENDLESS
from bnfold.proof.cutting import bodies, nodes_within, reads
from bnfold.running.learning import infer

SELECTING = frozenset(["NonMaxSuppression", "TopK", "Unique"])
"""Operators that select or order rows by a value."""

_SELECTED = SELECTING | {"Compress", "NonZero"}
"""Operators whose results have other rows if their inputs change by the last bit."""

CLASSIFYING = frozenset({"ArgMax", "ArgMin"})
"""Operators that select the index of an element by its value."""

_TRANSPARENT = frozenset(
    {"And", "Cast", "Ceil", "Concat", "Equal", "Expand", "Flatten", "Floor", "Gather", "Greater"}
    | {"GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Not", "Or", "Reshape", "Round"}
    | {"Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where", "Xor"}
)
"""Operators before a selection that round nothing: their operands are compared in their place."""

_RANDOM = RANDOM | {"Dropout"}

_MOST_COMPUTED = 2**16
"""Elements up to which an expression of constants is computed."""


class Scope:
    """A graph to walk from its outputs; a body sees the values of the graph around it, too."""

    def __init__(
        self, graph: onnx.GraphProto, opsets: Mapping[str, int], around: Scope | None = None
    ) -> None:
        self.opsets = opsets
        self._known: dict[str, Array | None] = {}
        self.outputs = [value.name for value in graph.output]
        self._around = around
        self._inputs = [value.name for value in graph.input]
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._fixed: dict[str, int] = {}
        """What is computed from constants alone, and the place of the node that does."""
        for place, node in enumerate(graph.node):
            is_pure = len(node.output) == 1 and node.op_type not in _RANDOM
            if is_pure and not any(bodies(node)) and all(map(self._is_fixed, node.input)):
                self._fixed[node.output[0]] = place

    def _is_fixed(self, name: str) -> bool:
        if not name or name in self._fixed:
            return True
        if not self.has(name):
            return self._around is not None and self._around._is_fixed(name)
        return name in self._initializers and name not in self._inputs

    def has(self, name: str) -> bool:
        """Say whether the graph itself has a value of this name."""
        return name in self._producers or name in self._inputs or name in self._initializers

    def computes(self, name: str) -> bool:
        """Say whether a node of the graph itself computes a value of this name."""
        return name in self._producers

    def is_random(self, name: str) -> bool:
        """Say whether its operator, or one in its bodies, gives other values in each run."""
        node = self._producers.get(name)
        return node is not None and any(n.op_type in _RANDOM for n in nodes_within(node))

    def operator(self, name: str) -> str:
        """Return the operator that computes a value; empty if it is an input or initializer."""
        node = self._producers.get(name)
        return node.op_type if node is not None else ""

    def node(self, name: str) -> onnx.NodeProto | None:
        """Return the node that computes a value; None of an input or initializer."""
        return self._producers.get(name)

    def operands_of(self, name: str) -> set[str]:
        """Return what the node that computes a value reads, also in its bodies."""
        node = self._producers.get(name)
        return reads(node) if node is not None else set()

    def source(self, name: str) -> str:
        """Return the value of which a value is a copy: by an Identity, or a Slice of everything."""
        while name in self._producers:
            node = self._producers[name]
            if node.op_type != "Identity" and not self._slices_everything(node):
                break
            name = node.input[0]
        return name

    def _slices_everything(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Slice" or len(node.input) < 3:
            return False
        starts, ends = self.constant(node.input[1]), self.constant(node.input[2])
        steps = self.constant(node.input[4]) if len(node.input) > 4 else np.ones(1)
        if starts is None or ends is None or steps is None:
            return False
        return not starts.any() and bool((ends >= ENDLESS).all() and (steps == 1).all())

    def place(self, name: str) -> int:
        """Return which of its inputs a value is; -1 if none."""
        return self._inputs.index(name) if name in self._inputs else -1

    def is_transparent(self, name: str) -> bool:
        """Say whether its operator rounds nothing."""
        node = self._producers.get(name)
        return node is not None and node.domain in ("", "ai.onnx") and node.op_type in _TRANSPARENT

    def constant(self, name: str) -> Array | None:
        """Return the content of a constant, or of a small expression of constants; else None."""
        if not self.has(name):
            return self._around.constant(name) if self._around else None
        if name not in self._known:
            for each in self._needed(name):
                self._known[each] = self._computed(each)
            if name in self._initializers and self._is_fixed(name):
                self._known[name] = onnx.numpy_helper.to_array(self._initializers[name])
        return self._known.setdefault(name, None)

    def _needed(self, name: str) -> list[str]:
        """Return what a constant is computed from and is not known yet, and itself, in order."""
        needed, pending = set(), [name]
        while pending:
            each = pending.pop()
            if each in self._fixed and each not in self._known and each not in needed:
                needed.add(each)
                pending += self._producers[each].input
        return sorted(needed, key=self._fixed.__getitem__)

    def _computed(self, name: str) -> Array | None:
        node = self._producers[name]
        operands = {each: self.constant(each) for each in node.input if each}
        contents = {each: array for each, array in operands.items() if array is not None}
        if len(contents) < len(operands):
            return None
        if sum(array.size for array in contents.values()) > _MOST_COMPUTED:
            return None
        graph = onnx.helper.make_graph(
            [node],
            "constant",
            [onnx.helper.make_empty_tensor_value_info(each) for each in contents],
            [onnx.helper.make_empty_tensor_value_info(name)],
        )
        try:
            (found,) = ReferenceEvaluator(graph, opsets=dict(self.opsets)).run(None, contents)
        except Exception:  # it raises whatever its operators raise
            return None
        return found if isinstance(found, np.ndarray) else None

    def content(self, name: str) -> tuple[object, ...] | None:
        """Return what tells a constant from another one; None if it is none."""
        found = self.constant(name)
        return None if found is None else (found.dtype, found.shape, found.tobytes())

    def operands(self, name: str, other: Scope, its: str) -> list[tuple[str, str]] | None:
        """Return what must be equal for two results of one operator to be; None if they differ."""
        node, twin = self._producers.get(name), other._producers.get(its)
        if node is None or twin is None or _signature(node) != _signature(twin):
            return None
        if node.op_type in _RANDOM:
            return None
        if list(node.output).index(name) != list(twin.output).index(its):
            return None
        pairs = list(zip(node.input, twin.input, strict=True))
        if any(bool(one) != bool(two) for one, two in pairs):
            return None
        for body, its_body in zip(bodies(node), bodies(twin), strict=True):
            captured = _captured(
                Scope(body, self.opsets, self), Scope(its_body, other.opsets, other)
            )
            if captured is None:
                return None
            pairs += captured
        return [pair for pair in pairs if pair[0]]


def sources(one: Scope, other: Scope, pending: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield what computes the values of each pair, once, also of those that are added meanwhile."""
    seen: set[tuple[str, str]] = set()
    while pending:
        names = pending.pop()
        pair = one.source(names[0]), other.source(names[1])
        if pair not in seen:
            seen.add(pair)
            yield pair


def _captured(one: Scope, other: Scope) -> list[tuple[str, str]] | None:
    """Return what must be equal around two bodies for their results to be; None if they differ."""
    if len(one.outputs) != len(other.outputs):
        return None
    pending = list(zip(one.outputs, other.outputs, strict=True))
    found = []
    for pair in sources(one, other, pending):
        content = one.content(pair[0])
        is_same = content is not None and content == other.content(pair[1])
        is_given = one.place(pair[0]) >= 0 and one.place(pair[0]) == other.place(pair[1])
        if is_same or is_given:
            continue
        if not one.has(pair[0]) and not other.has(pair[1]):
            found.append(pair)
            continue
        operands = one.operands(pair[0], other, pair[1])
        if operands is None:
            return None
        pending += operands
    return found


class Side(Scope):
    """The main graph of one model.

    Args:
        model: the model.
        given: selections, one after another, that are operators as any other: both sides select
            the same there.
    """

    def __init__(self, model: onnx.ModelProto, given: int = 0) -> None:
        super().__init__(model.graph, opsets_of(model))
        self.model = model
        self.selecting: set[str] = set()
        self.selected: set[str] = set()
        """All values that depend on a selection of what an input decides."""
        self.classes: dict[str, str] = {}
        """Indices of the largest or smallest elements, copied at most, by the operator."""
        live = set(self._inputs)
        passed: dict[str, int] = {}
        given_by: set[str] = set()
        for node in model.graph.node:
            read = reads(node)
            before = max((passed[name] for name in read if name in passed), default=0)
            if not live.isdisjoint(read) and node.op_type not in ("Shape", "Size"):
                live.update(node.output)
                kinds = {inner.op_type for inner in nodes_within(node)}
                if before >= given:
                    self.selecting |= kinds & SELECTING
                elif kinds & _SELECTED:
                    given_by |= read
                before += bool(kinds & _SELECTED)
                if node.op_type in CLASSIFYING:
                    self.classes[node.output[0]] = node.op_type
                elif node.op_type in _TRANSPARENT and node.input[0] in self.classes:
                    self.classes |= dict.fromkeys(node.output, self.classes[node.input[0]])
            passed |= dict.fromkeys(node.output, before)
            if before > given:
                self.selected.update(node.output)
        self.selected.discard("")
        self.deciding_inputs = self._inputs_of(given_by)
        """Inputs that decide what is selected where that is given."""

    def _inputs_of(self, names: set[str]) -> frozenset[str]:
        """Return the inputs that values are computed from."""
        seen: set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            if name not in seen:
                seen.add(name)
                pending += self.operands_of(name)
        return frozenset(seen.intersection(self._inputs))

    def decides_outputs(self) -> bool:
        """Say whether an output depends on a selection, or is the class of something."""
        return any(name in self.selected or name in self.classes for name in self.outputs)

    def deciding(self) -> tuple[str, ...]:
        """Return the operators whose selections the outputs depend on."""
        classes = {self.classes[name] for name in self.outputs if name in self.classes}
        return tuple(sorted(self.selecting | classes))

    def types(self) -> dict[str, int]:
        """Return the element types of values, where they can be inferred."""
        graph = (infer(self.model) or self.model).graph
        described = (*graph.value_info, *graph.output, *graph.input)
        return {value.name: value.type.tensor_type.elem_type for value in described}


def _signature(node: onnx.NodeProto) -> tuple[object, ...]:
    """Return what tells an operator from another one, its operands and bodies aside."""
    attributes = []
    for attribute in sorted(node.attribute, key=lambda each: each.name):
        copy = onnx.AttributeProto()
        copy.CopyFrom(attribute)
        copy.ClearField("doc_string")
        shapes = [(len(body.input), len(body.output)) for body in (copy.g, *copy.graphs)]
        copy.ClearField("g")
        copy.ClearField("graphs")
        attributes.append((copy.SerializeToString(deterministic=True), *shapes))
    domain = "" if node.domain == "ai.onnx" else node.domain
    return domain, node.op_type, len(node.input), len(node.output), *attributes
