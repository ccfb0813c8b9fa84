"""Finds external data: beside the path of a model, or beside the file that this path links to.

Hugging Face's cache has links: ``snapshots/…/model.onnx_data`` leads to ``blobs/…``, as does the
model itself. onnx opens no links to data; onnxruntime does.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx.external_data_helper import ExternalDataInfo

from bnfold.errors import ModelError, UsageError, in_words, parameter
from bnfold.modelfile.protos import tensors_of
from bnfold.modelfile.source import Source

if TYPE_CHECKING:
    from bnfold.modelfile.model import LoadedModel


def data_folders(path: Path) -> list[Path]:
    """Return the folders in which a model may have data: its path's, and its file's."""
    return list(dict.fromkeys([Path(os.path.realpath(path.parent)), path.resolve().parent]))


def find_data(folders: Sequence[Path], location: str, name: str) -> tuple[Path, os.stat_result]:
    """Return the file at a location, links resolved, and its status; the first folder counts.

    Raises:
        ModelError: if there is none, it is outside of all folders, or it cannot be read; `name` is
            the model's.
    """
    begin = f"{name} has data at {location!r}, which"
    for folder in folders:
        try:
            if not Path(os.path.normpath(folder / location)).is_relative_to(folder):
                break
            where = (folder / location).resolve()
            status = where.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a NUL
            reason = error.strerror if isinstance(error, OSError) else error
            raise ModelError(f"{begin} cannot be opened: {reason}") from error
        if not any(where.is_relative_to(each) for each in folders):
            break
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{begin} is not a file")
        if status.st_nlink > 1:
            raise ModelError(
                f"{begin} has several hard links: it may be someone else's file, and onnx rejects "
                "it, too; copy it"
            )
        _require_readable(where)
        return where, status
    else:
        raise ModelError(f"{begin} does not exist")
    raise ModelError(f"{name} has data outside its folder, at {location!r}")


def _require_readable(path: Path) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ModelError(in_words(error, path, "read")) from error


def bring_in(tensor: onnx.TensorProto, folders: Sequence[Path]) -> None:
    """Load the external content of a tensor into it.

    Raises:
        ModelError: if it cannot be found or read.
    """
    info = ExternalDataInfo(tensor)
    where, _ = find_data(folders, info.location, "the model")
    try:
        with open(where, "rb") as file:
            file.seek(info.offset or 0)
            tensor.raw_data = file.read(info.length or -1)
    except OSError as error:
        raise ModelError(in_words(error, where, "read")) from error
    tensor.ClearField("data_location")
    tensor.ClearField("external_data")


def load_whole(path: Path) -> onnx.ModelProto:
    """Load a model with all of its data.

    Raises:
        ModelError: if data cannot be found or read.
    """
    proto = onnx.load(path, load_external_data=False)
    folders = data_folders(path)
    for tensor in tensors_of(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            bring_in(tensor, folders)
    return proto


def data_files(path: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the files that hold a model's external data, by the location that it has for each.

    Raises:
        ModelError: if the model cannot be read, or a file cannot be found.
    """
    source, folders = Source.of(path), data_folders(Path(path))
    return {each: find_data(folders, each, source.name)[0] for each in _locations(source)}


def require_data(source: Source) -> None:
    """Require that a model's external data are there, as a program that only runs it would.

    Raises:
        ModelError: if a file cannot be found or read.
    """
    if source.path is None:
        return
    folders = data_folders(source.path)
    for location in _locations(source):
        files = (folder / location for folder in folders)
        place = next((file for file in files if os.path.isfile(file)), None)
        if place is None:
            find_data(folders, location, source.name)
        else:
            _require_readable(place)


def locations_of(path: Path) -> set[str]:
    """Return the locations at which a model has data; none if it cannot be read."""
    try:
        return set(_locations(Source.of(path)))
    except ModelError:
        return set()


def _locations(source: Source) -> list[str]:
    outside = {
        str(ExternalDataInfo(tensor).location)
        for tensor in tensors_of(source.read.proto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    return sorted(outside)


def require_free(loaded: LoadedModel, output: Path, name: str, *, force: bool) -> None:
    """Require that a data file of this name beside OUTPUT replaces at most the data of OUTPUT.

    Raises:
        UsageError: if it replaces anything else, and it was not asked for by `force`; the files of
            the model that is read are never replaced.
    """
    place = Path(os.path.realpath(output.parent), name)
    if name in (output.name, os.path.basename(os.path.realpath(output))):
        raise UsageError(f"{parameter('name')} {name} is the name of OUTPUT")
    real = Path(os.path.realpath(place))
    if real in loaded.data_files or (loaded.path is not None and real == loaded.path.resolve()):
        raise UsageError(f"{place} is a file of the model; choose another {parameter('name')}")
    if not os.path.lexists(place):
        return
    if not place.is_file():
        raise UsageError(f"{place} is not a regular file; choose another {parameter('name')}")
    if not force and name not in locations_of(output):
        raise UsageError(
            f"{place} exists, and holds no data of OUTPUT; {parameter('force')} replaces it"
        )
