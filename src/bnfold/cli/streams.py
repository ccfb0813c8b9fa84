"""Standard output and error that may be closed, full, or a pipe whose reader has gone.

A stream that fails falls silent, and the command goes on: what is printed is never worth more than
the work. But where nothing else holds what was printed, it is the work, and a script that reads it
must not be told that all is well.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from typing import IO, Any, TextIO, cast

from bnfold.errors import in_words


class QuietStream:
    """A text stream that falls silent when it cannot be written to. `failure` says why."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.failure: OSError | ValueError | None = None
        self.is_spare = False
        """Whether a file holds what is printed, or what it is about."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        with self._falling_silent():
            if self._stream is None:
                raise OSError("it is closed")
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def copy(self, file: IO[bytes]) -> None:
        """Pass on the content of a file."""
        with self._falling_silent():
            if self._stream is None:
                raise OSError("it is closed")
            shutil.copyfileobj(file, cast(TextIOWrapper, self._stream).buffer, 1 << 20)
            self._stream.flush()

    def flush(self) -> None:
        """Pass on what is buffered, or drop it."""
        with self._falling_silent():
            if self._stream is not None:
                self._stream.flush()

    @contextlib.contextmanager
    def _falling_silent(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as failure:  # ValueError: it is closed
            if self.failure is None:
                self.failure = failure
                self._drain()

    def _drain(self) -> None:
        """Let what is still buffered go nowhere, also when the interpreter flushes at its end."""
        if self._stream is None:
            return
        with contextlib.suppress(OSError, ValueError):
            descriptor = self._stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)

    @property
    def complaint(self) -> str:
        """What to tell about the failure, if anything: that a reader stops early is no failure."""
        if self.failure is None or isinstance(self.failure, BrokenPipeError):
            return ""
        failure = self.failure if isinstance(self.failure, OSError) else OSError("it is closed")
        return in_words(failure, "standard output", "written")


def spare_output() -> None:
    """Let what is printed be dispensable: a file holds it, or what it is about."""
    if isinstance(sys.stdout, QuietStream):
        sys.stdout.is_spare = True


@contextlib.contextmanager
def quiet_streams() -> Iterator[QuietStream]:
    """Replace both streams, and yield standard output.

    Descriptors that are closed lead nowhere from now on: the first file to be opened would get
    their number, and with it whatever a library prints.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, TextIOWrapper):
            with contextlib.suppress(ValueError):  # it is closed
                stream.reconfigure(errors="replace")  # for terminals without Unicode
    out, err = QuietStream(before[0]), QuietStream(before[1])
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
