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
        if not is_as_exact(name, one, other, evaluation, unit):
            return False
        overflows, truth = ~np.isfinite(one), evaluation.truth[name]
        if overflows.any():
            allowed = allowance.limits(at, truth)
            if not _are_near(other[overflows], truth[overflows], allowed[overflows]):
                return False
    return True


def _are_near(other: Array, truth: FloatArray, allowed: FloatArray) -> bool:
    """Say whether the truth is finite, and other values are within their tolerance of it."""
    return bool(np.isfinite(truth).all() and (np.abs(other - truth) <= allowed).all())
