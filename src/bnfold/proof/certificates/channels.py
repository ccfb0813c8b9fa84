"""Proves windows that apply functions to channels, of which one side has fewer.

Both sides are affine but for functions of single elements, or maxima over positions, in the same
order. Each such function has on one side all channels, on the other some of them. It is enough that

- what a function reads on the side after is what it reads before, on the channels that are left:
  then its results are the same there, whatever they are, and count as an input of both sides;
- each other channel reads a constant, so that its result is known; or it counts as an input, too,
  which the side before must ignore;
- with these as inputs, the results are the same.

All of these are windows of affine models. On random inputs, it shows which channels are left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array, FloatArray
from bnfold.graph.schemas import opsets_of
from bnfold.proof.certificates.kinds import functions_of
from bnfold.proof.certificates.linear import DOUBT, PROBES, linear_bound
from bnfold.proof.certificates.normal_forms.congruence import signature
from bnfold.proof.certificates.probing import Differs, certified, single
from bnfold.proof.certificates.sizes.sizing import Sizing
from bnfold.proof.certificates.submodels import Constants, of_value, rebuilt
from bnfold.proof.certificates.windows import AFFINE, Window
from bnfold.proof.float64.evaluation import Truth64
from bnfold.record.data import Certificate

_POOLS = frozenset({"GlobalMaxPool", "MaxPool"})
"""Functions over positions, which lie along all axes but the first two."""

_FUNCTIONS = _POOLS | frozenset(
    {"Abs", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid"}
    | {"HardSwish", "LeakyRelu", "Max", "Min", "Mish", "Mul", "PRelu", "Pow", "Relu"}
    | {"Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"}
)
"""Operators of which a channel of the result depends on the same one of the operands alone."""

_ALIKE = (1e-11, 1e-6, 1e-4)
"""Channels of two sides this near, relative to their largest value, are taken for the same: nearly
as near as float64 allows, or as constants within that are rounded, of which much may cancel."""

_NOTHING = 1e-36
"""Nearer than that, they are, too: weights of a trained network may be too small for a float32."""

_EXACT = 1e-12
"""A channel that moves by no more, relative to its size, is taken for a constant."""


def prove_channels(window: Window, chosen: Sequence[Sizing]) -> Certificate | None:
    """Bound the difference of the results, if all functions are shown to be the same; or None."""
    functions = [functions_of(model) for model in window.models]
    before, after = functions
    kinds, others = (
        [signature(node, opsets_of(model)) for node in nodes]
        for model, nodes in zip(window.models, functions, strict=True)
    )
    if not before or kinds != others:
        return None
    if not all(node.op_type in _FUNCTIONS and len(node.output) == 1 for node in before):
        return None
    if not {n.op_type for n in window.nodes() if n not in [*before, *after]} <= AFFINE:
        return None
    bound, count = 0.0, 0
    try:
        for sizing in chosen:
            proof = _Proof(window, sizing, before, after)
            for place in range(len(before)):
                if not proof.cut_at(place):
                    return None
            found = proof.bound_of_results()
            if found is None:
                return None
            bound, count = max(bound, found, proof.bound), count + proof.count
    except Differs:  # it may be equal for another reason
        return None
    return certified("channels", chosen, probes=PROBES * count, bound=bound, doubt=DOUBT * count)


@dataclass(frozen=True, eq=False)
class _Channels:
    """Which channels of a function are left, and which others are constant."""

    axis: int
    left: list[int]
    constant: list[int]
    free: list[int]
    count: int


class _Proof:
    """Cuts both sides at one function after another."""

    def __init__(
        self,
        window: Window,
        sizing: Sizing,
        before: Sequence[onnx.NodeProto],
        after: Sequence[onnx.NodeProto],
    ) -> None:
        self.count = 0
        self.bound = 0.0
        """How far apart what functions read is at most: the rounding of weights."""
        self._window = window
        self._functions = before, after
        self._shapes = dict(single(sizing))
        self._sizing = replace(sizing, stackable=False, batched=False)
        self._constants = tuple(map(Constants, window.models))
        self._values = [
            [self._evaluated(model, seed) for seed in (0, 1)] for model in window.models
        ]
        self._renamed: tuple[dict[str, str], dict[str, str]] = ({}, {})
        self._added: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = list(window.inputs)

    def _evaluated(self, model: onnx.ModelProto, seed: int) -> Mapping[str, FloatArray]:
        generator = np.random.default_rng(seed)
        feeds = {name: generator.standard_normal(shape) for name, shape in self._shapes.items()}
        names = [name for node in model.graph.node for name in node.output if name]
        every = rebuilt(model, model.graph.node, model.graph.input, names)
        return {**Truth64.of_part(every).outputs(feeds), **feeds}

    def cut_at(self, place: int) -> bool:
        """Show that a function reads the same, and make its result an input; False if it fails."""
        one, other = (nodes[place] for nodes in self._functions)
        channels = self._channels(one, other)
        if channels is None:
            return False
        operands = list(zip(one.input, other.input, strict=True))
        if not all(self._reads_the_same(*pair, channels, one.output[0]) for pair in operands):
            return False
        varying = [name for name in one.input if name and name not in self._constants[0]]
        if channels.constant and not self._is_constant(one.op_type, varying, channels):
            return False
        self._make_input(one.output[0], other.output[0], channels, place)
        return True

    def _channels(self, one: onnx.NodeProto, other: onnx.NodeProto) -> _Channels | None:
        full, full_again = (values[one.output[0]] for values in self._values[0])
        some = self._values[1][0][other.output[0]]
        if full.ndim != some.ndim or not full.ndim:
            return None
        differ = [axis for axis in range(full.ndim) if full.shape[axis] != some.shape[axis]]
        if len(differ) > 1:
            return None
        axis = differ[0] if differ else min(1, full.ndim - 1)
        if axis > 1 and one.op_type in _POOLS:
            return None
        known, wanted = (self._prints(side, node, axis) for side, node in enumerate((one, other)))
        if known.shape[1] != wanted.shape[1]:
            return None
        matches = (_matched(known, wanted, tolerance) for tolerance in _ALIKE)
        left = next((found for found in matches if found is not None), None)
        if left is None:
            return None
        rows, rows_again = np.moveaxis(full, axis, 0), np.moveaxis(full_again, axis, 0)
        gone = [i for i in range(len(rows)) if i not in set(left)]
        is_constant = {
            i
            for i in gone
            if _is_one_number(rows[i], rows_again[i]) and self._reads_one_number(one, i, axis)
        }
        constant, free = ([i for i in gone if (i in is_constant) == has] for has in (True, False))
        return _Channels(axis, left, constant, free, len(rows))

    def _reads_one_number(self, function: onnx.NodeProto, channel: int, axis: int) -> bool:
        """Say whether it does in a channel: a Relu makes 0 of all that is negative, by chance.

        Of the factors of a product, one is enough.
        """
        varying = [name for name in function.input if name and name not in self._constants[0]]
        read = (
            [np.take(values[name], channel, axis) for values in self._values[0]]
            for name in varying
            if self._values[0][0][name].ndim > axis
            and self._values[0][0][name].shape[axis] > channel
        )
        found = [_is_one_number(*each) for each in read]
        return any(found) if function.op_type == "Mul" else all(found)

    def _prints(self, side: int, function: onnx.NodeProto, axis: int) -> FloatArray:
        """Return, channel by channel, what a function reads there, and what it makes of it."""
        count = self._values[side][0][function.output[0]].shape[axis]
        prints = [
            np.moveaxis(values[name], axis, 0).reshape(count, -1)
            for values in self._values[side]
            for name in (*function.input, *function.output)
            if name in values and values[name].ndim > axis and values[name].shape[axis] == count
        ]
        return np.concatenate(prints, axis=1)

    def _reads_the_same(self, name: str, twin: str, channels: _Channels, result: str) -> bool:
        """Show that an operand is the same on the channels that are left."""
        if not name or not twin:
            return name == twin
        rank = self._values[0][0][result].ndim
        if name in self._constants[0] or twin in self._constants[1]:
            if name not in self._constants[0] or twin not in self._constants[1]:
                return False
            content, less = self._constants[0][name], self._constants[1][twin]
            axis = channels.axis - rank + content.ndim
            if axis >= 0 and content.shape[axis] == channels.count:
                content = np.take(content, channels.left, axis)
            return content.dtype == less.dtype and np.array_equal(content, less)
        operand = self._values[0][0][name]
        if operand.ndim != rank:
            return False
        has_channels = operand.shape[channels.axis] == channels.count
        return self._is_same(name, twin, channels.left if has_channels else None, channels.axis)

    def _is_same(self, name: str, twin: str, left: list[int] | None, axis: int) -> bool:
        nodes, tensors = ([], []) if left is None else _gather(name, left, axis)
        result = name if left is None else nodes[-1].output[0]
        bound = self._bound(self._side(0, result, nodes, tensors), self._side(1, twin))
        self.bound = max(self.bound, bound or 0.0)
        return bound is not None

    def _is_constant(self, op_type: str, varying: list[str], channels: _Channels) -> bool:
        """Show that what the function makes of constant channels is constant for all inputs.

        All that it reads there is; or one factor of a product is, and zero.
        """
        known = [name for name in varying if self._is_known(name, channels)]
        if op_type == "Mul" and any(not self._rows(name, channels).any() for name in known):
            return True
        return known == varying

    def _rows(self, name: str, channels: _Channels) -> FloatArray:
        return np.take(self._values[0][0][name], channels.constant, channels.axis)

    def _is_known(self, name: str, channels: _Channels) -> bool:
        """Show that an operand is constant on the channels where the result is."""
        if self._values[0][0][name].shape[channels.axis] != channels.count:
            return False
        nodes, tensors = _gather(name, channels.constant, channels.axis)
        picked, values = nodes[-1].output[0], self._rows(name, channels)
        others = tuple(axis for axis in range(values.ndim) if axis != channels.axis)
        for content, given in (
            (np.zeros(()), "zero"),
            (values.mean(others, keepdims=True), "mean"),
        ):
            tensors.append(onnx.numpy_helper.from_array(content, f"proof {given}"))
        flat = [
            onnx.helper.make_node("Mul", [picked, "proof zero"], ["proof nothing"]),
            onnx.helper.make_node("Add", ["proof nothing", "proof mean"], ["proof constant"]),
        ]
        try:
            before = self._side(0, picked, nodes, tensors)
            return (
                self._bound(before, self._side(0, "proof constant", [*nodes, *flat], tensors)) == 0
            )
        except Differs:
            return False

    def _make_input(self, name: str, twin: str, channels: _Channels, place: int) -> None:
        """Let both sides read the function's result as an input from now on."""
        some = self._values[1][0][twin]
        full = self._values[0][0][name]
        pieces = [f"proof left {place}"]
        self._add_input(pieces[0], some.shape)
        if channels.constant:
            pieces.append(f"proof known {place}")
            content = np.take(full, channels.constant, channels.axis)
            self._tensors.append(onnx.numpy_helper.from_array(np.array(content), pieces[-1]))
        if channels.free:
            pieces.append(f"proof free {place}")
            self._add_input(pieces[-1], np.take(full, channels.free, channels.axis).shape)
        order = [*channels.left, *channels.constant, *channels.free]
        joined, whole = f"proof joined {place}", f"proof whole {place}"
        indices = onnx.numpy_helper.from_array(np.argsort(order), f"proof order {place}")
        self._tensors.append(indices)
        self._added += [
            onnx.helper.make_node("Concat", pieces, [joined], axis=channels.axis),
            onnx.helper.make_node("Gather", [joined, indices.name], [whole], axis=channels.axis),
        ]
        self._renamed[0][name], self._renamed[1][twin] = whole, pieces[0]

    def _add_input(self, name: str, shape: Sequence[int]) -> None:
        self._shapes[name] = tuple(shape)
        self._inputs.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, list(shape))
        )

    def bound_of_results(self) -> float | None:
        """Bound the difference of the results of both sides."""
        one, other = (model.graph.output[0].name for model in self._window.models)
        return self._bound(self._side(0, one), self._side(1, other))

    def _side(
        self,
        side: int,
        result: str,
        extra: Sequence[onnx.NodeProto] = (),
        tensors: Sequence[onnx.TensorProto] = (),
    ) -> onnx.ModelProto:
        """Return the model of one value of a side, where functions are inputs."""
        model, renamed = self._window.models[side], self._renamed[side]
        return of_value(
            model,
            result,
            self._inputs,
            renamed,
            [*self._added, *model.graph.node, *extra],
            [*self._tensors, *tensors],
        )

    def _bound(self, before: onnx.ModelProto, after: onnx.ModelProto) -> float | None:
        self.count += 1
        sizing = replace(self._sizing, shapes=self._shapes)
        return linear_bound(Window(before, after), [sizing])


def _gather(
    name: str, places: list[int], axis: int
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    indices = onnx.numpy_helper.from_array(np.array(places), "proof places")
    node = onnx.helper.make_node("Gather", [name, indices.name], ["proof picked"], axis=axis)
    return [node], [indices]


def _matched(known: FloatArray, wanted: FloatArray, tolerance: float) -> list[int] | None:
    """Return which rows the wanted ones are, in order; None if one of them is none.

    Of all ways to leave out the others, it is the one on which the rows are nearest: some are so
    small that several are near.
    """
    spare = len(known) - len(wanted)
    if spare < 0:
        return None
    totals, ways = np.zeros(spare + 1), []
    for place, row in enumerate(wanted):
        near = max(tolerance * np.abs(row).max(initial=0), _NOTHING)
        apart = np.abs(known[place : place + spare + 1] - row).max(axis=1, initial=0) / near
        least = np.minimum.accumulate(totals)
        first = np.where(totals == least, np.arange(spare + 1), 0)
        ways.append(np.maximum.accumulate(first))  # how many were left out before, at best
        totals = least + np.where(apart <= 1, apart, np.inf)
    at = int(totals.argmin()) if len(wanted) else 0
    if not np.isfinite(totals[at]):
        return None
    found: list[int] = []
    for place in range(len(wanted) - 1, -1, -1):
        found.append(place + at)
        at = int(ways[place][at])
    return found[::-1]


def _is_one_number(values: Array, again: Array) -> bool:
    """Say whether all values of a channel are one, for either input."""
    first = values.reshape(-1)[:1]
    near = _EXACT * np.abs(first)
    return bool((np.abs(values - first) <= near).all() and (np.abs(again - first) <= near).all())
