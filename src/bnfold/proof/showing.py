"""What samples show of the outputs of a model: nothing, too little, or enough."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from bnfold.arrays import Array
from bnfold.proof.outputs import STRUCTURE, Results
from bnfold.proof.traits import Traits
from bnfold.proof.verdict import FEWEST_SAMPLES

_MORE_SAMPLES = 4
"""Samples that are drawn where too few say something of an output."""

_FEW_ELEMENTS = 256
"""An output that is no float says little with fewer elements: more samples are drawn."""

_MOST_SAMPLES = 32
_SECONDS_FOR_SAMPLES = 0.25
"""But not more, and not longer for all of them."""


def inconclusive_outputs(results: Results, traits: Traits) -> dict[str, str]:
    """Return why outputs show nothing: they have no elements, or one value throughout."""
    found = {}
    for name in results[0]:
        values = [outputs[name] for outputs in results if outputs[name].size]
        if not values:
            found[name] = "has no elements to compare"
        elif not _is_constant(name, traits):
            only = values[0].flat[0]
            if all(_is_throughout(each, only) for each in values):
                number = f"{only:g}" if values[0].dtype.kind == "f" else str(only)
                number = "NaN" if number == "nan" else number
                found[name] = f"of the original is {number} throughout"
    return found


def wanted_samples(
    results: Results,
    traits: Traits,
    settled: Mapping[str, int],
    seconds: float,
    *,
    is_inconclusive: bool,
) -> int:
    """Return how many samples it takes for each output to show something.

    More than there are if an output shows nothing, is settled on too few samples, or gives few
    elements that either are equal or not: classes, say, or rows of floats behind a comparison.

    Args:
        results: what the model gives, sample by sample.
        traits: of the model.
        settled: on how many samples each output is more than its own rounding.
        seconds: how long a run takes.
        is_inconclusive: whether an output shows nothing.
    """
    count = len(results)
    is_thin = min(settled.values(), default=count) < min(FEWEST_SAMPLES, count)
    wanted = count + _MORE_SAMPLES if is_thin or is_inconclusive else count
    affordable = most_samples(seconds)
    for name, first in results[0].items() if count >= FEWEST_SAMPLES else ():
        is_float = first.dtype.kind == "f"
        if is_float and name not in traits.steps:
            continue
        values = [outputs[name] for outputs in results]
        elements = sum(_rows(each) if is_float else each.size for each in values)
        if elements and not _is_constant(name, traits):
            needed = math.ceil(count * _FEW_ELEMENTS / elements)
            wanted = max(wanted, min(needed, affordable))
    return wanted


def most_samples(seconds: float) -> int:
    """Return how many samples there is time for, if a run takes so many seconds."""
    return int(min(_MOST_SAMPLES, _SECONDS_FOR_SAMPLES / seconds))


def _is_constant(name: str, traits: Traits) -> bool:
    """Say whether an output depends on no value of the inputs, but on sizes at most."""
    return name in traits.constant or name.endswith(STRUCTURE)


def _rows(values: Array) -> int:
    """Return how many rows there are along the last axis; elements are rows if it is the first."""
    return values.size // (values.shape[-1] or 1) if values.ndim > 1 else values.size


def _is_throughout(values: Array, number: object) -> bool:
    is_float = values.dtype.kind == "f"
    return bool(np.array_equal(values, np.full_like(values, number), equal_nan=is_float))
