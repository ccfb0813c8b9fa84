"""Compares weights: both sides are sums of linear operators that read alike.

If their weights, with all scales in them, and their constants are equal, so are the sums, for all
inputs at all sizes. No operator runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

import numpy as np
import onnx

from bnfold.arrays import FloatArray
from bnfold.proof.certificates.deadline import require_time
from bnfold.proof.certificates.probing import MOST_ROUNDINGS, ROUNDING
from bnfold.proof.certificates.sums.linear_sums import (
    Indices,
    LinearSum,
    NoSumError,
    Term,
    added,
    by_key,
    chunks,
    columns_of,
    taps_of,
    width_of,
)
from bnfold.proof.certificates.sums.sum_reading import SUMMED, SumReader
from bnfold.proof.certificates.windows import Window
from bnfold.record.data import Certificate

_SAFE = 1e100
"""Norms up to this, and from its inverse on, are of numbers whose squares are neither infinite nor
lost, as far as they matter."""


def prove_weights(window: Window) -> Certificate | None:
    """Bound the difference of the weights of both sides; None if they are no such sums, or differ.

    The bound is that of each row at each tap of a kernel, so also of what a border cuts off.
    """
    types = {value.type.tensor_type.elem_type for value in window.inputs}
    if not window.operators <= SUMMED or len(types) != 1:
        return None
    rounding = ROUNDING.get(onnx.TensorProto.DataType.Name(types.pop()).lower())
    if rounding is None:
        return None
    for axis in (1, -1):  # where the channels are
        with suppress(NoSumError), np.errstate(all="ignore"):
            bound = _bound(window, axis, MOST_ROUNDINGS * rounding)
            return None if bound is None else Certificate("certified", "weights", bound=bound)
    return None


def _bound(window: Window, axis: int, unit: float) -> float | None:
    """Bound the difference of all results, with channels along an axis.

    Where the side before runs, the one after is to run, too.
    """
    before, after = (SumReader(model, axis) for model in window.models)
    bounds = [0.0]
    for result, twin in zip(*(model.graph.output for model in window.models), strict=True):
        bound = _bound_of_sums(before.sum_of(result.name), after.sum_of(twin.name), unit)
        if bound is None:
            return None
        bounds.append(bound)
    return max(bounds) if before.demands.include(after.demands) else None


def _bound_of_sums(one: LinearSum, other: LinearSum, unit: float) -> float | None:
    """Return by how much a row differs at most; None if anything differs by more than rounding."""
    if one.rank != other.rank or one.shift.shape != other.shift.shape:
        return None
    is_finite = np.isfinite(one.shift).all()
    if not is_finite or not (np.abs(one.shift - other.shift) <= unit * np.abs(one.shift)).all():
        return None
    terms, twins = by_key(one.terms), by_key(other.terms)
    if not twins.keys() <= terms.keys() or _may_cancel(terms.values()):
        return None
    bounds = [0.0]
    for key, alike in terms.items():
        bound = _bound_of_rows(alike, twins.get(key, []), unit)
        if bound is None:
            return None
        bounds.append(bound)
    return max(bounds)


def _may_cancel(terms: Collection[Sequence[Term]]) -> bool:
    """Say whether terms that are compared apart read one input for one channel."""
    return any(
        one[0].name == other[0].name and np.intersect1d(_channels(one), _channels(other)).size
        for one, other in itertools.combinations(terms, 2)
    )


def _bound_of_rows(terms: Sequence[Term], twins: Sequence[Term], unit: float) -> float | None:
    """Return by how much a row differs at most, as a share of its norm.

    A row is that of one channel at one tap of a kernel. None if one of them differs by more than
    rounding, or only one side has it: then the results may have other sizes.
    """
    channels = _channels(terms)
    if not np.array_equal(channels, _channels(twins)):
        return None
    bound = 0.0
    for rows, others in _rows(terms, twins, channels):
        require_time()
        norms = _norms(rows)
        if not ((norms > 1 / _SAFE) & (norms < _SAFE)).all():
            peaks, others_peaks = (
                np.abs(side).max(axis=1, initial=0.0, keepdims=True) for side in (rows, others)
            )
            if others_peaks[peaks == 0].any():
                return None
            scale = np.where(peaks == 0, 1.0, peaks)
            rows, others = rows / scale, others / scale
            norms = _norms(rows)
        others -= rows
        apart = _norms(others)
        if not (apart <= unit * norms).all():
            return None
        shares = np.divide(apart, norms, out=np.zeros(norms.shape), where=norms > 0)
        bound = max(bound, float(shares.max(initial=0.0)))
    return bound


def _norms(rows: FloatArray) -> FloatArray:
    """Return the norm of each channel's row at each tap."""
    return np.asarray(np.sqrt(np.einsum("crt,crt->ct", rows, rows)))


def _channels(terms: Sequence[Term]) -> Indices:
    """Return at which channels some terms have a row."""
    return np.unique(np.concatenate([[], *(term.at for term in terms)])).astype(np.int64)


def _rows(
    terms: Sequence[Term], twins: Sequence[Term], channels: Indices
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield the rows of both sides, of shape [channels, read, taps], some channels after others."""
    if len(terms) == len(twins) == 1:
        term, twin = terms[0], twins[0]
        if _read_alike(term, twin):
            for some in chunks(np.arange(len(channels)), term.operator.weights[:1].size):
                yield term.some(some).content(), twin.some(some).content()
            return
    both = [*terms, *twins]
    taps = taps_of(both)
    for some in chunks(channels, width_of(both) * len(taps)):
        columns = columns_of(both, some)
        yield added(terms, some, columns, taps), added(twins, some, columns, taps)


def _read_alike(term: Term, twin: Term) -> bool:
    """Say whether rows of both have the same taps and channels, each of them once."""
    read = term.reads[term.reads >= 0]
    is_once = len(np.unique(read)) == len(read)
    is_same = term.operator.taps == twin.operator.taps
    return is_once and is_same and np.array_equal(term.row_reads(), twin.row_reads())
