"""Convs and pools for the float64 evaluation, by the windows that they move over their input.

In onnx's reference evaluator, ConvTranspose is wrong for more than one group, MaxPool fails for a
window of one next to padding, GlobalMaxPool is for maps of two spatial axes, GlobalLpPool is
missing, and Convs and pools are slow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from bnfold.arrays import Array, FloatArray

Integers = Sequence[int] | None


class Conv(OpRun):
    """One product of the kernel with the input's windows, block by block of them."""

    def _run(
        self,
        x: Array,
        w: Array,
        bias: Array | None = None,
        *,
        auto_pad: str | None = None,
        dilations: Integers = None,
        group: int | None = None,
        pads: Integers = None,
        strides: Integers = None,
        **_: object,
    ) -> tuple[Array]:
        windows = Windows(x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad)
        _require_positions(windows.counts)
        padded = windows.pad(x, 0.0)
        groups, batch = group or 1, x.shape[0]
        inputs, outputs = x.shape[1] // groups, w.shape[0] // groups
        # The batch is among the columns of one product: many products of few columns are slow.
        columns = np.moveaxis(padded, 0, 1).reshape(groups, inputs, batch, *padded.shape[2:])
        rows, inner = windows.counts[0], math.prod(windows.counts[1:])
        y = np.empty((groups, outputs, batch, rows, inner))
        step = max(1, _MOST_COLUMNS // max(1, x.shape[1] * batch * inner * math.prod(w.shape[2:])))
        for start in range(0, rows, step):
            end = min(start + step, rows)
            shifted = [
                columns[at((_part(where[0], start, end), *where[1:]))]
                for _, where in windows.taps()
            ]
            product = _product(w.reshape(groups, outputs, inputs, -1), shifted)
            y[:, :, :, start:end] = product.reshape(groups, outputs, batch, end - start, inner)
        y = np.moveaxis(y.reshape(w.shape[0], batch, *windows.counts), 1, 0)
        return (y if bias is None else y + bias.reshape(-1, *[1] * (x.ndim - 2)),)


_MOST_COLUMNS = 2**23
"""Elements of the windows of a Conv that are in memory at a time."""


def _part(places: slice, start: int, end: int) -> slice:
    """Return some of the places of a slice, from one number to another."""
    first, step = places.start, places.step
    return slice(first + start * step, first + (end - 1) * step + 1, step)


def _product(weights: Array, shifted: Sequence[Array]) -> Array:
    """Return the sums over inputs and taps, for each group and output."""
    groups, _, inputs, taps = weights.shape
    if inputs == 1:  # matrix products with a small inner dimension are slow
        terms = (weights[..., tap] * shifted[tap].reshape(groups, 1, -1) for tap in range(taps))
        total = next(terms)
        for term in terms:
            total += term
        return total
    stacked = shifted[0][:, :, None] if taps == 1 else np.stack(shifted, axis=2)
    return weights.reshape(*weights.shape[:2], -1) @ stacked.reshape(groups, inputs * taps, -1)


class ConvTranspose(OpRun):
    """Adds the products with the kernel's taps to the shifted output: the adjoint of Conv."""

    def _run(
        self,
        x: Array,
        w: Array,
        bias: Array | None = None,
        *,
        auto_pad: str | None = None,
        dilations: Integers = None,
        group: int | None = None,
        output_padding: Integers = None,
        output_shape: Integers = None,
        pads: Integers = None,
        strides: Integers = None,
        **_: object,
    ) -> tuple[Array]:
        rank, groups = x.ndim - 2, group or 1
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        pads, extra = pads or [0] * 2 * rank, output_padding or [0] * rank
        size, kernel = x.shape[2:], w.shape[2:]
        reach = [(kernel[i] - 1) * dilations[i] + 1 for i in range(rank)]
        full = [(size[i] - 1) * strides[i] + reach[i] + extra[i] for i in range(rank)]
        if output_shape is not None:
            wanted = output_shape[-rank:]  # beyond what a window reaches are zeros
            pads = halves([full[i] - wanted[i] for i in range(rank)], auto_pad)
            full = [max(full[i], wanted[i]) for i in range(rank)]
        elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            pads = halves([full[i] - size[i] * strides[i] for i in range(rank)], auto_pad)
        _require_positions(size)
        _require_positions([full[i] - pads[i] - pads[rank + i] for i in range(rank)])
        batch, inputs, outputs = x.shape[0], x.shape[1] // groups, w.shape[1]
        weights = w.reshape(groups, inputs, outputs, *kernel).swapaxes(1, 2)
        columns = x.reshape(batch, groups, inputs, math.prod(size))
        y = np.zeros((batch, groups * outputs, *full))
        for tap in np.ndindex(*kernel):
            starts = [tap[i] * dilations[i] for i in range(rank)]
            where = tuple(
                slice(starts[i], starts[i] + (size[i] - 1) * strides[i] + 1, strides[i])
                for i in range(rank)
            )
            product = weights[at(tap)] @ columns
            y[at(where)] += product.reshape(batch, groups * outputs, *size)
        cropped = tuple(slice(pads[i], full[i] - pads[rank + i]) for i in range(rank))
        y = y[at(cropped)]
        return (y if bias is None else y + bias.reshape(-1, *[1] * rank),)


def _require_positions(sizes: Sequence[int]) -> None:
    """Require what onnxruntime requires of a Conv or ConvTranspose.

    numpy slices what is cropped too far to something empty, of which the next padding makes zeros.
    """
    if min(sizes, default=1) < 1:
        raise ValueError(f"a map of {'×'.join(map(str, sizes))} positions")


def halves(totals: Sequence[int], auto_pad: str | None) -> list[int]:
    """Return the padding before and after each axis, of which one is larger if a total is odd."""
    less = [max(0, total) // 2 for total in totals]
    more = [max(0, total) - half for total, half in zip(totals, less, strict=True)]
    return [*less, *more] if auto_pad == "SAME_UPPER" else [*more, *less]


class MaxPool(OpRun):
    """The maximum of each window, without its padding."""

    def _run(
        self,
        x: Array,
        *,
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
        dilations: Integers = None,
        kernel_shape: Sequence[int],
        pads: Integers = None,
        strides: Integers = None,
        **_: object,
    ) -> tuple[Array]:
        if len(self.output) > 1:
            raise NotImplementedError("MaxPool with indices")
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        spatial = x.shape[2:]
        windows = Windows(
            spatial, kernel_shape, strides, dilations, pads, auto_pad, bool(ceil_mode)
        )
        padded = windows.pad(x, lowest)
        taps = (padded[at(where)] for _, where in windows.taps())
        y = next(taps).copy()
        for shifted in taps:
            np.maximum(y, shifted, out=y)
        return (y,)


class AveragePool(OpRun):
    """The mean of each window, with or without its padding."""

    def _run(
        self,
        x: Array,
        *,
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
        count_include_pad: int | None = None,
        dilations: Integers = None,
        kernel_shape: Sequence[int],
        pads: Integers = None,
        strides: Integers = None,
        **_: object,
    ) -> tuple[Array]:
        windows = Windows(
            x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, bool(ceil_mode)
        )
        counted = windows.pad(np.ones((1, 1, *x.shape[2:])), 0.0)
        if count_include_pad:
            counted = windows.ones_with_padding()
        padded = windows.pad(x, 0.0)
        total, count = np.zeros(()), np.zeros(())
        for _tap, where in windows.taps():
            total = total + padded[at(where)]
            count = count + counted[at(where)]
        return (total / count,)


class GlobalAveragePool(OpRun):
    """Over all positions, also of an empty batch, whose average onnx divides by zero."""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.mean(axis=tuple(range(2, x.ndim)), keepdims=True),)


class GlobalMaxPool(OpRun):
    """The maximum of all positions."""

    def _run(self, x: Array, **_: object) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class GlobalLpPool(OpRun):
    """(Σ|x|ᵖ)^(1/p) over all positions."""

    def _run(self, x: Array, *, p: float | None = None, **_: object) -> tuple[Array]:
        power = 2 if p is None else p
        over = tuple(range(2, x.ndim))
        return ((np.abs(x) ** power).sum(axis=over, keepdims=True) ** (1 / power),)


WINDOWED: list[type[OpRun]] = [
    AveragePool,
    Conv,
    ConvTranspose,
    GlobalAveragePool,
    GlobalLpPool,
    GlobalMaxPool,
    MaxPool,
]


def at(place: Sequence[int | slice]) -> Any:
    """Return an index of the last axes; numpy has no type for it."""
    return (..., *place)


class Windows:
    """Where the windows of a Conv or pool lie on its padded input."""

    def __init__(
        self,
        sizes: Sequence[int],
        kernel: Sequence[int],
        strides: Integers,
        dilations: Integers,
        pads: Integers,
        auto_pad: str | None,
        ceil_mode: bool = False,
    ) -> None:
        rank = len(sizes)
        self._sizes, self._kernel = sizes, kernel
        self._strides, self._dilations = strides or [1] * rank, dilations or [1] * rank
        self._reach = [(kernel[i] - 1) * self._dilations[i] + 1 for i in range(rank)]
        self._pads = self._padding(auto_pad or "NOTSET", pads or [0] * 2 * rank)
        self.counts = [self._count(axis, ceil_mode) for axis in range(rank)]
        if min(self.counts, default=0) < 0:
            raise ValueError("the window is larger than the padded map")

    def _padding(self, auto_pad: str, pads: Sequence[int]) -> Sequence[int]:
        if auto_pad == "NOTSET":
            return pads
        if auto_pad == "VALID":
            return [0] * 2 * len(self._sizes)
        totals = []
        for size, stride, reach in zip(self._sizes, self._strides, self._reach, strict=True):
            totals.append((math.ceil(size / stride) - 1) * stride + reach - size)
        return halves(totals, auto_pad)

    def _count(self, axis: int, ceil_mode: bool) -> int:
        before, after = self._pads[axis], self._pads[len(self._sizes) + axis]
        size, stride = self._sizes[axis], self._strides[axis]
        room = size + before + after - self._reach[axis]
        if not ceil_mode:
            return room // stride + 1
        count = -(-room // stride) + 1
        starts_outside = (count - 1) * stride >= size + before
        return count - 1 if starts_outside else count

    def pad(self, x: Array, content: float) -> Array:
        """Pad the last axes, as far as the last windows reach beyond the padding."""
        widths = self._widths()
        if not np.any(widths):
            return x
        return np.pad(x, [(0, 0), (0, 0), *widths], constant_values=content)

    def ones_with_padding(self) -> FloatArray:
        """Return ones for elements and padding, zeros where windows reach beyond it."""
        rank = len(self._sizes)
        inner = [self._sizes[i] + self._pads[i] + self._pads[rank + i] for i in range(rank)]
        beyond = [
            (0, max(0, after - self._pads[rank + i])) for i, (_, after) in enumerate(self._widths())
        ]
        return np.pad(np.ones((1, 1, *inner)), [(0, 0), (0, 0), *beyond])

    def _widths(self) -> list[tuple[int, int]]:
        widths = []
        for axis, size in enumerate(self._sizes):
            before = self._pads[axis]
            end = (self.counts[axis] - 1) * self._strides[axis] + self._reach[axis]
            after = max(self._pads[len(self._sizes) + axis], end - before - size)
            widths.append((before, after))
        return widths

    def taps(self) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """Yield each position in the window, and the slices that it covers over all windows."""
        for tap in itertools.product(*map(range, self._kernel)):
            starts = [t * d for t, d in zip(tap, self._dilations, strict=True)]
            where = zip(starts, self.counts, self._strides, strict=True)
            yield tap, tuple(slice(s, s + (count - 1) * step + 1, step) for s, count, step in where)
