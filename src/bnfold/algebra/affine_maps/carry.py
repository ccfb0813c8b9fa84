"""The operators that a per-channel affine map passes through, upstream or downstream.

An operator g carries a map if ``A ∘ g = g ∘ A'``: if it averages, picks or rearranges elements.
Each function in the table checks that this is exact, and follows the channels to their axis on the
other side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import Affine
from bnfold.algebra.affine_maps.carry_moving import MOVING
from bnfold.algebra.affine_maps.carrying import (
    Carrier,
    Direction,
    NotCarried,
    known_rank,
    through_removed_axes,
)
from bnfold.algebra.affine_maps.casting import CASTS, is_float
from bnfold.algebra.pooling import Pool
from bnfold.graph.constants import constant
from bnfold.graph.shapes import are_equal
from bnfold.graph.size_terms import Term, terms
from bnfold.graph.sizes import resize_scales
from bnfold.rewriting.contract import Common, Refused, require
from bnfold.rewriting.query import (
    input_of,
    int_attribute,
    ints_attribute,
    ints_parameter,
    is_used,
    shape_of,
    string_attribute,
)

NOT_CARRIED = (
    *NotCarried,
    Common.CROPPED,
    Common.INDICES_USED,
    Common.PADDING_ONLY_WINDOW,
    Common.PARAMETER_NOT_CONSTANT,
    Common.SHAPE_UNKNOWN,
)
"""All reasons of `carry`."""


def carry(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """Return the map on the other side of `node`, an operator in `CARRIERS`.

    Raises:
        Refused: with a reason from `NotCarried`.
    """
    return CARRIERS[node.op_type](affine, node, direction)


def _same(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    return affine


def _cast(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """A Cast of floats is the identity, but for rounding."""
    data = node.inputs[0]
    are_floats = data is not None and is_float(data.dtype) and is_float(node.outputs[0].dtype)
    require(are_floats, NotCarried.NOT_FLOATS, node)
    return affine


def _negation(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """s·(−x) + t = −(s·x − t)."""
    return replace(affine, shift=-affine.shift)


def _require_channels_apart(affine: Affine, node: ir.Node) -> None:
    """Require that the channels lie on one of the first two axes, which no pool spans."""
    require(affine.is_uniform or affine.axis <= 1, NotCarried.AXIS_POOLED, node)


def _max_pool(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """The largest of s·x + t is s times the largest x, plus t, for s ≥ 0."""
    _require_channels_apart(affine, node)
    require(bool((affine.scale >= 0).all()), NotCarried.NEGATIVE_SCALE, node)
    require(not any(map(is_used, node.outputs[1:])), Common.INDICES_USED, node)
    data = node.inputs[0]
    assert data is not None
    is_real = Pool.of(node).every_window_is_real(data)
    require(is_real, Common.PADDING_ONLY_WINDOW, node)
    return affine


def _global_max_pool(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    _require_channels_apart(affine, node)
    require(bool((affine.scale >= 0).all()), NotCarried.NEGATIVE_SCALE, node)
    return affine


def _average_pool(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """An average of s·x + t is s times the average, plus t, if it counts no padding."""
    _require_channels_apart(affine, node)
    if not affine.has_shift:
        return affine
    pool, data = Pool.of(node), node.inputs[0]
    assert data is not None
    counts = int_attribute(node, "count_include_pad", 0) != 0
    require(not (counts and pool.may_pad), NotCarried.PADDED_AVERAGE, node)
    require(pool.every_window_is_real(data), Common.PADDING_ONLY_WINDOW, node)
    return affine


def _global_average_pool(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    _require_channels_apart(affine, node)
    return affine


def _reduce_mean(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """A mean over other axes than the channels'; without keepdims the later axes move up."""
    data = node.inputs[0]
    rank = known_rank(data, node)
    axes = ints_parameter(node, "axes", 1)
    if not axes:
        require(affine.is_uniform, NotCarried.AXIS_POOLED, node)
        return affine
    reduced = {axis % rank for axis in axes}
    if int_attribute(node, "keepdims", 1) == 1:
        require(affine.is_uniform or affine.axis not in reduced, NotCarried.AXIS_POOLED, node)
        return affine
    return through_removed_axes(affine, node, reduced, rank, direction)


def _reduce_sum(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """A sum of n elements s·x + t is s times the sum, plus n·t, for an n that is known."""
    moved = _reduce_mean(affine, node, direction)
    if not affine.has_shift:
        return moved
    shape, axes = shape_of(node.inputs[0]), ints_parameter(node, "axes", 1)
    if shape is None:
        raise Refused(Common.SHAPE_UNKNOWN, node)
    if not axes:
        is_all = not int_attribute(node, "noop_with_empty_axes", 0)
        axes = tuple(range(shape.rank())) if is_all else ()
    sizes = [shape[axis] for axis in {axis % shape.rank() for axis in axes}]
    count = math.prod(size for size in sizes if isinstance(size, int))
    is_known = count > 0 and all(isinstance(size, int) for size in sizes)
    require(is_known, Common.SHAPE_UNKNOWN, node)
    to_output = direction is Direction.TO_OUTPUT
    return replace(moved, shift=moved.shift * count if to_output else moved.shift / count)


def _reduce_extreme(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """As for MaxPool: for s ≥ 0 the largest or smallest of s·x + t is where that of x is."""
    require(bool((affine.scale >= 0).all()), NotCarried.NEGATIVE_SCALE, node)
    return _reduce_mean(affine, node, direction)


def _activation(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """f(s·x) = s·f(x) for f of two linear pieces that meet at zero, and s > 0."""
    require(bool((affine.scale > 0).all()), NotCarried.ACTIVATION_SHIFT, node)
    require(not affine.has_shift, NotCarried.ACTIVATION_SHIFT, node)
    return affine


def _resize(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """The weights of nearest and linear interpolation add up to one.

    The channels must not be resized, and no values may be filled in from outside.
    """
    require(averages_positions(node), NotCarried.AXIS_POOLED, node)
    require(not fills_in_from_outside(node), Common.CROPPED, node)
    if affine.is_uniform:
        return affine
    require(leaves_axis_alone(node, affine.axis), NotCarried.AXIS_POOLED, node)
    return affine


def leaves_axis_alone(resize: ir.Node, axis: int) -> bool:
    """Say whether a Resize keeps an axis as it is: a scale of 1.1 keeps 4 channels, but mixes them.

    Given sizes instead, an axis that keeps its size has a scale of 1.
    """
    before, after = shape_of(resize.inputs[0]), shape_of(resize.outputs[0])
    if before is None or after is None:
        return False
    rank = before.rank()
    axes = ints_attribute(resize, "axes", tuple(range(rank)))
    places = {each % rank: place for place, each in enumerate(axes)}
    if axis not in places:
        return True
    scales = resize_scales(resize)
    if scales is not None:
        return len(scales) == len(axes) and scales[places[axis]] == 1.0
    policy = string_attribute(resize, "keep_aspect_ratio_policy", "stretch")
    if input_of(resize, 3) is None or policy != "stretch":
        return False
    asked = terms(input_of(resize, 3))
    if asked is not None and len(asked) == len(axes):
        return asked[places[axis]] == Term.of(before[axis])
    return are_equal(before[axis], after[axis])


def averages_positions(resize: ir.Node) -> bool:
    """Say whether output positions are weighted means of input positions (nearest, linear)."""
    return string_attribute(resize, "mode", "nearest") in ("nearest", "linear", "bilinear")


def fills_in_from_outside(resize: ir.Node) -> bool:
    """Say whether a Resize may extrapolate beyond its input, with a value of its own."""
    transform = string_attribute(resize, "coordinate_transformation_mode", "half_pixel")
    return transform == "tf_crop_and_resize"


def _pad(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """Borders of copies commute; a constant border only if it is zero and t = 0.

    What is cut off (a negative width) has no border.
    """
    amounts = ints_parameter(node, "pads", 1)
    require(amounts is not None and input_of(node, 3) is None, NotCarried.PADDED_BORDER, node)
    pads = np.array(amounts).reshape(2, -1)
    on_channels = not affine.is_uniform and bool(pads[:, affine.axis].any())
    require(not on_channels, NotCarried.AXIS_POOLED, node)
    if not (pads > 0).any():
        return affine  # it crops, if anything
    if string_attribute(node, "mode", "constant") == "constant":
        require(not affine.has_shift, NotCarried.PADDED_BORDER, node)
        value = input_of(node, 2)
        content = constant(value) if value is not None else np.zeros(())
        zero = content is not None and not content.any()
        attribute = node.attributes.get_float("value", 0.0) == 0.0
        require(zero and attribute, NotCarried.PADDED_BORDER, node)
    return affine


CARRIERS: Mapping[str, Carrier] = {
    "MaxPool": _max_pool,
    "GlobalMaxPool": _global_max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
    "ReduceMax": _reduce_extreme,
    "ReduceMin": _reduce_extreme,
    "Relu": _activation,
    "LeakyRelu": _activation,
    "PRelu": _activation,
    "Identity": _same,
    **dict.fromkeys(CASTS, _cast),
    "Neg": _negation,
    "Resize": _resize,
    "Upsample": _resize,
    "Pad": _pad,
    **MOVING,
}

_SHRINKING = frozenset(
    {"AveragePool", "GlobalAveragePool", "LeakyRelu", "PRelu", "ReduceMean", "ReduceSum"}
)


def may_shrink(node: ir.Node) -> bool:
    """Say whether a carrier's result may be small, but not 0, where all that it reads is large."""
    is_resize = node.op_type in ("Resize", "Upsample")
    return node.op_type in _SHRINKING or (
        is_resize and string_attribute(node, "mode", "nearest") != "nearest"
    )
