"""What it takes for an operator to carry a per-channel affine map, and why one does not."""

from __future__ import annotations

import enum
from collections.abc import Callable

import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import Affine
from bnfold.rewriting.contract import Common, Refusal, Refused, require
from bnfold.rewriting.query import rank_of, shape_of


class NotCarried(Refusal):
    """Why an affine map cannot pass through an operator."""

    NEGATIVE_SCALE = (
        "a scale is negative, so the maximum in between would have to be a minimum, or the reverse"
    )
    PADDED_AVERAGE = (
        "the AveragePool in between counts padding, to which its shift would have to apply too"
    )
    PADDED_BORDER = "the Pad in between adds a border, to which its shift would have to apply too"
    ACTIVATION_SHIFT = (
        "the activation in between commutes with a positive scale, but not with a shift"
    )
    PRODUCT_SHIFT = (
        "the product with another value in between commutes with a scale, but not with a shift"
    )
    AXIS_POOLED = "the operator in between combines values along its channel axis"
    CHANNELS_MERGED = (
        "channels that the operator in between makes of one, or one of, have different scales "
        "or shifts"
    )
    PARTS_DIFFER = (
        "the Concat or Split in between works along another axis than its channels', and only some "
        "of its parts are scaled and shifted by this operator"
    )
    TOO_MANY_PARTS = "the Concat or Split in between has too many parts to be made anew for each"
    TOO_MANY_CHANNELS = "the operator in between has too many channels to follow each of them"
    AXIS_LOST = "the operator in between does not keep its channels on one axis"
    BROADCAST = "an operand of the operator in between is repeated along its channels"
    NOT_FLOATS = "the Cast in between is not one of floats to floats"
    NARROWER_TYPE = (
        "beyond the Cast in between is a type with fewer digits or less range, in which its result "
        "might round more, or overflow"
    )
    RANGE_EXCEEDED = (
        "what the Cast in between narrows might become too large for its type, where a sum or "
        "average of it is not"
    )


class Direction(enum.Enum):
    """The direction in which a map moves through an operator."""

    TO_INPUT = "from the operator's output to its input"
    TO_OUTPUT = "from the operator's input to its output"


Carrier = Callable[[Affine, ir.Node, Direction], Affine]


def through_removed_axes(
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


def known_rank(value: ir.Value | None, subject: ir.Node) -> int:
    """Return the rank of a value, or refuse for `subject`."""
    rank = rank_of(value)
    if rank is None:
        raise Refused(Common.SHAPE_UNKNOWN, subject)
    return rank


def last_sizes(value: ir.Value | None, subject: ir.Node) -> list[int]:
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
