"""Finds values of one graph that are computed alike, and so are equal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

import onnx_ir as ir

from bnfold.graph.constants import RANDOM
from bnfold.graph.walk import has_body
from bnfold.rewriting.query import is_op
from bnfold.workflow.bodies import is_plain
from bnfold.workflow.determined import are_equal_constants, content_of

_MOST = 256
"""Nodes with other constants that a node is compared with."""


def equal_values(graph: ir.Graph) -> Mapping[ir.Value, Sequence[ir.Value]]:
    """Return for each value that has equals in the graph all of these, itself among them.

    The same operator has computed them from equal values and equal constants, or an Identity
    repeats one. What depends on constants alone is left out, and what draws.
    """
    first: dict[ir.Value, ir.Value] = {}
    alike: dict[Hashable, list[ir.Node]] = defaultdict(list)
    for node in graph:
        if is_op(node, "Identity") and (read := node.inputs[0]) is not None:
            first[node.outputs[0]] = first.get(read, read)
        elif not _is_left_out(node):
            others = alike[_signature(node, first)]
            twin = next((each for each in others[-_MOST:] if _has_constants_of(node, each)), None)
            if twin is None:
                others.append(node)
            else:
                first |= zip(node.outputs, twin.outputs, strict=True)
    groups: dict[ir.Value, list[ir.Value]] = defaultdict(list)
    for value, one in first.items():
        groups[one] = groups[one] or [one]
        groups[one].append(value)
    return {value: group for group in groups.values() for value in group}


def _is_left_out(node: ir.Node) -> bool:
    if not is_plain(node) or has_body(node) or node.op_type in {*RANDOM, "Dropout"}:
        return True
    return all(value is None or _is_stored(value) for value in node.inputs)


def _signature(node: ir.Node, first: Mapping[ir.Value, ir.Value]) -> Hashable:
    """Return what tells a node from others, the content of its constants aside."""
    operands = tuple(
        None if value is None or _is_stored(value) else first.get(value, value)
        for value in node.inputs
    )
    attributes = (ir.serde.serialize_attribute(each) for each in node.attributes.values())
    told = sorted((each.name, each.SerializeToString(deterministic=True)) for each in attributes)
    return node.op_type, len(node.outputs), operands, tuple(told)


def _has_constants_of(node: ir.Node, other: ir.Node) -> bool:
    return all(
        are_equal_constants(value, its)
        or (value is None and its is None)
        or not (value is None or its is None or _is_stored(value) or _is_stored(its))
        for value, its in zip(node.inputs, other.inputs, strict=True)
    )


def _is_stored(value: ir.Value) -> bool:
    return content_of(value) is not None and not value.is_graph_input()
