"""Normalizations for the float64 evaluation that onnx's reference evaluator has not, or wrong.

It has no GroupNormalization of operator set 21, no MeanVarianceNormalization of float64, and sums
signed numbers in an LpNormalization of p = 1. Shapes are those of the ONNX operators.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx.reference.op_run import OpRun

from bnfold.arrays import Array

_PER_CHANNEL_SINCE = 21


class GroupNormalization(OpRun):
    """s·(x − m)/√(v + ε) + b, with m and v of a group of channels; s and b by group before 21."""

    def _run(
        self,
        x: Array,
        s: Array,
        b: Array,
        *,
        epsilon: float | None = None,
        num_groups: int,
        **_: object,
    ) -> tuple[Array]:
        groups = x.reshape(x.shape[0], num_groups, -1)
        centred = groups - groups.mean(axis=-1, keepdims=True)
        variance = (centred**2).mean(axis=-1, keepdims=True)
        normal = centred / np.sqrt(variance + (1e-5 if epsilon is None else epsilon))
        if self.run_params["opsets"][""] < _PER_CHANNEL_SINCE:
            s, b = (np.repeat(each, x.shape[1] // num_groups) for each in (s, b))
        s, b = (each.reshape(-1, *[1] * (x.ndim - 2)) for each in (s, b))
        return (normal.reshape(x.shape) * s + b,)


class LpNormalization(OpRun):
    """x over the norm (Σ|x|ᵖ)^(1/p) along an axis; 0 where that is 0."""

    def _run(
        self, x: Array, *, axis: int | None = None, p: int | None = None, **_: object
    ) -> tuple[Array]:
        along = -1 if axis is None else axis
        norm = np.linalg.norm(x, ord=2 if p is None else p, axis=along, keepdims=True)
        return (np.divide(x, norm, out=np.zeros(x.shape), where=norm != 0),)


class MeanVarianceNormalization(OpRun):
    """(x − m)/(√v + 1e-9), with m and v over axes."""

    def _run(self, x: Array, *, axes: Sequence[int] | None = None, **_: object) -> tuple[Array]:
        over = (0, 2, 3) if axes is None else tuple(axes)
        centred = x - x.mean(axis=over, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=over, keepdims=True))
        return (centred / (deviation + 1e-9),)


NORMALIZATION: list[type[OpRun]] = [
    GroupNormalization,
    LpNormalization,
    MeanVarianceNormalization,
]
