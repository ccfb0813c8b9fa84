"""Elementwise operators: which are non-decreasing, and how exactly they can be moved.

The table `ELEMENTWISE` holds all that a pass needs to know to move an operator f across a pool:
when f is non-decreasing, and how exact the rewrite is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import NOT_AFFINE, batch_normalization
from bnfold.graph.constants import constant, is_overridable
from bnfold.rewriting.contract import Common, Exactness, Refusal, Refused, require
from bnfold.rewriting.query import float_attribute, input_of, int_attribute, opset, rank_of


class NotMonotone(Refusal):
    """Why an elementwise operator does not commute with a maximum over windows."""

    NOT_MONOTONE = "the operator before the pool is not non-decreasing"
    NOT_TOTAL = "the operator before the pool is undefined for negative values"
    NEGATIVE_SLOPE = "a slope or factor of the operator before the pool is negative"
    VARIES_IN_SPACE = "the operator before the pool has a parameter that varies within a window"
    TWO_VALUES = (
        "the operator before the pool combines two values, which are largest at different places"
    )
    WRAPS_AROUND = "it computes with integers, which wrap around where they overflow"
    NOT_FINITE = "a factor or term of the operator before the pool is not finite"
    NARROWING_CAST = (
        "the Cast before the pool may lose values, or MaxPool does not support its type"
    )


NOT_MONOTONE = tuple(dict.fromkeys([*NotMonotone, *NOT_AFFINE]))
"""All reasons of `monotone`, which requires a BatchNormalization to be affine."""


Condition = Callable[[ir.Node, int], int]
"""Maps an operator and the number of spatial axes to the index of the data input, or refuses."""


@dataclass(frozen=True)
class Elementwise:
    """An operator that maps each element independently."""

    data_input: Condition
    exactness: Exactness = Exactness.BITWISE
    exactness_in_half: Exactness | None = None
    """The exactness for float16, if it differs."""


def exactness_of(node: ir.Node) -> Exactness:
    """Return how exactly an operator in `ELEMENTWISE` moves, given the type of its result."""
    entry = ELEMENTWISE[node.op_type]
    is_half = node.outputs[0].dtype == ir.DataType.FLOAT16
    return (entry.exactness_in_half if is_half else None) or entry.exactness


def monotone(node: ir.Node, spatial_rank: int) -> int:
    """Return the index of the input in which `node` is non-decreasing, element by element.

    Everything else that it depends on is constant over the last `spatial_rank` axes.

    Raises:
        Refused: with a reason from `NOT_MONOTONE`.
    """
    return ELEMENTWISE[node.op_type].data_input(node, spatial_rank)


def _always(node: ir.Node, spatial_rank: int) -> int:
    return 0


def _never(node: ir.Node, spatial_rank: int) -> int:
    raise Refused(NotMonotone.NOT_MONOTONE, node)


def _undefined_below_zero(node: ir.Node, spatial_rank: int) -> int:
    raise Refused(NotMonotone.NOT_TOTAL, node)


def _attribute_not_negative(name: str, default: float) -> Condition:
    def condition(node: ir.Node, spatial_rank: int) -> int:
        value = float_attribute(node, name, default)
        require(value >= 0, NotMonotone.NEGATIVE_SLOPE, node, f"{name} = {value:g}")
        return 0

    return condition


def _selu(node: ir.Node, spatial_rank: int) -> int:
    """γ·x above zero and γ·α·(eˣ − 1) below."""
    _attribute_not_negative("alpha", 1.67326)(node, spatial_rank)
    return _attribute_not_negative("gamma", 1.0507)(node, spatial_rank)


def _celu(node: ir.Node, spatial_rank: int) -> int:
    """max(0, x) + min(0, α·(e^(x/α) − 1)): α = 0 divides by zero."""
    require(float_attribute(node, "alpha", 1.0) > 0, NotMonotone.NEGATIVE_SLOPE, node)
    return 0


def _prelu(node: ir.Node, spatial_rank: int) -> int:
    _require_not_negative(node, 1)
    _require_constant_over_window(node, 1, spatial_rank)
    return 0


def _add(node: ir.Node, spatial_rank: int) -> int:
    term = _constant_input(node, 0, 1)
    _require_constant_over_window(node, term, spatial_rank)
    return 1 - term


def _sub(node: ir.Node, spatial_rank: int) -> int:
    """The difference x − k grows with x; k − x falls."""
    require(_constant_input(node, 1, 0) == 1, NotMonotone.NOT_MONOTONE, node)
    _require_constant_over_window(node, 1, spatial_rank)
    return 0


def _mul(node: ir.Node, spatial_rank: int) -> int:
    factor = _constant_input(node, 0, 1)
    _require_not_negative(node, factor)
    _require_constant_over_window(node, factor, spatial_rank)
    return 1 - factor


def _div(node: ir.Node, spatial_rank: int) -> int:
    """The quotient x / k grows with x for k > 0; k / x does not."""
    require(_constant_input(node, 1, 0) == 1, NotMonotone.NOT_MONOTONE, node)
    _require_not_negative(node, 1)
    divisor = constant(node.inputs[1])
    require(divisor is not None and bool((divisor != 0).all()), NotMonotone.NEGATIVE_SLOPE, node)
    _require_constant_over_window(node, 1, spatial_rank)
    return 0


def _batch_normalization(node: ir.Node, spatial_rank: int) -> int:
    affine = batch_normalization(node)
    finite = bool(np.isfinite(affine.scale).all() and np.isfinite(affine.shift).all())
    require(finite, NotMonotone.NOT_FINITE, node)
    require(bool((affine.scale >= 0).all()), NotMonotone.NEGATIVE_SLOPE, node)
    return 0


_WIDER: Mapping[ir.DataType, frozenset[ir.DataType]] = {
    ir.DataType.FLOAT: frozenset({ir.DataType.DOUBLE}),
    ir.DataType.INT8: frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE}),
    ir.DataType.UINT8: frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE}),
}
"""Maps each type that onnxruntime's MaxPool supports to the types that hold all its values."""


def _cast(node: ir.Node, spatial_rank: int) -> int:
    data = node.inputs[0]
    source = data.dtype if data is not None else None
    target = ir.DataType(int_attribute(node, "to", 0))
    widens = source is not None and target in _WIDER.get(source, frozenset())
    eight_bit = source in (ir.DataType.INT8, ir.DataType.UINT8)
    require(widens and not (eight_bit and opset(node) < 12), NotMonotone.NARROWING_CAST, node)
    return 0


def _constant_input(node: ir.Node, *indices: int) -> int:
    for index in indices:
        if constant(input_of(node, index)) is not None:
            return index
    is_parameter = any(is_overridable(input_of(node, index)) for index in indices)
    raise Refused(Common.PARAMETER_NOT_CONSTANT if is_parameter else NotMonotone.TWO_VALUES, node)


def _require_not_negative(node: ir.Node, index: int) -> None:
    content = constant(input_of(node, index))
    if content is None:
        raise Refused(Common.PARAMETER_NOT_CONSTANT, node)
    require(bool((content >= 0).all()), NotMonotone.NEGATIVE_SLOPE, node)


def _require_constant_over_window(node: ir.Node, index: int, spatial_rank: int) -> None:
    """Require that broadcasting repeats the input over the last `spatial_rank` axes.

    It must not have more axes than the data either, because the pool would then get fewer than it
    needs; and it must be finite, because 0·∞ is NaN.
    """
    content = constant(input_of(node, index))
    assert content is not None
    is_float = ir.DataType.from_numpy(content.dtype).is_floating_point()
    require(is_float, NotMonotone.WRAPS_AROUND, node)
    require(bool(np.isfinite(content).all()), NotMonotone.NOT_FINITE, node)
    spatial = content.shape[max(content.ndim - spatial_rank, 0) :]
    if opset(node) < 7 and node.attributes.get("broadcast") is not None:
        spatial = content.shape  # aligned by the attribute `axis`: only a scalar is safe
    same_everywhere = all(length == 1 for length in spatial)
    data = input_of(node, 1 - index)
    keeps_rank = content.ndim < spatial_rank + 2 or (
        rank_of(data) == content.ndim == spatial_rank + 2
    )
    require(same_everywhere and keeps_rank, NotMonotone.VARIES_IN_SPACE, node)


def _transcendental(data_input: Condition = _always) -> Elementwise:
    return Elementwise(data_input, Exactness.ROUNDED)


ELEMENTWISE: Mapping[str, Elementwise] = {
    "Relu": Elementwise(_always),
    "Clip": Elementwise(_always),
    "LeakyRelu": Elementwise(_attribute_not_negative("alpha", 0.01)),
    "PRelu": Elementwise(_prelu),
    "ThresholdedRelu": Elementwise(_attribute_not_negative("alpha", 1.0)),
    "Floor": Elementwise(_always),
    "Ceil": Elementwise(_always),
    # onnxruntime rounds halves of float16 up or down, depending on the position.
    "Round": Elementwise(_always, exactness_in_half=Exactness.ROUNDED),
    "Sign": Elementwise(_always),
    "Add": Elementwise(_add),
    "Sub": Elementwise(_sub),
    "Mul": Elementwise(_mul),
    "Div": Elementwise(_div),
    "Cast": Elementwise(_cast),
    "BatchNormalization": Elementwise(_batch_normalization, Exactness.ROUNDED),
    "HardSigmoid": _transcendental(_attribute_not_negative("alpha", 0.2)),
    "Elu": _transcendental(_attribute_not_negative("alpha", 1.0)),
    "Selu": _transcendental(_selu),
    "Celu": _transcendental(_celu),
    "Sigmoid": _transcendental(),
    "Tanh": _transcendental(),
    "Softplus": _transcendental(),
    "Softsign": _transcendental(),
    "Erf": _transcendental(),
    "Exp": _transcendental(),
    "Atan": _transcendental(),
    "Log": Elementwise(_undefined_below_zero),
    "Sqrt": Elementwise(_undefined_below_zero),
    **dict.fromkeys(
        ("Abs", "Cos", "Gelu", "HardSwish", "Mish", "Neg", "Reciprocal", "Sin", "Swish"),
        Elementwise(_never),
    ),
}
