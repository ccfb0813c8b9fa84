"""Processes that start anew: what comes back, where they look for modules, and how they end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from bnfold.errors import SessionError, UsageError
from bnfold.progress import silent
from bnfold.running.isolation import CrashedError
from bnfold.running.workers import Worker
from tests.support.hosted import Hosted, is_running

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """After each test no child of its own is left, running or as a zombie, and no open file."""
    before = descriptors(), children()
    yield
    assert (descriptors(), children()) == before


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd")) if sys.platform == "linux" else []


def children() -> set[str]:
    """Return the processes of which this one is the parent."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):  # it has ended
            parents[status.parent.name] = re.search(r"PPid:\s*(\d+)", status.read_text())
    return {name for name, found in parents.items() if found and int(found[1]) == os.getpid()}


def test_an_object_lives_in_another_process() -> None:
    told: list[str] = []
    with Worker(told.append, Hosted, 5) as worker:
        worker.ready()
        assert told == ["making it"]
        assert worker.call(Hosted.add, np.arange(4)) == 11
        assert worker.call(Hosted.add, np.ones(500_000, np.int64)) == 500_011
        assert told[1:] == ["adding 4", "adding 500000"]
        process = worker.call(Hosted.process)
        assert process not in (os.getpid(), os.getppid())
        with pytest.raises(UsageError, match="no way") as caught:
            worker.call(Hosted.fail)
        assert "in fail" in str(caught.value.__cause__)
        assert worker.call(Hosted.process) == process
        path, has_more = worker.call(Hosted.found)
        assert path == sys.path
        assert not has_more
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_an_error_while_it_is_made_comes_back() -> None:
    with Worker(silent, Hosted, -1) as worker, pytest.raises(UsageError, match="-1 is negative"):
        worker.ready()


def test_a_crash_names_the_signal_and_the_last_progress() -> None:
    with Worker(silent, Hosted, 0) as worker, Worker(silent, Hosted, 0) as other:
        worker.ready()
        other.ready()
        with pytest.raises(CrashedError, match=r"crashed \(SIGSEGV\) while running it"):
            worker.call(Hosted.crash)
        with pytest.raises(CrashedError):
            worker.call(Hosted.process)
        with pytest.raises(CrashedError, match="killed, probably for lack of memory"):
            other.call(Hosted.kill)


def test_what_lies_in_the_current_folder_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("signal", "pickle", "numpy", "bnfold"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry] + [str(ROOT)])
    with Worker(silent, Hosted, 0) as worker:
        worker.ready()
        assert worker.call(Hosted.add, np.ones(1)) == 1


def test_a_process_that_cannot_start_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [])
        worker = Worker(silent, Hosted, 0)
        with worker, pytest.raises(SessionError, match="does not start: ModuleNotFoundError"):
            worker.ready()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "none"))
        with pytest.raises(SessionError, match="can be started: No such file"):
            Worker(silent, Hosted, 0)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "frozen", True, raising=False)
        with pytest.raises(SessionError, match="no Python interpreter"):
            Worker(silent, Hosted, 0)


WORKING = """
import signal, sys
sys.path.insert(0, {root!r})
from bnfold.running.workers import Worker
from tests.support.hosted import Hosted

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
with Worker(lambda doing: print(doing, flush=True), Hosted, 0) as worker:
    worker.ready()
    print(worker.call(Hosted.process), flush=True)
    worker.call(Hosted.sleep)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such signals")
@pytest.mark.parametrize(
    ("name", "to_group"), [("SIGINT", True), ("SIGTERM", False), ("SIGKILL", False)]
)
def test_it_ends_with_the_process_that_it_works_for(name: str, to_group: bool) -> None:
    """Ctrl-C reaches both; after SIGKILL, nobody is left to end it."""
    number = getattr(signal, name)
    process = subprocess.Popen(
        [sys.executable, "-c", WORKING.format(root=str(ROOT))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "making it\n"
        worker = int(process.stdout.readline())
        assert process.stdout.readline() == "asleep\n"
        (os.killpg if to_group else os.kill)(process.pid, number)
        process.communicate(timeout=30)
    assert process.returncode in (-number, 128 + number)
    end = time.monotonic() + 10
    while is_running(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(worker)
