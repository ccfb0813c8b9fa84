"""Statistics of sampled run times."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bnfold.record.data import SpeedBlock, SpeedSummary, SpeedVerdict

FEWEST_BLOCKS = 3
"""The smallest number of blocks that shows how far they are apart, and so an interval."""

FEWEST_TURNS = 5
"""The smallest number of turns that allows a verdict."""


_RESAMPLES = 1000


def summarize(blocks: Sequence[SpeedBlock]) -> SpeedSummary:
    """Compute every figure from the samples; the same samples give the same figures.

    A model is *faster* or *slower* if its interval excludes 1 by more than the control's error,
    which is how far the control's interval reaches from 1: the original cannot differ from itself.
    """
    control, control_ci95 = _ratio(blocks, "control")
    original_ms = _median_ms(blocks, "original")
    if "optimized" not in blocks[0].run_ms:
        return SpeedSummary(original_ms, None, None, None, control, control_ci95, None)
    speedup, ci95 = _ratio(blocks, "optimized")
    turns = sum(len(block.run_ms["original"]) for block in blocks)
    error = max(abs(1 - bound) for bound in control_ci95)
    verdict: SpeedVerdict = "no significant difference"
    if turns >= FEWEST_TURNS and ci95[0] > 1 + error:
        verdict = "faster"
    elif turns >= FEWEST_TURNS and ci95[1] < 1 - error:
        verdict = "slower"
    optimized_ms = _median_ms(blocks, "optimized")
    return SpeedSummary(original_ms, optimized_ms, speedup, ci95, control, control_ci95, verdict)


def _ratio(blocks: Sequence[SpeedBlock], name: str) -> tuple[float, list[float]]:
    """Return the median of the original's time over this one's, and its 95 % interval.

    A resample draws as many blocks as there are, and from each the mean number of turns.
    """
    by_block = [np.divide(block.run_ms["original"], block.run_ms[name]) for block in blocks]
    ratios = np.concatenate(by_block)
    sizes = np.array([len(block_ratios) for block_ratios in by_block])
    starts = np.cumsum(sizes) - sizes
    turns = math.ceil(sizes.mean())
    generator = np.random.default_rng(0)
    medians = []
    for _ in range(_RESAMPLES):
        chosen = generator.integers(0, len(blocks), (len(blocks), 1))
        within = generator.random((len(blocks), turns)) * sizes[chosen]
        medians.append(np.median(ratios[starts[chosen] + within.astype(int)]))
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(np.median(ratios)), [float(low), float(high)]


def _median_ms(blocks: Sequence[SpeedBlock], name: str) -> float:
    return median([ms for block in blocks for ms in block.run_ms[name]])


def median(values: Sequence[float]) -> float:
    """Return the median as a float."""
    return float(np.median(values))
