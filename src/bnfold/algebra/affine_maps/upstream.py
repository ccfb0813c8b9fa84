"""The search for the operators and constants before an affine map that absorb it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import Affine, affine_map
from bnfold.algebra.affine_maps.carry import CARRIERS, carry, may_shrink
from bnfold.algebra.affine_maps.carry_moving import of_what_is_picked
from bnfold.algebra.affine_maps.carrying import Direction, NotCarried, known_rank
from bnfold.algebra.affine_maps.casting import CASTS, holds, stays_in_range, type_kept_of, widens
from bnfold.algebra.affine_maps.linear import NotAbsorbed, data_input
from bnfold.algebra.affine_maps.parts import divided, joined, require_few_parts
from bnfold.algebra.affine_maps.producers import PRODUCERS
from bnfold.algebra.affine_maps.reach import (
    CHOOSING,
    NotReached,
    is_picked_from,
    is_read_once,
    is_sum,
    is_weight,
    mapped_input,
)
from bnfold.algebra.affine_maps.rebuilding import Made, Outputs, plus_shift, replacements, typed
from bnfold.algebra.weights import stored
from bnfold.graph.constants import is_constant, is_overridable
from bnfold.rewriting.contract import Common, Op, Operand, Refused, Weight, require, same_op
from bnfold.rewriting.query import (
    constant,
    is_op,
    is_used,
    opset,
    rank_of,
    reads_content,
    size_of,
)

_Step = Callable[[ir.Node, Affine], Made]


class IntoProducers:
    """The upstream search. It collects the nodes that it passes, in graph order.

    Nodes that only read the shape or type of a value on the way do not block it: both stay.
    """

    def __init__(self, result: ir.Value) -> None:
        self.outputs: Outputs = {}
        self.absorbers: set[str] = set()
        self._type = type_kept_of(result)
        self._passed: dict[ir.Node, None] = {}
        self._shrinks = False
        """Whether a result may be in range where what it is computed from is not."""

    @property
    def nodes(self) -> list[ir.Node]:
        """The nodes of the pattern so far."""
        return list(self._passed)

    def of(self, value: ir.Value | None, affine: Affine, reader: ir.Node) -> Made:
        """Return an expression for ``affine(value)``; only `reader` may read what it changes."""
        if value is not None and is_weight(value):
            self.absorbers.add("a constant")
            return _mapped(value, affine, reader)
        node = value.producer() if value is not None else None
        if value is None or node is None:
            raise Refused(NotReached.GRAPH_INPUT, reader)
        require(node.graph is reader.graph, NotReached.OTHER_GRAPH, node)
        step = self._step(node)
        require(node not in self._passed, Common.SHARED, node)
        others = _readers_of_the_rest(value, affine, reader)
        if is_op(node, "Split"):
            require_few_parts(node)
            affine = joined([affine if part is value else None for part in node.outputs], node)
        made = step(node, affine)
        if isinstance(made, Op) and made.type_of is None:  # else it is what another node became
            made = typed(made, node)
        self._passed[node] = None
        if is_op(node, "Split"):
            assert isinstance(made, Op)
            parts = replacements(node, made)
            made = parts.pop(value)
            self._replace(parts)
        for other in others:
            rebuilt = typed(same_op(other, [made, *other.inputs[1:]]), other)
            self._replace(replacements(other, rebuilt))
            self._passed[other] = None
        if len(value.uses()) > 1 + len(others):
            self.outputs[value] = made  # of the same shape and type, all that they read
        return made

    def _replace(self, results: Mapping[ir.Value, Made]) -> None:
        self.outputs |= {old: new for old, new in results.items() if is_used(old)}

    def _step(self, node: ir.Node) -> _Step:
        if node.domain == "":
            if node.op_type == "MatMul":
                return self._matmul
            if node.op_type in PRODUCERS:
                return self._absorb
            if node.op_type in CARRIERS:
                return self._carry
            if node.op_type == "Concat":
                return self._concat
            if node.op_type == "Split":
                return self._split
            if node.op_type in CHOOSING:
                return self._choice
            if node.op_type in ("Add", "Sub", "Sum", "Mul", "Div"):
                return self._arithmetic
        raise Refused(NotReached.NOT_LINEAR, node, node.op_type)

    def _absorb(self, node: ir.Node, affine: Affine) -> Op:
        self.absorbers.add(node.op_type)
        return PRODUCERS[node.op_type](affine, node)

    def _matmul(self, node: ir.Node, affine: Affine) -> Op:
        """Absorb, or A(s, t)(P·x) = P·(s·x) + t where P is constant, and channels the columns of x.

        Likewise A(s, t)(x·P) where they are the rows of x, and both where each is a matrix of x.
        """
        index, rank = data_input(node), known_rank(node.outputs[0], node)
        data, other = node.inputs[index], node.inputs[1 - index]
        axis = affine.axis - rank
        ranks = rank_of(data) or 0, rank_of(other) or 0
        is_of_data = axis == (-1 if index else -2) or ranks[1] < -axis
        is_known = min(ranks) >= 2 and (is_constant(other) or is_overridable(other))
        if affine.is_uniform or not (is_of_data and is_known) or opset(node) < 7:
            return self._absorb(node, affine)
        self._shrinks = True
        inputs = list[Operand](node.inputs)
        inputs[index] = self.of(data, _of_operand(affine.without_shift(), data, node), node)
        product = typed(same_op(node, inputs), node)
        return plus_shift(product, affine, node.outputs[0], node) if affine.has_shift else product

    def _carry(self, node: ir.Node, affine: Affine) -> Op:
        data = node.inputs[0]
        is_part = is_op(node, "Gather", "Slice") and data is not None and not is_read_once(data)
        if is_part and affine.is_uniform:
            moved = of_what_is_picked(affine, node)
        else:
            moved = carry(affine, node, Direction.TO_INPUT)
        self._shrinks |= may_shrink(node)
        if is_op(node, *CASTS):
            is_wide = data is not None and holds(data.dtype, self._type)
            require(is_wide, NotCarried.NARROWER_TYPE, node)
            is_in_range = not self._shrinks or widens(node) or stays_in_range(moved, node)
            require(is_in_range, NotCarried.RANGE_EXCEEDED, node)
        return same_op(node, [self.of(data, moved, node), *node.inputs[1:]])

    def _concat(self, node: ir.Node, affine: Affine) -> Op:
        maps = divided(affine, node)
        branches = zip(node.inputs, maps, strict=True)
        return same_op(node, [self.of(value, part, node) for value, part in branches])

    def _split(self, node: ir.Node, affine: Affine) -> Op:
        data = self.of(node.inputs[0], affine, node)
        return same_op(node, [data, *node.inputs[1:]])

    def _choice(self, node: ir.Node, affine: Affine) -> Op:
        """Map all that is chosen from: A(c ? x : y) = c ? A(x) : A(y), and so for Max, if s ≥ 0."""
        first = CHOOSING[node.op_type]
        if first == 0:
            require(bool((affine.scale >= 0).all()), NotCarried.NEGATIVE_SCALE, node)
        choices = node.inputs[first:]
        is_mapped = any(value is None or not is_weight(value) for value in choices)
        require(is_mapped, NotReached.NOT_LINEAR, node, node.op_type)
        rank = known_rank(node.outputs[0], node)
        branches: list[Operand] = [*node.inputs[:first]]
        for value in choices:
            if value is not None and is_weight(value):
                own = affine.along(affine.axis - rank + known_rank(value, node))
                self.absorbers.add("a constant")
                branches.append(_mapped(value, own, node, repeats=True))
            else:
                branches.append(self.of(value, _of_operand(affine, value, node), node))
        return same_op(node, branches)

    def _arithmetic(self, node: ir.Node, affine: Affine) -> Made:
        """Compose with another affine map; else s·(x ± y) + t = (s·x + t) ± s·y."""
        index = mapped_input(node)
        if index is not None:
            try:
                joined = affine.after(affine_map(node)[0])
            except Refused as refused:
                raise Refused(NotReached.NOT_LINEAR, node, node.op_type) from refused
            return self.of(node.inputs[index], joined, node)
        require(is_sum(node), NotReached.NOT_LINEAR, node, node.op_type)
        self._shrinks = True
        maps = [affine, *[affine.without_shift()] * (len(node.inputs) - 1)]
        pairs = zip(node.inputs, maps, strict=True)
        branches = [(value, _of_operand(own, value, node)) for value, own in pairs]
        return same_op(node, [self.of(value, own, node) for value, own in branches])


def _of_operand(affine: Affine, value: ir.Value | None, node: ir.Node) -> Affine:
    """Return the map of an operand that may be broadcast, but not along the channels.

    Raises:
        Refused: BROADCAST, if it is.
    """
    rank = known_rank(node.outputs[0], node)
    own = affine.along(affine.axis - rank + known_rank(value, node))
    is_whole = own.is_uniform or size_of(value, max(own.axis, 0)) == own.channels
    require(is_whole and (own.is_uniform or own.axis >= 0), NotCarried.BROADCAST, node)
    return own


def _readers_of_the_rest(value: ir.Value, affine: Affine, reader: ir.Node) -> list[ir.Node]:
    """Return what reads other channels than those that the map changes for `reader`.

    Raises:
        Refused: SHARED, if anything else reads what it changes.
    """
    if is_read_once(value):
        return []
    node = value.producer()
    require(is_picked_from(value), Common.SHARED, node)
    others = [use.node for use in value.uses() if use.node is not reader and reads_content(*use)]
    for other in others:
        is_split = is_op(other, "Split")
        maps = divided(affine, other) if is_split else [carry(affine, other, Direction.TO_OUTPUT)]
        require(all(own.is_identity for own in maps), Common.SHARED, node)
    return others


def _mapped(value: ir.Value, affine: Affine, reader: ir.Node, *, repeats: bool = False) -> Weight:
    """Return a constant of which each element is mapped.

    One that the reader `repeats` along the channels gets them: its axes are those of the map from
    the last one back.
    """
    content = constant(value)
    assert content is not None
    if repeats and not affine.is_uniform:
        content = content.reshape(*[1] * -min(affine.axis, 0), *content.shape)
        affine = affine.along(max(affine.axis, 0))
        if content.shape[affine.axis] == 1:
            content = np.repeat(content, affine.channels, affine.axis)
    rank, axis, along = content.ndim, affine.axis, list[int]()
    if not affine.is_uniform:
        fits = axis < rank and content.shape[axis] == affine.channels
        require(fits, NotAbsorbed.CHANNELS_DIFFER, reader)
        affine, along = affine.spread(), [-1, *[1] * (rank - 1 - axis)]
    scale, shift = affine.scale.reshape(along), affine.shift.reshape(along)
    return stored(
        content,
        ir.DataType.from_numpy(content.dtype),
        f"{(value.name or '').removesuffix('.folded')}.folded",
        reader,
        axis if along else None,
        scale=scale,
        shift=shift if affine.has_shift else None,
    )
