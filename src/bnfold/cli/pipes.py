"""Models from standard input and to standard output: `-` in place of a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

from bnfold.cli.streams import QuietStream
from bnfold.errors import BnfoldError, ModelError, UsageError, in_words
from bnfold.scratch import Scratch

if TYPE_CHECKING:
    from typing_extensions import Self

    from bnfold.record.data import Record

STREAM = "-"


def _blocks_of_input() -> Iterator[bytes]:
    try:
        while block := sys.stdin.buffer.read(1 << 20):
            yield block
    except OSError as error:
        raise UsageError(in_words(error, "standard input", "read")) from error


class Pipes:
    """The streams that a command reads a model from, or writes one to; a context manager.

    Meanwhile the models are files in a folder that goes away. Messages and records name the
    streams.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._scratch = Scratch()
        self._names: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._stack.enter_context(self._scratch)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        if isinstance(error, BnfoldError):
            error.reword(
                partial(self._with_names, is_of_system=isinstance(error.__cause__, OSError))
            )

    def _with_names(self, message: str, *, is_of_system: bool) -> str:
        """Return a message that names the streams, and the folder if the system refuses it."""
        for place, name in self._names.items():
            if place in message and is_of_system:
                folder = self._scratch.place().parent
                message += f"; it waits in {folder}: set TMPDIR to another folder"
            message = message.replace(place, name)
        return message

    def _place(self, name: str, stream: str) -> Path:
        """Return a new place in the folder, to be called by the name of a stream."""
        place = self._scratch.folder / name
        self._names |= {os.path.realpath(place): stream, str(place): stream}
        return place

    def incoming(self, path: Path) -> Path:
        """Return the path, or of `-` a file with what standard input holds.

        Raises:
            UsageError: if it cannot be read, or was read already.
            ModelError: if it holds nothing.
        """
        if str(path) != STREAM:
            return path
        if "standard input" in self._names.values():
            raise UsageError("standard input is named twice")
        if sys.stdin is None or sys.stdin.closed:
            raise UsageError("standard input is closed")
        if sys.stdin.isatty():
            raise UsageError("standard input is a terminal: pipe a file into it")
        place = self._place("stdin", "standard input")
        try:
            with place.open("wb") as file:
                for block in _blocks_of_input():
                    file.write(block)
        except OSError as error:
            raise UsageError(in_words(error, place, "kept")) from error
        if not place.stat().st_size:
            raise ModelError("standard input is empty")
        return place

    def outgoing(self) -> Path:
        """Return a file for a model that `send` copies to standard output.

        Raises:
            UsageError: if that is a terminal.
        """
        if sys.stdout.isatty():
            raise UsageError("standard output is a terminal: redirect it, or name OUTPUT")
        return self._place("stdout.onnx", "standard output")

    def send(self, place: Path) -> bool:
        """Copy a file to standard output, and return whether it arrived."""
        out = cast(QuietStream, sys.stdout)
        with place.open("rb") as file:
            out.copy(file)
        return out.failure is None

    def shown(self, path: str | None) -> str | None:
        """Return a path as it was given: that of a stream is `-`."""
        return STREAM if path in self._names else path

    def named(self, record: Record) -> Record:
        """Return the record with the paths as they were given."""
        model, candidate, output = record.model, record.candidate, record.output
        return replace(
            record,
            model=replace(model, path=self.shown(model.path)),
            candidate=candidate and replace(candidate, path=self.shown(candidate.path)),
            output=output and replace(output, path=self.shown(output.path)),
        )
