"""What onnx says of operators in a version of their operator set."""

from __future__ import annotations

from functools import cache

import onnx
import onnx.defs

NUMPY_BROADCASTING_SINCE = 7
"""The operator set from which on arithmetic broadcasts as NumPy does, without attributes."""

CLIP_READS_BOUNDS_SINCE = 11
"""The operator set from which on the bounds of a Clip are inputs; they are attributes before."""

AXES_OF_SQUEEZE_READ_SINCE = 13
"""The operator set from which on Squeeze and Unsqueeze read their axes; an attribute before."""

REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
"""The operators that reduce along any axes, which they keep or drop."""


@cache
def schema_of(domain: str, op_type: str, version: int | None) -> onnx.defs.OpSchema | None:
    """Return the definition of an operator, if onnx has it."""
    try:
        return onnx.defs.get_schema(op_type, version or 0, domain)
    except onnx.defs.SchemaError:
        return None


def opsets_of(model: onnx.ModelProto) -> dict[str, int]:
    """Return the versions of the operator sets of a model, by domain."""
    return {each.domain: each.version for each in model.opset_import}
