"""The search for the operators after an affine map that absorb it."""

from __future__ import annotations

from functools import cached_property

import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import Affine, affine_map
from bnfold.algebra.affine_maps.carry import CARRIERS, carry
from bnfold.algebra.affine_maps.carrying import Direction, NotCarried
from bnfold.algebra.affine_maps.casting import CASTS, holds
from bnfold.algebra.affine_maps.consumers import CONSUMERS
from bnfold.algebra.affine_maps.linear import data_input
from bnfold.algebra.affine_maps.parts import divided, joined, require_few_parts
from bnfold.algebra.affine_maps.reach import NotReached, is_product, mapped_input, reached_after
from bnfold.algebra.affine_maps.rebuilding import Outputs, replacements, typed
from bnfold.rewriting.contract import Common, Op, Operand, Output, Refused, require, same_op
from bnfold.rewriting.query import is_op, is_used, rank_of, reads_content, shape_of


class IntoConsumers:
    """The downstream search. It collects the values to replace and the nodes that it passes.

    What they read instead has all of its numbers in the type `dtype`.
    """

    def __init__(self, start: ir.Value, dtype: ir.DataType | None) -> None:
        self.outputs: Outputs = {}
        self.nodes: list[ir.Node] = []
        self.absorbers: set[str] = set()
        self._start = start
        self._type = dtype
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
            if is_op(node, *CASTS):
                is_wide = holds(node.outputs[0].dtype, self._type)
                require(is_wide, NotCarried.NARROWER_TYPE, node)
            rebuilt = typed(same_op(node, [data, *node.inputs[1:]]), node)
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
        rebuilt = typed(same_op(node, inputs), node)
        self.readers_of(node.outputs[0], joined(maps, node), rebuilt)

    def _split(self, node: ir.Node, affine: Affine, data: Operand) -> None:
        self.nodes.append(node)
        rebuilt = typed(same_op(node, [data, *node.inputs[1:]]), node)
        results = replacements(node, rebuilt).items()
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
        rebuilt = typed(same_op(node, factors), node)
        self.readers_of(node.outputs[0], affine, rebuilt)


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
