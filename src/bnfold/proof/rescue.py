"""Lets the float64 evaluation decide where results are beyond their tolerance.

Also where the original alone is infinite or NaN, as Log(Softmax(x)) is where it is not in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bnfold.arrays import Array, FloatArray
from bnfold.proof.judging import Judge, verdict_on
from bnfold.proof.outputs import Results
from bnfold.proof.tolerance import within_tolerance
from bnfold.proof.truth_slices import Evaluation, is_as_exact
from bnfold.record.data import LevelComparison, OutputComparison


def judged_by_truth(
    judge: Judge,
    levels: Sequence[LevelComparison],
    evaluations: Sequence[Evaluation],
    plain: Results,
    best: Results,
) -> list[LevelComparison]:
    """Let outputs pass that exceed their tolerance, if the original's rounding is as large."""
    judged = []
    for level, given, references in (
        (levels[0], plain, judge.original.references),
        (levels[1], best, judge.original.best),
    ):
        results = judge.in_order(given, judge.original.references)[0]
        outputs = [
            replace(output, by_float64=True, mismatch="")
            if is_rescued(judge, output, results, references, evaluations)
            else output
            for output in level.outputs
        ]
        judged.append(replace(level, verdict=verdict_on(outputs), outputs=outputs))
    return judged


def is_rescued(
    judge: Judge,
    output: OutputComparison,
    results: Results,
    references: Results,
    evaluations: Sequence[Evaluation],
) -> bool:
    """Say whether results beyond their tolerance are as near to the truth as the original's."""
    name = output.name
    known = {evaluation.sample.number: evaluation for evaluation in evaluations}
    samples = judge.original.settled(name)
    is_compared = output.needed is not None or not output.nonfinite.same
    is_asked = judge.checking.of(name).atol is not None
    if within_tolerance(output) or not is_compared or is_asked or not set(samples) <= known.keys():
        return False
    unit = judge.original.unit(name)
    allowance = judge.allowance(name, references)
    for at in samples:
        one, other, evaluation = references[at][name], results[at][name], known[at]
        if not output.nonfinite.same:
            if one.shape != other.shape or other.shape != evaluation.truth[name].shape:
                return False
            allowed = allowance.limits(at, evaluation.truth[name])
            one = _without_overflow(one, other, evaluation.truth[name], allowed)
            original = {**evaluation.sample.original, name: one}
            evaluation = replace(evaluation, sample=replace(evaluation.sample, original=original))
        if not is_as_exact(name, one, other, evaluation, unit):
            return False
    return True


def _without_overflow(
    original: Array, other: Array, truth: FloatArray, allowed: FloatArray
) -> Array:
    """Return the original with the other's values where it alone is not finite, and wrongly so.

    That is where the truth is finite, and the other is within its tolerance of it.
    """
    with np.errstate(invalid="ignore"):
        is_near = np.isfinite(truth) & (np.abs(other - truth) <= allowed)
    return np.where(~np.isfinite(original) & is_near, other, original)
