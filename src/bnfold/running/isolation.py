"""Runs work in a process of its own, so that a crash of a library takes nothing with it.

onnxruntime is native code, and a file from elsewhere may crash it. The work runs in a fork, which
takes milliseconds, and sends its result back. Where there is no fork, it runs where it is.

A fork lacks the other threads of its parent, and a lock that one of them held stays locked. So a
fork that stands still (no progress, no processor time) is ended, and the work is done here.
For the same reason it collects no garbage of its parent's.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bnfold.errors import BnfoldError
from bnfold.progress import Progress
from bnfold.running.allocator import keep_freed_memory
from bnfold.running.messages import Answer, Doing, NoAnswerError, answer, read, result, write

if TYPE_CHECKING:
    from typing_extensions import Self

_CAN_FORK = sys.platform == "linux"
"""macOS has fork, too, but its own libraries do not survive it."""

STALLED_SECONDS = 60.0
"""A fork that has used no processor time for so long waits for a lock that nobody will release."""

_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if _CAN_FORK]
"""Blocked around the fork: their handlers belong to this process, and must not run in the other."""

_NO_ANSWER = 75
"""The exit status of a fork that cannot write to its pipe: no crash, and no verdict."""

_PR_SET_PDEATHSIG = 1
"""The number of Linux's option (prctl(2))."""

_Result = TypeVar("_Result")


class CrashedError(BnfoldError):
    """The process ended without a result. `during` is the last progress that it reported."""

    exit_code = 5

    def __init__(self, how: str, during: str) -> None:
        self.is_killed = how == "SIGKILL"
        cause = "was killed, probably for lack of memory," if self.is_killed else f"crashed ({how})"
        super().__init__(f"onnxruntime {cause} while {during}")
        self.during = during


class _NoForkError(Exception):
    """The system lets this process make no other, or no pipe, or not write to it."""


class _StalledError(Exception):
    """The process stands still."""


@dataclass(frozen=True)
class Limits:
    """What a process may use; one that uses more crashes, and shows nothing of it."""

    seconds: int
    """Of processor time."""
    more_bytes: int
    """Of memory, beyond what its parent uses."""

    def apply(self) -> None:
        """Limit this process."""
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + self.more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (self.seconds, self.seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


_forked: list[int] = []


def is_forked() -> bool:
    """Return whether this process is one that `isolated` has made."""
    return bool(_forked)


def isolated(
    work: Callable[[Progress], _Result], progress: Progress, limits: Limits | None = None
) -> _Result:
    """Return what `work` returns, given a function to report its progress with.

    Raises:
        CrashedError: if the process dies.
        Exception: whatever `work` raises.
    """
    with Forked(work, limits) as forked:
        return forked.result(progress)


class Forked(Generic[_Result]):
    """Work that has begun in a process of its own, while this one goes on.

    It ends with the context, whether its result was asked for or not.
    """

    def __init__(self, work: Callable[[Progress], _Result], limits: Limits | None = None) -> None:
        self._work = work
        self._child = self._receiving = -1
        try:
            if _CAN_FORK:
                self._begin(limits)
        except _NoForkError:
            pass
        except BaseException:  # an interrupt that has waited for the fork
            self.abandon()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def result(self, progress: Progress) -> _Result:
        """Return what the work returns; to be asked for once.

        Raises:
            CrashedError: if the process dies.
            Exception: whatever the work raises.
        """
        if self._child < 0:
            return self._work(progress)
        doing = Doing(progress)
        try:
            found: _Result = result(read(partial(_next_piece, self._receiving, self._child)), doing)
        except NoAnswerError:
            status = self._end()
        except _StalledError:
            self.abandon()
            return self._work(progress)
        else:
            self._end()
            return found
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == _NO_ANSWER:
            return self._work(progress)
        raise CrashedError(how_ended(os.waitstatus_to_exitcode(status)), doing.last)

    def _begin(self, limits: Limits | None) -> None:
        try:
            receiving, sending = os.pipe()
        except OSError as refused:
            raise _NoForkError from refused
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        child, parent = -1, os.getpid()
        try:
            child = _fork()
            if child == 0:
                os.close(receiving)
                _serve(self._work, sending, limits, before, parent)
            self._child, self._receiving = child, receiving
            _widen(receiving)
        finally:
            os.close(sending)
            if child < 0:
                os.close(receiving)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def abandon(self) -> None:
        """End the process, if it has not ended."""
        if self._child > 0:
            _kill(self._child)
            self._end()

    def _end(self) -> int:
        """Wait for the process, and return its exit status."""
        child, self._child = self._child, -1
        status = os.waitpid(child, 0)[1]
        os.close(self._receiving)
        return status


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of threads; see the module's docstring
        collects = gc.isenabled()
        gc.disable()
        try:
            child = os.fork()
            if child == 0:
                # a session of the parent, if collected here, would wait for threads that it lacks
                gc.freeze()
            return child
        except OSError as error:
            raise _NoForkError from error
        finally:
            if collects:
                gc.enable()


# --- In the fork ----------------------------------------------------------------------------------


def _serve(
    work: Callable[[Progress], Any],
    sending: int,
    limits: Limits | None,
    signals: Iterable[int],
    parent: int,
) -> None:
    """Do the work, answer, and end the process; `signals` stay blocked."""
    try:
        _end_with(parent)
        _forked.append(os.getpid())
        keep_freed_memory()
        if limits is not None:
            limits.apply()
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL)  # the other process cleans up
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        _send(sending, answer(lambda: work(lambda doing: _send(sending, ("progress", doing)))))
    finally:
        os._exit(0)


def _end_with(parent: int) -> None:
    """Let the system kill this process when the thread that has made it ends, as it waits for it.

    Where that process is killed itself, nobody else would end this one, which may run for ever.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before
        os._exit(_NO_ANSWER)


def _send(sending: int, message: Answer) -> None:
    try:
        write(sending, message)
    except OSError:
        os._exit(_NO_ANSWER)


# --- In its parent --------------------------------------------------------------------------------


def _widen(receiving: int) -> None:
    """Let what is not read yet fill a megabyte, so that the fork need not wait for its reader."""
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.fcntl(receiving, fcntl.F_SETPIPE_SZ, 1 << 20)


def _next_piece(receiving: int, child: int) -> bytes:
    """Return what the fork has sent, or nothing once it has ended.

    Raises:
        _StalledError: if it stands still.
    """
    _wait(receiving, child)
    return os.read(receiving, 1 << 20)


def _wait(receiving: int, child: int) -> None:
    """Wait until there is something to read."""
    pipe = select.poll()  # select knows no descriptors from 1024 on, which the host may have
    pipe.register(receiving, select.POLLIN)
    if pipe.poll(1000):  # mostly: what it has used need not be read then
        return
    used, since = _processor_ticks(child), time.monotonic()
    while not pipe.poll(1000):
        now = _processor_ticks(child)
        if now != used:
            used, since = now, time.monotonic()
        elif time.monotonic() - since > STALLED_SECONDS:
            raise _StalledError


def _processor_ticks(child: int) -> str:
    """Return the processor time that the process has used, user and system, as the system tells."""
    try:
        text = Path(f"/proc/{child}/stat").read_text()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return " ".join(fields[11:13])


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def how_ended(code: int) -> str:
    """Describe the end of a process by its exit status, which is negative for a signal.

    Raises:
        KeyboardInterrupt: if it was interrupted: Ctrl-C reaches all processes.
    """
    if code == -signal.SIGINT:
        raise KeyboardInterrupt
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"
