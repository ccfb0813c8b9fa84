"""Makes inputs for a model: signed and wide, reproducible from a seed, or given by the user."""

from __future__ import annotations

import hashlib
import itertools
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bnfold.arrays import Array
from bnfold.errors import SessionError, UsageError
from bnfold.options import InputOptions
from bnfold.record.data import InputsRecord
from bnfold.running.input_files import read_data, save_array
from bnfold.running.runtime import Feeds, Session, ValueSpec

SCALES = (1.0, 10.0, 0.1)
"""Standard deviations of the normal distributions from which samples are drawn in turn."""


_LARGEST_INTEGERS = (99, 9, 1)
"""Integers of more than 8 bits are drawn from 0 to the first of these that the model accepts: some
are indices into a table. Where the graph shows the table, its size is the limit instead."""


_OTHER_SIZES_TO_TRY = 4


_LARGER_BATCH = 3


_ODD_SIZES = (47, 33)
"""What goes wrong at borders goes wrong here, if not at even sizes."""


class UnsupportedInput(SessionError):  # noqa: N818 - an answer, not an error
    """No inputs can be made for the model; the text is the reason."""


@dataclass(frozen=True)
class Inputs:
    """Inputs that the original model accepts. `feeds` makes them anew, the same each time.

    `shapes` are used in turn, and so is `given`, what the user has given; `largest` are the largest
    values of integer inputs.
    """

    specs: Sequence[ValueSpec]
    shapes: Sequence[Mapping[str, tuple[int, ...]]]
    given: Sequence[Feeds]
    seed: int
    samples: int
    largest: Mapping[str, int]
    positions: frozenset[str] = frozenset()
    """The integer inputs that are positions in a table."""
    signed: bool = False
    """Whether other integers may be negative, in every second sample."""

    def feeds(self) -> Iterator[Feeds]:
        """Yield each sample.

        Raises:
            UsageError: if an input does not fit into memory.
        """
        for sample in range(self.samples):
            try:
                drawn = {spec.name: self._draw(spec, sample) for spec in self.specs}
            except (MemoryError, OverflowError, ValueError) as error:
                sizes = dict(self._shapes_of(sample))
                raise UsageError(f"inputs of shapes {sizes} cannot be made: {error}") from error
            yield drawn

    def _shapes_of(self, sample: int) -> Mapping[str, tuple[int, ...]]:
        return self.shapes[sample % len(self.shapes)]

    def _draw(self, spec: ValueSpec, sample: int) -> Array:
        """Draw one input. It depends on the seed, the sample and the input's name and shape alone.

        Integers of 8 bits use their whole range; strings are numbers, written out.
        """
        given = self.given[sample % len(self.given)]
        if spec.name in given:
            return given[spec.name]
        assert spec.dtype is not None
        shape = self._shapes_of(sample)[spec.name]
        generator = np.random.default_rng([self.seed, sample, *spec.name.encode()])
        if spec.dtype.kind == "b" and math.prod(shape) == 1:
            return np.full(shape, sample % 2 == 0)  # a switch: each way is taken
        if spec.dtype.kind == "f":
            normal = generator.standard_normal(shape) * SCALES[sample % len(SCALES)]
            return np.asarray(normal, spec.dtype)
        if spec.dtype.kind in "iu" and spec.dtype.itemsize == 1 and spec.name not in self.largest:
            limits = np.iinfo(spec.dtype)
            return generator.integers(limits.min, limits.max, shape, spec.dtype, endpoint=True)
        largest = 1 if spec.dtype.kind == "b" else self.largest.get(spec.name, 1)
        is_signed = self.signed and sample % 2 == 1 and spec.dtype.kind == "i"
        smallest = -largest if is_signed and spec.name not in self.positions else 0
        whole = np.asarray(generator.integers(smallest, largest, shape, endpoint=True))
        return (whole.astype(str) if spec.dtype == np.object_ else whole).astype(spec.dtype)

    def record(self) -> InputsRecord:
        """Describe the inputs, with a digest of their content."""
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
        """Write each sample to the folder, as ``sample_0.npz`` and so on.

        Raises:
            UsageError: if it cannot be written, holds samples, or an input is of strings.
        """
        try:
            folder.mkdir(exist_ok=True)
            if next(folder.glob("sample_*.npz"), None) is not None:
                raise UsageError(f"{folder} holds samples already; name another folder")
            for sample, feeds in enumerate(self.feeds()):
                with zipfile.ZipFile(folder / f"sample_{sample}.npz", "w") as archive:
                    for name, content in feeds.items():
                        save_array(archive, name, content)
        except OSError as error:
            raise UsageError(f"inputs cannot be saved to {folder}: {error.strerror}") from error


def off_by_the_last_bit(feeds: Feeds) -> Feeds:
    """Return the inputs with each finite float moved to the next one, up or down by chance.

    Rounding errors within a model are no smaller than these.
    """
    generator = np.random.default_rng(0)
    moved = {}
    for name, content in feeds.items():
        if content.dtype.kind != "f":
            moved[name] = content
            continue
        up = generator.random(content.shape) < 0.5
        target = np.where(up, np.inf, -np.inf).astype(content.dtype)
        next_one = np.nextafter(content, target)
        moved[name] = np.where(np.isfinite(next_one), next_one, content)
    return moved


def make_inputs(
    session: Session, request: InputOptions, largest: Mapping[str, int] | None = None
) -> Inputs:
    """Find inputs that the model runs on: free dimensions take the first sizes that it accepts.

    Then, where samples are left for them, they take other sizes, too.

    Args:
        session: the model.
        request: what the user says.
        largest: the largest values of integer inputs, where they are known.

    Raises:
        UsageError: if the request names an input that the model lacks, or of the wrong type.
        UnsupportedInput: if the model has an input of a kind that cannot be made.
        SessionError: if the model runs on none of the sizes tried.
    """
    specs = session.inputs
    given = [
        _fitting({**each, **request.arrays}, specs, request)
        for each in read_data(request.data, specs)
    ]
    for spec in specs:
        if spec.dtype is None:
            raise UnsupportedInput(f"input {spec.name!r} is a {spec.type}, which cannot be made")
    _require_batch(specs, given[0], request)
    everything_given = all(spec.name in given[0] for spec in specs)
    samples = len(given) if everything_given else max(request.samples, len(given))
    candidates = [list(_candidate_shapes(specs, each, request)) for each in given]
    first = _first_that_runs(session, request, given, candidates[0], dict(largest or {}))
    first = replace(first, signed=samples > 1 and _may_be_negative(session, first))
    if len(given) > 1:
        return replace(first, shapes=[each[0] for each in candidates], samples=samples)
    further = [first.shapes[0]]
    if samples > 1 and len(request.batch_sizes) > 1:
        more = replace(
            request,
            batch_sizes=(_LARGER_BATCH, *request.batch_sizes),
            other_sizes=(*_ODD_SIZES, *request.other_sizes),
        )
        further += _another_size(session, first, _candidate_shapes(specs, given[0], more))
    return replace(first, shapes=further, samples=samples)


def _first_that_runs(
    session: Session,
    request: InputOptions,
    given: Sequence[Feeds],
    candidates: Sequence[Mapping[str, tuple[int, ...]]],
    largest: Mapping[str, int],
) -> Inputs:
    """Return one sample of the first shapes, and the largest integers, that the model accepts."""
    unknown = [
        spec.name
        for spec in session.inputs
        if spec.dtype is not None and (spec.dtype.kind in "iu") and spec.name not in largest
    ]
    failures: list[SessionError] = []
    for limit in _LARGEST_INTEGERS if unknown else _LARGEST_INTEGERS[-1:]:
        limits = {**largest, **dict.fromkeys(unknown, limit)}
        for shapes in candidates:
            candidate = Inputs(
                session.inputs, [shapes], given, request.seed, 1, limits, frozenset(largest)
            )
            try:
                session.run(next(candidate.feeds()))
            except SessionError as error:
                failures.append(error)
            except UsageError as error:  # they do not fit into memory; smaller ones may
                if len(candidates) == 1:
                    raise
                failures.append(SessionError(str(error)))
            else:
                return candidate
    hint = "; give it inputs with --input NAME=FILE.npy"
    if len(candidates) > 1:
        tried = request.other_sizes
        hint = f"; tried free dimensions of {tried}: give a shape with --input NAME:1,3,…"
    raise SessionError(f"{failures[0]}{hint}")


def _may_be_negative(session: Session, first: Inputs) -> bool:
    """Say whether the model has integers that are no positions, and runs on negative ones."""
    kinds = [
        spec.dtype.kind
        for spec in session.inputs
        if spec.name not in first.positions and spec.dtype
    ]
    if "i" not in kinds:
        return False
    feeds = list(itertools.islice(replace(first, signed=True, samples=2).feeds(), 2))
    try:
        session.run(feeds[1])
    except SessionError:
        return False
    return True


def _another_size(
    session: Session, first: Inputs, candidates: Iterable[Mapping[str, tuple[int, ...]]]
) -> list[Mapping[str, tuple[int, ...]]]:
    """Return other shapes that the model runs on, those that differ most first, or nothing."""
    used = first.shapes[0]

    def same_sizes(shapes: Mapping[str, tuple[int, ...]]) -> int:
        pairs = (zip(shapes[name], used[name], strict=True) for name in used)
        return sum(one == other for sizes in pairs for one, other in sizes)

    others = sorted((each for each in candidates if each != used), key=same_sizes)
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
    """A single batch size is a demand; where nothing can follow it, say so."""
    if len(request.batch_sizes) > 1:
        return
    (batch,) = request.batch_sizes
    free = [spec for spec in specs if spec.name not in {*given, *request.shapes}]
    firsts = [spec.shape[0] for spec in free if spec.shape]
    if all(isinstance(size, int) and size != batch for size in firsts):
        raise UsageError(f"a batch of {batch} cannot be had: no input has a free first dimension")


def _candidate_shapes(
    specs: Sequence[ValueSpec], given: Feeds, request: InputOptions
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Yield shapes to try. Dimensions of one name get one size; the first axis counts as batch."""
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
    for image, other in itertools.product(images, request.other_sizes):
        for batch in request.batch_sizes:
            sizes = dict(fixed)
            shapes = {}
            for spec in specs:
                if spec.name in given:
                    shapes[spec.name] = given[spec.name].shape
                elif spec.name in requested:
                    shapes[spec.name] = tuple(requested[spec.name])
                else:
                    shapes[spec.name] = _fill(spec, sizes, batch, other, image)
            if shapes not in seen:
                seen.append(shapes)
                yield shapes


def _fill(
    spec: ValueSpec, sizes: dict[str, int], batch: int, other: int, image: int | None
) -> tuple[int, ...]:
    filled = []
    for axis, size in enumerate(spec.shape):
        fallback = batch if axis == 0 else other
        if axis == 1 and len(spec.shape) == 4:
            fallback = 3
        if axis > 1 and len(spec.shape) == 4:
            fallback = image or other
        if isinstance(size, str):
            filled.append(sizes.setdefault(size, fallback))
        else:
            filled.append(fallback if size is None else size)
    return tuple(filled)


def _fit(content: Array, spec: ValueSpec) -> Array:
    if spec.dtype is not None and content.dtype != spec.dtype:
        raise UsageError(
            f"input {spec.name!r} wants {spec.dtype}, and the file given for it has {content.dtype}"
        )
    return content


def _require_known(named: Mapping[str, object], specs: Sequence[ValueSpec]) -> None:
    names = [spec.name for spec in specs]
    for name in named:
        if name not in names:
            raise UsageError(f"the model has no input {name!r}; it has {', '.join(names)}")
