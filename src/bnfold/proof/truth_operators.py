"""Operators for the float64 evaluation that are wrong or slow in onnx's reference evaluator.

Onnx's BatchNormalization fails before opset 9 and trains from 9 to 13; its Softmax is that of
opset 13 at every opset; its Pad takes no negative sizes; its ConvTranspose is wrong for more than
one group; its MaxPool fails for a window of one next to padding; its Erf and Gelu compute in
float32; its Conv and pools are slow.
Unsupported cases (such as the indices of a MaxPool) raise, and then the model is not evaluated.
Shapes are those of the ONNX operators; floats are float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from onnx.reference.op_run import OpRun

from bnfold.arrays import Array, FloatArray
from bnfold.proof.truth_detection import DETECTION
from bnfold.proof.truth_quantization import QUANTIZATION

Integers = Sequence[int] | None


class BatchNormalization(OpRun):
    """s·(x − m)/√(v + ε) + b along axis 1; with m and v of x itself in training mode."""

    def _run(
        self,
        x: Array,
        s: Array,
        b: Array,
        m: Array,
        v: Array,
        *,
        epsilon: float | None = None,
        momentum: float | None = None,
        training_mode: int | None = None,
        **_: object,
    ) -> tuple[Array, ...]:
        if training_mode:
            others = (0, *range(2, x.ndim))
            kept = 0.9 if momentum is None else momentum
            running, (m, v) = (m, v), (x.mean(axis=others), x.var(axis=others))
            moved = tuple(
                kept * old + (1 - kept) * new for old, new in zip(running, (m, v), strict=True)
            )
        s, b, m, v = (array.reshape(-1, *[1] * (x.ndim - 2)) for array in (s, b, m, v))
        y = x - m
        y *= s / np.sqrt(v + (1e-5 if epsilon is None else epsilon))
        y += b
        return (y, *moved)[: len(self.output)] if training_mode else (y,)


class Erf(OpRun):
    """The error function, element by element."""

    def _run(self, x: Array, **_: object) -> tuple[Array]:
        return (np.vectorize(math.erf, otypes=[np.float64])(x),)


class Gelu(OpRun):
    """x·Φ(x), or its approximation by a hyperbolic tangent."""

    def _run(self, x: Array, *, approximate: str | None = None, **_: object) -> tuple[Array]:
        if approximate == "tanh":
            return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return (0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))),)


class _Normalized(OpRun):
    """An operator along an axis; before opset 13, along that axis and all following ones."""

    def _along_axis(self, x: Array, function: Callable[[FloatArray], FloatArray]) -> tuple[Array]:
        given = next(
            (attribute.i for attribute in self.onnx_node.attribute if attribute.name == "axis"),
            None,
        )
        if self.run_params["opsets"][""] >= 13:
            axis = -1 if given is None else given
            return (np.moveaxis(function(np.moveaxis(x, axis, -1)), -1, axis),)
        axis = (1 if given is None else given) % x.ndim
        return (function(x.reshape(math.prod(x.shape[:axis]), -1)).reshape(x.shape),)


def _log_softmax(x: FloatArray) -> FloatArray:
    shifted = x - x.max(axis=-1, keepdims=True)
    result: FloatArray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


class Pad(OpRun):
    """Crops where pads are negative, then pads."""

    def _run(
        self,
        x: Array,
        given: Array | None = None,
        content: Array | None = None,
        on_axes: Array | None = None,
        *,
        mode: str | None = None,
        pads: Integers = None,
        value: float | None = None,
        **_: object,
    ) -> tuple[Array]:
        sizes = pads if given is None else [int(size) for size in given]
        if sizes is None:
            raise NotImplementedError("Pad of opset 1")
        axes = range(x.ndim) if on_axes is None else [int(axis) % x.ndim for axis in on_axes]
        widths = [(0, 0)] * x.ndim
        for place, axis in enumerate(axes):
            widths[axis] = (sizes[place], sizes[len(axes) + place])
        cropped = x[
            tuple(
                slice(max(0, -before), size - max(0, -after))
                for size, (before, after) in zip(x.shape, widths, strict=True)
            )
        ]
        beyond = [(max(0, before), max(0, after)) for before, after in widths]
        if mode in (None, "constant"):
            number = (value or 0.0) if content is None else content.reshape(())
            return (np.pad(cropped, beyond, constant_values=number),)
        if mode not in ("edge", "reflect", "wrap"):
            raise NotImplementedError(f"Pad in mode {mode}")
        kinds: dict[str, Literal["edge", "reflect", "wrap"]] = {
            "edge": "edge",
            "reflect": "reflect",
            "wrap": "wrap",
        }
        return (np.pad(cropped, beyond, mode=kinds[mode]),)


class Softmax(_Normalized):
    """exp(x) / Σ exp(x)."""

    def _run(self, x: Array, **_: object) -> tuple[Array]:
        return self._along_axis(x, lambda values: np.exp(_log_softmax(values)))


class LogSoftmax(_Normalized):
    """x − log Σ exp(x)."""

    def _run(self, x: Array, **_: object) -> tuple[Array]:
        return self._along_axis(x, _log_softmax)


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


class MatMul(OpRun):
    """A product with one matrix is one product: many products of few rows are slow."""

    def _run(self, a: Array, b: Array, **_: object) -> tuple[Array]:
        if a.ndim > 2 and b.ndim == 2:
            return ((a.reshape(-1, a.shape[-1]) @ b).reshape(*a.shape[:-1], b.shape[1]),)
        return (np.matmul(a, b),)


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
        if auto_pad not in (None, "NOTSET", "VALID") or output_shape is not None:
            raise NotImplementedError("ConvTranspose with auto_pad or output_shape")
        rank, groups = x.ndim - 2, group or 1
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        pads, extra = pads or [0] * 2 * rank, output_padding or [0] * rank
        size, kernel = x.shape[2:], w.shape[2:]
        reach = [(kernel[i] - 1) * dilations[i] + 1 for i in range(rank)]
        full = [(size[i] - 1) * strides[i] + reach[i] + extra[i] for i in range(rank)]
        batch, inputs, outputs = x.shape[0], x.shape[1] // groups, w.shape[1]
        weights = w.reshape(groups, inputs, outputs, *kernel).swapaxes(1, 2)
        columns = x.reshape(batch, groups, inputs, -1)
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


class LRN(OpRun):
    """x / (bias + alpha/size · Σ x²)^beta, over `size` channels around each."""

    def _run(
        self,
        x: Array,
        *,
        alpha: float | None = None,
        beta: float | None = None,
        bias: float | None = None,
        size: int,
        **_: object,
    ) -> tuple[Array]:
        alpha, beta, bias = (
            default if given is None else given
            for given, default in ((alpha, 1e-4), (beta, 0.75), (bias, 1.0))
        )
        before = (size - 1) // 2
        widths = [(0, 0), (before, size - 1 - before), *[(0, 0)] * (x.ndim - 2)]
        squares = np.pad(x**2, widths)
        channels = x.shape[1]
        total = np.zeros(x.shape)
        for first in range(size):
            total += squares[:, first : first + channels]
        return (x / (bias + alpha / size * total) ** beta,)


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


OPERATORS: list[type[OpRun]] = [
    AveragePool,
    BatchNormalization,
    Conv,
    ConvTranspose,
    Erf,
    Gelu,
    LRN,
    LogSoftmax,
    MatMul,
    MaxPool,
    Pad,
    Softmax,
    *DETECTION,
    *QUANTIZATION,
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

    def _padding(self, auto_pad: str, pads: Sequence[int]) -> Sequence[int]:
        if auto_pad == "NOTSET":
            return pads
        if auto_pad == "VALID":
            return [0] * 2 * len(self._sizes)
        totals = []
        for size, stride, reach in zip(self._sizes, self._strides, self._reach, strict=True):
            totals.append(max(0, (math.ceil(size / stride) - 1) * stride + reach - size))
        less, more = [total // 2 for total in totals], [-(-total // 2) for total in totals]
        return [*less, *more] if auto_pad == "SAME_UPPER" else [*more, *less]

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
        return np.pad(x, [(0, 0), (0, 0), *self._widths()], constant_values=content)

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
