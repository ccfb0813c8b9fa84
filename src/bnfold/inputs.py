"""Makes inputs for a model: signed and wide, reproducible from a seed, or given by the user."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
from google.protobuf.message import DecodeError

from bnfold.contract import Array
from bnfold.errors import UsageError
from bnfold.record import InputsRecord
from bnfold.runtime import Feeds, Session, SessionError, ValueSpec

SCALES = (1.0, 10.0, 0.1)
"""Standard deviations of the normal distributions from which samples are drawn in turn."""

_LARGEST_INTEGERS = (99, 9, 1)
"""Integers of more than 8 bits are drawn from 0 to the first of these that the model accepts: some
are indices into a table."""


class UnsupportedInput(Exception):  # noqa: N818 - an answer, not an error
    """No inputs can be made for the model; the text is the reason."""


@dataclass(frozen=True)
class InputRequest:
    """What the user says of a model's inputs.

    `arrays` are contents by input name, `shapes` shapes by input name, `data` a .npz file or an
    onnx test-data folder. Free dimensions take the first of `batch_sizes` (the first axis) and
    `other_sizes` (the others) that the model accepts; a single batch size is a demand.
    """

    seed: int = 0
    samples: int = 3
    arrays: Mapping[str, Array] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    data: Path | None = None
    batch_sizes: Sequence[int] = (2, 1)
    other_sizes: Sequence[int] = (64, 48, 224, 32, 128, 16, 8, 3, 1)


@dataclass(frozen=True)
class Inputs:
    """Inputs that the original model accepts. `feeds` makes them anew, the same each time."""

    specs: Sequence[ValueSpec]
    shapes: Mapping[str, tuple[int, ...]]
    given: Feeds
    seed: int
    samples: int
    source: str
    largest_integer: int

    def feeds(self) -> Iterator[Feeds]:
        """Yield each sample.

        Raises:
            UsageError: if an input does not fit into memory.
        """
        for sample in range(self.samples):
            try:
                drawn = {spec.name: self._draw(spec, sample) for spec in self.specs}
            except (MemoryError, OverflowError, ValueError) as error:
                sizes = dict(self.shapes)
                raise UsageError(f"inputs of shapes {sizes} cannot be made: {error}") from error
            yield drawn

    def _draw(self, spec: ValueSpec, sample: int) -> Array:
        """Draw one input. It depends on the seed, the sample and the input's name and shape alone.

        Integers of 8 bits use their whole range; strings are numbers, written out.
        """
        if spec.name in self.given:
            return self.given[spec.name]
        assert spec.dtype is not None
        shape = self.shapes[spec.name]
        generator = np.random.default_rng([self.seed, sample, *spec.name.encode()])
        if spec.dtype.kind == "f":
            normal = generator.standard_normal(shape) * SCALES[sample % len(SCALES)]
            return np.asarray(normal, spec.dtype)
        if spec.dtype.kind in "iu" and spec.dtype.itemsize == 1:
            limits = np.iinfo(spec.dtype)
            return generator.integers(limits.min, limits.max, shape, spec.dtype, endpoint=True)
        largest = 1 if spec.dtype.kind == "b" else self.largest_integer
        whole = np.asarray(generator.integers(0, largest, shape, endpoint=True))
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
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return InputsRecord(self.seed, self.samples, self.source, shapes, digest.hexdigest())


def make_inputs(session: Session, request: InputRequest) -> Inputs:
    """Find inputs that the model runs on: free dimensions take the first sizes that it accepts.

    Raises:
        UsageError: if the request names an input that the model lacks, or of the wrong type.
        UnsupportedInput: if the model has an input of a kind that cannot be made.
        SessionError: if the model runs on none of the sizes tried.
    """
    specs = session.inputs
    given = {**_read_data(request.data, specs), **request.arrays}
    _require_known({**given, **request.shapes}, specs)
    given = {spec.name: _fit(given[spec.name], spec) for spec in specs if spec.name in given}
    for spec in specs:
        if spec.dtype is None:
            raise UnsupportedInput(f"input {spec.name!r} is a {spec.type}, which cannot be made")
    _require_batch(specs, given, request)
    everything_given = all(spec.name in given for spec in specs)
    samples = 1 if everything_given else request.samples
    source = "given" if everything_given else f"normal, standard deviations {SCALES} in turn"
    has_indices = any(spec.dtype is not None and spec.dtype.kind in "iu" for spec in specs)
    failures: list[SessionError] = []
    shapes_to_try = list(_candidate_shapes(specs, given, request))
    for largest in _LARGEST_INTEGERS if has_indices else _LARGEST_INTEGERS[-1:]:
        for shapes in shapes_to_try:
            candidate = Inputs(specs, shapes, given, request.seed, samples, source, largest)
            try:
                session.run(next(candidate.feeds()))
            except SessionError as error:
                failures.append(error)
            else:
                return candidate
    hint = "; give it inputs with --input NAME=FILE.npy"
    if len(shapes_to_try) > 1:
        tried = request.other_sizes
        hint = f"; tried free dimensions of {tried}: give a shape with --input NAME:1,3,…"
    raise SessionError(f"{failures[0]}{hint}")


def _require_batch(specs: Sequence[ValueSpec], given: Feeds, request: InputRequest) -> None:
    """A single batch size is a demand; where nothing can follow it, say so."""
    if len(request.batch_sizes) > 1:
        return
    (batch,) = request.batch_sizes
    free = [spec for spec in specs if spec.name not in {*given, *request.shapes}]
    firsts = [spec.shape[0] for spec in free if spec.shape]
    if all(isinstance(size, int) and size != batch for size in firsts):
        raise UsageError(f"a batch of {batch} cannot be had: no input has a free first dimension")


def _candidate_shapes(
    specs: Sequence[ValueSpec], given: Feeds, request: InputRequest
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
    for other in request.other_sizes:
        for batch in request.batch_sizes:
            sizes = dict(fixed)
            shapes = {}
            for spec in specs:
                if spec.name in given:
                    shapes[spec.name] = given[spec.name].shape
                elif spec.name in requested:
                    shapes[spec.name] = tuple(requested[spec.name])
                else:
                    shapes[spec.name] = _fill(spec, sizes, batch, other)
            if shapes not in seen:
                seen.append(shapes)
                yield shapes


def _fill(spec: ValueSpec, sizes: dict[str, int], batch: int, other: int) -> tuple[int, ...]:
    filled = []
    for axis, size in enumerate(spec.shape):
        fallback = batch if axis == 0 else other
        if axis == 1 and len(spec.shape) == 4:
            fallback = 3
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


_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, DecodeError)


def _read_data(path: Path | None, specs: Sequence[ValueSpec]) -> dict[str, Array]:
    """Read a .npz by name, or the ``input_0.pb`` … of an onnx test-data folder by position."""
    if path is None:
        return {}
    try:
        return _read_folder(path, specs) if path.is_dir() else _read_archive(path, specs)
    except _UNREADABLE as error:
        raise UsageError(f"{path} cannot be read as .npz or test-data folder: {error}") from error


def _read_folder(path: Path, specs: Sequence[ValueSpec]) -> dict[str, Array]:
    files = {file.stem.removeprefix("input_"): file for file in path.glob("input_*.pb")}
    found: dict[str, Array] = {}
    for number, spec in enumerate(specs):
        if str(number) in files:
            found[spec.name] = onnx.numpy_helper.to_array(onnx.load_tensor(files[str(number)]))
    if not found:
        raise UsageError(f"{path} holds no input_0.pb; name a .npz or a test-data folder")
    return found


def _read_archive(path: Path, specs: Sequence[ValueSpec]) -> dict[str, Array]:
    content = np.load(path, allow_pickle=False)
    if not isinstance(content, np.lib.npyio.NpzFile):
        raise UsageError(f"{path} holds one array: use --input NAME={path}")
    with content as archive:
        found = {spec.name: archive[spec.name] for spec in specs if spec.name in archive.files}
    if not found:
        names = ", ".join(spec.name for spec in specs)
        raise UsageError(f"{path} holds no input of the model; its inputs are {names}")
    return found


def parse_input_options(options: Sequence[str]) -> tuple[dict[str, Array], dict[str, list[int]]]:
    """Read ``NAME=FILE.npy`` as content, and ``NAME:1,3,224,224`` as a shape.

    Names may hold either sign: a shape is told by digits after the last colon.

    Raises:
        UsageError: if an option is neither, or a file cannot be read.
    """
    arrays: dict[str, Array] = {}
    shapes: dict[str, list[int]] = {}
    for option in options:
        name, colon, sizes = option.rpartition(":")
        if colon and re.fullmatch(r"\d{1,9}(,\d{1,9})*", sizes):
            shapes[name] = [int(size) for size in sizes.split(",")]
            continue
        name, _, file = option.rpartition("=")
        if not name or not file:
            raise UsageError(f"--input {option!r} is neither NAME=FILE.npy nor NAME:1,3,224,224")
        try:
            content = np.load(file, allow_pickle=False)
        except _UNREADABLE as error:
            raise UsageError(f"--input {option!r}: {file} cannot be read: {error}") from error
        if not isinstance(content, np.ndarray):
            raise UsageError(f"--input {option!r}: {file} holds several arrays: use --data {file}")
        arrays[name] = content
    return arrays, shapes
