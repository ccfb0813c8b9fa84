"""Channels that belong together.

The channels of a value go on through operators that work on each channel by itself, and through a
Concat. Those of two operands of a sum are the same ones after it. All of them together are a
*lane*: it starts in a filter, or in several, and ends in the linear operators that read it, or in
several. `Lanes` finds all that the channels of one value are connected with, and looks at each
operator once, or a few times where a Concat joins what belongs together.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bnfold.algebra.channels import Channelwise
from bnfold.algebra.channelwise import channelwise
from bnfold.algebra.narrowing import Linear
from bnfold.rewriting.contract import Refused
from bnfold.rewriting.query import int_attribute, is_op, rank_of, size_of

Numbers = npt.NDArray[np.int64]

FOREIGN = -1
"""In place of a lane: a channel that a Concat puts beside them."""


class Concat:
    """A Concat along the channels."""


Role = Linear | Channelwise | Concat
"""What an operator does with the channels."""


class Lanes:
    """The lanes that start from the channels of a value, one each, and all that they pass."""

    def __init__(self, seed: ir.Value, channels: int, axis: int) -> None:
        self.count = channels
        self.axis = axis
        """Along which all the channels lie, in each value."""
        self.numbers = {seed: np.arange(channels)}
        """The lane of each channel, by value."""
        self._roles: dict[ir.Node, Role | None] = {}
        self._search(seed)
        self.order = list(self._sorted())
        """The operators, with their roles, in an order in which they can run."""

    def complete(self) -> Iterator[ir.Value]:
        """Yield the values of which each channel is on one of the lanes."""
        return (value for value, own in self.numbers.items() if (own >= 0).all())

    def _search(self, seed: ir.Value) -> None:
        """Follow the channels through all operators that work on each by itself.

        Each operator takes its turn when all values at hand are done, and a Concat when all other
        operators are: by then, most of what it joins is known.
        """
        values, nodes, concats = [seed], dict[ir.Node, Channelwise](), dict[ir.Node, None]()
        while values or nodes or concats:
            if values:
                value = values.pop()
                source = value.producer()
                readers = [node for node in value.consumers() if node.graph is value.graph]
                for node in [*readers, source] if source is not None else readers:
                    role = self.role_of(node)
                    if isinstance(role, Concat):
                        concats[node] = None
                    elif isinstance(role, Channelwise):
                        nodes[node] = role
            elif nodes:
                values += self._spread(*nodes.popitem())
            else:
                values += self._spread_concat(concats.popitem()[0])

    def role_of(self, node: ir.Node) -> Role | None:
        """Return what the node does with the channels; None if it mixes them."""
        if node not in self._roles:
            linear = Linear.of(node)
            if linear is not None:
                self._roles[node] = linear if linear.axis == self.axis else None
            elif _joins_along(node, self.axis):
                self._roles[node] = Concat()
            else:
                self._roles[node] = channelwise(node, self.axis)
        return self._roles[node]

    def _spread(self, node: ir.Node, role: Channelwise) -> Iterator[ir.Value]:
        """Take over the lanes of a node's operands and result from each other."""
        output, operands = node.outputs[0], operands_of(node, role)
        lanes = [self.numbers[value] for value in operands if value in self.numbers]
        if output in self.numbers:
            lanes.append(self.numbers[output][:: role.copies])
        merged = lanes[0]
        for other in lanes[1:]:
            if other.size == merged.size:
                merged = np.where(merged < 0, other, merged)
        for value in operands:
            yield from self._take_over(value, merged)
        yield from self._take_over(output, np.repeat(merged, role.copies))

    def _spread_concat(self, node: ir.Node) -> Iterator[ir.Value]:
        parts, output = self.parts_of(node), node.outputs[0]
        if parts is None:
            return
        yield from self._take_over(output, np.concatenate(parts))
        whole = self.numbers.get(output, np.empty(0, np.int64))
        if whole.size == sum(part.size for part in parts):
            ends = np.cumsum([part.size for part in parts])
            for value, part in zip(node.inputs, np.split(whole, ends[:-1]), strict=True):
                assert value is not None
                yield from self._take_over(value, part)

    def parts_of(self, concat: ir.Node) -> list[Numbers] | None:
        """Return the lanes of each operand of a Concat; None if a size is not known."""
        parts = []
        for value in concat.inputs:
            size = size_of(value, self.axis)
            if value is None or size is None:
                return None
            parts.append(self.lanes_of(value, size))
        return parts

    def lanes_of(self, value: ir.Value, size: int) -> Numbers:
        return self.numbers.get(value, np.full(size, FOREIGN))

    def _take_over(self, value: ir.Value, lanes: Numbers) -> Iterator[ir.Value]:
        """Fill in lanes that are not known yet; yield the value if there are any."""
        known = self.lanes_of(value, lanes.size)
        if known.size == lanes.size and ((known < 0) & (lanes >= 0)).any():
            self.numbers[value] = np.where(known < 0, lanes, known)
            yield value

    def _sorted(self) -> Iterator[tuple[ir.Node, Role]]:
        """Yield the operators in an order in which they can run."""
        done: set[ir.Node] = set()
        pending = [(node, False) for node in self._roles]
        while pending:
            node, is_ready = pending.pop()
            role = self._roles.get(node)
            if is_ready and role is not None:
                yield node, role
            elif node not in done and role is not None:
                done.add(node)
                pending.append((node, True))
                sources = [value.producer() for value in node.inputs if value in self.numbers]
                pending += [(source, False) for source in sources if source is not None]


def operands_of(node: ir.Node, role: Channelwise) -> list[ir.Value]:
    """Return the operands of a node that have the channels."""
    values = [node.inputs[index] for index in role.operands]
    return [value for value in values if value is not None]


def origin(value: ir.Value, axis: int, channels: int) -> tuple[ir.Value, int]:
    """Go back to where the channels come from; return that value and its number of channels.

    On the way they may have become more: S columns each, by a Flatten.
    """
    while True:
        source = value.producer()
        is_linear = source is None or Linear.of(source) is not None
        role = channelwise(source, axis) if source is not None and not is_linear else None
        if source is None or role is None or value is not source.outputs[0]:
            return value, channels
        value, channels = operands_of(source, role)[0], channels // role.copies


def _joins_along(node: ir.Node, axis: int) -> bool:
    """Say whether the node is a Concat along the axis."""
    rank = rank_of(node.outputs[0]) if is_op(node, "Concat") else None
    try:
        return rank is not None and int_attribute(node, "axis", 1) % rank == axis
    except Refused:
        return False
