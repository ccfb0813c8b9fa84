"""Compute once what is computed twice, and store once what is stored twice.

    y = f(x), z = f(x)        becomes        y = f(x), z = y

Conditions: both nodes are in one graph, with the same operator, attributes and operands; small
constants are the same if their contents are. Random operators differ from draw to draw, so they
stay, and so do operators with bodies, and two graph outputs: both keep their names.

Of two initializers with the same bits, type and shape, the first is read instead of the second, if
they have 16 KiB or more and no caller may override them.

Profit: an operator less, or a smaller file. Many exports ask for the same size at each use.

BITWISE.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array
from bnfold.graph.constants import RANDOM, constant, elements_apart, is_constant, is_deferred
from bnfold.graph.memory import memory
from bnfold.graph.walk import has_body
from bnfold.rewriting.contract import ANY, Exactness, Replace, rewrite
from bnfold.rewriting.query import is_op, is_used, may_take_over

_SMALL = 2**10
"""Bytes up to which constants are compared by content wherever they are read."""

_WORTH_MERGING = 2**14
"""Bytes from which on an initializer is stored once."""

_SAMPLED = 64
"""Elements that tell most initializers apart without reading the rest."""


@rewrite("merge-duplicates", roots=[ANY], exactness=Exactness.BITWISE, refusals=[])
def merge_duplicates(node: ir.Node) -> Replace | None:
    """Read an equal node's results, or equal initializers, if this is not the first of them."""
    twins = {
        value: twin
        for value in node.inputs
        if value is not None and (twin := _equal_initializer(value)) is not None
    }
    if twins:
        return Replace([node], twins, "equal initializers")
    first = _equal_node(node)
    if first is None:
        return None
    pairs = [pair for pair in zip(node.outputs, first.outputs, strict=True) if is_used(pair[0])]
    if not pairs or not all(other.name and may_take_over(other, value) for value, other in pairs):
        return None
    return Replace([node], dict(pairs))


# --- Nodes ----------------------------------------------------------------------------------------


def _equal_node(node: ir.Node) -> ir.Node | None:
    """Return the first node that was seen with the same operator, attributes and operands."""
    signature = _signature(node)
    if signature is None:
        return None
    first: ir.Node = memory().answers("node by signature").setdefault(signature, node)
    if first is node:
        return None
    if first.graph is not node.graph or _signature(first) != signature:  # it has been edited
        memory().answers("node by signature")[signature] = node
        return None
    return first


def _signature(node: ir.Node) -> Hashable:
    """Return what is equal for equal nodes; None if nothing can be equal to the node."""
    if is_op(node, "Constant", "Dropout", *RANDOM) or has_body(node) or node.graph is None:
        return None
    operands = [value for value in node.inputs if value is not None and not is_constant(value)]
    if not operands or any(len(value.uses()) == 1 for value in operands):
        return None
    attributes = [_attribute_key(attribute) for attribute in node.attributes.values()]
    keys = tuple(map(_operand_key, node.inputs))
    return (node.graph, node.op_type, len(node.outputs), keys, frozenset(attributes))


def _attribute_key(attribute: ir.Attr) -> Hashable:
    if attribute.is_ref() or isinstance(attribute.value, int | float | str | tuple):
        return (attribute.name, attribute.ref_attr_name, attribute.type, attribute.value)
    serialized: bytes = ir.serde.serialize_attribute(attribute).SerializeToString()
    return serialized


def _operand_key(value: ir.Value | None) -> Hashable:
    """Return the content of a small constant, else the value itself."""
    if value is None or not is_constant(value) or is_deferred(value):
        return value
    tensor = value.const_value
    if tensor is not None and tensor.nbytes > _SMALL:
        return value
    content = constant(value)
    if content is None or content.nbytes > _SMALL or content.dtype.kind in "OSU":
        return value
    return (content.dtype, content.shape, content.tobytes())


# --- Initializers ---------------------------------------------------------------------------------

_Kind: TypeAlias = tuple[ir.Graph, ir.DataType, tuple[int, ...], bytes]


def _equal_initializer(value: ir.Value) -> ir.Value | None:
    """Return the first initializer that was seen with the same content, if it is another one."""
    tensor, graph = value.const_value, value.graph
    if not _may_be_merged(value) or tensor is None or not isinstance(graph, ir.Graph):
        return None
    step = max(1, tensor.size // _SAMPLED)
    sample = _bits(elements_apart(tensor, step, -(-tensor.size // step))).tobytes()
    kind = (graph, tensor.dtype, tuple(tensor.shape.numpy()), sample)
    first: ir.Value = memory().answers("initializer by sample").setdefault(kind, value)
    other = first.const_value
    if first is value or other is None or not _may_be_merged(first):
        return None
    return first if np.array_equal(_bits(tensor.numpy()), _bits(other.numpy())) else None


def _may_be_merged(value: ir.Value) -> bool:
    tensor = value.const_value
    return (
        value.is_initializer()
        and not (value.is_graph_input() or value.is_graph_output())
        and tensor is not None
        and tensor.dtype != ir.DataType.STRING
        and tensor.nbytes >= _WORTH_MERGING
    )


def _bits(content: Array) -> Array:
    return np.ascontiguousarray(content).view(np.uint8)
