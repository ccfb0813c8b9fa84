"""Moves a per-channel affine map through the graph until linear operators absorb it.

`absorb_into_producers` moves it upstream: through pools, reshapes and other maps, and into every
branch of a Concat or an Add, up to the operators whose output channels absorb it.
`absorb_into_consumers` moves it downstream, into every operator that reads the map's result;
`absorb_scale_into_consumers` only its scale.

Both only read the graph, and return expressions for the values to replace. They are all or nothing:
if one branch or reader cannot absorb its part, they refuse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine import NOT_AFFINE, Affine, affine_map
from bnfold.algebra.carry import CARRIERS, NOT_CARRIED, carry
from bnfold.algebra.carry_moving import of_what_is_picked
from bnfold.algebra.carrying import Direction, NotCarried
from bnfold.algebra.linear import CONSUMERS, NOT_ABSORBED, PRODUCERS, NotAbsorbed, data_input
from bnfold.algebra.parts import divided, joined, require_few_parts
from bnfold.algebra.reach import (
    NotReached,
    dead_end_after,
    dead_end_before,
    is_picked_from,
    is_product,
    is_read_once,
    is_sum,
    is_weight,
    mapped_input,
    reached_after,
)
from bnfold.algebra.weights import NotStorable, stored
from bnfold.rewriting.contract import (
    Common,
    Op,
    Operand,
    Output,
    Refused,
    Replace,
    Weight,
    every_operand,
    require,
    same_op,
)
from bnfold.rewriting.query import (
    constant,
    is_op,
    is_used,
    opset,
    rank_of,
    reads_content,
    shape_of,
    sole_use,
)

Made: TypeAlias = Op | Output | Weight
Outputs: TypeAlias = dict[ir.Value, ir.Value | Made]
_Step = Callable[[ir.Node, Affine], Made]


NOT_REACHED = (*NotReached, Common.NO_GAIN, Common.SHAPE_UNKNOWN, Common.SHARED)
"""All reasons of the search itself."""

NOT_FOLDED = tuple(
    dict.fromkeys([*NOT_AFFINE, *NOT_REACHED, *NOT_CARRIED, *NOT_ABSORBED, *NotStorable])
)
"""All reasons of `absorb_into_producers` and `absorb_into_consumers`."""


def absorb_into_producers(root: ir.Node) -> Replace:
    """Return the replacement that folds an affine map into the operators before it.

    Raises:
        Refused: if `root` is not affine, or an upstream operator neither carries nor absorbs it.
    """
    affine, index = affine_map(root)
    data = root.inputs[index]
    require(data is None or not is_weight(data), Common.NO_GAIN)  # it can be evaluated
    dead_end = dead_end_before(root)
    if dead_end is not None:
        raise dead_end.refused()
    search = _IntoProducers()
    expression = search.of(data, affine, root)
    pattern = [*search.nodes, root]
    search.outputs[root.outputs[0]] = expression
    return _profitable(pattern, search.outputs, f"into {', '.join(sorted(search.absorbers))}")


class _IntoProducers:
    """The upstream search. It collects the nodes that it passes, in graph order.

    Nodes that only read the shape or type of a value on the way do not block it: both stay.
    """

    def __init__(self) -> None:
        self.outputs: Outputs = {}
        self.absorbers: set[str] = set()
        self._passed: dict[ir.Node, None] = {}

    @property
    def nodes(self) -> list[ir.Node]:
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
            made = _typed(made, node)
        self._passed[node] = None
        if is_op(node, "Split"):
            assert isinstance(made, Op)
            parts = _results(node, made)
            made = parts.pop(value)
            self._replace(parts)
        for other in others:
            rebuilt = _typed(same_op(other, [made, *other.inputs[1:]]), other)
            self._replace(_results(other, rebuilt))
            self._passed[other] = None
        if len(value.uses()) > 1 + len(others):
            self.outputs[value] = made  # of the same shape and type, all that they read
        return made

    def _replace(self, results: Mapping[ir.Value, Made]) -> None:
        self.outputs |= {old: new for old, new in results.items() if is_used(old)}

    def _step(self, node: ir.Node) -> _Step:
        if node.domain == "":
            if node.op_type in PRODUCERS:
                return self._absorb
            if node.op_type in CARRIERS:
                return self._carry
            if node.op_type == "Concat":
                return self._concat
            if node.op_type == "Split":
                return self._split
            if node.op_type in ("Add", "Sub", "Sum", "Mul", "Div"):
                return self._arithmetic
        raise Refused(NotReached.NOT_LINEAR, node, node.op_type)

    def _absorb(self, node: ir.Node, affine: Affine) -> Op:
        self.absorbers.add(node.op_type)
        return PRODUCERS[node.op_type](affine, node)

    def _carry(self, node: ir.Node, affine: Affine) -> Op:
        data = node.inputs[0]
        is_part = is_op(node, "Gather", "Slice") and data is not None and not is_read_once(data)
        if is_part and affine.is_uniform:
            moved = of_what_is_picked(affine, node)
        else:
            moved = carry(affine, node, Direction.TO_INPUT)
        return same_op(node, [self.of(data, moved, node), *node.inputs[1:]])

    def _concat(self, node: ir.Node, affine: Affine) -> Op:
        maps = divided(affine, node)
        branches = zip(node.inputs, maps, strict=True)
        return same_op(node, [self.of(value, part, node) for value, part in branches])

    def _split(self, node: ir.Node, affine: Affine) -> Op:
        data = self.of(node.inputs[0], affine, node)
        return same_op(node, [data, *node.inputs[1:]])

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
        first, *others = node.inputs
        branches: list[Operand] = [self.of(first, affine, node)]
        branches += [self.of(value, affine.without_shift(), node) for value in others]
        return same_op(node, branches)


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
        require(all(each.is_identity for each in maps), Common.SHARED, node)
    return others


def _mapped(value: ir.Value, affine: Affine, reader: ir.Node) -> Weight:
    """Return a constant of which each element is mapped."""
    content = constant(value)
    assert content is not None
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


def _typed(op: Op, node: ir.Node) -> Op:
    """Return an operator that computes the output of a node, or all those of a Split."""
    output, count = node.outputs[0], len(node.outputs) if is_op(node, "Split") else op.outputs
    return dataclasses.replace(op, shape=shape_of(output), type_of=output, outputs=count)


def _results(node: ir.Node, made: Op) -> dict[ir.Value, Op | Output]:
    """Return what takes the place of each output of a node, of which `made` is the new one."""
    outputs = node.outputs[: made.outputs]
    return {old: Output(made, i, old) if i else made for i, old in enumerate(outputs)}


def absorb_into_consumers(root: ir.Node) -> Replace:
    """Return the replacement that folds an affine map into the operators after it.

    Raises:
        Refused: if `root` is not affine, or a downstream operator neither carries nor absorbs it.
    """
    affine, index = affine_map(root)
    dead_end = dead_end_after(root.outputs[0])
    if dead_end is not None:
        raise dead_end.refused()
    search = _IntoConsumers(root.outputs[0])
    search.readers_of(root.outputs[0], affine, root.inputs[index])
    pattern = [root, *search.nodes]
    absorbers = ", ".join(sorted(search.absorbers))
    return _profitable(pattern, search.outputs, f"into the following {absorbers}")


def absorb_scale_into_consumers(root: ir.Node) -> Replace:
    """Return the replacement that folds the scale of a chain of affine maps, and leaves one Add.

    W·(s·x + t) + b = (W·s)·(x + t/s) + b for s ≠ 0, also where a Conv pads with zeros: they come
    after the Add, as before.

    Raises:
        Refused: if `root` is not affine, the chain has no shift, or a scale so small that t/s is
            not finite, or a downstream operator neither carries nor absorbs the scale.
    """
    affine, index = affine_map(root)
    dead_end = dead_end_after(root.outputs[0])
    if dead_end is not None:
        raise dead_end.refused()
    pattern = [root]
    while (reader := _sole_map_after(pattern[-1])) is not None:
        affine = affine_map(reader)[0].after(affine)
        pattern.append(reader)
    output, data = pattern[-1].outputs[0], root.inputs[index]
    require(len(pattern) > 1 and affine.has_shift and opset(root) >= 7, Common.NO_GAIN)
    search = _IntoConsumers(output)
    search.readers_of(output, affine.without_shift(), _shifted(data, affine, output, root))
    pattern += search.nodes
    return _profitable(pattern, search.outputs, f"scale into {', '.join(sorted(search.absorbers))}")


def _sole_map_after(node: ir.Node) -> ir.Node | None:
    """Return the only reader of what a node computes, if it is an affine map of it."""
    value = node.outputs[0]
    if not sole_use(value):
        return None
    (use,) = value.uses()
    return use.node if use.idx == mapped_input(use.node) else None


def _shifted(data: ir.Value | None, affine: Affine, output: ir.Value, root: ir.Node) -> Op:
    """Return data + t/s, of the shape and type of the `output` of the whole map."""
    rank, dtype = rank_of(output), output.dtype
    if rank is None or dtype is None:
        raise Refused(Common.SHAPE_UNKNOWN, root)
    spread = affine.spread()
    with np.errstate(all="ignore"):  # values that are not finite are refused when stored
        shift = spread.shift / spread.scale
    shift = (
        shift.reshape(())
        if affine.is_uniform
        else shift.reshape(-1, *[1] * (rank - 1 - affine.axis))
    )
    weight = stored(shift, dtype, f"{output.name}.shift", root)
    return Op("Add", [data, weight], shape=shape_of(output), type_of=output)


class _IntoConsumers:
    """The downstream search. It collects the values to replace and the nodes that it passes."""

    def __init__(self, start: ir.Value) -> None:
        self.outputs: Outputs = {}
        self.nodes: list[ir.Node] = []
        self.absorbers: set[str] = set()
        self._start = start
        self._branches: dict[ir.Node, dict[int, tuple[Affine, Operand]]] = {}

    @cached_property
    def _reached(self) -> set[ir.Value]:
        return reached_after(self._start)

    def readers_of(self, value: ir.Value, affine: Affine, data: Operand) -> None:
        """Make all readers of `value`, i.e. ``affine(data)``, read `data` and absorb the map."""
        require(not value.is_graph_output(), NotReached.GRAPH_OUTPUT)
        uses = [use for use in value.uses() if reads_content(*use)]
        require(bool(uses), NotReached.READER_NOT_LINEAR)
        for reader, index in uses:
            require(reader.graph is value.graph, NotReached.OTHER_GRAPH, reader)
            self._reader(reader, index, affine, data)
        if len(uses) < len(value.uses()):
            assert isinstance(data, (ir.Value, Op, Output))
            self.outputs[value] = data  # of the same shape and type, all that the others read

    def _reader(self, node: ir.Node, index: int, affine: Affine, data: Operand) -> None:
        if is_op(node, "Concat"):
            self._concat(node, index, affine, data)
            return
        if is_op(node, "Split") and index == 0:
            self._split(node, affine, data)
            return
        known = node.domain == "" and index == data_input(node)
        self.nodes.append(node)
        if known and node.op_type in CONSUMERS:
            self.absorbers.add(node.op_type)
            absorbed = CONSUMERS[node.op_type](affine, node, data)
            self.outputs[node.outputs[0]] = absorbed
            others = enumerate(node.outputs[1:], 1)
            self.outputs |= {v: Output(absorbed, i) for i, v in others if is_used(v)}
        elif known and node.op_type in CARRIERS:
            moved = carry(affine, node, Direction.TO_OUTPUT)
            rebuilt = _typed(same_op(node, [data, *node.inputs[1:]]), node)
            self.readers_of(node.outputs[0], moved, rebuilt)
        elif index == mapped_input(node):
            self.readers_of(node.outputs[0], affine_map(node)[0].after(affine), data)
        elif is_product(node):
            self._product(node, index, affine, data)
        else:
            raise Refused(NotReached.READER_NOT_LINEAR, node, node.op_type)

    def _concat(self, node: ir.Node, index: int, affine: Affine, data: Operand) -> None:
        """Go on when the map has come in through all inputs that it reaches; others stay."""
        require_few_parts(node)
        branches = self._branches.setdefault(node, {})
        branches[index] = affine, data
        if len(branches) < sum(value in self._reached for value in node.inputs):
            return
        self.nodes.append(node)
        maps = [branches[i][0] if i in branches else None for i in range(len(node.inputs))]
        inputs = [branches[i][1] if i in branches else v for i, v in enumerate(node.inputs)]
        rebuilt = _typed(same_op(node, inputs), node)
        self.readers_of(node.outputs[0], joined(maps, node), rebuilt)

    def _split(self, node: ir.Node, affine: Affine, data: Operand) -> None:
        self.nodes.append(node)
        rebuilt = _typed(same_op(node, [data, *node.inputs[1:]]), node)
        results = _results(node, rebuilt).items()
        for (output, result), part in zip(results, divided(affine, node), strict=True):
            if is_used(output):
                self.readers_of(output, part, result)

    def _product(self, node: ir.Node, index: int, affine: Affine, data: Operand) -> None:
        """(s·x)·y = s·(x·y), if the other factor does not depend on the map, too."""
        require(not affine.has_shift, NotCarried.PRODUCT_SHIFT, node)
        require(self.nodes.count(node) == 1, NotReached.READER_NOT_LINEAR, node, node.op_type)
        own = node.inputs[index]
        if not affine.is_uniform:
            more = _rank(node) - len(_shape(own, node))
            affine = affine.along(affine.axis + more)
        factors: list[Operand] = list(node.inputs)
        factors[index] = data
        rebuilt = _typed(same_op(node, factors), node)
        self.readers_of(node.outputs[0], affine, rebuilt)


def _profitable(pattern: list[ir.Node], outputs: Outputs, detail: str) -> Replace:
    """Require fewer operators, or as many with an Add in place of a BatchNormalization.

    An Add before another map is none: they become one.
    """
    before = [node.op_type for node in pattern]
    after = _operators(outputs)
    is_cheaper = after.count("BatchNormalization") < before.count("BatchNormalization")
    gain = len(before) - len(after) + sum(_is_merged(*each) for each in outputs.items())
    require(gain > 0 or (gain == 0 and is_cheaper), Common.NO_GAIN)
    return Replace(pattern, outputs, detail)


def _is_merged(value: ir.Value, operand: ir.Value | Made) -> bool:
    """Say whether an Add takes the place of a MatMul's result, and a map is all that reads it."""
    node = value.producer()
    if node is None or node.op_type != "MatMul" or _sole_map_after(node) is None:
        return False
    return isinstance(operand, Op) and operand.op_type == "Add"


def _operators(outputs: Outputs) -> list[str]:
    return [each.op_type for each in every_operand(outputs.values()) if isinstance(each, Op)]


def _rank(node: ir.Node) -> int:
    rank = rank_of(node.outputs[0])
    if rank is None:
        raise Refused(Common.SHAPE_UNKNOWN, node)
    return rank


def _shape(value: ir.Value | None, subject: ir.Node) -> ir.Shape:
    shape = shape_of(value)
    if shape is None:
        raise Refused(Common.SHAPE_UNKNOWN, subject)
    return shape
