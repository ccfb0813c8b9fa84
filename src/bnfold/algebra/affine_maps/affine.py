"""Per-channel affine maps, and the operators that compute one.

Write ``A(s, t)`` for ``y_c = s_c · x_c + t_c`` along one axis of x. An inference BatchNormalization
is such a map, and so is a Mul, Div, Add or Sub of a constant that varies along only one axis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bnfold.algebra.operand import constant_operand
from bnfold.algebra.rounding import is_for_rounding
from bnfold.arrays import Array, FloatArray, IntArray
from bnfold.graph.constants import constant, is_overridable
from bnfold.graph.memory import memory
from bnfold.rewriting.contract import FREEZE, Common, Refusal, Refused, require
from bnfold.rewriting.query import (
    float_attribute,
    input_of,
    int_attribute,
    is_op,
    is_used,
    opset,
    shape_of,
)

AFFINE_OPERATORS = ("BatchNormalization", "Mul", "Div", "Add", "Sub")


class NotAffine(Refusal):
    """Why an operator is not a fixed per-channel affine map; see `NOT_AFFINE` for all reasons."""

    TRAINING_OUTPUTS = (
        "it declares more than one output, which selects training mode before opset 14",
        "export the model after model.eval(), or pass --force-inference",
    )
    EXTRA_OUTPUT_USED = "an output other than its first is used"
    PER_ACTIVATION = "it has spatial = 0 and normalizes each position separately"
    PARAMETER_OVERRIDABLE = (
        "a caller may override its scale, bias, mean or variance (an initializer that is also a "
        "graph input)",
        FREEZE,
    )
    PARAMETERS_MALFORMED = "its four parameters are not vectors of one length"
    NO_CONSTANT_OPERAND = "neither operand is constant, or the constant is divided by the other"
    NOT_PER_CHANNEL = "its constant varies along more than one axis, or adds an axis"
    ROUNDS = "its constant is so large that adding it rounds the values, which may be its purpose"


NOT_AFFINE = (*NotAffine, Common.PARAMETER_NOT_CONSTANT, Common.TRAINING_MODE)
"""All reasons of `affine_map` and `batch_normalization`."""


@dataclass(frozen=True, eq=False)
class Affine:
    """The map ``y_c = scale_c · x_c + shift_c`` over the channels c along `axis`.

    Both are float64 of one length. Channel c has the scale and shift number ``c // run``, counted
    around; the axis holds them `periods` times. A map that has passed through a Reshape may thus
    have as many channels as a tensor has elements, and stays small until it is `spread`.

    A map of one channel is *uniform*: the same along every axis, whatever its length.
    """

    scale: FloatArray
    shift: FloatArray
    axis: int
    run: int = 1
    periods: int = 1

    @property
    def channels(self) -> int:
        """The number of channels."""
        return self.scale.size * self.run * self.periods

    @property
    def is_uniform(self) -> bool:
        """Whether it is the same for all elements."""
        return self.channels == 1

    @property
    def has_shift(self) -> bool:
        """Whether zero does not map to zero."""
        return bool(self.shift.any())

    @property
    def is_identity(self) -> bool:
        """Whether everything maps to itself."""
        return not self.has_shift and bool((self.scale == 1).all())

    def along(self, axis: int) -> Affine:
        """Return the same channels along another axis."""
        return replace(self, axis=axis)

    def spread(self) -> Affine:
        """Return the same map with a scale and shift for each channel."""
        scale, shift = (
            np.tile(np.repeat(values, self.run), self.periods)
            for values in (self.scale, self.shift)
        )
        return Affine(scale, shift, self.axis)

    def piece(self, start: int, length: int) -> Affine:
        """Return `length` channels from `start` on."""
        if self.is_uniform:
            return self
        if self.periods > 1 or start % self.run or length % self.run:
            return self.spread().piece(start, length)
        part = slice(start // self.run, (start + length) // self.run)
        return Affine(self.scale[part], self.shift[part], self.axis, self.run)

    def picked(self, channels: IntArray) -> Affine:
        """Return these of its channels, in this order."""
        places = channels // self.run % self.scale.size
        return Affine(self.scale[places], self.shift[places], self.axis)

    def without_shift(self) -> Affine:
        """Return the linear part alone."""
        return replace(self, shift=np.zeros_like(self.shift))

    def after(self, first: Affine) -> Affine:
        """Compose: A(s₂, t₂) ∘ A(s₁, t₁) = A(s₂·s₁, s₂·t₁ + t₂).

        Raises:
            Refused: if the two have channels along different axes.
        """
        together = self.axis == first.axis and self.channels == first.channels
        require(together or self.is_uniform or first.is_uniform, NotAffine.NOT_PER_CHANNEL)
        like = first if self.is_uniform else self
        second = self
        if together and (self.run, self.periods) != (first.run, first.periods):
            first, second = first.spread(), self.spread()
            like = second
        with np.errstate(all="ignore"):  # values that are not finite are refused when stored
            shift = second.scale * first.shift + second.shift
            return replace(like, scale=second.scale * first.scale, shift=shift)


def affine_map(node: ir.Node) -> tuple[Affine, int]:
    """Return the affine map that the node computes, and the index of the input it is applied to.

    Raises:
        Refused: with a reason from `NotAffine`.
    """
    known = memory().answers("affine map")
    if node not in known:
        try:
            is_norm = is_op(node, "BatchNormalization")
            known[node] = (_batch_normalization(node), 0) if is_norm else _of_constant(node)
        except Refused as refused:
            known[node] = refused.reason, refused.subject, refused.detail
    answer: tuple[Affine, int] | tuple[Refusal, ir.Node | None, str] = known[node]
    if len(answer) == 3:
        raise Refused(*answer)
    return answer


def batch_normalization(node: ir.Node) -> Affine:
    """Return the affine map of an inference BatchNormalization: s = γ/√(σ²+ε), t = β − μ·s.

    Raises:
        Refused: with a reason from `NotAffine`.
    """
    return affine_map(node)[0]


def _batch_normalization(node: ir.Node) -> Affine:
    gamma, beta, mean, variance = batch_norm_parameters(node)
    with np.errstate(all="ignore"):  # values that are not finite are refused when stored
        scale = gamma / np.sqrt(variance + float_attribute(node, "epsilon", 1e-5))
        return Affine(scale, beta - mean * scale, axis=1)


def batch_norm_parameters(node: ir.Node) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return γ, β, μ and σ² of an inference BatchNormalization, all of one shape (C,).

    Raises:
        Refused: with a reason from `NotAffine`.
    """
    version = opset(node)
    if version >= 14:
        require(int_attribute(node, "training_mode", 0) == 0, Common.TRAINING_MODE)
    elif version >= 7:
        declared = sum(bool(output.name) for output in node.outputs)
        require(declared == 1, NotAffine.TRAINING_OUTPUTS)
    else:
        require(int_attribute(node, "is_test", 0) != 0, Common.TRAINING_MODE)
    require(not any(map(is_used, node.outputs[1:])), NotAffine.EXTRA_OUTPUT_USED)
    if version < 9:
        require(int_attribute(node, "spatial", 1) != 0, NotAffine.PER_ACTIVATION)
    gamma, beta, mean, variance = (_batch_norm_parameter(node, index) for index in range(1, 5))
    shapes = {parameter.shape for parameter in (gamma, beta, mean, variance)}
    require(len(shapes) == 1 and gamma.ndim == 1, NotAffine.PARAMETERS_MALFORMED)
    return gamma, beta, mean, variance


def _batch_norm_parameter(node: ir.Node, index: int) -> FloatArray:
    value = input_of(node, index)
    require(not is_overridable(value), NotAffine.PARAMETER_OVERRIDABLE, detail=_name(value))
    content = constant(value)
    if content is None:
        raise Refused(Common.PARAMETER_NOT_CONSTANT, detail=_name(value))
    return content.astype(np.float64)


def _of_constant(node: ir.Node) -> tuple[Affine, int]:
    """Read x·k, k·x, x/k, x+k, k+x, x−k or k−x as a map, where k varies along one axis."""
    operand = constant_operand(node)
    if operand is None:
        raise Refused(NotAffine.NO_CONSTANT_OPERAND)
    if is_op(node, "Add", "Sub"):
        require(not is_for_rounding(node, operand), NotAffine.ROUNDS)
    data = input_of(node, 1 - operand.index)
    assert data is not None
    axis = _channel_axis(node, data, operand.content)
    return Affine(operand.scale, operand.shift, axis), 1 - operand.index


def _channel_axis(node: ir.Node, data: ir.Value, content: Array) -> int:
    """Return the one axis of the data along which a broadcast constant varies.

    Broadcasting aligns the last axes. The data must already have the full length along that
    axis: if its length is 1, the constant repeats the data, and the result is larger.
    """
    shape = shape_of(data)
    if content.size == 1 and content.ndim == 0:
        return 0
    if shape is None:
        raise Refused(NotAffine.NOT_PER_CHANNEL)
    rank = shape.rank()
    start = rank - content.ndim
    if opset(node) < 7 and int_attribute(node, "broadcast", 0) and "axis" in node.attributes:
        start = int_attribute(node, "axis", 0)
    wide = [axis for axis, length in enumerate(content.shape) if length != 1]
    require(start >= 0 and len(wide) <= 1, NotAffine.NOT_PER_CHANNEL)
    if not wide:
        return 0
    axis = start + wide[0]
    require(axis < rank and shape[axis] == content.size, NotAffine.NOT_PER_CHANNEL)
    return axis


def _name(value: ir.Value | None) -> str:
    return (value.name or "") if value is not None else ""
