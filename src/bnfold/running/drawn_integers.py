"""Draws integers: indices into tables, lengths, and those around what a model compares with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from bnfold.arrays import Array
from bnfold.running.hints import Hints
from bnfold.running.runtime import ValueSpec

Beside: TypeAlias = Literal["", "any", "next"]
"""Whether integers may be other ones than those that the model compares them with: any up to the
largest, or also those next to them."""

_ONE_IN = 8
"""Of so many integers, one may look up where the tables of two models differ."""

_GOLDEN = (math.sqrt(5) - 1) / 2
"""Its multiples, without their integer parts, are spread evenly however many there are."""


@dataclass(frozen=True)
class IntegerDraws:
    """Draws the integers of a sample, which booleans and numbers as text are made of, too."""

    hints: Hints
    largest: Mapping[str, int]
    """The largest values of integer inputs, where no hint limits them."""
    signed: bool
    """Whether integers that are no indices may be negative in every second sample."""
    beside: Beside
    shapes: Mapping[str, tuple[int, ...]]
    """Those of the sample's inputs, by their names."""
    sample: int

    def draw(self, spec: ValueSpec, generator: np.random.Generator) -> Array:
        """Draw one input; one of 8 bits, of which nothing is known, uses their whole range."""
        if spec.name in self.hints.compared:
            drawn = self._compared(spec, generator)
        elif (
            spec.dtype is not None
            and spec.dtype.kind in "iu"
            and spec.dtype.itemsize == 1
            and spec.name not in self.largest
        ):
            limits = np.iinfo(spec.dtype)
            shape = self.shapes[spec.name]
            drawn = generator.integers(limits.min, limits.max, shape, spec.dtype, endpoint=True)
        else:
            drawn = self._integers(spec, generator)
        return self._with_rows(spec, drawn, generator)

    def _integers(self, spec: ValueSpec, generator: np.random.Generator) -> Array:
        """Draw integers up to the largest, which booleans and numbers as text are made of."""
        smallest, largest = self._range(spec)
        axis, by_column = self._columns(spec)
        shape = self.shapes[spec.name]
        largest = max([largest, *(each for each in by_column if each is not None)])
        whole = np.asarray(generator.integers(smallest, largest, shape, endpoint=True))
        if whole.size > 1:  # both ends are among them
            whole.flat[0], whole.flat[-1] = largest, smallest
        elif whole.size and spec.name in self.hints.reach:
            # At first the largest, so that a model that does not accept it does not run; then from
            # all parts of the range.
            whole.flat[0] = int((1 - self.sample * _GOLDEN % 1) * largest)
        return _within_columns(whole, axis, by_column) if by_column else whole

    def _with_rows(self, spec: ValueSpec, drawn: Array, generator: np.random.Generator) -> Array:
        """Return integers, some of which look up where the tables of two models differ.

        They are one in eight, or all of fewer in every second sample. Of an input whose columns are
        looked up in a table each, all columns are the same, as far as its table goes.
        """
        is_compared = spec.name in self.hints.compared
        ends = self.choices(spec)[1:] if is_compared else self._range(spec)
        smallest, largest = ends
        rows = [row for row in self.hints.rows.get(spec.name, []) if smallest <= row <= largest]
        if not rows or not drawn.size:
            return drawn
        axis, by_column = self._columns(spec)
        free = np.take(drawn, 0, axis) if by_column else drawn
        most = free.size // _ONE_IN if free.size >= _ONE_IN else free.size * (self.sample % 2)
        chosen = np.full(free.shape, -1)
        places = generator.choice(free.size, min(most, len(rows)), replace=False)
        chosen.flat[places] = rows[: len(places)]
        if not by_column:
            return np.where(chosen >= 0, chosen, drawn)
        chosen = np.expand_dims(chosen, axis)
        return _within_columns(np.where(chosen >= 0, chosen, drawn), axis, by_column)

    def _columns(self, spec: ValueSpec) -> tuple[int, list[int | None]]:
        """Return an axis and how large integers may be at each place along it; nothing if alike."""
        axis, places = self.hints.columns.get(spec.name, (0, []))
        return axis, [
            self.shapes[each[0]][each[1]] - each[2] if isinstance(each, tuple) else each
            for each in places
        ]

    def _compared(self, spec: ValueSpec, generator: np.random.Generator) -> Array:
        """Draw integers that the model compares them with; if it accepts them, others, too.

        Those are the next ones on both sides and, for half of the elements, any.
        """
        choices, smallest, largest = self.choices(spec)
        shape = self.shapes[spec.name]
        if math.prod(shape) == 1:
            turn = self.sample
            if self.beside and (self.hints.limits(spec.name) or spec.name in self.hints.reach):
                if self.sample % 2:  # any other position, in turn with these
                    return generator.integers(smallest, largest, shape, spec.dtype, endpoint=True)
                turn = self.sample // 2
            # Each of several starts one further after every round: so each meets all of another.
            place = list(self.hints.compared).index(spec.name)
            if place >= len(choices):  # of more, some would go together
                return np.full(shape, generator.choice(choices), spec.dtype)
            turn += place * (turn // len(choices))
            return np.full(shape, choices[turn % len(choices)], spec.dtype)
        if not self.beside:
            return generator.choice(np.array(choices), shape).astype(spec.dtype)
        anything = generator.integers(smallest, largest, shape, endpoint=True)
        is_near = generator.integers(0, 2, shape).astype(np.bool_)
        return np.where(is_near, generator.choice(choices, shape), anything).astype(spec.dtype)

    def choices(self, spec: ValueSpec) -> tuple[list[int], int, int]:
        """Return the integers to draw of an input that is compared with some, and a range.

        Of a table, the numbers next to those stay within it, and those themselves, too, unless
        `beside` is "next": then the model has been tried with them.
        """
        assert spec.dtype is not None
        constants = self.hints.compared[spec.name]
        smallest, largest = self._range(spec)
        is_limited = self.hints.limits(spec.name)
        if self.beside == "next" and not is_limited:
            smallest, largest = min(smallest, *constants) - 1, max(largest, *constants) + 1
        if spec.dtype.kind in "iu":
            limits = np.iinfo(spec.dtype)
            smallest, largest = max(smallest, int(limits.min)), min(largest, int(limits.max))
            constants = [number for number in constants if limits.min <= number <= limits.max]
        near = [number + step for step in (1, -1) for number in constants]
        near = [number for number in near if smallest <= number <= largest]
        if is_limited and self.beside != "next":
            constants = [number for number in constants if smallest <= number <= largest]
        choices = [*constants, *(near if self.beside == "next" else [])]
        return choices or [largest], smallest, largest

    def _range(self, spec: ValueSpec) -> tuple[int, int]:
        """Return the smallest and the largest integer to draw."""
        assert spec.dtype is not None
        largest = 1 if spec.dtype.kind == "b" else self.largest_of(spec.name)
        if spec.name in self.hints.clipped:
            beyond = largest // 4 + 2
            return (-beyond if spec.dtype.kind == "i" else 0), largest + beyond
        is_signed = self.signed and self.sample % 2 == 1 and spec.dtype.kind == "i"
        return (-largest if is_signed and not self.hints.limits(spec.name) else 0), largest

    def largest_of(self, name: str) -> int:
        """Return how large the integers of an input may be; at least 0, so that some are drawn."""
        within = self.hints.within.get(name, [])
        sizes = [self.shapes[other][axis] - less for other, axis, less in within]
        if sizes and name in self.hints.largest:
            sizes.append(self.hints.largest[name])
        return max(0, min(sizes)) if sizes else self.largest.get(name, 1)


def _within_columns(whole: Array, axis: int, limits: Sequence[int | None]) -> Array:
    """Return integers that stay, at each place along an axis, within its own limit."""
    if whole.shape[axis] != len(limits):
        return whole
    by_place = np.moveaxis(whole, axis, -1).copy()
    known = np.array([each is not None for each in limits])
    most = np.array([each or 0 for each in limits])
    by_place = np.where(known, by_place % (most + 1), by_place)
    if by_place.size > known.size:  # the largest is among them
        rows = by_place.reshape(-1, known.size)
        rows[0] = np.where(known, most, rows[0])
    return np.moveaxis(by_place, -1, axis)
