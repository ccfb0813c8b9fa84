"""Functions that change no order: what is selected from their results is what is without them.

The largest of f(x) are where the largest of x are if f increases; and boxes overlap by the same
share of their area if all are moved or scaled alike.
"""

from __future__ import annotations

import onnx

from bnfold.proof.sides import CLASSIFYING, Scope

_INCREASING = frozenset({"Atan", "Erf", "Exp", "Log", "Sigmoid", "Softplus", "Sqrt", "Tanh"})

_ALONG_AXIS = frozenset({"LogSoftmax", "Softmax"})
"""Functions that increase in each element, beside the same others along their axis."""

_SCALING = frozenset({"Add", "Div", "Mul", "Sub"})


def before_increasing(scope: Scope, name: str, selecting: onnx.NodeProto) -> str:
    """Return the value of which the first operand of a selection is an increasing function.

    It is the operand itself if no such function is known, or boxes are not given by their corners.
    """
    is_of_boxes = selecting.op_type == "NonMaxSuppression"
    if is_of_boxes and _integer(selecting, "center_point_box", 0):
        return name
    axis = _integer(selecting, "axis", 0 if selecting.op_type in CLASSIFYING else -1)
    while (node := scope.node(name)) is not None:
        data = node.input[0]
        if node.op_type in _SCALING:
            place = 0 if scope.constant(node.input[1]) is not None else 1
            data = node.input[place]
            if not _keeps_order(scope, node, place):
                return name
        elif is_of_boxes or not (
            node.op_type in _INCREASING
            or (node.op_type in _ALONG_AXIS and _may_be_same(_integer(node, "axis", -1), axis))
        ):
            return name
        name = scope.source(data)
    return name


def _may_be_same(axis: int, other: int) -> bool:
    """Say whether two axes may be the same one, counted from either end."""
    return axis == other or (axis < 0) != (other < 0)


def _keeps_order(scope: Scope, node: onnx.NodeProto, place: int) -> bool:
    """Say whether a node adds one number to an operand, or multiplies it by a positive one."""
    number = scope.constant(node.input[1 - place])
    if number is None or number.size != 1 or number.dtype.kind != "f":
        return False
    if node.op_type == "Add" or (node.op_type == "Sub" and place == 0):
        return True
    return bool(number.flat[0] > 0) and (node.op_type == "Mul" or place == 0)


def _integer(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(each.i) for each in node.attribute if each.name == name), default)
