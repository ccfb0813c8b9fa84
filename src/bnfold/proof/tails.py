"""Runs what comes after a selection, in both models, on what the original computes before it.

Given the same values bit by bit, both select the same rows, so ties decide nothing: results of
right models are within the usual tolerances, with nothing excused.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from bnfold.arrays import Array
from bnfold.errors import SessionError
from bnfold.options import CheckOptions
from bnfold.proof.original import Original
from bnfold.proof.outputs import flat
from bnfold.proof.tolerance import Allowance
from bnfold.proof.traits import Traits
from bnfold.running.runtime import Level, Session


def are_equal(
    tails: Sequence[onnx.ModelProto], before: Original, traits: Traits, checking: CheckOptions
) -> bool:
    """Say whether both tails compute the same, on each sample of what comes `before` them.

    `traits` are those of the whole original.
    """
    assert before.inputs is not None
    threads = before.execution.threads
    try:
        sessions = [
            Session(tail.SerializeToString(), before.provider, Level.DISABLED, threads)
            for tail in tails
        ]
        for feeds, computed in zip(before.inputs.feeds(), before.references, strict=True):
            given = {**feeds, **computed}
            one, other = (
                flat(session.run({each.name: given[each.name] for each in session.inputs}))
                for session in sessions
            )
            if one.keys() != other.keys():
                return False
            if not all(_is_within(one[n], other[n], n, traits, checking) for n in one):
                return False
    except SessionError:
        return False
    return True


def _is_within(one: Array, other: Array, name: str, traits: Traits, checking: CheckOptions) -> bool:
    """Say whether each element of an output is within its tolerance, without any noise."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind not in "fV":  # those of bfloat16 are of kind V
        return bool(np.array_equal(one, other))
    unit, is_coarse = traits.units.get(name, one.dtype.name), name in traits.coarse
    allowance = Allowance(checking, unit, {0: one}, is_coarse=is_coarse)
    limits = allowance.limits(0, one)
    one, other = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        is_same = (one == other) | (np.isnan(one) & np.isnan(other))
        return bool((is_same | (np.abs(one - other) <= limits)).all())
