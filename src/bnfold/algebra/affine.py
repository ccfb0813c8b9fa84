"""Per-channel affine maps, and the operators that compute one.

Write ``A(s, t)`` for ``y_c = s_c · x_c + t_c`` along one axis of x. An inference BatchNormalization
is such a map, and so is a Mul, Div, Add or Sub of a constant that varies along only one axis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array, FloatArray
from bnfold.graph.constants import constant, is_overridable
from bnfold.graph.memory import memory
from bnfold.rewriting.contract import Common, Refusal, Refused, require
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
        "pass --freeze-initializers if no caller does",
    )
    PARAMETERS_MALFORMED = "its four parameters are not vectors of one length"
    NO_CONSTANT_OPERAND = "neither operand is constant, or the constant is divided by the other"
    NOT_PER_CHANNEL = "its constant varies along more than one axis, or adds an axis"
    ROUNDS = "its constant is so large that adding it rounds the values, which may be its purpose"


NOT_AFFINE = (*NotAffine, Common.PARAMETER_NOT_CONSTANT, Common.TRAINING_MODE)
"""All reasons of `affine_map` and `batch_normalization`."""


_LARGE = 2.0**10
"""A term from which on cancelling another is taken to be meant."""

_NEAR = 4
"""Operators within which a term and what cancels it belong together."""

_CANCELLED = 2.0**-8
"""What is left, at most, of a term that another cancels."""


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
            known[node] = (_batch_normalization(node), 0) if is_norm else _constant_operand(node)
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


def _constant_operand(node: ir.Node) -> tuple[Affine, int]:
    """Read x·k, k·x, x/k, x+k, k+x, x−k or k−x; not k/x, which is not affine in x."""
    contents = [constant(input_of(node, index)) for index in (0, 1)]
    constants = [index for index in (1, 0) if contents[index] is not None]
    require(len(constants) == 1, NotAffine.NO_CONSTANT_OPERAND)
    (index,) = constants
    require(not (is_op(node, "Div") and index == 0), NotAffine.NO_CONSTANT_OPERAND)
    data, content = input_of(node, 1 - index), contents[index]
    assert data is not None
    assert content is not None
    dtype = ir.DataType.from_numpy(content.dtype)
    require(dtype.is_floating_point(), NotAffine.NO_CONSTANT_OPERAND)
    if node.op_type in ("Add", "Sub"):
        require(not _rounds(node, content), NotAffine.ROUNDS)
    axis = _channel_axis(node, data, content)
    operand = content.astype(np.float64).reshape(-1)
    one, zero = np.ones_like(operand), np.zeros_like(operand)
    with np.errstate(all="ignore"):  # values that are not finite are refused when stored
        scale, shift = {
            "Mul": (operand, zero),
            "Div": (one / operand, zero),
            "Add": (one, operand),
            "Sub": (one, -operand) if index == 1 else (-one, operand),
        }[node.op_type]
    return Affine(scale, shift, axis), 1 - index


def _rounds(node: ir.Node, term: Array) -> bool:
    """Say whether a sum seems to be there for its rounding.

    From 1/ε on, which is 2²³ in float32, it is a whole number; and adding what a later operator
    takes away, or an earlier one has taken, has no other effect.
    """
    largest = float(np.abs(term.astype(np.float64)).max(initial=0))
    if largest >= 1 / float(ml_dtypes.finfo(term.dtype).eps):  # type: ignore[no-untyped-call]
        return True
    if largest < _LARGE:
        return False
    earlier, source = [node], _source(node)
    while source is not None and len(earlier) < _NEAR:
        earlier.append(source)
        source = _source(source)
    return any(map(_is_taken_away, earlier))


_PASSING = ("Identity", "Reshape", "Flatten", "Squeeze", "Transpose", "Unsqueeze")


def _is_taken_away(node: ir.Node) -> bool:
    """Say whether operators after an Add or Sub cancel what it adds."""
    step = _step(node)
    if step is None or step[1] == 0:
        return False
    pending = [(node, step[1], 0)]
    while pending:
        place, term, distance = pending.pop()
        for use in place.outputs[0].uses() if distance < _NEAR else ():
            step = _step(use.node)
            if step is None:
                continue
            moved = term * step[0]
            if abs(moved + step[1]) < abs(moved) * _CANCELLED:
                return True
            pending.append((use.node, moved + step[1], distance + 1))
    return False


def _source(node: ir.Node) -> ir.Node | None:
    """Return the node before one that computes s·x + t, or passes x on."""
    value = next((value for value in node.inputs if value and constant(value) is None), None)
    source = value.producer() if value is not None else None
    return source if source is not None and _step(source) is not None else None


def _step(node: ir.Node) -> tuple[float, float] | None:
    """Return s and t, where they are largest, of a node that computes s·x + t."""
    if is_op(node, *_PASSING):
        return 1.0, 0.0
    if not is_op(node, "Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    contents = [constant(value) for value in node.inputs]
    known = [content for content in contents if content is not None and content.size]
    if len(known) != 1:
        return None
    flat = known[0].astype(np.float64).reshape(-1)
    number = float(flat[np.abs(flat).argmax()])
    is_second = contents[1] is not None
    if is_op(node, "Add"):
        return 1.0, number
    if is_op(node, "Sub"):
        return (1.0, -number) if is_second else (-1.0, number)
    if is_op(node, "Mul"):
        return number, 0.0
    return (1 / number, 0.0) if is_second and number else None


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
