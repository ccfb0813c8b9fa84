"""Measures the memory that a model takes, in a separate process.

In a process that has run other models, their memory could not be told apart from this one's.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

from bnfold.errors import SessionError
from bnfold.running.libraries import custom_operators, registered
from bnfold.running.runtime import Feeds, Level, Session, require_provider

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
    done = subprocess.run(
        [sys.executable, "-c", "from bnfold.speed.footprint import _measure; _measure()"],
        input=pickle.dumps((model, provider, level, threads, dict(feeds), registered())),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise SessionError(f"the memory of {model.name} could not be measured: {' '.join(last)}")
    return float(done.stdout) / 1e6


def _measure() -> None:
    """Print the bytes. The model and its feeds come pickled on stdin, from `peak_mb`."""
    require_provider("cpu")  # imports onnxruntime, whose own memory is not counted
    model, provider, level, threads, feeds, libraries = pickle.load(sys.stdin.buffer)
    before = _status_bytes("VmRSS")
    with custom_operators(libraries):
        Session(model, provider, level, threads, tf32=True).run(feeds)
    print(max(0, _status_bytes("VmHWM") - before))


def _status_bytes(key: str) -> int:
    """Return a memory figure of this process; `resource.getrusage` would include its parent's."""
    for line in _STATUS.read_text().splitlines():
        name, _, amount = line.partition(":")
        if name == key:
            return int(amount.split()[0]) * 1024
    raise KeyError(key)
