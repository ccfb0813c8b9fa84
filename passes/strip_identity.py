"""Remove an operator that changes nothing.

    f(x) = x        for every x that the model computes here

- Identity; Cast and CastLike to the type of x, also back to it from a wider type of floats
- x·1, x/1, x + 0, x − 0, x to the power of 1, x and true, and x or false, where the constant does
  not widen x
- Sum, Mean, Max, Min and Concat of one operand; Split into one part
- Pad by nothing, a Slice of everything, Resize and Upsample to the same size
- Reshape, Flatten, Squeeze, Unsqueeze, Expand and Tile to the same shape; a Transpose that moves
  only axes of size 1, to the same shape
- reductions over axes of size 1; MaxPool and AveragePool with a window of 1

Conditions: the sizes are the same for every input, or known to be equal; constants and parameters
are not computed at run time, and no caller may override them. An operator between two names that
callers know, such as an input and an output, stays.

Profit: one copy of x less, and what it has kept apart can be rewritten. Networks converted from
Caffe and TensorFlow cast floats to floats, and GhostNet slices its results to the channels that
they have. onnxruntime removes a Slice only if it ends at the largest integer.

BITWISE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from bnfold.algebra.affine_maps.carry import fills_in_from_outside
from bnfold.algebra.affine_maps.casting import CASTS, holds
from bnfold.algebra.reshapes import keeps_order
from bnfold.graph.shapes import are_equal
from bnfold.graph.sizes import ENDLESS
from bnfold.rewriting.contract import Exactness, Refused, Replace, rewrite
from bnfold.rewriting.query import (
    constant,
    input_of,
    int_attribute,
    ints_attribute,
    ints_parameter,
    is_used,
    may_take_over,
    producer,
    rank_of,
    shape_of,
    size_of,
    string_attribute,
)


def _is_identity(_: ir.Node) -> bool:
    return True


def _cast_to_own_type(node: ir.Node) -> ir.Value | None:
    """Return the operand of a Cast, or of a Cast before it to a type that has all its numbers."""
    data, target = node.inputs[0], _cast_to(node)
    if data is None or data.dtype is None or target is None:
        return None
    if data.dtype.value == target:
        return data
    before = producer(node, 0, *CASTS)
    source = before.inputs[0] if before is not None else None
    if source is None or source.dtype is None or source.dtype.value != target:
        return None
    return source if holds(data.dtype, source.dtype) else None


def _cast_to(node: ir.Node) -> int | None:
    if node.op_type == "Cast":
        return int_attribute(node, "to", 0)
    like = input_of(node, 1)
    return like.dtype.value if like is not None and like.dtype is not None else None


def _has_one_operand(node: ir.Node) -> bool:
    return len(node.inputs) == 1


def _has_one_result(node: ir.Node) -> bool:
    return len(node.outputs) == 1


def _pads_nothing(node: ir.Node) -> bool:
    name = "pads" if "pads" in node.attributes else "paddings"  # the name in opset 1
    return not any(ints_parameter(node, name, 1) or (1,))


def _takes_all(node: ir.Node) -> bool:
    """Say whether a Slice keeps everything; a negative start counts from the end of the axis."""
    starts = ints_parameter(node, "starts", 1, ())
    ends = ints_parameter(node, "ends", 2, ())
    axes = ints_parameter(node, "axes", 3, tuple(range(len(starts))))
    steps = ints_parameter(node, "steps", 4, (1,) * len(starts))
    return all(step == 1 for step in steps) and all(
        _takes_whole_axis(start, end, size_of(node.inputs[0], axis))
        for start, end, axis in zip(starts, ends, axes, strict=True)
    )


def _takes_whole_axis(start: int, end: int, size: int | None) -> bool:
    if size is None:
        return start == 0 and end >= ENDLESS
    return (start == 0 or start <= -size) and end >= size


def _keeps_shape(node: ir.Node) -> bool:
    """Say whether the result has the shape of the data, for operators that then change nothing.

    A Reshape keeps the number of elements: if its shape is constant, one size may follow from the
    others.
    """
    before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    if before is None or after is None or before.rank() != after.rank():
        return False
    pairs = enumerate(zip(before, after, strict=True))
    different = [axis for axis, pair in pairs if not are_equal(*pair)]
    return not different or (len(different) == 1 and _follows(node, different[0], after))


def _follows(node: ir.Node, axis: int, sizes: ir.Shape) -> bool:
    """Say whether a size of a Reshape follows from the others: not if one of them may be 0."""
    target = constant(input_of(node, 1)) if node.op_type == "Reshape" else None
    if target is None or target.shape != (sizes.rank(),):
        return False
    others = [size for other, size in enumerate(sizes) if other != axis]
    return target[axis] == -1 or all(isinstance(size, int) and size > 0 for size in others)


def _keeps_order_and_shape(node: ir.Node) -> bool:
    """Say whether a Transpose changes nothing; one that leaves all axes keeps any shape."""
    order = ints_attribute(node, "perm")
    is_trivial = bool(order) and order == tuple(range(len(order)))
    return is_trivial or (keeps_order(node) and _keeps_shape(node))


def _resizes_nothing(node: ir.Node) -> bool:
    """Say whether a Resize keeps the size: onnxruntime copies where all scales are exactly 1."""
    if not _keeps_shape(node) or fills_in_from_outside(node):
        return False
    if "scales" in node.attributes or node.op_type == "Upsample" or len(node.inputs) < 4:
        scales = input_of(node, {"Upsample": 1}.get(node.op_type, len(node.inputs) - 1))
        content = constant(scales)
        return content is not None and bool((content == 1).all())
    return string_attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch"


def _has_window_of_one(node: ir.Node) -> bool:
    """Say whether a pool reads each element by itself."""
    return (
        _has_one_result(node)
        and set(ints_attribute(node, "kernel_shape")) == {1}
        and set(ints_attribute(node, "strides")) <= {1}
        and not any(ints_attribute(node, "pads"))
    )


_CHANGES_NOTHING: Mapping[str, Callable[[ir.Node], bool]] = {
    "Identity": _is_identity,
    **dict.fromkeys(("Concat", "Max", "Mean", "Min", "Sum"), _has_one_operand),
    "Split": _has_one_result,
    "Pad": _pads_nothing,
    "Slice": _takes_all,
    **dict.fromkeys(("Expand", "Flatten", "Reshape", "Squeeze", "Tile", "Unsqueeze"), _keeps_shape),
    "Transpose": _keeps_order_and_shape,
    **dict.fromkeys(("Resize", "Upsample"), _resizes_nothing),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _keeps_shape),
    **dict.fromkeys(
        ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"), _keeps_shape
    ),
    **dict.fromkeys(("AveragePool", "MaxPool"), _has_window_of_one),
}

_NEUTRAL: Mapping[str, tuple[int, tuple[int, ...]]] = {
    "Add": (0, (0, 1)),
    "Sub": (0, (1,)),
    "Mul": (1, (0, 1)),
    "Div": (1, (1,)),
    "Pow": (1, (1,)),
    "And": (True, (0, 1)),
    "Or": (False, (0, 1)),
    "Xor": (False, (0, 1)),
}
"""The neutral element of an operator, and the operands that may be it."""


@rewrite(
    "strip-identity",
    roots=[*_CHANGES_NOTHING, *_NEUTRAL, *CASTS],
    exactness=Exactness.BITWISE,
    refusals=[],
)
def strip_identity(node: ir.Node) -> Replace | None:
    """Replace the result by the data; return None if it may differ from it."""
    if not node.inputs or any(map(is_used, node.outputs[1:])):
        return None
    try:
        data = _unchanged(node)
    except Refused:
        return None  # by a parameter that is computed at run time
    result = node.outputs[0]
    if data is None or not may_take_over(data, result):
        return None
    return Replace([node], {result: data})


def _unchanged(node: ir.Node) -> ir.Value | None:
    """Return the operand that the result equals, if there is one."""
    if node.op_type in _NEUTRAL:
        return _beside_neutral(node, *_NEUTRAL[node.op_type])
    if node.op_type in CASTS:
        return _cast_to_own_type(node)
    return node.inputs[0] if _CHANGES_NOTHING[node.op_type](node) else None


def _beside_neutral(node: ir.Node, neutral: int, places: tuple[int, ...]) -> ir.Value | None:
    """Return the operand beside one that is the neutral element everywhere."""
    if "broadcast" in node.attributes or len(node.inputs) != 2:
        return None  # before opset 7, it may align axes other than the last
    for place in places:
        data, other = node.inputs[1 - place], node.inputs[place]
        if data is not None and other is not None and _fits(other, data):
            content = constant(other)
            if content is not None and bool((content == neutral).all()):
                return data
    return None


def _fits(operand: ir.Value, data: ir.Value) -> bool:
    """Say whether broadcasting the operand to the data leaves the shape of the data as it is."""
    shape, rank = shape_of(operand), rank_of(data)
    if shape is None:
        return False
    if rank is None or shape.rank() > rank:
        return shape.rank() == 0
    return all(
        size == 1 or (isinstance(size, int) and size == size_of(data, axis - shape.rank()))
        for axis, size in enumerate(shape)
    )
