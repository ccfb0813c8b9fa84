"""Sizes that a graph asks for, and that are the same for every input.

They are known although the value whose size is asked for is not constant, and some of its sizes
may be known although others are not: ``Gather(Shape(x), 1)`` is the number of channels, whatever
the size of the batch.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array
from bnfold.graph.constants import constant
from bnfold.graph.shapes import shape_of

SIZES = ("Shape", "Size")
"""Operators that read a shape, which may be known although the value is not constant."""

_CHOOSING = ("Gather", "Slice")
"""Operators that choose some of the sizes that a Shape returns."""


def asked_sizes(node: ir.Node) -> Array | None:
    """Return what a node computes from sizes, if they are known for every input."""
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return None
    if node.op_type == "Size":
        shape = shape_of(node.inputs[0]) if node.inputs else None
        count = None if shape is None else _all_known(list(shape))
        return None if count is None or math.prod(count) >= 2**63 else np.array(math.prod(count))
    if node.op_type == "Shape":
        known = _all_known(_sizes(node))
        return None if known is None else np.array(known, np.int64)
    asked = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if node.op_type not in _CHOOSING or asked is None or asked.op_type != "Shape" or asked.domain:
        return None
    sizes = _sizes(asked)
    places = None if sizes is None else asked_places(node, len(sizes))
    if sizes is None or places is None:
        return None
    known = _all_known([sizes[place] for place in places.reshape(-1)])
    return None if known is None else np.array(known, np.int64).reshape(places.shape)


def _sizes(node: ir.Node) -> list[int | ir.SymbolicDim] | None:
    """Return what a Shape returns, as far as it is known."""
    shape = shape_of(node.inputs[0]) if node.inputs else None
    if shape is None or any(attribute.is_ref() for attribute in node.attributes.values()):
        return None
    start = node.attributes.get_int("start", 0) or 0
    return list(shape.dims[start : node.attributes.get_int("end", None)])


def _all_known(sizes: list[int | ir.SymbolicDim] | None) -> list[int] | None:
    if sizes is None:
        return None
    known = [size for size in sizes if isinstance(size, int)]
    return known if len(known) == len(sizes) else None


def asked_places(node: ir.Node, count: int) -> Array | None:
    """Return which of so many sizes a Gather or a Slice chooses."""
    places = np.arange(count)
    if node.op_type == "Gather":
        indices = constant(node.inputs[1]) if len(node.inputs) == 2 else None
        if indices is None or (indices < -count).any() or (indices >= count).any():
            return None
        return np.asarray(places[indices.astype(np.int64)])
    starts, ends = _parameter(node, "starts", 1), _parameter(node, "ends", 2)
    steps = [1] if len(node.inputs) < 5 else _parameter(node, "steps", 4)
    if starts is None or ends is None or steps != [1] or len(starts) != 1 or len(ends) != 1:
        return None
    return places[starts[0] : ends[0]]


def _parameter(node: ir.Node, name: str, index: int) -> list[int] | None:
    """Return integers that opsets before 10 store as an attribute."""
    if name in node.attributes:
        return list(node.attributes[name].as_ints())
    content = constant(node.inputs[index]) if index < len(node.inputs) else None
    return None if content is None else [int(number) for number in content.reshape(-1)]
