"""What tests let other processes hold, and whether these still run. It imports little."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from bnfold.arrays import Array
from bnfold.errors import UsageError
from bnfold.progress import Progress
from bnfold.running.runtime import Feeds
from bnfold.speed.blocks import Block, Case, Loaded


class Hosted:
    """What the other process holds."""

    def __init__(self, progress: Progress, start: int) -> None:
        print("what libraries print is no answer", flush=True)
        progress("making it")
        self._progress, self._number = progress, start
        if start < 0:
            raise UsageError(f"{start} is negative")

    def add(self, numbers: Array) -> int:
        self._progress(f"adding {len(numbers)}")
        self._number += int(numbers.sum())
        return self._number

    def process(self) -> int:
        for descriptor in (1, 2):
            os.write(descriptor, b"x" * 200_000)  # which nobody reads
        return os.getpid()

    def found(self) -> tuple[list[str], bool]:
        return sys.path, "multiprocessing" in sys.modules

    def fail(self) -> None:
        raise UsageError("no way")

    def crash(self) -> None:
        self._progress("running it")
        ctypes.string_at(0)

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def sleep(self) -> None:
        self._progress("asleep")
        time.sleep(60)


class CrashingBlock(Block):
    """A block whose model crashes onnxruntime."""

    def load(self, case: Case, number: int, feeds: Feeds | None) -> Loaded:
        self._progress("loading it")
        ctypes.string_at(0)
        return super().load(case, number, feeds)


def is_running(process: int) -> bool:
    """Return whether it is there, and no zombie: whoever adopts it may be slow."""
    try:
        os.kill(process, 0)
        stat = Path(f"/proc/{process}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
