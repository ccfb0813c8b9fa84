"""Whether linear operators are within reach of an affine map, by the structure of the graph alone.

Moving a map through the graph costs arithmetic at each operator, and fails at the first branch that
cannot absorb it. The search here does no arithmetic, does not depend on the map, and looks at each
operator once in a sweep, however many maps lead there. What it finds within reach may still refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import AFFINE_OPERATORS, NotAffine, affine_map
from bnfold.algebra.affine_maps.carry import CARRIERS
from bnfold.algebra.affine_maps.consumers import CONSUMERS
from bnfold.algebra.affine_maps.linear import data_input
from bnfold.algebra.affine_maps.producers import PRODUCERS
from bnfold.algebra.hard_sigmoid import hard_activation
from bnfold.graph.constants import constant, is_constant, is_overridable
from bnfold.graph.memory import memory
from bnfold.rewriting.contract import Common, Refusal, Refused
from bnfold.rewriting.query import is_op, is_used, reads_content, shape_of

FARTHEST = 64
"""Maximum number of operators that a map passes; moving it farther costs more than it gains."""

CHOOSING = {"Max": 0, "Min": 0, "Where": 1}
"""Operators that choose between elements of their inputs, and the first of these inputs."""


class NotReached(Refusal):
    """Why an affine map does not reach a linear operator."""

    NOT_LINEAR = "the operator before it is not a linear operator with constant weights"
    CONSTANT_SHARED = (
        "the constant that would take it is used elsewhere, too, and would be stored twice"
    )
    GRAPH_INPUT = "no linear operator lies between it and an input of its graph"
    OTHER_GRAPH = "an If, Loop or Scan body separates it from the operator next to it"
    GRAPH_OUTPUT = "its result, or what it goes through, is a graph output, which must not change"
    READER_NOT_LINEAR = "the operator after it is not a linear operator with constant weights"
    TOO_FAR = "no linear operator is within reach of it"


@dataclass(frozen=True)
class DeadEnd:
    """Why the way of a map ends before a linear operator."""

    reason: Refusal
    subject: ir.Node | None = None
    detail: str = ""

    def refused(self) -> Refused:
        """Return it as a refusal, to be raised."""
        return Refused(self.reason, self.subject, self.detail)


def dead_end_before(root: ir.Node) -> DeadEnd | None:
    """Return the first dead end upstream of an affine operator, if there is any."""
    return _within_reach(_distance(root, "distance before", _before))


def dead_end_after(value: ir.Value) -> DeadEnd | None:
    """Return the first dead end downstream of the result of an affine operator, if any."""
    return _within_reach(_distance(value, "distance after", _after))


def reached_after(value: ir.Value) -> set[ir.Value]:
    """Return the values that are maps of a value, itself included, if nothing is a dead end."""
    reached, pending = {value}, [value]
    while pending:
        new = {step for step in _after(pending.pop()) if isinstance(step, ir.Value)} - reached
        reached |= new
        pending += new
    return reached


def _within_reach(distance: DeadEnd | int) -> DeadEnd | None:
    if isinstance(distance, DeadEnd):
        return distance
    return None if distance <= FARTHEST else DeadEnd(NotReached.TOO_FAR)


def is_read_once(value: ir.Value) -> bool:
    """Say whether one node input reads the content of the value, and not only its shape or type."""
    is_read = False
    for use in value.uses():
        if reads_content(*use):
            if is_read:
                return False
            is_read = True
    return is_read and not value.is_graph_output()


def is_weight(value: ir.Value) -> bool:
    """Say whether the value is constant, and stored as such rather than computed from constants."""
    node = value.producer()
    return is_constant(value) and (node is None or is_op(node, "Constant"))


def _is_one_number(value: ir.Value) -> bool:
    shape = shape_of(value)
    return shape is not None and all(size == 1 for size in shape)


def is_picked_from(value: ir.Value) -> bool:
    """Say whether all that reads the content of the value picks some of it, perhaps all others."""
    uses = value.uses()
    return (
        not value.is_graph_output()
        and len(uses) <= FARTHEST
        and all(
            is_op(node, "Gather", "Slice", "Split") and node.graph is value.graph
            for node, index in uses
            if reads_content(node, index)
        )
    )


_S = TypeVar("_S", ir.Node, ir.Value)


def _distance(
    start: _S, question: str, steps: Callable[[_S], Iterator[DeadEnd | _S]]
) -> DeadEnd | int:
    """Return how many operators it is to the farthest end of the steps, or the first dead end.

    The search goes depth first, and remembers the answer for each place.
    """
    known: dict[_S, DeadEnd | int] = memory().answers(question)
    if start in known:
        return known[start]
    pending, farthest = [(start, steps(start))], {start: 1}
    while pending:
        place, ahead = pending[-1]
        step = next(ahead, None)
        if step is None:
            pending.pop()
            known[place] = distance = farthest[place]
            if pending:
                before = pending[-1][0]
                farthest[before] = max(farthest[before], 1 + distance)
        elif not isinstance(step, DeadEnd) and step not in known:
            pending.append((step, steps(step)))
            farthest[step] = 1
        else:
            beyond = step if isinstance(step, DeadEnd) else known[step]
            if isinstance(beyond, DeadEnd):
                known.update((waiting, beyond) for waiting, _ in pending)
                break
            farthest[place] = max(farthest[place], 1 + beyond)
    return known[start]


def _before(node: ir.Node) -> Iterator[DeadEnd | ir.Node]:
    """Yield where a map goes from an operator that carries it upstream, input by input."""
    for value in _carried_inputs(node):
        source = value.producer() if value is not None else None
        if value is not None and is_weight(value):
            if not (is_read_once(value) or (is_op(node, *CHOOSING) and _is_one_number(value))):
                yield DeadEnd(NotReached.CONSTANT_SHARED, node, value.name or "")
        elif is_overridable(value):
            yield DeadEnd(Common.WEIGHT_OVERRIDABLE, node, (value and value.name) or "")
        elif value is None or source is None:
            yield DeadEnd(NotReached.GRAPH_INPUT, node)
        elif source.graph is not node.graph:
            yield DeadEnd(NotReached.OTHER_GRAPH, source)
        elif not _leads_on(source):
            yield DeadEnd(NotReached.NOT_LINEAR, source, source.op_type)
        elif not (is_read_once(value) or is_picked_from(value)):
            yield DeadEnd(Common.SHARED, source)
        elif source.op_type not in PRODUCERS:
            yield source


def _leads_on(node: ir.Node) -> bool:
    if is_op(node, *PRODUCERS, *CARRIERS, "Concat", "Split", *CHOOSING):
        return True
    return mapped_input(node) is not None or is_sum(node)


def _carried_inputs(node: ir.Node) -> Iterator[ir.Value | None]:
    index = 0 if is_op(node, *CARRIERS, "Split") else mapped_input(node)
    if index is None:
        yield from node.inputs[CHOOSING[node.op_type] if is_op(node, *CHOOSING) else 0 :]
    else:
        yield node.inputs[index]


def mapped_input(node: ir.Node) -> int | None:
    """Return the index of the input of which the node is an affine map, or None if it is none."""
    try:
        return affine_map(node)[1] if is_op(node, *AFFINE_OPERATORS) else None
    except Refused:
        return None


def is_product(node: ir.Node) -> bool:
    """Say whether the node multiplies two different values, none of them constant.

    A HardSwish that is written out is not such a product, but an activation.
    """
    if not is_op(node, "Mul") or len(node.inputs) != 2 or node.attributes:
        return False
    one, other = node.inputs
    are_values = one is not None and other is not None and one is not other
    if not are_values or constant(one) is not None or constant(other) is not None:
        return False
    return hard_activation(node) is None


def is_sum(node: ir.Node) -> bool:
    """Say whether the node adds or subtracts values, none of them constant, of known ranks.

    Before opset 7, which aligns axes by an attribute, they must have the same shape.
    """
    if not is_op(node, "Add", "Sub", "Sum"):
        return False
    if node.op_type != "Sum":
        try:
            affine_map(node)
        except Refused as refused:
            if refused.reason is not NotAffine.NO_CONSTANT_OPERAND:
                return False
        else:
            return False
    shapes = [shape_of(value) for value in node.inputs if value is not None]
    known = [shape.dims for shape in shapes if shape is not None]
    if len(known) < len(node.inputs):
        return False
    return not node.attributes or all(dims == known[0] for dims in known)


def _after(value: ir.Value) -> Iterator[DeadEnd | ir.Value]:
    """Yield where a map goes from a value downstream, reader by reader."""
    if value.is_graph_output():
        yield DeadEnd(NotReached.GRAPH_OUTPUT)
    uses = [use for use in value.uses() if reads_content(*use)]
    if not uses:
        yield DeadEnd(NotReached.READER_NOT_LINEAR)
    for reader, index in uses:
        if reader.graph is not value.graph:
            yield DeadEnd(NotReached.OTHER_GRAPH, reader)
        elif is_op(reader, *CONSUMERS) and index == data_input(reader):
            continue
        elif (
            (is_op(reader, *CARRIERS) and index == 0)
            or (is_op(reader, *AFFINE_OPERATORS) and index == mapped_input(reader))
            or is_op(reader, "Concat")
            or is_product(reader)
        ):
            yield reader.outputs[0]
        elif is_op(reader, "Split") and index == 0:
            yield from filter(is_used, reader.outputs)
        else:
            yield DeadEnd(NotReached.READER_NOT_LINEAR, reader, reader.op_type)
