"""Which lanes can go, and the same operators without them.

A lane can go if

    each operator where it starts can leave a filter out,
    it passes only operators that work on each channel by itself, and
    each operator that reads it can do without: its weights for the lane are zero, or the lane is
    a constant there, which moves into its bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.linear import data_input
from bnfold.algebra.affine_maps.reach import NotReached
from bnfold.algebra.channel_removal.channels import Channelwise
from bnfold.algebra.channel_removal.lanes import Concat, Lanes, Numbers, Role, operands_of
from bnfold.algebra.channel_removal.narrowing import LINEAR_OPERATORS, Linear, Mask, with_size
from bnfold.arrays import FloatArray
from bnfold.graph.constants import constant, is_overridable
from bnfold.rewriting.contract import Common, Op, Operand, Refusal, require, same_op
from bnfold.rewriting.query import is_op, shape_of

_LONGEST = 200
"""Maximum number of operators in a row that are rebuilt at once."""


class NotLeftOut(Refusal):
    """Why constant channels cannot go; see `NOT_LEFT_OUT` for all reasons."""

    BORDER = "their constant is not zero, and an operator that they pass pads them with zeros"
    CHANNELS_MIXED = "an operator that combines channels, or counts them, reads them"
    GROUPED = "a Conv reads or computes them in groups, which must stay equally large"
    INFINITE_CONSTANT = "their constant is infinite, or becomes so"
    OTHER_SOURCE = "they are combined with channels that cannot be left out"
    VARIES_LATER = "an operator combines them with what is not constant"


NOT_LEFT_OUT = (
    *NotLeftOut,
    NotReached.GRAPH_OUTPUT,
    NotReached.OTHER_GRAPH,
    NotReached.TOO_FAR,
    Common.WEIGHT_NOT_CONSTANT,
    Common.WEIGHT_OVERRIDABLE,
)
"""All reasons of this module."""


@dataclass(frozen=True, eq=False)
class Kept:
    """Lanes that must stay, and why."""

    lanes: Numbers
    reason: Refusal
    subject: ir.Node | None


class SpareLanes:
    """Finds out which lanes must stay, and leaves out others."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.kept: list[Kept] = []
        self._constants: dict[ir.Value, FloatArray] = {}
        if not lanes.is_even:
            self._keep(np.arange(lanes.count), NotLeftOut.CHANNELS_MIXED, None)
            return
        for value in lanes.numbers:
            self._require_known_ends(value)
        lost = np.full(lanes.count, -1)
        for place, (node, role) in enumerate(lanes.order):
            if node.outputs[0] in lanes.numbers:
                self._evaluate(node, role)
                self._note_lost(node, role, lost, place)
            if isinstance(role, Linear) and node.inputs[0] in lanes.numbers:
                self._require_readable(node, role, lost)

    @cached_property
    def required(self) -> Mask:
        """Return which lanes must stay; at least one of each value."""
        required = np.zeros(self.lanes.count, bool)
        for kept in self.kept:
            required[kept.lanes] = True
        for lanes in self.lanes.numbers.values():
            if not required[lanes].any():
                required[lanes[:1]] = True
        return required

    def narrowed(self, kept: Mask) -> tuple[list[ir.Node], dict[ir.Value, ir.Value | Op]]:
        """Return the operators that change, in order, and expressions for what they compute.

        Raises:
            Refused: TOO_FAR, or with a reason from `NotStorable`.
        """
        nodes: list[ir.Node] = []
        outputs: dict[ir.Value, ir.Value | Op] = {}
        narrow: dict[ir.Value | None, Op] = {}
        depths: dict[Op, int] = {}
        for node, role in self.lanes.order:
            output = node.outputs[0]
            before = [narrow[value] for value in node.inputs if value in narrow]
            stays = self._mask(output, kept)
            is_narrower = stays is not None and not stays.all()
            if not before and not is_narrower:
                continue
            op = self._rebuilt(node, role, [narrow.get(v, v) for v in node.inputs], kept)
            depths[op] = 1 + max((depths[source] for source in before), default=0)
            require(depths[op] <= _LONGEST, NotReached.TOO_FAR, node)
            nodes.append(node)
            (narrow if is_narrower else outputs)[output] = op
        return nodes, outputs

    # --- What must stay -------------------------------------------------------------------------

    def _keep(self, lanes: Numbers, reason: Refusal, subject: ir.Node | None) -> None:
        if lanes.size:
            self.kept.append(Kept(lanes, reason, subject))

    def _require_known_ends(self, value: ir.Value) -> None:
        """Keep the channels of a value where they start, or end, in what must have all of them."""
        lanes, source = self.lanes.numbers[value], value.producer()
        if source is None or value is not source.outputs[0] or self.lanes.role_of(source) is None:
            reason = NotLeftOut.GROUPED if _is_grouped(source) else NotLeftOut.OTHER_SOURCE
            self._keep(lanes, reason, source)
        if value.is_graph_output():
            self._keep(lanes, NotReached.GRAPH_OUTPUT, source)
        for node, index in value.uses():
            if node.graph is not value.graph:
                self._keep(lanes, NotReached.OTHER_GRAPH, node)
            elif not self._reads_apart(node, index):
                self._keep(lanes, _why_mixed(node), node)

    def _reads_apart(self, node: ir.Node, index: int) -> bool:
        """Say whether a node reads the channels at this input, and each by itself."""
        role = self.lanes.role_of(node)
        if isinstance(role, Channelwise):
            return index in role.operands
        return role is not None and (index == 0 or isinstance(role, Concat))

    def _evaluate(self, node: ir.Node, role: Role) -> None:
        """Find out which channels of the result are constant."""
        if isinstance(role, Linear):
            values = role.constants()
        elif isinstance(role, Concat):
            values = np.concatenate([self._constants_of(value) for value in node.inputs])
        else:
            values = role.constants([self._constants_of(v) for v in operands_of(node, role)])
        self._constants[node.outputs[0]] = values

    def _constants_of(self, value: ir.Value | None) -> FloatArray:
        assert value is not None
        return self._constants.get(value, np.full(self.lanes.numbers[value].size, np.nan))

    def _note_lost(self, node: ir.Node, role: Role, lost: Numbers, place: int) -> None:
        """Note for each lane the first operator after which it is no longer constant."""
        if not isinstance(role, Channelwise):
            return
        output = node.outputs[0]
        varies = ~np.isfinite(self._constants[output])
        for value in operands_of(node, role):
            known = np.repeat(np.isfinite(self._constants_of(value)), role.copies)
            lanes = self.lanes.numbers[output][known & varies]
            lost[lanes] = np.where(lost[lanes] < 0, place, lost[lanes])

    def _require_readable(self, node: ir.Node, role: Linear, lost: Numbers) -> None:
        """Keep what a linear operator reads, unless it is constant or without weight."""
        value = node.inputs[0]
        assert value is not None
        lanes, constants = self.lanes.numbers[value], self._constants_of(value)
        self._keep(lanes[np.isinf(constants)], NotLeftOut.INFINITE_CONSTANT, node)
        used = ~role.ignored()
        varying = lanes[np.isnan(constants) & used]
        for place in np.unique(lost[varying]):
            cause, its_role = self.lanes.order[place] if place >= 0 else (node, role)
            pads = isinstance(its_role, Channelwise) and its_role.pads
            reason = NotLeftOut.BORDER if pads else NotLeftOut.VARIES_LATER
            self._keep(varying[lost[varying] == place], reason, cause)
        if not role.takes_shifts:
            shifts = np.isfinite(constants) & (constants != 0) & used
            self._keep(lanes[shifts], NotLeftOut.BORDER, node)

    # --- Fewer lanes ----------------------------------------------------------------------------

    def _mask(self, value: ir.Value, kept: Mask) -> Mask | None:
        lanes = self.lanes.numbers.get(value)
        return None if lanes is None else kept[lanes]

    def _rebuilt(self, node: ir.Node, role: Role, operands: Sequence[Operand], kept: Mask) -> Op:
        output = node.outputs[0]
        stays = self._mask(output, kept)
        if isinstance(role, Linear):
            data = node.inputs[0]
            assert data is not None
            read, constants = self._mask(data, kept), self._constants.get(data)
            read = np.ones(role.inputs, bool) if read is None else read
            constants = np.full(role.inputs, np.nan) if constants is None else constants
            stays = np.ones(role.outputs, bool) if stays is None else stays
            op = role.narrowed(operands[0], read, constants, stays)
        elif isinstance(role, Channelwise):
            assert stays is not None
            op = role.narrowed([operands[index] for index in role.operands], stays)
        else:
            assert stays is not None
            op = same_op(node, operands)
        shape = with_size(shape_of(output), self.lanes.axis, int(stays.sum()))
        return replace(op, shape=shape, type_of=output)


def _is_grouped(node: ir.Node | None) -> bool:
    groups = node.attributes.get("group") if node is not None else None
    return is_op(node, "Conv", "ConvTranspose") and groups is not None


def _why_mixed(node: ir.Node) -> Refusal:
    """Return why the channels that the node reads must stay."""
    if is_op(node, *LINEAR_OPERATORS):
        data = data_input(node)
        weights = [v for index, v in enumerate(node.inputs) if index != data and v is not None]
        if any(map(is_overridable, weights)):
            return Common.WEIGHT_OVERRIDABLE
        if any(constant(value) is None for value in weights):
            return Common.WEIGHT_NOT_CONSTANT
        if _is_grouped(node):
            return NotLeftOut.GROUPED
    return NotLeftOut.CHANNELS_MIXED
