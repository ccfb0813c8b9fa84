"""What a model's graph says of its inputs and outputs, beyond their types and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array
from bnfold.errors import BnfoldError
from bnfold.graph.constants import RANDOM, constant
from bnfold.proof.hints.all_hints import beside, hints_of
from bnfold.proof.hints.integers import TABLES
from bnfold.proof.hints.sizes import COMPARISONS, SAME_NUMBERS
from bnfold.proof.learned import learned
from bnfold.running.hints import Hints

_DATA_DEPENDENT = frozenset(["Compress", "NonMaxSuppression", "NonZero", "Unique"])
"""Operators whose output's shape depends on the values of their input."""

_STEPS = frozenset(
    {"ArgMax", "ArgMin", "Ceil", "DynamicQuantizeLinear", "Floor", "NonMaxSuppression"}
    | {"QuantizeLinear", "Round", "Sign", "TopK"}
    | COMPARISONS
)
"""Operators that jump: next to a step, the last bit of their input decides."""

_ORDERED = frozenset(["NonMaxSuppression", "TopK", "Unique"])
"""Operators that order rows by a value: rows whose values tie may change places."""

_INDEXING = {"ArgMax": 0, "ArgMin": 0, "NonMaxSuppression": 0, "NonZero": 0, "TopK": 1, "Unique": 1}
"""Operators that give indices, and the first of their outputs that does."""

UNITS = ("float64", "float32", "float16", "bfloat16")
"""Rounding units, the finest first."""

_UNIT_OF = {
    ir.DataType.DOUBLE: 0,
    ir.DataType.FLOAT: 1,
    ir.DataType.FLOAT16: 2,
    ir.DataType.BFLOAT16: 3,
}

_LARGEST_COUNT = 64
"""Elements of a float parameter up to which whole numbers are taken to be meant exactly."""


@dataclass
class Traits:
    """What can be found out; nothing, if bnfold cannot read the model."""

    hints: Hints = field(default_factory=Hints)
    """What to draw inputs by."""
    data_dependent: frozenset[str] = frozenset()
    """The outputs whose shape depends on the content of the inputs."""
    steps: frozenset[str] = frozenset()
    """The outputs downstream of an operator that jumps from step to step."""
    ordered: frozenset[str] = frozenset()
    """The outputs whose rows are in an order that a tie leaves open."""
    constant: frozenset[str] = frozenset()
    """The outputs that no input's content changes: they depend on shapes alone, or on nothing."""
    units: dict[str, str] = field(default_factory=dict)
    """The rounding unit of each output: the coarsest float type on the way to it."""
    coarse: frozenset[str] = frozenset()
    """The outputs that are computed with an absolute error, however small they are."""
    indices: frozenset[str] = frozenset()
    """The outputs of integers that are indices, such as classes: none is near another."""
    opset: int | None = None
    """The version of the default operator set."""
    random: str = ""
    """The first operator that draws numbers, if any."""
    weights: Mapping[str, ir.TensorProtocol] = field(default_factory=dict)
    """The float weights of the main graph by name, but those that must be exact."""

    @staticmethod
    def of(path: Path) -> Traits:
        """Read a model and find its traits."""
        try:
            model = learned(path).ir
        except BnfoldError:
            return Traits()
        inputs = set(model.graph.inputs)
        live = _downstream(model, inputs, through_shapes=False)
        names = {value.name for value in model.graph.outputs if value.name is not None}
        return Traits(
            hints=hints_of(model),
            data_dependent=_outputs(model, _downstream_of_kind(model, live, _finds)),
            steps=_outputs(model, _downstream_of_kind(model, live, _jumps)),
            ordered=_outputs(model, _downstream_of_kind(model, live, _orders)),
            constant=frozenset(names - _outputs(model, live)),
            units=_rounding_units(model),
            coarse=_outputs(model, _coarse(model)),
            indices=_outputs(model, _indices(model)),
            opset=model.opset_imports.get(""),
            random=next(_random(model), ""),
            weights=_float_weights(model),
        )

    @staticmethod
    def beside(path: Path, other: Path) -> Traits:
        """Find a model's traits where it is compared with another, which is also to draw for."""
        own = Traits.of(path)
        try:
            twin = learned(other).ir
            hints = beside(own.hints, learned(path).ir, twin)
        except BnfoldError:
            return own
        coarse = _outputs(twin, _coarse(twin))
        return replace(own, hints=hints, coarse=own.coarse | coarse)


def _coarse(model: ir.Model) -> set[ir.Value]:
    """Return what a Sigmoid gives: onnxruntime computes ½ + x·p(x²)/q(x²), in float32."""
    found: set[ir.Value] = set()
    for node in model.graph:
        is_passed = node.op_type in SAME_NUMBERS and not found.isdisjoint(node.inputs)
        source = node.inputs[0] if node.op_type == "Sigmoid" else None
        if is_passed or (source is not None and source.dtype != ir.DataType.DOUBLE):
            found.update(node.outputs)
    return found


def _indices(model: ir.Model) -> set[ir.Value]:
    """Return the values that are indices, or what a table of constants has at them."""
    found: set[ir.Value] = set()
    for node in model.graph:
        if node.op_type in _INDEXING:
            found.update(node.outputs[_INDEXING[node.op_type] :])
        elif node.op_type in TABLES:
            table, places = (node.inputs[position] for position in TABLES[node.op_type])
            if table in found or (places in found and constant(table) is not None):
                found.update(node.outputs)
        elif node.op_type in SAME_NUMBERS and not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return found


def _random(model: ir.Model) -> Iterator[str]:
    """Yield what draws numbers: an operator that does, or a Dropout that may be in training."""
    for node in model.graph:
        for inner in _nodes_within(model, node):
            training = inner.inputs[2] if len(inner.inputs) > 2 else None
            content = constant(training) if training is not None else None
            is_training = training is not None and (content is None or content.any())
            if inner.op_type in RANDOM or (inner.op_type == "Dropout" and is_training):
                yield f"{inner.op_type} {inner.name or inner.outputs[0].name or ''!r}"


def _finds(node: ir.Node) -> bool:
    return node.op_type in _DATA_DEPENDENT


def _orders(node: ir.Node) -> bool:
    return node.op_type in _ORDERED


def _jumps(node: ir.Node) -> bool:
    if node.op_type == "Cast":
        target = node.attributes.get("to")
        # A parameter of a function may be any type.
        return target is None or target.is_ref() or ir.DataType(target.as_int()).is_integer()
    return node.op_type in _STEPS


def _rounding_units(model: ir.Model) -> dict[str, str]:
    """Return the coarsest float type of all values on the way to each output."""
    units: dict[ir.Value, int] = {}

    def unit_of(value: ir.Value) -> int:
        own = -1
        if value.dtype is not None:
            is_tiny = value.dtype.is_floating_point() and value.dtype not in _UNIT_OF
            own = len(UNITS) - 1 if is_tiny else _UNIT_OF.get(value.dtype, -1)
        return max(own, units.get(value, -1))

    for node in model.graph:
        if node.op_type in ("Shape", "Size"):
            continue
        within = [output for inner in _nodes_within(model, node) for output in inner.outputs]
        coarsest = max(map(unit_of, [*_reads(model, node), *within]), default=-1)
        units |= dict.fromkeys(node.outputs, coarsest)
    return {
        value.name: UNITS[unit_of(value)]
        for value in model.graph.outputs
        if value.name is not None and unit_of(value) >= 0
    }


def _downstream_of_kind(
    model: ir.Model, live: set[ir.Value], is_source: Callable[[ir.Node], bool]
) -> set[ir.Value]:
    """Return all values downstream of nodes of a kind, where these read what is `live`."""
    sources = {
        output
        for node in model.graph
        if any(map(is_source, _nodes_within(model, node)))
        and not live.isdisjoint(_reads(model, node))
        for output in node.outputs
    }
    return _downstream(model, sources)


def _downstream(
    model: ir.Model, values: set[ir.Value], *, through_shapes: bool = True
) -> set[ir.Value]:
    """Return all values that depend on these, themselves included."""
    reached = set(values)
    for node in model.graph:
        is_shape = node.op_type in ("Shape", "Size")
        if (through_shapes or not is_shape) and not reached.isdisjoint(_reads(model, node)):
            reached.update(node.outputs)
    return reached


def _reads(model: ir.Model, node: ir.Node) -> set[ir.Value]:
    """Return what a node reads, its bodies and the function that it calls included."""
    read = {
        value for inner in _nodes_within(model, node) for value in inner.inputs if value is not None
    }
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
            read.update(attribute.as_graph().outputs)
    return read


def _outputs(model: ir.Model, values: set[ir.Value]) -> frozenset[str]:
    names = (value.name for value in model.graph.outputs if value in values)
    return frozenset(name for name in names if name is not None)


def _nodes_within(model: ir.Model, node: ir.Node) -> Iterator[ir.Node]:
    """Yield the node, and the nodes of its bodies and of the function that it calls."""
    pending = [node]
    called = set()
    while pending:
        inner = pending.pop()
        yield inner
        for attribute in inner.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                pending += attribute.as_graph()
        function = model.functions.get(inner.op_identifier())
        if function is not None and function not in called:
            called.add(function)
            pending += function


def _float_weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Return the float weights of the main graph by name, without reading their content.

    Weights are initializers or, as some exporters write them, outputs of Constant nodes.
    """
    constants = [
        node.outputs[0]
        for node in model.graph
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx")
    ]
    tensors = [
        (value.name, ir.convenience.get_const_tensor(value))
        for value in (*model.graph.initializers.values(), *constants)
        if value.name and not any(_is_exact_parameter(node, at) for node, at in value.uses())
    ]
    return {
        name: tensor
        for name, tensor in tensors
        if tensor is not None and tensor.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    }


def float_weights(traits: Traits, most_bytes: int) -> dict[str, Array]:
    """Return the content of the float weights by name; none if they take more bytes."""
    if sum(tensor.nbytes for tensor in traits.weights.values()) > most_bytes:
        return {}
    arrays = {name: np.asarray(tensor.numpy()) for name, tensor in traits.weights.items()}
    return {name: array for name, array in arrays.items() if not _is_count(array)}


def _is_exact_parameter(node: ir.Node, index: int) -> bool:
    """Say whether an operator takes a float that decides a size, or where something is."""
    return node.op_type in ("Range", "RoiAlign") or (
        node.op_type in ("Resize", "Upsample", "NonMaxSuppression", "OneHot") and index > 0
    )


def _is_count(array: Array) -> bool:
    """Say whether a small array is of whole numbers: a count, a size, or a scale by design."""
    with np.errstate(invalid="ignore"):
        return array.size <= _LARGEST_COUNT and bool(np.array_equal(array, np.round(array)))
