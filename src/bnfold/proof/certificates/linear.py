"""Bounds the difference of affine windows, and of maxima of affine functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from bnfold.arrays import Array, FloatArray
from bnfold.proof.certificates.kinds import is_multilinear
from bnfold.proof.certificates.nudging import NUDGES, with_nudged_constants
from bnfold.proof.certificates.probing import (
    MOST_ROUNDINGS,
    ROUNDING,
    TINY,
    Differs,
    Run,
    certified,
    each_probe,
    evaluator,
    in_float64,
    require_content,
    require_equal_bits,
    single,
)
from bnfold.proof.certificates.sizes.sizing import Sizing
from bnfold.proof.certificates.taps import tapped
from bnfold.proof.certificates.windows import Window
from bnfold.record.data import Certificate, Difference

PROBES = 24
"""Gaussian inputs of a linear window."""

DOUBT = 1e-9
"""The probability that a stated bound does not hold."""

_AFFINE = 1e-9
"""Relative: an affine model, in float64, is affine to this."""

FLOAT64 = 2.0**-45
"""Relative: what rounding in float64 may come to over a sum."""


def bound_factor(probes: int, rows: int) -> float:
    """Return how many times the largest |d·x| of some probes bounds ‖d‖, for each of many rows.

    For x ~ N(0, I), d·x ~ N(0, ‖d‖²), and |d·x| ≤ t has a probability of less than 0.8·t/‖d‖. So
    all probes stay below t with less than (0.8·t/‖d‖)^k, which is `DOUBT`/rows at the bound.
    """
    return float(0.8 / (DOUBT / 2 / rows) ** (1 / probes))


def norm_factor(probes: int, rows: int) -> float:
    """Return how many times its own estimate of a norm may exceed it, for each of many rows.

    The sum of k squares of normal values is beyond k·f with a probability of at most
    (f·e^(1−f))^(k/2), by Chernoff's bound; it is `DOUBT`/rows at f.
    """
    low, high = 1.0, 1e3
    wanted = math.log(DOUBT / 2 / rows) * 2 / probes
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.log(middle) + 1 - middle > wanted else (low, middle)
    return math.sqrt(high)


def prove_linear(window: Window, chosen: Sequence[Sizing]) -> Certificate | None:
    """Bound the difference of two affine models; None if one of them is not affine."""
    bound = linear_bound(window, chosen)
    if bound is None:
        return None
    doubt = DOUBT * len(chosen)
    return certified("linear", chosen, probes=PROBES, bound=bound, doubt=doubt)


def prove_maximum(window: Window, chosen: Sequence[Sizing]) -> Certificate | None:
    """Bound the difference of two maxima of affine functions, each by itself, or None."""
    windows = tapped(window)
    if windows is None:
        return None
    largest, count = 0.0, 0
    try:
        for each in windows:
            bound = linear_bound(each, chosen)
            if bound is None:
                return None
            largest, count = max(largest, bound), count + 1
    except Differs:  # the elements may have another order
        return None
    doubt = DOUBT * count * len(chosen)
    return certified("maximum", chosen, probes=PROBES * count, bound=largest, doubt=doubt)


def linear_bound(window: Window, chosen: Sequence[Sizing], unit: str | None = None) -> float | None:
    """Bound the difference of two affine models; None if one of them is not affine.

    The `unit` is the type to which what is new has been rounded, if it is not the window's.
    """
    rounding = ROUNDING[unit or window.unit]
    if not all(map(is_multilinear, window.models)):
        return None
    largest = 0.0
    for sizing in chosen:
        shapes = single(sizing)
        generator = np.random.default_rng(len(shapes))
        gaussian = [
            {name: generator.standard_normal(shape) for name, shape in shapes.items()}
            for _ in range(PROBES)
        ]
        elements = 1 + sum(map(math.prod, shapes.values()))
        zero = {name: np.zeros(shape) for name, shape in shapes.items()}
        both = {name: gaussian[0][name] + gaussian[1][name] for name in shapes}
        probes = [zero, both, *gaussian]
        before, after = (each_probe(sizing, probes, run) for run in in_float64(window))
        if before.shape != after.shape:
            require_equal_bits(window, before, after)
        require_content(before)
        defined = np.asarray(~np.isnan(before).any(axis=0))
        if not (_is_defined_at(before, defined) and _is_defined_at(after, defined)):
            return None
        if not (is_affine(before) and is_affine(after)):
            return None
        before, after = (np.where(defined, outputs, 0.0) for outputs in (before, after))
        try:
            bound = _difference(window, rounding, elements, before, after)
        except Differs:  # where large addends cancel, their rounding is more than the result's
            nudged = (
                np.where(defined, each_probe(sizing, probes, run), 0.0)
                for run in _nudged(window, rounding)
            )
            bound = _difference(window, rounding, elements, before, after, list(nudged))
        largest = max(largest, bound)
    return largest


def _is_defined_at(outputs: FloatArray, defined: Array) -> bool:
    """Say whether outputs are finite at some elements, and NaN, as padding, at all others."""
    return bool((np.isfinite(outputs) == defined).all() and not np.isinf(outputs).any())


def is_affine(outputs: FloatArray) -> bool:
    """Say whether f(a + b) − f(a) − f(b) + f(0) is zero, up to rounding in float64.

    The outputs are f(0), f(a + b), f(a) and f(b), and perhaps more.
    """
    zero, both, one, other = outputs[:4]
    size = np.nanmax(np.abs(outputs[:4]), initial=0.0)
    residual = np.abs(both - one - other + zero)
    return bool(((residual <= _AFFINE * size) | np.isnan(residual)).all())


def _nudged(window: Window, rounding: float) -> Iterator[Run]:
    """Yield the side before with constants that are rounded otherwise."""
    for seed in range(NUDGES):
        yield evaluator(with_nudged_constants(window.before, rounding, seed))


def _difference(
    window: Window,
    unit: float,
    elements: int,
    before: FloatArray,
    after: FloatArray,
    nudged: Sequence[FloatArray] = (),
) -> float:
    """Return a bound on each row of the difference, as a share of the row's own norm.

    Each row may be off by some roundings, of itself or of the constants that make it: by as much as
    these move what is computed. Weights that are too small for a normal number are set to zero,
    which may be as many as the `elements` that a row reads.

    Raises:
        Differs: if a row, or the constant part, differs by more than rounding.
    """
    constant = before[0] - after[0]
    rows = before[2:] - before[0]
    norms = np.sqrt((rows**2).mean(axis=0))
    differences = np.abs(rows - (after[2:] - after[0]))
    largest = differences.max(axis=0)
    tiny = MOST_ROUNDINGS * TINY * math.sqrt(elements)
    sizes = np.maximum(np.abs(before[0]), norms)
    rounding, constant_rounding = unit * norms, unit * sizes
    for other in nudged:
        moved = other[2:] - other[0] - rows
        rounding = np.maximum(rounding, np.sqrt((moved**2).mean(axis=0)))
        constant_rounding = np.maximum(constant_rounding, np.abs(other[0] - before[0]))
    allowed = MOST_ROUNDINGS * rounding + FLOAT64 * sizes + tiny
    shift = MOST_ROUNDINGS * constant_rounding + FLOAT64 * sizes + tiny
    excess = np.maximum(largest / allowed, np.abs(constant) / shift)
    if (excess.size and float(excess.max()) > 1) or not np.isfinite(excess).all():
        at = np.unravel_index(int(np.nan_to_num(excess, nan=np.inf).argmax()), excess.shape)
        is_constant = np.abs(constant[at]) / shift[at] >= largest[at] / allowed[at]
        probe = 0 if is_constant else 2 + int(differences[(slice(None), *at)].argmax())
        raise Differs(
            Difference(
                window.before.graph.output[0].name,
                [int(i) for i in at[1:]],
                float(before[(probe, *at)]),
                float(after[(probe, *at)]),
            )
        )
    factor = bound_factor(PROBES, excess.size or 1) * norm_factor(PROBES, excess.size or 1)
    counts = largest > tiny + FLOAT64 * sizes
    shares = np.divide(largest, norms, out=np.zeros(norms.shape), where=counts)
    return factor * float(shares.max(initial=0.0))
