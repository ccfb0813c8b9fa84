"""A real terminal: a pseudo-terminal of a given size, and what a person sees on it."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

pyte: Any
try:
    import pyte
except ImportError:
    pyte = None

SECONDS = 60.0


@dataclass
class Terminal:
    """A terminal that work runs on, in a fork of this process.

    What is written is shown on a wider screen, so that a line that does not fit is seen to.
    """

    work: Callable[[], object]
    columns: int = 80
    sent: bytes = b""
    code: int | None = None
    _screen: Any = field(default_factory=lambda: pyte.Screen(300, 400))

    def __post_init__(self) -> None:
        self._stream = pyte.ByteStream(self._screen)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
            self.process, self._master = pty.fork()
        if self.process == 0:
            self._serve()
        self.resize(self.columns)

    def _serve(self) -> None:
        """Do the work, in the fork, once the terminal has its size."""
        code = 99
        try:
            for name in ("COLUMNS", "LINES", "NO_COLOR", "TTY_COMPATIBLE"):
                os.environ.pop(name, None)
            os.environ["TERM"] = "xterm-256color"
            while os.get_terminal_size(0).columns == 0:
                time.sleep(0.01)
            sys.stdin, sys.stdout, sys.stderr = (
                os.fdopen(number, mode, encoding="utf-8") for number, mode in enumerate("rww")
            )
            self.work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def resize(self, columns: int) -> None:
        """Give the terminal another width, of which its processes are told."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait_for(self, text: str) -> None:
        """Wait until a text has been shown."""
        self._read(lambda: text in self.sent.decode(errors="replace"))
        assert text in self.sent.decode(errors="replace"), self.sent

    def finish(self) -> int:
        """Wait until the work has ended; return its exit code."""
        self._read(lambda: False)
        os.close(self._master)
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        return self.code

    def _read(self, is_enough: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while not is_enough() and time.monotonic() < end:
            if not select.select([self._master], [], [], 0.1)[0]:
                continue
            try:
                piece = os.read(self._master, 1 << 16)
            except OSError as error:
                if error.errno != errno.EIO:  # the other side is closed
                    raise
                return
            if not piece:
                return
            self.sent += piece
            self._stream.feed(piece)

    @property
    def lines(self) -> list[str]:
        """The lines that are on the screen, without blank ones."""
        return [line.rstrip() for line in self._screen.display if line.strip()]

    @property
    def shows_cursor(self) -> bool:
        return not self._screen.cursor.hidden
