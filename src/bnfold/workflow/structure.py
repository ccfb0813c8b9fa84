"""Pairs the values of two models by what computes them, for exporters number values as they like.

From outputs of one name, both graphs are followed back. Where the same operator computes two
values, their operands are pairs, in order. Where the operators differ, or are linear, so that
either side may have merged or moved some, the nearest values before both that are alike are pairs:
as many, of the same sizes, and computed by the same operators. Forward again, what the same
operator computes from pairs and equal constants is one, too. A pair is a guess, which a proof
confirms or not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

import onnx_ir as ir

from bnfold.graph.constants import is_constant
from bnfold.graph.shapes import shape_of
from bnfold.graph.walk import has_body
from bnfold.proof.certificates.windows import AFFINE
from bnfold.workflow.determined import are_equal_constants
from bnfold.workflow.operators import is_same_operator

_MOVABLE = AFFINE | {"MaxPool"}
"""Operators that rewrites merge or move."""

_MOST_STEPS = 3
"""Expressions in a row, on either side, that are passed to find values that are alike."""

_MOST_READ = 32
"""Values that one expression reads: beyond that it is not followed."""

_MOST_USES = 256
"""Nodes that read one value, among which the one that computes a twin is sought."""

_MOST_NODES = 100
"""Nodes of an expression, on either side."""


def pairs_by_structure(
    reference: ir.Graph, outputs: Iterable[tuple[ir.Value, ir.Value]]
) -> dict[ir.Value, ir.Value]:
    """Return for values of the reference those of the candidate that seem to be the same.

    Each value of either has one twin at most. Its outputs have those that are given.
    """
    pending = list(outputs)
    found = dict(pending)
    taken = set(found.values())
    while pending:
        for value, twin in _before(*pending.pop()):
            is_free = value not in found and twin not in taken and value.dtype == twin.dtype
            if is_free and not (value.is_graph_output() or twin.is_graph_output()):
                found[value] = twin
                taken.add(twin)
                pending.append((value, twin))
    for node in reference:
        for value, twin in _after(node, found):
            is_free = value not in found and twin not in taken
            if is_free and not (value.is_graph_output() or twin.is_graph_output()):
                found[value] = twin
                taken.add(twin)
    return found


def _after(
    node: ir.Node, found: Mapping[ir.Value, ir.Value]
) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yield what a node computes, with what the same operator does of twins and equal constants."""
    operands = [found[value] for value in node.inputs if value is not None and value in found]
    uses = operands[0].uses() if operands and not has_body(node) else ()
    for other, _ in itertools.islice(uses, _MOST_USES):
        if is_same_operator(node, other) and all(
            (left is None and right is None)
            or (left is not None and found.get(left) is right)
            or are_equal_constants(left, right)
            for left, right in zip(node.inputs, other.inputs, strict=True)
        ):
            yield from zip(node.outputs, other.outputs, strict=False)


def _before(value: ir.Value, twin: ir.Value) -> list[tuple[ir.Value, ir.Value]]:
    """Return the pairs of values, alike, that both are computed from."""
    one, other = value.producer(), twin.producer()
    if one is None or other is None:
        return []
    is_same = one.op_identifier() == other.op_identifier() and value.index() == twin.index()
    if is_same and (one.op_type not in _MOVABLE or _compute_the_same(one, other)):
        return [
            pair
            for left, right in zip(one.inputs, other.inputs, strict=False)
            if left is not None and right is not None and not is_constant(left)
            for pair in _nearest_alike([[left]], [[right]])
        ]
    ours, theirs = _operands(one), _operands(other)
    if is_same and len(ours) == len(theirs) and all(map(_are_alike, ours, theirs)):
        return list(zip(ours, theirs, strict=True))
    return _nearest_alike([_read_by([value])], [_read_by([twin])])


def _nearest_alike(
    ours: list[list[ir.Value]], theirs: list[list[ir.Value]]
) -> list[tuple[ir.Value, ir.Value]]:
    """Return pairs of values that are alike: these, or those a few expressions before them.

    The first list has the nearest values of each side. Lists of what these read are appended.
    """
    for total in range(2 * _MOST_STEPS - 1):
        for steps in (ours, theirs):
            if len(steps) <= total < _MOST_STEPS:
                steps.append(_read_by(steps[-1]))
        for place in range(max(0, total - len(theirs) + 1), min(total + 1, len(ours))):
            left, right = ours[place], theirs[total - place]
            if left and len(left) == len(right) and all(map(_are_alike, left, right)):
                return list(zip(left, right, strict=True))
    return []


def _compute_the_same(node: ir.Node, other: ir.Node) -> bool:
    """Say whether nodes of one operator have equal attributes and constants, and one operand."""
    if not is_same_operator(node, other):
        return False
    operands = [
        (left, right)
        for left, right in zip(node.inputs, other.inputs, strict=True)
        if not (left is None and right is None) and not are_equal_constants(left, right)
    ]
    return len(operands) == 1 and None not in operands[0]


def _are_alike(value: ir.Value, twin: ir.Value) -> bool:
    """Say whether both are computed by the same operator, or are an input of one name.

    And whether their sizes are the same, where both are known.
    """
    one, other = value.producer(), twin.producer()
    if one is None or other is None:
        return one is other and value.name == twin.name
    shape, its_shape = shape_of(value), shape_of(twin)
    if shape is not None and its_shape is not None:
        if shape.rank() != its_shape.rank():
            return False
        for size, same in zip(list(shape), list(its_shape), strict=True):
            if isinstance(size, int) and isinstance(same, int) and size != same:
                return False
    return one.op_identifier() == other.op_identifier() and value.index() == twin.index()


def _read_by(values: list[ir.Value]) -> list[ir.Value]:
    """Return what expressions read, in order: the operators themselves, and movable ones before.

    Nothing, if that is much.
    """
    read: dict[ir.Value, None] = {}
    nodes: set[ir.Node] = set()
    first = set(values)
    pending = list(reversed(values))
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None or has_body(node) or not (value in first or _is_movable(node)):
            read[value] = None
        elif node not in nodes:
            nodes.add(node)
            pending += reversed(_operands(node))
        if len(read) > _MOST_READ or len(nodes) > _MOST_NODES:
            return []
    return list(read)


def _operands(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None and not is_constant(value)]


def _is_movable(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in _MOVABLE
