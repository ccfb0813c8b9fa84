"""Measures how far two models are from the truth: the original, evaluated in float64."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.contract import Array
from bnfold.record import Truth, TruthOutput
from bnfold.runtime import Feeds
from bnfold.truth import NoTruth, Truth64

_SECONDS_FOR_MORE = 2.0
"""Once so many have passed, the sample at hand is the last one."""

_MOST_DISAGREEMENT = {"float32": 0.01, "float16": 0.1, "bfloat16": 0.3}
"""Beyond it, the original is so far from the truth that one of the two is no yardstick: rounding
grows without bound in this model, or an operator is evaluated otherwise."""


@dataclass(frozen=True)
class Sample:
    """Inputs, the outputs of both models on them, and the original's noise, output by output."""

    feeds: Feeds
    original: Mapping[str, Any]
    optimized: Mapping[str, Any]
    noise: Mapping[str, Array]


def compare_with_truth(
    original: Path,
    optimized: Path,
    samples: Iterable[Sample],
    seconds: float,
    *,
    rounding: frozenset[str] = frozenset(),
    whatever_it_takes: bool = False,
) -> Truth:
    """Evaluate both models in float64, on as many samples as there is time for.

    The first sample may take longer only if `whatever_it_takes`. Outputs in `rounding` are left
    out: where a model jumps from step to step, float64 may be on another one. Nothing is raised:
    where there is no truth, the record says why.
    """
    begun = time.monotonic()
    end = math.inf if whatever_it_takes else begun + seconds
    errors: dict[str, _Errors] = {}
    count = 0
    try:
        models = Truth64(original), Truth64(optimized)
        for sample in samples:
            spent = time.monotonic() - begun
            if count and spent > _SECONDS_FOR_MORE:
                break
            truths = models[0].outputs(sample.feeds, end)
            exact = models[1].outputs(sample.feeds, end)
            for name, truth in truths.items():
                if name not in rounding and _is_rounded(sample.original[name]):
                    outputs = sample.original[name], sample.optimized[name], exact[name]
                    errors.setdefault(name, _Errors()).add(truth, *outputs, sample.noise[name])
            count += 1
    except NoTruth as error:
        return Truth(count, str(error))
    found = [each.record(name) for name, each in errors.items()]
    needless = not found and not rounding
    note = ""
    if not found:
        note = "no output is of a type that rounds more than float64"
        note += " and free of jumps from step to step" if rounding else ""
    for name, each in errors.items():
        if each.disagreement > _MOST_DISAGREEMENT[each.dtype]:
            found = []
            note = (
                f"onnxruntime and onnx's reference evaluation of the original differ by "
                f"{each.disagreement:.1%} in {name!r}, so neither is a yardstick"
            )
    return Truth(count, note, found, needless)


def _is_rounded(output: object) -> bool:
    return isinstance(output, np.ndarray) and output.dtype.name in _MOST_DISAGREEMENT


class _Errors:
    """Sums of squares, of the truth and of the differences from it, where all are finite."""

    def __init__(self) -> None:
        self.dtype = ""
        self._truth = 0.0
        self._sums = [0.0, 0.0, 0.0]
        self._noise = 0.0

    def add(
        self, truth: Array, original: Array, optimized: Array, exact: Array, noise: Array
    ) -> None:
        self.dtype = original.dtype.name
        others = [np.asarray(each).astype(np.float64) for each in (original, optimized, exact)]
        if any(each.shape != truth.shape for each in others):
            raise NoTruth(f"the shapes differ: {truth.shape} in float64, else {original.shape}")
        finite = np.isfinite(truth)
        for each in others:
            finite &= np.isfinite(each)
        self._truth += float(np.sum(truth[finite] ** 2))
        self._noise += float(np.sum(noise[finite] ** 2))
        for place, each in enumerate(others):
            self._sums[place] += float(np.sum((each[finite] - truth[finite]) ** 2))

    @property
    def disagreement(self) -> float:
        """The original's error."""
        return self._relative(self._sums[0])

    def record(self, name: str) -> TruthOutput:
        """Return the errors, relative to the truth's own root mean square."""
        original, optimized, exact, noise = map(self._relative, (*self._sums, self._noise))
        return TruthOutput(name, self.dtype, original, optimized, exact, noise)

    def _relative(self, total: float) -> float:
        if not total:
            return 0.0
        return math.sqrt(total / self._truth) if self._truth else math.inf
