"""Proves windows that move elements: which one goes where."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bnfold.proof.certificates.probing import (
    by_onnxruntime,
    certified,
    require_content,
    require_equal_bits,
)
from bnfold.proof.certificates.sizes.sizing import Sizing
from bnfold.proof.certificates.windows import NotShown, Window, dtype_of
from bnfold.record.data import Certificate


def prove_copying(window: Window, chosen: Sequence[Sizing]) -> Certificate:
    """Give each element of the inputs a number, digit by digit, and see where it goes.

    At last all of these change, so that none is taken for a constant.
    """
    if not window.inputs:
        raise NotShown("both sides are constants, which rounding may tell apart")
    runs = 0
    sides = [by_onnxruntime(model) for model in window.models]
    for sizing in chosen:
        count = sum(math.prod(shape) for shape in sizing.shapes.values())
        base = min(_digits(dtype_of(value)) for value in window.inputs)
        digits = max(1, math.ceil(math.log(max(count, 2), base)))
        for digit, change in [*((digit, 0) for digit in range(digits)), (0, 1)]:
            feeds, at = {}, 0
            for value in window.inputs:
                shape = sizing.shapes[value.name]
                numbers = (np.arange(at, at + math.prod(shape)) // base**digit + change) % base
                feeds[value.name] = numbers.reshape(shape).astype(dtype_of(value))
                at += math.prod(shape)
            before, after = (run(feeds) for run in sides)
            require_equal_bits(window, before, after)
            require_content(before)
            runs += 1
    return certified("copying", chosen, probes=runs)


def _digits(dtype: np.dtype[np.generic]) -> int:
    if dtype.kind == "b":
        return 2
    return 100 if dtype.itemsize < 2 else 1000
