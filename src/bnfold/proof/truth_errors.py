"""Measures how far two models are from the truth: the original, evaluated in float64."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.arrays import Array, FloatArray
from bnfold.proof.tolerance import root_mean_square
from bnfold.proof.truth import NoTruth, Truth64
from bnfold.record.data import Truth, TruthOutput
from bnfold.running.runtime import Feeds

_SECONDS_FOR_MORE = 2.0
"""Once so many have passed, the sample at hand is the last one."""

_MOST_DISAGREEMENT = {"float32": 0.01, "float16": 0.1, "bfloat16": 0.3}
"""Beyond it, the original is so far from the truth that one of the two is no yardstick: rounding
grows without bound in this model, or an operator is evaluated otherwise."""


TRUTH_FACTOR = 4.0
"""The optimized model may be so many times as far from the truth as the original is, or as the
original moves when its inputs change by their last bit: its error may be small by luck."""


NEGLIGIBLE = 4.0
"""In units of the output type's rounding error: what is never too far from the truth. An original
without any error, of small integers say, would otherwise allow none."""


_ROUNDING_ERRORS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""From 1 to the next number of the type."""


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

    What counts of each output is the sample on which the original is steadiest: where rounding
    grows in a model, how far it grows is luck. The first sample may take longer only if
    `whatever_it_takes`. Outputs in `rounding` are left
    out: where a model jumps from step to step, float64 may be on another one. Nothing is raised:
    where there is no truth, the record says why.
    """
    begun = time.monotonic()
    end = math.inf if whatever_it_takes else begun + seconds
    steadiest: dict[str, TruthOutput] = {}
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
                    found = _measured(name, sample, truth, exact[name])
                    steadiest[name] = min(found, steadiest.get(name, found), key=_unsteadiness)
            count += 1
    except NoTruth as error:
        return Truth(count, str(error))
    outputs = list(steadiest.values())
    needless = not outputs and not rounding
    note = ""
    if not outputs:
        note = "no output is of a type that rounds more than float64"
        note += " and free of jumps from step to step" if rounding else ""
    for each in steadiest.values():
        if each.original > _MOST_DISAGREEMENT[each.dtype]:
            outputs = []
            note = (
                f"onnxruntime and onnx's reference evaluation of the original differ by "
                f"{each.original:.1%} in {each.name!r}, so neither is a yardstick"
            )
    return Truth(count, note, outputs, needless)


def _unsteadiness(output: TruthOutput) -> float:
    """Return how far the original is from the truth, or moves by itself, on a sample."""
    return max(output.original, output.noise)


def _is_rounded(output: object) -> bool:
    return isinstance(output, np.ndarray) and output.dtype.name in _MOST_DISAGREEMENT


def _measured(name: str, sample: Sample, truth: Array, exact: Array) -> TruthOutput:
    """Return the errors of one output on one sample, over the elements that are all finite."""
    original, optimized = sample.original[name], sample.optimized[name]
    wide = [np.asarray(each).astype(np.float64) for each in (original, optimized, exact)]
    if any(each.shape != truth.shape for each in wide):
        raise NoTruth(f"the shapes differ: {truth.shape} in float64, else {original.shape}")
    finite = np.isfinite(truth)
    for each in wide:
        finite &= np.isfinite(each)
    size = root_mean_square(truth[finite])
    errors = [values[finite] - truth[finite] for values in wide]
    errors.append(sample.noise[name][finite])
    of_original, of_optimized, of_exact, noise = (_relative(error, size) for error in errors)
    limit = truth_limit(original.dtype.name, of_original, noise)
    return TruthOutput(name, original.dtype.name, of_original, of_optimized, of_exact, noise, limit)


def truth_limit(dtype: str, original: float, noise: float) -> float:
    """Return how far the optimized model may be from the truth, as a relative root mean square."""
    return max(TRUTH_FACTOR * max(original, noise), NEGLIGIBLE * _ROUNDING_ERRORS[dtype])


def _relative(error: FloatArray, size: float) -> float:
    found = root_mean_square(error)
    return found / size if size else (math.inf if found else 0.0)
