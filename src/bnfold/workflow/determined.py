"""What determines a value, by the structure of the graph: constants, sizes, or other values."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from bnfold.graph.constants import RANDOM
from bnfold.graph.memory import memory
from bnfold.graph.walk import has_body
from bnfold.rewriting.query import is_op, reads_content

_MOST_EXPANDED = 8
"""Nodes outside a pattern that a window takes in, so that both sides read the same values."""


def between(value: ir.Value, known: set[ir.Value]) -> set[ir.Node]:
    """Return the nodes that compute a value from known ones and from sizes, else none.

    The sizes to which something is expanded may be others: they are read as they are.
    """
    nodes: set[ir.Node] = set()
    reaches = False
    pending = [value]
    while pending:
        value = pending.pop()
        node = value.producer()
        if value in known:
            reaches = True
        elif sizes := from_sizes(value):
            nodes |= sizes
        elif not is_constant(value):
            if node is None or has_body(node) or node.domain or len(nodes) > _MOST_EXPANDED:
                return set()
            nodes.add(node)
            operands = [read for read in node.inputs if read is not None]
            if is_op(node, "Expand", "Tile"):  # whatever its sizes are, it repeats what it reads
                operands, sizes_of_it = operands[:1], operands[1:]
                for read in sizes_of_it:
                    nodes |= from_sizes(read) or between(read, known)
            pending += operands
    return nodes if reaches else set()


def from_sizes(value: ir.Value) -> set[ir.Node]:
    """Return the nodes that compute a value from sizes and types alone, else none.

    However many there are: taken for an input, the value could be anything, and would differ from
    what a pass has computed.
    """
    nodes: set[ir.Node] = set()
    pending = [value] if _holds("from sizes", value, _contents_read) else []
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None or node in nodes or is_constant(value):
            continue
        nodes.add(node)
        pending += _contents_read(node)
    return nodes


_PICKING = ("Cast", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators of which a result of one number is that number, however they pick and move elements."""


def filling(value: ir.Value) -> set[ir.Node]:
    """Return the nodes that repeat a constant, whatever the sizes are computed from, else none."""
    nodes: set[ir.Node] = set()
    while (node := value.producer()) is not None and len(nodes) <= _MOST_EXPANDED:
        nodes.add(node)
        if is_op(node, "ConstantOfShape"):
            return nodes
        data = node.inputs[0] if node.inputs else None
        if data is None or not is_op(node, "Expand", "Tile", *_PICKING):
            break
        if is_constant(data):
            return nodes if is_op(node, "Expand", "Tile") else set()
        value = data
    return set()


def are_equal_constants(value: ir.Value | None, other: ir.Value | None) -> bool:
    """Say whether two values of different models are constants of the same type and bits."""
    if value is None or other is None or value.is_graph_input() or other.is_graph_input():
        return False
    one, two = content_of(value), content_of(other)
    if one is None or two is None:
        return False
    if one.dtype != two.dtype or one.shape != two.shape:
        return False
    if one.dtype is ir.DataType.STRING:
        return bool((one.numpy() == two.numpy()).all())
    return one.tobytes() == two.tobytes()


def content_of(value: ir.Value) -> ir.TensorProtocol | None:
    """Return the content of an initializer or a Constant node, else None."""
    node = value.producer()
    if value.const_value is not None or node is None or node.op_type != "Constant":
        return value.const_value
    return ir.convenience.get_const_tensor(value)


def is_constant(value: ir.Value) -> bool:
    """Say whether a value depends on constants alone, by the structure of the graph."""
    return _holds("constant by structure", value, _read)


def _is_of_constants(value: ir.Value) -> bool | None:
    """Say whether a value is a constant, or none; None if that is so if its operands are."""
    node = value.producer()
    if value.const_value is not None or (node is not None and node.op_type == "Constant"):
        return not value.is_graph_input()
    if node is None or node.domain or has_body(node) or node.op_type in RANDOM:
        return False
    return None if any(read is not None for read in node.inputs) else False


def _read(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def _contents_read(node: ir.Node) -> list[ir.Value]:
    """Return the operands of which a node reads more than the shape or type."""
    return [
        value
        for index, value in enumerate(node.inputs)
        if value is not None and reads_content(node, index)
    ]


def _holds(question: str, value: ir.Value, operands: Callable[[ir.Node], list[ir.Value]]) -> bool:
    """Say whether a value is constant, or computed from operands of which this holds.

    Each value is asked about once in a sweep.
    """
    answers: dict[ir.Value, bool] = memory().answers(question)
    pending = [value]
    while pending:
        last = pending[-1]
        decided = answers[last] if last in answers else _is_of_constants(last)
        if decided is None and (node := last.producer()) is not None:
            read = operands(node)
            open_ones = [each for each in read if each not in answers]
            if open_ones and all(answers.get(each, True) for each in read):
                pending.append(open_ones[0])
                continue
            decided = all(answers.get(each, False) for each in read)
        answers[last] = bool(decided)
        pending.pop()
    return answers[value]
