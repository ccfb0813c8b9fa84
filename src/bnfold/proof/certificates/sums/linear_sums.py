"""Sums of linear operators, channel by channel.

Conv, ConvTranspose, Gemm and MatMul are linear in their weights W, too, and scales of what they
read and of what they compute are scales of these:

    s·L(a·x; W) + t = L(x; s·W·a) + t.

A shift of what they read is one of what they compute, L(x + b; W) = L(x; W) + W·b, if no border is
padded. Channels of a result are rows of W, and channels of an operand are columns, whatever Splits
and Concats do with them; and operators that read alike add up their weights. So many a value is
Σ L(x; W) + c, of inputs x of a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bnfold.arrays import Array, FloatArray

Indices: TypeAlias = npt.NDArray[np.int64]
Frame: TypeAlias = frozenset[object]
Tap: TypeAlias = tuple[int, ...]

_BLOCK = 2**19
"""Weights that are widened at once."""

_MOST_COMPOSED = 2**22
_MOST_MULTIPLIED = 2**30
"""Weights of a product of two operators, zeros included, and multiplications for it."""

_MOST_TERMS = 32
"""In one sum, of which each Split and Concat may make more."""


class NoSumError(Exception):
    """The model is no such sum."""


@dataclass(frozen=True, eq=False)
class Operator:
    """A linear operator by its weights, of shape [computed, read / groups, taps].

    Position p of a Conv's result reads p·s + t for each tap t. The geometry says what else it does,
    with which steps s, so that the sizes of a result follow from it: they are those of what it
    reads where it is empty. Other operators have all that they do in it.
    """

    geometry: tuple[object, ...]
    taps: tuple[Tap, ...]
    weights: Array
    groups: int = 1
    is_padded: bool = False
    is_plain: bool = False
    """Whether it does nothing."""

    @property
    def is_pointwise(self) -> bool:
        """Whether each position of a result reads this position alone."""
        return not self.geometry and self.taps == ((),)


@dataclass(frozen=True, eq=False)
class Term:
    """Rows of a linear operator on an input, each at a channel of a value.

    What the operator reads at its channel c is `columns[c]` times the input at channel `reads[c]`;
    where it reads another input, the number is 0. Row i, at channel `at[i]`, is `rows[i]` times row
    `picked[i]` of the weights; the channels are in order.
    """

    name: str
    operator: Operator
    reads: Indices
    columns: FloatArray
    at: Indices
    picked: Indices
    rows: FloatArray

    @property
    def key(self) -> tuple[object, ...]:
        """What terms must share that are added, or compared."""
        return self.name, self.operator.geometry

    def some(self, chosen: Indices) -> Term:
        """Return some of the rows."""
        return replace(self, at=self.at[chosen], picked=self.picked[chosen], rows=self.rows[chosen])

    def content(self) -> FloatArray:
        """Return the weights of all rows, scaled, of shape [rows, read / groups, taps]."""
        weights = _picked(self.operator.weights, self.picked).astype(np.float64)
        weights *= self.rows[:, None, None]
        if (self.columns != 1).any():
            weights *= self._grouped(self.columns)[:, :, None]
        return weights

    def reads_all(self, columns: Indices) -> bool:
        """Say whether each row reads just these channels of the input, in order."""
        return self.operator.groups == 1 and np.array_equal(self.reads, columns)

    def row_reads(self) -> Indices:
        """Return which channels of the input each row reads, of shape [rows, read / groups]."""
        return np.asarray(self._grouped(self.reads), np.int64)

    def _grouped(self, read: Array) -> Array:
        """Return, of what there is for each channel that is read, what each row reads."""
        groups = self.operator.groups
        if groups == 1:
            return np.broadcast_to(read, (len(self.picked), len(read)))
        which = self.picked * groups // len(self.operator.weights)
        return np.asarray(read.reshape(groups, -1)[which])


@dataclass(frozen=True, eq=False)
class LinearSum:
    """A value: terms, and a constant for each channel, which lie along an axis.

    The frame says what the sizes along other axes are computed from, of each of the addends.
    """

    rank: int
    axis: int
    frame: Frame
    terms: tuple[Term, ...]
    shift: FloatArray

    def scaled(self, scale: FloatArray | float) -> LinearSum:
        """Return it times a number for each channel."""
        scale = np.broadcast_to(scale, self.shift.shape)
        terms = tuple(replace(term, rows=term.rows * scale[term.at]) for term in self.terms)
        return replace(self, terms=terms, shift=self.shift * scale)

    def shifted(self, shift: FloatArray | float) -> LinearSum:
        """Return it plus a number for each channel."""
        return replace(self, shift=self.shift + shift)

    def plus(self, other: LinearSum) -> LinearSum:
        """Return the sum of both."""
        is_alike = self.rank == other.rank and self.shift.shape == other.shift.shape
        if not is_alike or len(self.terms + other.terms) > _MOST_TERMS:
            raise NoSumError
        return replace(
            self,
            frame=self.frame | other.frame,
            terms=self.terms + other.terms,
            shift=self.shift + other.shift,
        )

    def beside(self, other: LinearSum) -> LinearSum:
        """Return both, one's channels after the other's."""
        if self.rank != other.rank or len(self.terms + other.terms) > _MOST_TERMS:
            raise NoSumError
        moved = tuple(replace(term, at=term.at + len(self.shift)) for term in other.terms)
        shift = np.concatenate([self.shift, other.shift])
        frame = self.frame | other.frame
        return replace(self, frame=frame, terms=self.terms + moved, shift=shift)

    def picked(self, channels: Indices) -> LinearSum:
        """Return some of its channels."""
        terms = []
        for term in self.terms:
            places = np.full(len(self.shift), -1)
            places[term.at] = np.arange(len(term.at))
            rows = places[channels]
            kept = np.flatnonzero(rows >= 0)
            terms.append(replace(term.some(rows[kept]), at=kept))
        return replace(self, terms=tuple(terms), shift=self.shift[channels])


def _picked(weights: Array, rows: Indices) -> Array:
    """Return some rows, without a copy where they lie one after another."""
    start = int(rows[0]) if len(rows) else 0
    is_run = np.array_equal(rows, np.arange(start, start + len(rows)))
    return weights[start : start + len(rows)] if is_run else weights[rows]


def whole(name: str, channels: int) -> Term:
    """Return all of an input, as rows of one weight each."""
    ones, every = np.ones(channels), np.arange(channels)
    operator = Operator((), ((),), ones[:, None, None], channels, is_plain=True)
    return Term(name, operator, every, ones, every, every, ones)


def applied(operator: Operator, read: LinearSum, axis: int) -> LinearSum:
    """Return what a linear operator makes of a sum.

    Raises:
        NoSumError: if it reads neighbours of what has read neighbours, or of an addend that may
            spread, or pads a shift.
    """
    is_one = sum(len(term.at) for term in read.terms) == len(read.shift)  # for each channel
    if not (operator.is_pointwise or is_one or len(read.frame) == 1):
        raise NoSumError
    if operator.is_padded and read.shift.any():
        raise NoSumError
    terms = [
        _scaled_columns(operator, alike, len(read.shift))
        if all(term.operator.is_plain for term in alike)
        else _composed(operator, alike, len(read.shift))
        for alike in by_key(read.terms).values()
    ]
    every = np.arange(len(operator.weights))
    shift = np.zeros(len(every))
    if read.shift.any():
        of_shift = _rows_of(operator, "", np.arange(len(read.shift)), read.shift)
        for some in chunks(every, operator.weights[:1].size):
            shift[some] = of_shift.some(some).content().sum(axis=(1, 2))
    frame = frozenset([(operator.geometry, read.frame)]) if operator.geometry else read.frame
    return LinearSum(read.rank, axis, frame, tuple(terms), shift)


def by_key(terms: Iterable[Term]) -> dict[object, list[Term]]:
    """Return terms that may be added, together."""
    found: dict[object, list[Term]] = {}
    for term in terms:
        found.setdefault(term.key, []).append(term)
    return found


def added(
    terms: Iterable[Term], channels: Indices, columns: Indices, taps: Sequence[Tap]
) -> FloatArray:
    """Return the sums of rows at some channels, of shape [channels, columns, taps].

    The columns are channels of the input in order, with all that the rows read.
    """
    places = {tap: place for place, tap in enumerate(taps)}
    result = np.zeros((len(channels), len(columns), len(taps)))
    for term in terms:
        _, rows, at = np.intersect1d(term.at, channels, return_indices=True)
        some = term.some(rows)
        read = np.array([places[tap] for tap in term.operator.taps])
        if len(at) == len(channels) and term.reads_all(columns):
            result[:, :, read] += some.content()
            continue
        reads = np.searchsorted(columns, some.row_reads())  # of another input, times 0, any
        index = at[:, None, None], reads[:, :, None], read[None, None, :]
        np.add.at(result, index, some.content())
    return result


def columns_of(terms: Iterable[Term], channels: Indices) -> Indices:
    """Return which channels of their input the rows of some terms read at some channels."""
    reads = [term.some(np.isin(term.at, channels).nonzero()[0]).row_reads() for term in terms]
    every = np.unique(np.concatenate([each.reshape(-1) for each in reads]))
    return every[every >= 0] if (every >= 0).any() else np.zeros(1, np.int64)


def chunks(rows: Indices, size: int) -> Iterator[Indices]:
    """Yield some rows after others, of a size each, for little of them to be widened at once."""
    together = max(1, _BLOCK // max(1, size))
    for start in range(0, len(rows), together):
        yield rows[start : start + together]


def taps_of(terms: Iterable[Term]) -> list[Tap]:
    """Return the taps of some terms, each of them once."""
    return list(dict.fromkeys(tap for term in terms for tap in term.operator.taps))


def width_of(terms: Iterable[Term]) -> int:
    """Return how many channels of their input some terms read, the last of them included."""
    return 1 + max(int(term.reads.max(initial=0)) for term in terms)


def _rows_of(operator: Operator, name: str, reads: Indices, columns: FloatArray) -> Term:
    """Return all rows of an operator."""
    every, ones = np.arange(len(operator.weights)), np.ones(len(operator.weights))
    return Term(name, operator, reads, columns, every, every, ones)


def _scaled_columns(operator: Operator, read: Sequence[Term], channels: int) -> Term:
    """Return what an operator makes of an input that is scaled by channels."""
    reads, columns = np.full(channels, -1), np.zeros(channels)
    for term in read:
        if (reads[term.at] >= 0).any():
            return _composed(operator, read, channels)
        reads[term.at], columns[term.at] = term.picked, term.rows
    return _rows_of(operator, read[0].name, reads, columns)


def _composed(operator: Operator, read: Sequence[Term], channels: int) -> Term:
    """Return the product of an operator and what it reads, of which one reads one position each."""
    taps, width = taps_of(read), width_of(read)
    inner = read[0].operator.geometry
    size = max(len(operator.weights), channels) * max(channels, width)
    size *= len(taps) * len(operator.taps)
    if size > _MOST_COMPOSED or size * min(channels, width) > _MOST_MULTIPLIED:
        raise NoSumError
    every = np.arange(channels)
    matrix = added(read, every, np.arange(width), taps)
    own = _rows_of(operator, "", every, np.ones(channels))
    outer = added([own], own.at, every, operator.taps)
    if operator.is_pointwise:
        product = np.tensordot(outer[:, :, 0], matrix, 1)
        composed = Operator(inner, tuple(taps), product)
    elif not inner and taps == [()]:
        product = np.einsum("cmt,mr->crt", outer, matrix[:, :, 0], optimize=True)
        composed = Operator(operator.geometry, operator.taps, product)
    else:
        raise NoSumError
    return _rows_of(composed, read[0].name, np.arange(width), np.ones(width))
