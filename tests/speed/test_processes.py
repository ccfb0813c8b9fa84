"""Timings in processes of their own: as many as blocks, and none that stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bnfold.progress import silent
from bnfold.running.workers import Worker
from bnfold.speed.blocks import Block
from bnfold.speed.measure import Measurement, compare_speed
from bnfold.speed.processes import Processes
from tests.support.cli import REWRITTEN, names, run
from tests.support.hosted import CrashingBlock, is_running
from tests.support.speeds import Here


@pytest.fixture(autouse=True)
def real_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.speed.processes.Worker", Worker)


def test_each_block_has_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ones serve the next case."""
    monkeypatch.setattr(Measurement, "_plan", lambda *_: (3, 0.0))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    taken: list[list[int]] = []
    take = Processes.take

    def noted(self: Processes, count: int) -> list[Worker[Block]]:
        workers = take(self, count)
        taken.append([worker._process.pid for worker in workers])
        return workers

    monkeypatch.setattr(Processes, "take", noted)
    with Processes("cpu", silent) as processes:
        for _ in range(2):
            record = compare_speed(REWRITTEN, REWRITTEN, processes=processes, at_most=600)
            assert len(record.samples) == 3
            assert record.ci95 is not None
            assert record.note == ""
        assert processes.seconds_to_take(3) == 0 < processes.seconds_to_take(4)
        assert all(map(is_running, taken[-1]))
    (first, three, again, once_more) = taken
    assert first == again == three[:1]
    assert three == once_more
    assert len({*three, os.getpid()}) == 4
    assert not any(map(is_running, three))
    assert not names(tmp_path)


@pytest.mark.parametrize(("provider", "kept"), [("cpu", 3), ("cuda", 1)])
def test_no_process_keeps_the_memory_of_a_device(
    monkeypatch: pytest.MonkeyPatch, provider: str, kept: int
) -> None:
    monkeypatch.setattr("bnfold.speed.processes.Worker", Here)
    monkeypatch.setattr("bnfold.speed.processes.Block", lambda *_: object())
    with Processes(provider, silent) as processes:
        for worker in processes.take(3)[:2]:
            processes.done(worker)
        assert len(processes._workers) == kept
        assert len(processes.take(4)) == 4


@pytest.mark.parametrize("command", ["bench", "optimize"])
def test_a_crash_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    for module in ("processes", "measure"):
        monkeypatch.setattr(f"bnfold.speed.{module}.Block", CrashingBlock)
    words = "onnxruntime crashed (SIGSEGV) while loading it"
    if command == "bench":
        run("bench", REWRITTEN).failed(5, words)
        return
    options = ("--tune", "--no-check", "--json")
    record = run("optimize", REWRITTEN, tmp_path / "out.onnx", *options).record
    assert record["output"]["written"]
    assert words in record["speed_note"]


BENCH = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
runpy.run_module("bnfold", run_name="__main__")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_all_processes(tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    process = subprocess.Popen(
        [sys.executable, "-c", BENCH, "bench", REWRITTEN, "--seconds", "100"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    with process:
        children: list[int] = []
        end = time.monotonic() + 60
        while len(children) < 3 and time.monotonic() < end:
            time.sleep(0.05)
            listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            children = [int(child) for child in listed.split()]
        (os.killpg if name == "SIGINT" else os.kill)(process.pid, number)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert output == ""
    assert errors in ("", f"bnfold: ended by {name}\n")
    assert len(children) >= 3
    end = time.monotonic() + 10  # one that has just been started finds out that it is alone
    while any(map(is_running, children)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(is_running, children))
    assert not names(tmp_path)
