"""Writes a model file atomically, with a data file beside it if it needs one."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import onnx_ir as ir

from bnfold.atomic import (
    OF_ANY_FILE,
    AtomicFile,
    Digest,
    as_usage_error,
    create_file,
    overwrite,
)
from bnfold.errors import UsageError, parameter
from bnfold.modelfile.layout import (
    EXTERNAL_THRESHOLD,
    DataLayout,
    ModelLayout,
    belongs_outside,
)
from bnfold.modelfile.model import LARGEST_INLINE, LoadedModel
from bnfold.modelfile.places import places_of
from bnfold.modelfile.stored import OpenFile
from bnfold.options import StorageOptions
from bnfold.scratch import remove_folder

_CAN_STAY_OPEN = os.name == "posix"
"""Whether a file can be renamed and removed while it is open."""


class StagedModel(AtomicFile):
    """A model file that is written to a temporary file, then renamed to its place.

    If it needs a data file, both are written to a temporary folder under the names that they will
    have, so that the model loads from there. `data` is that file. Unless `commit` is called, all is
    as before on exit.

    Raises:
        UsageError: if a place cannot hold a file, or writing fails.
    """

    def __init__(
        self,
        place: Path,
        *,
        storage: StorageOptions | None = None,
        hashed: bool = False,
        at_most: int = OF_ANY_FILE,
    ) -> None:
        self.data: Path | None = None
        self._folder: Path | None = None
        self._new_data: os.stat_result | None = None  # removed unless committed
        self._storage = storage or StorageOptions()
        super().__init__(place, hashed=hashed, at_most=at_most)
        self._target = self.place
        self._link = Path(os.path.realpath(place.parent), place.name)

    def _begin(self, *, with_data: bool) -> None:
        """Begin anew, with a file or with a folder for it and its data.

        Data must be beside the name that is given: a link to another folder is itself replaced.
        """
        if not with_data and self._folder is None:
            return  # it has begun so
        self.discard()
        away = self._link.parent != self._target.parent
        self._settle(self._link if with_data and away else self._target)
        if with_data:
            self._folder = self.path.with_suffix(".folder.tmp")
            self.path = self._folder / self.place.name
            with as_usage_error(self.place):
                self._folder.mkdir(mode=0o700)
        self.create()

    def discard(self) -> None:
        """Remove what was made, and put back what was replaced, as far as the system lets it."""
        super().discard()
        with contextlib.suppress(OSError):
            self._put_back()
        self._clear()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        self._clear()

    def _clear(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            remove_folder(self._folder)
            with contextlib.suppress(OSError):
                self._old_data.unlink(missing_ok=True)
        self.data = self._folder = self._new_data = None

    # --- The data file ----------------------------------------------------------------------------

    @property
    def _data_place(self) -> Path:
        """Where the data file goes."""
        assert self.data is not None
        return self.place.with_name(self.data.name)

    @property
    def _old_data(self) -> Path:
        """A second name for the data file that is replaced, until the model is, too."""
        assert self._folder is not None
        return self._folder.with_suffix(".old")

    def _put_back(self) -> None:
        if self.data is None:
            return
        if self._old_data.exists():
            os.replace(self._old_data, self._data_place)
        elif self._new_data is not None:
            with contextlib.suppress(FileNotFoundError):
                # another run may have written the same data for its model
                if os.path.samestat(self._data_place.stat(), self._new_data):
                    self._data_place.unlink()

    def commit(self) -> None:
        """Move the data file to its place, if there is one, and the model to its own."""
        if self.data is not None:
            with as_usage_error(self._data_place):
                if not self._data_place.exists():
                    self._new_data = self.data.stat()
                elif self._storage.name is not None:  # else its content is the same
                    with contextlib.suppress(OSError):  # where files can have one name only
                        os.link(self._data_place, self._old_data)
                os.replace(self.data, self._data_place)
        super().commit()

    # --- Writing ----------------------------------------------------------------------------------

    def write_blocks(self, blocks: Iterable[bytes | memoryview]) -> None:
        """Write a model file from pieces, replacing its content."""
        self._begin(with_data=False)
        super().write_blocks(blocks)

    def write_model(self, loaded: LoadedModel) -> None:
        """Write the model; large weights go to a data file if it had one or exceeds 2 GiB.

        The data file is named after its content, so it never replaces data that another model
        uses, not even the model at the same place. `storage` may ask for something else. New
        weights do not stay in memory; they are read from the written file.
        """
        layout: DataLayout | None = None
        if wants_data(loaded, self._storage) or loaded.has_external_data:
            layout = DataLayout(loaded, smallest_outside(self._storage))
            layout.bring_inside()
        _require_fitting(loaded, layout, self._storage)
        if layout:
            self._begin(with_data=True)
            self._write_with_data(loaded, layout)
        else:
            self._begin(with_data=False)
            self._write_model_file(loaded)

    def _write_model_file(self, loaded: LoadedModel) -> None:
        layout = ModelLayout(loaded)
        super().write_blocks(layout.blocks())
        if _CAN_STAY_OPEN:
            layout.leave_in(OpenFile(self.path, self.place), loaded.markers)

    def _write_with_data(self, loaded: LoadedModel, layout: DataLayout) -> None:
        name, digest = self._storage.name, Digest()
        with as_usage_error(self.place):
            data = self.path.with_name(name or f"{self.place.name}.data")
            create_file(data, like=self.path)
            blocks = layout.blocks()
            overwrite(data, blocks if name else digest.passing(blocks), to_disk=self._replaces)
            if name is None:
                named = data.with_name(f"{self.place.name}.{digest.hexdigest()[:16]}.data")
                os.replace(data, named)
                data = named
            self.data = data
            if self._data_place.exists():
                data.chmod(self._data_place.stat().st_mode & 0o777)
        with layout.located(data.name):
            self._write_model_file(loaded)
        if _CAN_STAY_OPEN:
            layout.leave_in(OpenFile(data, self._data_place), loaded.markers)


def smallest_outside(storage: StorageOptions) -> float:
    """Return the bytes of the smallest weight that goes to a data file, if there is one."""
    if storage.external_data == "never":
        return math.inf
    return EXTERNAL_THRESHOLD if storage.threshold is None else storage.threshold


def wants_data(loaded: LoadedModel, storage: StorageOptions) -> bool:
    """Return whether large weights go to a data file."""
    if storage.external_data == "auto":
        return loaded.has_external_data or not loaded.fits_one_message
    return storage.external_data == "always"


def is_stored_so(loaded: LoadedModel, storage: StorageOptions) -> bool:
    """Return whether the file of a model already is what it would be written as."""
    if storage == StorageOptions():
        return True
    smallest = smallest_outside(storage) if wants_data(loaded, storage) else math.inf
    locations: set[str] = set()
    for place in places_of(loaded.ir):
        tensor = place.tensor
        if isinstance(tensor, ir.ExternalTensor) != belongs_outside(place, smallest):
            return False
        if isinstance(tensor, ir.ExternalTensor):
            locations.add(str(tensor.location))
    return len(locations) <= 1 and (storage.name is None or locations <= {storage.name})


def _require_fitting(
    loaded: LoadedModel, layout: DataLayout | None, storage: StorageOptions
) -> None:
    """Require that what is asked for leaves no more in the model file than it can hold."""
    if storage.external_data == "never" and not loaded.fits_one_message:
        raise UsageError(
            "the result exceeds 2 GiB, more than one file may hold: it needs external data, beside "
            "an OUTPUT that is a file"
        )
    if storage.threshold is not None and not loaded.fits_one_message:
        outside = layout.nbytes_outside if layout is not None else 0
        if loaded.nbytes - outside > LARGEST_INLINE:
            raise UsageError(
                f"weights of less than {storage.threshold} bytes exceed 2 GiB, more than one model "
                f"file may hold: {parameter('threshold')} must be less"
            )
