"""Measures the memory that a model takes, in a process of its own.

In a process that has run other models, their memory could not be told apart from this one's.
"""

from __future__ import annotations

from pathlib import Path

from bnfold.errors import BnfoldError, SessionError
from bnfold.progress import Progress, silent
from bnfold.running.runtime import Feeds, Level, Session, require_provider
from bnfold.running.workers import Worker

_STATUS = Path("/proc/self/status")


def peak_mb(
    model: Path, provider: str, level: Level, threads: int | None, feeds: Feeds
) -> float | None:
    """Return the peak memory that loading a model and one run add, in MB (10⁶ bytes).

    None if the system does not report it (only Linux does). Device memory is not counted.

    Raises:
        SessionError: if the model cannot be loaded or run.
    """
    if not _STATUS.exists():
        return None
    try:
        with Worker(silent, _Footprint) as worker:
            worker.ready()
            return worker.call(_Footprint.bytes_of, model, provider, level, threads, feeds) / 1e6
    except BnfoldError as error:
        raise SessionError(f"the memory of {model.name} could not be measured: {error}") from error


class _Footprint:
    """The memory of the process that it is in."""

    def __init__(self, _: Progress) -> None:
        require_provider("cpu")  # imports onnxruntime, whose own memory is not counted

    def bytes_of(
        self, model: Path, provider: str, level: Level, threads: int | None, feeds: Feeds
    ) -> int:
        """Return how much loading the model and running it add."""
        before = _status_bytes("VmRSS")
        Session(model, provider, level, threads, tf32=True).run(feeds)
        return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(key: str) -> int:
    """Return a memory figure of this process; `resource.getrusage` would include its parent's."""
    for line in _STATUS.read_text().splitlines():
        name, _, amount = line.partition(":")
        if name == key:
            return int(amount.split()[0]) * 1024
    raise KeyError(key)
