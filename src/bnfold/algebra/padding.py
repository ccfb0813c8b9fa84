"""The padding of Convs and pools, also where `auto_pad` leaves it to the size of the input.

With SAME_UPPER or SAME_LOWER, n positions make ⌈n/s⌉, and what the windows lack is added on both
sides, an odd one at the end or at the start:

    total = max(0, (⌈n/s⌉ − 1)·s + k − n)       k − 1 for s = 1

So stride 1 needs no size. Runtimes refuse to pad a dilated kernel so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import onnx_ir as ir

from bnfold.rewriting.query import (
    input_of,
    int_attribute,
    ints_attribute,
    rank_of,
    size_of,
    string_attribute,
)

Widths: TypeAlias = tuple[tuple[int, int], ...]
"""(before, after) along each spatial axis."""


def padding_of(
    node: ir.Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Widths | None:
    """Return how much a Conv or pool pads its first input; None if a size decides, and is unknown.

    The kernel, and the rest, have one number for each spatial axis.
    """
    rank = len(kernel)
    auto_pad = string_attribute(node, "auto_pad", "NOTSET")
    if auto_pad == "NOTSET":
        flat = ints_attribute(node, "pads", [0] * 2 * rank)
        return tuple(zip(flat[:rank], flat[rank:], strict=True))
    if not auto_pad.startswith("SAME"):
        return ((0, 0),) * rank
    if int_attribute(node, "ceil_mode", 0):
        return None  # runtimes differ in what that means
    data = input_of(node, 0)
    is_known = rank_of(data) == rank + 2
    widths = []
    for axis, (length, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        size = size_of(data, axis + 2) if is_known else None
        total = _lacking(length, stride, dilation, size)
        if total is None:
            return None
        less, more = total // 2, total - total // 2
        widths.append((less, more) if auto_pad == "SAME_UPPER" else (more, less))
    return tuple(widths)


def _lacking(length: int, stride: int, dilation: int, size: int | None) -> int | None:
    """Return how many positions to pad in all along an axis, or None.

    Where windows lack none and leave out several at the end, onnxruntime leaves out some at the
    start instead.
    """
    if length > 1 and dilation != 1:
        return None
    if stride == 1 or (length == 1 and stride == 2):
        return length - 1
    if size is None:
        return None
    total = (-(-size // stride) - 1) * stride + length - size
    return max(total, 0) if total >= -1 else None
