"""Operators that compute the same of permuted axes: elementwise ones, and those that name axes.

For a permutation q of axes, T(x) = Transpose(x; q), axis a of x is axis q⁻¹(a) of T(x), and

    T(f(x, y, …; a)) = f(T(x), T(y), …; q⁻¹(a))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import onnx_ir as ir

from bnfold.algebra.affine_maps.carry import fills_in_from_outside
from bnfold.algebra.channel_removal.broadcasting import ELEMENTWISE
from bnfold.graph.constants import constant
from bnfold.graph.schemas import REDUCTIONS
from bnfold.rewriting.contract import Op, Operand, Weight, attributes_with, same_op
from bnfold.rewriting.query import (
    input_of,
    int_attribute,
    ints_attribute,
    is_op,
    opset,
    rank_of,
    shape_of,
    size_of,
    string_attribute,
)

Order: TypeAlias = tuple[int, ...]
"""As the attribute `perm` of a Transpose."""

Turn: TypeAlias = Callable[[ir.Value], Operand]
"""Returns what stands for a value whose axes are permuted."""

_SINGLE = (*ELEMENTWISE, "Atan", "Cast", "Ceil", "Floor", "Log", "Round", "Sign")
"""Operators that compute each element from those at its place."""

_SOFTMAX_OF_ONE_AXIS_SINCE = 13
_PADS_ARE_AN_INPUT_SINCE = 11


def order_of(transpose: ir.Node) -> Order | None:
    """Return how a Transpose permutes axes, which it reverses by default; None if not known."""
    rank = rank_of(transpose.inputs[0])
    order = ints_attribute(transpose, "perm", () if rank is None else range(rank)[::-1])
    return order if sorted(order) == list(range(len(order))) and order else None


def inverse(order: Order) -> Order:
    """Return the permutation that undoes another one."""
    return tuple(order.index(axis) for axis in range(len(order)))


def turned_shape(value: ir.Value, order: Order) -> ir.Shape | None:
    """Return the shape of a value whose axes are permuted, if it is known."""
    shape = shape_of(value)
    return None if shape is None else ir.Shape([shape[axis] for axis in order])


def turning_operands(node: ir.Node) -> list[ir.Value]:
    """Return the operands that have the axes of the result: not constants, nor single elements."""
    first_only = not is_op(node, *_SINGLE, "Concat")
    values = [value for value in node.inputs[: 1 if first_only else None] if value is not None]
    return [value for value in values if constant(value) is None and not _is_single(value)]


def elementwise_operand(node: ir.Node | None) -> ir.Value | None:
    """Return what an elementwise operator reads beside constants; None if it is no such one."""
    if node is None or not is_op(node, *_SINGLE):
        return None
    operands = turning_operands(node)
    return operands[0] if len(operands) == 1 else None


def turned_op(node: ir.Node, order: Order, turn: Turn) -> Op | None:
    """Return the operator that computes its result with permuted axes, of operands like that.

    None if it is none of those that do.
    """
    result = node.outputs[0]
    if any(rank_of(value) != len(order) for value in (result, *turning_operands(node))):
        return None
    if result.dtype == ir.DataType.STRING:  # whose constants have no bytes to move
        return None
    turned = turned_shape(result, order)
    if is_op(node, *_SINGLE):
        operands = [_turned(value, order, turn) for value in node.inputs]
        return same_op(node, operands, shape=turned, type_of=result)
    is_along_one = opset(node) >= _SOFTMAX_OF_ONE_AXIS_SINCE
    if is_op(node, "Concat") or (is_op(node, "Softmax", "LogSoftmax") and is_along_one):
        return _with_axis(node, order, turn, turned)
    if is_op(node, "Pad"):
        return _pad(node, order, turn, turned)
    if is_op(node, "Resize"):
        return _resize(node, order, turn, turned)
    if is_op(node, *REDUCTIONS) and int_attribute(node, "keepdims", 1) == 1:
        return _reduction(node, order, turn, turned)
    return None


def reduction_of_turned(node: ir.Node, order: Order, turn: Turn) -> Op | None:
    """Return the reduction that computes the same of permuted axes, if it drops axes and may."""
    value = input_of(node, 0)
    if value is None or not is_op(node, *REDUCTIONS) or int_attribute(node, "keepdims", 1) == 1:
        return None
    axes = _reduced_axes(node, len(order))
    if rank_of(value) != len(order) or axes is None:
        return None
    left = [axis for axis in order if axis not in axes]
    return _reduction(node, order, turn, None) if left == sorted(left) else None


def _is_single(value: ir.Value) -> bool:
    rank = rank_of(value)
    return rank is not None and all(size_of(value, axis) == 1 for axis in range(rank))


def _turned(value: ir.Value | None, order: Order, turn: Turn) -> Operand:
    """Return what stands for an operand; a constant, transposed; or what spreads over all axes."""
    if value is None:
        return None
    content = constant(value)
    if content is None:
        return value if _is_single(value) else turn(value)
    if content.size == 1:
        return value
    wide = content.reshape((1,) * (len(order) - content.ndim) + content.shape)
    dtype = ir.DataType.from_numpy(content.dtype)
    return Weight(wide.transpose(order), dtype, f"{value.name}.transposed")


def _with_axis(node: ir.Node, order: Order, turn: Turn, shape: ir.Shape | None) -> Op:
    axis = order.index(int_attribute(node, "axis", -1) % len(order))
    operands = [_turned(value, order, turn) for value in node.inputs]
    attributes = attributes_with(node, ir.AttrInt64("axis", axis))
    return Op(node.op_type, operands, attributes, node, shape, node.outputs[0])


def _pad(node: ir.Node, order: Order, turn: Turn, shape: ir.Shape | None) -> Op | None:
    is_attribute = opset(node) < _PADS_ARE_AN_INPUT_SINCE
    content = constant(input_of(node, 1))
    if is_attribute:
        widths = list(ints_attribute(node, "pads"))
    elif content is None or input_of(node, 3) is not None:
        return None  # it computes how much it pads, or names axes
    else:
        widths = [int(width) for width in content]
    turned = [widths[side + axis] for side in (0, len(order)) for axis in order]
    operands: list[Operand] = [_turned(node.inputs[0], order, turn)]
    attributes = list(node.attributes.values())
    if is_attribute:
        attributes = attributes_with(node, ir.AttrInt64s("pads", turned))
    else:
        operands += [_integers(turned, node.inputs[1]), *node.inputs[2:]]
    return Op("Pad", operands, attributes, node, shape, node.outputs[0])


def _resize(node: ir.Node, order: Order, turn: Turn, shape: ir.Shape | None) -> Op | None:
    """Only a nearest one: those that interpolate are for some orders of axes alone."""
    scales = constant(input_of(node, 2))
    is_nearest = string_attribute(node, "mode", "nearest") == "nearest"
    if not is_nearest or fills_in_from_outside(node) or "axes" in node.attributes:
        return None
    if scales is None or scales.size != len(order) or input_of(node, 3) is not None:
        return None
    data, region = _turned(node.inputs[0], order, turn), node.inputs[1]
    name = f"{node.name or node.outputs[0].name}.scales"
    turned = Weight(scales[list(order)], ir.DataType.FLOAT, name)
    return same_op(node, [data, region, turned], shape=shape, type_of=node.outputs[0])


def _reduced_axes(node: ir.Node, rank: int) -> set[int] | None:
    """Return the axes that are reduced, counted from the first; None if they are not named."""
    content = constant(input_of(node, 1))
    axes = ints_attribute(node, "axes") if content is None else tuple(map(int, content.reshape(-1)))
    is_computed = content is None and input_of(node, 1) is not None
    return None if is_computed or not axes else {axis % rank for axis in axes}


def _reduction(node: ir.Node, order: Order, turn: Turn, shape: ir.Shape | None) -> Op | None:
    axes = _reduced_axes(node, len(order))
    if axes is None:
        return None
    turned = sorted(order.index(axis) for axis in axes)
    operands = [_turned(node.inputs[0], order, turn)]
    attributes = list(node.attributes.values())
    if "axes" in node.attributes:
        attributes = attributes_with(node, ir.AttrInt64s("axes", turned))
    else:
        operands.append(_integers(turned, node.inputs[1]))
    return Op(node.op_type, operands, attributes, node, shape, node.outputs[0])


def _integers(numbers: Sequence[int], like: ir.Value | None) -> Weight:
    name = like.name if like is not None else ""
    return Weight.of_integers(numbers, f"{name}.transposed")
