"""Writes files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import onnx
import onnx_ir as ir

from bnfold.editor import all_graphs
from bnfold.errors import UsageError
from bnfold.model_io import LoadedModel, serialize, sha256_of
from bnfold.protos import graphs_of

EXTERNAL_THRESHOLD = 1024
"""Tensors of at least so many bytes go to the data file, where there is one."""


class StagedFile:
    """A file that appears whole or not at all: written beside its place, then renamed into it.

    Use as a context manager; whatever `commit` has not been called for is removed at the end.

    Raises:
        UsageError: if the place is not one for a file, or writing fails.
    """

    def __init__(self, place: Path) -> None:
        self._committed = False
        self._data: Path | None = None
        with _as_usage_error(place):
            self.place = place.resolve()  # a link stays a link: what it points to is replaced
            if self.place.exists() and not self.place.is_file():
                raise UsageError(f"{place} is not a regular file; name a file to write to")
            descriptor, path = tempfile.mkstemp(
                dir=self.place.parent, prefix=f".{self.place.name[:100]}.", suffix=".tmp"
            )
            os.close(descriptor)
            self.path = Path(path)
            self.path.chmod(_mode_for(self.place))

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._committed:
            self.path.unlink(missing_ok=True)
            if self._data is not None:
                self._data.unlink(missing_ok=True)

    def write(self, content: bytes) -> None:
        """Write all of the content, to the disk itself."""
        with _as_usage_error(self.place), open(self.path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def copy(self, source: Path) -> None:
        """Write what `source` holds, byte for byte."""
        with _as_usage_error(self.place), open(source, "rb") as old, open(self.path, "wb") as new:
            shutil.copyfileobj(old, new, 1 << 20)
            new.flush()
            os.fsync(new.fileno())

    def write_model(self, loaded: LoadedModel) -> None:
        """Write the model; its large weights to a file beside it where they were, or must be.

        The data file is named after its content, so that it never replaces the data of a model
        that is still in use, not even of the one at the same place.
        """
        if not loaded.has_external_data and loaded.fits_one_message:
            proto = serialize(loaded)
            self.write(proto.SerializeToString(deterministic=True))
            return
        initializers = [v for g in all_graphs(loaded.ir) for v in g.initializers.values()]
        tensors = [value.const_value for value in initializers]
        temporary = self.path.with_suffix(".data")
        try:
            with _as_usage_error(self.place):
                ir.external_data.unload_from_model(
                    loaded.ir,
                    self.path.parent,
                    temporary.name,
                    size_threshold_bytes=EXTERNAL_THRESHOLD,
                    alignment=4096,
                )
            proto = serialize(loaded)
            data = self.place.with_name(f"{self.place.name}.{sha256_of(temporary)[:16]}.data")
            if not data.exists():
                self._data = data
            temporary.chmod(_mode_for(data))
            os.replace(temporary, data)
        finally:
            temporary.unlink(missing_ok=True)
            for value, tensor in zip(initializers, tensors, strict=True):
                value.const_value = tensor
        _relocate(proto, temporary.name, data.name)
        self.write(proto.SerializeToString(deterministic=True))

    def commit(self) -> None:
        """Let the file appear in its place."""
        with _as_usage_error(self.place):
            os.replace(self.path, self.place)
        self._committed = True


def write_text(place: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        UsageError: if it cannot be written.
    """
    with StagedFile(place) as staged:
        staged.write(text.encode())
        staged.commit()


@contextlib.contextmanager
def _as_usage_error(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{place} cannot be written: {error.strerror or error}") from error


def _mode_for(place: Path) -> int:
    """Return the permissions of the file that is replaced, or those of any new file."""
    if place.exists():
        return place.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _relocate(proto: onnx.ModelProto, old: str, new: str) -> None:
    for graph in graphs_of(proto):
        for tensor in graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location" and entry.value == old:
                    entry.value = new
