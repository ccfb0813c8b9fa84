"""How a run ends: one line on standard error for what went wrong, and an exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable

import typer
from typer.exceptions import TyperException

from bnfold.cli.signals import received
from bnfold.errors import INTERNAL_ERROR, BnfoldError, UsageError, error_line, in_words


class Warnings(logging.Handler):
    """Shows each warning once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._shown:
            self._shown.add(message)
            say(message)


def run(command: Callable[[], int | None]) -> int:
    """Run a command, say how it failed in a line on standard error, and return the exit code."""
    try:
        return command() or 0
    except BaseException as error:
        if os.environ.get("BNFOLD_DEBUG"):
            raise
        message, exit_code = _told(error)
        if message:
            say(message)
        return exit_code


def _of_usage(error: TyperException) -> str:
    """Return what is wrong with a command line, and what may have been meant."""
    wrong = error.format_message().rstrip(".")
    if "unexpected extra argument" in wrong and "--json" in sys.argv:
        return f"{wrong}; --json takes no file: --report FILE.json writes the record"
    return f"{wrong}; see --help"


def _told(error: BaseException) -> tuple[str, int]:
    """Return what to say of the end of a run, and the exit code."""
    number = received()
    if number is not None:  # whatever a library has made of it
        return f"ended by {signal.Signals(number).name}", 128 + number
    if isinstance(error, BnfoldError):
        return error.on_command_line, error.exit_code
    if isinstance(error, TyperException):
        return _of_usage(error), UsageError.exit_code
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return "interrupted", 128 + signal.SIGINT
    if isinstance(error, OSError):
        return in_words(error), UsageError.exit_code
    if isinstance(error, ImportError):
        return f"a module cannot be imported: {error}; reinstall bnfold", UsageError.exit_code
    if isinstance(error, MemoryError):
        return "out of memory", INTERNAL_ERROR
    if isinstance(error, SystemExit):
        return "", error.code if isinstance(error.code, int) else INTERNAL_ERROR
    return (
        f"unexpected {type(error).__name__}: {error}; please report it with the traceback that "
        "BNFOLD_DEBUG=1 shows",
        INTERNAL_ERROR,
    )


def say(message: str) -> None:
    """Print a line on standard error."""
    print(f"bnfold: {error_line(message)}", file=sys.stderr)
