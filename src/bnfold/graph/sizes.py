"""The sizes that onnxruntime computes, for operators where onnx infers others.

Only what follows from constants and from sizes that hold for every input; None elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array
from bnfold.graph.constants import constant

Size: TypeAlias = int | None
"""A size, or None if it is not known."""

ENDLESS = 2**31 - 1
"""From here on, runtimes take the end of a Slice to be no number but a word for the last."""


def runtime_sizes(node: ir.Node, data: Sequence[Size]) -> Sequence[Size] | None:
    """Return the sizes of the result of an operator in `DELICATE`, given those of its first input.

    None if what onnx infers is right, as far as it infers anything.
    """
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return None
    try:
        return DELICATE[node.op_type](node, data)
    except (TypeError, ValueError):  # an attribute of another type than the operator has
        return None


def _pool(node: ir.Node, data: Sequence[Size]) -> Sequence[Size] | None:
    """With ceil_mode, a last window that would start in the padding at the end is left out.

    For ``auto_pad = SAME_…`` with dilations, or rounded up, versions of onnxruntime differ.
    """
    attributes = node.attributes
    kernel = attributes.get_ints("kernel_shape", ()) or ()
    rank = len(kernel)
    rounds_up = attributes.get_int("ceil_mode", 0) != 0
    strides = attributes.get_ints("strides", None) or [1] * rank
    dilations = attributes.get_ints("dilations", None) or [1] * rank
    pads = attributes.get_ints("pads", None) or [0] * 2 * rank
    auto_pad = attributes.get_string("auto_pad", "NOTSET")
    if len(data) != rank + 2 or {len(strides), len(dilations), len(pads) // 2} != {rank}:
        return None
    if auto_pad.startswith("SAME"):
        is_plain = not rounds_up and all(step == 1 for step in dilations)
        return None if is_plain else (data[0], data[1], *[None] * rank)
    if not rounds_up:
        return None
    if auto_pad == "VALID":
        pads = [0] * 2 * rank
    sizes: list[Size] = list(data[:2])
    for axis, size in enumerate(data[2:]):
        stride, before, after = strides[axis], pads[axis], pads[rank + axis]
        if size is None or stride <= 0:
            sizes.append(None)
            continue
        room = size + before + after - dilations[axis] * (kernel[axis] - 1) - 1
        count = -(-room // stride) + 1
        if (count - 1) * stride >= size + before:
            count -= 1
        sizes.append(count)
    return sizes


def _conv_transpose(node: ir.Node, data: Sequence[Size]) -> Sequence[Size] | None:
    """``output_shape`` says the size itself; for SAME_…, versions of onnxruntime differ."""
    weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    channels = None
    if weight is not None and weight.ndim == len(data):
        channels = weight.shape[1] * (node.attributes.get_int("group", 1) or 1)
    given = node.attributes.get_ints("output_shape", None)
    space = len(data) - 2
    if given is not None:
        return data[0], channels, *(given if len(given) == space else [None] * space)
    if (node.attributes.get_string("auto_pad", "NOTSET") or "").startswith("SAME"):
        return data[0], channels, *[None] * space
    return None


def _resize(node: ir.Node, data: Sequence[Size]) -> Sequence[Size] | None:
    """The size is ⌊n·scale⌋, in float32 as onnxruntime computes it, not in float64."""
    scales = resize_scales(node)
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return [None] * len(data)
    if scales is None:
        return None
    axes = node.attributes.get_ints("axes", None)
    axes = list(range(len(data))) if axes is None else [axis % len(data) for axis in axes]
    if len(axes) != len(scales):
        return [None] * len(data)
    sizes = list(data)
    for axis, scale in zip(axes, scales, strict=True):
        size = data[axis]
        if size is not None:
            new = np.float32(size) * np.float32(scale)
            sizes[axis] = int(new) if 0 < new < 2**31 else None
    return sizes


def resize_scales(node: ir.Node) -> list[float] | None:
    """Return the scales of a Resize or Upsample, in any opset, if they are given and constant."""
    if "scales" in node.attributes:
        return list(node.attributes["scales"].as_floats())
    index = 1 if node.op_type == "Upsample" or len(node.inputs) == 2 else 2
    content = constant(node.inputs[index]) if len(node.inputs) > index else None
    if content is None or content.dtype.kind != "f" or content.ndim != 1 or not content.size:
        return None
    return [float(scale) for scale in content]


def _slice(node: ir.Node, data: Sequence[Size]) -> Sequence[Size] | None:
    """Starts and ends are clamped to the axis, also for steps below 0; onnx infers 0 there."""
    if node.inputs[1:]:
        given = [_integers(constant(value)) for value in node.inputs[1:]]
        starts, ends, axes, steps = (*given, None, None, None)[:4]
        if len(node.inputs) > 3 and node.inputs[3] is not None and axes is None:
            return None
        if len(node.inputs) > 4 and node.inputs[4] is not None and steps is None:
            return None
    else:
        starts, ends, axes = (
            None if name not in node.attributes else list(node.attributes[name].as_ints())
            for name in ("starts", "ends", "axes")
        )
        steps = None
    if starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        return None
    if not all(-len(data) <= axis < len(data) for axis in axes):
        return None
    sizes = list(data)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = data[axis]
        kept = None if size is None else sliced(start, end, step, size)
        sizes[axis] = None if kept is None else len(kept)
    return sizes


def sliced(start: int, end: int, step: int, size: int) -> range | None:
    """Return which of `size` elements a Slice keeps, in order; None if runtimes may differ."""
    if step == 0 or (step < 0 and end >= ENDLESS):
        return None
    lowest, highest = (0, size) if step > 0 else (-1, size - 1)
    first = min(max(start + size if start < 0 else start, max(lowest, 0)), highest)
    last = min(max(end + size if end < 0 else end, lowest), highest)
    return range(first, last, step)


def _integers(content: Array | None) -> list[int] | None:
    return None if content is None else [int(number) for number in content.reshape(-1)]


DELICATE: Mapping[str, Callable[[ir.Node, Sequence[Size]], Sequence[Size] | None]] = {
    "AveragePool": _pool,
    "ConvTranspose": _conv_transpose,
    "LpPool": _pool,
    "MaxPool": _pool,
    "Resize": _resize,
    "Slice": _slice,
    "Upsample": _resize,
}
"""Operators where onnx and onnxruntime are known to differ."""
