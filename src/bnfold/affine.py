"""Per-channel affine maps, and the linear operators that absorb them.

Write ``A(s, t)`` for ``y_c = s_c · x_c + t_c``. An inference BatchNormalization is such a map, and
a linear operator in front of it can compute the map along: ``A(s, t) ∘ L`` is again an ``L``,
with other weights. All arithmetic is float64; the weights are rounded once, when stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bnfold.contract import (
    Array,
    FloatArray,
    Op,
    Refusal,
    Refused,
    Weight,
    constant,
    float_attribute,
    input_of,
    int_attribute,
    is_op,
    is_overridable,
    is_used,
    opset,
    producer,
    require,
    same_op,
    sole_use,
    stored,
)


class NotAffine(Refusal):
    """Why a BatchNormalization is not a fixed per-channel affine map."""

    TRAINING_MODE = (
        "it runs in training mode and normalizes by the statistics of the batch at hand",
        "export the model after model.eval(), or pass --force-inference",
    )
    TRAINING_OUTPUTS = (
        "it declares more than one output, which selects training mode before opset 14",
        "export the model after model.eval(), or pass --force-inference",
    )
    EXTRA_OUTPUT_USED = "something reads an output other than its first"
    PER_ACTIVATION = "it has spatial = 0 and normalizes each position by itself"
    PARAMETER_NOT_CONSTANT = "its scale, bias, mean or variance is computed at run time"
    PARAMETER_OVERRIDABLE = (
        "a caller may override its scale, bias, mean or variance (an initializer that is also a "
        "graph input)",
        "pass --freeze-initializers if no caller does",
    )
    PARAMETERS_MALFORMED = "its four parameters are not vectors of one length"


class NotAbsorbed(Refusal):
    """Why no linear operator takes the affine map over."""

    NOT_LINEAR = "what feeds it is not a linear operator with constant weights"
    GRAPH_INPUT = "it reads the input of its graph directly; no operator stands in front of it"
    OTHER_GRAPH = "what feeds it stands outside its If, Loop or Scan body"
    SHARED = "something else reads the result of the operator in front of it, too"
    WEIGHT_NOT_CONSTANT = "a weight of the operator in front of it is computed at run time"
    WEIGHT_OVERRIDABLE = (
        "a caller may override a weight of the operator in front of it (an initializer that is "
        "also a graph input)",
        "pass --freeze-initializers if no caller does",
    )
    CHANNELS_DIFFER = "the operator in front of it has another number of output channels"
    OTHER_AXIS = "the operator in front of it has its output channels on another axis"
    RANK_UNKNOWN = (
        "the rank of its input is not known, so neither is the axis of its channels",
        "export the model with shapes, or run onnx.shape_inference on it",
    )


@dataclass(frozen=True, eq=False)
class Affine:
    """The map ``y_c = scale_c · x_c + shift_c`` over channels c; both float64 of shape (C,)."""

    scale: FloatArray
    shift: FloatArray

    @property
    def channels(self) -> int:
        """The number C of channels."""
        return self.scale.size


@dataclass(frozen=True, eq=False)
class Absorbed:
    """An expression that computes ``affine ∘ nodes[-1]``, and the nodes that it stands for."""

    op: Op
    nodes: tuple[ir.Node, ...]


def batch_normalization(node: ir.Node) -> Affine:
    """Return the affine map of an inference BatchNormalization: s = γ/√(σ²+ε), t = β − μ·s.

    Raises:
        Refused: with a reason from `NotAffine`.
    """
    version = opset(node)
    if version >= 14:
        require(int_attribute(node, "training_mode", 0) == 0, NotAffine.TRAINING_MODE)
    elif version >= 7:
        declared = sum(bool(output.name) for output in node.outputs)
        require(declared == 1, NotAffine.TRAINING_OUTPUTS)
    else:
        require(int_attribute(node, "is_test", 0) != 0, NotAffine.TRAINING_MODE)
    require(not any(map(is_used, node.outputs[1:])), NotAffine.EXTRA_OUTPUT_USED)
    if version < 9:
        require(int_attribute(node, "spatial", 1) != 0, NotAffine.PER_ACTIVATION)
    gamma, beta, mean, variance = (_batch_norm_parameter(node, index) for index in range(1, 5))
    shapes = {parameter.shape for parameter in (gamma, beta, mean, variance)}
    require(len(shapes) == 1 and gamma.ndim == 1, NotAffine.PARAMETERS_MALFORMED)
    with np.errstate(all="ignore"):  # what is not finite is refused where it would be stored
        scale = gamma / np.sqrt(variance + float_attribute(node, "epsilon", 1e-5))
        return Affine(scale, beta - mean * scale)


def _batch_norm_parameter(node: ir.Node, index: int) -> FloatArray:
    value = input_of(node, index)
    require(not is_overridable(value), NotAffine.PARAMETER_OVERRIDABLE, detail=_name(value))
    content = constant(value)
    if content is None:
        raise Refused(NotAffine.PARAMETER_NOT_CONSTANT, detail=_name(value))
    return content.astype(np.float64)


def absorb(affine: Affine, node: ir.Node) -> Absorbed:
    """Return an expression for ``affine`` applied to input 0 of `node`, one operator less.

    Raises:
        Refused: with a reason from `NotAbsorbed`.
    """
    value = input_of(node, 0)
    source = value.producer() if value is not None else None
    if value is None or source is None:
        raise Refused(NotAbsorbed.GRAPH_INPUT)
    require(source.graph is node.graph, NotAbsorbed.OTHER_GRAPH, source)
    absorber = _ABSORBERS.get(source.op_type) if source.domain == "" else None
    if absorber is None or (is_op(source, "Add") and _matmul_operand(source) is None):
        raise Refused(NotAbsorbed.NOT_LINEAR, source, source.op_type)
    require(sole_use(value), NotAbsorbed.SHARED, source)
    return absorber(affine, source)


def _conv(affine: Affine, conv: ir.Node) -> Absorbed:
    """A(s,t)(W∗x + b) = (s·W)∗x + (s·b + t), on W's first axis. W is (Cout, Cin/groups, k…)."""
    weight = _weight(conv, 1)
    require(weight.ndim >= 3, NotAbsorbed.CHANNELS_DIFFER, conv)
    _require_channels(affine, weight.shape[0], conv)
    scale = affine.scale.reshape(-1, *[1] * (weight.ndim - 1))
    return _convolution(affine, conv, weight.astype(np.float64) * scale, channel_axis=0)


def _conv_transpose(affine: Affine, conv: ir.Node) -> Absorbed:
    """As for Conv. W is (Cin, Cout/groups, k…); output channel g·(Cout/groups)+j is W[group g, j].

    The input channels are split into equal consecutive groups.
    """
    weight = _weight(conv, 1)
    groups = int_attribute(conv, "group", 1)
    require(weight.ndim >= 3 and weight.shape[0] % groups == 0, NotAbsorbed.CHANNELS_DIFFER, conv)
    _require_channels(affine, weight.shape[1] * groups, conv)
    scale = np.repeat(affine.scale.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    scale = scale.reshape(*scale.shape, *[1] * (weight.ndim - 2))
    return _convolution(affine, conv, weight.astype(np.float64) * scale, channel_axis=1)


def _convolution(
    affine: Affine, conv: ir.Node, scaled_weight: FloatArray, channel_axis: int
) -> Absorbed:
    bias = _optional_weight(conv, 2)
    if bias is not None:
        _require_channels(affine, bias.size, conv)
    shift = affine.shift if bias is None else affine.scale * bias + affine.shift
    weight = _store(scaled_weight, conv, 1, channel_axis)
    inputs = [conv.inputs[0], weight, _store(shift, conv, 2)]
    return Absorbed(same_op(conv, inputs), (conv,))


def _gemm(affine: Affine, gemm: ir.Node) -> Absorbed:
    """A(s,t)(α·A'B' + β·C) = α·A'(B'·s) + β·(s·C + t/β), on the columns of B' = B or Bᵀ.

    C may be a scalar, (N,), (1,N), (M,1) or (M,N); what broadcasting makes of s·C is its new
    shape. Without C, or with β = 0, the new C is t, with β = 1.
    """
    weight = _weight(gemm, 1)
    require(weight.ndim == 2, NotAbsorbed.CHANNELS_DIFFER, gemm)
    transposed = int_attribute(gemm, "transB", 0) != 0
    _require_channels(affine, weight.shape[0 if transposed else 1], gemm)
    scaled = weight.astype(np.float64) * (affine.scale[:, None] if transposed else affine.scale)
    beta = float_attribute(gemm, "beta", 1.0)
    bias = _optional_weight(gemm, 2)
    attributes = dict(gemm.attributes)
    if bias is None or beta == 0:
        shift = affine.shift
        attributes.pop("beta", None)
    else:
        require(_broadcasts_to(bias, affine.channels), NotAbsorbed.CHANNELS_DIFFER, gemm)
        with np.errstate(over="ignore"):
            shift = affine.scale * bias + affine.shift / beta
    if opset(gemm) < 7:
        attributes["broadcast"] = ir.AttrInt64("broadcast", 1)
    folded = _store(scaled, gemm, 1, channel_axis=0 if transposed else 1)
    inputs = [gemm.inputs[0], folded, _store(shift, gemm, 2)]
    return Absorbed(Op("Gemm", inputs, tuple(attributes.values()), gemm), (gemm,))


def _matmul(affine: Affine, matmul: ir.Node) -> Absorbed:
    """A(s,t)(x·B) = x·(B·s) + t for a matrix x: a Gemm."""
    scaled = _scaled_matmul_weight(affine, matmul)
    return Absorbed(_matmul_as_gemm(matmul, scaled, affine.shift), (matmul,))


def _biased_matmul(affine: Affine, add: ir.Node) -> Absorbed:
    """A(s,t)(x·B + b) = x·(B·s) + (s·b + t) for a matrix x and a constant row b: a Gemm."""
    index = _matmul_operand(add)
    assert index is not None
    matmul, bias = producer(add, index, "MatMul"), constant(input_of(add, 1 - index))
    assert matmul is not None
    assert bias is not None
    require(sole_use(matmul.outputs[0]), NotAbsorbed.SHARED, matmul)
    scaled = _scaled_matmul_weight(affine, matmul)
    is_row = bias.ndim < 2 or bias.shape[0] == 1
    require(is_row and _broadcasts_to(bias, affine.channels), NotAbsorbed.OTHER_AXIS, add)
    if opset(add) < 7:
        require(int_attribute(add, "axis", 1) in (1, -1), NotAbsorbed.OTHER_AXIS, add)
    shift = affine.scale * bias.astype(np.float64).reshape(-1) + affine.shift
    return Absorbed(_matmul_as_gemm(matmul, scaled, shift), (matmul, add))


def _matmul_operand(add: ir.Node) -> int | None:
    """Return which operand is a MatMul where the other is constant, or None."""
    for index in (0, 1):
        is_constant = constant(input_of(add, 1 - index)) is not None
        if is_constant and producer(add, index, "MatMul") is not None:
            return index
    return None


def _scaled_matmul_weight(affine: Affine, matmul: ir.Node) -> FloatArray:
    weight = _weight(matmul, 1)
    left = input_of(matmul, 0)
    rank = left.shape.rank() if left is not None and left.shape is not None else None
    if rank is None and matmul.outputs[0].shape is not None:
        rank = matmul.outputs[0].shape.rank()
    require(rank is not None, NotAbsorbed.RANK_UNKNOWN, matmul)
    require(rank == 2 and weight.ndim == 2, NotAbsorbed.OTHER_AXIS, matmul)
    _require_channels(affine, weight.shape[1], matmul)
    return weight.astype(np.float64) * affine.scale


def _matmul_as_gemm(matmul: ir.Node, weight: FloatArray, shift: FloatArray) -> Op:
    attributes = [ir.AttrInt64("broadcast", 1)] if opset(matmul) < 7 else []
    inputs = [
        matmul.inputs[0],
        _store(weight, matmul, 1, channel_axis=1),
        _store(shift, matmul, 2),
    ]
    return Op("Gemm", inputs, attributes, matmul)


_ABSORBERS: Mapping[str, Callable[[Affine, ir.Node], Absorbed]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _biased_matmul,
}


# --- The weights of linear operators ------------------------------------------------------------


def _weight(node: ir.Node, index: int) -> Array:
    value = input_of(node, index)
    require(not is_overridable(value), NotAbsorbed.WEIGHT_OVERRIDABLE, node, _name(value))
    content = constant(value)
    if content is None:
        raise Refused(NotAbsorbed.WEIGHT_NOT_CONSTANT, node, _name(value))
    return content


def _optional_weight(node: ir.Node, index: int) -> FloatArray | None:
    return None if input_of(node, index) is None else _weight(node, index).astype(np.float64)


def _dtype(node: ir.Node, index: int) -> ir.DataType:
    return ir.DataType.from_numpy(_weight(node, index).dtype)


def _store(
    values: FloatArray, node: ir.Node, index: int, channel_axis: int | None = None
) -> Weight:
    """Round new values for input `index` to the type of the operator's weight."""
    value = input_of(node, index)
    stem = value.name if value is not None and value.name else _bias_stem(node)
    stem = f"{stem.removesuffix('.folded')}.folded"
    return stored(values, _dtype(node, 1), stem, node, channel_axis)


def _bias_stem(node: ir.Node) -> str:
    weight = input_of(node, 1)
    return f"{weight.name if weight is not None else node.name}.bias"


def _require_channels(affine: Affine, channels: int, subject: ir.Node) -> None:
    detail = f"{channels}, not {affine.channels}"
    require(channels == affine.channels, NotAbsorbed.CHANNELS_DIFFER, subject, detail)


def _broadcasts_to(bias: Array, channels: int) -> bool:
    return bias.ndim <= 2 and (bias.ndim == 0 or bias.shape[-1] in (1, channels))


def _name(value: ir.Value | None) -> str:
    return (value.name or "") if value is not None else ""
