"""Read the members of a sequence themselves, where it is known which these are.

    SequenceAt(SplitToSequence(x; s), i) = Split(x; s)ᵢ = Slice(x; s₀ + … + sᵢ₋₁, s₀ + … + sᵢ)
    SequenceAt(SplitToSequence(x; keepdims = 0), i) = Gather(x, i)
    SequenceAt([a, b, c], i) = the one at i
    ConcatFromSequence([a, b, c]) = Concat(a, b, c)

[a, b, c] is a SequenceConstruct, or a SequenceEmpty into which a SequenceInsert puts one after
another. With new_axis, each has an Unsqueeze before the Concat.

Conditions: positions, and the sizes of a split, are constants. What SplitToSequence gives is read
by SequenceAt alone. Where all parts are read, one Split gives them, else Slices. The size of the
axis must be known where a position counts from the end, unless each part has a size of its own.

Profit: an operator less or more, and what the sequence has kept apart can be rewritten, as a
BatchNormalization after a Split. Few runtimes beside onnxruntime have sequences at all. torch's
dynamo exporter writes SplitToSequence for `split`, and its TorchScript exporter sequences for lists
that a scripted loop fills.

BITWISE.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bnfold.graph.schemas import AXES_OF_SQUEEZE_READ_SINCE
from bnfold.rewriting.contract import (
    Common,
    Exactness,
    Op,
    Operand,
    Output,
    Refusal,
    Refused,
    Replace,
    Weight,
    require,
    rewrite,
)
from bnfold.rewriting.query import (
    constant,
    input_of,
    int_attribute,
    is_op,
    opset,
    size_of,
)


class Why(Refusal):
    """Reasons to leave a sequence."""

    AXIS_UNCLEAR = (
        "keepdims is 0 and the parts have a size: ONNX defines that they keep the axis, and "
        "onnxruntime drops it"
    )
    OUT_OF_RANGE = "a position is beyond the end of the sequence"


_FILLING = ("SequenceConstruct", "SequenceEmpty", "SequenceInsert")
_MOST_MEMBERS = 256
_SPLIT_READ_SINCE = 13


@rewrite(
    "strip-sequence",
    roots=["SplitToSequence", "SequenceAt", "ConcatFromSequence"],
    exactness=Exactness.BITWISE,
    refusals=[*Why, Common.PARAMETER_NOT_CONSTANT, Common.SHAPE_UNKNOWN, Common.SHARED],
)
def strip_sequence(node: ir.Node) -> Replace | None:
    """Replace a sequence of parts with all that reads it, or what reads one that was filled."""
    if is_op(node, "SplitToSequence"):
        return _without_split(node)
    filled = _members(node)
    if filled is None:
        return None
    nodes, members = filled
    if is_op(node, "SequenceAt"):
        position = _position(node)
        require(-len(members) <= position < len(members), Why.OUT_OF_RANGE)
        return Replace([*nodes, node], {node.outputs[0]: members[position]})
    return Replace([*nodes, node], {node.outputs[0]: _concat(node, members)}) if members else None


def _members(reader: ir.Node) -> tuple[list[ir.Node], list[ir.Value]] | None:
    """Return what fills the sequence that a node reads, in order, and the members."""
    nodes: list[ir.Node] = []
    value = reader.inputs[0]
    for _ in range(_MOST_MEMBERS):
        source = value.producer() if value is not None else None
        if source is None or source.graph is not reader.graph or not is_op(source, *_FILLING):
            return None
        nodes.append(source)
        if not is_op(source, "SequenceInsert"):
            break
        value = source.inputs[0]
    else:
        return None
    first, *inserts = reversed(nodes)
    members = [member for member in first.inputs if member is not None]
    for insert in inserts:
        member = insert.inputs[1]
        position = _position(insert, 2) if input_of(insert, 2) is not None else len(members)
        if member is None:
            return None
        require(-len(members) <= position <= len(members), Why.OUT_OF_RANGE, insert)
        members.insert(position, member)
    return nodes[::-1], members


def _position(node: ir.Node, index: int = 1) -> int:
    content = constant(input_of(node, index))
    if content is None:
        raise Refused(Common.PARAMETER_NOT_CONSTANT, node)
    return int(content.item())


def _concat(node: ir.Node, members: Sequence[ir.Value]) -> Op:
    """Return a Concat as the operator set of a node has it, of members or of these with an axis."""
    axis = ir.AttrInt64("axis", int_attribute(node, "axis", 0))
    if int_attribute(node, "new_axis", 0) == 0:
        return Op("Concat", members, [axis], node)
    place = axis.as_int()
    weight = _integers([place], node.outputs[0], "axes")
    is_read = opset(node) >= AXES_OF_SQUEEZE_READ_SINCE
    operands = [
        Op(
            "Unsqueeze",
            [member, weight] if is_read else [member],
            () if is_read else [ir.AttrInt64s("axes", [place])],
            type_of=member,
        )
        for member in members
    ]
    return Op("Concat", operands, [axis], node)


@dataclass(frozen=True)
class _Parts:
    """How SplitToSequence parts an axis: into parts of these sizes, or of one size."""

    sizes: Sequence[int] | None
    each: int
    """Of the last one, it may be less; 0 if each has its own."""

    def bounds(self, position: int) -> tuple[int, int]:
        """Return where a part starts and ends."""
        if self.sizes is None:
            require(position >= 0, Common.SHAPE_UNKNOWN)
            return self.each * position, self.each * (position + 1)
        require(-len(self.sizes) <= position < len(self.sizes), Why.OUT_OF_RANGE)
        ends = [*itertools.accumulate(self.sizes)]
        return ends[position] - self.sizes[position], ends[position]


def _without_split(node: ir.Node) -> Replace | None:
    """Replace all that reads the parts of a value."""
    uses, data, axis = node.outputs[0].uses(), node.inputs[0], int_attribute(node, "axis", 0)
    readers = [use.node for use in uses if is_op(use.node, "SequenceAt")]
    if data is None or not readers:
        return None
    is_alone = len(readers) == len(uses) and not node.outputs[0].is_graph_output()
    require(is_alone and all(each.graph is node.graph for each in readers), Common.SHARED)
    positions = {each.outputs[0]: _position(each) for each in readers}
    nodes = [node, *readers]
    is_kept = int_attribute(node, "keepdims", 1) != 0
    if input_of(node, 1) is None and not is_kept:
        return Replace(nodes, _gathers(data, axis, positions))
    parts = _parts(node, data, axis)
    require(is_kept or parts.each == 0, Why.AXIS_UNCLEAR)
    if min(parts.sizes or [parts.each]) <= 0:
        return None
    bounds = {value: parts.bounds(position) for value, position in positions.items()}
    if len({*bounds.values()}) < len(bounds):
        return None  # merge-duplicates makes one of those that read the same part
    if parts.sizes is not None and len(bounds) == len(parts.sizes):
        return Replace(nodes, _split(node, data, parts.sizes, bounds))
    return Replace(nodes, _slices(data, axis, bounds))


def _parts(node: ir.Node, data: ir.Value, axis: int) -> _Parts:
    size, given = size_of(data, axis), input_of(node, 1)
    content = constant(given) if given is not None else np.array(1)
    if content is None:
        raise Refused(Common.PARAMETER_NOT_CONSTANT)
    if content.ndim == 1:
        return _Parts([int(number) for number in content], 0)
    each = int(content.item())
    if size is None or each <= 0:
        return _Parts(None, each)
    return _Parts([min(each, size - start) for start in range(0, size, each)], each)


def _gathers(data: ir.Value, axis: int, positions: Mapping[ir.Value, int]) -> dict[ir.Value, Op]:
    attribute = ir.AttrInt64("axis", axis)
    return {
        value: Op(
            "Gather",
            [data, Weight.of_integers(position, f"{value.name}.position")],
            [attribute],
            value.producer(),
        )
        for value, position in positions.items()
    }


def _split(
    node: ir.Node,
    data: ir.Value,
    sizes: Sequence[int],
    bounds: Mapping[ir.Value, tuple[int, int]],
) -> dict[ir.Value, Output]:
    """Return the outputs of a Split as the operator set of a node has it."""
    axis = ir.AttrInt64("axis", int_attribute(node, "axis", 0))
    inputs: list[Operand] = [data]
    attributes = [axis]
    if opset(node) < _SPLIT_READ_SINCE:
        attributes.append(ir.AttrInt64s("split", sizes))
    else:
        inputs.append(_integers(sizes, node.outputs[0], "split"))
    made = Op("Split", inputs, attributes, node, outputs=len(sizes))
    order = sorted(bounds, key=lambda value: bounds[value])
    return {value: Output(made, index) for index, value in enumerate(order)}


def _slices(
    data: ir.Value, axis: int, bounds: Mapping[ir.Value, tuple[int, int]]
) -> dict[ir.Value, Op]:
    return {
        value: Op(
            "Slice",
            [
                data,
                *(
                    _integers([number], value, name)
                    for number, name in ((start, "starts"), (end, "ends"), (axis, "axes"))
                ),
            ],
            (),
            value.producer(),
        )
        for value, (start, end) in bounds.items()
    }


def _integers(numbers: Sequence[int], value: ir.Value, name: str) -> Weight:
    return Weight.of_integers(numbers, f"{value.name}.{name}")
