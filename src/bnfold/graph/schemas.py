"""What onnx says of operators in a version of their operator set."""

from __future__ import annotations

import itertools
import re
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


_TYPES_ALONE = frozenset(
    {("Abs", 13), ("ArgMax", 13), ("ArgMin", 13), ("AveragePool", 22), ("BatchNormalization", 15)}
    | {("Ceil", 13), ("Clip", 13), ("Floor", 13), ("Gather", 13), ("MaxPool", 12), ("MaxPool", 22)}
    | {("Mod", 13), ("Slice", 13)}
    | {("Reshape", 14), ("Shape", 15)}
    | {("GRU", 14), ("LSTM", 14), ("RNN", 14)}
)
"""Operators and versions that admit more types, and say the same in other words. Those of the last
two lines have new attributes, too, without which they do what they did before."""

_REMARK = re.compile(r"\(Opset \d+ change\)[^\n]*")


@cache
def schema_of(domain: str, op_type: str, version: int | None) -> onnx.defs.OpSchema | None:
    """Return the definition of an operator, if onnx has it."""
    try:
        return onnx.defs.get_schema(op_type, version or 0, domain)
    except onnx.defs.SchemaError:
        return None


@cache
def mean_the_same(domain: str, op_type: str, since: int, later: int) -> bool:
    """Say whether an operator does the same in two versions, which admit other types at most."""
    if since == later:
        return True
    known = onnx.defs.get_all_schemas_with_history()
    own = {
        each.since_version: each for each in known if (each.domain, each.name) == (domain, op_type)
    }
    between = [own[version] for version in sorted(own) if since <= version <= later]
    return all(itertools.starmap(_is_wider, itertools.pairwise(between)))


def _is_wider(one: onnx.defs.OpSchema, other: onnx.defs.OpSchema) -> bool:
    """Say whether the next version of an operator changes nothing but types."""
    return (other.name, other.since_version) in _TYPES_ALONE or _said(one) == _said(other)


def _said(schema: onnx.defs.OpSchema) -> tuple[object, ...]:
    """Return what a definition says: its words, attributes and operands, without types."""
    words = " ".join(re.findall(r"\w+", _REMARK.sub("", schema.doc or "")))
    attributes = {
        (name, each.type, each.required, each.default_value.SerializeToString())
        for name, each in schema.attributes.items()
    }
    operands = [(each.name, each.option) for each in (*schema.inputs, *schema.outputs)]
    return words, attributes, operands


def opsets_of(model: onnx.ModelProto) -> dict[str, int]:
    """Return the versions of the operator sets of a model, by domain."""
    return {each.domain: each.version for each in model.opset_import}
