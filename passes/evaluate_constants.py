"""Evaluate what depends on constants alone, and sizes that are the same for every input.

    f(c) = c'       computed once

Conditions: c are constants that no caller may override, or the shapes of values whose sizes are
known; f consists of operators of a list, none of them random, and onnxruntime computes it. Only
what something else reads is evaluated: the rest of f goes with it. An Identity is strip-identity's.

The file grows by 64 KiB at most for each c' (the parts of a Split are one), or by a sixteenth of
the graph's initializers if that is more, beyond the constants that are needed no more: a large
table that a few numbers describe stays an expression.

Profit: an operator less. onnxruntime fuses a Clip into the preceding Conv only if its bounds are
constants, and never evaluates CastLike, which torch's dynamo exporter uses in those of a ReLU6. In
many exports, most nodes compute shapes, starts, ends and axes, which other runtimes may need as
constants.

BITWISE for data movement, and for arithmetic that IEEE 754 rounds to the nearest. ROUNDED for
other functions, which every runtime approximates in its own way.
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from bnfold.arrays import Array
from bnfold.graph.asked_sizes import SIZES
from bnfold.graph.constants import constant, first_bytes_of_initializers, is_constant
from bnfold.graph.expressions import OPERATORS, results_of
from bnfold.rewriting.contract import Exactness, Replace, Weight, rewrite
from bnfold.rewriting.query import is_op, is_used

_EXACT = frozenset(
    {
        *SIZES,
        *("Abs", "Add", "And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"),
        *("Cast", "CastLike", "Ceil", "CenterCropPad", "Clip", "Concat"),
        *("ConstantOfShape", "DepthToSpace", "Div", "Equal", "Expand", "EyeLike", "Flatten"),
        *("Floor", "Gather", "GatherElements", "GatherND", "GlobalMaxPool", "Greater"),
        *("GreaterOrEqual", "Identity", "IsInf", "IsNaN", "Less", "LessOrEqual", "Max", "MaxPool"),
        *("Min", "Mod", "Mul", "Neg", "NonZero", "Not", "OneHot", "Or", "Pad", "Range"),
        *("ReduceMax", "ReduceMin", "Relu", "Reshape", "ReverseSequence", "Round", "Sign", "Slice"),
        *("SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Trilu"),
        *("Unsqueeze", "Where", "Xor"),
    }
)
"""Operators that give the same bits in every implementation."""

_MOST_MORE = 2**16
"""Bytes by which a content may be larger than the constants that it replaces, whatever the file."""

_MOST_SHARE = 16
"""It may be larger by this part of the graph's initializers."""


@rewrite(
    "evaluate-constants",
    roots=sorted(OPERATORS | set(SIZES)),
    exactness=Exactness.BITWISE,
    refusals=[],
)
def evaluate_constants(node: ir.Node) -> Replace | None:
    """Replace values by their contents, if more than other expressions reads them."""
    values = [value for value in results_of(node) if _is_read_by_more_than_expressions(value)]
    if is_op(node, "Identity") or not values:
        return None
    contents = [content for value in values if (content := _content(value)) is not None]
    if len(contents) < len(values):
        return None
    size = sum(content.nbytes for content in contents)
    if size > _MOST_MORE and size > _most_bytes(node):
        return None
    weights = {
        value: Weight(content, ir.DataType.from_numpy(content.dtype), value.name or "")
        for value, content in zip(values, contents, strict=True)
    }
    exactness = Exactness.BITWISE if _is_exact(node) else Exactness.ROUNDED
    return Replace([node], weights, "", exactness)


def _is_read_by_more_than_expressions(value: ir.Value) -> bool:
    """Say whether something reads the value whose own results are not constant."""
    return value.is_graph_output() or any(
        not all(map(is_constant, results_of(reader))) for reader in value.consumers()
    )


def _content(value: ir.Value) -> Array | None:
    """Return the content of an expression, if it can be stored with the type of the value."""
    content = constant(value)
    if content is None or content.dtype.kind in "OSU":
        return None
    return content if value.dtype in (None, ir.DataType.from_numpy(content.dtype)) else None


def _is_exact(node: ir.Node) -> bool:
    """Say whether only exact operators compute what the node computes."""
    pending, seen = [node], {node}
    while pending:
        node = pending.pop()
        if is_op(node, "Constant", *SIZES):
            continue
        if node.op_type not in _EXACT:
            return False
        sources = {value.producer() for value in node.inputs if value is not None}
        new = {source for source in sources if source is not None} - seen
        pending += new
        seen |= new
    return True


def _most_bytes(node: ir.Node) -> int:
    """Return how large the content may be."""
    whole = first_bytes_of_initializers(node.graph) if isinstance(node.graph, ir.Graph) else 0
    return max(_MOST_MORE, whole // _MOST_SHARE) + _bytes_freed_with(node)


def _bytes_freed_with(node: ir.Node) -> int:
    """Return the size of the constants that nothing reads without the node."""
    freed = 0
    lost: Counter[ir.Value] = Counter()
    pending = [node]
    while pending:
        read = [value for value in pending.pop().inputs if value is not None]
        lost.update(read)
        for value in dict.fromkeys(read):
            if lost[value] < len(value.uses()) or value.is_graph_output():
                continue
            source = value.producer()
            if source is None or is_op(source, "Constant"):
                content = constant(value)
                freed += 0 if content is None else content.nbytes
            elif not any(map(is_used, source.outputs[1:])):
                pending.append(source)
    return freed
