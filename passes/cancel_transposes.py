"""Leave out Transposes that cancel around operators that do the same in any order of axes.

    Transpose(f(Transpose(x; p), k; a); q) = f(x, Transpose(k; q); q⁻¹(a))        p∘q = 1

where f is any number of elementwise operators, Concats, Pads, Softmaxes, nearest Resizes and
reductions along axes a, of several values that are transposed by p, and of constants. A reduction
that drops axes, as the mean before a classifier, needs no Transpose after it if the others keep
their order.

Where f has other operands, these are transposed by q, and so is by p what other operators read of
it. Networks whose channels are last (TensorFlow, Keras) transpose before and after each Conv, with
activations, paddings and the sums of residual blocks between: all of those are taken at once.

Conditions: the ranks of all values are known.

Profit: fewer Transposes, each of which is a copy. A MobileNetV2 from Keras runs 1.28 times as fast
as with those around elementwise operators alone left out (96², two threads).

BITWISE; a reduction may add in another order, and is ROUNDED.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

import onnx_ir as ir

from bnfold.algebra.permuting import (
    Order,
    inverse,
    reduction_of_turned,
    turned_op,
    turned_shape,
    turning_operands,
)
from bnfold.graph.schemas import NUMPY_BROADCASTING_SINCE, REDUCTIONS
from bnfold.rewriting.contract import Common, Exactness, Op, Operand, Refused, Replace, rewrite
from bnfold.rewriting.query import int_attribute, ints_attribute, is_op, opset, sole_use

_MOST_OPERATORS = 256


@rewrite(
    "cancel-transposes",
    roots=["Transpose", *REDUCTIONS],
    exactness=Exactness.BITWISE,
    refusals=[Common.NO_GAIN],
)
def cancel_transposes(node: ir.Node) -> Replace | None:
    """Let operators before a Transpose, or a reduction, read what is transposed before them."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if source is None or opset(node) < NUMPY_BROADCASTING_SINCE:
        return None
    is_transpose = is_op(node, "Transpose")
    order = ints_attribute(node, "perm") if is_transpose else _order_above(node)
    if not order:
        return None
    if is_op(source, "Transpose"):
        return _without_transpose(source, node, order)
    may_gain = False
    for downstream in (True, False):
        region = _Region.around(source, order, downstream=downstream)
        if region.gain > 0:
            return region.replaced()
        may_gain |= bool(region.transposes)
    if may_gain and is_transpose:
        raise Refused(Common.NO_GAIN)
    return None


def _order_above(reduction: ir.Node) -> Order:
    """Return what undoes the next Transpose before a reduction that drops axes; () if none."""
    if int_attribute(reduction, "keepdims", 1):
        return ()
    pending, seen = [reduction.inputs[0]], set[ir.Value | None]()
    while pending and len(seen) < _MOST_OPERATORS:
        value = pending.pop()
        source = value.producer() if value is not None else None
        if source is None or value in seen:
            continue
        seen.add(value)
        if is_op(source, "Transpose"):
            return inverse(ints_attribute(source, "perm"))
        pending += turning_operands(source)
    return ()


def _without_transpose(transpose: ir.Node, reduction: ir.Node, order: Order) -> Replace | None:
    """Let a reduction read what a Transpose reads."""
    reduced = reduction_of_turned(reduction, order, lambda _: transpose.inputs[0])
    if reduced is None or not sole_use(transpose.outputs[0]):
        return None
    outputs = {reduction.outputs[0]: reduced}
    return Replace([transpose, reduction], outputs, "1 Transpose less", Exactness.ROUNDED)


@dataclass
class _Region:
    """Operators that compute the same of permuted axes, and what they have to do with others."""

    order: Order
    graph: ir.Graph
    members: dict[ir.Node, None] = field(default_factory=dict)
    """The operators, each after what it reads."""

    @staticmethod
    def around(first: ir.Node, order: Order, *, downstream: bool) -> _Region:
        """Go from an operator to all that it reads, and that read it, if they are such, too."""
        assert isinstance(first.graph, ir.Graph)
        region = _Region(order, first.graph)
        found: dict[ir.Node, None] = {}
        pending = [first]
        while pending:
            node = pending.pop()
            if node in found or not region._may_have(node):
                continue
            found[node] = None
            if len(found) > _MOST_OPERATORS:
                return region
            pending += region._sources(node)
            if downstream:
                pending += [use.node for value in node.outputs for use in value.uses()]
        region.members = dict.fromkeys(region._fed(found))
        return region if first in region.members else _Region(order, first.graph)

    def _may_have(self, node: ir.Node) -> bool:
        if node.graph is not self.graph or is_op(node, "Transpose"):
            return False
        return turned_op(node, self.order, lambda value: value) is not None

    def _sources(self, node: ir.Node) -> list[ir.Node]:
        """Return what computes the operands that have the axes of the result."""
        sources = (value.producer() for value in turning_operands(node))
        return [source for source in sources if source is not None]

    def _undone(self, value: ir.Value) -> ir.Node | None:
        """Return the Transpose that makes a value of one with permuted axes, if any."""
        source = value.producer()
        if source is None or not is_op(source, "Transpose") or source.inputs[0] is None:
            return None
        return source if ints_attribute(source, "perm") == inverse(self.order) else None

    def _fed(self, found: dict[ir.Node, None]) -> Iterator[ir.Node]:
        """Yield those that a Transpose leads to, in order: others would only need new ones."""
        fed: set[ir.Node] = set()
        sources = {node: [s for s in self._sources(node) if s in found] for node in found}
        for node in TopologicalSorter(sources).static_order():
            operands = turning_operands(node)
            if any(self._undone(v) is not None or v.producer() in fed for v in operands):
                fed.add(node)
                yield node

    @property
    def transposes(self) -> dict[ir.Value, ir.Node]:
        """The Transposes that are undone, by their results."""
        operands = [value for node in self.members for value in turning_operands(node)]
        found = {value: self._undone(value) for value in operands}
        return {value: node for value, node in found.items() if node is not None}

    @property
    def _strangers(self) -> dict[ir.Value, None]:
        """The operands that would have to be transposed."""
        return {
            value: None
            for node in self.members
            for value in turning_operands(node)
            if value.producer() not in self.members and self._undone(value) is None
        }

    def _readers(self) -> Iterator[tuple[ir.Value, ir.Node]]:
        """Yield the results that others read, and by which."""
        for node in self.members:
            for value in node.outputs:
                for use in value.uses():
                    if use.node not in self.members:
                        yield value, use.node

    def _is_end(self, reader: ir.Node) -> bool:
        """Say whether a reader undoes the order, or does the same in any."""
        if reader.graph is not self.graph:
            return False
        if is_op(reader, "Transpose"):
            return ints_attribute(reader, "perm") == self.order
        return reduction_of_turned(reader, self.order, lambda value: value) is not None

    @property
    def _ends(self) -> dict[ir.Node, ir.Value]:
        """The readers that need no other order, with what they read."""
        return {reader: value for value, reader in self._readers() if self._is_end(reader)}

    @property
    def _leaks(self) -> dict[ir.Value, None]:
        """The results that are needed in the order that they have now."""
        leaks = {value: None for value, reader in self._readers() if not self._is_end(reader)}
        outputs = [value for node in self.members for value in node.outputs]
        return leaks | {value: None for value in outputs if value.is_graph_output()}

    @property
    def gain(self) -> int:
        """How many Transposes fewer there are without those of this region."""
        undone = [
            value
            for value in self.transposes
            if not value.is_graph_output() and all(use.node in self.members for use in value.uses())
        ]
        ends = [reader for reader in self._ends if is_op(reader, "Transpose")]
        return len(undone) + len(ends) - len(self._strangers) - len(self._leaks)

    def replaced(self) -> Replace:
        """Return all that is computed from now on."""
        transposes, ends = self.transposes, self._ends
        made: dict[ir.Value, Operand] = {v: each.inputs[0] for v, each in transposes.items()}
        made |= {value: _transpose(value, self.order) for value in self._strangers}
        for node in self.members:
            made[node.outputs[0]] = turned_op(node, self.order, made.__getitem__)
        outputs: dict[ir.Value, ir.Value | Op] = {}
        for reader, value in ends.items():
            result = made[value]
            if not is_op(reader, "Transpose"):
                result = reduction_of_turned(reader, self.order, made.__getitem__)
            assert isinstance(result, Op)
            outputs[reader.outputs[0]] = result
        for value in self._leaks:
            back = ir.AttrInt64s("perm", inverse(self.order))
            outputs[value] = Op("Transpose", [made[value]], [back])
        nodes = [*dict.fromkeys(transposes.values()), *self.members, *ends]
        exactness = Exactness.ROUNDED if any("Reduce" in n.op_type for n in nodes) else None
        detail = f"{self.gain} Transposes less"
        return Replace(nodes, outputs, detail, exactness)


def _transpose(value: ir.Value, order: Order) -> Op:
    shape = turned_shape(value, order)
    return Op("Transpose", [value], [ir.AttrInt64s("perm", order)], None, shape, value)
