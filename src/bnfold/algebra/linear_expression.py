"""A sum of Convs, averages and per-channel maps of one value, in a row or parallel, as one Conv.

Call x what all operands of a sum are computed from, or some of them: x may have branches beside
something else in a sum, in any order. Each value between x and the sum has a normal form, a
`Convolution` of x: x itself is one tap of 1; a per-channel map scales the kernel and shifts the
bias; operators in a row are composed; sums and differences of aligned kernels are their sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine import affine_map
from bnfold.algebra.composition import composed, composed_shape, fills_a_window, is_exact
from bnfold.algebra.convolution import Convolution
from bnfold.algebra.operators import (
    NotOneConv,
    average_of,
    convolution_of,
    is_cheaper,
    picks_positions,
    subsampling_of,
)
from bnfold.algebra.reach import mapped_input
from bnfold.graph.memory import memory
from bnfold.rewriting.contract import Common, require
from bnfold.rewriting.query import input_of, is_op, size_of

_MOST = 32
"""Operators in an expression: enough for any block, and each sum is searched in constant time."""

_CONVS = ("Conv", "ConvTranspose")
_KERNELS = (*_CONVS, "AveragePool", "MaxPool", "Slice")


@dataclass(frozen=True)
class LinearExpression:
    """The operators between a value and a sum that is linear in it, in order."""

    data: ir.Value
    nodes: list[ir.Node]
    addends: frozenset[ir.Value] | None = None
    """What it is the sum of, if the operators of the sum add up something else, too."""

    @staticmethod
    def beside_others(root: ir.Node) -> list[tuple[LinearExpression, list[ir.Value]]]:
        """Return what is a Conv of some addends of a sum of sums, each with what else is added.

        First all addends that are linear in one value; then each Conv with those that are none.
        """
        tree, addends = _sum_of_sums(root)
        branches: dict[ir.Value, dict[ir.Value, list[ir.Node]]] = {}
        for value in addends:
            source, chain = _branch(value, tree)
            branches.setdefault(source, {})[value] = chain
        found = []
        for source, of_it in branches.items():
            convs = [value for value, chain in of_it.items() if any(map(_is_conv, chain))]
            rest = [value for value in of_it if value not in convs]
            choices = [list(of_it), *([conv, *rest] for conv in convs if rest and len(convs) > 1)]
            for chosen in choices if convs and len(of_it) > 1 else []:
                chains = [node for value in chosen for node in reversed(of_it[value])]
                expression = LinearExpression(source, [*chains, *tree], frozenset(chosen))
                found.append((expression, [value for value in addends if value not in chosen]))
        return [(expression, others) for expression, others in found if others]

    @staticmethod
    def of(root: ir.Node) -> LinearExpression | None:
        """Return the smallest expression of a sum that holds a Conv, or None if there is none.

        It goes back from the sum, past values that only the expression reads, until all that is
        left to go back from is one value.

        Raises:
            Refused: SHARED, if it is an expression but for another reader of a value within it.
        """
        if mapped_input(root) is not None or any(value is None for value in root.inputs):
            return None
        frontier = dict.fromkeys(value for value in root.inputs if value is not None)
        nodes: dict[ir.Node, None] = {root: None}
        shared: ir.Node | None = None
        while len(frontier) > 1 and len(nodes) < _MOST:
            value = next((v for v in reversed(frontier) if _is_within(v, nodes)), None)
            if value is None:
                value = next((v for v in frontier if _is_between(v, frontier, root.graph)), None)
                shared = shared or (value.producer() if value is not None else None)
            node = value.producer() if value is not None else None
            if value is None or node is None:
                return None
            del frontier[value]
            nodes[node] = None
            frontier.update(dict.fromkeys(_operands(node)))
        if len(frontier) > 1 or not any(is_op(node, *_CONVS) for node in nodes):
            return None
        require(shared is None, Common.SHARED, shared)
        return LinearExpression(next(iter(frontier)), list(reversed(nodes)))

    @property
    def branches(self) -> int:
        """How many branches its last operator adds up, or all of them."""
        return len(self.nodes[-1].inputs if self.addends is None else self.addends)

    @property
    def conv(self) -> ir.Node:
        """The first Conv or ConvTranspose."""
        return next(node for node in self.nodes if is_op(node, *_CONVS))

    @property
    def result(self) -> ir.Value:
        """The value of the sum."""
        return self.nodes[-1].outputs[0]

    def normal_form(self) -> Convolution:
        """Return the Conv of `data` that computes the result, if it costs no more.

        Raises:
            Refused: with a reason from `NOT_ONE_CONV`.
        """
        return _NormalForm(self).of_result()


def _sum_of_sums(root: ir.Node) -> tuple[list[ir.Node], list[ir.Value]]:
    """Return the operators that add up more than one value to a sum, in order, and the addends.

    Nothing, if it is itself an addend of a larger one, or the same value is added twice.
    """
    if not _adds(root) or _is_addend(root.outputs[0]):
        return [], []
    tree, addends = [root], []
    pending = [value for value in reversed(root.inputs) if value is not None]
    while pending and len(tree) < _MOST:
        value = pending.pop()
        node = value.producer()
        if node is not None and _adds(node) and _is_addend(value):
            tree.append(node)
            pending += [each for each in reversed(node.inputs) if each is not None]
        else:
            addends.append(value)
    if pending or len(addends) < 3 or len({*addends}) < len(addends):
        return [], []
    return tree[::-1], addends


def _adds(node: ir.Node) -> bool:
    return is_op(node, "Add", "Sum") and mapped_input(node) is None and None not in node.inputs


def _is_addend(value: ir.Value) -> bool:
    """Say whether nothing but one sum of the same graph reads the value, once."""
    node, readers = value.producer(), [use.node for use in value.uses()]
    if len(readers) != 1 or value.is_graph_output() or node is None:
        return False
    return node.graph is readers[0].graph and _adds(readers[0])


def _branch(value: ir.Value, tree: Sequence[ir.Node]) -> tuple[ir.Value, list[ir.Node]]:
    """Return what an addend is computed from by linear operators in a row, and these, from it on.

    Nothing else reads values within the branch.
    """
    nodes = dict.fromkeys(reversed(tree))
    chain: list[ir.Node] = []
    while len(chain) < _MOST and _is_within(value, nodes):
        node = value.producer()
        if node is None or len(_operands(node)) != 1:
            break
        nodes[node] = None
        chain.append(node)
        (value,) = _operands(node)
    return value, chain


def _is_conv(node: ir.Node) -> bool:
    return is_op(node, *_CONVS)


def _is_within(value: ir.Value, nodes: Mapping[ir.Node, None]) -> bool:
    """Say whether a linear operator computes the value, and only these nodes read it."""
    node, root = value.producer(), next(iter(nodes))
    if node is None or node.graph is not root.graph or not _is_linear(node):
        return False
    widely_read: dict[ir.Value, bool] = memory().answers("widely read")
    if value.is_graph_output() or value in widely_read:
        return False
    uses = value.uses()
    if len(uses) > _MOST:
        widely_read[value] = True
        return False
    return all(use.node in nodes for use in uses)


def _is_between(value: ir.Value, others: Mapping[ir.Value, None], graph: object) -> bool:
    """Say whether a linear operator computes the value from other ones of these alone."""
    node = value.producer()
    if node is None or node.graph is not graph or not _is_linear(node):
        return False
    return all(operand in others and operand is not value for operand in _operands(node))


def _is_linear(node: ir.Node) -> bool:
    if is_op(node, *_KERNELS):
        is_kernel = not is_op(node, "MaxPool", "Slice") or picks_positions(node)
        return is_kernel and input_of(node, 0) is not None
    if is_op(node, "Add", "Sub", "Sum") and len(node.inputs) > 0 and None not in node.inputs:
        return True
    return mapped_input(node) is not None


def _operands(node: ir.Node) -> list[ir.Value]:
    """Return the values that a linear operator reads, weights and constants aside."""
    index = 0 if is_op(node, *_KERNELS) else mapped_input(node)
    operands = node.inputs if index is None else node.inputs[index : index + 1]
    return [value for value in operands if value is not None]


class _NormalForm:
    """The values of an expression as Convs of one value, one after another."""

    def __init__(self, expression: LinearExpression) -> None:
        self._expression = expression
        self._data, self._result = expression.data, expression.result
        self._operators = self._read()
        like = self._operators[expression.conv]
        self._sizes = [size_of(self._data, axis + 2) for axis in range(len(like.size))]
        self._identity = Convolution.identity(like.input_channels, like)
        self._forms = {self._data: self._identity}
        self._runs_on_less: set[ir.Value] = set()
        """Values that there are where a Conv of that form would fail; see `fills_a_window`."""

    def of_result(self) -> Convolution:
        for node in self._expression.nodes:
            if not self._operands(node):
                continue
            self._forms[node.outputs[0]] = self._of(node)
            if self._may_run_on_less(node):
                self._runs_on_less.add(node.outputs[0])
        require(self._result not in self._runs_on_less, NotOneConv.SMALLER_THAN_WINDOW)
        form = self._forms[self._result]
        cut = (*form.before, *(() if form.transposed else form.after))
        require(min(cut) >= 0, NotOneConv.NOT_ALIGNED)
        return form

    def _operands(self, node: ir.Node) -> list[ir.Value]:
        """Return the operands that have a form: all, but for what else is added up."""
        addends = self._expression.addends
        operands = _operands(node)
        if addends is None or not _adds(node):
            return operands
        return [value for value in operands if value in addends or value in self._sums]

    @cached_property
    def _sums(self) -> set[ir.Value]:
        """The sums of addends that have a form, with others among them or not."""
        addends = self._expression.addends or frozenset()
        found: set[ir.Value] = set()
        for node in self._expression.nodes:
            if _adds(node) and any(value in addends or value in found for value in node.inputs):
                found.add(node.outputs[0])
        return found

    def _read(self) -> dict[ir.Node, Convolution]:
        """Read the operators that have a kernel; the first Conv tells the channels of the data."""
        conv = self._expression.conv
        like = convolution_of(conv)
        channels = {self._data: like.input_channels}
        operators = {}
        for node in self._expression.nodes:
            operands, output = self._operands(node), node.outputs[0]
            if not operands:
                continue
            data = operands[0]
            channels[output] = channels[data]
            if is_op(node, *_KERNELS):
                operator = operators[node] = _kernel_of(node, channels[data], like)
                fits = operator.input_channels == channels[data]
                require(fits, NotOneConv.NOT_ALIGNED, node)
                channels[output] = operator.output_channels
        return operators

    @cached_property
    def _before(self) -> list[tuple[Convolution, float]]:
        """The operators, and how many positions they compute for one of the result."""
        shares = {self._result: 1.0}
        for node in reversed(self._expression.nodes):
            share = shares[node.outputs[0]]
            if node in self._operators:
                share *= math.prod(self._operators[node].strides)
            for value in _operands(node):
                shares[value] = share
        return [(each, shares[node.outputs[0]]) for node, each in self._operators.items()]

    def _of(self, node: ir.Node) -> Convolution:
        forms = [self._forms[value] for value in self._operands(node)]
        if node in self._operators:
            return self._in_a_row(node, self._operators[node], forms[0])
        if mapped_input(node) is not None:
            return _mapped(node, forms[0])
        return self._sum(node, forms)

    def _may_run_on_less(self, node: ir.Node) -> bool:
        """Say whether the operator runs on a map where a Conv would fail: a sum, if all do."""
        operands = self._operands(node)
        if all(value in self._runs_on_less for value in operands):
            return True
        if not is_op(node, "AveragePool"):
            return False
        return not fills_a_window(self._operators[node], self._forms[operands[0]], self._sizes)

    def _in_a_row(self, node: ir.Node, second: Convolution, first: Convolution) -> Convolution:
        if first is self._identity:
            return second
        require(not (first.transposed or second.transposed), NotOneConv.NOT_ALIGNED, node)
        require(is_exact(second, first, self._sizes), NotOneConv.PADDED_BETWEEN, node)
        self._require_cheaper(composed_shape(second, first), node)
        return composed(second, first)

    def _sum(self, node: ir.Node, forms: Sequence[Convolution]) -> Convolution:
        total, *others = forms
        sign = -1 if is_op(node, "Sub") else 1
        for other, value in zip(others, self._operands(node)[1:], strict=True):
            subject = node if value is self._data else value.producer()
            require(total.strides == other.strides, NotOneConv.OTHER_STRIDES, subject)
            require(total.lies_over(other), NotOneConv.NOT_ALIGNED, subject)
            self._require_cheaper(total.sum_shape(other), self._expression.conv)
            total = total.plus(other, sign)
        return total

    def _require_cheaper(self, shape: Sequence[int], subject: ir.Node) -> None:
        is_affordable = is_cheaper(shape, self._before, self._result)
        require(is_affordable, NotOneConv.COSTLIER, subject)


def _kernel_of(node: ir.Node, channels: int, like: Convolution) -> Convolution:
    if is_op(node, *_CONVS):
        return convolution_of(node)
    if is_op(node, "AveragePool"):
        return average_of(node, channels, like)
    return subsampling_of(node, channels, like)


def _mapped(node: ir.Node, form: Convolution) -> Convolution:
    """Return a per-channel map of a form, if its channels are that form's."""
    affine, _ = affine_map(node)
    channels = form.output_channels
    fits = affine.is_uniform or (affine.axis == 1 and affine.channels == channels)
    require(fits, NotOneConv.NOT_ALIGNED, node)
    affine = affine.spread()
    scale, shift = (np.broadcast_to(values, channels) for values in (affine.scale, affine.shift))
    return form.mapped(scale, shift)
