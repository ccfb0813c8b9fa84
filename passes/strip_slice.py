"""Remove a Slice that takes everything.

    Slice(x; 0, n, axis, 1) = x          where x has at most n elements along the axis

Conditions: where the Slice starts and ends, its axes and steps are constant; on each axis it starts
at 0, goes by 1, and ends at the size of the axis, which is known, or beyond.

Profit: a copy of x. onnxruntime drops a Slice only if it ends at the largest integer. GhostNet
slices the result of each module to as many channels as it has.

BITWISE.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.graph.constants import constant
from bnfold.rewriting.contract import Exactness, Replace, rewrite
from bnfold.rewriting.query import input_of, ints_attribute, opset

_ENDLESS = 2**31 - 1
"""From here on, an end means "to the last": no axis is as long."""


@rewrite("strip-slice", roots=["Slice"], exactness=Exactness.BITWISE, refusals=[])
def strip_slice(node: ir.Node) -> Replace | None:
    """Replace the result by the data; a Slice that leaves something out is none of its business."""
    data = node.inputs[0]
    starts, ends = _parameter(node, "starts"), _parameter(node, "ends")
    if data is None or starts is None or ends is None:
        return None
    axes = _parameter(node, "axes", tuple(range(len(starts))))
    steps = _parameter(node, "steps", (1,) * len(starts))
    if axes is None or steps is None or any(step != 1 for step in steps):
        return None
    takes_all = all(
        _takes_all(start, end, _size(data, axis))
        for start, end, axis in zip(starts, ends, axes, strict=True)
    )
    return Replace([node], {node.outputs[0]: data}) if takes_all else None


def _parameter(
    node: ir.Node, name: str, default: tuple[int, ...] | None = None
) -> tuple[int, ...] | None:
    """Return the numbers of a parameter, the default if it is absent, None if it is not known."""
    if opset(node) < 10:
        return ints_attribute(node, name) if name in node.attributes else default
    value = input_of(node, ("", "starts", "ends", "axes", "steps").index(name))
    if value is None:
        return default
    content = constant(value)
    return None if content is None else tuple(int(each) for each in content.reshape(-1))


def _size(data: ir.Value, axis: int) -> int | None:
    if data.shape is None or not -data.shape.rank() <= axis < data.shape.rank():
        return None
    size = data.shape[axis]
    return size if isinstance(size, int) else None


def _takes_all(start: int, end: int, size: int | None) -> bool:
    """Say whether an axis is taken whole; a negative start counts from its end, up to its first."""
    if size is None:
        return start == 0 and end >= _ENDLESS
    return (start == 0 or start <= -size) and end >= size
