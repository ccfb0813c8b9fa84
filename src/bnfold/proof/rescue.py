"""Lets the float64 evaluation decide where results are beyond their tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
            replace(output, by_float64=True)
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
    is_measured = output.needed is not None and set(samples) <= known.keys()
    is_asked = judge.checking.of(name).atol is not None
    if within_tolerance(output) or not is_measured or is_asked:
        return False
    unit = judge.original.unit(name)
    return all(
        is_as_exact(name, references[at][name], results[at][name], known[at], unit)
        for at in samples
    )
