"""The inputs of a model: random, signed and reproducible from a seed, or given by the user."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bnfold.arrays import Array, FloatArray
from bnfold.errors import SessionError, UsageError
from bnfold.options import InputOptions
from bnfold.record.data import InputsRecord
from bnfold.running import switches
from bnfold.running.drawn_integers import Beside, IntegerDraws
from bnfold.running.hints import Hints
from bnfold.running.input_files import save_samples
from bnfold.running.runtime import Feeds, ValueSpec

_NEAR, _CLOSE = 0.1, 2.0**-16
"""In every second sample, an eighth of the elements lie by such a share of it around a number that
the model compares its input with, and another eighth at it, or close to it."""

_ONE_IN = 8
"""Of so many floats, one may be missing."""

_WORDS = ("Word", "other", "A few words")
"""Strings of no meaning, with letters of both cases."""

FEW = 64
"""Elements of an input of which half are near such numbers, and in more samples."""

_EXACT = 2.0**-8
"""A multiple of this is met exactly. Around another number, such as 0.1, what a model computes of
it is rounded, and so it is the rounding that decides on which side it lies. Values are `_CLOSE` to
it and further."""

SHIFTS = (0.0, -0.5, 0.5, 3.0, -3.0)
"""The means of the floats of the first samples, one after another, in standard deviations; zero in
those that follow. What a model does where a mean is negative, or all values are positive, shows
only if some are."""

_MOST_KEPT = 2**26
"""Bytes of samples that are kept, and not drawn again."""

_FIRST_SPARE = 2**16
"""The number of the first sample that is drawn in the place of another one."""


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
    beside: Beside = ""
    replaced: Mapping[int, int] = field(default_factory=dict)
    """Samples that the model does not run on, and the numbers of those drawn in their place."""
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
        yield from map(self.sample, range(self.samples))

    def sample(self, place: int) -> Feeds:
        """Return one sample.

        Raises:
            UsageError: if an input does not fit into memory.
        """
        number = self.replaced.get(place, place)
        if number in self._kept:
            return self._kept[number]
        try:
            drawn = {spec.name: self._draw(spec, number) for spec in self.specs}
            drawn |= self._overrides(number)
        except (MemoryError, OverflowError, ValueError) as error:
            sizes = dict(self._shapes_of(number))
            raise UsageError(f"inputs of shapes {sizes} cannot be made: {error}") from error
        kept = (content for feeds in (drawn, *self._kept.values()) for content in feeds.values())
        if sum(content.nbytes for content in kept) <= _MOST_KEPT:
            self._kept[number] = drawn
        return drawn

    def shapes_by_sample(self) -> list[Mapping[str, tuple[int, ...]]]:
        """Return the shapes of the inputs in each sample."""
        numbers = (self.replaced.get(place, place) for place in range(self.samples))
        return [self._shapes_of(number) for number in numbers]

    def with_another(self, place: int) -> Inputs:
        """Return the inputs with another draw in the place of a sample."""
        last = max([_FIRST_SPARE - 1, *self.replaced.values()])
        return replace(self, replaced={**self.replaced, place: last + 1})

    def integers(self, sample: int) -> IntegerDraws:
        """Return how the integers of a sample are drawn."""
        shapes = self._shapes_of(sample)
        return IntegerDraws(self.hints, self.largest, self.signed, self.beside, shapes, sample)

    def _shapes_of(self, sample: int) -> Mapping[str, tuple[int, ...]]:
        return self.shapes[sample % len(self.shapes)]

    def _draw(self, spec: ValueSpec, sample: int) -> Array:
        """Draw one input, which depends only on the seed, the sample, its name and its shape."""
        given = self.given[sample % len(self.given)]
        if spec.name in given:
            return given[spec.name]
        assert spec.dtype is not None
        shape = self._shapes_of(sample)[spec.name]
        if self._is_blank(spec, sample):
            return np.zeros(shape, spec.dtype)
        generator = np.random.default_rng([self.seed, sample, *spec.name.encode()])
        if is_switch(spec):
            names = [each.name for each in self.specs if is_switch(each)]
            on = switches.state(names.index(spec.name), len(names), sample)
            return np.full(shape, on)
        if spec.dtype.kind == "f":
            floats = self._floats(spec, sample, shape, generator)
            return np.asarray(self._with_missing(spec, sample, floats, generator), spec.dtype)
        whole = self.integers(sample).draw(spec, generator)
        if spec.dtype == np.object_:
            return _strings(whole.astype(str), self.hints.words.get(spec.name), generator)
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

    def _is_blank(self, spec: ValueSpec, sample: int) -> bool:
        """Say whether an input is all zero, or false: where that is tried, flags are mostly."""
        assert spec.dtype is not None
        if 0.0 not in self.scales or spec.name in self.hints.ratios:
            return False
        is_flag = spec.dtype.kind in "iu" and (
            self.integers(sample).largest_of(spec.name) == 1
            or {0, 1}.issuperset(self.hints.compared.get(spec.name, [2]))
        )
        if is_flag or spec.dtype.kind == "b":
            return sample % len(self.scales) != 1
        return spec.dtype.kind == "f" and not self.scales[sample % len(self.scales)]

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
            {name: list(shape) for name, shape in each.items()} for each in self.shapes_by_sample()
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


def is_switch(spec: ValueSpec) -> bool:
    """Say whether an input is a boolean of one element."""
    return spec.dtype is not None and spec.dtype.kind == "b" and spec.is_single


def _strings(numbers: Array, words: Sequence[str] | None, generator: np.random.Generator) -> Array:
    """Return strings: numbers as text, and for half of them words, unless there may be none.

    These are those that the model knows, also in other cases, and others of no meaning.
    """
    if words is None:
        return numbers.astype(np.object_)
    known = [*words, *_WORDS]
    known += [each for word in known for each in (word.upper(), word.lower(), word.title())]
    chosen = generator.choice(np.array(known, np.object_), numbers.shape)
    is_word = generator.integers(0, 2, numbers.shape).astype(np.bool_)
    return np.where(is_word, chosen, numbers.astype(np.object_)).astype(np.object_)


def _overridden(content: Array, generator: np.random.Generator, *, turns: bool) -> Array:
    """Return other floats of the same size; zeros become small numbers."""
    if content.dtype.kind != "f":
        return content
    if not content.any():
        return np.asarray(generator.normal(0.0, 0.1, content.shape), content.dtype)
    factors = generator.uniform(0.5, 1.5, content.shape) * (-1 if turns else 1)
    return np.asarray(content * factors, content.dtype)
