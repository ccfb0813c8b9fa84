"""Recognizes sums that are there for their rounding: adding 1.5·2²³ and subtracting it again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnfold.algebra.operand import ConstantOperand, constant_operand
from bnfold.arrays import float_limits
from bnfold.graph.constants import constant
from bnfold.rewriting.query import is_op

_LARGE = 2.0**10
"""A term from which on cancelling another is taken to be meant."""

_CANCELLED = 2.0**-8
"""What is left, at most, of a term that another cancels."""

_NEAR = 4
"""Operators within which a term and what cancels it belong together."""

_PASSING = ("Identity", "Reshape", "Flatten", "Squeeze", "Transpose", "Unsqueeze")


def is_for_rounding(node: ir.Node, operand: ConstantOperand) -> bool:
    """Say whether an Add or Sub of a constant seems to be there for its rounding.

    From 1/ε on, which is 2²³ in float32, a sum is a whole number; and adding what a later operator
    takes away, or an earlier one has taken, has no other effect.
    """
    largest = float(np.abs(operand.shift).max(initial=0))
    if largest >= 1 / float(float_limits(operand.content.dtype).eps):
        return True
    if largest < _LARGE:
        return False
    earlier, source = [node], _source(node)
    while source is not None and len(earlier) < _NEAR:
        earlier.append(source)
        source = _source(source)
    return any(map(_is_taken_away, earlier))


def _is_taken_away(node: ir.Node) -> bool:
    """Say whether operators after an Add or Sub cancel what it adds."""
    step = _step(node)
    if step is None or step[1] == 0:
        return False
    pending = [(node, step[1], 0)]
    while pending:
        place, term, distance = pending.pop()
        for use in place.outputs[0].uses() if distance < _NEAR else ():
            step = _step(use.node)
            if step is None:
                continue
            scale, shift = step
            if abs(scale * term + shift) < abs(scale * term) * _CANCELLED:
                return True
            pending.append((use.node, scale * term + shift, distance + 1))
    return False


def _source(node: ir.Node) -> ir.Node | None:
    """Return the node before one that computes s·x + t, or passes x on."""
    value = next((value for value in node.inputs if value and constant(value) is None), None)
    source = value.producer() if value is not None else None
    return source if source is not None and _step(source) is not None else None


def _step(node: ir.Node) -> tuple[float, float] | None:
    """Return s and t, where the constant is largest, of a node that computes s·x + t."""
    if is_op(node, *_PASSING):
        return 1.0, 0.0
    operand = constant_operand(node)
    if operand is None or not operand.content.size:
        return None
    at = np.abs(operand.content.astype(np.float64)).argmax()
    return float(operand.scale[at]), float(operand.shift[at])
