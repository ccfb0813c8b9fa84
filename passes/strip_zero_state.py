"""Leave out the initial state of an LSTM, GRU or RNN that is zero for every input.

    LSTM(x, W, R, B; h = 0, c = 0) = LSTM(x, W, R, B)

Conditions: the state is a constant of zeros that no caller may override, or made by a
ConstantOfShape, or of zeros by operators that only repeat, move or cast elements.

Profit: what computes the state, such as five operators that ask for the size of the batch. torch
exports the default of its own LSTMs and GRUs like that.

BITWISE.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from bnfold.algebra.affine_maps.rebuilding import replacements
from bnfold.graph.constants import constant
from bnfold.rewriting.contract import Exactness, Replace, rewrite, same_op
from bnfold.rewriting.query import is_op, is_used

_STATES = (5, 6)
"""The places of what the hidden state is at first, and of the LSTM's cell."""

_KEEPING_ZEROS = (
    *("Cast", "CastLike", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice"),
    *("Squeeze", "Tile", "Transpose", "Unsqueeze"),
)
"""Operators whose result is zero if their first operand is."""

_MOST_NODES = 32
"""Between a state and the constants of which it is made."""


@rewrite("strip-zero-state", roots=["GRU", "LSTM", "RNN"], exactness=Exactness.BITWISE, refusals=[])
def strip_zero_state(node: ir.Node) -> Replace | None:
    """Leave out initial states of zeros; return None if there are none."""
    inputs = list(node.inputs)
    for place in _STATES:
        if place < len(inputs) and inputs[place] is not None and _is_zero(inputs[place]):
            inputs[place] = None
    if inputs == list(node.inputs):
        return None
    while inputs[-1] is None:
        inputs.pop()
    results = replacements(node, replace(same_op(node, inputs), outputs=len(node.outputs)))
    return Replace([node], {value: made for value, made in results.items() if is_used(value)})


def _is_zero(value: ir.Value | None) -> bool:
    """Say whether all elements of a value are 0 for every input."""
    pending = [value]
    for _ in range(_MOST_NODES):
        if not pending:
            return True
        value = pending.pop()
        content, node = constant(value), value.producer() if value is not None else None
        if content is not None and not content.any():
            continue
        if node is None:
            return False
        if is_op(node, "Concat"):
            pending += node.inputs
        elif is_op(node, *_KEEPING_ZEROS):
            pending += node.inputs[:1]
        elif not (is_op(node, "ConstantOfShape") and _fills_zeros(node)):
            return False
    return False


def _fills_zeros(node: ir.Node) -> bool:
    attribute = node.attributes.get("value")
    return attribute is None or not (attribute.is_ref() or attribute.as_tensor().numpy().any())
