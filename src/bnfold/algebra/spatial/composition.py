"""Two linear operators over space in a row are one.

    W₂∗(W₁∗x + b₁) + b₂ = (W₂∗W₁)∗x + (Σ W₂·b₁ + b₂)

Tap l of W₂ over tap j of W₁ lies at ``l·dilation₂·stride₁ + j·dilation₁``. The sizes of the results
agree for any input, because rounding down twice is as rounding down once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bnfold.algebra.spatial.convolution import Convolution
from bnfold.arrays import FloatArray


def is_exact(second: Convolution, first: Convolution, sizes: Sequence[int | None]) -> bool:
    """Say whether `composed` is right at the border, too.

    Where the second pads, it reads 0; so what the first would compute there must be 0. It is, if
    the first has no bias and all its taps lie in the padding. `sizes` are those of its input.
    """
    reads_padding = False
    for before, after, size, reach, stride, start, end in zip(
        *(second.before, second.after, sizes),
        *(first.reaches, first.strides, first.before, first.after),
        strict=True,
    ):
        reads_padding |= before > 0 or after > 0
        if before > 0 and reach >= start + stride:
            return False  # the last position before the result reaches the input
        if after > 0 and reach > end:  # so may the first one after it
            if size is None:
                return False
            count = (size + start + end - reach - 1) // stride + 1
            if count * stride - start < size:
                return False
    return not (reads_padding and first.bias.any())


def fills_a_window(second: Convolution, first: Convolution, sizes: Sequence[int | None]) -> bool:
    """Say whether the first's result, padded, is as large as the second's window.

    If an AveragePool is the second, it must be so: onnxruntime's pools run on a smaller map, too,
    and a Conv does not. `sizes` are those of the first's input. A free one is large enough: on a
    smaller map ONNX defines no position, so no model means it.
    """
    for size, reach, stride, padding, window, more in zip(
        sizes,
        *(first.reaches, first.strides, map(sum, zip(first.before, first.after, strict=True))),
        *(second.reaches, map(sum, zip(second.before, second.after, strict=True))),
        strict=True,
    ):
        if size is not None:
            count = (size + padding - reach - 1) // stride + 1
            if count + more <= window:
                return False
    return True


def composed_shape(second: Convolution, first: Convolution) -> tuple[int, ...]:
    """Return the shape of the kernel of `composed`."""
    groups = math.gcd(second.groups, first.groups)
    size = (
        (early + late * stride) // dilation + 1
        for early, late, stride, dilation in zip(
            first.reaches, second.reaches, first.strides, _dilations(second, first), strict=True
        )
    )
    return second.output_channels, first.input_channels // groups, *size


def composed(second: Convolution, first: Convolution) -> Convolution:
    """Return the second of the first, neither of them transposed."""
    groups, dilations = math.gcd(second.groups, first.groups), _dilations(second, first)
    if groups not in (second.groups, first.groups):
        second, first = second.in_groups(groups), first.in_groups(groups)
    kernel = np.zeros(composed_shape(second, first))
    steps = [
        (late * stride // dilation, early // dilation)
        for late, stride, early, dilation in zip(
            second.dilations, first.strides, first.dilations, dilations, strict=True
        )
    ]
    taps_of_first = first.kernel.reshape(len(first.kernel), -1)
    for late in np.ndindex(*second.size):
        taps = _product(
            second.kernel[(..., *late)], second.groups, taps_of_first, first.groups
        ).reshape(*kernel.shape[:2], *first.size)
        places = (
            slice(i * late_step, i * late_step + (length - 1) * early_step + 1, early_step or 1)
            for i, length, (late_step, early_step) in zip(late, first.size, steps, strict=True)
        )
        kernel[(slice(None), slice(None), *places)] += taps
    sums = second.kernel.reshape(*second.kernel.shape[:2], -1).sum(axis=2)
    before, after = (
        tuple(late * s + early for late, s, early in zip(mine, first.strides, others, strict=True))
        for mine, others in ((second.before, first.before), (second.after, first.after))
    )
    return replace(
        second,
        kernel=kernel,
        bias=second.bias + _product(sums, second.groups, first.bias[:, None], 1)[:, 0],
        strides=tuple(map(math.prod, zip(second.strides, first.strides, strict=True))),
        dilations=dilations,
        before=before,
        after=after,
        groups=groups,
    )


def _dilations(second: Convolution, first: Convolution) -> tuple[int, ...]:
    """Return the distances between taps that all taps of `composed` share."""
    return tuple(
        math.gcd(early if k1 > 1 else 0, late * stride if k2 > 1 else 0) or 1
        for early, k1, late, k2, stride in zip(
            *(first.dilations, first.size, second.dilations, second.size, first.strides),
            strict=True,
        )
    )


def _product(
    second: FloatArray, second_groups: int, first: FloatArray, first_groups: int
) -> FloatArray:
    """Multiply (O, M/groups) by (M, I/groups), where one number of groups divides the other."""
    outputs, per_group = second.shape
    if first_groups % second_groups:  # the second has more groups
        blocks = second.reshape(second_groups, -1, per_group)
        return (blocks @ first.reshape(second_groups, per_group, -1)).reshape(outputs, -1)
    share, columns = first_groups // second_groups, first.shape[1]
    rows = second.reshape(second_groups, -1, share, per_group // share).swapaxes(1, 2)
    blocks = rows @ first.reshape(second_groups, share, per_group // share, columns)
    return blocks.swapaxes(1, 2).reshape(outputs, share * columns)
