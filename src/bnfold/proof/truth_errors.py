"""Measures how far two models are from the truth: the original, evaluated in float64.

Evaluated in float64 as well, the other model differs from it by the rounding of its new weights
alone. That is the sharpest test there is: no rounding on the way hides anything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.arrays import Array, FloatArray
from bnfold.proof.noise import UNSETTLED, Slices, headroom, root_mean_square, widened
from bnfold.proof.tolerance import DEVIATIONS
from bnfold.proof.truth import NoTruth, Truth64
from bnfold.record.data import Truth, TruthOutput
from bnfold.running.runtime import Feeds

_SECONDS_FOR_MORE = 2.0
"""Once so many have passed, the sample at hand is the last one."""

_MOST_DISAGREEMENT = {"float32": 0.01, "float16": 0.1, "bfloat16": 0.3}
"""By rounding unit. Beyond it, the original is so far from the truth that one of the two is no
yardstick: rounding grows without bound in this model, or an operator is evaluated otherwise."""

TRUTH_FACTOR = 4.0
"""The optimized model may be so many times as far from the truth as the original is, or as the
original moves when its inputs change by their last bit: its error may be small by luck."""

NEGLIGIBLE = 4.0
"""In units of the rounding unit's error: what is never too far from the truth. An original without
any error, of small integers say, would otherwise allow none."""

EXACT_FACTOR = 1.0
"""In float64 the two may differ, in each slice, by so many times the original's own rounding."""

CONCENTRATED = 3.0
"""Rounding at an element over so many times the scale of its slice is larger there, not luck."""

_ROUNDING_ERRORS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""From 1 to the next number of the type."""


@dataclass(frozen=True)
class Sample:
    """A sample: its inputs, what both models give on them, and the original's noise.

    `noise` is the largest draw at each element, by output; `slices` is its scale in the slices
    along each axis, as `Noise.slices` returns it.
    """

    feeds: Feeds
    original: Mapping[str, Any]
    optimized: Mapping[str, Any]
    noise: Mapping[str, Array]
    slices: Mapping[str, Sequence[Slices]] = field(default_factory=dict)
    number: int = 0
    unsettled: frozenset[str] = frozenset()
    """The outputs that the original's own rounding decides on this sample."""


@dataclass(frozen=True)
class Evaluation:
    """A sample, and both models evaluated on it in float64: all outputs by name."""

    sample: Sample
    truth: Mapping[str, Array]
    exact: Mapping[str, Array]


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
    """
    begun = time.monotonic()
    end = math.inf if whatever_it_takes else begun + seconds
    evaluations: list[Evaluation] = []
    try:
        models = Truth64(original), Truth64(optimized)
        for sample in samples:
            spent = time.monotonic() - begun
            if evaluations and spent > (seconds if every_sample else _SECONDS_FOR_MORE):
                break
            truth, exact = (model.outputs(sample.feeds, end) for model in models)
            evaluations.append(Evaluation(sample, truth, exact))
    except NoTruth as error:
        if not evaluations:
            return Truth(0, str(error)), []
    try:
        found = measure(evaluations, units or {}, steps)
    except NoTruth as error:
        return Truth(len(evaluations), str(error)), []
    return found, evaluations if found.outputs else []


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
            if not _is_float(original) or unit not in _ROUNDING_ERRORS:
                continue
            measured = _errors(name, unit, evaluation, jumps=name in steps)
            steadiest[name] = min(measured, steadiest.get(name, measured), key=_unsteadiness)
    for output in steadiest.values():
        if output.original > _MOST_DISAGREEMENT[output.unit]:
            return Truth(
                len(evaluations),
                "onnxruntime and onnx's reference evaluation of the original differ by "
                f"{output.original:.1%} in {output.name!r}, so neither is a yardstick",
            )
    outputs = []
    for name, output in steadiest.items():
        having = [each for each in evaluations if name in each.truth]
        settled = [each for each in having if name not in each.sample.unsettled]
        jumps = name in steps
        largest, where = exact_ratio(name, output.unit, settled or having, jumps=jumps)
        outputs.append(replace(output, ratio=largest, where=where))
    note = "" if outputs else "no output is of a type that rounds more than float64"
    return Truth(len(evaluations), note, outputs, needless=not outputs)


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
    return isinstance(output, np.ndarray) and output.dtype.name in _ROUNDING_ERRORS


def _errors(name: str, unit: str, evaluation: Evaluation, *, jumps: bool) -> TruthOutput:
    """Return the errors of one output on one sample, over the elements that are all finite."""
    sample, truth = evaluation.sample, evaluation.truth[name]
    original = sample.original[name]
    outputs = (original, sample.optimized[name], evaluation.exact[name])
    counts = _countable(name, unit, evaluation, jumps=jumps)
    size = root_mean_square(truth[counts])
    errors = [np.asarray(output).astype(np.float64)[counts] - truth[counts] for output in outputs]
    errors.append(sample.noise[name][counts])
    of_original, of_optimized, of_exact, noise = (_relative(error, size) for error in errors)
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


def _countable(name: str, unit: str, evaluation: Evaluation, *, jumps: bool) -> Array:
    """Say which elements count: finite ones and, past a step, those that have not jumped."""
    sample, truth = evaluation.sample, evaluation.truth[name]
    counts = np.isfinite(truth)
    for output in (sample.original[name], sample.optimized[name], evaluation.exact[name]):
        if np.shape(output) != truth.shape:
            raise NoTruth(
                f"the shapes differ: {truth.shape} in float64, else {sample.original[name].shape}"
            )
        counts &= np.isfinite(np.asarray(output).astype(np.float64))
    if jumps:
        largest = float(np.abs(truth[counts]).max(initial=0.0))
        settled = UNSETTLED[unit] * largest / 10
        drawn = np.maximum(sample.noise[name], np.abs(widened(sample.original[name]) - truth))
        counts &= ~(drawn > settled)
    return np.asarray(counts)


def truth_limit(unit: str, original: float, noise: float) -> float:
    """Return how far the optimized model may be from the truth, as a relative root mean square."""
    return max(TRUTH_FACTOR * max(original, noise), NEGLIGIBLE * _ROUNDING_ERRORS[unit])


def _relative(error: FloatArray, size: float) -> float:
    found = root_mean_square(error)
    return found / size if size else (math.inf if found else 0.0)


# --- Slices ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Differences:
    """One output on one sample: the difference in float64, and what rounding explains of it."""

    number: int
    difference: FloatArray
    error: FloatArray
    """Of the original, against the truth."""
    explained: Sequence[Slices]
    """Along each axis, the scale of the original's own rounding."""
    own: FloatArray
    """The same at each element by itself: the larger of its error and its largest draw."""
    scale: float
    """The same over all elements."""

    @staticmethod
    def of(
        name: str, unit: str, evaluation: Evaluation, other: Array, *, jumps: bool
    ) -> _Differences:
        """Measure how far `other` is from the truth.

        Rounding explains, in a slice, the largest of: the scale of the original's noise, its error
        against the truth, and half a step of the unit at its values (or a thousandth of that at
        those of the whole output).
        """
        counts = _countable(name, unit, evaluation, jumps=jumps)
        truth = np.where(counts, evaluation.truth[name], 0.0)
        difference = np.where(counts, other.astype(np.float64) - truth, 0.0)
        original = evaluation.sample.original[name].astype(np.float64)
        error = np.where(counts, original - truth, 0.0)
        rank = max(truth.ndim, 1)
        drawn = evaluation.sample.slices.get(name) or [Slices(np.zeros(()), 0)] * rank
        step = _ROUNDING_ERRORS[unit] / 2
        least = step / 1000 * root_mean_square(truth)
        explained = []
        for axis, slices in enumerate(drawn):
            own = np.maximum(_by_slice(error, axis), step * _by_slice(truth, axis))
            count = slices.count + truth.size // max(truth.shape[axis] if truth.ndim else 1, 1)
            explained.append(Slices(np.maximum(np.maximum(slices.scale, own), least), count))
        scale = max(root_mean_square(np.atleast_1d(each.scale)) for each in explained)
        # Past a step, an outlier at one element is a jump and no scale.
        own = np.abs(error) if jumps else np.maximum(np.abs(error), evaluation.sample.noise[name])
        number = evaluation.sample.number
        return _Differences(number, difference, error, explained, own, scale)

    def square(self, axis: int) -> FloatArray:
        """Return the mean square difference in each slice along an axis.

        Where the rounding of a slice is that of a few elements, as past a Softmax, these alone
        would decide, and by chance. So the difference at an element whose own rounding is over
        `CONCENTRATED` times the scale of its slice counts in proportion to it.
        """
        scale = self.explained[axis].scale
        is_high = self.own > CONCENTRATED * scale
        factor = np.divide(scale, self.own, out=np.ones(self.own.shape), where=is_high)
        found: FloatArray = _by_slice(factor * self.difference, axis) ** 2
        return found


def exact_ratio(
    name: str, unit: str, evaluations: Sequence[Evaluation], *, jumps: bool = False
) -> tuple[float, str]:
    """Return how far the two differ in float64, in units of what is allowed, and where.

    In each slice along each axis, over all samples where they have as many slices, the root mean
    square of the difference may come to `EXACT_FACTOR` times what rounding explains; at each
    element to √(2 ln N) times as much.
    """
    found = [
        _Differences.of(name, unit, evaluation, evaluation.exact[name], jumps=jumps)
        for evaluation in evaluations
    ]
    worst = (0.0, "")
    for differences in found:
        if differences.difference.any():
            worst = max(worst, _worst_slice([differences]), _worst_element(differences))
    if len(found) > 1 and any(differences.difference.any() for differences in found):
        worst = max(worst, _worst_slice(found))
    return worst


def _worst_slice(samples: Sequence[_Differences]) -> tuple[float, str]:
    """Return the largest ratio of any slice along any axis, over several samples or in one.

    Samples differ in how large their values and their noise are: each counts in units of its own.
    """
    worst = (0.0, "")
    first, *others = samples
    for axis in range(len(first.explained)):
        sizes = {each.explained[axis].scale.size for each in samples}
        if others and (axis == 0 or len(sizes) > 1):
            continue
        square = allowed = np.zeros(())
        count = 0
        for each in samples:
            slices = each.explained[axis]
            weight = each.difference.size / (each.scale**2 or 1.0)
            square = square + weight * each.square(axis)
            allowed = allowed + weight * slices.scale**2
            count += slices.count
        limit = EXACT_FACTOR * headroom(count) * np.sqrt(allowed)
        ratios = _quotient(np.sqrt(square), limit)
        at = int(ratios.argmax())
        where = "all samples" if others else f"sample {first.number}"
        worst = max(worst, (float(ratios.flat[at]), f"index {at} of axis {axis}, {where}"))
    return worst


def _worst_element(sample: _Differences) -> tuple[float, str]:
    narrowest: FloatArray = np.full((1,) * sample.difference.ndim, math.inf)
    for slices in sample.explained:
        narrowest = np.minimum(narrowest, slices.scale * headroom(slices.count))
    allowed = np.maximum(narrowest, sample.own)
    deviations = DEVIATIONS * math.sqrt(2 * math.log(max(sample.difference.size, 8)))
    ratios = _quotient(np.abs(sample.difference), deviations * EXACT_FACTOR * allowed)
    at = int(ratios.argmax())
    index = [int(i) for i in np.unravel_index(at, ratios.shape)]
    return float(ratios.flat[at]), f"{index}, sample {sample.number}"


def is_as_exact(
    name: str, original: Array, other: Array, evaluation: Evaluation, unit: str
) -> bool:
    """Say whether a finite result is as near to the truth as the original is, in each slice.

    In root mean square along each axis, and at the worst element of all, by `TRUTH_FACTOR`. This
    decides where an output is beyond its tolerance: the original's own rounding is as large.

    Where a slice shares one error, as all elements minus their mean do, the original's may be small
    by luck. So in each slice, its error counts as at least the median of all slices, in proportion
    to their values.
    """
    if original.shape != evaluation.truth[name].shape or other.shape != original.shape:
        return False
    measured = _Differences.of(name, unit, evaluation, other, jumps=False)
    if not np.isfinite(other).all():
        return False
    truth = np.where(np.isfinite(other), evaluation.truth[name], 0.0)
    for axis, slices in enumerate(measured.explained):
        size = _by_slice(truth, axis)
        share = np.divide(slices.scale, size, out=np.zeros(size.shape), where=size > 0)
        scale = np.maximum(slices.scale, size * np.median(share)) if share.size else slices.scale
        allowed = TRUTH_FACTOR * headroom(slices.count) * scale
        if _quotient(_by_slice(measured.difference, axis), allowed).max(initial=0.0) > 1:
            return False
    noise = float(np.max(evaluation.sample.noise[name]))
    worst = max(float(np.abs(measured.error).max()), noise)
    return float(np.abs(measured.difference).max()) <= TRUTH_FACTOR * worst


def _by_slice(values: FloatArray, axis: int) -> FloatArray:
    """Return the root mean square over all axes but one; they stay with size 1."""
    others = tuple(other for other in range(values.ndim) if other != axis)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest:
        return np.zeros([1 if place in others else size for place, size in enumerate(values.shape)])
    mean = ((values / largest) ** 2).mean(axis=others, keepdims=True)
    found: FloatArray = largest * np.sqrt(mean)
    return found


def _quotient(values: FloatArray, allowed: FloatArray) -> FloatArray:
    """Return values / allowed, where nothing is allowed infinity, and 0 for 0."""
    values, allowed = np.broadcast_arrays(values, allowed)
    quotient: FloatArray = np.where(values > 0, math.inf, 0.0)
    np.divide(values, allowed, out=quotient, where=allowed > 0)
    return quotient
