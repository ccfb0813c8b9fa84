"""Finds how large the integers are that a model accepts: some are indices into a table."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from bnfold.errors import SessionError
from bnfold.running.inputs import Inputs
from bnfold.running.runtime import Session, ValueSpec

LARGEST_INTEGERS = (99, 9, 1)
"""Integers are drawn from 0 to the first of these that the model accepts, or more if it accepts
that: some are indices into a table. If the graph shows the table, its size is the limit instead, or
the first to be tried. Those of 8 bits take their whole range, if the model accepts that."""

_LIMITS_TO_TRY = 16
"""Between what a model accepts and what it does not: each takes a run. Of as many inputs, too."""


def with_limits_found(session: Session, first: Inputs) -> Inputs:
    """Return the inputs with integers as large as the model accepts, where few sizes were tried.

    Those that positions in a table may be computed of are tried up to its end.
    """
    found = first
    for spec in [each for each in first.specs if _is_to_be_limited(first, each)][:_LIMITS_TO_TRY]:
        most = first.hints.reach.get(spec.name, LARGEST_INTEGERS[0])
        number = _largest_accepted(session, found, spec.name, most)
        found = replace(found, largest={**found.largest, spec.name: number})
    return found if found is first or accepts_all(session, found) else first


def with_others(session: Session, first: Inputs, samples: int) -> Inputs:
    """Return the inputs with as many integers, beside those compared with, as the model accepts."""
    if not first.hints.compared:
        return first
    for beside in ("next", "any"):
        found = replace(first, beside=beside)
        if _accepts_ends(session, found) and accepts_all(session, replace(found, samples=samples)):
            return found
    return first


def may_be_negative(session: Session, first: Inputs) -> bool:
    """Return whether the model has integers that are not indices, and accepts negative ones."""
    kinds = [
        spec.dtype.kind
        for spec in session.inputs
        if not first.hints.limits(spec.name) and spec.dtype
    ]
    if "i" not in kinds:
        return False
    feeds = list(itertools.islice(replace(first, signed=True, samples=2).feeds(), 2))
    try:
        session.run(feeds[1])
    except SessionError:
        return False
    return True


def accepts_all(session: Session, inputs: Inputs) -> bool:
    """Return whether the model runs on all samples."""
    try:
        for feeds in inputs.feeds():
            session.run(feeds)
    except SessionError:
        return False
    return True


def _largest_accepted(session: Session, inputs: Inputs, name: str, most: int) -> int:
    """Return the largest integer up to the most that a model accepts, nearly, by bisection."""
    if _accepts_number(session, inputs, name, most):
        return most
    low, high = inputs.largest[name], most
    if not _accepts_number(session, inputs, name, low):
        low, high = 0, low
    for _ in range(_LIMITS_TO_TRY):
        middle = (low + high) // 2
        if middle == low:
            break
        if _accepts_number(session, inputs, name, middle):
            low = middle
        else:
            high = middle
    return low


def _is_to_be_limited(inputs: Inputs, spec: ValueSpec) -> bool:
    """Return whether it is not known yet how large the integers of an input may be."""
    if spec.dtype is None or spec.dtype.kind not in "iu" or spec.name in inputs.given[0]:
        return False
    largest = inputs.largest.get(spec.name)
    if largest is None or inputs.hints.limits(spec.name):
        return False
    may_be_more = spec.name in inputs.hints.compared or spec.name in inputs.hints.reach
    return may_be_more or largest < LARGEST_INTEGERS[0]


def _accepts_ends(session: Session, inputs: Inputs) -> bool:
    """Return whether the model accepts the smallest and the largest integers that may be drawn."""
    for spec in inputs.specs:
        if spec.name in inputs.hints.compared and spec.name not in inputs.given[0]:
            choices, smallest, largest = inputs.integers(0).choices(spec)
            ends = {smallest, largest, min(choices), max(choices)}
            if not all(_accepts_number(session, inputs, spec.name, end) for end in ends):
                return False
    return True


def _accepts_number(session: Session, inputs: Inputs, name: str, number: int) -> bool:
    """Return whether the model runs where all integers of an input are this one."""
    feeds = next(inputs.feeds())
    try:
        session.run({**feeds, name: np.full_like(feeds[name], number)})
    except SessionError:
        return False
    return True
