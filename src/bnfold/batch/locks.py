"""A lock that all processes of a machine share, so that nothing is timed beside another timing."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator

_EVERYWHERE = "/tmp"
"""Where TMPDIR differs, the lock must not."""


@contextlib.contextmanager
def timing_lock() -> Iterator[None]:
    """Wait until no other process of this machine times anything, and keep it so."""
    folder = _EVERYWHERE if os.path.isdir(_EVERYWHERE) else tempfile.gettempdir()
    descriptor = _open(os.path.join(folder, "bnfold-timing.lock"))
    try:
        _lock(descriptor)  # the system releases it with the descriptor, even of a process that dies
        yield
    finally:
        os.close(descriptor)


def _open(place: str) -> int:
    """Open the lock of all users; make it if it is not there."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    with contextlib.suppress(FileNotFoundError):
        return os.open(place, flags)
    descriptor = os.open(place, flags | os.O_CREAT, 0o666)
    with contextlib.suppress(OSError, AttributeError):  # of another user, or there is no such call
        os.fchmod(descriptor, 0o666)
    return descriptor


@contextlib.contextmanager
def lock_alone(place: str | os.PathLike[str]) -> Iterator[bool]:
    """Lock a file, unless it is locked already; the system says which.

    A file system without locks counts as free.
    """
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        yield _is_lockable(descriptor)
    finally:
        os.close(descriptor)


def _is_lockable(descriptor: int) -> bool:
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _lock(descriptor: int) -> None:
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return
    import msvcrt

    while True:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
        except OSError:  # it gives up after ten seconds
            time.sleep(0.1)
        else:
            return
