"""An operator for the float64 evaluation of what stands in place of a MaxPool in a proof."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx.reference.op_run import OpRun

from bnfold.arrays import Array
from bnfold.proof.float64.sliding_windows import Windows, at

DOMAIN = "bnfold.proof"


class MaxPoolTap(OpRun):
    """One element of each window of a MaxPool; NaN where it is padding."""

    op_domain = DOMAIN

    def _run(
        self,
        x: Array,
        *,
        tap: int,
        kernel_shape: Sequence[int],
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
        dilations: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        **_: object,
    ) -> tuple[Array]:
        windows = Windows(
            x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, bool(ceil_mode)
        )
        where = list(windows.taps())[tap][1]
        return (windows.pad(x, np.nan)[at(where)],)
