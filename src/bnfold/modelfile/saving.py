"""Writes a model file atomically, with a data file beside it if it needs one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from bnfold.atomic import AtomicFile, Digest, as_usage_error, create_file, overwrite
from bnfold.errors import UsageError
from bnfold.modelfile.layout import DataLayout, ModelLayout
from bnfold.modelfile.model import LoadedModel
from bnfold.modelfile.stored import OpenFile

_CAN_STAY_OPEN = os.name == "posix"
"""Whether a file can be renamed and removed while it is open."""


class StagedModel(AtomicFile):
    """A model file that is written to a temporary file, then renamed to its place.

    `data` is the file beside it that holds its weights, if any. Unless `commit` is called, both
    files are removed on exit.

    Raises:
        UsageError: if the place cannot hold a file, or writing fails.
    """

    def __init__(self, place: Path, *, hashed: bool = False) -> None:
        self.data: Path | None = None
        self._new_data: os.stat_result | None = None  # removed unless committed
        super().__init__(place, hashed=hashed)
        self._link = Path(os.path.realpath(place.parent), place.name)

    @property
    def _temporary_data(self) -> Path:
        return self.path.with_suffix(".data")

    def _move_to_link(self) -> None:
        """Replace a link to another folder itself: data must be beside the name that is given."""
        if self._link.parent != self.place.parent:
            self.discard()
            self._settle(self._link)
            self.create()

    def discard(self) -> None:
        """Remove what was made, as far as the system lets it."""
        super().discard()
        with contextlib.suppress(OSError):
            self._temporary_data.unlink(missing_ok=True)
            self._discard_data()

    def _discard_data(self) -> None:
        if self.data is not None and self._new_data is not None:
            with contextlib.suppress(FileNotFoundError):
                # another run may have written the same data for its model
                if os.path.samestat(self.data.stat(), self._new_data):
                    self.data.unlink()
        self.data = self._new_data = None

    def write_blocks(self, blocks: Iterable[bytes | memoryview]) -> None:
        """Write a model file from pieces, replacing its content."""
        self._discard_data()
        super().write_blocks(blocks)

    def write_model(self, loaded: LoadedModel) -> None:
        """Write the model; large weights go to a data file if it had one or exceeds 2 GiB.

        The data file is named after its content, so it never replaces data that another model
        uses, not even the model at the same place. New weights do not stay in memory; they are
        read from the written file.
        """
        self._discard_data()
        wants_data = loaded.has_external_data or not loaded.fits_one_message
        layout = DataLayout(loaded) if wants_data else None
        if layout is None:
            self._write_model_file(loaded)
        elif layout:
            self._write_with_data(loaded, layout)
        else:
            with layout.located(""):  # all external weights are small: inline them
                self._write_model_file(loaded)

    def _write_model_file(self, loaded: LoadedModel) -> None:
        layout = ModelLayout(loaded)
        super().write_blocks(layout.blocks())
        if _CAN_STAY_OPEN:
            layout.leave_in(OpenFile(self.path, self.place), loaded.markers)

    def _write_with_data(self, loaded: LoadedModel, layout: DataLayout) -> None:
        if not _is_utf8(self.place.name):
            raise UsageError(
                f"the name of {self.place} is not valid UTF-8, which external data requires; "
                "choose another name"
            )
        self._move_to_link()
        temporary, digest = self._temporary_data, Digest()
        with as_usage_error(self.place):
            temporary.unlink(missing_ok=True)
            create_file(temporary, like=self.path)
            overwrite(temporary, digest.passing(layout.blocks()), to_disk=self._replaces)
            data = self.place.with_name(f"{self.place.name}.{digest.hexdigest()[:16]}.data")
            if data.exists():
                temporary.chmod(data.stat().st_mode & 0o777)
            self._new_data = None if data.exists() else temporary.stat()
            self.data = data
            os.replace(temporary, data)
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
