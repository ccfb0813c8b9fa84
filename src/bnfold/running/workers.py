"""Processes that start anew, for measurements that depend on how a process lies in memory.

A fork has the addresses of its parent (see `isolation`), and so has one of a server of forks. These
have an interpreter of their own: the system places their stack, heap and libraries at random again,
and nothing is left over from other work. They start with the module search path of this process,
and not with the current folder first, where anything may lie.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from bnfold.errors import BnfoldError, SessionError
from bnfold.progress import Progress
from bnfold.running.isolation import CrashedError, how_ended
from bnfold.running.libraries import register, registered
from bnfold.running.messages import Doing, NoAnswerError, read, result, write

if TYPE_CHECKING:
    from typing_extensions import Self

_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1:]; from bnfold.running.serving import serve; serve()"
)

_SECONDS_TO_END = 5.0
"""How long a process that has closed its pipe may take to end."""

_Hosted = TypeVar("_Hosted")
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _hosted(
    progress: Progress,
    libraries: tuple[str, ...],
    kind: Callable[..., _Hosted],
    *arguments: object,
) -> _Hosted:
    """Make the object, in a process that knows the custom operators that this one knows."""
    register(libraries)
    return kind(progress, *arguments)


class Worker(Generic[_Hosted]):
    """An object in a process of its own; a context manager, whose exit ends the process.

    There, `kind` is called with a function to report progress with, and the arguments. Making a
    worker does not wait for that, so that several can start at once: `ready` does.

    Raises:
        SessionError: if no process can be started.
    """

    def __init__(
        self,
        progress: Progress,
        kind: Callable[Concatenate[Progress, _Arguments], _Hosted],
        *arguments: _Arguments.args,
        **_: _Arguments.kwargs,
    ) -> None:
        if not sys.executable or getattr(sys, "frozen", False):  # it would start this program again
            raise SessionError("no process can be started: there is no Python interpreter to run")
        self._doing = Doing(progress)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *map(str, sys.path)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise SessionError(f"no process can be started: {error.strerror or error}") from error
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None and stdout is not None and stderr is not None  # noqa: PT018
        self._pipes = stdin, stdout, stderr
        self._messages = read(lambda: os.read(stdout.fileno(), 1 << 20))
        self._is_ready = False
        try:
            self._send(_hosted, (registered(), kind, *arguments))
        except BaseException:  # a signal
            self.end()
            raise

    def ready(self) -> None:
        """Wait until the object is made.

        Raises:
            SessionError: if Python does not start.
            CrashedError: if the process dies.
            Exception: whatever making it raises.
        """
        self._answer()
        self._is_ready = True

    def call(
        self,
        method: Callable[Concatenate[_Hosted, _Arguments], _Result],
        *arguments: _Arguments.args,
        **_: _Arguments.kwargs,
    ) -> _Result:
        """Return what a method of the object returns.

        Raises:
            CrashedError: if the process dies.
            Exception: whatever the method raises.
        """
        self._send(method, arguments)
        returned: _Result = self._answer()
        return returned

    def _send(self, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has died: there will be no answer
            write(self._pipes[0].fileno(), (function, arguments))

    def _answer(self) -> Any:
        try:
            return result(self._messages, self._doing)
        except NoAnswerError:
            raise self._end_in_words() from None

    def _end_in_words(self) -> BnfoldError:
        """Return why the process has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS_TO_END)
        code = self._process.poll()
        if code is not None and code > 0 and not self._is_ready:
            lines = self._pipes[2].read().decode(errors="replace").split("\n")
            last = next(filter(None, map(str.strip, reversed(lines))), f"exit status {code}")
            return SessionError(f"a process for it does not start: {last}")
        return CrashedError(how_ended(code) if code is not None else "no answer", self._doing.last)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end()
        except BaseException:  # another signal
            self.end()
            raise

    def end(self) -> None:
        """End the process, if it has not ended."""
        self._process.kill()
        self._process.wait()
        for pipe in self._pipes:
            pipe.close()
