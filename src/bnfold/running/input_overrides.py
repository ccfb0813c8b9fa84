"""Finds what the initializers that a caller may override can be, so that a model accepts it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bnfold.arrays import Array
from bnfold.running.input_sizes import accepts
from bnfold.running.inputs import Inputs
from bnfold.running.runtime import Session

_OVERRIDES_TO_TRY = 8
"""Overridable integers that are tried: each takes a run."""

SAMPLES_FOR_SIGNS = 4
"""Samples that it takes for overrides to have other signs in one."""


def with_overrides(session: Session, first: Inputs) -> Inputs:
    """Return the inputs with the overrides that the model accepts, and whether signs may turn.

    All floats, or none; then each of some others: an integer may be a shape or an axis.
    """
    known = {spec.name for spec in session.overridable}
    wanted = {name: value for name, value in first.hints.overrides.items() if name in known}
    floats = {name: value for name, value in wanted.items() if value.dtype.kind == "f"}
    found = replace(first, overrides=floats)
    if floats and not accepts(session, found, sample=1):
        found = first
    others = [name for name in wanted if name not in floats]
    for name in others[:_OVERRIDES_TO_TRY]:
        for other in _beside(wanted[name]):
            more = replace(found, overrides={**found.overrides, name: other})
            if accepts(session, more, sample=1):
                found = more
                break
    turned = replace(found, turns=True, samples=SAMPLES_FOR_SIGNS)
    turns = bool(found.overrides) and accepts(session, turned, sample=3, finite=True)
    return replace(found, turns=turns)


def with_fitting_overrides(session: Session, inputs: Inputs) -> Inputs:
    """Return the inputs without the overrides of integers, unless they fit all shapes."""
    floats = {name: value for name, value in inputs.overrides.items() if value.dtype.kind == "f"}
    if len(floats) < len(inputs.overrides):
        for shapes in inputs.shapes[1:]:
            if not accepts(session, replace(inputs, shapes=[shapes]), sample=1):
                return replace(inputs, overrides=floats)
    return inputs


def _beside(content: Array) -> list[Array]:
    """Return what integers or booleans may be in place of the content."""
    if content.dtype.kind == "b":
        return [np.logical_not(content, out=np.empty_like(content))]
    return [each(content, 1, out=np.empty_like(content)) for each in (np.add, np.subtract)]
