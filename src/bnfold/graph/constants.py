"""Which values of a graph are constant, and their content.

Constants are initializers that no caller can override (not graph inputs; before IR version 4 the
loader has removed them from the inputs), Constant nodes, and what `bnfold.graph.expressions` has
found to depend on these alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array

Deferred: TypeAlias = Callable[[], Array | None]
"""Computes the content of a value when it is asked for."""

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}
    | {"RandomUniformLike"}
)
"""Operators that draw; so does Dropout in training."""

_CONTENT = "bnfold.constant"
_BYTES = "bnfold.bytes"
_OF_FUNCTION = "bnfold.function"


def constant(value: ir.Value | None) -> Array | None:
    """Return the value's content if it can never change, else None."""
    if value is None:
        return None
    if value.is_initializer():
        tensor = value.const_value
        return None if tensor is None or value.is_graph_input() else tensor.numpy()
    node = value.producer()
    if node is None or node.domain != "":
        return None
    if node.op_type == "Constant":
        tensor = tensor_of(node)
        return None if tensor is None else tensor.numpy()
    content: Array | Deferred | None = value.meta.get(_CONTENT)
    if callable(content):
        content = content()
        record_content(value, content)
    return content


@dataclass(frozen=True)
class Kind:
    """What is known of a constant without its content."""

    dtype: ir.DataType
    shape: tuple[int, ...]

    @staticmethod
    def of(tensor: ir.TensorProtocol) -> Kind:
        """Return that of a tensor, which is not read."""
        return Kind(tensor.dtype, tuple(tensor.shape.numpy()))


def kind_of_constant(value: ir.Value | None) -> Kind | None:
    """Return the type and shape of what `constant` returns; an initializer is not read."""
    if value is not None and value.is_initializer():
        tensor = value.const_value
        return None if tensor is None or value.is_graph_input() else Kind.of(tensor)
    content = constant(value)
    return None if content is None else Kind(ir.DataType.from_numpy(content.dtype), content.shape)


def is_constant(value: ir.Value | None) -> bool:
    """Say whether `constant` returns something, without computing or reading it."""
    if value is None:
        return False
    if value.is_initializer():
        return value.const_value is not None and not value.is_graph_input()
    node = value.producer()
    if node is None or node.domain != "":
        return False
    if node.op_type == "Constant":
        return _constant_attribute(node) is not None
    return _CONTENT in value.meta


def tensor_of(node: ir.Node) -> ir.TensorProtocol | None:
    """Return what a Constant node holds, unread, if it is supported."""
    attribute = _constant_attribute(node)
    if attribute is None:
        return None
    dtype = _CONSTANT_ATTRIBUTES[attribute.name]
    if dtype is not None:
        return ir.Tensor(np.array(attribute.value, dtype))
    tensor: ir.TensorProtocol = attribute.value  # as_tensor() looks at each of its methods
    return tensor


def digest(tensor: ir.TensorProtocol) -> str:
    """Return what tells the type, shape and bits of a constant from those of others."""
    is_text = tensor.dtype is ir.DataType.STRING
    stored = repr(tensor.numpy().tolist()).encode() if is_text else tensor.tobytes()
    return f"{tensor.dtype} {tensor.shape} {hashlib.sha256(stored).hexdigest()}"


def first_along(value: ir.Value, axis: int) -> Array:
    """Return the first element of each slice along an axis of a constant that is not empty.

    The rest is not read if the content stays in a file.
    """
    tensor = value.const_value if value.is_initializer() else None
    if tensor is not None:
        shape = tensor.shape.numpy()
        return elements_apart(tensor, math.prod(shape[axis + 1 :]), shape[axis])
    content = constant(value)
    assert content is not None
    return np.moveaxis(content, axis, 0).reshape(content.shape[axis], -1)[:, 0]


def elements_apart(tensor: ir.TensorProtocol, step: int, count: int) -> Array:
    """Return the first `count` elements of a tensor that are `step` apart.

    The rest is not read if the content stays in a file, and elements have a byte at least.
    """
    every: Callable[[int, int], Array] | None = getattr(tensor, "every", None)
    if every is not None and tensor.dtype.bitwidth >= 8:
        return every(step, count)
    return tensor.numpy().reshape(-1)[::step][:count]


def is_deferred(value: ir.Value) -> bool:
    """Say whether it is constant, and its content is not computed yet."""
    return callable(value.meta.get(_CONTENT))


def is_overridable(value: ir.Value | None) -> bool:
    """Say whether the value is an initializer that a caller may replace at run time."""
    return value is not None and value.is_initializer() and value.is_graph_input()


def may_hold_initializers(graph: ir.Graph) -> bool:
    """Say whether a graph may have initializers: that of a function and its bodies may not."""
    return _OF_FUNCTION not in graph.meta


def note_functions(model: ir.Model) -> None:
    """Note which graphs are those of functions, for `may_hold_initializers`."""
    for function in model.functions.values():
        for graph in (function.graph, *function.graph.subgraphs()):
            graph.meta[_OF_FUNCTION] = True


def bytes_of_initializers(graph: ir.Graph) -> int:
    """Return the size of the graph's initializers."""
    tensors = [value.const_value for value in graph.initializers.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def first_bytes_of_initializers(graph: ir.Graph) -> int:
    """Return the size of the graph's initializers when it was first asked for.

    It is not summed up again, so that each node may ask; `forget_bytes` clears it.
    """
    if _BYTES not in graph.meta:
        graph.meta[_BYTES] = bytes_of_initializers(graph)
    known: int = graph.meta[_BYTES]
    return known


def forget_bytes(graph: ir.Graph) -> None:
    """Clear what `first_bytes_of_initializers` returned."""
    graph.meta.pop(_BYTES, None)


def record_content(value: ir.Value, content: Array | Deferred | None) -> None:
    """Record the content of an expression of constants, or how to compute it."""
    if content is None:
        value.meta.pop(_CONTENT, None)
    else:
        value.meta[_CONTENT] = content


_CONSTANT_ATTRIBUTES: Mapping[str, type[np.generic] | None] = {
    "value": None,
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def _constant_attribute(node: ir.Node) -> ir.Attr | None:
    """Return the attribute of a Constant node that holds its content, if it is supported."""
    for name in _CONSTANT_ATTRIBUTES:
        attribute = node.attributes.get(name)
        if attribute is not None and not attribute.is_ref():
            is_tensor = attribute.type == ir.AttributeType.TENSOR
            return attribute if is_tensor == (name == "value") else None
    return None
