"""The operators that work on each channel by itself: pools, depthwise Convs, activations, more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import affine_map
from bnfold.algebra.affine_maps.carry import (
    averages_positions,
    fills_in_from_outside,
    leaves_axis_alone,
)
from bnfold.algebra.affine_maps.linear import pads
from bnfold.algebra.channel_removal.broadcasting import ELEMENTWISE, Elementwise
from bnfold.algebra.channel_removal.channels import (
    Channelwise,
    computed,
    kept_of,
    not_constant,
    zeros_of,
)
from bnfold.algebra.channel_removal.narrowing import Kernel, Mask, with_size
from bnfold.algebra.pooling import Pool
from bnfold.arrays import FloatArray
from bnfold.graph.constants import constant
from bnfold.rewriting.contract import Op, Operand, Refused
from bnfold.rewriting.query import (
    float_attribute,
    input_of,
    int_attribute,
    ints_parameter,
    is_op,
    is_used,
    rank_of,
    shape_of,
    size_of,
    string_attribute,
)


class _Same(Channelwise):
    """It averages, picks or rearranges the positions of a channel, so a constant stays."""

    def constants(self, given: Sequence[FloatArray]) -> FloatArray:
        return given[0]


class _Over(_Same):
    """Over the axes after the channels: a mean or a maximum, or axes of size 1 that go or come."""

    @property
    def is_sound(self) -> bool:
        longer = self.node.outputs[0] if is_op(self.node, "Unsqueeze") else self.node.inputs[0]
        rank, axes = rank_of(longer), ints_parameter(self.node, "axes", 1)
        return bool(rank and axes) and all(axis % (rank or 1) > self.axis for axis in axes or ())


class _Global(_Same):
    @property
    def is_sound(self) -> bool:
        return self.axis == 1


class _MaxPool(Channelwise):
    @property
    def is_sound(self) -> bool:
        """The Indices count the channels."""
        return self.axis == 1 and not any(map(is_used, self.node.outputs[1:]))

    pads = True

    def constants(self, given: Sequence[FloatArray]) -> FloatArray:
        data = self.node.inputs[0]
        assert data is not None
        is_real = Pool.of(self.node).every_window_is_real(data)
        return given[0] if is_real else super().constants(given)


class _AveragePool(_MaxPool):
    """With padding that counts, the average at the border is smaller than the constant."""

    def constants(self, given: Sequence[FloatArray]) -> FloatArray:
        counts = int_attribute(self.node, "count_include_pad", 0) != 0
        averages = super().constants(given)
        return zeros_of(averages) if counts and Pool.of(self.node).may_pad else averages


class _Resize(Channelwise):
    @property
    def is_sound(self) -> bool:
        """Sizes, which may be an input, count the channels."""
        return input_of(self.node, 3) is None and leaves_axis_alone(self.node, self.axis)

    def constants(self, given: Sequence[FloatArray]) -> FloatArray:
        stays = averages_positions(self.node) and not fills_in_from_outside(self.node)
        return given[0] if stays else super().constants(given)


class _Pad(Channelwise):
    """A border of other values makes a constant one no longer."""

    pads = True

    @property
    def is_sound(self) -> bool:
        amounts = ints_parameter(self.node, "pads", 1)
        if not amounts or input_of(self.node, 3) is not None:
            return False
        rank = len(amounts) // 2
        return self.axis < rank and amounts[self.axis] == amounts[rank + self.axis] == 0

    def constants(self, given: Sequence[FloatArray]) -> FloatArray:
        if string_attribute(self.node, "mode", "constant") != "constant":
            return given[0]
        value = input_of(self.node, 2)
        content = constant(value)
        border = float_attribute(self.node, "value", 0.0) if value is None else content
        is_zero = border is not None and not np.any(border)
        return zeros_of(given[0]) if is_zero else not_constant(given[0])


class _Flatten(_Same):
    """(N, C, …) to (N, C·S): each channel becomes S columns. A Reshape may be a Flatten, too."""

    def __init__(self, node: ir.Node, axis: int) -> None:
        super().__init__(node, axis)
        shape = shape_of(node.inputs[0])
        sizes = shape.dims[2:] if shape is not None and shape.rank() >= 2 else (None,)
        known = [size for size in sizes if isinstance(size, int)]
        self.copies = math.prod(known) if len(known) == len(sizes) else 0

    @property
    def is_sound(self) -> bool:
        result, channels = self.node.outputs[0], size_of(self.node.inputs[0], 1)
        if self.axis != 1 or not self.copies or channels is None or rank_of(result) != 2:
            return False
        return size_of(result, 1) == channels * self.copies

    def constants(self, given: Sequence[FloatArray]) -> FloatArray:
        return np.repeat(given[0], self.copies)

    def narrowed(self, operands: Sequence[Operand], kept: Mask) -> Op:
        output = self.node.outputs[0]
        shape = with_size(shape_of(output), 1, int(kept.sum()))
        return Op("Flatten", operands, [ir.AttrInt64("axis", 1)], self.node, shape, output)


class _Depthwise(Channelwise):
    """A Conv of as many groups as channels."""

    pads = True

    def __init__(self, node: ir.Node, axis: int) -> None:
        super().__init__(node, axis)
        self._kernel, self._bias = Kernel.of(input_of(node, 1)), constant(input_of(node, 2))
        if self._kernel is not None:
            self.channels = max(1, int_attribute(node, "group", 1))
            self.copies = self._kernel.shape[0] // self.channels

    @property
    def is_sound(self) -> bool:
        kernel, groups = self._kernel, int_attribute(self.node, "group", 1)
        is_known = self._bias is not None or input_of(self.node, 2) is None
        if kernel is None or not is_known or self.axis != 1 or groups == 1 or len(kernel.shape) < 3:
            return False
        is_fitting = self._bias is None or self._bias.shape == kernel.shape[:1]
        fits_groups = groups > 0 and kernel.shape[0] % groups == 0
        return is_fitting and kernel.shape[1] == 1 and fits_groups

    def own_constants(self) -> FloatArray:
        """Return the bias of each filter without weights, NaN for the others."""
        assert self._kernel is not None
        bias = np.zeros(self._kernel.shape[0]) if self._bias is None else self._bias
        return np.where(self._kernel.zeros_along(0), computed(bias.astype(np.float64)), np.nan)

    def constants(self, given: Sequence[FloatArray]) -> FloatArray:
        assert self._kernel is not None
        before = np.repeat(given[0], self.copies)
        if pads(self.node, self._kernel.shape):
            before = zeros_of(before)
        weight = self._kernel.array.astype(np.float64)
        taps = weight.reshape(len(weight), -1).sum(axis=1)
        with np.errstate(all="ignore"):
            values = before * taps + (0.0 if self._bias is None else self._bias)
        own = self.own_constants()
        return np.where(np.isnan(own) | np.isinf(before), computed(values, before), own)

    def narrowed(self, operands: Sequence[Operand], kept: Mask) -> Op:
        attributes = dict(self.node.attributes)
        attributes["group"] = ir.AttrInt64("group", int(kept.sum()) // self.copies)
        inputs = [*operands, *(kept_of(value, 0, kept) for value in self.node.inputs[1:])]
        op = self._with(inputs, kept)
        return Op("Conv", inputs, tuple(attributes.values()), self.node, op.shape, op.type_of)


class _BatchNormalization(Channelwise):
    """s·x + t, which is t where s = 0."""

    def __init__(self, node: ir.Node, axis: int) -> None:
        super().__init__(node, axis)
        self._affine, _ = affine_map(node)
        self.channels = self._affine.scale.size

    @property
    def is_sound(self) -> bool:
        return self.axis == self._affine.axis

    def constants(self, given: Sequence[FloatArray]) -> FloatArray:
        scale, shift = self._affine.scale, self._affine.shift
        with np.errstate(all="ignore"):
            values = computed(given[0] * scale + shift, given[0])
        return np.where((scale == 0) & ~np.isinf(given[0]), shift, values)

    def narrowed(self, operands: Sequence[Operand], kept: Mask) -> Op:
        parameters = [kept_of(value, 0, kept) for value in self.node.inputs[1:]]
        return self._with([*operands, *parameters], kept)


class _Joined(Channelwise):
    """A Concat along another axis."""

    def __init__(self, node: ir.Node, axis: int) -> None:
        super().__init__(node, axis)
        self.operands = tuple(range(len(node.inputs)))

    @property
    def is_sound(self) -> bool:
        rank = rank_of(self.node.outputs[0])
        return rank is not None and int_attribute(self.node, "axis", 1) % max(1, rank) != self.axis

    def constants(self, given: Sequence[FloatArray]) -> FloatArray:
        same = np.all([each == given[0] for each in given], axis=0)
        return computed(np.where(same, given[0], np.nan), *given, np.where(same, 0.0, np.nan))

    def narrowed(self, operands: Sequence[Operand], kept: Mask) -> Op:
        return self._with(operands, kept)


_KINDS: Mapping[str, type[Channelwise]] = {
    **dict.fromkeys(ELEMENTWISE, Elementwise),
    "AveragePool": _AveragePool,
    "BatchNormalization": _BatchNormalization,
    "Concat": _Joined,
    "Conv": _Depthwise,
    "Flatten": _Flatten,
    "GlobalAveragePool": _Global,
    "GlobalMaxPool": _Global,
    "MaxPool": _MaxPool,
    "Pad": _Pad,
    "ReduceMax": _Over,
    "ReduceMean": _Over,
    "Reshape": _Flatten,
    "Resize": _Resize,
    "Squeeze": _Over,
    "Unsqueeze": _Over,
    "Upsample": _Resize,
}


def channelwise(node: ir.Node, axis: int) -> Channelwise | None:
    """Return how the operator works on the channels along an axis of its result; None if mixed."""
    kind = _KINDS.get(node.op_type) if node.domain == "" else None
    if kind is None or not node.outputs or not node.inputs or node.inputs[0] is None:
        return None
    try:
        operator = kind(node, axis)
        return operator if operator.is_sound else None
    except Refused:
        return None


def own_constants(node: ir.Node) -> FloatArray | None:
    """Return the constants of the filters without weights of a depthwise Conv; None for others."""
    operator = channelwise(node, 1) if is_op(node, "Conv") else None
    return operator.own_constants() if isinstance(operator, _Depthwise) else None
