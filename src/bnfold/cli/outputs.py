"""The files that a command is asked to write: where they go, and whether they can."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold.cli.pipes import STREAM
from bnfold.errors import UsageError
from bnfold.report import SUFFIXES

if TYPE_CHECKING:
    from typing_extensions import Self

    from bnfold.atomic import AtomicFile
    from bnfold.record.data import Record

Named = tuple[str, Path]
"""A file, and what it is for in messages, such as "--report"."""


def output_file(model: Path, output: Path | None, given: str | None = None) -> Path:
    """Return where the optimized model goes: into a folder, under the name of the model.

    `given` is OUTPUT as it was typed: a path does not keep the slash at its end.

    Raises:
        UsageError: if the folder does not exist, or is the model's own; if it is a report by name.
    """
    if output is None:
        return model.with_name(f"{model.stem}.bnfold.onnx")
    is_folder = os.path.isdir(output)
    if is_folder and model.name == STREAM:
        raise UsageError(f"{output} is a folder: a model from standard input needs a name, too")
    if not is_folder and (given or "").endswith(("/", os.sep)):
        raise UsageError(f"{given}: this folder does not exist")
    if not is_folder and output.suffix.lower() in SUFFIXES:
        raise UsageError(
            f"OUTPUT is where the model goes, and {output} is the name of a report: that is "
            f"--report {output}; --json prints the record to standard output"
        )
    if not is_folder:
        return output
    place = output / model.name
    if _is_same(place, model):
        raise UsageError(
            f"{output} is the folder of the model; to replace the model, name it: {place}"
        )
    return place


def beside(output: Path, data_name: str | None, save_inputs: Path | None) -> list[Named]:
    """Return what else a run was asked to write: a data file, and a folder of inputs."""
    named = [("--external-data-name", output.parent / data_name)] if data_name else []
    return [*named, *([("--save-inputs", save_inputs)] if save_inputs is not None else [])]


def input_files(options: Iterable[str] | None, data: Path | None) -> list[Named]:
    """Return the files that inputs are read from: of ``--input NAME=FILE`` and ``--data``."""
    files = [(f"--input {option}", Path(option.rpartition("=")[2])) for option in options or ()]
    return [*files, *([("--data", data)] if data is not None else [])]


def with_data(models: Sequence[Named], reports: Iterable[Path] | None) -> list[Named]:
    """Return the files of models: if a report exists, their data as well, which it may replace."""
    if not any(os.path.exists(report) for report in reports or ()):
        return list(models)
    from bnfold.external_data import data_folders, locations_of

    data = [
        (f"the data of {what}", folder / location)
        for what, model in models
        for location in sorted(locations_of(model))
        for folder in data_folders(model)
        if "\0" not in location
    ]
    return [*models, *data]


def require_apart(outputs: Sequence[Named], inputs: Iterable[Named]) -> None:
    """Require that no output replaces an input or another output.

    Raises:
        UsageError: if one does.
    """
    others = list(inputs)
    for what, path in outputs:
        for other, place in others:
            if _is_same(path, place):
                raise UsageError(f"{what} {path} is the same file as {other}")
        others.append((what, path))


def _is_same(path: Path, other: Path) -> bool:
    """Return whether both paths lead to one file, whether it exists or not."""
    try:
        return os.path.samefile(path, other)
    except OSError:  # one is missing, or leads nowhere
        return os.path.realpath(path) == os.path.realpath(other)


class Reports:
    """The reports of a run; a context manager.

    Their temporary files are made at once, so that a report that cannot be written is known before
    the work starts. Those that are not written by the exit leave nothing behind.

    Raises:
        UsageError: if a suffix is unknown, a folder does not exist, a file cannot be written, or
            is one of those that the reports stay `apart_from`.
    """

    def __init__(
        self, paths: list[Path] | None, apart_from: Iterable[Named], option: str = "--report"
    ) -> None:
        self._paths = paths or []
        self._stack = ExitStack()
        self._files: list[tuple[AtomicFile, str]] = []
        for path in self._paths:
            if path.suffix.lower() not in SUFFIXES:
                raise UsageError(f"{option} {path}: unknown format, use {', '.join(SUFFIXES)}")
            # realpath, unlike resolve(), accepts a link to itself
            if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
                raise UsageError(f"{option} {path}: the folder does not exist")
        require_apart([(option, path) for path in self._paths], apart_from)

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._paths)

    def __enter__(self) -> Self:
        if self._paths:
            from bnfold.atomic import AtomicFile

            try:
                for path in self._paths:
                    file = AtomicFile(path)
                    self._stack.push(file)  # first: a signal may come while it is created
                    self._files.append((file.create(), path.suffix.lower()))
            except BaseException:
                self._stack.close()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, *records: Record, beside: Iterable[str] = ()) -> None:
        """Write the record to all of them, or several records on one page each.

        `beside` are the files that the run has written already.

        Raises:
            UsageError: if one cannot be written; it names those that are.
        """
        if self._files:
            from bnfold.report import render, render_runs
        written = list(beside)
        for path, (file, suffix) in zip(self._paths, self._files, strict=True):
            only = records[0] if len(records) == 1 else None
            text = render(only, suffix) if only else render_runs(records, suffix)
            try:
                file.write(text.encode())
                file.commit()
            except UsageError as error:
                there = f"; written before it: {', '.join(written)}" if written else ""
                raise UsageError(f"{error}{there}") from error
            written.append(str(path))
