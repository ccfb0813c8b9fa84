"""Operators for the float64 evaluation that are wrong or slow in onnx's reference evaluator.

Onnx's BatchNormalization fails before opset 9 and trains from 9 to 13; its Softmax and Hardmax are
those of opset 13 at every opset; its Pad takes no negative sizes; its Erf and Gelu compute in
float32; its Optional gives a sequence, its Mean does not broadcast the first operand, and its
Resize with aligned corners takes the scale for that of the rounded size.
Unsupported cases (such as the indices of a MaxPool) raise, and then the model is not evaluated.
Shapes are those of the ONNX operators; floats are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_resize

from bnfold.arrays import Array, FloatArray
from bnfold.proof.float64.detection import DETECTION
from bnfold.proof.float64.normalization import NORMALIZATION
from bnfold.proof.float64.quantization import QUANTIZATION
from bnfold.proof.float64.sliding_windows import WINDOWED

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


class Flatten(OpRun):
    """Two axes of all, also of an empty batch, whose second one onnx would have to infer."""

    def _run(self, x: Array, *, axis: int | None = None, **_: object) -> tuple[Array]:
        split = 1 if axis is None else axis + x.ndim * (axis < 0)
        return (x.reshape(math.prod(x.shape[:split]), math.prod(x.shape[split:])),)


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
        flat = x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
        return (function(flat).reshape(x.shape),)


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


class Hardmax(_Normalized):
    """1 at the first largest element, and 0 elsewhere."""

    def _run(self, x: Array, **_: object) -> tuple[Array]:
        return self._along_axis(x, lambda values: np.eye(values.shape[-1])[values.argmax(axis=-1)])


class MatMul(OpRun):
    """A product with one matrix is one product: many products of few rows are slow."""

    def _run(self, a: Array, b: Array, **_: object) -> tuple[Array]:
        if a.ndim > 2 and b.ndim == 2:
            return ((a.reshape(-1, a.shape[-1]) @ b).reshape(*a.shape[:-1], b.shape[1]),)
        return (np.matmul(a, b),)


class Gemm(OpRun):
    """α·A·B + β·C. That of operator sets below 7 leaves out β in onnx, where C need not spread."""

    def _run(
        self,
        a: Array,
        b: Array,
        c: Array | None = None,
        *,
        alpha: float | None = None,
        beta: float | None = None,
        **given: object,
    ) -> tuple[Array]:
        y = (a.T if given.get("transA") else a) @ (b.T if given.get("transB") else b)
        y = y if alpha is None else y * alpha
        if c is None or beta == 0:
            return (y,)
        return (y + (c if beta is None else c * beta),)


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


class Mean(OpRun):
    """The mean of operands, which broadcast, element by element."""

    def _run(self, *operands: Array, **_: object) -> tuple[Array]:
        return (sum(operands[1:], start=operands[0]) / len(operands),)


class Optional(OpRun):
    """Something, or nothing; either is its own value."""

    def _run(self, x: Any = None, **_: object) -> tuple[Any]:
        return (x,)


class Resize(OpRun):
    """That of onnx; where corners are aligned, the sizes alone count, as ⌊scale·size⌋."""

    def _run(
        self,
        x: Array,
        region: Array | None = None,
        scales: Array | None = None,
        sizes: Array | None = None,
        **given: Any,
    ) -> tuple[Array]:
        if scales is not None and given.get("coordinate_transformation_mode") == "align_corners":
            axes = range(x.ndim) if given.get("axes") is None else given["axes"]
            own = np.array([x.shape[axis] for axis in axes], np.float32)
            sizes, scales = np.floor(own * scales.astype(np.float32)).astype(np.int64), None
        original: Any = op_resize.Resize
        resized: tuple[Array] = original._run(self, x, region, scales, sizes, **given)
        return resized


OPERATORS: list[type[OpRun]] = [
    BatchNormalization,
    Erf,
    Flatten,
    Gelu,
    Gemm,
    Hardmax,
    LRN,
    LogSoftmax,
    MatMul,
    Mean,
    Optional,
    Pad,
    Resize,
    Softmax,
    *DETECTION,
    *NORMALIZATION,
    *WINDOWED,
    *QUANTIZATION,
]
