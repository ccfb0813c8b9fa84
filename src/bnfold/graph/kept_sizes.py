"""Sizes that operators keep whatever they are, where onnx infers nothing: they get one name.

A Conv or pool of stride 1 whose window reaches over r more positions, and that pads r in all, makes
as many positions as it reads. What is computed element by element has the sizes of its operands. A
Reshape, Expand, Tile or Resize makes the sizes that it is given, also those that are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import onnx_ir as ir

from bnfold.graph.shapes import record_shape, shape_of
from bnfold.graph.size_terms import Term, product_of, sizes_of, terms
from bnfold.graph.sizes import resize_scales
from bnfold.graph.walk import bodies_of

_Size: TypeAlias = int | ir.SymbolicDim

_WINDOWS = ("AveragePool", "Conv", "LpPool", "MaxPool")

_ELEMENTWISE = frozenset({"Add", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum", "Where"})

COUNT_KEEPING = frozenset(
    {"BatchNormalization", "Cast", "Clip", "Dropout", "Flatten", "Identity", "LeakyRelu", "Relu"}
    | {"Reshape", "Sigmoid", "Squeeze", "Tanh", "Transpose", "Unsqueeze"}
)
"""Operators whose result has as many elements as their first input."""

_MOST_STEPS = 8
"""Operators before a Reshape that are followed for the number of its elements."""


def name_kept_sizes(graph: ir.Graph) -> None:
    """Give sizes that are equal for every input one name, in a graph and its bodies, in order."""
    names: dict[str, _Size] = {}
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
                sizes.append(kept[axis] if axis in kept else names.get(size.value or "", size))
            if tuple(sizes) != shape.dims:
                key = tuple(s if isinstance(s, int) else s.value for s in sizes)
                record_shape(value, known.setdefault(key, ir.Shape(sizes)))


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes, those of bodies before what has them."""
    for node in graph:
        for body in bodies_of(node):
            yield from _nodes(body)
        yield node


def _kept(node: ir.Node, rank: int) -> Mapping[int, _Size]:
    """Return sizes of what a node computes, by axis."""
    if node.domain != "":
        return {}
    if node.op_type in _ELEMENTWISE:
        return _of_operands(node, rank)
    if node.op_type in _OF_TARGET:
        return _of_target(node, rank)
    if node.op_type in ("Resize", "Upsample"):
        return _named(_of_resize(node, rank))
    data = shape_of(node.inputs[0]) if node.op_type in _WINDOWS and node.inputs else None
    if data is None or data.rank() != rank:
        return {}
    axes = (axis for axis in range(2, rank) if _keeps_size(node, axis - 2, rank - 2))
    return {
        axis: size
        for axis in axes
        if isinstance(size := data[axis], ir.SymbolicDim) and size.value is not None
    }


def _of_operands(node: ir.Node, rank: int) -> Mapping[int, _Size]:
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


def _of_target(node: ir.Node, rank: int) -> Mapping[int, _Size]:
    """Return the sizes that an operator is given, and makes whatever they are."""
    if len(node.inputs) < 2:
        return {}
    data, target = shape_of(node.inputs[0]), terms(node.inputs[1])
    if data is None or target is None or len(target) != rank:
        return {}
    found = dict(_OF_TARGET[node.op_type]([*map(Term.of, data)], target))
    if node.op_type == "Reshape":
        found.update(_left_open(_counts(node.inputs[0]), target))
    return _named(found)


def _named(found: Mapping[int, Term]) -> Mapping[int, _Size]:
    """Return terms as sizes of a shape."""
    return {
        axis: term.factor if term.size is None else ir.SymbolicDim(term.name)
        for axis, term in found.items()
        if term.factor > 0
    }


def _of_resize(node: ir.Node, rank: int) -> Mapping[int, Term]:
    """Return the sizes that a Resize is given, those that it leaves alone, and whole multiples."""
    data, attributes = shape_of(node.inputs[0]), node.attributes
    if data is None or data.rank() != rank or any(each.is_ref() for each in attributes.values()):
        return {}
    own = dict(enumerate(map(Term.of, data)))
    axes = [axis % rank for axis in attributes.get_ints("axes", None) or range(rank)]
    asked = terms(node.inputs[3]) if len(node.inputs) > 3 else None
    is_cropped = attributes.get_string("coordinate_transformation_mode") == "tf_crop_and_resize"
    scales = None if is_cropped else resize_scales(node)
    if asked is not None:
        is_stretched = attributes.get_string("keep_aspect_ratio_policy", "stretch") == "stretch"
        told: Sequence[Term | None] = asked if is_stretched else []
    elif scales is not None and len(scales) == len(axes):
        pairs = zip(axes, scales, strict=True)
        told = [_multiple(own[axis], scale) for axis, scale in pairs]
    else:
        return {}
    if len(told) != len(axes):
        return {}
    found = own | dict(zip(axes, told, strict=True))
    return {axis: term for axis, term in found.items() if term is not None}


def _multiple(size: Term | None, scale: float) -> Term | None:
    is_whole = scale.is_integer()
    return size.times(Term(int(scale))) if size is not None and is_whole else None


def _of_expand(data: Sequence[Term | None], target: Sequence[Term]) -> Mapping[int, Term]:
    """Return the sizes asked for that the data have, too, or 1 instead."""
    aligned = [Term(1)] * (len(target) - len(data)) + list(data)
    pairs = enumerate(zip(aligned, target, strict=True))
    return {axis: term for axis, (own, term) in pairs if own in (Term(1), term)}


def _of_tile(data: Sequence[Term | None], repeats: Sequence[Term]) -> Mapping[int, Term]:
    """Return the products of sizes and repeats, of which one has no name."""
    found = {}
    for axis, (own, times) in enumerate(zip(data, repeats, strict=True)):
        if own is not None and None in (own.size, times.size):
            found[axis] = Term(own.factor * times.factor, own.size or times.size)
    return found


def _of_reshape(data: Sequence[Term | None], target: Sequence[Term]) -> Mapping[int, Term]:
    """Return the sizes asked for that have names, or the one that is left open.

    Where 0 is asked for, as an empty batch does, the data's size is copied: that is 0, too, if it
    is of the same axis, or if no other size is asked for that may be 0 or is left open.
    """
    named = {axis: term for axis, term in enumerate(target) if term.size is not None}
    is_open = any(term.size is None and term.factor <= 0 for term in target)
    is_alone = len(named) == 1 and not is_open
    return {axis: t for axis, t in named.items() if is_alone or data[axis : axis + 1] == [t]}


def _left_open(counts: Iterable[Term], target: Sequence[Term]) -> Mapping[int, Term]:
    """Return the one size left open: what is left of all elements over the sizes asked for.

    It is that of data with elements: where one of these is 0, a Reshape fails, or copies a size.
    """
    open_axes = [axis for axis, term in enumerate(target) if term == Term(-1)]
    given = product_of(term for term in target if term != Term(-1))
    if len(open_axes) != 1 or given is None or given.factor < 1:
        return {}
    rests = (count.over(given) for count in counts)
    rest = next((each for each in rests if each is not None), None)
    return {} if rest is None else {open_axes[0]: rest}


def _counts(value: ir.Value | None) -> Iterator[Term]:
    """Yield the number of elements of a value, in the sizes of those before that have as many."""
    for _ in range(_MOST_STEPS):
        sizes, node = sizes_of(value), value.producer() if value is not None else None
        count = None if sizes is None else product_of(sizes)
        if count is not None:
            yield count
        if node is None or node.domain or node.op_type not in COUNT_KEEPING:
            return
        value = node.inputs[0]


_OF_TARGET: Mapping[str, Callable[[Sequence[Term | None], Sequence[Term]], Mapping[int, Term]]] = {
    "Expand": _of_expand,
    "Reshape": _of_reshape,
    "Tile": _of_tile,
}


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
