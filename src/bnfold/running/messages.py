"""What a process tells the one that it works for: progress, and at last a result or an error."""

from __future__ import annotations

import os
import pickle
import struct
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from bnfold.progress import Progress

LENGTH = struct.Struct("<Q")
"""How many bytes a message has, before each."""

Answer: TypeAlias = tuple[str, Any]
"""A kind and its content: "progress", "result" or "error"."""


class NoAnswerError(Exception):
    """The messages end without a result or an error."""


class _Remote(Exception):  # noqa: N818 - carries a traceback, as multiprocessing does
    """Shows, as the cause of an exception, where it was raised in the other process."""


class Doing:
    """Passes progress on, and remembers the last."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.last = "starting"

    def __call__(self, doing: str) -> None:
        """Begin a step."""
        self.last = doing
        self._progress(doing)


def write(descriptor: int, message: object) -> None:
    """Write a message.

    Raises:
        OSError: if nobody reads it any more.
    """
    content = pickle.dumps(message)
    left = memoryview(LENGTH.pack(len(content)) + content)
    while left:
        left = left[os.write(descriptor, left) :]


def read(next_piece: Callable[[], bytes]) -> Iterator[bytes]:
    """Yield each message, still pickled, until there is no next piece."""
    buffer = bytearray()
    while piece := next_piece():
        buffer += piece
        while len(buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(buffer)
            end = LENGTH.size + length
            if len(buffer) < end:
                break
            yield bytes(buffer[LENGTH.size : end])
            del buffer[:end]


def answer(work: Callable[[], Any]) -> Answer:
    """Do the work, and return its result or error."""
    try:
        return "result", work()
    except BaseException as error:
        where = traceback.format_exc()
        return "error", (_picklable(error), where)


def _picklable(error: BaseException) -> BaseException:
    """Return the error without its causes, which tblib pickles, too; or what stands for it."""
    error.__cause__ = error.__context__ = error.__traceback__ = None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def result(messages: Iterable[bytes], progress: Progress) -> Any:
    """Return the result, after all progress before it.

    Raises:
        NoAnswerError: if there is none.
        Exception: what the other process raised.
    """
    for message in messages:
        kind, content = pickle.loads(message)
        if kind == "progress":
            progress(content)
        elif kind == "result":
            return content
        else:
            error, where = content
            raise error from _Remote(f"\n{where}")
    raise NoAnswerError
