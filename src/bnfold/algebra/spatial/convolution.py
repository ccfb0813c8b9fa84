"""A linear operator over space as arrays: kernel and bias in float64, and where its taps lie."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bnfold.algebra.padding import padding_of
from bnfold.algebra.pooling import Pool
from bnfold.algebra.weights import folded_name, stored
from bnfold.arrays import FloatArray
from bnfold.graph.constants import constant
from bnfold.rewriting.contract import Op, Operand
from bnfold.rewriting.query import (
    input_of,
    int_attribute,
    ints_attribute,
    is_op,
    shape_of,
    string_attribute,
)


@dataclass(frozen=True, eq=False)
class Convolution:
    """The linear map of a Conv: ``kernel`` is (Cout, Cin/groups, k…), ``bias`` is (Cout,).

    Tap j of the kernel along an axis reads position ``i·stride + j·dilation − before`` for the
    result's position i. That of a ConvTranspose, which is `transposed`, reads position i for the
    result's position ``i·stride + j·dilation − before``; then ``after`` is what is cut off at the
    end, less the `output_padding`.
    """

    kernel: FloatArray
    bias: FloatArray
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    groups: int
    dtype: ir.DataType
    transposed: bool = False

    @staticmethod
    def of(conv: ir.Node) -> Convolution | None:
        """Read a Conv or ConvTranspose.

        None if a weight is not constant, or padding depends on a size that is not known.
        """
        weight, bias = constant(input_of(conv, 1)), constant(input_of(conv, 2))
        if weight is None or weight.ndim < 3 or "output_shape" in conv.attributes:
            return None
        if input_of(conv, 2) is not None and bias is None:
            return None
        rank, groups = weight.ndim - 2, int_attribute(conv, "group", 1)
        strides, dilations = (
            ints_attribute(conv, name, [1] * rank) for name in ("strides", "dilations")
        )
        transposed = is_op(conv, "ConvTranspose")
        depends = transposed and string_attribute(conv, "auto_pad", "NOTSET").startswith("SAME")
        pads = None if depends else padding_of(conv, weight.shape[2:], strides, dilations)
        if pads is None:
            return None
        kernel, after = weight.astype(np.float64), tuple(end for _, end in pads)
        if transposed:
            kernel = _exchanged(kernel, groups)
            extra = ints_attribute(conv, "output_padding", [0] * rank)
            after = tuple(cut - more for cut, more in zip(after, extra, strict=True))
        return Convolution(
            kernel=kernel,
            bias=np.zeros(kernel.shape[0]) if bias is None else bias.astype(np.float64),
            strides=strides,
            dilations=tuple(
                dilation if size > 1 else 1
                for dilation, size in zip(dilations, weight.shape[2:], strict=True)
            ),
            before=tuple(start for start, _ in pads),
            after=after,
            groups=groups,
            dtype=ir.DataType.from_numpy(weight.dtype),
            transposed=transposed,
        )

    @staticmethod
    def of_average(pool: ir.Node, channels: int, like: Convolution) -> Convolution | None:
        """Return an AveragePool as a depthwise Conv: each of n taps is 1/n.

        None if windows count different numbers of elements, because of padding or `ceil_mode`, or
        it does not span as many axes as `like`.
        """
        geometry = Pool.of(pool)
        counts = int_attribute(pool, "count_include_pad", 0) != 0
        pads = geometry.pads
        if geometry.auto_pad != "NOTSET" or geometry.ceil_mode:
            return None
        if geometry.spatial_rank != len(like.size):
            return None
        if any(map(any, pads)) and not counts:
            return None
        taps = (channels, 1, *geometry.kernel)
        return Convolution(
            kernel=np.full(taps, 1 / math.prod(geometry.kernel)),
            bias=np.zeros(channels),
            strides=geometry.strides,
            dilations=tuple(
                dilation if size > 1 else 1
                for dilation, size in zip(geometry.dilations, geometry.kernel, strict=True)
            ),
            before=tuple(start for start, _ in pads),
            after=tuple(end for _, end in pads),
            groups=channels,
            dtype=like.dtype,
        )

    @staticmethod
    def identity(channels: int, like: Convolution) -> Convolution:
        """Return the map of x to x as a depthwise operator of one tap, transposed as `like` is."""
        rank = len(like.size)
        ones, zeros = (1,) * rank, (0,) * rank
        return replace(
            like,
            kernel=np.ones((channels, 1, *ones)),
            bias=np.zeros(channels),
            strides=ones,
            dilations=ones,
            before=zeros,
            after=zeros,
            groups=channels,
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
    def output_channels(self) -> int:
        """The number of channels of the result."""
        return int(self.kernel.shape[0])

    @property
    def is_pointwise(self) -> bool:
        """Whether each output position depends only on the same input position."""
        ones = all(length == 1 for length in (*self.size, *self.strides))
        return ones and not any((*self.before, *self.after))

    @property
    def reaches(self) -> tuple[int, ...]:
        """The distance of the last tap from the first one, along each axis."""
        return tuple((k - 1) * d for k, d in zip(self.size, self.dilations, strict=True))

    def in_groups(self, groups: int) -> Convolution:
        """Return the same map with fewer groups; their number must divide the current one."""
        if groups == self.groups:
            return self
        outputs, per_group, *size = self.kernel.shape
        per_new_group = self.input_channels // groups
        kernel = np.zeros((outputs, per_new_group, *size))
        for output in range(outputs):
            first = output * self.groups // outputs * per_group % per_new_group
            kernel[output, first : first + per_group] = self.kernel[output]
        return replace(self, kernel=kernel, groups=groups)

    def mapped(self, scale: FloatArray, shift: FloatArray) -> Convolution:
        """Return ``scale·y + shift`` of its result y, channel by channel."""
        kernel = self.kernel * scale.reshape(-1, *[1] * (self.kernel.ndim - 1))
        return replace(self, kernel=kernel, bias=scale * self.bias + shift)

    # --- Sums -----------------------------------------------------------------------------------

    def lies_over(self, other: Convolution) -> bool:
        """Say whether the results of both have the same size, whatever the input's is.

        With equal strides, that depends on how far the taps reach beyond the padding.
        """
        channels = [(c.output_channels, c.input_channels, c.transposed) for c in (self, other)]
        shrinks = [
            [r - b - a for r, b, a in zip(c.reaches, c.before, c.after, strict=True)]
            for c in (self, other)
        ]
        return channels[0] == channels[1] and shrinks[0] == shrinks[1]

    def sum_shape(self, other: Convolution) -> tuple[int, ...]:
        """Return the shape of the kernel of `plus`."""
        groups = math.gcd(self.groups, other.groups)
        _, before, dilations = self._grid(other)
        ends = [[r - b for r, b in zip(c.reaches, c.before, strict=True)] for c in (self, other)]
        size = (
            (max(one, two) + b) // d + 1
            for one, two, b, d in zip(*ends, before, dilations, strict=True)
        )
        return self.output_channels, self.input_channels // groups, *size

    def plus(self, other: Convolution, sign: int) -> Convolution:
        """Return the sum, or difference, of two maps of which one lies over the other."""
        groups, before, dilations = self._grid(other)
        kernels = [
            conv.in_groups(groups)._spread(before, dilations, self.sum_shape(other))
            for conv in (self, other)
        ]
        return replace(
            self,
            kernel=kernels[0] + sign * kernels[1],
            bias=self.bias + sign * other.bias,
            dilations=dilations,
            before=before,
            after=tuple(map(max, self.after, other.after)),
            groups=groups,
        )

    def _grid(self, other: Convolution) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Return the groups, padding and dilations of a kernel that has the taps of both."""
        groups = math.gcd(self.groups, other.groups)
        before = tuple(map(max, self.before, other.before))
        dilations = tuple(
            math.gcd(*(d for k, d in ((k1, d1), (k2, d2)) if k > 1), b1 - b2) or 1
            for k1, d1, b1, k2, d2, b2 in zip(
                *(self.size, self.dilations, self.before),
                *(other.size, other.dilations, other.before),
                strict=True,
            )
        )
        return groups, before, dilations

    def _spread(
        self, before: tuple[int, ...], dilations: tuple[int, ...], shape: tuple[int, ...]
    ) -> FloatArray:
        """Return the kernel on a wider or finer grid, with zeros between its taps."""
        kernel = np.zeros(shape)
        taps = (
            slice((b - own) // d, (b - own + reach) // d + 1, max(step // d, 1))
            for b, own, d, step, reach in zip(
                before, self.before, dilations, self.dilations, self.reaches, strict=True
            )
        )
        kernel[(slice(None), slice(None), *taps)] = self.kernel
        return kernel

    # --- Storing --------------------------------------------------------------------------------

    def to_op(self, data: ir.Value, like: ir.Node) -> Op:
        """Return an operator on `data` that computes this map, with name and metadata of `like`.

        Raises:
            Refused: with a reason from `NotStorable`.
        """
        kernel, end = self.kernel, self.after
        if self.transposed:
            kernel, end = _exchanged(kernel, self.groups), tuple(max(0, cut) for cut in self.after)
        attributes = [
            ir.AttrInt64s("kernel_shape", self.size),
            ir.AttrInt64s("strides", self.strides),
            ir.AttrInt64s("dilations", self.dilations),
            ir.AttrInt64s("pads", (*self.before, *end)),
            ir.AttrInt64("group", self.groups),
        ]
        if end != self.after:
            extra = [kept - cut for kept, cut in zip(end, self.after, strict=True)]
            attributes.append(ir.AttrInt64s("output_padding", extra))
        axis = 0 if not self.transposed else 1 if self.groups == 1 else None
        inputs: list[Operand] = [
            data,
            stored(kernel, self.dtype, folded_name(like, 1), like, channel_axis=axis),
            stored(self.bias, self.dtype, folded_name(like, 2), like),
        ]
        return Op("ConvTranspose" if self.transposed else "Conv", inputs, attributes, like)


def _exchanged(kernel: FloatArray, groups: int) -> FloatArray:
    """Exchange the first two axes within groups: a Conv's kernel is a ConvTranspose's, so read."""
    first, second, *size = kernel.shape
    blocks = kernel.reshape(groups, first // groups, second, *size)
    return blocks.swapaxes(1, 2).reshape(groups * second, first // groups, *size)


def shape_with_channels(value: ir.Value, channels: int) -> ir.Shape | None:
    """Return the shape of the value, as far as known, with another number of channels."""
    shape = shape_of(value)
    if shape is None:
        return None
    batch, _, *space = shape.dims
    return ir.Shape([batch, channels, *space])
