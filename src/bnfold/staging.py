"""Writes files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from bnfold.errors import UsageError
from bnfold.model_io import LoadedModel
from bnfold.stored import OpenFile
from bnfold.writing import DataLayout, Digest, ModelLayout, write_blocks

_CAN_STAY_OPEN = os.name == "posix"
"""Whether a file can be renamed and removed while it is open."""


class StagedFile:
    """A file that appears whole or not at all: written beside its place, then renamed into it.

    Use as a context manager; whatever `commit` has not been called for is removed at the end.
    `data` is the file that was written beside it, for the weights of a model. `sha256` is the hash
    of what was written last, in hexadecimal, if it was to be `hashed`.

    What replaces a file is on the disk before that goes. What replaces none is left to the system,
    as `cp` does: nothing is lost if the power is.

    Raises:
        UsageError: if the place is not one for a file, or writing fails.
    """

    def __init__(self, place: Path, *, hashed: bool = False) -> None:
        self.sha256: str | None = None
        self.data: Path | None = None
        self._hashed = hashed
        self._committed = False
        self._new_data: os.stat_result | None = None  # what to remove if nothing is committed
        with _as_usage_error(place):
            with contextlib.suppress(FileNotFoundError):
                place.stat()  # a link that leads to itself is an OSError here, unlike below
            self.place = place.resolve()  # a link stays a link: what it points to is replaced
            if self.place.exists() and not self.place.is_file():
                raise UsageError(f"{place} is not a regular file; name a file to write to")
            self._replaces = self.place.exists()
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
            self._discard_data()

    def _discard_data(self) -> None:
        if self.data is not None and self._new_data is not None:
            with contextlib.suppress(FileNotFoundError):
                # another run may have written the same there, and a model that needs it
                if os.path.samestat(self.data.stat(), self._new_data):
                    self.data.unlink()
        self.data = self._new_data = None

    def write(self, content: bytes) -> None:
        """Write all of the content."""
        self.write_blocks([content])

    def write_blocks(self, blocks: Iterable[bytes | memoryview]) -> None:
        """Write content that comes in pieces, instead of what is there."""
        self._discard_data()
        self._write(blocks)

    def _write(self, blocks: Iterable[bytes | memoryview]) -> None:
        digest = Digest() if self._hashed else None
        with _as_usage_error(self.place):
            write_blocks(self.path, digest.of(blocks) if digest else blocks, to_disk=self._replaces)
        self.sha256 = digest.hexdigest() if digest else None

    def write_model(self, loaded: LoadedModel) -> None:
        """Write the model; its large weights to a file beside it where they were, or must be.

        The data file is named after its content, so that it never replaces the data of a model
        that is still in use, not even of the one at the same place. The model's new weights do not
        stay in memory, but are read from what was written.
        """
        self._discard_data()
        wants_data = loaded.has_external_data or not loaded.fits_one_message
        layout = DataLayout(loaded) if wants_data else None
        if layout is None:
            self._write_model_file(loaded)
        elif layout:
            self._write_with_data(loaded, layout)
        else:
            with layout.located(""):  # all that was outside is small, and comes inside
                self._write_model_file(loaded)

    def _write_model_file(self, loaded: LoadedModel) -> None:
        layout = ModelLayout(loaded)
        self._write(layout.blocks())
        if _CAN_STAY_OPEN:
            layout.leave_in(OpenFile(self.path, self.place), loaded.markers)

    def _write_with_data(self, loaded: LoadedModel, layout: DataLayout) -> None:
        if not _is_utf8(self.place.name):
            raise UsageError(
                f"{self.place} is no name in UTF-8, as that of the data beside the model must be; "
                "name another file"
            )
        temporary = self.path.with_suffix(".data")
        temporary.touch()
        digest = Digest()
        try:
            with _as_usage_error(self.place):
                write_blocks(temporary, digest.of(layout.blocks()), to_disk=self._replaces)
                data = self.place.with_name(f"{self.place.name}.{digest.hexdigest()[:16]}.data")
                temporary.chmod(_mode_for(data))
                self._new_data = None if data.exists() else temporary.stat()
                self.data = data
                os.replace(temporary, data)
        finally:
            temporary.unlink(missing_ok=True)
        with layout.located(data.name):
            self._write_model_file(loaded)
        if _CAN_STAY_OPEN:
            layout.leave_in(OpenFile(data), loaded.markers)

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


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mode_for(place: Path) -> int:
    """Return the permissions of the file that is replaced, or those of any new file."""
    if place.exists():
        return place.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
