"""Finds sums that are linear in one value: what stands between that value and the sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from bnfold.algebra.affine_maps.reach import mapped_input
from bnfold.algebra.spatial.linear_expression import (
    CONVS,
    KERNELS,
    LinearExpression,
    adds_up,
    operands_of,
)
from bnfold.algebra.spatial.operators import picks_positions
from bnfold.graph.memory import memory
from bnfold.rewriting.contract import Common, require
from bnfold.rewriting.query import input_of, is_op

_MOST = 32
"""Operators in an expression: enough for any block, and each sum is searched in constant time."""


def smallest_expression(root: ir.Node) -> LinearExpression | None:
    """Return the smallest expression of a sum that holds a Conv, or None if there is none.

    It goes back from the sum, past values that only the expression reads, until all that is
    left to go back from is one value.

    Raises:
        Refused: SHARED, if it is an expression but for another reader of a value within it.
    """
    if mapped_input(root) is not None or any(value is None for value in root.inputs):
        return None
    frontier = dict.fromkeys(value for value in root.inputs if value is not None)
    nodes: dict[ir.Node, None] = {root: None}
    shared: ir.Node | None = None
    while len(frontier) > 1 and len(nodes) < _MOST:
        value = next((v for v in reversed(frontier) if _is_within(v, nodes)), None)
        if value is None:
            value = next((v for v in frontier if _is_between(v, frontier, root.graph)), None)
            shared = shared or (value.producer() if value is not None else None)
        node = value.producer() if value is not None else None
        if value is None or node is None:
            return None
        del frontier[value]
        nodes[node] = None
        frontier.update(dict.fromkeys(operands_of(node)))
    if len(frontier) > 1 or not any(is_op(node, *CONVS) for node in nodes):
        return None
    require(shared is None, Common.SHARED, shared)
    return LinearExpression(next(iter(frontier)), list(reversed(nodes)))


def expressions_beside_others(root: ir.Node) -> list[tuple[LinearExpression, list[ir.Value]]]:
    """Return what is a Conv of some addends of a sum of sums, each with what else is added.

    First all addends that are linear in one value; then each Conv with those that are none.
    """
    tree, addends = _sum_of_sums(root)
    branches: dict[ir.Value, dict[ir.Value, list[ir.Node]]] = {}
    for value in addends:
        source, chain = _branch(value, tree)
        branches.setdefault(source, {})[value] = chain
    found = []
    for source, of_it in branches.items():
        convs = [value for value, chain in of_it.items() if any(map(_is_conv, chain))]
        rest = [value for value in of_it if value not in convs]
        choices = [list(of_it), *([conv, *rest] for conv in convs if rest and len(convs) > 1)]
        for chosen in choices if convs and len(of_it) > 1 else []:
            chains = [node for value in chosen for node in reversed(of_it[value])]
            expression = LinearExpression(source, [*chains, *tree], frozenset(chosen))
            found.append((expression, [value for value in addends if value not in chosen]))
    return [(expression, others) for expression, others in found if others]


def _sum_of_sums(root: ir.Node) -> tuple[list[ir.Node], list[ir.Value]]:
    """Return the operators that add up more than one value to a sum, in order, and the addends.

    Nothing, if it is itself an addend of a larger one, or the same value is added twice.
    """
    if not adds_up(root) or _is_addend(root.outputs[0]):
        return [], []
    tree, addends = [root], []
    pending = [value for value in reversed(root.inputs) if value is not None]
    while pending and len(tree) < _MOST:
        value = pending.pop()
        node = value.producer()
        if node is not None and adds_up(node) and _is_addend(value):
            tree.append(node)
            pending += [each for each in reversed(node.inputs) if each is not None]
        else:
            addends.append(value)
    if pending or len(addends) < 3 or len({*addends}) < len(addends):
        return [], []
    return tree[::-1], addends


def _is_addend(value: ir.Value) -> bool:
    """Say whether nothing but one sum of the same graph reads the value, once."""
    node, readers = value.producer(), [use.node for use in value.uses()]
    if len(readers) != 1 or value.is_graph_output() or node is None:
        return False
    return node.graph is readers[0].graph and adds_up(readers[0])


def _branch(value: ir.Value, tree: Sequence[ir.Node]) -> tuple[ir.Value, list[ir.Node]]:
    """Return what an addend is computed from by linear operators in a row, and these, from it on.

    Nothing else reads values within the branch.
    """
    nodes = dict.fromkeys(reversed(tree))
    chain: list[ir.Node] = []
    while len(chain) < _MOST and _is_within(value, nodes):
        node = value.producer()
        if node is None or len(operands_of(node)) != 1:
            break
        nodes[node] = None
        chain.append(node)
        (value,) = operands_of(node)
    return value, chain


def _is_conv(node: ir.Node) -> bool:
    return is_op(node, *CONVS)


def _is_within(value: ir.Value, nodes: Mapping[ir.Node, None]) -> bool:
    """Say whether a linear operator computes the value, and only these nodes read it."""
    node, root = value.producer(), next(iter(nodes))
    if node is None or node.graph is not root.graph or not _is_linear(node):
        return False
    widely_read: dict[ir.Value, bool] = memory().answers("widely read")
    if value.is_graph_output() or value in widely_read:
        return False
    uses = value.uses()
    if len(uses) > _MOST:
        widely_read[value] = True
        return False
    return all(use.node in nodes for use in uses)


def _is_between(value: ir.Value, others: Mapping[ir.Value, None], graph: object) -> bool:
    """Say whether a linear operator computes the value from other ones of these alone."""
    node = value.producer()
    if node is None or node.graph is not graph or not _is_linear(node):
        return False
    return all(operand in others and operand is not value for operand in operands_of(node))


def _is_linear(node: ir.Node) -> bool:
    if is_op(node, *KERNELS):
        is_kernel = not is_op(node, "MaxPool", "Slice") or picks_positions(node)
        return is_kernel and input_of(node, 0) is not None
    if is_op(node, "Add", "Sub", "Sum") and len(node.inputs) > 0 and None not in node.inputs:
        return True
    return mapped_input(node) is not None
