"""Cuts both sides of a window where one of them reads f of what the other one reads.

f scales and shifts each element by itself, by numbers that random inputs show. What is cut off
becomes an input: the results are to be the same for any value of it before, and f of that after.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array, FloatArray
from bnfold.proof.certificates.linear import DOUBT, PROBES, linear_bound
from bnfold.proof.certificates.probing import certified, evaluator, single
from bnfold.proof.certificates.sizes.sizing import Sizing
from bnfold.proof.certificates.submodels import Constants, of_value, rebuilt
from bnfold.proof.certificates.windows import Window, dtype_of, is_float
from bnfold.proof.float64.evaluation import Truth64
from bnfold.record.data import Certificate

_DRAWS = 16
"""Random inputs that show which function it may be."""

_CONSTANT = 1e-12
"""An element that moves by no more, relative to its size, is taken for a constant."""


def prove_by_cuts(
    window: Window, chosen: Sequence[Sizing], cut: Callable[[Cuts], bool], unit: str = ""
) -> Certificate | None:
    """Bound the difference of the results at each of the sizes; None if something is not affine.

    `cut` cuts both sides, and says whether they may compute the same.

    Raises:
        Differs: if something differs that should be the same.
    """
    bound, count = 0.0, 0
    for sizing in chosen:
        proof = Cuts(window, sizing, unit)
        if not cut(proof):
            return None
        proof.compare_results()
        if proof.bound is None:
            return None
        bound, count = max(bound, proof.bound), count + proof.count
    return certified("linear", chosen, probes=PROBES * count, bound=bound, doubt=DOUBT * count)


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
        self._constants = [Constants(model) for model in window.models]
        self._drawn: dict[str, Array] = {}
        for name, shape in self._shapes.items():
            self._draw(name, shape, is_bool=self._types[name] == np.bool_)
        self._shapes_within = [self._evaluated_shapes(model) for model in window.models]
        self._inputs = [value for value in window.inputs if is_float(dtype_of(value))]
        self._renamed: tuple[dict[str, str], dict[str, str]] = ({}, {})
        self._added: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []

    def _draw(self, name: str, shape: Sequence[int], *, is_bool: bool = False) -> None:
        """Draw values of an input, one after another."""
        generator = np.random.default_rng(len(self._drawn))
        values = generator.standard_normal((_DRAWS, *shape))
        self._drawn[name] = values > 0 if is_bool else values

    def _evaluated_shapes(self, model: onnx.ModelProto) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes of all values of a side."""
        names = [name for node in model.graph.node for name in node.output if name]
        every = Truth64.of_part(rebuilt(model, model.graph.node, model.graph.input, names))
        feeds = {name: drawn[0] for name, drawn in self._drawn.items()}
        values = {**Constants(model), **every.outputs(feeds)}
        return {**{name: each.shape for name, each in values.items()}, **self._shapes}

    def _values(self, side: int, name: str) -> Array:
        """Return a value of a side for all that is drawn, where what is cut off is an input."""
        run = evaluator(self._side(side, name))
        every = [{n: drawn[at] for n, drawn in self._drawn.items()} for at in range(_DRAWS)]
        return np.stack([run(feeds) for feeds in every])

    def cut_at(
        self,
        one: onnx.NodeProto,
        other: onnx.NodeProto,
        operands: slice = slice(None),
        axes: Sequence[int] = (),
        *,
        keeps_axes: bool = True,
    ) -> tuple[FloatArray, FloatArray]:
        """Show that two operators read x and f(x), as some operands; cut both off.

        f is the same along some axes, which the result may have fewer elements along.

        Returns:
            The scale and the shift of f.
        """
        pairs = list(zip(one.input[operands], other.input[operands], strict=True))
        known = self._shapes_within[0]
        shape = known[pairs[0][0] if axes else one.output[0]]
        axes = tuple(axis % len(shape) for axis in axes)
        scale, shift = (
            each.mean(axis=axes, keepdims=True) if axes else each
            for each in _fitted(*self._operands(pairs, shape))
        )
        self._show(pairs, np.broadcast_to(scale, shape), np.broadcast_to(shift, shape))
        if not keeps_axes:
            scale, shift = scale.squeeze(axes), shift.squeeze(axes)
        result = known[one.output[0]]
        scale, shift = np.broadcast_to(scale, result), np.broadcast_to(shift, result)
        self._make_input(one, other, scale, shift)
        return scale, shift

    def are_of_one_shape(self, name: str, twin: str) -> bool:
        """Say whether a value before and one after have the same shape."""
        return self._shapes_within[0][name] == self._shapes_within[1][twin]

    def cut_at_scale(
        self,
        one: onnx.NodeProto,
        other: onnx.NodeProto,
        count: int | None,
        axes: Sequence[int] = (),
        *,
        keeps_axes: bool = True,
    ) -> bool:
        """Show that two operators read x and s·x for a positive s; cut both off, as y and s·y.

        The first operands are x, `count` of them or all, and the others are the same. The scale is
        one for all elements along some axes, which the result may have fewer elements along.

        Returns:
            Whether it may be so.

        Raises:
            Differs: if it is not.
        """
        pairs = list(zip(one.input, other.input, strict=True))
        rest = pairs[count:] if count is not None else []
        scaled = [pair for pair in pairs[:count] if any(pair) and not self._is_infinite(*pair)]
        if not all(map(all, scaled)):
            return False
        known, others = self._shapes_within
        shape = np.broadcast_shapes(*(known[name] for name, _ in scaled))
        twins = np.broadcast_shapes(*(others[twin] for _, twin in scaled))
        result, mapped = known[one.output[0]], others[other.output[0]]
        is_spread = not axes and _spreads(shape, twins)
        if not is_spread and (shape != twins or result != mapped):
            return False
        scale = _ratio(*self._operands(scaled, twins))
        axes = tuple(axis % len(shape) for axis in axes)
        scale = scale.mean(axis=axes, keepdims=True) if axes else scale
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            return False
        self._show(scaled, np.broadcast_to(scale, twins), np.zeros(twins))
        scale = scale if keeps_axes else scale.squeeze(axes)
        self._make_input(one, other, np.broadcast_to(scale, mapped), np.zeros(mapped))
        return all(self._is_same(*pair) for pair in rest)

    def cut_at_product(self, one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
        """Show that two products are of x and y, and of s·x and t·y; cut both off, as z and s·t·z.

        The scales may have any sign, and are of each element by itself.

        Returns:
            Whether it may be so.

        Raises:
            Differs: if it is not.
        """
        known, others = self._shapes_within
        shape = known[one.output[0]]
        if others[other.output[0]] != shape:
            return False
        scale = np.ones(shape)
        for name, twin in zip(one.input, other.input, strict=True):
            if known[name] != others[twin]:
                return False
            factor = _ratio(*self._operands([(name, twin)], known[name]))
            if not np.isfinite(factor).all() or not factor.all():
                return False
            self._show([(name, twin)], factor, np.zeros(known[name]))
            scale = scale * factor
        self._make_input(one, other, scale, np.zeros(shape))
        return True

    def _is_infinite(self, name: str, twin: str) -> bool:
        """Say whether both are the same infinite constants, of which any positive multiple is."""
        one, other = (c.get(n) for c, n in zip(self._constants, (name, twin), strict=True))
        if one is None or other is None:
            return False
        return bool(np.isinf(one).all()) and np.array_equal(one, other)

    def positions(self, name: str) -> range:
        """Return the axes of a value before but the first two."""
        return range(2, len(self._shapes_within[0][name]))

    def cut_at_same(self, one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
        """Show that two operators read the same, and cut both off.

        Returns:
            Whether it may be so.

        Raises:
            Differs: if it is not.
        """
        known, others = self._shapes_within
        shape = known[one.output[0]]
        if others[other.output[0]] != shape:
            return False
        pairs = zip(one.input, other.input, strict=True)
        is_same = all(itertools.starmap(self._is_same, pairs))
        self._make_input(one, other, np.ones(shape), np.zeros(shape))
        return is_same

    def _is_same(self, name: str, twin: str) -> bool:
        """Show that two operands are the same input or constant, or computed alike."""
        if not (name and twin):
            return name == twin
        one, other = (c.get(n) for c, n in zip(self._constants, (name, twin), strict=True))
        if one is not None and other is not None:
            return one.dtype == other.dtype and np.array_equal(one, other)
        shape = self._shapes_within[0][name]
        if shape != self._shapes_within[1][twin]:
            return False
        self._show([(name, twin)], np.ones(shape), np.zeros(shape))
        return True

    def _show(self, pairs: Iterable[tuple[str, str]], scale: FloatArray, shift: FloatArray) -> None:
        """Show that the second of each two values is the first, scaled and shifted.

        Raises:
            Differs: if it is not.
        """
        nothing = self._constant(np.zeros(scale.shape))
        factor, term = self._constant(scale), self._constant(shift)
        for name, twin in pairs:
            repeated = onnx.helper.make_node("Add", [twin, nothing], ["proof repeated"])
            map_of_it = _affine(name, factor, term, "proof mapped")
            self.compare("proof mapped", "proof repeated", map_of_it, [repeated])

    def _make_input(
        self, one: onnx.NodeProto, other: onnx.NodeProto, scale: FloatArray, shift: FloatArray
    ) -> None:
        """Let both sides read the result of an operator as an input, scaled and shifted after."""
        place, shape = len(self._tensors), self._shapes_within[0][one.output[0]]
        free, mapped = f"proof free {place}", f"proof chosen {place}"
        self._shapes[free] = shape
        self._draw(free, shape)
        self._inputs.append(onnx.helper.make_tensor_value_info(free, self._type, shape))
        factor, term = self._constant(scale), self._constant(shift)
        self._added += _affine(free, factor, term, mapped)
        self._renamed[0][one.output[0]] = free
        self._renamed[1][other.output[0]] = mapped

    def _constant(self, content: FloatArray) -> str:
        """Add a constant to both sides; return its name."""
        name = f"proof constant {len(self._tensors)}"
        self._tensors.append(onnx.numpy_helper.from_array(content, name))
        return name

    def _operands(
        self, pairs: Sequence[tuple[str, str]], shape: Sequence[int]
    ) -> Iterator[FloatArray]:
        """Yield what an operator reads on each side, drawn at random: operands, and their draws."""
        for side, names in enumerate(zip(*pairs, strict=True)):
            every = [[np.broadcast_to(v, shape) for v in self._values(side, n)] for n in names]
            yield np.array(every, np.float64)

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

    def _side(self, side: int, result: str, more: Sequence[onnx.NodeProto] = ()) -> onnx.ModelProto:
        """Return the model of one value of a side."""
        model, renamed = self._window.models[side], self._renamed[side]
        nodes = [*self._added, *model.graph.node, *more]
        return of_value(model, result, self._inputs, renamed, nodes, self._tensors)


def _fitted(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return s and t such that y ≈ s·x + t, for each element by itself.

    They are values of several operands, and of several draws of each. The scale is read off what
    varies, and the shift where the least of it may be rounding: where y is smallest.
    """
    x_means, y_means = x.mean(axis=1), y.mean(axis=1)
    within = _slope(x - x_means[:, None], y - y_means[:, None])
    between = _slope((x_means - x_means.mean(axis=0))[None], (y_means - y_means.mean(axis=0))[None])
    scale = np.where(_is_constant(x), between, within)
    smallest = np.abs(y).max(axis=1).argmin(axis=0)[None]
    return scale, np.take_along_axis(y_means - scale * x_means, smallest, axis=0)[0]


def _spreads(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Say whether a value of one shape broadcasts to another one."""
    aligned = zip(reversed(shape), reversed(other), strict=False)
    return len(shape) <= len(other) and all(one in (1, size) for one, size in aligned)


def _is_constant(x: FloatArray) -> Array:
    """Say of each element whether no operand varies from draw to draw."""
    moved, size = np.ptp(x, axis=1), np.abs(x).max(axis=1)
    return np.asarray((moved <= _CONSTANT * size).all(axis=0))


def _slope(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return s such that y ≈ s·x, over the first two axes; 1 where x is 0."""
    square, product = (x**2).sum(axis=(0, 1)), (x * y).sum(axis=(0, 1))
    slope = np.divide(product, square, out=np.ones(square.shape), where=square > 0)
    return np.asarray(slope, np.float64)


def _ratio(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return s such that y ≈ s·x, for each element by itself, of operands and draws as above.

    A shift may have been rounded on one side: only where x does not vary is it of use.
    """
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return np.full(x.shape[2:], np.nan)
    return np.where(_is_constant(x), _slope(x, y), _fitted(x, y)[0])


def _affine(data: str, factor: str, term: str, result: str) -> list[onnx.NodeProto]:
    """Return the operators of result = factor·data + term."""
    product = f"{result} without {term}"
    return [
        onnx.helper.make_node("Mul", [data, factor], [product]),
        onnx.helper.make_node("Add", [product, term], [result]),
    ]
