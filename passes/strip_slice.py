"""Remove a Slice that keeps everything.

    Slice(x; 0, n, axis, 1) = x          where x has at most n elements along the axis

Conditions: starts, ends, axes and steps are constant; on each axis the Slice starts at 0, has
step 1, and ends at the size of the axis, which is the same for every input, or beyond.

Profit: one copy of x less. onnxruntime removes a Slice only if it ends at the largest integer.
GhostNet slices the result of each module to the number of channels that it already has.

BITWISE.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.graph.sizes import ENDLESS
from bnfold.rewriting.contract import Exactness, Refused, Replace, rewrite
from bnfold.rewriting.query import ints_parameter, size_of


@rewrite("strip-slice", roots=["Slice"], exactness=Exactness.BITWISE, refusals=[])
def strip_slice(node: ir.Node) -> Replace | None:
    """Replace the result by the data; return None if the Slice leaves something out."""
    data = node.inputs[0]
    if data is None:
        return None
    try:
        starts = ints_parameter(node, "starts", 1, ())
        ends = ints_parameter(node, "ends", 2, ())
        axes = ints_parameter(node, "axes", 3, tuple(range(len(starts))))
        steps = ints_parameter(node, "steps", 4, (1,) * len(starts))
    except Refused:
        return None
    takes_all = all(step == 1 for step in steps) and all(
        _takes_all(start, end, size_of(data, axis))
        for start, end, axis in zip(starts, ends, axes, strict=True)
    )
    return Replace([node], {node.outputs[0]: data}) if takes_all else None


def _takes_all(start: int, end: int, size: int | None) -> bool:
    """Say whether the whole axis is kept; a negative start counts from the end of the axis."""
    if size is None:
        return start == 0 and end >= ENDLESS
    return (start == 0 or start <= -size) and end >= size
