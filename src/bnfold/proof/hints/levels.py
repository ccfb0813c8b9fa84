"""The numbers at which a model does something else with the floats that it reads."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from bnfold.graph.constants import constant
from bnfold.proof.hints.integers import LIMITING
from bnfold.proof.hints.sizes import COMPARISONS, SAME_NUMBERS, number_of

_AT_ZERO = frozenset(["NonZero", "Sign"])
"""Operators that do something else at zero, as does a Cast to booleans."""

_BETWEEN = {
    "Round": (0.5, -0.5, 1.5, -1.5),
    **dict.fromkeys(("Ceil", "Floor"), (0.0, 1.0, -1.0, 2.0)),
}
"""Operators that jump from one whole number to the next, and some places where they do."""

_OF_ATTRIBUTES = {"Clip": ("min", "max"), "Shrink": ("lambd",), "ThresholdedRelu": ("alpha",)}
"""Operators that do something else from a number on that is an attribute; of Clip, before operator
set 11."""

_DEFAULTS = {"lambd": 0.5, "alpha": 1.0}

_TREES = frozenset(["TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"])

_KEEPS_POSITIVE = frozenset(["Abs", "Relu"])
"""Operators that pass positive numbers on unchanged."""

_LARGEST_LEVEL = 1e4
"""Numbers with which floats are compared: larger ones mean that nothing is as large."""

_MOST_LEVELS, _MOST_DIFFERING = 4, 16
"""Numbers that are tried; and those that one of two models has, and the other one has not."""

_FEW_BITS = 2**9

_CANCELLED = 2.0**-18
"""What is left of a number that is subtracted from as large a one, as a share: mere rounding."""

_BESIDE = 2.0**-10
"""How far, as a share (from zero, of 1), from a level that is not met exactly."""

_INVERSES: dict[str, Callable[[float], float]] = {
    "Exp": math.log,
    "Log": math.exp,
    "Neg": lambda y: -y,
    "Reciprocal": lambda y: 1 / y,
    "Sigmoid": lambda y: math.log(y / (1 - y)),
    "Sqrt": lambda y: y * y,
    "Tanh": math.atanh,
}
"""What each operator gives a number for. They raise an error where it gives it for none."""

_INVERSES_BY_CONSTANT: dict[tuple[str, int], Callable[[float, float], float]] = {
    ("Add", 0): lambda y, c: y - c,
    ("Add", 1): lambda y, c: y - c,
    ("Div", 0): lambda y, c: y * c,
    ("Div", 1): lambda y, c: c / y,
    ("Mul", 0): lambda y, c: y / c,
    ("Mul", 1): lambda y, c: y / c,
    ("Pow", 0): lambda y, c: math.pow(y, 1 / c),
    ("Sub", 0): lambda y, c: y + c,
    ("Sub", 1): lambda y, c: c - y,
}
"""The same of operators with a constant c, by the place of the operand that is asked for."""


@dataclass(frozen=True)
class _Way:
    """What a number has gone through: the inverse of each step, and the constants in them."""

    inverses: tuple[Callable[[float], float], ...] = ()
    constants: tuple[float, ...] = ()
    is_known: bool = True
    """Whether nothing is computed with other inputs on the way."""

    def further(self, step: _Way) -> _Way:
        return _Way(
            (*self.inverses, *step.inverses),
            (*self.constants, *step.constants),
            self.is_known and step.is_known,
        )

    def back(self, level: float) -> float:
        """Return what the first number has to be for the last to be at a level, or close to it.

        Raises:
            ArithmeticError: or a ValueError, if nothing gives it.
        """
        if not self.inverses and self.is_known:
            return level
        numbers = [level]
        for inverse in reversed(self.inverses):
            numbers.append(inverse(numbers[-1]))
        number = _of_few_bits(numbers[-1])
        if self.is_exact(level):
            return number
        cancels = abs(number) < _CANCELLED * max(map(abs, numbers))
        is_beside_others = number == 0 and not self.is_known
        return (_BESIDE if cancels or is_beside_others else number) * (1 + _BESIDE)

    def is_exact(self, level: float) -> bool:
        """Say whether no constant of the way rounds.

        Where one does, two equal models may take different sides of the level exactly at it.
        """
        constants = level, *self.constants
        are_short = not self.inverses or all(each == _of_few_bits(each) for each in constants)
        return self.is_known and are_short

    def decides(self, level: float) -> Iterable[float]:
        """Return the constants that decide whether it is at a level, where nothing rounds."""
        return (level, *self.constants) if self.is_exact(level) else ()


_BESIDE_OTHERS = {
    ("Add", 0): _Way(is_known=False),
    ("Add", 1): _Way(is_known=False),
    ("Div", 0): _Way(is_known=False),
    ("Mul", 0): _Way(is_known=False),
    ("Mul", 1): _Way(is_known=False),
    ("Sub", 0): _Way(is_known=False),
    ("Sub", 1): _Way((lambda y: -y,), is_known=False),
}
"""The same of operators with a computed operand, taken for 0 or 1."""


Levels: TypeAlias = dict[str, dict[float, set[float]]]
"""Of each input the numbers, and the constants that decide whether they are met."""


def levels(model: ir.Model) -> Levels:
    """Return the numbers that float inputs are compared with or limited by.

    An input may be scaled, shifted or taken through a monotonic function before.
    """
    found: Levels = {}
    for value in model.graph.inputs:
        is_drawn = not value.is_initializer()  # others are overridden in some samples
        if value.dtype is None or not value.dtype.is_floating_point() or not is_drawn:
            continue
        numbers: dict[float, set[float]] = {}
        for number, constants in _of_input(value):
            if abs(number) <= _LARGEST_LEVEL:
                numbers.setdefault(number, set()).update(constants)
        if numbers:
            found[value.name or ""] = numbers
    return found


def few(found: Levels) -> dict[str, list[float]]:
    """Return a few numbers of each input, the least first."""
    return {name: _least(numbers, _MOST_LEVELS) for name, numbers in found.items()}


def few_of_both(own: Levels, other: Levels) -> dict[str, list[float]]:
    """Return a few numbers of each input of two models, and more of those that one alone has."""
    chosen: dict[str, list[float]] = {}
    for name in (*own, *other):
        ones, others = own.get(name, {}), other.get(name, {})
        differing = _least(ones.keys() ^ others.keys(), _MOST_DIFFERING)
        numbers = {*differing, *_least(ones, _MOST_LEVELS), *_least(others, _MOST_LEVELS)}
        chosen[name] = without_ties(numbers)
    return chosen


def deciding(chosen: Mapping[str, Iterable[float]], *found: Levels) -> frozenset[float]:
    """Return the constants that decide whether one of the numbers is met."""
    decides: set[float] = set()
    for name, numbers in chosen.items():
        for each in found:
            decides.update(*(each.get(name, {}).get(number, ()) for number in numbers))
    return frozenset(decides)


def _least(numbers: Iterable[float], most: int) -> list[float]:
    return sorted(numbers, key=lambda each: (abs(each), each))[:most]


def _of_input(value: ir.Value) -> Iterator[tuple[float, Iterable[float]]]:
    """Yield what an input has to be for an operator to do something else from there on.

    With it come the constants that decide.
    """
    pending: deque[tuple[ir.Value, _Way]] = deque([(value, _Way())])
    seen = {value}
    while pending:
        source, way = pending.popleft()
        for node, position in source.uses():
            for level in _levels_of(node):
                with suppress(ArithmeticError, ValueError):  # nothing gives it
                    yield way.back(level), way.decides(level)
            step = _step(node, position)
            if step is not None:
                new = [output for output in node.outputs if output not in seen]
                seen.update(new)
                pending.extend((output, way.further(step)) for output in new)


def without_ties(numbers: Iterable[float]) -> list[float]:
    """Return the levels of two models without those that rounding decides in one of them.

    They are met exactly in one, and beside one that is not in the other.
    """
    exact = {number for number in numbers if number == _of_few_bits(number)}
    others = [number for number in numbers if number not in exact]
    tied = {one for one in exact for n in others if abs(n - one) <= 2 * _BESIDE * max(abs(one), 1)}
    return sorted({*exact, *others} - tied)


def _of_few_bits(number: float) -> float:
    mantissa, exponent = math.frexp(number)
    return math.ldexp(round(mantissa * _FEW_BITS), exponent) / _FEW_BITS


def _step(node: ir.Node, position: int) -> _Way | None:
    """Return the inverse of what a node does to an operand, if it keeps or reverses its order.

    Another operand that is computed, such as the scale of an image, is taken for one that changes
    nothing.
    """
    if node.op_type in SAME_NUMBERS | _KEEPS_POSITIVE | LIMITING:
        return _Way()
    if node.op_type == "Where" and position > 0:
        return _Way()
    if node.op_type in _INVERSES:
        return _Way((_INVERSES[node.op_type],))
    of_constant = _INVERSES_BY_CONSTANT.get((node.op_type, position))
    if of_constant is None or len(node.inputs) != 2 or node.inputs[0] is node.inputs[1]:
        return None
    if constant(node.inputs[1 - position]) is None:
        return _BESIDE_OTHERS.get((node.op_type, position))
    other = number_of(node.inputs[1 - position])
    if other is None:
        return None
    return _Way((lambda level: of_constant(level, other),), (other,))


def _levels_of(node: ir.Node) -> Iterator[float]:
    """Yield the numbers at which an operator does something else."""
    if node.op_type in COMPARISONS | LIMITING:
        numbers = map(number_of, node.inputs)
        yield from (number for number in numbers if number is not None)
    makes_booleans = node.op_type == "Cast" and node.outputs[0].dtype == ir.DataType.BOOL
    if node.op_type in _AT_ZERO or makes_booleans:
        yield 0.0
    yield from _BETWEEN.get(node.op_type, ())
    yield from _of_trees(node)
    for name in _OF_ATTRIBUTES.get(node.op_type, ()):
        number = node.attributes.get_float(name, _DEFAULTS.get(name))
        if number is not None:
            yield from (number, -number) if node.op_type == "Shrink" else (number,)


def _of_trees(node: ir.Node) -> Iterator[float]:
    """Yield the numbers by which the branches of trees are chosen."""
    if node.op_type not in _TREES:
        return
    if "nodes_splits" in node.attributes:
        yield from node.attributes["nodes_splits"].as_tensor().numpy().reshape(-1).tolist()
    elif "nodes_values" in node.attributes and "nodes_modes" in node.attributes:
        modes = node.attributes["nodes_modes"].as_strings()
        numbers = node.attributes["nodes_values"].as_floats()
        for mode, number in zip(modes, numbers, strict=False):
            if mode != "LEAF":
                yield number
