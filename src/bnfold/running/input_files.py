"""Inputs in files: single arrays, archives of them, and onnx test data."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from bnfold.arrays import Array
from bnfold.errors import UsageError
from bnfold.running.runtime import ValueSpec

_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, DecodeError)


def read_data(path: Path | None, specs: Sequence[ValueSpec]) -> list[dict[str, Array]]:
    """Read one or more samples: a .npz by name, or onnx test data by position.

    A folder contains ``input_0.pb`` etc., or folders ``test_data_set_0`` etc. that do, or
    ``sample_0.npz`` etc., which `bnfold.running.inputs.Inputs.save` writes.

    Raises:
        UsageError: if it cannot be read, or contains no input of the model.
    """
    if path is None:
        return [{}]
    try:
        if not path.is_dir():
            return [_read_archive(path, specs)]
        archives = sorted(path.glob("sample_*.npz"), key=_number)
        if archives:
            return [_read_archive(archive, specs) for archive in archives]
        folders = sorted(path.glob("test_data_set_*"), key=_number) or [path]
        return [_read_folder(folder, specs) for folder in folders]
    except _UNREADABLE as error:
        raise UsageError(f"{path} cannot be read as .npz or test-data folder: {error}") from error


def _number(path: Path) -> tuple[int, str]:
    digits = re.search(r"\d+$", path.stem)
    return (int(digits.group()) if digits else -1, path.name)


def _read_folder(path: Path, specs: Sequence[ValueSpec]) -> dict[str, Array]:
    import onnx.numpy_helper  # slow, and rarely needed

    files = {file.stem.removeprefix("input_"): file for file in path.glob("input_*.pb")}
    feeds: dict[str, Array] = {}
    for number, spec in enumerate(specs):
        if str(number) in files:
            feeds[spec.name] = onnx.numpy_helper.to_array(onnx.load_tensor(files[str(number)]))
    if not feeds:
        raise UsageError(f"{path} holds no input_0.pb; name a .npz or a test-data folder")
    return feeds


def _read_archive(path: Path, specs: Sequence[ValueSpec]) -> dict[str, Array]:
    content = np.load(path, allow_pickle=False)
    if not isinstance(content, np.lib.npyio.NpzFile):
        raise UsageError(f"{path} holds a single array: use --input NAME={path}")
    with content as archive:
        feeds = {spec.name: archive[spec.name] for spec in specs if spec.name in archive.files}
    if not feeds:
        names = ", ".join(spec.name for spec in specs)
        raise UsageError(f"{path} holds no input of the model; its inputs are {names}")
    return feeds


_SIZES = re.compile(r"[\[(]?(\d{1,9}(?:[\sx,]+\d{1,9})*)[\])]?")
"""What people write for a shape."""


def parse_input_options(options: Sequence[str]) -> tuple[dict[str, Array], dict[str, list[int]]]:
    """Parse ``NAME=FILE.npy`` as content, and ``NAME:1,3,224,224`` as a shape.

    Names may contain both ``=`` and ``:``; digits after the last colon mark a shape.

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
            written = _SIZES.fullmatch(file)
            if written is not None and isinstance(error, FileNotFoundError):
                shape = re.sub(r"[\sx,]+", ",", written[1])
                message = f"there is no file {file}; if a shape is meant: {name}:{shape}"
                raise UsageError(f"--input {option!r}: {message}") from error
            raise UsageError(f"--input {option!r}: {file} cannot be read: {error}") from error
        if not isinstance(content, np.ndarray):
            raise UsageError(f"--input {option!r}: {file} holds several arrays: use --data {file}")
        arrays[name] = content
    return arrays, shapes


def save_samples(samples: Iterable[Mapping[str, Array]], folder: Path) -> None:
    """Write arrays by name to a folder, as ``sample_0.npz`` etc.

    Raises:
        OSError: if it cannot be written.
        UsageError: if an array is of strings.
    """
    for number, arrays in enumerate(samples):
        with zipfile.ZipFile(folder / f"sample_{number}.npz", "w") as archive:
            for name, content in arrays.items():
                _save_array(archive, name, content)


def _save_array(archive: zipfile.ZipFile, name: str, content: Array) -> None:
    """Add an array to a .npz; `np.savez` does not accept all names.

    Raises:
        UsageError: if it contains strings.
    """
    if content.dtype == object:
        raise UsageError(f"input {name!r} contains strings, which .npz cannot store")
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, content, allow_pickle=False)
