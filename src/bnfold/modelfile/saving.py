"""Writes a model file whole or not at all, and a data file beside it where it needs one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from bnfold.atomic import AtomicFile, Digest, as_usage_error, mode_for, overwrite
from bnfold.errors import UsageError
from bnfold.modelfile.layout import DataLayout, ModelLayout
from bnfold.modelfile.model import LoadedModel
from bnfold.modelfile.stored import OpenFile

_CAN_STAY_OPEN = os.name == "posix"
"""Whether a file can be renamed and removed while it is open."""


class StagedModel(AtomicFile):
    """A model file that is written beside its place, then renamed into it.

    `data` is the file that was written beside it, for the weights of the model. Whatever `commit`
    has not been called for is removed at the end, that file included.

    Raises:
        UsageError: if the place is not one for a file, or writing fails.
    """

    def __init__(self, place: Path, *, hashed: bool = False) -> None:
        self.data: Path | None = None
        self._new_data: os.stat_result | None = None  # what to remove if nothing is committed
        super().__init__(place, hashed=hashed)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        if not self._committed:
            self._discard_data()

    def _discard_data(self) -> None:
        if self.data is not None and self._new_data is not None:
            with contextlib.suppress(FileNotFoundError):
                # another run may have written the same there, and a model that needs it
                if os.path.samestat(self.data.stat(), self._new_data):
                    self.data.unlink()
        self.data = self._new_data = None

    def write_blocks(self, blocks: Iterable[bytes | memoryview]) -> None:
        """Write a model file that comes in pieces, instead of what is there."""
        self._discard_data()
        super().write_blocks(blocks)

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
        super().write_blocks(layout.blocks())
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
            with as_usage_error(self.place):
                overwrite(temporary, digest.passing(layout.blocks()), to_disk=self._replaces)
                data = self.place.with_name(f"{self.place.name}.{digest.hexdigest()[:16]}.data")
                temporary.chmod(mode_for(data))
                self._new_data = None if data.exists() else temporary.stat()
                self.data = data
                os.replace(temporary, data)
        finally:
            temporary.unlink(missing_ok=True)
        with layout.located(data.name):
            self._write_model_file(loaded)
        if _CAN_STAY_OPEN:
            layout.leave_in(OpenFile(data), loaded.markers)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
