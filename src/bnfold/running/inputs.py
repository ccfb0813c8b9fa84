"""Creates inputs for a model: random, signed and reproducible from a seed, or given by the user."""

from __future__ import annotations

import hashlib
import itertools
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bnfold.arrays import Array, FloatArray
from bnfold.errors import SessionError, UsageError
from bnfold.options import InputOptions
from bnfold.record.data import InputsRecord
from bnfold.running.input_files import read_data, save_array
from bnfold.running.runtime import Feeds, Session, ValueSpec

SCALES = (1.0, 10.0, 0.1)
"""Standard deviations of the normal distributions, used for one sample after another."""

SHIFTS = (0.0, -0.5, 0.5, 3.0, -3.0)
"""Their means, in standard deviations, used likewise; zero beyond. What a model does where a mean
is negative, or all values are positive, shows only if some are."""


_LARGEST_INTEGERS = (99, 9, 1)
"""Integers of more than 8 bits are drawn from 0 to the first of these that the model accepts: some
are indices into a table. If the graph shows the table, its size is the limit instead."""


_OTHER_SIZES_TO_TRY = 6

_CUTS_TO_TRY = 2

_HUGE = 2**21
"""Elements of one input beyond which a batch of several would take too much memory."""


_MOST_KEPT = 2**24
"""Bytes of a sample up to which it is kept, and not drawn again."""


_LARGER_BATCH = 3

_LARGE_BATCH = 17
_SMALL = 4096
"""Elements of one input up to which `_LARGE_BATCH` costs nothing."""


_MOST_FOR_COMPARISONS = 6
"""Samples, at most, for an integer to be each constant that it is compared with, less and more."""

_ODD_SIZES = (47, 33)
"""Sizes that reveal errors at borders which even sizes hide."""


class UnsupportedInput(SessionError):  # noqa: N818 - an answer, not an error
    """No inputs can be created for the model; the message says why."""


@dataclass
class Hints:
    """What a model's graph says of its inputs."""

    largest: dict[str, int] = field(default_factory=dict)
    """The largest values of the integer inputs that are indices into a table."""
    clipped: set[str] = field(default_factory=set)
    """Those of them that are limited to the table first, and so may be anything."""
    compared: dict[str, list[int]] = field(default_factory=dict)
    """The constants that an integer input is compared with."""
    ratios: set[str] = field(default_factory=set)
    """The inputs that are the ratio of a Dropout, in [0, 1)."""
    cuts: list[tuple[int, int]] = field(default_factory=list)
    """The axes and sizes at which a Slice cuts off, the largest first: inputs should be larger."""
    overrides: dict[str, Array] = field(default_factory=dict)
    """The content of the initializers that a caller may override."""


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
    beside: bool = False
    """Whether integers may be other ones than those that the model compares them with."""
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

        Integers of 8 bits use their whole range; strings are numbers as text.
        """
        given = self.given[sample % len(self.given)]
        if spec.name in given:
            return given[spec.name]
        assert spec.dtype is not None
        shape = self._shapes_of(sample)[spec.name]
        generator = np.random.default_rng([self.seed, sample, *spec.name.encode()])
        if spec.dtype.kind == "b" and math.prod(shape) == 1:
            return np.full(shape, self._switch(spec, sample))
        if spec.dtype.kind == "f":
            return np.asarray(self._floats(spec, sample, shape, generator), spec.dtype)
        if spec.name in self.hints.compared:
            return self._compared(spec, sample, shape, generator)
        if spec.dtype.kind in "iu" and spec.dtype.itemsize == 1 and spec.name not in self.largest:
            limits = np.iinfo(spec.dtype)
            return generator.integers(limits.min, limits.max, shape, spec.dtype, endpoint=True)
        smallest, largest = self._range(spec, sample)
        whole = np.asarray(generator.integers(smallest, largest, shape, endpoint=True))
        if whole.size > 1:  # both ends are among them
            whole.flat[0], whole.flat[-1] = largest, smallest
        return (whole.astype(str) if spec.dtype == np.object_ else whole).astype(spec.dtype)

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
        return normal * SCALES[sample % len(SCALES)]

    def _compared(
        self,
        spec: ValueSpec,
        sample: int,
        shape: tuple[int, ...],
        generator: np.random.Generator,
    ) -> Array:
        """Draw integers that the model compares them with; if it accepts them, others, too.

        Those are the next ones on both sides and, for half of the elements, any. Indices into a
        table stay within it.
        """
        constants = self.hints.compared[spec.name]
        if not self.beside:
            return np.asarray(
                np.full(shape, constants[sample % len(constants)], spec.dtype)
                if math.prod(shape) == 1
                else generator.choice(np.array(constants), shape).astype(spec.dtype)
            )
        smallest, largest = self._range(spec, sample)
        if spec.name not in self.hints.largest:
            smallest, largest = min(smallest, *constants) - 1, max(largest, *constants) + 1
        assert spec.dtype is not None
        if spec.dtype.kind == "u":
            smallest = max(smallest, 0)
        near = [number + step for step in (0, 1, -1) for number in constants]
        choices = [number for number in near if smallest <= number <= largest] or [largest]
        if math.prod(shape) == 1:
            return np.full(shape, choices[sample % len(choices)], spec.dtype)
        anything = generator.integers(smallest, largest, shape, endpoint=True)
        is_near = generator.integers(0, 2, shape).astype(np.bool_)
        return np.where(is_near, generator.choice(choices, shape), anything).astype(spec.dtype)

    def _range(self, spec: ValueSpec, sample: int) -> tuple[int, int]:
        """Return the smallest and the largest integer to draw."""
        assert spec.dtype is not None
        largest = 1 if spec.dtype.kind == "b" else self.largest.get(spec.name, 1)
        if spec.name in self.hints.clipped:
            beyond = largest // 4 + 2
            return (-beyond if spec.dtype.kind == "i" else 0), largest + beyond
        is_signed = self.signed and sample % 2 == 1 and spec.dtype.kind == "i"
        return (-largest if is_signed and spec.name not in self.hints.largest else 0), largest

    def _overrides(self, sample: int) -> dict[str, Array]:
        """Return other content for overridable initializers, in every second sample."""
        if sample % 2 == 0:
            return {}
        generator = np.random.default_rng([self.seed, sample])
        return {
            name: _overridden(content, generator) for name, content in self.hints.overrides.items()
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
        source = f"normal, standard deviations {SCALES} in turn"
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
            for sample, feeds in enumerate(self.feeds()):
                with zipfile.ZipFile(folder / f"sample_{sample}.npz", "w") as archive:
                    for name, content in feeds.items():
                        save_array(archive, name, content)
        except OSError as error:
            raise UsageError(f"inputs cannot be saved to {folder}: {error.strerror}") from error


def make_inputs(session: Session, request: InputOptions, hints: Hints | None = None) -> Inputs:
    """Find inputs that the model accepts: free dimensions take the first sizes that work.

    Further samples, if any, use other sizes, too.

    Args:
        session: the model.
        request: the user's options.
        hints: what the graph says of the inputs.

    Raises:
        UsageError: if the request names an unknown input, or one has the wrong type.
        UnsupportedInput: if the model has an input of a type that cannot be created.
        SessionError: if the model accepts none of the sizes tried.
    """
    specs = session.inputs
    given = [
        _fitting({**feeds, **request.arrays}, specs, request)
        for feeds in read_data(request.data, specs)
    ]
    for spec in specs:
        if spec.dtype is None:
            raise UnsupportedInput(f"input {spec.name!r} is a {spec.type}, which cannot be made")
    request = _with_small_batches(specs, request)
    _require_batch(specs, given[0], request)
    everything_given = all(spec.name in given[0] for spec in specs)
    samples = len(given) if everything_given else max(request.samples, len(given))
    compared = max(map(len, hints.compared.values()), default=0) if hints else 0
    if samples > 1 and not everything_given and compared:
        samples = max(samples, min(3 * compared, _MOST_FOR_COMPARISONS))
    if samples > 1 and not everything_given:
        samples = max(samples, _samples_for_switches(specs))
    candidates = [list(_candidate_shapes(specs, feeds, request)) for feeds in given]
    first = _first_that_runs(session, request, given, candidates[0], hints or Hints())
    first = replace(first, signed=samples > 1 and _may_be_negative(session, first))
    first = replace(first, beside=samples > 1 and _may_be_others(session, first, samples))
    first = _with_overrides(session, first) if samples > 1 else first
    if len(given) > 1:
        return replace(first, shapes=[shapes[0] for shapes in candidates], samples=samples)
    shapes = [first.shapes[0]]
    if samples > 1 and len(set(request.batch_sizes)) > 1:
        more = replace(
            request,
            batch_sizes=(_larger_batch(first), _LARGER_BATCH, *request.batch_sizes),
            other_sizes=(*_ODD_SIZES, *request.other_sizes),
        )
        shapes += _another_size(
            session, first, _candidate_shapes(specs, given[0], more, spread=True)
        )
        longer = _beyond_cuts(session, first)
        shapes += longer
        samples += len(longer)
        shapes += _batch_of_one(session, first, shapes)
    return replace(first, shapes=shapes, samples=samples)


def _overridden(content: Array, generator: np.random.Generator) -> Array:
    """Return other content of the same size; zeros become small numbers."""
    if content.any():
        return (content * generator.uniform(0.5, 1.5, content.shape)).astype(content.dtype)
    return generator.normal(0.0, 0.1, content.shape).astype(content.dtype)


def _with_small_batches(specs: Sequence[ValueSpec], request: InputOptions) -> InputOptions:
    """Return the request with a batch of one, if the fixed sizes of an input are huge already."""
    sizes = [[size for size in spec.shape[1:] if isinstance(size, int)] for spec in specs]
    is_huge = any(math.prod(fixed) > _HUGE for fixed in sizes)
    return replace(request, batch_sizes=(1, 1)) if is_huge and 1 in request.batch_sizes else request


def _larger_batch(first: Inputs) -> int:
    """Return a larger batch: of a small input, one that gives each channel enough values."""
    elements = max((math.prod(shape[1:]) for shape in first.shapes[0].values()), default=0)
    return _LARGER_BATCH if elements > _SMALL else _LARGE_BATCH


def _samples_for_switches(specs: Sequence[ValueSpec]) -> int:
    """Return how many samples it takes for any two switches to take all combinations."""
    switches = sum(spec.dtype is not None and spec.dtype.kind == "b" for spec in specs)
    return 2 + 2 * (switches - 1).bit_length() if switches > 1 else 0


def _with_overrides(session: Session, first: Inputs) -> Inputs:
    """Return the inputs with the overrides that the model accepts: all of them, or none."""
    known = {spec.name for spec in session.overridable}
    overrides = {name: value for name, value in first.hints.overrides.items() if name in known}
    inputs = replace(first, samples=2, hints=replace(first.hints, overrides=overrides))
    if overrides:
        try:
            session.run(list(inputs.feeds())[1])
        except SessionError:
            overrides = {}
    return replace(first, hints=replace(first.hints, overrides=overrides))


def _beyond_cuts(session: Session, first: Inputs) -> list[Mapping[str, tuple[int, ...]]]:
    """Return shapes, if the model accepts any, that are longer than where a Slice cuts an axis off.

    The Slice may come after a few strides. So the axis is made several times as long, alone.
    """
    found: list[Mapping[str, tuple[int, ...]]] = []
    for axis, end in first.hints.cuts[:_CUTS_TO_TRY]:
        free = {
            spec.name
            for spec in first.specs
            if axis < len(spec.shape)
            and not isinstance(spec.shape[axis], int)
            and spec.name not in first.given[0]
        }
        for size in (end * times + more for times in (8, 2, 1) for more in (7, 32)) if free else ():
            longer = {
                name: (*shape[:axis], size, *shape[axis + 1 :]) if name in free else shape
                for name, shape in first.shapes[0].items()
            }
            try:
                session.run(next(replace(first, shapes=[longer]).feeds()))
            except SessionError:
                continue
            found.append(longer)
            break
    return found


def _batch_of_one(
    session: Session, first: Inputs, shapes: Sequence[Mapping[str, tuple[int, ...]]]
) -> list[Mapping[str, tuple[int, ...]]]:
    """Return the first shapes with a batch of one, if the model accepts them and none is so yet."""
    free = {spec.name for spec in first.specs if spec.shape and not isinstance(spec.shape[0], int)}
    free -= first.given[0].keys()
    if not free or any(shape[name][0] == 1 for shape in shapes for name in free if shape[name]):
        return []
    single = {
        name: (1, *shape[1:]) if name in free and shape else shape
        for name, shape in shapes[0].items()
    }
    try:
        session.run(next(replace(first, shapes=[single]).feeds()))
    except SessionError:
        return []
    return [single]


def _first_that_runs(
    session: Session,
    request: InputOptions,
    given: Sequence[Feeds],
    candidates: Sequence[Mapping[str, tuple[int, ...]]],
    hints: Hints,
) -> Inputs:
    """Return one sample with the first shapes and the largest integers that the model accepts."""
    unknown = [
        spec.name
        for spec in session.inputs
        if spec.dtype is not None and spec.dtype.kind in "iu" and spec.name not in hints.largest
    ]
    failures: list[SessionError] = []
    for limit in _LARGEST_INTEGERS if unknown else _LARGEST_INTEGERS[-1:]:
        limits = {**hints.largest, **dict.fromkeys(unknown, limit)}
        for shapes in candidates:
            candidate = Inputs(session.inputs, [shapes], given, request.seed, 1, limits, hints)
            try:
                session.run(next(candidate.feeds()))
            except SessionError as error:
                failures.append(error)
            except UsageError as error:  # too large for memory; smaller shapes may fit
                if len(candidates) == 1:
                    raise
                failures.append(SessionError(str(error)))
            else:
                return candidate
    hint = "; provide inputs with --input NAME=FILE.npy"
    if len(candidates) > 1:
        tried = request.other_sizes
        hint = f"; tried free dimensions of {tried}: give a shape with --input NAME:1,3,…"
    raise SessionError(f"{failures[0]}{hint}")


def _may_be_negative(session: Session, first: Inputs) -> bool:
    """Return whether the model has integers that are not indices, and accepts negative ones."""
    kinds = [
        spec.dtype.kind
        for spec in session.inputs
        if spec.name not in first.hints.largest and spec.dtype
    ]
    if "i" not in kinds:
        return False
    feeds = list(itertools.islice(replace(first, signed=True, samples=2).feeds(), 2))
    try:
        session.run(feeds[1])
    except SessionError:
        return False
    return True


def _may_be_others(session: Session, first: Inputs, samples: int) -> bool:
    """Return whether the model accepts integers beside those that it compares them with."""
    if not first.hints.compared:
        return False
    try:
        for feeds in replace(first, beside=True, samples=samples).feeds():
            session.run(feeds)
    except SessionError:
        return False
    return True


def _another_size(
    session: Session, first: Inputs, candidates: Iterable[Mapping[str, tuple[int, ...]]]
) -> list[Mapping[str, tuple[int, ...]]]:
    """Return the most different shapes that the model accepts, in a list; empty if none."""
    used = first.shapes[0]

    def same_sizes(shapes: Mapping[str, tuple[int, ...]]) -> int:
        pairs = (zip(shapes[name], used[name], strict=True) for name in used)
        return sum(one == other for sizes in pairs for one, other in sizes)

    others = sorted((shapes for shapes in candidates if shapes != used), key=same_sizes)
    for shapes in others[:_OTHER_SIZES_TO_TRY]:
        try:
            session.run(next(replace(first, shapes=[shapes]).feeds()))
        except SessionError:
            continue
        return [shapes]
    return []


def _fitting(given: Feeds, specs: Sequence[ValueSpec], request: InputOptions) -> Feeds:
    _require_known({**given, **request.shapes}, specs)
    return {spec.name: _fit(given[spec.name], spec) for spec in specs if spec.name in given}


def _require_batch(specs: Sequence[ValueSpec], given: Feeds, request: InputOptions) -> None:
    """Require that a single batch size, which is mandatory, can be used."""
    if len(request.batch_sizes) > 1:
        return
    (batch,) = request.batch_sizes
    free = [spec for spec in specs if spec.name not in {*given, *request.shapes}]
    firsts = [spec.shape[0] for spec in free if spec.shape]
    if all(isinstance(size, int) and size != batch for size in firsts):
        raise UsageError(f"batch size {batch} cannot be used: no input has a free first dimension")


def _candidate_shapes(
    specs: Sequence[ValueSpec], given: Feeds, request: InputOptions, *, spread: bool = False
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Yield shapes to try. Dimensions of one name have one size; the first axis is the batch.

    If they are to `spread`, the first shapes have another size for each free dimension in turn, so
    that a model which takes one for another gives something else.
    """
    requested = request.shapes
    seen = []
    fixed: dict[str, int] = {}
    for spec in specs:
        known = given[spec.name].shape if spec.name in given else requested.get(spec.name)
        if known is not None:
            fixed |= {
                name: size
                for name, size in zip(spec.shape, known, strict=False)
                if isinstance(name, str)
            }
    images = [None] if request.image_size is None else [request.image_size, None]
    # Old exporters give all free dimensions one name, such as "?". So names come first, then not.
    others: list[tuple[int, ...]] = [(size,) for size in request.other_sizes]
    if spread:
        others = [_ODD_SIZES, _ODD_SIZES[::-1], *others]
    for shared, image, in_turn in itertools.product((True, False), images, others):
        for batch in request.batch_sizes:
            sizes = dict(fixed)
            shapes = {}
            other = itertools.cycle(in_turn)
            for spec in specs:
                if spec.name in given:
                    shapes[spec.name] = given[spec.name].shape
                elif spec.name in requested:
                    shapes[spec.name] = tuple(requested[spec.name])
                else:
                    names = sizes if shared else None
                    shapes[spec.name] = _fill(spec, names, batch, other, image)
            if shapes not in seen:
                seen.append(shapes)
                yield shapes


def _fill(
    spec: ValueSpec,
    sizes: dict[str, int] | None,
    batch: int,
    others: Iterator[int],
    image: int | None,
) -> tuple[int, ...]:
    filled = []
    for axis, size in enumerate(spec.shape):
        if isinstance(size, int):
            filled.append(size)
        elif isinstance(size, str) and sizes is not None and size in sizes:
            filled.append(sizes[size])
        else:
            filled.append(_free_size(axis, len(spec.shape), batch, others, image))
            if isinstance(size, str) and sizes is not None:
                sizes[size] = filled[-1]
    return tuple(filled)


def _free_size(axis: int, rank: int, batch: int, others: Iterator[int], image: int | None) -> int:
    if axis == 0:
        return batch
    if rank == 4 and axis == 1:
        return 3
    return (rank == 4 and image) or next(others)


def _fit(content: Array, spec: ValueSpec) -> Array:
    if spec.dtype is not None and content.dtype != spec.dtype:
        raise UsageError(
            f"input {spec.name!r} needs {spec.dtype}, but the given array has {content.dtype}"
        )
    return content


def _require_known(named: Mapping[str, object], specs: Sequence[ValueSpec]) -> None:
    names = [spec.name for spec in specs]
    for name in named:
        if name not in names:
            raise UsageError(f"the model has no input {name!r}; it has {', '.join(names)}")
