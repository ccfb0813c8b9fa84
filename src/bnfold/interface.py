"""What a model's graph says of its inputs and outputs, beyond their types and shapes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from bnfold.errors import BnfoldError
from bnfold.model_io import load

_TABLES = {"Gather": (0, 1), "GatherElements": (0, 1)}
"""Operators that look up positions along an axis: which inputs are the table and the positions."""

_SAME_NUMBERS = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze"}
    | {"Tile", "Transpose", "Unsqueeze"}
)
"""Operators that hand on integers as they are."""

_DATA_DEPENDENT = frozenset(["Compress", "NonMaxSuppression", "NonZero", "Unique"])
"""Operators whose output's shape depends on the values of their input."""


class Interface:
    """What can be found out; nothing, if bnfold cannot read the model.

    `largest` are the largest values of those integer inputs that are positions in a table, as the
    identifiers of words are. `data_dependent` names the outputs whose shape depends on the content
    of the inputs.
    """

    def __init__(self, path: Path) -> None:
        self.largest: dict[str, int] = {}
        self.data_dependent: frozenset[str] = frozenset()
        try:
            graph = load(path).ir.graph
        except BnfoldError:
            return
        for value in graph.inputs:
            sizes = list(_table_sizes(value))
            if sizes and value.name is not None:
                self.largest[value.name] = min(sizes) - 1
        self.data_dependent = frozenset(_depending_outputs(graph))


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


def _depending_outputs(graph: ir.Graph) -> Iterator[str]:
    tainted: set[ir.Value] = set()
    for node in graph:
        if node.op_type in _DATA_DEPENDENT or any(each in tainted for each in node.inputs if each):
            tainted.update(node.outputs)
    for value in graph.outputs:
        if value in tainted and value.name is not None:
            yield value.name
