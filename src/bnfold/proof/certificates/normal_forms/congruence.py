"""Takes from a window what both sides share.

What both compute alike from the inputs becomes an input. Where the last operator of both sides is
the same, with the same constants, equal operands are enough (congruence): what is left to prove is
before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator, Mapping

import onnx

from bnfold.arrays import Array
from bnfold.graph.schemas import opsets_of, schema_of
from bnfold.proof.certificates.submodels import Constants, cut, needed_nodes, rebuilt
from bnfold.proof.certificates.windows import Window, is_random


def peeled(window: Window) -> list[Window]:
    """Return what is left to prove, as windows of one output; nothing if both sides are the same.

    It is enough, but may be more than need be.
    """
    before, after = map(_Side, window.models)
    left: dict[tuple[str, str], None] = {}
    pending = list(zip(before.outputs, after.outputs, strict=True))
    seen = set()
    while pending:
        one, other = pending.pop()
        one, other = before.source(one), after.source(other)
        if (one, other) in seen or before.is_same_leaf(one, after, other):
            continue
        seen.add((one, other))
        operands = before.operands(one, after, other)
        if operands is None:
            left[one, other] = None
        else:
            pending += operands
    return [cut(window, *pair) for pair in left]


def without_shared(window: Window) -> Window:
    """Cut off what both sides compute alike from the inputs: its results become inputs.

    It is enough that they are equal for any of these, but may be more than need be.
    """
    numbers = _Numbers()
    sides = [_Side(model) for model in window.models]
    known = [side.numbered(numbers) for side in sides]
    shared = set(known[0].values()) & set(known[1].values())
    described = {
        own[name]: value
        for side, own in zip(sides, known, strict=True)
        for name, value in side.described.items()
        if own.get(name) in shared
    }
    inputs: dict[int, onnx.ValueInfoProto] = {}
    renamed: list[dict[str, str]] = []
    for side, own in zip(sides, known, strict=True):
        found = {name: own[name] for name in side.last_of(described, own)}
        for number in found.values():
            if number not in inputs:
                inputs[number] = onnx.ValueInfoProto()
                inputs[number].CopyFrom(described[number])
                inputs[number].name = f"shared {number}"
        renamed.append({name: inputs[number].name for name, number in found.items()})
    if not inputs:
        return window
    cuts = zip(window.models, renamed, strict=True)
    return _with_what_is_read(*(_reading(model, names, inputs.values()) for model, names in cuts))


def _with_what_is_read(before: onnx.ModelProto, after: onnx.ModelProto) -> Window:
    """Return two models without the inputs that neither reads."""
    read = {value.name for value in Window(before, after).inputs}
    for model in (before, after):
        for value in [each for each in model.graph.input if each.name not in read]:
            model.graph.input.remove(value)
    return Window(before, after)


def _reading(
    model: onnx.ModelProto, renamed: Mapping[str, str], inputs: Iterable[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """Return the model with some of its values as further inputs, under the names given."""
    nodes = []
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(copy.input):
            copy.input[index] = renamed.get(name, name)
        nodes.append(copy)
    outputs = [renamed.get(output.name, output.name) for output in model.graph.output]
    return rebuilt(model, needed_nodes(nodes, outputs), [*model.graph.input, *inputs], outputs)


class _Numbers:
    """A number for each thing, equal for equal ones."""

    def __init__(self) -> None:
        self._of: dict[object, int] = {}
        self._constants: dict[object, list[tuple[Array, int]]] = {}
        self._next = itertools.count()

    def of(self, key: object) -> int:
        """Return the number of what can be hashed."""
        if key not in self._of:
            self._of[key] = next(self._next)
        return self._of[key]

    def of_constant(self, content: Array) -> int:
        """Return the number of a constant: most are told apart by their first elements."""
        first = _content_of(content.reshape(-1)[:16])
        alike = self._constants.setdefault((content.dtype.name, content.shape, first), [])
        for known, number in alike:
            if _content_of(known) == _content_of(content):
                return number
        alike.append((content, next(self._next)))
        return alike[-1][1]


class _Side:
    """One model, to walk from its outputs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.outputs = [output.name for output in model.graph.output]
        self.producers = {name: node for node in model.graph.node for name in node.output if name}
        self.constants = Constants(model)
        self.described = {value.name: value for value in model.graph.value_info}
        self._model = model
        self._opsets = opsets_of(model)

    def numbered(self, numbers: _Numbers) -> dict[str, int]:
        """Number each value by what computes it, alike on both sides of a window."""
        own = {value.name: numbers.of(("input", value.name)) for value in self._model.graph.input}
        own |= {name: numbers.of_constant(content) for name, content in self.constants.items()}
        for node in self._model.graph.node:
            operands = tuple(own[name] if name else -1 for name in node.input)
            if node.op_type == "Identity" and not node.domain:
                own[node.output[0]] = operands[0]
                continue
            drawn = is_random(node, self.constants)
            made: object = (id(node),) if drawn else (signature(node, self._opsets), operands)
            for index, name in enumerate(node.output):
                own[name] = numbers.of((made, index))
        return own

    def last_of(self, chosen: Container[int], numbers: Mapping[str, int]) -> Iterator[str]:
        """Yield the last computed values on the way to the outputs that have chosen numbers."""
        pending, seen = list(self.outputs), set()
        while pending:
            name = pending.pop()
            node = self.producers.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            if numbers[name] in chosen:
                yield name
            else:
                pending += node.input

    def source(self, name: str) -> str:
        """Return the value of which a value is a copy, through Identity."""
        while name in self.producers and self.producers[name].op_type == "Identity":
            name = self.producers[name].input[0]
        return name

    def is_same_leaf(self, name: str, side: _Side, other: str) -> bool:
        """Say whether both are one input of the window, or constants of the same bits."""
        if name in self.constants and other in side.constants:
            one, two = self.constants[name], side.constants[other]
            same_kind = one.dtype == two.dtype and one.shape == two.shape
            return same_kind and _content_of(one) == _content_of(two)
        is_input = name not in self.constants and name not in self.producers
        return is_input and name == other and other not in side.producers

    def operands(self, name: str, side: _Side, other: str) -> list[tuple[str, str]] | None:
        """Return what must be equal for two results of one operator to be; None if they differ."""
        node, twin = self.producers.get(name), side.producers.get(other)
        if node is None or twin is None:
            return None
        if signature(node, self._opsets) != signature(twin, side._opsets):
            return None
        if is_random(node, self.constants):
            return None
        if list(node.output).index(name) != list(twin.output).index(other):
            return None
        pairs = list(zip(node.input, twin.input, strict=True))
        for one, two in pairs:
            has_constant = one in self.constants or two in side.constants or not (one and two)
            if has_constant and (one or two) and not self.is_same_leaf(one, side, two):
                return None
        return [pair for pair in pairs if pair[0] and pair[0] not in self.constants]


def _content_of(content: Array) -> bytes:
    """Return what tells a constant from another; the bits of strings are those of pointers."""
    return repr(content.tolist()).encode() if content.dtype.kind == "O" else content.tobytes()


def signature(node: onnx.NodeProto, opsets: Mapping[str, int]) -> tuple[object, ...]:
    """Return what an operator does in a model of these operator sets, its operands aside.

    That is told by the operator set in which it got the meaning that it has in this one.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    schema = schema_of(domain, node.op_type, opsets.get(domain))
    since = opsets.get(domain) if schema is None else schema.since_version
    attributes = sorted((attribute.name, _bytes(attribute)) for attribute in node.attribute)
    return node.domain, node.op_type, since, len(node.input), len(node.output), tuple(attributes)


def _bytes(attribute: onnx.AttributeProto) -> bytes:
    copy = onnx.AttributeProto()
    copy.CopyFrom(attribute)
    copy.ClearField("doc_string")
    return bytes(copy.SerializeToString(deterministic=True))
