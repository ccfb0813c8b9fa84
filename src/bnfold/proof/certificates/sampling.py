"""Compares windows on samples, where no proof is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.helper

from bnfold.arrays import Array, FloatArray
from bnfold.proof.certificates.linear import PROBES
from bnfold.proof.certificates.nudging import with_nudged_constants
from bnfold.proof.certificates.probing import (
    MOST_ROUNDINGS,
    ROUNDING,
    Differs,
    certified,
    each_probe,
    evaluator,
    in_float64,
    require_content,
    require_equal_bits,
    single,
)
from bnfold.proof.certificates.sizes.sizing import Sizing
from bnfold.proof.certificates.windows import NotShown, Window, dtype_of, is_float
from bnfold.proof.noise import root_mean_square
from bnfold.record.data import Certificate, Difference

_WIDTHS = (1.0, 0.1, 10.0)
"""Standard deviations of the inputs where samples must do."""


def sample(window: Window, chosen: Sequence[Sizing]) -> Certificate:
    """Compare on Gaussian inputs, with what rounding of the constants explains."""
    probes = 0
    run_before, run_after = in_float64(window)
    unit = ROUNDING[window.unit]
    nudged = evaluator(with_nudged_constants(window.before, unit, 0))
    for sizing in chosen:
        shapes = single(sizing)
        generator = np.random.default_rng(len(shapes))
        for width in _WIDTHS:
            feeds = [
                {
                    value.name: _drawn(generator, value, shapes[value.name]) * width
                    for value in window.inputs
                }
                for _ in range(PROBES // len(_WIDTHS))
            ]
            before, after, moved = (
                each_probe(sizing, feeds, run) for run in (run_before, run_after, nudged)
            )
            if before.shape != after.shape or before.dtype.kind != "f":
                require_equal_bits(window, before, after)
                continue
            require_content(before)
            noise = _of_finite(distances(moved, before))
            size = _of_finite(before)
            error = distances(after, before)
            if not error.max() <= 10 * MOST_ROUNDINGS * max(noise, unit * size):
                at = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
                name = window.before.graph.output[0].name
                raise Differs(Difference(name, list(at[1:]), float(before[at]), float(after[at])))
            probes += len(feeds)
    return certified("sampled", chosen, probes=probes)


def distances(one: FloatArray, other: FloatArray) -> FloatArray:
    """Return how far elements are from each other; NaN is as far from NaN as 1 from 1.

    Of types of 8 bits, some have no infinity, and so none that would be further than all else.
    """
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    is_same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        return np.where(is_same, 0.0, np.nan_to_num(np.abs(one - other), nan=np.inf))


def _of_finite(values: FloatArray) -> float:
    return root_mean_square(values[np.isfinite(values)])


def _drawn(
    generator: np.random.Generator, value: onnx.ValueInfoProto, shape: tuple[int, ...]
) -> Array:
    dtype = dtype_of(value)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(np.bool_)
    if not is_float(dtype):
        raise NotShown(f"its input {value.name!r} is of integers")
    return generator.standard_normal(shape)
