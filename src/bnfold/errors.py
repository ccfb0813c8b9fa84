"""Failures that a user can act on: one line of text and one exit code each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from bnfold.text import legible

if TYPE_CHECKING:
    from bnfold.record.data import Record


INTERNAL_ERROR = 70
"""EX_SOFTWARE of sysexits.h: a bug in bnfold, or out of memory."""


_PARAMETER = re.compile("\0([^\0]+)\0")

_OPTIONS = {
    "check=False": "no-check",
    "name": "external-data-name",
    "seconds": "bench-seconds",
    "threshold": "external-data-threshold",
}
"""The options that are not called like the parameter that they are in Python."""


def parameter(name: str) -> str:
    """Return a parameter for a message: on the command line, it names the option instead."""
    return f"\0{name}\0"


def _option(found: re.Match[str]) -> str:
    return f"--{_OPTIONS.get(found[1], found[1].replace('_', '-'))}"


class BnfoldError(Exception):
    """A failure with a one-line message; the command exits with its `exit_code`.

    `on_command_line` is the message with options in place of parameters.
    """

    exit_code = 2

    def __init__(self, message: str, record: Record | None = None) -> None:
        text = " ".join(message.split())
        super().__init__(_PARAMETER.sub(r"\1", text))
        self.on_command_line = _PARAMETER.sub(_option, text)
        self.record = record

    def reword(self, change: Callable[[str], str]) -> None:
        """Change the message, for Python and for the command line."""
        self.args = (change(str(self)),)
        self.on_command_line = change(self.on_command_line)


def require_text(path: str | os.PathLike[str], kind: type[BnfoldError]) -> None:
    """Require that a path is UTF-8: onnx and onnxruntime open no others.

    Raises:
        BnfoldError: of this kind, if it is not.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        raise kind(
            f"{os.fspath(path)!a} is not UTF-8, and onnx and onnxruntime cannot open it; rename it"
        ) from error


def in_words(error: OSError, place: str | os.PathLike[str] | None = None, done: str = "") -> str:
    """Return what could not be done, where and why, in one line.

    `place` is the file, if the error does not know it; `done` is what it could not be, such as
    "written".
    """
    cause = error.strerror or str(error) or type(error).__name__
    where = place if place is not None else error.filename
    if where is None:
        return f"the system refused: {cause}"
    text = os.fsdecode(where) if isinstance(where, str | bytes | os.PathLike) else str(where)
    return f"{text} cannot be {done or 'used'}: {cause}"


LONGEST_LINE = 1000
"""Characters of the longest message that is shown: names in a model may be of any length."""


def error_line(message: str) -> str:
    """Return the message for a terminal: one line of sane length that the terminal only shows."""
    words = legible(" ".join(message.split()))
    if len(words) <= LONGEST_LINE:
        return words
    start, end = LONGEST_LINE * 2 // 3, LONGEST_LINE // 3  # the end says what to do about it
    return f"{words[:start]} … {words[-end:]}"


class Interrupted(SystemExit):
    """A signal ends the program. It passes all guards against code that exits."""


class UsageError(BnfoldError):
    """The request is invalid, such as an unknown pass or an output that cannot be written."""

    exit_code = 2


class ModelError(BnfoldError):
    """The model cannot be read, is invalid, or contains anything bnfold does not support."""

    exit_code = 3


class ProviderError(BnfoldError):
    """A requested execution provider is not available; the message says why."""

    exit_code = 4


class NotEquivalentError(BnfoldError):
    """The optimized model computes other values. Nothing was written."""

    exit_code = 1


class SessionError(BnfoldError):
    """onnxruntime cannot load or run the model."""

    exit_code = 5


class LoadError(SessionError):
    """onnxruntime cannot load the model."""


class TooSlowError(BnfoldError):
    """The optimized model misses the required speed-up. Nothing was written."""

    exit_code = 6


class PassFailedError(BnfoldError):
    """A bug in a pass: it raised anything but a refusal, or did not terminate."""

    exit_code = INTERNAL_ERROR


class NotVerifiedError(BnfoldError):
    """Equivalence could be neither confirmed nor refuted. Nothing was written."""

    exit_code = 5
