"""Cases that only the slow tests run."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from typing import Any

import pytest


def few(cases: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Return the cases as parameters, all slow but those that `make test` runs, too.

    A tuple is a case of several parameters.
    """
    cases = list(cases)
    assert all(case in cases for case in quick)
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    marks = [() if case in quick else pytest.mark.slow for case in cases]
    return [pytest.param(*each, marks=mark) for each, mark in zip(values, marks, strict=True)]


def in_turn(cases: Iterable[Any], others: Iterable[Any]) -> list[Any]:
    """Return all pairs as parameters, all slow but one of each case: with the others in turn."""
    cases, others = list(cases), list(others)
    quick = list(zip(cases, itertools.cycle(others)))
    return few(itertools.product(cases, others), quick)
