"""What a draw of the original's noise is run on, and how its rows are put in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import numpy as np

from bnfold.arrays import Array
from bnfold.options import CheckOptions
from bnfold.proof.noise import moved
from bnfold.proof.outputs import Results
from bnfold.proof.rows import matched
from bnfold.proof.tolerance import Allowance
from bnfold.proof.traits import UNITS, Traits, float_weights
from bnfold.running.inputs import Inputs
from bnfold.running.runtime import Feeds


def moved_weights(traits: Traits, most_bytes: int, seed: int, units: int) -> dict[str, Array]:
    """Return weights moved by so many units in the last place; none if they are more bytes.

    Numbers that decide whether an input is met exactly stay as they are.
    """
    weights = {
        name: content
        for name, content in float_weights(traits, most_bytes).items()
        if content.size != 1 or float(content.flat[0]) not in traits.hints.exact
    }
    return moved(weights, seed, _coarsest(traits), units)


def moved_feeds(
    inputs: Inputs, traits: Traits, exact: Set[str], seed: int, units: int
) -> Iterator[Feeds]:
    """Yield the inputs of each sample, moved by so many units in the last place.

    Those that are exact are not moved, nor are elements drawn to be one of the model's levels.
    """
    for sample, feeds in enumerate(inputs.feeds()):
        changed = moved(feeds, 1000 * seed + sample, _coarsest(traits), units)
        changed.update({name: feeds[name] for name in exact & feeds.keys()})
        for name, numbers in (*traits.hints.levels.items(), *traits.hints.missing.items()):
            is_met = np.isin(feeds[name], numbers)
            changed[name] = np.where(is_met, feeds[name], changed[name])
        yield changed


def _coarsest(traits: Traits) -> str:
    """Return the coarsest rounding unit of any output."""
    return max(traits.units.values(), key=UNITS.index, default="float32")


def in_order_of(references: Results, results: Results, units: Mapping[str, str]) -> Results:
    """Bring rows that only changed places into the references' order: that is no noise.

    Args:
        references: what the original gives, sample by sample.
        results: what a draw gives.
        units: the rounding unit of each output whose rows may change places.
    """
    values = {name: {s: o[name] for s, o in enumerate(references)} for name in units}
    allowances = {
        name: Allowance(CheckOptions(), unit, values[name]) for name, unit in units.items()
    }
    ordered = []
    for sample, result in enumerate(results):
        chosen = {name: values[name][sample] for name in units if name in result}
        allowed = {n: allowances[n].limits(sample, each) for n, each in chosen.items()}
        ordered.append(matched(chosen, result, allowed, any_order=True).outputs)
    return ordered
