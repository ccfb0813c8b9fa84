"""What holds for all tests."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
import onnx_ir as ir
import pytest

from bnfold.record.data import SpeedRecord
from bnfold.rewriting.contract import General, Pass, Refused, Replace
from bnfold.running import learning
from bnfold.speed import measure as speed
from tests.support.speeds import Here

os.register_at_fork(after_in_child=faulthandler.disable)  # its parent tells of a crash
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before a test imports onnxruntime


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without slow tests where only these are wanted: to import all takes long."""
    is_wanted = config.option.markexpr != "slow" or collection_path.suffix != ".py"
    return None if is_wanted or says_slow(collection_path) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Require that each slow test is in a file that `pytest_ignore_collect` finds."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    assert all(map(says_slow, slow)), "a file of slow tests must say so"


def pytest_collection_finish() -> None:
    """Leave all tests out of garbage collection, whose passes touch what forks share."""
    gc.collect()
    gc.freeze()


def says_slow(path: Path) -> bool:
    """Say whether a file of tests may have slow ones."""
    return "slow" in path.read_text(encoding="utf-8")


@pytest.fixture(autouse=True, scope="session")
def garbage_is_collected() -> Iterator[None]:
    """Keep the command from leaving its garbage, with open files, to the end of the process."""
    with mock.patch("bnfold.cli.main.gc"):
        yield


@pytest.fixture(autouse=True, scope="session")
def passes_raise_what_they_declare() -> Iterator[None]:
    """Hold every pass, in whatever test it runs, to the reasons that it declares."""
    call = Pass.__call__

    def held(self: Pass, node: ir.Node) -> Replace | None:
        try:
            return call(self, node)
        except Refused as refused:
            declared = (*self.refusals, *General)
            for each in (refused, refused.also):
                assert each is None or each.reason in declared, (
                    f"{self.name} does not declare {each.reason.name}"
                )
            raise

    with mock.patch.object(Pass, "__call__", held):
        yield


@pytest.fixture(autouse=True)
def shapes_are_inferred_here() -> Iterator[None]:
    """Infer the shapes of small models in this process: a fork takes as long as all else."""
    may_harm = learning._may_harm

    def is_large(model: onnx.ModelProto) -> bool:
        return may_harm(model) and not learning._asks_for_little(model)

    with mock.patch.object(learning, "_may_harm", is_large):
        yield


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render pages without their pictures, which take nearly all of the time."""
    monkeypatch.setattr("bnfold.report.html._pictures", lambda record: {})


@pytest.fixture(autouse=True)
def no_time_for_timing() -> Iterator[None]:
    """Let `optimize` and `bench` take one turn only, in this process."""

    compare_speed = speed.compare_speed

    def hasty(*arguments: Any, **options: Any) -> SpeedRecord:
        return compare_speed(*arguments, **{**options, "seconds": 0, "at_most": 0})

    with (
        mock.patch("bnfold.speed.cases.compare_speed", hasty),
        mock.patch("bnfold.speed.processes.Worker", Here),
    ):
        yield
