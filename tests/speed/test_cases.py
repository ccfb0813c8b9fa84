"""`bnfold bench`, and the timing in `optimize`."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.errors import SessionError, TooSlowError
from bnfold.options import ExecutionOptions, TimingOptions
from bnfold.progress import silent
from bnfold.record.data import SpeedBlock, SpeedRecord
from bnfold.record.reading import read_record
from bnfold.report import render
from bnfold.running.environment import available_threads, environment
from bnfold.running.runtime import Level
from bnfold.speed import footprint
from bnfold.speed.cases import require_speedup, time_models
from bnfold.speed.measure import compare_speed
from bnfold.speed.statistics import summarize
from tests.support.cli import REWRITTEN, UNCHANGED, run
from tests.support.graphs import build, operators
from tests.support.speeds import fake_compare_speed, speed_record


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(REWRITTEN, tmp_path / "m.onnx"))


def test_one_model_alone(model: Path) -> None:
    outcome = run("bench", model)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].startswith("speed on cpu, ")
    assert lines[0].endswith(", 1×1×8×8")
    rows = [line.split()[0] for line in lines[2:6]]
    assert rows == ["all", "control", "disabled", "control"]
    assert "loads in" in lines[6]
    assert lines[-1].endswith(" ms")


def test_two_models_in_the_record(model: Path) -> None:
    record = run("bench", model, model, "--json", "--threads", "1", "--no-memory").record
    assert record["candidate"]["sha256"] == record["model"]["sha256"]
    assert [speed["level"] for speed in record["speed"]] == ["all", "disabled"]
    for speed in record["speed"]:
        blocks = [SpeedBlock(**block) for block in speed["samples"]]
        summary = summarize(blocks)
        for name in ("speedup", "ci95", "control", "control_ci95", "original_ms", "verdict"):
            assert speed[name] == getattr(summary, name), name
        assert speed["threads"] == 1
        assert speed["peak_mb"] is None
        assert speed["shapes"] == {"images": [1, 1, 8, 8]}


def test_batches_and_shapes(model: Path) -> None:
    record = run("bench", model, "--batch", "1", "--batch", "3", "--no-memory", "--json").record
    assert [speed["shapes"]["images"][0] for speed in record["speed"]] == [1, 1, 3, 3]
    record = run("bench", model, "--input", "images:5,1,8,8", "--no-memory", "--json").record
    assert record["speed"][0]["shapes"] == {"images": [5, 1, 8, 8]}


def test_a_fixed_batch_cannot_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(build("(float[2,3] x) => (float[2,3] y) { y = Neg(x) }"), path)
    run("bench", path, "--batch", "4").failed(2, "batch size 4 cannot be used")
    assert run("bench", path, "--batch", "2", "--no-memory").code == 0


def test_a_report_is_written(model: Path, tmp_path: Path) -> None:
    assert run("bench", model, "--no-memory", "--report", tmp_path / "run.json").code == 0
    assert json.loads((tmp_path / "run.json").read_text())["speed"][0]["original_ms"] > 0


def test_a_model_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = build("(float[2,3] x) => (float[2,3] y) { y = Neg(x) }")
    model.graph.node[0].domain = "acme"
    model.opset_import.add(domain="acme", version=1)
    onnx.save(model, path)
    run("bench", path).failed(5, "onnxruntime cannot load the model")
    run("bench", tmp_path / "none.onnx").failed(3, "does not exist")
    run("bench", REWRITTEN, "--require-speedup", "2").failed(2, "CANDIDATE")


def test_models_in_memory() -> None:
    record = bnfold.bench(onnx.load(REWRITTEN))
    assert record.speed[0].original_ms > 0
    assert record.model.path is None


# --- The memory ---------------------------------------------------------------------------------


def test_memory_grows_with_the_weights(tmp_path: Path) -> None:
    peaks = []
    for name, rows in (("small", 1_000), ("large", 20_000)):
        path = tmp_path / f"{name}.onnx"
        weights = np.ones((rows, 500), np.float32)
        onnx.save(
            build(f"(float[1,{rows}] x) => (float[1,500] y) {{ y = MatMul(x, w) }}", w=weights),
            path,
        )
        feeds = {"x": np.ones((1, rows), np.float32)}
        peaks.append(footprint.peak_mb(path, "cpu", Level.ALL, 1, feeds))
    small, large = peaks
    if small is None or large is None:
        pytest.skip("this system does not report memory")
    assert large - small > 35  # the difference in weights is 38 MB


def test_memory_of_a_model_that_does_not_run(tmp_path: Path) -> None:
    if footprint.peak_mb(REWRITTEN, "cpu", Level.ALL, 1, {"images": np.zeros((1, 1, 8, 8), "f")}):
        with pytest.raises(SessionError, match="could not be measured"):
            footprint.peak_mb(REWRITTEN, "cpu", Level.ALL, 1, {})


# --- In optimize --------------------------------------------------------------------------------


def test_optimize_times_at_both_levels(model: Path) -> None:
    outcome = run("optimize", model)
    assert outcome.code == 0
    rows = [
        line.split()[0]
        for line in outcome.out.splitlines()
        if line[:6] in ("  all ", "  disa") and ":" not in line
    ]
    assert rows == ["all", "disabled"]
    record = run("optimize", model, "--no-bench", "--json").record
    assert (record["speed"], record["speed_note"]) == ([], "")


def test_an_unchanged_model_is_not_timed(tmp_path: Path) -> None:
    assert run("optimize", UNCHANGED, tmp_path / "out.onnx", "--json").record["speed"] == []


@pytest.mark.parametrize(("required", "code"), [("1.5", 0), ("2.1", 6)])
def test_a_required_speedup(
    model: Path, monkeypatch: pytest.MonkeyPatch, required: str, code: int
) -> None:
    compare = fake_compare_speed(
        lambda proto: 20 if "BatchNormalization" in operators(proto) else 10
    )
    monkeypatch.setattr("bnfold.speed.cases.compare_speed", compare)
    outcome = run("optimize", model, "--require-speedup", required, "--json")
    assert outcome.code == code
    assert outcome.record["speed"][0]["speedup"] == 2
    assert model.with_name("m.bnfold.onnx").exists() == outcome.record["output"]["written"]
    if code:
        words = "nothing was written", "2.1 is required", "2.000"
        outcome.failed(6, *words)
    else:
        assert (
            run("bench", model, model.with_name("m.bnfold.onnx"), "--require-speedup", "2").code
            == 0
        )
        run("bench", model, model, "--require-speedup", "1.01").failed(6, "1.01 is required")


def noisy(blocks: int) -> SpeedRecord:
    """Return a timing of 1.2, give or take 0.1 from one block to the next."""
    made = [
        SpeedBlock(
            {}, {"original": [1.2 + change] * 9, "optimized": [1.0] * 9, "control": [1.2] * 9}
        )
        for change in np.linspace(-0.1, 0.1, blocks)
    ]
    return replace(speed_record(1, 1), **vars(summarize(made)), samples=made)


def test_the_whole_interval_of_a_speedup_must_reach_what_is_required() -> None:
    record = noisy(9)
    assert record.speedup is not None
    assert record.ci95 is not None
    low, _ = record.ci95
    require_speedup([record], low)
    require_speedup([record], record.speedup, "median")
    with pytest.raises(TooSlowError, match=r"1\.198 \[.*: the lower bound"):
        require_speedup([record], (low + record.speedup) / 2)
    with pytest.raises(TooSlowError, match=r"\(control [0-9.]+\)$"):
        require_speedup([record], record.speedup + 0.01, "median")


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_speedup_is_not_measured_in_two_blocks(blocks: int) -> None:
    record = replace(noisy(blocks), note="allow 4 seconds per level")
    with pytest.raises(TooSlowError, match="not measured: allow 4 seconds") as caught:
        require_speedup([record], 0.5)
    assert str(caught.value).endswith("raise seconds")
    assert caught.value.on_command_line.endswith("raise --bench-seconds")
    require_speedup([record], 0.5, "median")
    require_speedup([noisy(3)], 0.5)


def test_a_gate_on_what_is_not_measured_is_not_passed(model: Path) -> None:
    """Here, there is time for one turn."""
    outcome = run("bench", "--no-memory", model, model, "--require-speedup", "0.1", "--json")
    outcome.failed(6, "0.1 is required", "not measured", "allow ", "raise --bench-seconds")
    (speed, *_) = outcome.record["speed"]
    assert (speed["ci95"], speed["control_ci95"], speed["verdict"]) == (None, None, "not measured")
    arguments = (
        "bench",
        "--no-memory",
        model,
        model,
        "--require-speedup-at",
        "median",
        "--require-speedup",
    )
    assert run(*arguments, "0.0001").code == 0
    run(*arguments, "1000").failed(6, "1000 is required", "on cpu it is")


def test_no_rendering_shows_an_interval_that_is_not_measured(model: Path, tmp_path: Path) -> None:
    pages = [tmp_path / f"run.{suffix}" for suffix in ("html", "md")]
    reports = [each for page in pages for each in ("--report", page)]
    outcome = run("bench", "--no-memory", model, model, *reports)
    for text in (outcome.out, *(page.read_text() for page in pages)):
        assert "not measured" in text
        assert "allow " in text
        assert not re.search(r"\d\.\d{3} \[", text)
    assert run("bench", "--no-memory", model, model, "--quiet").out.startswith(
        "speed: not measured (an interval takes"
    )


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (99.5, "the machine is busy: load 99.5 on "),
        (0.0, ", load 0.0 at the start"),
        (None, "processor"),
    ],
)
def test_a_busy_machine_is_noted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: float | None, words: str
) -> None:
    if load is None:
        monkeypatch.delattr("os.getloadavg")  # as on Windows
    else:
        monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    page = tmp_path / "run.md"
    outcome = run("bench", "--no-memory", model, "--report", page, "--report", tmp_path / "r.json")
    html = render(read_record(tmp_path / "r.json"), ".html")
    for text in (outcome.out, page.read_text(), html):
        assert words in " ".join(text.split())
        assert ("is busy:" in text) == bool(load)
    content = json.loads((tmp_path / "r.json").read_text())["environment"]
    assert content["load"] == load
    assert content["processors"] == available_threads()


@pytest.mark.parametrize(
    ("numbers", "ranges"),
    [({0}, "0"), ({0, 1, 2, 3}, "0-3"), ({5, 1, 2, 9, 8}, "1-2,5,8-9")],
)
def test_the_affinity_is_a_list_of_ranges(
    monkeypatch: pytest.MonkeyPatch, numbers: set[int], ranges: str
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: numbers, raising=False)
    assert environment()["affinity"] == ranges
    assert environment()["processors"] == len(numbers)


def test_what_must_reach_the_speedup_is_one_of_two(model: Path) -> None:
    arguments = ("bench", model, model, "--require-speedup", "1", "--require-speedup-at")
    run(*arguments, "mean").failed(2, "'mean'", "bound, median")


def test_an_untimed_model_is_not_fast_enough(tmp_path: Path) -> None:
    arguments = ("optimize", UNCHANGED, tmp_path / "out.onnx", "--require-speedup")
    assert run(*arguments, "1").code == 0
    assert run(*arguments, "1.1", "--json").code == 6


def test_a_speedup_is_required_only_with_all_optimizations() -> None:
    require_speedup([speed_record(10, 10), speed_record(10, 20, level="disabled")], 1.0)


def test_a_model_that_does_not_run_is_written_untimed_without_a_check(tmp_path: Path) -> None:
    model = build(
        "(float[1,3,8,8] x) => (float[1,4,6,6] y) { t = Conv(x, w) u = Dropout(t) y = Neg(u) }",
        w=np.ones((4, 3, 3, 3), np.float32),
    )
    model.graph.node[-1].domain = "acme"
    model.opset_import.add(domain="acme", version=1)
    onnx.save(model, tmp_path / "m.onnx")
    record = run("optimize", tmp_path / "m.onnx", "--no-check", "--json").record
    assert record["output"]["written"]
    assert record["speed_note"].startswith("not timed: the original: onnxruntime cannot load")


@pytest.mark.parametrize("options", [("--no-check",), ("--no-check", "--no-bench", "--tune")])
def test_inputs_that_cannot_be_made_do_not_fail_the_run(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    model = build(
        "(float[1,3,8,8] x, bfloat16[1] z) => (float[1,4,6,6] y, bfloat16[1] u) "
        "{ t = Conv(x, w) y = Dropout(t) u = Identity(z) }",
        w=np.ones((4, 3, 3, 3), np.float32),
    )
    onnx.save(model, tmp_path / "m.onnx")
    record = run("optimize", tmp_path / "m.onnx", *options, "--json").record
    assert record["output"]["written"]
    assert "cannot be made" in record["speed_note"]
    run("bench", tmp_path / "m.onnx").failed(5, "cannot be made")


def test_if_time_is_short_only_one_level_is_timed(model: Path) -> None:
    clock = chain([0.0, 0.0], repeat(100.0))
    with mock.patch("bnfold.speed.cases.time.monotonic", side_effect=clock):
        (speed,) = run("bench", model, "--no-memory", "--json").record["speed"]
    assert speed["level"] == "all"
    assert "no time was left for optimization disabled" in speed["note"]


def test_one_level_may_take_the_time_of_both(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []

    def compare(*_: object, **options: Any) -> SpeedRecord:
        asked.append((options["seconds"], options["at_most"]))
        return speed_record(1, 1)

    monkeypatch.setattr("bnfold.speed.cases.compare_speed", compare)
    for now, expected in ((5.0, (5, 5)), (2.0, (5, 8)), (7.0, (3, 3)), (7.6, None)):
        asked.clear()
        clock = iter([0.0, 0.0, now])
        with mock.patch("bnfold.speed.cases.time.monotonic", side_effect=clock):
            time_models(model, model, ExecutionOptions(), TimingOptions(seconds=10), silent)
        assert asked == [(5, 10), *([expected] if expected else [])]


def test_a_slow_model_runs_once() -> None:
    record = compare_speed(REWRITTEN, REWRITTEN, seconds=-1.0)
    assert [len(times) for times in record.samples[0].run_ms.values()] == [1, 1, 1]
    assert "an interval takes 3 blocks; allow " in record.note
    assert record.verdict == "not measured"


def test_the_error_names_the_failing_model(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    onnx.save(build("(float[2,5] z) => (float[2,5] y) { y = Neg(z) }"), other)
    run("bench", model, other).failed(5, "the other model")
