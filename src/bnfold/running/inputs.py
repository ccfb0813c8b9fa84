"""The inputs of a model: random, signed and reproducible from a seed, or given by the user."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from bnfold.arrays import Array, FloatArray
from bnfold.errors import SessionError, UsageError
from bnfold.options import InputOptions
from bnfold.record.data import InputsRecord
from bnfold.running.hints import Hints
from bnfold.running.input_files import save_samples
from bnfold.running.runtime import Feeds, ValueSpec

_NEAR, _CLOSE = 0.1, 2.0**-16
"""In every second sample, an eighth of the elements lie by such a share of it around a number that
the model compares its input with, and another eighth at it, or close to it."""

_ONE_IN = 8
"""Of so many integers, one may look up where the tables of two models differ."""

_WORDS = ("Word", "other", "A few words")
"""Strings of no meaning, with letters of both cases."""

_GOLDEN = (math.sqrt(5) - 1) / 2
"""Its multiples, without their integer parts, are spread evenly however many there are."""

FEW = 64
"""Elements of an input of which half are near such numbers, and in more samples."""

_EXACT = 2.0**-8
"""A multiple of this is met exactly. Around another number, such as 0.1, what a model computes of
it is rounded, and so it is the rounding that decides on which side it lies. Values are `_CLOSE` to
it and further."""

SHIFTS = (0.0, -0.5, 0.5, 3.0, -3.0)
"""Their means, in standard deviations, used likewise; zero beyond. What a model does where a mean
is negative, or all values are positive, shows only if some are."""

_MOST_KEPT = 2**24
"""Bytes of a sample up to which it is kept, and not drawn again."""


class UnsupportedInput(SessionError):  # noqa: N818 - an answer, not an error
    """No inputs can be created for the model; the message says why."""


@dataclass(frozen=True)
class Inputs:
    """Inputs that the original model accepts; `feeds` recreates the same ones every time.

    Samples cycle through `shapes` and through `given`, the user's arrays. `largest` has the largest
    values of integer inputs.
    """

    specs: Sequence[ValueSpec]
    shapes: Sequence[Mapping[str, tuple[int, ...]]]
    given: Sequence[Feeds]
    seed: int
    samples: int
    largest: Mapping[str, int]
    hints: Hints = field(default_factory=Hints)
    signed: bool = False
    """Whether integers that are no indices may be negative in every second sample."""
    overrides: Mapping[str, Array] = field(default_factory=dict)
    """Those that the model accepts: floats as they are, of which other ones are drawn; integers and
    booleans as they are to be."""
    turns: bool = False
    """Whether overrides may have other signs, in every fourth sample."""
    scales: Sequence[float] = InputOptions.scales
    """Standard deviations of the normal distributions, used for one sample after another."""
    beside: Literal["", "any", "next"] = ""
    """Whether integers may be other ones than those that the model compares them with: any up to
    the largest, or also those next to them."""
    _kept: dict[int, Feeds] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Samples that have been drawn, as far as they are small: each is needed many times."""

    @property
    def are_drawn(self) -> bool:
        """Whether any input is drawn, so that there can be more samples."""
        return any(spec.name not in self.given[0] for spec in self.specs)

    def feeds(self) -> Iterator[Feeds]:
        """Yield each sample.

        Raises:
            UsageError: if an input does not fit into memory.
        """
        for sample in range(self.samples):
            if sample in self._kept:
                yield self._kept[sample]
                continue
            try:
                drawn = {spec.name: self._draw(spec, sample) for spec in self.specs}
                drawn |= self._overrides(sample)
            except (MemoryError, OverflowError, ValueError) as error:
                sizes = dict(self._shapes_of(sample))
                raise UsageError(f"inputs of shapes {sizes} cannot be made: {error}") from error
            if sum(content.nbytes for content in drawn.values()) <= _MOST_KEPT:
                self._kept[sample] = drawn
            yield drawn

    def _shapes_of(self, sample: int) -> Mapping[str, tuple[int, ...]]:
        return self.shapes[sample % len(self.shapes)]

    def _draw(self, spec: ValueSpec, sample: int) -> Array:
        """Draw one input, which depends only on the seed, the sample, its name and its shape.

        Integers of 8 bits use their whole range.
        """
        given = self.given[sample % len(self.given)]
        if spec.name in given:
            return given[spec.name]
        assert spec.dtype is not None
        shape = self._shapes_of(sample)[spec.name]
        if self._is_blank(spec, sample):
            return np.zeros(shape, spec.dtype)
        generator = np.random.default_rng([self.seed, sample, *spec.name.encode()])
        if spec.dtype.kind == "b" and math.prod(shape) == 1:
            return np.full(shape, self._switch(spec, sample))
        if spec.dtype.kind == "f":
            floats = self._floats(spec, sample, shape, generator)
            return np.asarray(self._with_missing(spec, sample, floats, generator), spec.dtype)
        if spec.name in self.hints.compared:
            whole = self._compared(spec, sample, shape, generator)
        elif spec.dtype.kind in "iu" and spec.dtype.itemsize == 1 and spec.name not in self.largest:
            limits = np.iinfo(spec.dtype)
            whole = generator.integers(limits.min, limits.max, shape, spec.dtype, endpoint=True)
        else:
            whole = self._integers(spec, sample, shape, generator)
        whole = self._with_rows(spec, sample, whole, generator)
        if spec.dtype == np.object_:
            return self._strings(spec, whole.astype(str), generator)
        return whole.astype(spec.dtype)

    def _with_missing(
        self, spec: ValueSpec, sample: int, drawn: FloatArray, generator: np.random.Generator
    ) -> FloatArray:
        """Return floats, of which one in eight is missing in every second sample."""
        missing = self.hints.missing.get(spec.name, [])
        if not missing or sample % 2 == 0:
            return drawn
        is_missing = generator.integers(0, _ONE_IN, drawn.shape) == 0
        return np.where(is_missing, generator.choice(missing, drawn.shape), drawn)

    def _strings(self, spec: ValueSpec, numbers: Array, generator: np.random.Generator) -> Array:
        """Return strings: numbers as text, and for half of them words that the model knows.

        These also in other cases, and others of no meaning.
        """
        if spec.name not in self.hints.words:
            return numbers.astype(np.object_)
        known = [*self.hints.words[spec.name], *_WORDS]
        known += [each for word in known for each in (word.upper(), word.lower(), word.title())]
        chosen = generator.choice(np.array(known, np.object_), numbers.shape)
        is_word = generator.integers(0, 2, numbers.shape).astype(np.bool_)
        return np.where(is_word, chosen, numbers.astype(np.object_)).astype(np.object_)

    def _is_blank(self, spec: ValueSpec, sample: int) -> bool:
        """Say whether an input is all zero, or false: where that is tried, flags are mostly."""
        assert spec.dtype is not None
        if 0.0 not in self.scales or spec.name in self.hints.ratios:
            return False
        is_flag = spec.dtype.kind in "iu" and (
            self._largest(spec.name, sample) == 1
            or {0, 1}.issuperset(self.hints.compared.get(spec.name, [2]))
        )
        if is_flag or spec.dtype.kind == "b":
            return sample % len(self.scales) != 1
        return spec.dtype.kind == "f" and not self.scales[sample % len(self.scales)]

    def _integers(
        self, spec: ValueSpec, sample: int, shape: tuple[int, ...], generator: np.random.Generator
    ) -> Array:
        """Draw integers up to the largest, which booleans and numbers as text are made of."""
        smallest, largest = self._range(spec, sample)
        axis, by_column = self._columns(spec, sample)
        largest = max([largest, *(each for each in by_column if each is not None)])
        whole = np.asarray(generator.integers(smallest, largest, shape, endpoint=True))
        if whole.size > 1:  # both ends are among them
            whole.flat[0], whole.flat[-1] = largest, smallest
        elif whole.size and spec.name in self.hints.reach:
            # At first the largest, so that a model that does not accept it does not run; then from
            # all parts of the range.
            whole.flat[0] = int((1 - sample * _GOLDEN % 1) * largest)
        return _within_columns(whole, axis, by_column) if by_column else whole

    def _with_rows(
        self, spec: ValueSpec, sample: int, drawn: Array, generator: np.random.Generator
    ) -> Array:
        """Return integers, some of which look up where the tables of two models differ.

        They are one in eight, or all of fewer in every second sample. Of an input whose columns are
        looked up in a table each, all columns are the same, as far as its table goes.
        """
        is_compared = spec.name in self.hints.compared
        ends = self.choices(spec, sample)[1:] if is_compared else self._range(spec, sample)
        smallest, largest = ends
        rows = [row for row in self.hints.rows.get(spec.name, []) if smallest <= row <= largest]
        if not rows or not drawn.size:
            return drawn
        axis, by_column = self._columns(spec, sample)
        free = np.take(drawn, 0, axis) if by_column else drawn
        most = free.size // _ONE_IN if free.size >= _ONE_IN else free.size * (sample % 2)
        chosen = np.full(free.shape, -1)
        places = generator.choice(free.size, min(most, len(rows)), replace=False)
        chosen.flat[places] = rows[: len(places)]
        if not by_column:
            return np.where(chosen >= 0, chosen, drawn)
        chosen = np.expand_dims(chosen, axis)
        return _within_columns(np.where(chosen >= 0, chosen, drawn), axis, by_column)

    def _columns(self, spec: ValueSpec, sample: int) -> tuple[int, list[int | None]]:
        """Return an axis and how large integers may be at each place along it; nothing if alike."""
        axis, places = self.hints.columns.get(spec.name, (0, []))
        sizes = self._shapes_of(sample)
        return axis, [
            sizes[each[0]][each[1]] - each[2] if isinstance(each, tuple) else each
            for each in places
        ]

    def _switch(self, spec: ValueSpec, sample: int) -> bool:
        """Return a switch's state: over four samples and more, any two take all combinations."""
        switches = [each.name for each in self.specs if each.dtype and each.dtype.kind == "b"]
        place = switches.index(spec.name)
        if sample < 2:
            return sample == 0
        bit = bool(place >> (sample // 2 - 1) & 1)
        return bit if sample % 2 == 0 else not bit

    def _floats(
        self,
        spec: ValueSpec,
        sample: int,
        shape: tuple[int, ...],
        generator: np.random.Generator,
    ) -> FloatArray:
        if spec.name in self.hints.ratios:
            return generator.uniform(0.1, 0.9, shape)
        shift = SHIFTS[sample] if sample < len(SHIFTS) else 0.0
        normal: FloatArray = generator.standard_normal(shape) + shift
        drawn = normal * self.scales[sample % len(self.scales)]
        levels = self.hints.levels.get(spec.name, [])
        if not levels or sample % 2 == 0:
            return drawn
        chosen = generator.choice(levels, shape)
        close = np.where(np.fmod(chosen, _EXACT) == 0, 0.0, _CLOSE)
        is_near = generator.integers(0, 2, shape) == 0
        offset = generator.standard_normal(shape)
        share = np.where(is_near, _NEAR * offset, close * (offset + np.sign(offset)))
        near = chosen * (1 + share)
        one_in = 2 if math.prod(shape) < FEW else 4
        return np.where(generator.integers(0, one_in, shape) == 0, near, drawn)

    def _compared(
        self,
        spec: ValueSpec,
        sample: int,
        shape: tuple[int, ...],
        generator: np.random.Generator,
    ) -> Array:
        """Draw integers that the model compares them with; if it accepts them, others, too.

        Those are the next ones on both sides and, for half of the elements, any.
        """
        choices, smallest, largest = self.choices(spec, sample)
        if math.prod(shape) == 1:
            turn = sample
            if self.beside and (self.hints.limits(spec.name) or spec.name in self.hints.reach):
                if sample % 2:  # any other position, in turn with these
                    return generator.integers(smallest, largest, shape, spec.dtype, endpoint=True)
                turn = sample // 2
            return np.full(shape, choices[turn % len(choices)], spec.dtype)
        if not self.beside:
            return generator.choice(np.array(choices), shape).astype(spec.dtype)
        anything = generator.integers(smallest, largest, shape, endpoint=True)
        is_near = generator.integers(0, 2, shape).astype(np.bool_)
        return np.where(is_near, generator.choice(choices, shape), anything).astype(spec.dtype)

    def choices(self, spec: ValueSpec, sample: int) -> tuple[list[int], int, int]:
        """Return the integers to draw of an input that is compared with some, and a range.

        Of a table, the numbers next to those stay within it, and those themselves, too, unless
        `beside` is "next": then the model has been tried with them.
        """
        assert spec.dtype is not None
        constants = self.hints.compared[spec.name]
        smallest, largest = self._range(spec, sample)
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

    def _range(self, spec: ValueSpec, sample: int) -> tuple[int, int]:
        """Return the smallest and the largest integer to draw."""
        assert spec.dtype is not None
        largest = 1 if spec.dtype.kind == "b" else self._largest(spec.name, sample)
        if spec.name in self.hints.clipped:
            beyond = largest // 4 + 2
            return (-beyond if spec.dtype.kind == "i" else 0), largest + beyond
        is_signed = self.signed and sample % 2 == 1 and spec.dtype.kind == "i"
        return (-largest if is_signed and not self.hints.limits(spec.name) else 0), largest

    def _largest(self, name: str, sample: int) -> int:
        """Return how large the integers of an input may be; at least 0, so that some are drawn."""
        shapes = self._shapes_of(sample)
        sizes = [
            shapes[other][axis] - less for other, axis, less in self.hints.within.get(name, [])
        ]
        if sizes and name in self.hints.largest:
            sizes.append(self.hints.largest[name])
        return max(0, min(sizes)) if sizes else self.largest.get(name, 1)

    def _overrides(self, sample: int) -> dict[str, Array]:
        """Return other content for overridable initializers, in every second sample."""
        if sample % 2 == 0:
            return {}
        generator = np.random.default_rng([self.seed, sample])
        turns = self.turns and sample % 4 == 3
        return {
            name: _overridden(content, generator, turns=turns)
            for name, content in self.overrides.items()
        }

    def record(self) -> InputsRecord:
        """Describe the inputs, including a digest of their content."""
        digest = hashlib.sha256()
        for feeds in self.feeds():
            for name in sorted(feeds):
                digest.update(name.encode())
                content = feeds[name]
                as_bytes = content.astype(str) if content.dtype == object else content
                digest.update(np.ascontiguousarray(as_bytes).tobytes())
        given = [spec.name for spec in self.specs if spec.name in self.given[0]]
        source = f"normal, standard deviations {tuple(self.scales)} in turn"
        if len(given) == len(self.specs):
            source = "given"
        elif given:
            source = f"{', '.join(given)} given; else {source}"
        shapes = [
            {name: list(shape) for name, shape in self._shapes_of(sample).items()}
            for sample in range(self.samples)
        ]
        return InputsRecord(
            self.seed, self.samples, source, shapes, dict(self.largest), digest.hexdigest()
        )

    def save(self, folder: Path) -> None:
        """Write all samples to the folder, as ``sample_0.npz`` etc.

        Raises:
            UsageError: if it cannot be written, already holds samples, or an input is of strings.
        """
        try:
            folder.mkdir(exist_ok=True)
            if next(folder.glob("sample_*.npz"), None) is not None:
                raise UsageError(f"{folder} already contains samples; choose another folder")
            save_samples(self.feeds(), folder)
        except OSError as error:
            raise UsageError(f"inputs cannot be saved to {folder}: {error.strerror}") from error


def _overridden(content: Array, generator: np.random.Generator, *, turns: bool) -> Array:
    """Return other floats of the same size; zeros become small numbers."""
    if content.dtype.kind != "f":
        return content
    if not content.any():
        return np.asarray(generator.normal(0.0, 0.1, content.shape), content.dtype)
    factors = generator.uniform(0.5, 1.5, content.shape) * (-1 if turns else 1)
    return np.asarray(content * factors, content.dtype)


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
