"""Which models a batch has, and where in its folder each of them goes."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from bnfold.errors import UsageError, in_words

SUFFIX = ".onnx"
INDEX_FILES = ("index.html", "index.md", "index.json")
STAGE = ".bnfold"
"""The folder in that of a batch which holds what is not finished; it goes with the batch."""

_LONGEST = 255 - 40
"""Bytes of a file's name, with room for those of its pages and external data."""


@dataclass(frozen=True)
class Selected:
    """A model, and what was asked for it alone."""

    path: Path
    """Absolute, with links as they are."""
    root: Path
    """The folder that was named, or the one that the file is in."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """By name, as in a manifest."""
    name: str = ""
    """Where it goes in the folder of the batch, if that was asked for."""


def select(argument: str, base: Path, leave_out: Path) -> list[Selected]:
    """Return the models that an argument names: a file, a folder, or a pattern.

    Args:
        argument: a path, or a pattern such as ``models/**/*.onnx``.
        base: the folder that it is relative to.
        leave_out: a folder whose files are the results of batches.

    Raises:
        UsageError: if there are none.
    """
    path = _absolute(base / argument)
    if _may_exist(path):
        return _in_place(path, leave_out, argument)
    if not glob.has_magic(argument):
        raise UsageError(f"{argument} does not exist; name an .onnx file, a folder or a pattern")
    matches = sorted(glob.glob(os.fspath(base / argument), recursive=True))
    found: list[Selected] = []
    for match in map(_absolute, map(Path, matches)):
        if match.suffix.lower() == SUFFIX and not match.is_dir():
            if not _is_within(match, leave_out):
                found.append(Selected(match, match.parent))
        elif match.is_dir() and not _is_within(match, leave_out):
            found += [] if "**" in argument else _below(match, leave_out)
    if not found:
        raise UsageError(f"no {SUFFIX} file matches {argument!r}")
    return found


def _may_exist(path: Path) -> bool:
    """Return whether a path leads to anything, or the system does not say: then the model fails."""
    try:
        os.lstat(path)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _in_place(path: Path, leave_out: Path, argument: str) -> list[Selected]:
    if not os.path.isdir(path):
        return [Selected(path, path.parent)]
    if _is_within(path, leave_out):  # which is asked for, so that it counts
        leave_out = leave_out / "index.json"
    found = _below(path, leave_out)
    if not found:
        raise UsageError(f"no {SUFFIX} file is in {argument}, nor in the folders below it")
    return found


def _below(folder: Path, leave_out: Path) -> list[Selected]:
    """Return the models in a folder and all below it, but those of an earlier batch."""
    found = []
    for where, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(
            each for each in folders if not _is_within(Path(where, each), leave_out)
        )
        paths = [Path(where, name) for name in sorted(files) if name.lower().endswith(SUFFIX)]
        found += [Selected(path, folder) for path in paths if not _is_within(path, leave_out)]
    return found


def _refuse(error: OSError) -> None:
    raise UsageError(in_words(error, done="read")) from error


def _is_within(path: Path, folder: Path) -> bool:
    """Return whether a path is a folder, or in it; the links of both count as what they lead to."""
    return Path(os.path.realpath(path.parent), path.name).is_relative_to(folder)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def distinct(models: Iterable[Selected]) -> list[Selected]:
    """Drop models that were named before; what a manifest asks of one counts.

    A model that is to go to several places is one for each.
    """
    found: dict[tuple[Path, str], Selected] = {}
    for model in models:
        plain = found.get((model.path, ""))
        if model.name:
            if plain is not None and not plain.options:
                del found[model.path, ""]
            found.setdefault((model.path, model.name), model)
        elif plain is None:
            if not any(path == model.path for path, _ in found):
                found[model.path, ""] = model
        elif not plain.options:
            found[model.path, ""] = model
    return list(found.values())


def name_all(models: Sequence[Selected]) -> list[str]:
    """Return where in the folder of the batch each model goes, as a path with slashes.

    The tree below the nearest folder that all are in is mirrored. No two share a file, their pages
    included, also where upper and lower case are one.

    Raises:
        UsageError: if a name that was asked for leads elsewhere, or is taken.
    """
    top = _common([model.root for model in models])
    mirrored = [PurePosixPath(model.name or "/".join(_steps(model.path, top))) for model in models]
    taken = {name.casefold() for name in INDEX_FILES}
    taken |= {str(folder).casefold() for path in mirrored for folder in path.parents}
    names: dict[int, str] = {}
    asked = [index for index, model in enumerate(models) if model.name]
    for index in asked:
        name = models[index].name
        require_within(name)
        _require_place(mirrored[index], models[index])
        if taken & _claims(name):
            raise UsageError(f"the name {name!r} is taken; give each model another")
        taken |= _claims(name)
        names[index] = name
    for index, model in enumerate(models):
        if index in names:
            continue
        path = mirrored[index]
        _require_place(path, model)
        name, number = str(path), 2
        while taken & _claims(name):
            name = str(path.with_name(f"{path.stem}-{number}{path.suffix}"))
            number += 1
        taken |= _claims(name)
        names[index] = name
    return [names[index] for index in range(len(models))]


def _require_place(name: PurePosixPath, model: Selected) -> None:
    """Require that a batch can write a model, and its pages, to this place in its folder."""
    advice = "give it another name in a manifest"
    if name.parts[0].casefold() == STAGE:
        raise UsageError(
            f"{model.path}: {STAGE} is where a batch has what is not finished; {advice}"
        )
    if max(len(os.fsencode(part)) for part in name.parts) > _LONGEST:
        raise UsageError(f"{model.path}: its name leaves no room for those of its pages; {advice}")


def pages_of(name: str) -> tuple[str, str]:
    """Return the paths of a model's page and record."""
    return f"{name}.html", f"{name}.json"


def _claims(name: str) -> set[str]:
    return {each.casefold() for each in (name, *pages_of(name))}


def require_within(name: str) -> None:
    """Require that a name is a path within a folder.

    Raises:
        UsageError: if it is not.
    """
    path = PurePosixPath(name)
    bad = path.is_absolute() or ".." in path.parts or not path.name or "\\" in name or "\0" in name
    if bad or PurePath(name).drive:
        raise UsageError(
            f"the name {name!r} leads out of the folder; give a relative path such as a/model.onnx"
        )


def _common(folders: Sequence[Path]) -> Path | None:
    """Return the nearest folder that all of these are in; None if they are on several drives."""
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:
        return None


def _steps(path: Path, top: Path | None) -> tuple[str, ...]:
    if top is not None:
        return path.relative_to(top).parts
    drive = "".join(letter for letter in path.drive if letter.isalnum())
    return (drive, *path.parts[1:])
