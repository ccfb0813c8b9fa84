"""Channels that belong together.

The channels of a value go on through operators that work on each channel by itself, and through a
Concat. Those of two operands of a sum are the same ones after it. All of them together are a
*lane*: it starts in a filter, or in several, and ends in the linear operators that read it, or in
several. `Lanes` finds all that the channels of one value are connected with, and looks at each
operator once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bnfold.algebra.channel_removal.channels import Channelwise
from bnfold.algebra.channel_removal.channelwise import channelwise
from bnfold.algebra.channel_removal.narrowing import Linear
from bnfold.rewriting.contract import Refused
from bnfold.rewriting.query import int_attribute, is_op, rank_of, size_of

Numbers = npt.NDArray[np.int64]


class Concat:
    """A Concat along the channels, all of whose sizes are known."""


Role = Linear | Channelwise | Concat
"""What an operator does with the channels."""


class Lanes:
    """The lanes of all values that are connected with one of them by its channels."""

    def __init__(self, seed: ir.Value, axis: int, channels: int) -> None:
        self.axis = axis
        """Along which all the channels lie, in each value."""
        self.numbers: dict[ir.Value, Numbers] = {}
        """The lane of each channel, by value."""
        self.count = 0
        self.is_even = True
        """Whether all operators have as many channels as their neighbours let expect."""
        self._roles: dict[ir.Node, Role | None] = {}
        self._same: list[tuple[Numbers, Numbers]] = []
        self._new: list[ir.Value] = []
        self._search(seed, channels)
        self._unite()
        self.order = list(self._sorted())
        """The operators, with their roles, in an order in which they can run."""
        self.is_even &= all(self._fits(node, role) for node, role in self.order)

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

    def _search(self, seed: ir.Value, channels: int) -> None:
        self._put(seed, self._fresh(channels))
        done: set[ir.Node] = set()
        while self._new:
            value = self._new.pop()
            source = value.producer()
            readers = [node for node in value.consumers() if node.graph is value.graph]
            for node in [*readers, source] if source is not None else readers:
                role = self.role_of(node) if node not in done else None
                done.add(node)
                if isinstance(role, Concat):
                    self._through_concat(node)
                elif isinstance(role, Channelwise):
                    self._through(node, role)

    def _fresh(self, count: int) -> Numbers:
        self.count += count
        return np.arange(self.count - count, self.count)

    def _put(self, value: ir.Value, lanes: Numbers) -> None:
        """Note the lanes of a value, or that those it has already are the same."""
        known = self.numbers.get(value)
        if known is None:
            self.numbers[value] = lanes
            self._new.append(value)
        elif known.size != lanes.size:
            self.is_even = False
        elif not np.array_equal(known, lanes):
            self._same.append((known, lanes))

    def _through(self, node: ir.Node, role: Channelwise) -> None:
        output, operands = node.outputs[0], operands_of(node, role)
        known = [self.numbers[value] for value in operands if value in self.numbers]
        lanes = known[0] if known else self.numbers[output][:: role.copies]
        for value in operands:
            self._put(value, lanes)
        self._put(output, np.repeat(lanes, role.copies))

    def _through_concat(self, node: ir.Node) -> None:
        output, values = node.outputs[0], [value for value in node.inputs if value is not None]
        sizes = [size_of(value, self.axis) or 0 for value in values]
        whole = self.numbers.get(output)
        if whole is None:
            for value, size in zip(values, sizes, strict=True):
                if value not in self.numbers:
                    self._put(value, self._fresh(size))
        else:
            for value, part in zip(values, np.split(whole, np.cumsum(sizes)[:-1]), strict=True):
                self._put(value, part)
        self._put(output, np.concatenate([self.numbers[value] for value in values]))

    def _fits(self, node: ir.Node, role: Role) -> bool:
        ends = []
        if isinstance(role, Linear):
            ends = [(node.inputs[0], role.inputs), (node.outputs[0], role.outputs)]
        elif isinstance(role, Channelwise) and role.channels is not None:
            ends = [(value, role.channels) for value in operands_of(node, role)]
        return all(
            self.numbers[value].size == channels
            for value, channels in ends
            if value in self.numbers
        )

    def _unite(self) -> None:
        """Number the lanes, of which some have turned out to be the same."""
        if not self._same:
            return
        parents = list(range(self.count))

        def first(lane: int) -> int:
            while parents[lane] != lane:
                parents[lane] = parents[parents[lane]]
                lane = parents[lane]
            return lane

        for some, others in self._same:
            for one, other in zip(some.tolist(), others.tolist(), strict=True):
                parents[first(one)] = first(other)
        firsts, labels = np.unique([first(lane) for lane in range(self.count)], return_inverse=True)
        self.count = firsts.size
        self.numbers = {value: labels[lanes] for value, lanes in self.numbers.items()}

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


def _joins_along(node: ir.Node, axis: int) -> bool:
    """Say whether the node is a Concat along the axis, all of whose sizes are known."""
    rank = rank_of(node.outputs[0]) if is_op(node, "Concat") else None
    if not rank or any(size_of(value, axis) is None for value in node.inputs):
        return False
    try:
        return int_attribute(node, "axis", 1) % rank == axis
    except Refused:
        return False
