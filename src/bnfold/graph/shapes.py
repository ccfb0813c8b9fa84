"""What is known of the shape of a value, for every input that the model accepts.

A size is an integer only if it follows from the inputs that the model declares with a fixed size,
and from constants. What a file says of the values between (``value_info``, the shapes of outputs
and of the inputs of bodies) is a claim: an exporter that traced the model with one input may have
written the sizes of that input, and a later tool may have set an input free.

Negative sizes and 0, which old exporters write for free ones, are free, and so are all named ones.
Each gets a name of its own, because two inputs that share a name such as ``?`` may differ.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import onnx_ir as ir

_SHAPE = "bnfold.shape"

_FREE = "bnfold.free."
"""Begins the name of a size that a caller chooses; onnx names those that it does not know unk__."""


def shape_of(value: ir.Value | None) -> ir.Shape | None:
    """Return the shape of a value as far as it is the same for every input; None if unknown.

    A size that is not known is a name or None. Two sizes with one name are equal.
    """
    if value is None:
        return None
    if value.is_initializer() and not value.is_graph_input():
        return None if value.const_value is None else ir.Shape(value.const_value.shape.numpy())
    shape: ir.Shape | None = value.meta.get(_SHAPE)
    return shape


def size_of(value: ir.Value | None, axis: int) -> int | None:
    """Return the size along an axis, which may be negative, if it is known for every input."""
    shape = shape_of(value)
    if shape is None or not -shape.rank() <= axis < shape.rank():
        return None
    size = shape[axis]
    return size if isinstance(size, int) else None


def rank_of(value: ir.Value | None) -> int | None:
    """Return the number of axes, if it is known for every input."""
    shape = shape_of(value)
    return None if shape is None else shape.rank()


def is_free(size: int | ir.SymbolicDim) -> bool:
    """Say whether a size of a known shape is one that a caller chooses."""
    return isinstance(size, ir.SymbolicDim) and (size.value or "").startswith(_FREE)


def are_equal(one: int | ir.SymbolicDim, other: int | ir.SymbolicDim) -> bool:
    """Say whether two sizes of known shapes are equal for every input."""
    if isinstance(one, int) or isinstance(other, int):
        return one == other
    return one.value is not None and one.value == other.value


def have_equal_shapes(one: ir.Value, other: ir.Value) -> bool:
    """Say whether two values are known to have the same shape for every input."""
    first, second = shape_of(one), shape_of(other)
    if first is None or second is None or first.rank() != second.rank():
        return False
    return all(are_equal(*sizes) for sizes in zip(first, second, strict=True))


def free_names() -> Iterator[str]:
    """Yield a name for each size that a caller chooses."""
    return (f"{_FREE}{number}" for number in itertools.count())


def record_shape(value: ir.Value, shape: ir.Shape | None) -> None:
    """Record what is known of the shape of a value."""
    if shape is None:
        value.meta.pop(_SHAPE, None)
    else:
        value.meta[_SHAPE] = shape


def forget_shapes(graph: ir.Graph) -> None:
    """Forget what is known of a graph, bodies aside."""
    for value in itertools.chain(graph.inputs, *(node.outputs for node in graph)):
        record_shape(value, None)
