"""Sizes that operators keep whatever they are, where onnx infers nothing: they get one name.

A Conv or pool of stride 1 whose window reaches over r more positions, and that pads r in all, makes
as many positions as it reads. What is computed element by element has the sizes of its operands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import onnx_ir as ir

from bnfold.graph.shapes import record_shape, shape_of
from bnfold.graph.walk import bodies_of

_Size: TypeAlias = int | ir.SymbolicDim

_WINDOWS = ("AveragePool", "Conv", "LpPool", "MaxPool")

_ELEMENTWISE = frozenset({"Add", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum", "Where"})


def name_kept_sizes(graph: ir.Graph) -> None:
    """Give sizes that are equal for every input one name, in a graph and its bodies, in order."""
    names: dict[str, ir.SymbolicDim] = {}
    known: dict[tuple[int | str | None, ...], ir.Shape] = {}
    for node in _nodes(graph):
        for value in node.outputs:
            shape = shape_of(value)
            if shape is None or shape.is_static():
                continue
            kept = _kept(node, shape.rank()) if value is node.outputs[0] else {}
            sizes: list[_Size] = []
            for axis, size in enumerate(shape):
                if isinstance(size, int):
                    sizes.append(size)
                    continue
                if axis in kept and size.value is not None:
                    names.setdefault(size.value, kept[axis])
                sizes.append(kept.get(axis) or names.get(size.value or "", size))
            if tuple(sizes) != shape.dims:
                key = tuple(s if isinstance(s, int) else s.value for s in sizes)
                record_shape(value, known.setdefault(key, ir.Shape(sizes)))


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes, those of bodies before what has them."""
    for node in graph:
        for body in bodies_of(node):
            yield from _nodes(body)
        yield node


def _kept(node: ir.Node, rank: int) -> dict[int, ir.SymbolicDim]:
    """Return named sizes of what a node computes, by axis."""
    if node.domain != "":
        return {}
    if node.op_type in _ELEMENTWISE:
        return _of_operands(node, rank)
    data = shape_of(node.inputs[0]) if node.op_type in _WINDOWS and node.inputs else None
    if data is None or data.rank() != rank:
        return {}
    axes = (axis for axis in range(2, rank) if _keeps_size(node, axis - 2, rank - 2))
    return {
        axis: size
        for axis in axes
        if isinstance(size := data[axis], ir.SymbolicDim) and size.value is not None
    }


def _of_operands(node: ir.Node, rank: int) -> dict[int, ir.SymbolicDim]:
    """Return the sizes that all operands have, but those that are repeated."""
    shapes = [shape_of(value) for value in node.inputs if value is not None]
    if "axis" in node.attributes or not all(shapes):
        return {}
    sizes = {}
    for axis in range(rank):
        aligned = [shape[axis - rank] for shape in shapes if shape and shape.rank() >= rank - axis]
        own = {
            size.value if isinstance(size, ir.SymbolicDim) else None: size
            for size in aligned
            if size != 1
        }
        (size,) = own.values() if len(own) == 1 else (1,)
        if isinstance(size, ir.SymbolicDim) and size.value is not None:
            sizes[axis] = size
    return sizes


def _keeps_size(node: ir.Node, axis: int, rank: int) -> bool:
    """Say whether a Conv or pool keeps the size of a spatial axis, whatever it is."""
    attributes = node.attributes
    if any(attribute.is_ref() for attribute in attributes.values()):
        return False
    length = _length(node, axis, rank)
    strides, dilations = (
        attributes.get_ints(name, ()) or [1] * rank for name in ("strides", "dilations")
    )
    pads = attributes.get_ints("pads", ()) or [0] * 2 * rank
    if length is None or [len(strides), len(dilations), len(pads)] != [rank, rank, 2 * rank]:
        return False
    if strides[axis] != 1:
        return False
    auto_pad = attributes.get_string("auto_pad", "NOTSET") or "NOTSET"
    reach = (length - 1) * dilations[axis]
    if auto_pad.startswith("SAME"):  # with these, versions of onnxruntime differ
        return dilations[axis] == 1 and not attributes.get_int("ceil_mode", 0)
    return reach == (pads[axis] + pads[axis + rank] if auto_pad == "NOTSET" else 0)


def _length(node: ir.Node, axis: int, rank: int) -> int | None:
    """Return the size of a window along a spatial axis."""
    sizes: Sequence[_Size] = node.attributes.get_ints("kernel_shape", ()) or ()
    if node.op_type == "Conv" and not sizes:
        weight = shape_of(node.inputs[1]) if len(node.inputs) > 1 else None
        sizes = weight.dims[2:] if weight is not None else ()
    size = sizes[axis] if len(sizes) == rank else None
    return size if isinstance(size, int) else None
