"""Whether two nodes are the same operator: in the same version, with the same attributes."""

from __future__ import annotations

import onnx.defs
import onnx_ir as ir

from bnfold.graph.schemas import mean_the_same, schema_of

_DEFAULT_0 = frozenset(
    f"scan_{which}_{what}" for which in ("input", "output") for what in ("axes", "directions")
)
"""Attributes of a Scan whose default is 0 for each operand, which no schema can hold."""


def is_same_operator(node: ir.Node, other: ir.Node) -> bool:
    """Say whether nodes of two graphs are the same operator, their bodies aside.

    The version counts that each graph's operator set has: they may admit other types, and no more.
    An attribute may be left out.
    """
    if node.op_identifier() != other.op_identifier():
        return False
    # How many results a Split has says how long they are; of a BatchNormalization, that it trains.
    if len(node.inputs) != len(other.inputs) or len(node.outputs) != len(other.outputs):
        return False
    versions = [_operator_set(each) for each in (node, other)]
    one, two = (schema_of(node.domain, node.op_type, version) for version in versions)
    if one is None or two is None:
        return versions[0] == versions[1] and node.attributes == other.attributes
    since = sorted((one.since_version, two.since_version))
    if not mean_the_same(node.domain, node.op_type, since[0], since[1]):
        return False
    bodies = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    names = {
        name
        for each in (node, other)
        for name, attribute in each.attributes.items()
        if attribute.type not in bodies
    }
    return all(_attribute(node, name, one) == _attribute(other, name, two) for name in names)


def _operator_set(node: ir.Node) -> int | None:
    """Return the version of its domain's operator set that the node's graph imports."""
    return None if node.graph is None else node.graph.opset_imports.get(node.domain)


def _attribute(node: ir.Node, name: str, schema: onnx.defs.OpSchema) -> object:
    """Return type and value of an attribute, or of its default."""
    attribute = node.attributes.get(name)
    if attribute is None:
        if name not in schema.attributes or not schema.attributes[name].default_value.name:
            return None
        attribute = ir.serde.deserialize_attribute(schema.attributes[name].default_value)
    if attribute.is_ref():
        return object()  # equal to nothing
    if attribute.type == ir.AttributeType.TENSOR:
        return ir.serde.serialize_attribute(attribute).t.SerializeToString()
    if name in _DEFAULT_0 and not any(attribute.as_ints()):
        return None  # as if left out
    return attribute.type, attribute.value
