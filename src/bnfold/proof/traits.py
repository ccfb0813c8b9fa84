"""What a model's graph says of its inputs and outputs, beyond their types and shapes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx_ir as ir

from bnfold.errors import BnfoldError
from bnfold.modelfile.loading import load

_TABLES = {"Gather": (0, 1), "GatherElements": (0, 1)}
"""Operators that look up positions along an axis: which inputs are the table and the positions."""

_SAME_NUMBERS = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze"}
    | {"Tile", "Transpose", "Unsqueeze"}
)
"""Operators that hand on integers as they are."""

_DATA_DEPENDENT = frozenset(["Compress", "NonMaxSuppression", "NonZero", "Unique"])
"""Operators whose output's shape depends on the values of their input."""

_ROUNDING = frozenset(
    {"ArgMax", "ArgMin", "Ceil", "DynamicQuantizeLinear", "Equal", "Floor", "Greater"}
    | {"GreaterOrEqual", "Less", "LessOrEqual", "NonMaxSuppression", "QuantizeLinear", "Round"}
    | {"Sign", "TopK"}
)
"""Operators that jump: next to a step, the last bit of their input decides."""


class Interface:
    """What can be found out; nothing, if bnfold cannot read the model.

    `largest` are the largest values of those integer inputs that are positions in a table, as the
    identifiers of words are. Of the outputs, `data_dependent` are those whose shape depends on the
    content of the inputs, `rounding` those behind an operator that jumps from step to step, and
    `fixed` those that depend on no input.
    """

    def __init__(self, path: Path) -> None:
        self.largest: dict[str, int] = {}
        self.data_dependent: frozenset[str] = frozenset()
        self.rounding: frozenset[str] = frozenset()
        self.fixed: frozenset[str] = frozenset()
        try:
            model = load(path).ir
        except BnfoldError:
            return
        for value in model.graph.inputs:
            sizes = list(_table_sizes(value))
            if sizes and value.name is not None:
                self.largest[value.name] = min(sizes) - 1
        live = _downstream(model, set(model.graph.inputs), through_shapes=False)
        self.data_dependent = _outputs(model, _downstream_of_kind(model, live, _finds))
        self.rounding = _outputs(model, _downstream_of_kind(model, live, _rounds))
        names = {value.name for value in model.graph.outputs if value.name is not None}
        self.fixed = frozenset(names - _outputs(model, _downstream(model, set(model.graph.inputs))))


def _table_sizes(value: ir.Value) -> Iterator[int]:
    """Yield the sizes of the tables in which this value's content is looked up, where known."""
    pending, seen = deque([value]), {value}
    while pending:
        current = pending.popleft()
        for node, position in current.uses():
            if node.op_type in _TABLES and position == _TABLES[node.op_type][1]:
                table = node.inputs[_TABLES[node.op_type][0]]
                axis = node.attributes.get_int("axis", 0)
                size = table.shape[axis] if table is not None and table.shape is not None else None
                if isinstance(size, int) and size > 0:
                    yield size
            elif node.op_type in _SAME_NUMBERS:
                pending.extend(each for each in node.outputs if each not in seen)
                seen.update(node.outputs)


def _finds(node: ir.Node) -> bool:
    return node.op_type in _DATA_DEPENDENT


def _rounds(node: ir.Node) -> bool:
    if node.op_type == "Cast":
        return ir.DataType(node.attributes.get_int("to", 1)).is_integer()
    return node.op_type in _ROUNDING


def _downstream_of_kind(
    model: ir.Model, live: set[ir.Value], is_source: Callable[[ir.Node], bool]
) -> set[ir.Value]:
    """Return all values behind nodes of a kind, where these read what is `live`."""
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
    within = _nodes_within(model, node)
    return {value for each in within for value in each.inputs if value is not None}


def _outputs(model: ir.Model, values: set[ir.Value]) -> frozenset[str]:
    names = (value.name for value in model.graph.outputs if value in values)
    return frozenset(name for name in names if name is not None)


def _nodes_within(model: ir.Model, node: ir.Node) -> Iterator[ir.Node]:
    """Yield the node, and the nodes of its bodies and of the function that it calls."""
    pending = [node]
    called = set()
    while pending:
        each = pending.pop()
        yield each
        for attribute in each.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                pending += attribute.as_graph()
        function = model.functions.get(each.op_identifier())
        if function is not None and function not in called:
            called.add(function)
            pending += function
