"""Measures how far two models are from the truth: the original, evaluated in float64.

Evaluated in float64 as well, the other model differs from it by the rounding of its new weights
alone. That is the sharpest test there is: no rounding on the way hides anything.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bnfold.arrays import FloatArray
from bnfold.progress import silent
from bnfold.proof.float64.evaluation import NoTruth, Truth64
from bnfold.proof.noise import root_mean_square, widened
from bnfold.proof.tolerance import DEFAULT_TOLERANCES
from bnfold.proof.truth_slices import (
    MOST_DISAGREEMENT,
    ROUNDING_ERRORS,
    TRUTH_FACTOR,
    Differences,
    Evaluation,
    Sample,
    countable,
    exact_ratio,
    is_yardstick,
)
from bnfold.proof.verdict import FEWEST_SAMPLES
from bnfold.record.data import Truth, TruthOutput
from bnfold.running.isolation import CrashedError, Forked
from bnfold.running.sharing import sharing

_SECONDS_FOR_MORE = 2.0
"""Where one more sample would take longer in all, there is none, unless an output is in doubt.

Of the processor, so that a verdict does not depend on what else it does.
"""

_LARGE = 2**22
"""Bytes of weights from which on a model takes longer to evaluate than a process takes to begin."""

NEGLIGIBLE = 4.0
"""In units of the rounding unit's error: what is never too far from the truth. An original without
any error, of small integers say, would otherwise allow none."""


def compare_with_truth(
    original: Path,
    optimized: Path,
    samples: Iterable[Sample],
    seconds: float,
    *,
    units: Mapping[str, str] | None = None,
    steps: frozenset[str] = frozenset(),
    whatever_it_takes: bool = False,
    every_sample: bool = False,
    arrange: Callable[[Evaluation], Evaluation] = lambda evaluation: evaluation,
) -> tuple[Truth, list[Evaluation]]:
    """Evaluate both models in float64, on as many samples as there is time for.

    What counts of each output is the sample on which the original is steadiest: where rounding
    grows in a model, how far it grows is luck. Nothing is raised: where there is no truth, the
    record says why.

    Args:
        original: the model whose float64 evaluation is the truth.
        optimized: the other one.
        samples: what both gave on which inputs.
        seconds: for all evaluations.
        units: the rounding unit of each output; by default its own type.
        steps: outputs downstream of a step. Where the original is on another one in float64, or
            jumps in a draw of its noise, it is no yardstick, and the element is left out.
        whatever_it_takes: whether the first sample may take longer.
        every_sample: whether to use all of the time, not a few seconds.
        arrange: brings rows whose order is open into the original's order.
    """
    begun, used = time.monotonic(), _processor_seconds()
    end = math.inf if whatever_it_takes else begun + seconds
    evaluations: list[Evaluation] = []
    try:
        models = Truth64(original), Truth64(optimized)
        for sample in samples:
            spent, most = _processor_seconds() - used, _SECONDS_FOR_MORE
            if every_sample:
                spent, most = time.monotonic() - begun, seconds
            if evaluations and spent * (1 + 1 / len(evaluations)) > most:
                break
            evaluations.append(arrange(_evaluated(*models, sample, end)))
    except NoTruth as error:
        if not evaluations:
            return Truth(0, str(error)), []
    try:
        found = measure(evaluations, units or {}, steps)
    except NoTruth as error:
        return Truth(len(evaluations), str(error)), []
    return found, evaluations if found.outputs else []


def _evaluated(original: Truth64, optimized: Truth64, sample: Sample, end: float) -> Evaluation:
    """Evaluate both models, large ones at the same time.

    Raises:
        NoTruth: if one of them cannot be evaluated, or it takes longer.
    """
    if min(original.bytes, optimized.bytes) < _LARGE:
        truth, exact = (model.outputs(sample.feeds, end) for model in (original, optimized))
        return Evaluation(sample, truth, exact)
    with sharing(2), Forked(lambda _: optimized.outputs(sample.feeds, end)) as other:
        truth = original.outputs(sample.feeds, end)
        try:
            return Evaluation(sample, truth, other.result(silent))
        except CrashedError as error:
            raise NoTruth(f"the other model could not be evaluated: {error}") from error


def _processor_seconds() -> float:
    """Return the processor time of this process, and of those that it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def measure(
    evaluations: Sequence[Evaluation], units: Mapping[str, str], steps: frozenset[str]
) -> Truth:
    """Return what the evaluations say of each output.

    Raises:
        NoTruth: if shapes differ.
    """
    steadiest: dict[str, TruthOutput] = {}
    for evaluation in evaluations:
        for name in _names(evaluation):
            original = evaluation.sample.original[name]
            unit = units.get(name, getattr(original, "dtype", np.dtype(bool)).name)
            if not _is_float(original) or unit not in ROUNDING_ERRORS:
                continue
            measured = _errors(name, unit, evaluation, jumps=name in steps)
            steadiest[name] = min(measured, steadiest.get(name, measured), key=_unsteadiness)
    for output in steadiest.values():
        if output.original > MOST_DISAGREEMENT[output.unit]:
            return Truth(
                len(evaluations),
                "onnxruntime and onnx's reference evaluation of the original differ by "
                f"{output.original:.1%} in {output.name!r}, so neither is a yardstick",
            )
    outputs = []
    for name, output in steadiest.items():
        jumps = name in steps
        having = [
            each
            for each in evaluations
            if name in each.truth and is_yardstick(name, output.unit, each, jumps=jumps)
        ]
        if jumps:
            used = [each for each in having if _shows(name, output.unit, each)]
        else:
            used = [each for each in having if name not in each.sample.unsettled] or having
        largest, where = exact_ratio(name, output.unit, used, jumps=jumps)
        few = min(max(FEWEST_SAMPLES, len(having) / 2), len(having))
        is_open = largest <= 1 and jumps and len(used) < few
        outputs.append(replace(output, ratio=None if is_open else largest, where=where))
    note = "" if outputs else "no output is of a type that rounds more than float64"
    return Truth(len(evaluations), note, outputs, needless=not outputs)


def _shows(name: str, unit: str, evaluation: Evaluation) -> bool:
    """Say whether a sample shows anything of an output past a step.

    Where most elements jump in the original's own runs, by more than what is tolerated, one jump in
    float64 may make as many others jump: that is no difference. But it is equal, if it is.
    """
    sample, truth = evaluation.sample, widened(evaluation.truth[name])
    tolerance = DEFAULT_TOLERANCES[unit].rtol
    moves = np.maximum(sample.noise[name], np.abs(widened(sample.original[name]) - truth))
    jumped = moves > tolerance * float(np.abs(truth).max(initial=0.0))
    if 2 * int(np.count_nonzero(jumped)) <= jumped.size:
        return True
    difference = widened(evaluation.exact[name]) - truth
    return _relative(difference, root_mean_square(truth)) <= tolerance


def _names(evaluation: Evaluation) -> list[str]:
    """Return the outputs: both models give the same arrays, or there is nothing to compare."""
    names = list(evaluation.truth)
    sample = evaluation.sample
    for other in (evaluation.exact, sample.original, sample.optimized):
        if missing := [name for name in names if name not in other]:
            raise NoTruth(f"{missing[0]!r} is given in float64 alone")
    return names


def _unsteadiness(output: TruthOutput) -> float:
    """Return how far the original is from the truth, or moves by itself, on a sample."""
    return max(output.original, output.noise)


def _is_float(output: object) -> bool:
    """Say whether an output is of floats: of float64, too, as a Cast makes them of others."""
    return isinstance(output, np.ndarray) and (
        output.dtype.kind == "f" or output.dtype.name in ROUNDING_ERRORS
    )


def _errors(name: str, unit: str, evaluation: Evaluation, *, jumps: bool) -> TruthOutput:
    """Return the errors of one output on one sample, over the elements that are all finite."""
    sample, truth = evaluation.sample, evaluation.truth[name]
    original = sample.original[name]
    counts = countable(name, unit, evaluation, jumps=jumps)
    size = root_mean_square(truth[counts])
    others = [
        Differences.of(name, unit, evaluation, np.asarray(output), jumps=jumps)
        for output in (sample.optimized[name], evaluation.exact[name])
    ]
    errors = [others[0].error, *(each.difference for each in others), sample.noise[name]]
    of_original, of_optimized, of_exact, noise = (_relative(e[counts], size) for e in errors)
    limit = truth_limit(unit, of_original, noise)
    return TruthOutput(
        name=name,
        dtype=original.dtype.name,
        original=of_original,
        optimized=of_optimized,
        computed_exactly=of_exact,
        noise=noise,
        limit=limit,
        unit=unit,
    )


def truth_limit(unit: str, original: float, noise: float) -> float:
    """Return how far the optimized model may be from the truth, as a relative root mean square."""
    return max(TRUTH_FACTOR * max(original, noise), NEGLIGIBLE * ROUNDING_ERRORS[unit])


def _relative(error: FloatArray, size: float) -> float:
    found = root_mean_square(error)
    return found / size if size else (math.inf if found else 0.0)
