"""How far two models differ in float64, slice by slice, in units of what rounding explains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bnfold.arrays import Array, FloatArray
from bnfold.proof.comparison import one_step_apart
from bnfold.proof.float64.evaluation import NoTruth
from bnfold.proof.noise import (
    MOST_DEVIATIONS,
    UNSETTLED,
    Slices,
    headroom,
    root_mean_square,
    widened,
)
from bnfold.proof.tolerance import DEVIATIONS
from bnfold.running.runtime import Feeds

TRUTH_FACTOR = 4.0
"""The optimized model may be so many times as far from the truth as the original is, or as the
original moves when its inputs change by their last bit: its error may be small by luck."""

EXACT_FACTOR = 1.0
"""In float64 the two may differ, in each slice, by so many times the original's own rounding."""

CONCENTRATED = 3.0
"""Rounding at an element over so many times the scale of its slice is larger there, not luck."""

MOST_DISAGREEMENT = {"float32": 0.01, "float16": 0.1, "bfloat16": 0.3}
"""By rounding unit. Beyond it, the original is so far from the truth that one of the two is no
yardstick: rounding grows without bound in this model, or an operator is evaluated otherwise."""

ROUNDING_ERRORS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
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


@dataclass(frozen=True)
class Differences:
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
    jumps: bool
    """Whether a step lies on the way."""

    @staticmethod
    def of(
        name: str, unit: str, evaluation: Evaluation, other: Array, *, jumps: bool
    ) -> Differences:
        """Measure how far `other` is from the truth.

        Rounding explains, in a slice, the largest of: the scale of the original's noise, its error
        against the truth, and a step of the unit at its values (or a two-thousandth of that at
        those of the whole output). A channel shares the rounding of its bias, up to half a step,
        which the few draws may all have missed; that of its weights adds to it.
        """
        counts = countable(name, unit, evaluation, jumps=jumps)
        truth = np.where(counts, evaluation.truth[name], 0.0)
        difference = np.where(counts, other.astype(np.float64) - truth, 0.0)
        original = evaluation.sample.original[name].astype(np.float64)
        error = np.where(counts, original - truth, 0.0)
        rank = max(truth.ndim, 1)
        drawn = evaluation.sample.slices.get(name) or [Slices(np.zeros(()), 0)] * rank
        step = ROUNDING_ERRORS[unit]
        least = step / 2000 * root_mean_square(truth)
        explained = []
        for axis, slices in enumerate(drawn):
            own = np.maximum(_by_slice(error, axis), step * _by_slice(truth, axis))
            count = slices.count + truth.size // max(truth.shape[axis] if truth.ndim else 1, 1)
            explained.append(Slices(np.maximum(np.maximum(slices.scale, own), least), count))
        scale = max(root_mean_square(np.atleast_1d(each.scale)) for each in explained)
        # Past a step, an outlier at one element is a jump and no scale.
        own = np.abs(error) if jumps else np.maximum(np.abs(error), evaluation.sample.noise[name])
        number = evaluation.sample.number
        found = Differences(number, difference, error, explained, own, scale, jumps)
        return found._without_jumps(name, evaluation, other) if jumps else found

    def limit(self) -> FloatArray:
        """Return what rounding explains at each element at most, its own aside."""
        narrowest: FloatArray = np.full((1,) * self.difference.ndim, math.inf)
        for slices in self.explained:
            narrowest = np.minimum(narrowest, slices.scale * headroom(slices.count))
        return narrowest * self.deviations

    @property
    def deviations(self) -> float:
        """How many times its scale the rounding of the largest of all elements may be."""
        return DEVIATIONS * math.sqrt(2 * math.log(max(self.difference.size, 8)))

    def _without_jumps(self, name: str, evaluation: Evaluation, other: Array) -> Differences:
        """Excuse elements on which another side of a step was taken, also in float64.

        There an element of the output is as far off as the original itself is somewhere, in a draw
        or against the truth; or one step away, if the output has few values. Rounding is much
        smaller in float64, so no more elements are excused than jump in the original's own runs,
        and one more.
        """
        limit, truth = self.limit(), evaluation.truth[name]
        moves = np.abs(widened(evaluation.sample.original[name]) - widened(truth))
        moves = np.maximum(moves, evaluation.sample.noise[name])
        jumped = moves > limit
        size = np.abs(self.difference)
        fits = (size <= 1.01 * moves[jumped].max(initial=0.0)) | one_step_apart(truth, other)
        excused = (size > np.maximum(limit, self.own)) & fits
        if np.count_nonzero(excused) > np.count_nonzero(jumped) + 1:
            return self
        return replace(self, difference=np.where(excused, 0.0, self.difference))

    def square(self, axis: int, *, limited: bool = False) -> FloatArray:
        """Return the mean square difference in each slice along an axis.

        Where the rounding of a slice is that of a few elements, as past a Softmax, these alone
        would decide, and by chance. So the difference at an element whose own rounding is over
        `CONCENTRATED` times the scale of its slice counts in proportion to it. Past a step,
        deviations are limited as they are in the scale of the noise, if that is wanted.
        """
        scale = self.explained[axis].scale
        is_high = self.own > CONCENTRATED * scale
        factor = np.divide(scale, self.own, out=np.ones(self.own.shape), where=is_high)
        difference = factor * self.difference
        if limited and self.jumps:
            difference = np.minimum(np.abs(difference), MOST_DEVIATIONS * scale)
        found: FloatArray = _by_slice(difference, axis) ** 2
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
        Differences.of(name, unit, evaluation, evaluation.exact[name], jumps=jumps)
        for evaluation in evaluations
    ]
    worst = (0.0, "")
    for differences in found:
        if differences.difference.any():
            worst = max(worst, _worst_slice([differences]), _worst_element(differences))
    if len(found) > 1 and any(differences.difference.any() for differences in found):
        worst = max(worst, _worst_slice(found))
    return worst


def _worst_slice(samples: Sequence[Differences]) -> tuple[float, str]:
    """Return the largest ratio of any slice along any axis, over several samples or in one.

    Samples differ in how large their values and their noise are: each counts in units of its own.
    """
    worst = (0.0, "")
    first, *others = samples
    for axis in range(len(first.explained)):
        sizes = {each.explained[axis].scale.size for each in samples}
        if others and (axis == 0 or len(sizes) > 1):
            continue
        square = limited = allowed = np.zeros(())
        count = 0
        for each in samples:
            slices = each.explained[axis]
            weight = each.difference.size / (each.scale**2 or 1.0)
            square = square + weight * each.square(axis)
            limited = limited + weight * each.square(axis, limited=True)
            allowed = allowed + weight * slices.scale**2
            count += slices.count
        limit = EXACT_FACTOR * headroom(count) * np.sqrt(allowed)
        ratios = _quotient(np.sqrt(limited), limit)
        if ratios.max(initial=0.0) > 1:
            ratios = np.where(ratios > 1, _quotient(np.sqrt(square), limit), ratios)
        at = int(ratios.argmax())
        where = "all samples" if others else f"sample {first.number}"
        worst = max(worst, (float(ratios.flat[at]), f"index {at} of axis {axis}, {where}"))
    return worst


def _worst_element(sample: Differences) -> tuple[float, str]:
    allowed = np.maximum(sample.limit(), sample.deviations * sample.own)
    ratios = _quotient(np.abs(sample.difference), EXACT_FACTOR * allowed)
    at = int(ratios.argmax())
    index = [int(i) for i in np.unravel_index(at, ratios.shape)]
    return float(ratios.flat[at]), f"{index}, sample {sample.number}"


def is_yardstick(name: str, unit: str, evaluation: Evaluation, *, jumps: bool) -> bool:
    """Say whether the original is as near to the truth on a sample as it can be expected to be.

    That is, by a share of its values, by what its own noise explains, or by the grain of its
    results if all are multiples of it: a Sigmoid's tail is a difference of numbers near 1.
    """
    counts = countable(name, unit, evaluation, jumps=jumps)
    sample, truth = evaluation.sample, evaluation.truth[name]
    error = np.where(counts, widened(sample.original[name]) - widened(truth), 0.0)
    noise = TRUTH_FACTOR * root_mean_square(np.where(counts, sample.noise[name], 0.0))
    size = MOST_DISAGREEMENT[unit] * root_mean_square(np.where(counts, truth, 0.0))
    grain = ROUNDING_ERRORS[unit] / 4
    is_grained = not np.where(counts, np.fmod(widened(sample.original[name]), grain), 0.0).any()
    return root_mean_square(error) <= max(noise, size, 2 * grain if is_grained else 0.0)


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
    if not original.size:
        return True
    if not is_yardstick(name, unit, evaluation, jumps=False):
        return False
    measured = Differences.of(name, unit, evaluation, other, jumps=False)
    if not np.isfinite(other).all():
        return False
    truth = np.where(np.isfinite(evaluation.truth[name]), evaluation.truth[name], 0.0)
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


def countable(name: str, unit: str, evaluation: Evaluation, *, jumps: bool) -> Array:
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
