"""Takes from a window what needs no proof: constant expressions, and what both sides share.

Where the last operator of both sides is the same, with the same constants, equal operands are
enough (congruence): what is left to prove is before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array
from bnfold.errors import SessionError
from bnfold.proof.windows import (
    NotShown,
    Window,
    ints,
    is_float,
    is_random,
    is_training,
)
from bnfold.running.runtime import Level, Session

_FACTORS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Mul"}
"""Operators that multiply their first two operands."""

_ADDENDS = {"Add", "Concat", "Sub", "Sum"}
"""Operators that are linear in all of their operands together."""


def with_constants_computed(window: Window) -> Window:
    """Replace each expression of constants by what onnxruntime computes for it.

    No constants of both sides have one name, or that of an input.

    Raises:
        NotShown: if onnxruntime cannot.
    """
    inputs = {value.name for value in window.before.graph.input}
    before, after = map(_computed, window.models)
    before = _renamed(before, inputs)
    return Window(before, _renamed(after, inputs | {t.name for t in before.graph.initializer}))


def _renamed(model: onnx.ModelProto, taken: Container[str]) -> onnx.ModelProto:
    """Give the constants whose names are taken others; none is an input, too."""
    if not any(tensor.name in taken for tensor in model.graph.initializer):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = {}
    for number, tensor in enumerate(copy.graph.initializer):
        if tensor.name in taken:
            names[tensor.name] = tensor.name = f"constant {number} {tensor.name}"
    for node in copy.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
    for output in copy.graph.output:
        output.name = names.get(output.name, output.name)
    return copy


def _computed(model: onnx.ModelProto) -> onnx.ModelProto:
    known = {tensor.name for tensor in model.graph.initializer}
    constant_nodes: list[onnx.NodeProto] = []
    others: list[onnx.NodeProto] = []
    contents = _Side(model).constants
    for node in model.graph.node:
        is_constant = not is_random(node, contents) and all(
            not name or name in known for name in node.input
        )
        (constant_nodes if is_constant else others).append(node)
        if is_constant:
            known.update(node.output)
    if not constant_nodes:
        return model
    made = {name for node in constant_nodes for name in node.output if name}
    wanted = dict.fromkeys(name for node in others for name in node.input if name in made)
    wanted |= dict.fromkeys(out.name for out in model.graph.output if out.name in made)
    source = _rebuilt(model, constant_nodes, [], wanted)
    try:
        results = Session(source.SerializeToString(), "cpu", Level.DISABLED).run({})
    except SessionError as error:
        raise NotShown(f"its constants cannot be computed: {error}") from error
    computed = _rebuilt(model, others, model.graph.input, [out.name for out in model.graph.output])
    for name, content in results.items():
        computed.graph.initializer.append(onnx.numpy_helper.from_array(np.array(content), name))
    return computed


def with_sizes(window: Window, shapes: Mapping[str, Sequence[int]]) -> Window:
    """Fix the sizes of the inputs, and compute what depends on these alone."""
    models = []
    for model in window.models:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for value in copy.graph.input:
            if value.name in shapes:
                kind = value.type.tensor_type.elem_type
                fixed = onnx.helper.make_tensor_value_info(value.name, kind, shapes[value.name])
                value.CopyFrom(fixed)
        for node in copy.graph.node:
            if node.op_type == "Shape" and node.input[0] in shapes:
                sizes = np.array(shapes[node.input[0]], np.int64)[_range(node)]
                constant = onnx.helper.make_node("Constant", [], list(node.output), node.name)
                constant.attribute.append(onnx.helper.make_attribute("value_ints", sizes.tolist()))
                node.CopyFrom(constant)
        models.append(copy)
    return with_constants_computed(Window(*models))


def _range(node: onnx.NodeProto) -> slice:
    """Return which sizes a Shape returns."""
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    return slice(ends.get("start"), ends.get("end"))


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
    return [_cut(window, *pair) for pair in left]


def without_shared(window: Window) -> Window:
    """Cut off what both sides compute alike from the inputs: its results become inputs.

    It is enough that they are equal for any of these, but may be more than need be.
    """
    numbers: dict[object, int] = {}
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
    cuts = zip(window.models, renamed, strict=True)
    return Window(*(_reading(model, names, inputs.values()) for model, names in cuts))


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
    return _rebuilt(model, _needed(nodes, outputs), [*model.graph.input, *inputs], outputs)


def of_one_output(window: Window) -> list[Window]:
    """Return a window for each output."""
    names = ([output.name for output in model.graph.output] for model in window.models)
    return [_cut(window, *pair) for pair in zip(*names, strict=True)]


class _Side:
    """One model, to walk from its outputs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.outputs = [output.name for output in model.graph.output]
        self.producers = {name: node for node in model.graph.node for name in node.output if name}
        self.constants: dict[str, Array] = {
            tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }

        self.described = {value.name: value for value in model.graph.value_info}
        self._model = model

    def numbered(self, numbers: dict[object, int]) -> dict[str, int]:
        """Number each value by what computes it, alike on both sides of a window."""
        own = {
            value.name: numbers.setdefault(("input", value.name), len(numbers))
            for value in self._model.graph.input
        }
        for name, content in self.constants.items():
            digest = hashlib.sha256(content.tobytes()).digest()
            key = ("constant", content.dtype.name, content.shape, digest)
            own[name] = numbers.setdefault(key, len(numbers))
        for node in self._model.graph.node:
            operands = tuple(own.get(name, -1) for name in node.input)
            drawn = is_random(node, self.constants)
            made: object = (id(node),) if drawn else (_signature(node), operands)
            for index, name in enumerate(node.output):
                own[name] = numbers.setdefault((made, index), len(numbers))
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
            return same_kind and one.tobytes() == two.tobytes()
        is_input = name not in self.constants and name not in self.producers
        return is_input and name == other and other not in side.producers

    def operands(self, name: str, side: _Side, other: str) -> list[tuple[str, str]] | None:
        """Return what must be equal for two results of one operator to be; None if they differ."""
        node, twin = self.producers.get(name), side.producers.get(other)
        if node is None or twin is None or _signature(node) != _signature(twin):
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


def _signature(node: onnx.NodeProto) -> tuple[object, ...]:
    attributes = sorted((attribute.name, _bytes(attribute)) for attribute in node.attribute)
    return node.domain, node.op_type, len(node.input), len(node.output), tuple(attributes)


def _bytes(attribute: onnx.AttributeProto) -> bytes:
    copy = onnx.AttributeProto()
    copy.CopyFrom(attribute)
    copy.ClearField("doc_string")
    return bytes(copy.SerializeToString(deterministic=True))


# --- Kinds of functions ---------------------------------------------------------------------------


def is_multilinear(model: onnx.ModelProto) -> bool:
    """Say whether no operator multiplies what varies, nor does more with it than add and move it.

    Then operators that may be affine are, by their definition.
    """
    varying = {value.name for value in model.graph.input}
    constants = _Side(model).constants
    for node in model.graph.node:
        at = {index for index, name in enumerate(node.input) if name in varying}
        if at:
            varying.update(node.output)
        if at and not (_is_linear_at(node, at) and not is_random(node, constants)):
            return False
    return True


def _is_linear_at(node: onnx.NodeProto, at: set[int]) -> bool:
    """Say whether an operator is affine in the operands at some places together."""
    if node.op_type in _FACTORS:
        return not {0, 1} <= at
    if node.op_type == "Pad":
        return at <= {0, 2}
    if node.op_type == "BatchNormalization" and is_training(node):
        return False
    if node.op_type == "Cast" and not _is_float_cast(node):
        return False
    return node.op_type in _ADDENDS or at == {0}


def float_casts(model: onnx.ModelProto) -> set[int]:
    """Return the float types to which something is cast."""
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    return {ints(node, "to")[0] for node in casts if _is_float_cast(node)}


def _is_float_cast(node: onnx.NodeProto) -> bool:
    return is_float(onnx.helper.tensor_dtype_to_np_dtype(ints(node, "to")[0]))


def of_pool_inputs(model: onnx.ModelProto) -> list[onnx.ModelProto]:
    """Return models of what each MaxPool reads."""
    read = [node.input[0] for node in model.graph.node if node.op_type == "MaxPool"]
    return [
        _rebuilt(model, _needed(model.graph.node, [name]), model.graph.input, [name])
        for name in read
    ]


def is_chain(model: onnx.ModelProto) -> bool:
    """Say whether each operator has one operand that varies."""
    constants = {tensor.name for tensor in model.graph.initializer} | {""}
    return all(sum(name not in constants for name in node.input) == 1 for node in model.graph.node)


def is_same_but_pools(window: Window) -> bool:
    """Say whether both sides are chains of the same operators, MaxPools aside."""
    chains = []
    for model in window.models:
        constants = _Side(model).constants
        chains.append(
            [
                (
                    _signature(node),
                    [
                        (
                            constants[name].dtype.name,
                            constants[name].shape,
                            constants[name].tobytes(),
                        )
                        for name in node.input
                        if name in constants
                    ],
                )
                for node in model.graph.node
                if node.op_type not in ("Identity", "MaxPool")
            ]
        )
    return chains[0] == chains[1] and all(map(is_chain, window.models))


# --- Cutting --------------------------------------------------------------------------------------


def _cut(window: Window, one: str, other: str) -> Window:
    """Return the window of one value of each side."""
    return Window(
        *(
            _rebuilt(model, _needed(model.graph.node, [name]), model.graph.input, [name])
            for model, name in zip(window.models, (one, other), strict=True)
        )
    )


def _needed(nodes: Sequence[onnx.NodeProto], names: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes that some values depend on, in order."""
    needed = set(names)
    chosen = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            chosen.append(node)
            needed.update(node.input)
    return chosen[::-1]


def _rebuilt(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[str],
) -> onnx.ModelProto:
    """Return a model of some of the nodes, with the constants that they read."""
    outputs = list(outputs)
    read = {name for node in nodes for name in node.input} | set(outputs)
    graph = onnx.helper.make_graph(
        nodes,
        "window",
        list(inputs),
        [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
        [tensor for tensor in model.graph.initializer if tensor.name in read],
        value_info=model.graph.value_info,
    )
    return onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
