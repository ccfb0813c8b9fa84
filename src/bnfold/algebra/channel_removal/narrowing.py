"""Linear operators with fewer channels: a filter that goes, and an input channel that goes.

    W∗x + b, output channel o gone    the rows W_o and b_o go
    W∗x + b, input channel i gone     the columns W_{·,i} go, exactly if they are zero, or if x_i is
                                      a constant c everywhere: then b_o gains Σ_k W_{o,i,k}·c

Padding is zero, not c, so a Conv that pads can lose a constant channel only if c = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bnfold.algebra.affine_maps.linear import pads
from bnfold.algebra.weights import folded_name, stored
from bnfold.arrays import Array, FloatArray, float_limits
from bnfold.graph.constants import constant, first_along, is_constant
from bnfold.rewriting.contract import Op, Operand, Refused, Weight, same_op
from bnfold.rewriting.query import (
    float_attribute,
    input_of,
    int_attribute,
    is_op,
    opset,
    rank_of,
    shape_of,
)

Mask = npt.NDArray[np.bool_]

LINEAR_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, eq=False)
class Kernel:
    """A constant weight, of which no more is read than need be."""

    value: ir.Value
    shape: tuple[int, ...]
    dtype: ir.DataType

    @staticmethod
    def of(value: ir.Value | None) -> Kernel | None:
        """Return the kernel that a constant of floats is; None for others."""
        if value is None or not is_constant(value):
            return None
        tensor = value.const_value if value.is_initializer() else None
        content = constant(value) if tensor is None else None
        if tensor is not None:
            kernel = Kernel(value, tuple(tensor.shape.numpy()), tensor.dtype)
        elif content is not None:
            kernel = Kernel(value, content.shape, ir.DataType.from_numpy(content.dtype))
        else:
            return None
        return kernel if kernel.dtype.is_floating_point() else None

    @property
    def array(self) -> Array:
        """All of it."""
        content = constant(self.value)
        assert content is not None
        return content

    def zeros_along(self, axis: int) -> Mask:
        """Say of each index along an axis whether all weights there are zero.

        Subnormal weights count as zero, except those of float16, as in `stored`.
        """
        if 0 in self.shape:
            return np.zeros(self.shape[axis], bool)
        mask = _is_zero(first_along(self.value, axis))
        candidates = np.flatnonzero(mask)  # mostly none: nothing else of the weight is read
        if candidates.size:
            slices = np.take(self.array, candidates, axis)
            others = tuple(place for place in range(len(self.shape)) if place != axis)
            mask[candidates] = _is_zero(slices).all(axis=others)
        return mask


def _is_zero(values: Array) -> Mask:
    if values.dtype == np.float16:
        return np.array(values == 0)
    return np.array(np.abs(values) < float_limits(values.dtype).smallest_normal)


@dataclass(frozen=True, eq=False)
class Linear:
    """A Conv or ConvTranspose without groups, a Gemm, or a MatMul, with constant weights."""

    node: ir.Node
    kernel: Kernel
    input_axis: int
    """The axis of the weight along which the input's channels lie."""
    output_axis: int
    axis: int
    """The axis of the data, and of the result, along which the channels lie."""
    bias: Array | None
    alpha: float = 1.0
    beta: float = 1.0

    @staticmethod
    def of(node: ir.Node) -> Linear | None:
        """Read a linear operator; None if it has groups, or if a weight is not constant."""
        if not is_op(node, *LINEAR_OPERATORS):
            return None
        kernel, bias = Kernel.of(input_of(node, 1)), constant(input_of(node, 2))
        if kernel is None or (bias is None and input_of(node, 2) is not None):
            return None
        try:
            linear = _READERS[node.op_type](node, kernel, bias)
        except Refused:  # an attribute by reference
            return None
        return linear if linear is not None and linear._is_sound() else None

    @property
    def inputs(self) -> int:
        """The number of input channels."""
        return int(self.kernel.shape[self.input_axis])

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        return int(self.kernel.shape[self.output_axis])

    def _is_sound(self) -> bool:
        if self.bias is not None and not is_op(self.node, "Gemm"):
            return self.bias.shape == (self.outputs,)
        return self.bias is None or self.bias.ndim == 0 or self.bias.shape[-1] in (1, self.outputs)

    def constants(self) -> FloatArray:
        """Return the value of each output channel that is one for all inputs; NaN for the others.

        It is the bias of a filter without weights, and infinite if that is no number. The bias of a
        Gemm may differ from row to row.
        """
        values = np.full(self.outputs, np.nan)
        dead = self.kernel.zeros_along(self.output_axis)
        if dead.any():
            values[dead] = self._uniform_bias()[dead]
        return values

    def _uniform_bias(self) -> FloatArray:
        if self.bias is None:
            return np.zeros(self.outputs)
        rows = self.bias.astype(np.float64).reshape(
            -1, self.bias.shape[-1] if self.bias.ndim else 1
        )
        uniform = np.where((rows == rows[:1]).all(axis=0), self.beta * rows[0], np.nan)
        uniform[~np.isfinite(rows).all(axis=0)] = np.inf
        return np.broadcast_to(uniform, self.outputs)

    def ignored(self) -> Mask:
        """Say of each input channel whether all its weights are zero."""
        return self.kernel.zeros_along(self.input_axis)

    @property
    def takes_shifts(self) -> bool:
        """Whether a constant channel of the input is the same shift of the output everywhere."""
        if is_op(self.node, "ConvTranspose"):
            return False  # at the border, fewer taps reach an output
        return not is_op(self.node, "Conv") or not pads(self.node, self.kernel.shape)

    def narrowed(
        self, data: Operand, kept_inputs: Mask, constants: FloatArray, kept_outputs: Mask
    ) -> Op:
        """Return the operator without some channels; `constants` are those of the input.

        Raises:
            Refused: with a reason from `NotStorable`.
        """
        gone = np.where(kept_inputs | np.isnan(constants), 0.0, constants)
        bias = self._moved_bias(gone)
        if bias is not None and bias.ndim and bias.shape[-1] != 1:
            bias = bias[..., kept_outputs]
        weight = np.compress(kept_inputs, self.kernel.array, self.input_axis)
        weight = np.compress(kept_outputs, weight, self.output_axis)
        inputs: list[Operand] = [data, self._weight(np.ascontiguousarray(weight), 1)]
        if is_op(self.node, "MatMul"):
            return self._product(inputs, bias)
        if bias is not None:
            inputs.append(self._stored(bias) if gone.any() else self._weight(bias, 2))
        if is_op(self.node, "Gemm") and opset(self.node) < 7 and bias is not None:
            attributes = {**self.node.attributes, "broadcast": ir.AttrInt64("broadcast", 1)}
            return Op("Gemm", inputs, tuple(attributes.values()), self.node)
        return same_op(self.node, inputs)

    def _moved_bias(self, gone: FloatArray) -> Array | None:
        """Return the bias, with what the constant channels add to it."""
        if not gone.any():
            return self.bias
        weight = np.moveaxis(self.kernel.array.astype(np.float64), self.input_axis, 0)
        outputs_axis = self.output_axis + (self.output_axis < self.input_axis)
        others = tuple(axis for axis in range(1, weight.ndim) if axis != outputs_axis)
        shift: FloatArray = self.alpha * (gone @ weight.sum(axis=others)) / self.beta
        return shift if self.bias is None else self.bias.astype(np.float64) + shift

    def _product(self, inputs: list[Operand], bias: Array | None) -> Op:
        """Return a MatMul, with an Add after it if there is a bias now."""
        if bias is None:
            return same_op(self.node, inputs)
        output = self.node.outputs[0]
        shape = with_size(shape_of(output), self.axis, bias.shape[-1])
        product = same_op(self.node, inputs, shape=shape, type_of=output)
        legacy = [ir.AttrInt64("broadcast", 1)] if opset(self.node) < 7 else []
        return Op("Add", [product, self._stored(bias)], legacy)

    def _weight(self, array: Array, index: int) -> Weight:
        return Weight(array, ir.DataType.from_numpy(array.dtype), folded_name(self.node, index))

    def _stored(self, bias: Array) -> Weight:
        return stored(bias, self.kernel.dtype, folded_name(self.node, 2), self.node)


def _conv(node: ir.Node, kernel: Kernel, bias: Array | None) -> Linear | None:
    """W is (Cout, Cin, k…)."""
    if len(kernel.shape) < 3 or int_attribute(node, "group", 1) != 1:
        return None
    return Linear(node, kernel, 1, 0, 1, bias)


def _conv_transpose(node: ir.Node, kernel: Kernel, bias: Array | None) -> Linear | None:
    """W is (Cin, Cout, k…)."""
    if len(kernel.shape) < 3 or int_attribute(node, "group", 1) != 1:
        return None
    return Linear(node, kernel, 0, 1, 1, bias)


def _gemm(node: ir.Node, kernel: Kernel, bias: Array | None) -> Linear | None:
    """α·A·B' + β·C, where B' = B is (Cin, Cout), or its transpose."""
    if len(kernel.shape) != 2 or int_attribute(node, "transA", 0):
        return None
    transposed = int_attribute(node, "transB", 0) != 0
    alpha, beta = float_attribute(node, "alpha", 1.0), float_attribute(node, "beta", 1.0)
    if beta == 0:
        return None
    return Linear(node, kernel, int(transposed), 1 - int(transposed), 1, bias, alpha, beta)


def _matmul(node: ir.Node, kernel: Kernel, bias: Array | None) -> Linear | None:
    """The weight is (Cin, Cout), and the channels lie on the last axis of the data."""
    rank = rank_of(node.outputs[0])
    if len(kernel.shape) != 2 or rank is None:
        return None
    return Linear(node, kernel, 0, 1, rank - 1, None)


_READERS = {"Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "MatMul": _matmul}


def with_size(shape: ir.Shape | None, axis: int, size: int) -> ir.Shape | None:
    """Return the shape, as far as known, with another size along an axis."""
    if shape is None:
        return None
    return ir.Shape([size if place == axis else old for place, old in enumerate(shape.dims)])
