"""Says how far along an axis each position of a window's results looks.

So it is known which sizes are large enough for all that happens at borders and between them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import onnx

from bnfold.proof.certificates.sizes.padding import spatial_widths
from bnfold.proof.certificates.sizes.resizing import text, whole_scales
from bnfold.proof.certificates.sizes.slicing import spatial_steps
from bnfold.proof.certificates.windows import Window, ints

_APART = frozenset({"GlobalAveragePool", "Reshape", "Shape", "Transpose"})
"""Operators of whose result the positions may be no positions of what they read."""


@dataclass(frozen=True)
class Reach:
    """What position j reads of an input, at most: from j·stride + low to j·stride + high.

    Padding counts as positions beyond the border. What is cropped counts by itself: it moves the
    border, from which the rest is counted, and what a later operator pads does not bring it back.
    """

    low: Fraction = Fraction(0)
    high: Fraction = Fraction(0)
    stride: Fraction = Fraction(1)
    cropped: Fraction = Fraction(0)

    def of_readers(
        self, low: Fraction, high: Fraction, stride: Fraction, cropped: Fraction = Fraction(0)
    ) -> Reach:
        """Return the reach of positions that read these, from i·stride + low to i·stride + high.

        So many of these are cropped at both ends together.
        """
        return Reach(
            self.low + low * self.stride,
            self.high + high * self.stride,
            self.stride * stride,
            self.cropped + cropped * self.stride,
        )


@dataclass(frozen=True)
class Sizes:
    """The sizes of the smallest input along an axis that show what happens at any.

    At a size from `least` on, no position reads beyond both borders, and where one reads beyond
    none, there are such for each way to lie between the positions of an input. Then all that occurs
    at a larger size occurs at this one, if they leave the same rest by the `period`.
    """

    least: int
    period: int
    ratios: Mapping[str, int]
    """How many times as large each input is as the smallest one."""


def sizes_along(window: Window, axis: int) -> Sizes:
    """Return the sizes for a spatial axis, counted from the first of them."""
    question = "sizes along", axis
    if question not in window.answers:
        window.answers[question] = _sizes_along(window, axis)
    sizes: Sizes = window.answers[question]
    return sizes


def _sizes_along(window: Window, axis: int) -> Sizes:
    ratios = _ratios(window, axis)
    starts = {  # positions of a larger input are between those of the smallest
        name: Reach(Fraction(1 - ratio, ratio), Fraction(0), Fraction(1, ratio))
        for name, ratio in ratios.items()
    }
    reaches = [Reach(), *starts.values()]
    for model in window.models:
        known = dict(starts)
        for node in model.graph.node:
            read = [known[name] for name in node.input if name in known] or [Reach()]
            widest = Reach(
                min(each.low for each in read),
                max(each.high for each in read),
                max(each.stride for each in read),
                max(each.cropped for each in read),
            )
            reaches.append(_of_results(node, window, widest, axis))
            known.update(dict.fromkeys(node.output, reaches[-1]))
    span = max(each.high for each in reaches) - min(each.low for each in reaches)
    span += max(each.cropped for each in reaches)
    period = math.lcm(*(each.stride.numerator for each in reaches))
    is_finer = any(each.stride.denominator > 1 for each in reaches)
    return Sizes(math.ceil(span) + period + is_finer, period, ratios)


def _ratios(window: Window, axis: int) -> dict[str, int]:
    """Return how many times as large each input must be as the smallest one.

    Positions of what is computed from two inputs correspond, so what takes more of one input's
    positions for each of its own needs more of them. All are 1 if that differs by the way.
    """
    strides: dict[str, set[Fraction]] = {value.name: set() for value in window.inputs}
    for model in window.models:
        ways = {name: {(name, Fraction(1))} for name in strides}
        for node in model.graph.node:
            if node.op_type in _APART:
                continue
            stride = _of_results(node, window, Reach(), axis).stride
            read = {way for name in node.input for way in ways.get(name, ())}
            made = {(name, before * stride) for name, before in read}
            ways.update(dict.fromkeys(node.output, made))
        for output in model.graph.output:
            for name, stride in ways.get(output.name, ()):
                strides[name].add(stride)
    each = {name: next(iter(found)) for name, found in strides.items() if len(found) == 1}
    if len(each) == len(strides):
        ratios = {name: stride / min(each.values()) for name, stride in each.items()}
        if all(ratio.denominator == 1 for ratio in ratios.values()):
            return {name: ratio.numerator for name, ratio in ratios.items()}
    return dict.fromkeys(strides, 1)


def _of_results(node: onnx.NodeProto, window: Window, data: Reach, axis: int) -> Reach:
    """Return the reach of what an operator computes from data."""
    kernel = _kernel(node, window) if node.op_type != "ConvTranspose" else []
    if axis < len(kernel):
        span = (kernel[axis] - 1) * _along(node, "dilations", axis, 1)
        padded = [_along(node, "pads", axis, 0)]
        if text(node, "auto_pad", "NOTSET") != "NOTSET":  # what it pads depends on the size
            padded = [0, span]
        stride = _along(node, "strides", axis, 1)
        return data.of_readers(
            Fraction(-max(padded)), Fraction(span - min(padded)), Fraction(stride)
        )
    if node.op_type == "Pad":
        widths = spatial_widths(node, window.constants) or []
        before = Fraction(widths[axis][0]) if axis < len(widths) else Fraction(0)
        return data.of_readers(-before, -before, Fraction(1))
    scales = whole_scales(node, window.constants)
    if axis + 2 < len(scales):
        furthest = Fraction(5 if text(node, "mode", "nearest") == "cubic" else 3, 2)
        return data.of_readers(-furthest, furthest, Fraction(1, scales[axis + 2]))
    if node.op_type == "Slice":
        start, step = (spatial_steps(node, window.constants) or {}).get(axis, (0, 1))
        return data.of_readers(Fraction(0), Fraction(0), Fraction(step), Fraction(start))
    if node.op_type == "ConvTranspose":
        return data.of_readers(*_of_transposed(node, window, axis))
    if node.op_type == "DepthToSpace":
        size = ints(node, "blocksize")[0]
        return data.of_readers(Fraction(1 - size, size), Fraction(0), Fraction(1, size))
    if node.op_type == "GlobalAveragePool":  # no pool of a fixed size is as large
        return data.of_readers(Fraction(-1), Fraction(1), Fraction(1))
    return data


def _of_transposed(
    node: onnx.NodeProto, window: Window, axis: int
) -> tuple[Fraction, Fraction, Fraction, Fraction]:
    """Return what position j of a ConvTranspose reads: from (j + p − (k−1)·d)/s to (j + p)/s.

    Where it crops more than (k−1)·d positions, it leaves out whole windows.
    """
    kernel = _kernel(node, window)
    span = (kernel[axis] - 1) * _along(node, "dilations", axis, 1) if axis < len(kernel) else 0
    stride = _along(node, "strides", axis, 1)
    before, after = (_along(node, "pads", place, 0) for place in (axis, len(kernel) + axis))
    within = [min(before, span)]
    if text(node, "auto_pad", "NOTSET") != "NOTSET":  # at most what makes a window shorter
        within = [0, span]
    cropped = max(0, before - span) + max(0, after - span)
    return (
        Fraction(min(within) - span, stride),
        Fraction(max(within), stride),
        Fraction(1, stride),
        Fraction(cropped, stride),
    )


def _along(node: onnx.NodeProto, name: str, axis: int, default: int) -> int:
    given = ints(node, name)
    return given[axis] if axis < len(given) else default


def _kernel(node: onnx.NodeProto, window: Window) -> list[int]:
    if node.op_type in ("MaxPool", "AveragePool"):
        return ints(node, "kernel_shape")
    if node.op_type in ("Conv", "ConvTranspose"):
        weight = window.constants.get(node.input[1])
        return [int(size) for size in weight.shape[2:]] if weight is not None else []
    return []
