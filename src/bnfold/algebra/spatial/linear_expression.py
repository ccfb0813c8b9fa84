"""A sum of Convs, averages and per-channel maps of one value, in a row or parallel, as one Conv.

Call x what all operands of a sum are computed from, or some of them: x may have branches beside
something else in a sum, in any order. Each value between x and the sum has a normal form, a
`Convolution` of x: x itself is one tap of 1; a per-channel map scales the kernel and shifts the
bias; operators in a row are composed; sums and differences of aligned kernels are their sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import affine_map
from bnfold.algebra.affine_maps.reach import mapped_input
from bnfold.algebra.spatial.composition import composed, composed_shape, fills_a_window, is_exact
from bnfold.algebra.spatial.convolution import Convolution
from bnfold.algebra.spatial.operators import (
    NotOneConv,
    average_of,
    convolution_of,
    is_cheaper,
    subsampling_of,
)
from bnfold.rewriting.contract import require
from bnfold.rewriting.query import is_op, size_of

CONVS = ("Conv", "ConvTranspose")
KERNELS = (*CONVS, "AveragePool", "MaxPool", "Slice")


@dataclass(frozen=True)
class LinearExpression:
    """The operators between a value and a sum that is linear in it, in order."""

    data: ir.Value
    nodes: list[ir.Node]
    addends: frozenset[ir.Value] | None = None
    """What it is the sum of, if the operators of the sum add up something else, too."""

    @property
    def branches(self) -> int:
        """How many branches its last operator adds up, or all of them."""
        return len(self.nodes[-1].inputs if self.addends is None else self.addends)

    @property
    def conv(self) -> ir.Node:
        """The first Conv or ConvTranspose."""
        return next(node for node in self.nodes if is_op(node, *CONVS))

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


def adds_up(node: ir.Node) -> bool:
    """Say whether a node adds up values, of which none is a constant."""
    return is_op(node, "Add", "Sum") and mapped_input(node) is None and None not in node.inputs


def operands_of(node: ir.Node) -> list[ir.Value]:
    """Return the values that a linear operator reads, weights and constants aside."""
    index = 0 if is_op(node, *KERNELS) else mapped_input(node)
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
        operands = operands_of(node)
        if addends is None or not adds_up(node):
            return operands
        return [value for value in operands if value in addends or value in self._sums]

    @cached_property
    def _sums(self) -> set[ir.Value]:
        """The sums of addends that have a form, with others among them or not."""
        addends = self._expression.addends or frozenset()
        found: set[ir.Value] = set()
        for node in self._expression.nodes:
            if adds_up(node) and any(value in addends or value in found for value in node.inputs):
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
            if is_op(node, *KERNELS):
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
            for value in operands_of(node):
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
    if is_op(node, *CONVS):
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
