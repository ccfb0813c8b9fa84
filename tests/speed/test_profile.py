"""Where time goes: read from onnxruntime's profiler, apart from the timing and within its time."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import bnfold
from bnfold.errors import SessionError
from bnfold.options import ExecutionOptions, InputOptions, TimingOptions
from bnfold.progress import silent
from bnfold.record.data import SpeedRecord
from bnfold.running.runtime import Level
from bnfold.speed.blocks import Block, Case
from bnfold.speed.cases import time_models
from bnfold.speed.profile import SHARE, profiles, summarize_events, time_and_profile
from tests.support.cli import MODELS, REWRITTEN, run
from tests.support.speeds import speed_record

OTHER = MODELS / "conv_pool_bn_elu.onnx"


def kernel(node: str, op_type: str, ts: int, dur: int) -> dict[str, Any]:
    """Return the event that a node ran, as onnxruntime writes it."""
    name = f"{node}_kernel_time"
    return {"cat": "Node", "name": name, "ts": ts, "dur": dur, "args": {"op_name": op_type}}


def end(name: str = "model_run") -> dict[str, Any]:
    return {"cat": "Session", "name": name, "ts": 0, "dur": 9, "args": {}}


def events(*runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events of a profile: the warm-up, then these runs."""
    warm_up = [kernel("slow", "Slow", 0, 10**6), end("SequentialExecutor::Execute"), end()]
    return [end("session_initialization"), *warm_up, *(e for run in runs for e in [*run, end()])]


# --- What is read from a profile ------------------------------------------------------------------


def test_times_are_medians_over_the_runs_without_the_first() -> None:
    runs = [
        [kernel("a", "Conv", 0, conv), kernel("b", "Relu", 100_000, 500), kernel("c", "Conv", 0, 0)]
        for conv in (1000, 9000, 2000)
    ]
    found = summarize_events(events(*runs))
    assert found.runs == 3
    assert found.ms == 2.5
    assert [(each.op_type, each.nodes, each.ms) for each in found.operators] == [
        ("Conv", 2, 2.0),
        ("Relu", 1, 0.5),
    ]
    assert [(each.node, each.op_type, each.ms) for each in found.nodes][:2] == [
        ("a", "Conv", 2.0),
        ("b", "Relu", 0.5),
    ]


def test_a_node_that_runs_several_times_in_a_run_takes_their_sum() -> None:
    found = summarize_events(events([kernel("a", "Add", 10 * n, 10) for n in range(100)]))
    (operator,) = found.operators
    assert (operator.nodes, operator.ms) == (1, 1.0)


def test_what_is_in_a_subgraph_is_not_counted_twice() -> None:
    inner = [kernel("x", "Conv", 100, 400), kernel("y", "Relu", 500, 300)]
    nested = [kernel("deep", "Add", 550, 50)]
    outer = [kernel("if", "If", 90, 800), kernel("after", "Neg", 890, 10)]
    found = summarize_events(events([*inner, *nested, *outer]))
    times = {each.op_type: each.ms for each in found.operators}
    assert times == {"Conv": 0.4, "Relu": 0.25, "If": 0.1, "Add": 0.05, "Neg": 0.01}
    assert found.ms == pytest.approx(0.81)


@pytest.mark.parametrize(("start", "duration"), [(90, 300), (590, 300), (90, 799)])
def test_a_subgraph_may_begin_or_end_with_its_node(start: int, duration: int) -> None:
    run = [kernel("x", "Conv", start, duration), kernel("if", "If", 90, 800)]
    for order in (run, run[::-1]):
        times = {each.op_type: each.ms for each in summarize_events(events(order)).operators}
        assert times == {"Conv": duration / 1e3, "If": (800 - duration) / 1e3}


def test_only_the_nodes_that_take_longest_are_named() -> None:
    found = summarize_events(events([kernel(f"n{n}", "Add", 1000 * n, n) for n in range(50)]))
    assert [each.node for each in found.nodes] == [f"n{n}" for n in range(49, 39, -1)]
    assert found.operators[0].nodes == 50


@pytest.mark.parametrize(
    "content",
    [
        [],
        [end()],
        [end(), {"cat": "Node", "name": "a_kernel_time"}, end()],
        [end(), {"name": 1}],
        [end(), {"cat": "Node", "name": "a_kernel_time", "ts": 0, "dur": "1", "args": {}}, end()],
        {"traceEvents": []},
        [1],
    ],
)
def test_a_profile_of_another_form_is_an_error(content: Any) -> None:
    with pytest.raises(ValueError, match=r"in it|form"):
        summarize_events(content)


# --- A profile of real models ---------------------------------------------------------------------


def timing(
    folder: Path, seconds: float = 5.0, provider: str = "cpu", **options: Any
) -> list[SpeedRecord]:
    execution = ExecutionOptions([provider], threads=1)
    asked = TimingOptions(seconds=seconds, **options)
    return time_and_profile(REWRITTEN, OTHER, execution, asked, folder, silent)


def test_both_models_are_profiled_and_no_file_is_left(tmp_path: Path) -> None:
    best, plain = timing(tmp_path)
    assert [best.level, plain.level] == ["all", "disabled"]
    assert best.profile_note == ""
    assert (plain.profile, plain.profile_note) == ([], "")
    original, optimized = best.profile
    for model in (original, optimized):
        operators = {each.op_type: each for each in model.operators}
        assert operators["Conv"].ms > 0
        assert model.runs >= 3
        assert model.nodes[0].ms == max(each.ms for each in model.nodes)
        assert sum(each.ms for each in model.operators) == pytest.approx(model.ms, rel=0.5)
    assert {each.op_type for each in original.operators} != {
        each.op_type for each in optimized.operators
    }
    assert list(tmp_path.iterdir()) == []


def test_no_session_that_is_timed_has_a_profiler() -> None:
    case = Case({"original": REWRITTEN}, Level.ALL, 1, InputOptions())
    with mock.patch("bnfold.speed.blocks.Session", side_effect=SessionError("no")) as timed:
        with pytest.raises(SessionError):
            Block(silent, "cpu").load(case, 0, None)
        assert "profile" not in timed.call_args.kwargs


def test_the_time_of_the_profile_is_taken_from_the_timing(tmp_path: Path) -> None:
    given = []

    def watched(*arguments: Any, share: float) -> list[SpeedRecord]:
        given.append(arguments[3].seconds * share)
        return time_models(*arguments, share=share)

    with mock.patch("bnfold.speed.profile.time_models", watched):
        timing(tmp_path, 10.0)
        timing(tmp_path, 10.0, profile=False)
    assert given == [10 * (1 - SHARE), 10.0]


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"provider": "cuda"}, "launches"),
        ({"original_ms": 700.0}, "too short"),
        ({"load_ms": [1.0, 990.0]}, "too short"),
    ],
)
def test_where_a_profile_is_left_out_a_note_says_why(
    tmp_path: Path, changes: dict[str, Any], note: str
) -> None:
    made = [replace(speed_record(10.0, 10.0), **changes)]
    with (
        mock.patch("bnfold.speed.profile.time_models", return_value=made),
        mock.patch("bnfold.speed.profile.profiles", side_effect=AssertionError),
    ):
        (record,) = timing(tmp_path, provider=made[0].provider)
    assert record.profile == []
    assert note in record.profile_note


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_without_time_there_is_no_profile(tmp_path: Path, seconds: float) -> None:
    made = [speed_record(5.0, 5.0)]
    with mock.patch("bnfold.speed.profile.time_models", return_value=made):
        assert "too short" in timing(tmp_path, seconds)[0].profile_note


@pytest.mark.parametrize("failure", [SessionError("no"), OSError("full"), ValueError("no JSON")])
def test_a_profile_that_fails_does_not_fail_the_timing(tmp_path: Path, failure: Exception) -> None:
    with mock.patch("bnfold.speed.profile.profiles", side_effect=failure):
        best, _ = timing(tmp_path)
    assert best.profile_note == f"the profile cannot be read: {failure}"
    assert best.original_ms > 0


def test_a_file_that_is_no_json_is_removed_too(tmp_path: Path) -> None:
    with (
        mock.patch("bnfold.speed.profile.json.loads", side_effect=ValueError("no JSON")),
        pytest.raises(ValueError, match="no JSON"),
    ):
        profiles([REWRITTEN], speed_record(1, 1), InputOptions(samples=1), 3, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_bench_and_optimize_profile_in_a_scratch_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    model = Path(shutil.copy(REWRITTEN, tmp_path / "m.onnx"))
    record = run("bench", model, "--no-memory", "--json").record
    assert len(record["speed"][0]["profile"]) == 1
    record = run("optimize", model, tmp_path / "out.onnx", "--no-check", "--json").record
    assert len(record["speed"][0]["profile"]) == 2
    assert list(scratch.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "out.onnx", "scratch"}


def test_the_terminal_shows_the_time_by_operator_on_request(tmp_path: Path) -> None:
    with mock.patch("bnfold.speed.profile.profiles", side_effect=AssertionError):
        assert run("bench", REWRITTEN, "--no-memory").code == 0
    assert "time by operator" in run("bench", REWRITTEN, "--no-memory", "--verbose").out
    record = bnfold.optimize(REWRITTEN, bench=True, check=False).record
    assert len(record.speed[0].profile) == 2
