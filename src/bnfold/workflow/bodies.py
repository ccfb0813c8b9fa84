"""Which nodes are cut out with their bodies."""

from __future__ import annotations

import onnx_ir as ir

from bnfold.graph.constants import RANDOM
from bnfold.graph.walk import bodies_of


def is_plain(node: ir.Node) -> bool:
    """Say whether ONNX defines the operator, and nothing around it does: no function, no caller."""
    is_standard = node.domain in ("", "ai.onnx")
    return is_standard and not any(each.is_ref() for each in node.attributes.values())


def are_bodies_plain(node: ir.Node) -> bool:
    """Say whether ONNX defines all operators in the bodies of a node."""
    return all(
        is_plain(inner)
        for body in bodies_of(node)
        for graph in (body, *body.subgraphs())
        for inner in graph
    )


def may_draw(node: ir.Node) -> bool:
    """Say whether an operator, or one in its bodies, may draw random numbers."""
    within = (inner for body in bodies_of(node) for g in (body, *body.subgraphs()) for inner in g)
    return any(
        each.op_type in RANDOM or (each.op_type == "Dropout" and len(each.inputs) > 2)
        for each in (node, *within)
    )
