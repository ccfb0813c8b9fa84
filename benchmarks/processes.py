"""Runs a command in its own process, and measures its cost: seconds and memory.

Linux counts the peak memory of the parent for a new process. So this file is its own launcher: a
small Python process without any library starts the command, and waits for it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


class CommandError(Exception):
    """A command failed or timed out. The message has the last line that it wrote."""


@dataclass(frozen=True)
class Cost:
    """Wall time, CPU time and peak memory of a process and its children."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def run_alone(
    command: Sequence[str], *, timeout: float, variables: Mapping[str, str] | None = None
) -> Cost:
    """Run a command to its end in the root of the repository, with these environment variables.

    Raises:
        CommandError: if it fails, or runs for longer than `timeout` seconds.
    """
    launcher = [sys.executable, "-I", "-S", __file__, *command]
    process = subprocess.Popen(
        launcher,
        cwd=ROOT,
        env={**os.environ, **(variables or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException as error:  # an interrupt must not leave the command running, either
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise CommandError(f"timed out after {timeout:.0f} s") from error
        raise
    last_line = next((line for line in reversed(err.splitlines()) if line.strip()), "")
    if process.returncode:
        raise CommandError(last_line)
    cost = json.loads(out)
    if cost["status"]:
        raise CommandError(_how_it_ended(cost["status"], last_line))
    return Cost(cost["seconds"], cost["cpu_seconds"], cost["peak_mb"])


def _how_it_ended(status: int, last_line: str) -> str:
    how = f"signal {-status}" if status < 0 else f"exit code {status}"
    return f"{how}: {last_line[:200]}" if last_line else how


def _launch(command: list[str]) -> None:
    """Run the command with its output on stderr, and print its cost as JSON."""
    start = time.perf_counter()
    process = os.posix_spawnp(
        command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)]
    )
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    cost = {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * unit / 1e6,
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    _launch(sys.argv[1:])
