"""What is asked of a model, and the hashes by which a later run knows it again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.errors import ModelError, UsageError, in_words
from bnfold.options import (
    CheckOptions,
    ExecutionOptions,
    PassOptions,
    StorageOptions,
    TimingOptions,
)

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Asked:
    """The arguments of `bnfold.optimize`, but for the model and the output."""

    passes: PassOptions = field(default_factory=PassOptions)
    execution: ExecutionOptions = field(default_factory=ExecutionOptions)
    checking: CheckOptions = field(default_factory=CheckOptions)
    timing: TimingOptions = field(default_factory=TimingOptions)
    storage: StorageOptions = field(default_factory=StorageOptions)
    check: bool = True
    bench: bool = True
    tune: bool = False
    drop_culprit: bool = False

    @property
    def is_timed(self) -> bool:
        return self.bench or self.timing.require_speedup is not None

    @property
    def seconds_to_time(self) -> float:
        return sum(self.timing.seconds_on(self.execution.providers).values())

    @property
    def is_whole(self) -> bool:
        """Whether rewriting and timing cannot be told apart, so that all of it runs alone.

        Tuning times while it rewrites; and a change of meaning is timed against an original that
        has it, too, which only `optimize` makes.
        """
        passes = self.passes
        changes = passes.force_inference or passes.freeze_initializers or bool(passes.set_shapes)
        return self.tune or (self.is_timed and changes)

    def sha256(self) -> str:
        """Return a hash of all of it, with the content of files rather than their names.

        Raises:
            UsageError: if a file cannot be read.
        """
        text = json.dumps(_plain(self), sort_keys=True, default=str)
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, np.ndarray):
        content = repr(value.tolist()).encode() if value.dtype.hasobject else value.tobytes()
        return [str(value.dtype), list(value.shape), hashlib.sha256(content).hexdigest()]
    if isinstance(value, Path):
        return _hash_all(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(content) for key, content in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(element) for element in value]
    return value


def _hash_all(path: Path) -> dict[str, str]:
    """Return the hash of a file, or of each one below a folder."""
    files = sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]
    return {str(file.relative_to(path)): hash_file(file) for file in files}


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        UsageError: if it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise UsageError(in_words(error, path, "read")) from error
    return digest.hexdigest()


def data_of(path: Path) -> dict[str, Path] | None:
    """Return the files of a model's external data by location; None if it cannot be read."""
    from bnfold.external_data import data_files

    try:
        return data_files(path)
    except (ModelError, OSError):
        return None


def hash_model(path: Path, data: Mapping[str, Path] | None, sha256: str | None = None) -> str:
    """Return a hash of a model's file and its external data; "" if they cannot be read.

    `data` are the files of external data, None if they are not known; `sha256` is the hash of the
    model's file, if that is known.
    """
    if data is None:
        return ""
    try:
        parts = {"": sha256 or hash_file(path)}
        parts |= {location: hash_file(file) for location, file in data.items()}
    except (UsageError, OSError):
        return ""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode(errors="replace")).hexdigest()
