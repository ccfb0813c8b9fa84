"""Clusters that do not answer, or lose their machines, as a Ray that is only made up."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from bnfold.batch import clusters
from bnfold.batch.clusters import Ray
from bnfold.batch.engine import NoWorkersError
from bnfold.errors import UsageError

RAY = """
import os, sys, time
from types import SimpleNamespace

class RayError(Exception): pass

exceptions = SimpleNamespace(RayError=RayError)
alive = 1

def init(address, **_):
    if address == "silent":
        time.sleep(60)
    if address == "locked":
        sys.stderr.write("Unauthenticated: InvalidAuthToken\\n")
        sys.stderr.flush()
        time.sleep(60)
    if address == "wrong":
        raise ValueError("Invalid address format")

def nodes():
    return [{"NodeID": "a", "Alive": alive, "Resources": {"CPU": float(os.environ["CPUS"])}}]

def cluster_resources():
    if alive is None:
        raise RayError("no answer")
    return {"CPU": float(os.environ["CPUS"])} if alive else {}

def shutdown(): pass
"""


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, text in {
        "ray/__init__.py": RAY,
        "ray/util/__init__.py": "",
        "ray/util/joblib.py": "def register_ray(): pass",
    }.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(text)
    for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CPUS", "4")
    monkeypatch.setattr(clusters, "SECONDS_TO_CONNECT", 1)


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("silent", "no Ray cluster answers at silent within 1 seconds; start one with"),
        ("locked", "it asks for another token: see RAY_AUTH_TOKEN"),
        ("wrong", "no Ray cluster answers at wrong: Invalid address format; start one with"),
    ],
)
def test_no_cluster_answers(address: str, words: str) -> None:
    begun = time.monotonic()
    with pytest.raises(UsageError, match=words):
        Ray(address)
    assert time.monotonic() - begun < 30


@pytest.mark.usefixtures("ray")
def test_a_signal_ends_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "SECONDS_TO_CONNECT", 50)

    class CameError(Exception):
        pass

    def come(*_: object) -> None:
        raise CameError

    before = signal.signal(signal.SIGALRM, come)
    begun = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 1)
        with pytest.raises(CameError):
            Ray("silent")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begun < 30


@pytest.mark.usefixtures("ray")
def test_a_cluster_of_one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPUS", "1")
    with pytest.raises(UsageError, match="has 1 processor, and joblib needs 2"):
        Ray("here")


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize(("alive", "words"), [(0, "has 0 processors left"), (None, "is lost: no")])
def test_a_cluster_that_has_lost_its_machines(alive: int | None, words: str) -> None:
    engine = Ray("here")
    assert engine.settings(None)[0]["n_jobs"] == 4
    vars(sys.modules["ray"])["alive"] = alive
    with pytest.raises(NoWorkersError, match=words):
        engine.settings(None)


@pytest.mark.usefixtures("ray")
def test_no_more_workers_are_asked_for_than_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than there are would be an error of Ray's pool."""
    engine = Ray("here")
    monkeypatch.setenv("CPUS", "3")
    config, side_by_side = engine.settings(None)
    assert (config["n_jobs"], side_by_side) == (3, 3)
    with pytest.raises(NoWorkersError):
        engine.settings(["b"])  # a node that is not there
