"""Cuts both sides of a window where one of them reads f of what the other one reads.

f scales and shifts each element by itself, by numbers that random inputs show. What is cut off
becomes an input: the results are to be the same for any value of it before, and f of that after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array, FloatArray
from bnfold.proof.linear import linear_bound
from bnfold.proof.probing import single
from bnfold.proof.sizing import Sizing
from bnfold.proof.submodels import Constants, of_value, rebuilt
from bnfold.proof.truth import Truth64
from bnfold.proof.windows import Window, dtype_of, is_float

_DRAWS = 16
"""Random inputs that show which function it may be."""


class Cuts:
    """Cuts both sides at one operator after another, and keeps the largest bound."""

    def __init__(self, window: Window, sizing: Sizing, unit: str = "") -> None:
        self.bound: float | None = 0.0
        """None if something is not affine."""
        self.count = 0
        self._window = window
        self._unit = unit or None
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

    def cut_at(
        self, one: onnx.NodeProto, other: onnx.NodeProto, first: int = 0
    ) -> tuple[FloatArray, FloatArray]:
        """Show that two operators read x and f(x), from their `first` operands on; cut both off.

        Returns:
            The scale and the shift of f.
        """
        shape = self._values[0][0][one.output[0]].shape
        names, twins = one.input[first:], other.input[first:]
        x, y = (self._operands(*pair, shape) for pair in ((0, names), (1, twins)))
        scale, shift = _fitted(x, y)
        place = len(self._tensors)
        factor, term, nothing = (f"proof {what} {place}" for what in ("factor", "term", "nothing"))
        self._tensors += [
            onnx.numpy_helper.from_array(content, name)
            for content, name in ((scale, factor), (shift, term), (np.zeros(shape), nothing))
        ]
        for name, twin in zip(names, twins, strict=True):
            repeated = onnx.helper.make_node("Add", [twin, nothing], ["proof repeated"])
            map_of_it = _affine(name, factor, term, "proof mapped")
            self.compare("proof mapped", "proof repeated", map_of_it, [repeated])
        free, mapped = f"proof free {place}", f"proof chosen {place}"
        self._shapes[free] = shape
        self._inputs.append(onnx.helper.make_tensor_value_info(free, self._type, list(shape)))
        self._added += _affine(free, factor, term, mapped)
        self._renamed[0][one.output[0]] = free
        self._renamed[1][other.output[0]] = mapped
        return scale, shift

    def _operands(self, side: int, names: Sequence[str], shape: Sequence[int]) -> FloatArray:
        """Return what an operator reads, drawn at random: one draw after another."""
        drawn = self._values[side]
        every = [np.broadcast_to(each[n], shape) for n in names for each in drawn]
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
        bound = linear_bound(window, [replace(self._sizing, shapes=shapes)], self._unit)
        known = self.bound is not None and bound is not None
        self.bound = max(self.bound or 0.0, bound or 0.0) if known else None

    def compare_results(self) -> None:
        """Bound the difference of the results.

        Raises:
            Differs: if there is one.
        """
        self.compare(*(model.graph.output[0].name for model in self._window.models))

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
