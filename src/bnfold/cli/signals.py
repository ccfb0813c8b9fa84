"""Signals that end the command: exit code 128 + number, whatever becomes of the exception.

A handler can only raise an exception, wherever the program is, and a library may catch it or make
another of it: onnxruntime, while it is imported, an ImportError. So the signal is remembered.
"""

from __future__ import annotations

import signal
from types import FrameType

from bnfold.errors import Interrupted

_ENDING = ("SIGINT", "SIGTERM", "SIGHUP")
"""SIGHUP: the terminal was closed; not on Windows."""

_received: list[int] = []


def handle_signals() -> None:
    """Let each signal clean up and end the program, unless it is ignored, as nohup asks."""
    _received.clear()
    for name in _ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> None:
    _received.append(number)
    raise Interrupted(128 + number)


def received() -> int | None:
    """Return the number of the first signal that came, if any."""
    return _received[0] if _received else None


def require_none() -> None:
    """End the program if a signal came, and its exception was caught."""
    if _received:
        raise Interrupted(128 + _received[0])
