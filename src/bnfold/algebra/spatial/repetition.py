"""Upsampling that repeats each element a whole number of times along each axis."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from bnfold.algebra.affine_maps.carry import fills_in_from_outside
from bnfold.graph.size_terms import Term, terms
from bnfold.graph.sizes import resize_scales
from bnfold.rewriting.contract import Common, Refusal, Refused, require
from bnfold.rewriting.query import (
    input_of,
    ints_attribute,
    is_op,
    opset,
    rank_of,
    shape_of,
    string_attribute,
)


class NotRepeated(Refusal):
    """Why upsampling is more than to repeat each element."""

    INTERPOLATED = "the Resize interpolates, or repeats some elements more often than others"
    NOT_WHOLE = "the Resize does not enlarge the spatial axes, and no others, by whole numbers"


NOT_REPEATED = (*NotRepeated, Common.CROPPED, Common.SHAPE_UNKNOWN)
"""All reasons of `repeats`."""


def repeats(resize: ir.Node) -> tuple[int, ...]:
    """Return how many times a Resize or Upsample repeats each element along each axis.

    Along each, result q is element ⌊q/s⌋.

    Raises:
        Refused: with a reason from `NOT_REPEATED`.
    """
    is_nearest = string_attribute(resize, "mode", "nearest") == "nearest"
    require(is_nearest, NotRepeated.INTERPOLATED, resize)
    require(not fills_in_from_outside(resize), Common.CROPPED, resize)
    factors = _factors(resize)
    is_larger = factors[:2] == (1, 1) and max(factors) > 1
    require(is_larger, NotRepeated.NOT_WHOLE, resize)
    is_repeated = all(_is_repeated(resize, factor) for factor in factors)
    require(is_repeated, NotRepeated.INTERPOLATED, resize)
    return factors


def _factors(resize: ir.Node) -> tuple[int, ...]:
    """Return the whole numbers by which the axes grow."""
    rank = rank_of(resize.inputs[0])
    if rank is None:
        raise Refused(Common.SHAPE_UNKNOWN, resize)
    axes = ints_attribute(resize, "axes", tuple(range(rank)))
    scales = resize_scales(resize)
    if scales is None:
        scales = _scales_to_sizes(resize, axes)
    require(len(scales) == len(axes), Common.SHAPE_UNKNOWN, resize)
    is_whole = all(scale >= 1 and scale == int(scale) for scale in scales)
    require(is_whole, NotRepeated.NOT_WHOLE, resize)
    factors = [1] * rank
    for axis, scale in zip(axes, scales, strict=True):
        factors[axis % rank] = int(scale)
    return tuple(factors)


def _scales_to_sizes(resize: ir.Node, axes: Sequence[int]) -> list[float]:
    """Return the scales of a Resize to sizes that are known, or multiples of its input's."""
    before, after = shape_of(resize.inputs[0]), shape_of(resize.outputs[0])
    is_stretched = string_attribute(resize, "keep_aspect_ratio_policy", "stretch") == "stretch"
    if before is None or after is None or input_of(resize, 3) is None or not is_stretched:
        raise Refused(Common.SHAPE_UNKNOWN, resize)
    asked: Sequence[Term | None] | None = terms(input_of(resize, 3))
    if asked is None:
        asked = [Term.of(after[axis]) for axis in axes]
    require(len(asked) == len(axes), Common.SHAPE_UNKNOWN, resize)
    scales = []
    for axis, new in zip(axes, asked, strict=True):
        old = Term.of(before[axis])
        is_multiple = old is not None and new is not None and old.size == new.size
        if old is None or new is None or not is_multiple or old.factor == 0:
            raise Refused(Common.SHAPE_UNKNOWN, resize)
        scales.append(new.factor / old.factor)
    return scales


_ROUNDING = ("round_prefer_floor", "round_prefer_ceil")


def _is_repeated(resize: ir.Node, factor: int) -> bool:
    """Say whether result q is element ⌊q/s⌋ of an axis, for every q and size n.

    Write q = s·m + a with 0 ≤ a < s. Then q lies at m + e, where e depends on how positions are
    counted: it must be rounded to m, and no tie may be broken the other way.

        asymmetric             e = a/s                        floor; rounded down at ½ for s = 2
        half_pixel             e = (a + ½)/s − ½              −½ < e < ½: rounded
        tf_half_pixel_for_nn   e = (a + ½)/s                  0 < e < 1: floor
        align_corners          e = ((n−1)·a − (s−1)·m)/(s·n − 1)        s ≤ 2: |e| < ½, rounded
    """
    if is_op(resize, "Upsample") or opset(resize) < 11:
        return True  # asymmetric, and towards zero
    nearest = string_attribute(resize, "nearest_mode", "round_prefer_floor")
    way = string_attribute(resize, "coordinate_transformation_mode", "half_pixel")
    if way == "asymmetric":
        return nearest == "floor" or factor == 1 or (nearest == _ROUNDING[0] and factor == 2)
    if way in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"):
        return nearest in _ROUNDING or factor == 1
    if way == "tf_half_pixel_for_nn":
        return nearest == "floor"
    return way == "align_corners" and nearest in _ROUNDING and factor <= 2
