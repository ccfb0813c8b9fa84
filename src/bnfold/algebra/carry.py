"""The operators that a per-channel affine map passes through, upstream or downstream.

An operator g carries a map if ``A ∘ g = g ∘ A'``: if it averages, picks or rearranges elements.
Each function in the table checks that this is exact, and follows the channels to their axis on the
other side.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine import Affine
from bnfold.algebra.pooling import Pool
from bnfold.graph.constants import constant
from bnfold.graph.sizes import resize_scales
from bnfold.rewriting.contract import Common, Refusal, Refused, require
from bnfold.rewriting.query import (
    input_of,
    int_attribute,
    ints_attribute,
    ints_parameter,
    is_used,
    rank_of,
    shape_of,
    string_attribute,
)


class NotCarried(Refusal):
    """Why an affine map cannot pass through an operator."""

    NEGATIVE_SCALE = "a scale is negative, so the MaxPool in between would have to pick the minimum"
    PADDED_AVERAGE = (
        "the AveragePool in between counts padding, to which its shift would have to apply too"
    )
    PADDED_BORDER = "the Pad in between adds a border, to which its shift would have to apply too"
    ACTIVATION_SHIFT = (
        "the activation in between commutes with a positive scale, but not with a shift"
    )
    AXIS_POOLED = "the operator in between combines values along its channel axis"
    AXIS_LOST = "the reshape in between does not keep its channels on one axis"


NOT_CARRIED = (
    *NotCarried,
    Common.CROPPED,
    Common.INDICES_USED,
    Common.PADDING_ONLY_WINDOW,
    Common.PARAMETER_NOT_CONSTANT,
    Common.SHAPE_UNKNOWN,
)
"""All reasons of `carry`."""


class Direction(enum.Enum):
    """The direction in which a map moves through an operator."""

    TO_INPUT = "from the operator's output to its input"
    TO_OUTPUT = "from the operator's input to its output"


Carrier = Callable[[Affine, ir.Node, Direction], Affine]


def carry(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """Return the map on the other side of `node`, an operator in `CARRIERS`.

    Raises:
        Refused: with a reason from `NotCarried`.
    """
    return CARRIERS[node.op_type](affine, node, direction)


def _same(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    return affine


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
    rank = _rank(data, node)
    axes = ints_parameter(node, "axes", 1)
    if not axes:
        require(affine.is_uniform, NotCarried.AXIS_POOLED, node)
        return affine
    reduced = {axis % rank for axis in axes}
    if int_attribute(node, "keepdims", 1):
        require(affine.is_uniform or affine.axis not in reduced, NotCarried.AXIS_POOLED, node)
        return affine
    return _through_removed_axes(affine, node, reduced, rank, direction)


def _through_removed_axes(
    affine: Affine, node: ir.Node, removed: set[int], rank: int, direction: Direction
) -> Affine:
    """Follow the axis through an operator whose output lacks some axes of its input."""
    if affine.is_uniform:
        return affine
    kept = [axis for axis in range(rank) if axis not in removed]
    if direction is Direction.TO_INPUT:
        return affine.along(kept[affine.axis])
    require(affine.axis in kept, NotCarried.AXIS_POOLED, node)
    return affine.along(kept.index(affine.axis))


def _activation(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """f(s·x) = s·f(x) for f of two linear pieces that meet at zero, and s > 0."""
    require(bool((affine.scale > 0).all()), NotCarried.ACTIVATION_SHIFT, node)
    require(not affine.has_shift, NotCarried.ACTIVATION_SHIFT, node)
    return affine


def _transpose(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """Output axis i is input axis perm[i]."""
    rank = _rank(node.inputs[0], node)
    permutation = ints_attribute(node, "perm", list(range(rank))[::-1])
    if affine.is_uniform:
        return affine
    if direction is Direction.TO_INPUT:
        return affine.along(permutation[affine.axis])
    return affine.along(permutation.index(affine.axis))


def _squeeze(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    data = node.inputs[0]
    rank = _rank(data, node)
    axes = ints_parameter(node, "axes", 1)
    if axes is None:
        sizes = _last_sizes(data, node)
        require(len(sizes) == rank, Common.SHAPE_UNKNOWN, node)
        axes = tuple(axis for axis, size in enumerate(sizes) if size == 1)
    return _through_removed_axes(affine, node, {axis % rank for axis in axes}, rank, direction)


def _unsqueeze(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    axes = ints_parameter(node, "axes", 1, ())
    rank = _rank(node.inputs[0], node) + len(axes)
    opposite = Direction.TO_OUTPUT if direction is Direction.TO_INPUT else Direction.TO_INPUT
    return _through_removed_axes(affine, node, {axis % rank for axis in axes}, rank, opposite)


def _reshape(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """Follow the channels to another shape of the same elements, compared by the last axes.

    In memory order, each scale repeats in a run as long as the product of the axes after the
    channels, with a period of C runs. The shortest suffix of the other shape that holds whole
    periods starts with the only axis along which the scale can vary: fewer axes hold none, and an
    axis before it sees whole periods. It varies along this axis alone if each step along the axis
    stays within one run.
    """
    if affine.is_uniform:
        return affine
    here, there = node.inputs[0], node.outputs[0]
    if direction is Direction.TO_INPUT:
        here, there = there, here
    axes_after = _rank(here, node) - affine.axis - 1
    sizes = _last_sizes(here, node)
    require(len(sizes) >= axes_after, Common.SHAPE_UNKNOWN, node)
    affine = _shortest(affine)
    run = math.prod(sizes[len(sizes) - axes_after :]) * affine.run
    period = run * affine.scale.size
    require(period > 0, NotCarried.AXIS_LOST, node)
    if affine.is_uniform:
        return affine
    step = 1  # along the axis, in elements
    for after, size in enumerate(reversed(_last_sizes(there, node))):
        whole = step * size
        if whole > 0 and whole % period == 0:
            require(run % step == 0, NotCarried.AXIS_LOST, node)
            axis = _rank(there, node) - 1 - after
            return replace(affine, axis=axis, run=run // step, periods=whole // period)
        step = whole
    raise Refused(NotCarried.AXIS_LOST, node)


def _shortest(affine: Affine) -> Affine:
    """Return the same map with the fewest scales: the shortest period, of the longest runs."""
    scale, shift = affine.scale, affine.shift
    count = scale.size
    differs = (scale[1:] != scale[:-1]) | (shift[1:] != shift[:-1])
    if not differs.any():
        return Affine(scale[:1], shift[:1], affine.axis)
    for period in _divisors(count):
        if all(np.array_equal(values[period:], values[:-period]) for values in (scale, shift)):
            count = period
            break
    changes = np.flatnonzero(differs[: count - 1]) + 1
    run = math.gcd(count, int(np.gcd.reduce(changes)))
    periods = affine.periods * (scale.size // count)
    part = slice(0, count, run)
    return Affine(scale[part], shift[part], affine.axis, affine.run * run, periods)


def _divisors(number: int) -> list[int]:
    """Return the divisors except 1 and the number itself, in order."""
    small = [n for n in range(2, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


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
    size = before[axis]
    is_known = isinstance(size, int) or size.value is not None
    return is_known and size == after[axis]


def averages_positions(resize: ir.Node) -> bool:
    """Say whether output positions are weighted means of input positions (nearest, linear)."""
    return string_attribute(resize, "mode", "nearest") in ("nearest", "linear", "bilinear")


def fills_in_from_outside(resize: ir.Node) -> bool:
    """Say whether a Resize may extrapolate beyond its input, with a value of its own."""
    transform = string_attribute(resize, "coordinate_transformation_mode", "half_pixel")
    return transform == "tf_crop_and_resize"


def _pad(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """Repeated and mirrored borders commute; a constant border only if it is zero and t = 0."""
    require(string_attribute(node, "mode", "constant") != "wrap", NotCarried.PADDED_BORDER, node)
    amounts = ints_parameter(node, "pads", 1)
    require(amounts is not None and input_of(node, 3) is None, NotCarried.PADDED_BORDER, node)
    pads = np.array(amounts).reshape(2, -1)
    if not pads.any():
        return affine
    on_channels = not affine.is_uniform and bool(pads[:, affine.axis].any())
    require(not on_channels, NotCarried.AXIS_POOLED, node)
    if string_attribute(node, "mode", "constant") == "constant":
        require(not affine.has_shift, NotCarried.PADDED_BORDER, node)
        value = input_of(node, 2)
        content = constant(value) if value is not None else np.zeros(())
        zero = content is not None and not content.any()
        attribute = node.attributes.get_float("value", 0.0) == 0.0
        require(zero and attribute, NotCarried.PADDED_BORDER, node)
    return affine


def _slice(affine: Affine, node: ir.Node, direction: Direction) -> Affine:
    """A Slice along other axes than the channels' picks positions, whichever they are."""
    if affine.is_uniform:
        return affine
    rank = _rank(node.inputs[0], node)
    axes = ints_parameter(node, "axes", 3)
    if axes is None:
        axes = tuple(range(len(ints_parameter(node, "starts", 1, ()))))
    require(affine.axis not in {axis % rank for axis in axes}, NotCarried.AXIS_POOLED, node)
    return affine


CARRIERS: Mapping[str, Carrier] = {
    "MaxPool": _max_pool,
    "GlobalMaxPool": _global_max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "ReduceMean": _reduce_mean,
    "Relu": _activation,
    "LeakyRelu": _activation,
    "PRelu": _activation,
    "Identity": _same,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _reshape,
    "Reshape": _reshape,
    "Resize": _resize,
    "Upsample": _resize,
    "Pad": _pad,
    "Slice": _slice,
}


# --- Shapes -------------------------------------------------------------------------------------


def _rank(value: ir.Value | None, subject: ir.Node) -> int:
    rank = rank_of(value)
    if rank is None:
        raise Refused(Common.SHAPE_UNKNOWN, subject)
    return rank


def _last_sizes(value: ir.Value | None, subject: ir.Node) -> list[int]:
    """Return the sizes of the last axes, back to the first that is not known."""
    shape = shape_of(value)
    if shape is None:
        raise Refused(Common.SHAPE_UNKNOWN, subject)
    sizes: list[int] = []
    for size in reversed(shape.dims):
        if not isinstance(size, int):
            break
        sizes.append(size)
    return sizes[::-1]
