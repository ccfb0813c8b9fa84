"""Proves windows in which a Where chooses: by the same condition on both sides, whatever it is.

    f(c ? x : y) = c ? f(x) : f(y)

for a function f of each element by itself, such as a scale and a shift. So it is enough that

- what a Where chooses from on the side after is f of what it chooses from before;
- with f of the result of the one in place of that of the other, whatever it is, the results are the
  same.

All of these are windows of affine models. On random inputs, it shows which f it may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array, FloatArray
from bnfold.proof.linear import DOUBT, PROBES, linear_bound
from bnfold.proof.probing import Differs, certified, single
from bnfold.proof.sizing import Sizing
from bnfold.proof.submodels import Constants, of_value, rebuilt
from bnfold.proof.truth import Truth64
from bnfold.proof.windows import AFFINE, Window, dtype_of, is_float
from bnfold.record.data import Certificate

_DRAWS = 16
"""Random inputs that show which function it may be."""


def prove_choices(window: Window, chosen: Sequence[Sizing]) -> Certificate | None:
    """Bound the difference of the results; None if it is not shown that they are the same."""
    before, after = (
        [node for node in model.graph.node if node.op_type == "Where"] for model in window.models
    )
    conditions = [[node.input[0] for node in nodes] for nodes in (before, after)]
    types = {dtype_of(value) for value in window.inputs if value.name not in conditions[0]}
    read = {n for node in window.nodes() for n in node.input[1 if node.op_type == "Where" else 0 :]}
    is_known = (
        window.operators <= AFFINE | {"Where"}
        and all(map(is_float, types))
        and read.isdisjoint(conditions[0])
    )
    if not is_known or len(before) != len(after) or not _are_same(window, *conditions):
        return None
    bound, count = 0.0, 0
    try:
        for sizing in chosen:
            proof = _Proof(window, sizing)
            for one, other in zip(before, after, strict=True):
                proof.cut_at(one, other)
            proof.compare(*(model.graph.output[0].name for model in window.models))
            if proof.bound is None:
                return None
            bound, count = max(bound, proof.bound), count + proof.count
    except Differs:  # it may be equal for another reason
        return None
    return certified("linear", chosen, probes=PROBES * count, bound=bound, doubt=DOUBT * count)


def _are_same(window: Window, names: Sequence[str], others: Sequence[str]) -> bool:
    """Say whether conditions on both sides are the same inputs, or constants."""
    constants = [Constants(model) for model in window.models]
    inputs = {value.name for value in window.inputs}
    return all(
        (name == other and name in inputs)
        or (
            name in constants[0]
            and other in constants[1]
            and np.array_equal(constants[0][name], constants[1][other])
        )
        for name, other in zip(names, others, strict=True)
    )


class _Proof:
    """Cuts both sides at one Where after another, and keeps the largest bound."""

    def __init__(self, window: Window, sizing: Sizing) -> None:
        self.bound: float | None = 0.0
        """None if something is not affine."""
        self.count = 0
        self._window = window
        self._shapes = dict(single(sizing))
        self._sizing = replace(sizing, stackable=False, batched=False)
        self._type = onnx.TensorProto.DataType.Value(window.unit.upper())  # how results are rounded
        self._types = {value.name: dtype_of(value) for value in window.inputs}
        self._values = [self._drawn(model) for model in window.models]
        self._inputs = [value for value in window.inputs if is_float(dtype_of(value))]
        self._renamed: tuple[dict[str, str], dict[str, str]] = ({}, {})
        self._added: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []

    def _drawn(self, model: onnx.ModelProto) -> list[Mapping[str, Array]]:
        """Return all values for each of some random inputs, the same for both sides."""
        names = [name for node in model.graph.node for name in node.output if name]
        truth = Truth64.of_part(rebuilt(model, model.graph.node, model.graph.input, names))
        constants = Constants(model)
        drawn: list[Mapping[str, Array]] = []
        for seed in range(_DRAWS):
            generator = np.random.default_rng(seed)
            normal = {n: generator.standard_normal(shape) for n, shape in self._shapes.items()}
            feeds: dict[str, Array] = {
                n: each > 0 if self._types[n] == np.bool_ else each for n, each in normal.items()
            }
            drawn.append({**constants, **feeds, **truth.outputs(feeds)})
        return drawn

    def cut_at(self, one: onnx.NodeProto, other: onnx.NodeProto) -> None:
        """Show that two Wheres choose from x and y, and from f(x) and f(y); cut both off."""
        shape = self._values[0][0][one.output[0]].shape
        x, y = (self._operands(*pair, shape) for pair in ((0, one), (1, other)))
        scale, shift = _fitted(x, y)
        place = len(self._tensors)
        factor, term, nothing = (f"proof {what} {place}" for what in ("factor", "term", "nothing"))
        self._tensors += [
            onnx.numpy_helper.from_array(content, name)
            for content, name in ((scale, factor), (shift, term), (np.zeros(shape), nothing))
        ]
        for name, twin in zip(one.input[1:], other.input[1:], strict=True):
            repeated = onnx.helper.make_node("Add", [twin, nothing], ["proof repeated"])
            map_of_it = _affine(name, factor, term, "proof mapped")
            self.compare("proof mapped", "proof repeated", map_of_it, [repeated])
        free, mapped = f"proof free {place}", f"proof chosen {place}"
        self._shapes[free] = shape
        self._inputs.append(onnx.helper.make_tensor_value_info(free, self._type, list(shape)))
        self._added += _affine(free, factor, term, mapped)
        self._renamed[0][one.output[0]] = free
        self._renamed[1][other.output[0]] = mapped

    def _operands(self, side: int, where: onnx.NodeProto, shape: Sequence[int]) -> FloatArray:
        """Return what a Where chooses from, drawn at random: one draw after another."""
        drawn = self._values[side]
        every = [np.broadcast_to(each[n], shape) for n in where.input[1:] for each in drawn]
        return np.stack(every).astype(np.float64)

    def compare(
        self,
        name: str,
        twin: str,
        more: Sequence[onnx.NodeProto] = (),
        others: Sequence[onnx.NodeProto] = (),
    ) -> None:
        """Bound the difference of two values, where what has been cut off is an input.

        Raises:
            Differs: if there is one.
        """
        self.count += 1
        shapes = {value.name: self._shapes[value.name] for value in self._inputs}
        window = Window(self._side(0, name, more), self._side(1, twin, others))
        bound = linear_bound(window, [replace(self._sizing, shapes=shapes)])
        known = self.bound is not None and bound is not None
        self.bound = max(self.bound or 0.0, bound or 0.0) if known else None

    def _side(self, side: int, result: str, more: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
        """Return the model of one value of a side."""
        model, renamed = self._window.models[side], self._renamed[side]
        nodes = [*self._added, *model.graph.node, *more]
        return of_value(model, result, self._inputs, renamed, nodes, self._tensors)


def _fitted(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return s and t such that y ≈ s·x + t, for each element by itself."""
    centred = x - x.mean(axis=0)
    variance = (centred**2).sum(axis=0)
    covariance = (centred * (y - y.mean(axis=0))).sum(axis=0)
    scale = np.divide(covariance, variance, out=np.ones(variance.shape), where=variance > 0)
    return scale, y.mean(axis=0) - scale * x.mean(axis=0)


def _affine(data: str, factor: str, term: str, result: str) -> list[onnx.NodeProto]:
    """Return the operators of result = factor·data + term."""
    product = f"{result} without {term}"
    return [
        onnx.helper.make_node("Mul", [data, factor], [product]),
        onnx.helper.make_node("Add", [product, term], [result]),
    ]
