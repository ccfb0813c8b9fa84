"""How a pass reads the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array as Array
from bnfold.graph.constants import constant as constant
from bnfold.graph.constants import is_overridable as is_overridable
from bnfold.graph.shapes import rank_of as rank_of
from bnfold.graph.shapes import shape_of as shape_of
from bnfold.graph.shapes import size_of as size_of
from bnfold.rewriting.contract import Common, General, Refused


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Say whether `node` is one of these operators of the default domain."""
    return node is not None and node.domain == "" and node.op_type in op_types


def producer(node: ir.Node, index: int, *op_types: str) -> ir.Node | None:
    """Return the node of the same graph that computes input `index`, if it is one of `op_types`.

    Without `op_types`, it may be any operator of the default domain.
    """
    value = input_of(node, index)
    source = value.producer() if value is not None else None
    if source is None or source.graph is not node.graph or source.domain != "":
        return None
    return source if not op_types or source.op_type in op_types else None


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """Return input `index`, or None if it is absent or empty."""
    return node.inputs[index] if index < len(node.inputs) else None


def reads_content(node: ir.Node, index: int) -> bool:
    """Say whether an operator reads more of an input than its shape or its type."""
    return not (is_op(node, "Shape", "Size") or (is_op(node, "CastLike") and index == 1))


def is_used(value: ir.Value) -> bool:
    """Say whether anything reads the value: a node, a subgraph's node, or a graph output."""
    return bool(value.uses()) or value.is_graph_output()


def sole_use(value: ir.Value) -> bool:
    """Say whether the only use of the value is one node input in the same graph.

    A graph output is a use, and so is an input of a node inside an If, Loop or Scan body.
    """
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return False
    (use,) = uses
    return use.node.graph is value.graph


_MOST_READERS = 8
"""Each of them looks at the others."""


def readers_alike(value: ir.Value, *op_types: str) -> list[ir.Node]:
    """Return what reads the value, if these are a few operators of these types in its graph.

    Each reads it as its first input alone, so that it may read something else instead.
    """
    uses = value.uses()
    if value.is_graph_output() or len(uses) > _MOST_READERS:
        return []
    are_alike = all(
        use.idx == 0 and use.node.graph is value.graph and is_op(use.node, *op_types)
        for use in uses
    )
    return list(dict.fromkeys(use.node for use in uses)) if are_alike else []


def may_take_over(new: ir.Value, old: ir.Value) -> bool:
    """Say whether an existing value can be read in place of another, without an Identity between.

    A graph output must be computed in its graph, by a node, and have only one name.
    """
    node = new.producer()
    may_be_output = node is not None and node.graph is old.graph and not new.is_graph_output()
    return may_be_output or not old.is_graph_output()


def opset(node: ir.Node) -> int:
    """Return the version of the operator set that applies to the node."""
    assert node.graph is not None
    imports = node.graph.opset_imports
    return imports.get(node.domain) or imports.get("ai.onnx" if node.domain == "" else "", 1)


def _attribute(node: ir.Node, name: str) -> ir.Attr | None:
    attribute = node.attributes.get(name)
    if attribute is not None and attribute.is_ref():
        raise Refused(General.ATTRIBUTE_BY_REFERENCE, node, name)
    return attribute


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """Return the integer attribute, or the default from the operator's definition."""
    attribute = _attribute(node, name)
    return default if attribute is None else attribute.as_int()


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """Return the float attribute, or the default from the operator's definition.

    Attributes are float32, and so are their defaults: 1e-5 means the float32 nearest to it.
    """
    attribute = _attribute(node, name)
    return float(np.float32(default)) if attribute is None else attribute.as_float()


def string_attribute(node: ir.Node, name: str, default: str) -> str:
    """Return the string attribute, or the default from the operator's definition."""
    attribute = _attribute(node, name)
    return default if attribute is None else attribute.as_string()


def ints_attribute(node: ir.Node, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the attribute's integers, or the default from the operator's definition."""
    attribute = _attribute(node, name)
    return tuple(default) if attribute is None else tuple(attribute.as_ints())


@overload
def ints_parameter(node: ir.Node, name: str, index: int) -> tuple[int, ...] | None: ...


@overload
def ints_parameter(
    node: ir.Node, name: str, index: int, default: tuple[int, ...]
) -> tuple[int, ...]: ...


def ints_parameter(
    node: ir.Node, name: str, index: int, default: tuple[int, ...] | None = None
) -> tuple[int, ...] | None:
    """Return integers that early opsets store as the attribute `name`, later ones as an input.

    Raises:
        Refused: PARAMETER_NOT_CONSTANT, if the input `index` is computed at run time.
    """
    value = input_of(node, index)
    if value is None:
        return ints_attribute(node, name) if name in node.attributes else default
    content = constant(value)
    if content is None:
        raise Refused(Common.PARAMETER_NOT_CONSTANT, node, value.name or "")
    return tuple(int(number) for number in content.reshape(-1))
