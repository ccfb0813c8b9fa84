"""A Conv as arrays: its kernel and bias in float64, and the positions of its taps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bnfold.algebra.weights import folded_name, stored
from bnfold.arrays import FloatArray
from bnfold.graph.constants import constant
from bnfold.rewriting.contract import Op, Operand
from bnfold.rewriting.query import (
    input_of,
    int_attribute,
    ints_attribute,
    shape_of,
    string_attribute,
)


@dataclass(frozen=True, eq=False)
class Convolution:
    """The linear map of a Conv: ``kernel`` is (Cout, Cin/groups, k…), ``bias`` is (Cout,).

    Tap j of the kernel along an axis reads position ``i·stride + j·dilation − before``.
    """

    kernel: FloatArray
    bias: FloatArray
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    groups: int
    dtype: ir.DataType

    @staticmethod
    def of(conv: ir.Node) -> Convolution | None:
        """Read a Conv; None if a weight is not constant, or padding depends on the input's size."""
        weight, bias = constant(input_of(conv, 1)), constant(input_of(conv, 2))
        auto_pad = string_attribute(conv, "auto_pad", "NOTSET")
        if weight is None or weight.ndim < 3 or auto_pad.startswith("SAME"):
            return None
        if input_of(conv, 2) is not None and bias is None:
            return None
        rank = weight.ndim - 2
        pads = ints_attribute(conv, "pads", [0] * 2 * rank)
        return Convolution(
            kernel=weight.astype(np.float64),
            bias=np.zeros(weight.shape[0]) if bias is None else bias.astype(np.float64),
            strides=ints_attribute(conv, "strides", [1] * rank),
            dilations=tuple(
                dilation if size > 1 else 1
                for dilation, size in zip(
                    ints_attribute(conv, "dilations", [1] * rank), weight.shape[2:], strict=True
                )
            ),
            before=pads[:rank] if auto_pad == "NOTSET" else (0,) * rank,
            after=pads[rank:] if auto_pad == "NOTSET" else (0,) * rank,
            groups=int_attribute(conv, "group", 1),
            dtype=ir.DataType.from_numpy(weight.dtype),
        )

    @property
    def size(self) -> tuple[int, ...]:
        """The kernel's length along each axis."""
        return self.kernel.shape[2:]

    @property
    def input_channels(self) -> int:
        """The number of channels of the input."""
        return int(self.kernel.shape[1]) * self.groups

    @property
    def is_pointwise(self) -> bool:
        """Whether each output position depends only on the same input position."""
        ones = all(length == 1 for length in (*self.size, *self.strides))
        return ones and not any((*self.before, *self.after))

    def pointwise(self, scale: FloatArray, shift: FloatArray) -> Convolution:
        """Return the channels' map ``scale·x + shift`` as a pointwise Conv with the same groups."""
        rank = len(self.size)
        per_group = self.kernel.shape[1]
        kernel = np.zeros((scale.size, per_group, *[1] * rank))
        channels = np.arange(scale.size)
        kernel[channels, channels % per_group] = scale.reshape(-1, *[1] * rank)
        ones, zeros = (1,) * rank, (0,) * rank
        return Convolution(kernel, shift, ones, ones, zeros, zeros, self.groups, self.dtype)

    def in_groups(self, groups: int) -> Convolution:
        """Return the same map with fewer groups; their number must divide the current one."""
        outputs, per_group, *size = self.kernel.shape
        per_new_group = self.input_channels // groups
        kernel = np.zeros((outputs, per_new_group, *size))
        for output in range(outputs):
            first = output * self.groups // outputs * per_group % per_new_group
            kernel[output, first : first + per_group] = self.kernel[output]
        return replace(self, kernel=kernel, groups=groups)

    def lies_over(self, other: Convolution) -> bool:
        """Say whether the outputs have the same size and the kernels can be aligned."""
        if self.kernel.shape[:2] != other.kernel.shape[:2]:
            return False
        mine, others = (
            (conv.size, conv.before, conv.after, conv.dilations) for conv in (self, other)
        )
        undilated = all(dilation == 1 for dilation in (*self.dilations, *other.dilations))
        shrinks = [
            [k - b - a for k, b, a in zip(c.size, c.before, c.after, strict=True)]
            for c in (self, other)
        ]
        return mine == others or (undilated and shrinks[0] == shrinks[1])

    def plus(self, other: Convolution, sign: int) -> Convolution:
        """Return the sum, or difference, of two Convs whose kernels can be aligned."""
        before = tuple(map(max, self.before, other.before))
        after = tuple(map(max, self.after, other.after))
        kernels = [conv._padded_to(before, after) for conv in (self, other)]
        return Convolution(
            kernels[0] + sign * kernels[1],
            self.bias + sign * other.bias,
            self.strides,
            self.dilations,
            before,
            after,
            self.groups,
            self.dtype,
        )

    def _padded_to(self, before: tuple[int, ...], after: tuple[int, ...]) -> FloatArray:
        extra = [
            (b - own_b, a - own_a)
            for b, own_b, a, own_a in zip(before, self.before, after, self.after, strict=True)
        ]
        return np.pad(self.kernel, [(0, 0), (0, 0), *extra])

    def to_op(self, data: ir.Value, like: ir.Node) -> Op:
        """Return a Conv of `data` that computes this map, with the name and metadata of `like`.

        Raises:
            Refused: with a reason from `NotStorable`.
        """
        attributes = [
            ir.AttrInt64s("kernel_shape", self.size),
            ir.AttrInt64s("strides", self.strides),
            ir.AttrInt64s("dilations", self.dilations),
            ir.AttrInt64s("pads", (*self.before, *self.after)),
            ir.AttrInt64("group", self.groups),
        ]
        inputs: list[Operand] = [
            data,
            stored(self.kernel, self.dtype, folded_name(like, 1), like, channel_axis=0),
            stored(self.bias, self.dtype, folded_name(like, 2), like),
        ]
        return Op("Conv", inputs, attributes, like)


def shape_with_channels(value: ir.Value, channels: int) -> ir.Shape | None:
    """Return the shape of the value, as far as known, with another number of channels."""
    shape = shape_of(value)
    if shape is None:
        return None
    batch, _, *space = shape.dims
    return ir.Shape([batch, channels, *space])
