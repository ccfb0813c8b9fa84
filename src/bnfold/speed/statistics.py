"""Statistics of sampled run times."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bnfold.record.data import FEWEST_BLOCKS, SpeedBlock, SpeedSummary, SpeedVerdict

_CONFIDENCE = 0.95


def summarize(blocks: Sequence[SpeedBlock]) -> SpeedSummary:
    """Compute every figure from the samples; the same samples give the same figures."""
    control, control_ci95 = ratio(blocks, "control")
    original_ms = _median_ms(blocks, "original")
    if "optimized" not in blocks[0].run_ms:
        return SpeedSummary(original_ms, None, None, None, control, control_ci95, None)
    speedup, ci95 = ratio(blocks, "optimized")
    return SpeedSummary(
        original_ms,
        _median_ms(blocks, "optimized"),
        speedup,
        ci95,
        control,
        control_ci95,
        judge(ci95, control_ci95),
    )


def judge(interval: Sequence[float] | None, control: Sequence[float] | None) -> SpeedVerdict:
    """Return the verdict on a model from its interval and the control's.

    It is *faster* or *slower* if the interval excludes 1 by more than the control's error, which is
    how far the control's interval reaches from 1: the original cannot differ from itself.
    """
    if interval is None or control is None:
        return "not measured"
    error = max(abs(1 - bound) for bound in control)
    if interval[0] > 1 + error:
        return "faster"
    if interval[1] < 1 - error:
        return "slower"
    return "no significant difference"


def ratio(
    blocks: Sequence[SpeedBlock], name: str, confidence: float = _CONFIDENCE
) -> tuple[float, list[float] | None]:
    """Return the original's time over this one's, and the interval of that.

    Each block counts as one observation: the median of its turns, because turns share sessions and
    a process, and what these are off by. Of n observations x, as logarithms, the mean is within
    t·s/√n of the true one, with the standard deviation s and the quantile t of Student's
    distribution with n − 1 degrees of freedom. It holds for few blocks, too, where a bootstrap is
    too narrow. See A. Georges, D. Buytaert and L. Eeckhout, "Statistically rigorous Java
    performance evaluation", OOPSLA 2007, on intervals over fresh processes; and T. Kalibera and
    R. Jones, "Rigorous benchmarking in reasonable time", ISMM 2013, on levels that vary.
    """
    logarithms = np.array(
        [
            np.median(np.log(np.divide(block.run_ms["original"], block.run_ms[name])))
            for block in blocks
        ]
    )
    middle = float(logarithms.mean())
    if len(blocks) < FEWEST_BLOCKS:
        return math.exp(middle), None
    spread = float(logarithms.std(ddof=1)) / math.sqrt(len(blocks))
    margin = students_t(confidence, len(blocks) - 1) * spread
    return math.exp(middle), [math.exp(middle - margin), math.exp(middle + margin)]


def students_t(confidence: float, freedom: int) -> float:
    """Return the t that bounds Student's distribution to both sides with this probability.

    For whole degrees of freedom the probability is a finite sum in θ = atan(t/√freedom): M.
    Abramowitz and I. Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    low, high = 0.0, math.pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        if _within(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(middle)


def _within(angle: float, freedom: int) -> float:
    """Return the probability that |t| is less than √freedom·tan(angle)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = freedom % 2
    term, total = (cosine, 0.0) if is_odd else (1.0, 0.0)
    for power in range(1 + is_odd, freedom, 2):
        total += term
        term *= cosine**2 * power / (power + 1)
    return (angle + sine * total) * 2 / math.pi if is_odd else sine * total


def _median_ms(blocks: Sequence[SpeedBlock], name: str) -> float:
    return median([ms for block in blocks for ms in block.run_ms[name]])


def median(values: Sequence[float]) -> float:
    """Return the median as a float."""
    return float(np.median(values))
