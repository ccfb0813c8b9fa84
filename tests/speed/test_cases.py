"""`bnfold bench`, and the timing in `optimize`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.errors import SessionError
from bnfold.record.data import SpeedBlock
from bnfold.running.runtime import Level
from bnfold.speed import footprint
from bnfold.speed.cases import require_speedup
from bnfold.speed.measure import compare_speed
from bnfold.speed.statistics import summarize
from tests.support.cli import REWRITTEN, UNCHANGED, run
from tests.support.graphs import build, operators
from tests.support.speeds import pretended, record


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(REWRITTEN, tmp_path / "m.onnx"))


def test_one_model_alone(model: Path) -> None:
    outcome = run("bench", model)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert [" ms (cpu, onnxruntime optimization all" in line for line in lines] == [True, False]
    assert all("control" in line and "loads in" in line for line in lines)


def test_two_models_in_the_record(model: Path) -> None:
    found = run("bench", model, model, "--json", "--threads", "1", "--no-memory").record
    assert found["candidate"]["sha256"] == found["model"]["sha256"]
    assert [each["level"] for each in found["speed"]] == ["all", "disabled"]
    for each in found["speed"]:
        blocks = [SpeedBlock(**block) for block in each["samples"]]
        summary = summarize(blocks)
        for name in ("speedup", "ci95", "control", "control_ci95", "original_ms", "verdict"):
            assert each[name] == getattr(summary, name), name
        assert each["threads"] == 1
        assert each["peak_mb"] is None
        assert each["shapes"] == {"images": [1, 1, 8, 8]}


def test_batches_and_shapes(model: Path) -> None:
    found = run("bench", model, "--batch", "1", "--batch", "3", "--no-memory", "--json").record
    assert [each["shapes"]["images"][0] for each in found["speed"]] == [1, 1, 3, 3]
    found = run("bench", model, "--input", "images:5,1,8,8", "--no-memory", "--json").record
    assert found["speed"][0]["shapes"] == {"images": [5, 1, 8, 8]}


def test_a_fixed_batch_cannot_be_another(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(build("(float[2,3] x) => (float[2,3] y) { y = Neg(x) }"), path)
    run("bench", path, "--batch", "4").failed(2, "a batch of 4 cannot be had")
    assert run("bench", path, "--batch", "2", "--no-memory").code == 0


def test_a_report_is_written(model: Path, tmp_path: Path) -> None:
    assert run("bench", model, "--no-memory", "--report", tmp_path / "run.json").code == 0
    assert json.loads((tmp_path / "run.json").read_text())["speed"][0]["original_ms"] > 0


def test_what_does_not_run_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = build("(float[2,3] x) => (float[2,3] y) { y = Neg(x) }")
    model.graph.node[0].domain = "acme"
    model.opset_import.add(domain="acme", version=1)
    onnx.save(model, path)
    run("bench", path).failed(5, "onnxruntime cannot load the model")
    run("bench", tmp_path / "none.onnx").failed(3, "does not exist")
    run("bench", REWRITTEN, "--require-speedup", "2").failed(2, "CANDIDATE")


def test_models_in_memory() -> None:
    found = bnfold.bench(onnx.load(REWRITTEN))
    assert found.speed[0].original_ms > 0
    assert found.model.path is None


# --- The memory ---------------------------------------------------------------------------------


def test_memory_grows_with_the_weights(tmp_path: Path) -> None:
    found = []
    for name, rows in (("small", 1_000), ("large", 20_000)):
        path = tmp_path / f"{name}.onnx"
        weights = np.ones((rows, 500), np.float32)
        onnx.save(
            build(f"(float[1,{rows}] x) => (float[1,500] y) {{ y = MatMul(x, w) }}", w=weights),
            path,
        )
        feeds = {"x": np.ones((1, rows), np.float32)}
        found.append(footprint.peak_mb(path, "cpu", Level.ALL, 1, feeds))
    small, large = found
    if small is None or large is None:
        pytest.skip("this system does not tell")
    assert large - small > 35  # the difference in weights is 38 MB


def test_memory_of_what_does_not_run(tmp_path: Path) -> None:
    if footprint.peak_mb(REWRITTEN, "cpu", Level.ALL, 1, {"images": np.zeros((1, 1, 8, 8), "f")}):
        with pytest.raises(SessionError, match="could not be measured"):
            footprint.peak_mb(REWRITTEN, "cpu", Level.ALL, 1, {})


# --- In optimize --------------------------------------------------------------------------------


def test_optimize_times_at_both_levels(model: Path) -> None:
    outcome = run("optimize", model)
    assert outcome.code == 0
    speed = [line for line in outcome.out.splitlines() if line.startswith("speed: ")]
    assert ["optimization all" in line for line in speed] == [True, False]
    found = run("optimize", model, "--no-bench", "--json").record
    assert (found["speed"], found["speed_note"]) == ([], "")


def test_what_is_unchanged_is_not_timed(tmp_path: Path) -> None:
    assert run("optimize", UNCHANGED, tmp_path / "out.onnx", "--json").record["speed"] == []


@pytest.mark.parametrize(("required", "code"), [("1.5", 0), ("2.1", 6)])
def test_a_required_speedup(
    model: Path, monkeypatch: pytest.MonkeyPatch, required: str, code: int
) -> None:
    compare = pretended(lambda each: 20 if "BatchNormalization" in operators(each) else 10)
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
        assert run("bench", model, model, "--require-speedup", "1.01", "--json").code == 6


def test_what_was_not_timed_is_not_fast_enough(tmp_path: Path) -> None:
    arguments = ("optimize", UNCHANGED, tmp_path / "out.onnx", "--require-speedup")
    assert run(*arguments, "1").code == 0
    assert run(*arguments, "1.1", "--json").code == 6


def test_only_onnxruntimes_best_is_required_to_be_faster() -> None:
    require_speedup([record(10, 10), record(10, 20, level="disabled")], 1.0)


def test_a_model_that_does_not_run_is_written_untimed_if_nobody_checks(tmp_path: Path) -> None:
    model = build(
        "(float[1,3,8,8] x) => (float[1,4,6,6] y) { t = Conv(x, w) u = Dropout(t) y = Neg(u) }",
        w=np.ones((4, 3, 3, 3), np.float32),
    )
    model.graph.node[-1].domain = "acme"
    model.opset_import.add(domain="acme", version=1)
    onnx.save(model, tmp_path / "m.onnx")
    found = run("optimize", tmp_path / "m.onnx", "--no-check", "--json").record
    assert found["output"]["written"]
    assert found["speed_note"].startswith("not timed: the original: onnxruntime cannot load")


@pytest.mark.parametrize("options", [("--no-check",), ("--no-check", "--no-bench", "--tune")])
def test_inputs_that_cannot_be_made_are_no_reason_to_fail(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    model = build(
        "(float[1,3,8,8] x, bfloat16[1] z) => (float[1,4,6,6] y, bfloat16[1] u) "
        "{ t = Conv(x, w) y = Dropout(t) u = Identity(z) }",
        w=np.ones((4, 3, 3, 3), np.float32),
    )
    onnx.save(model, tmp_path / "m.onnx")
    found = run("optimize", tmp_path / "m.onnx", *options, "--json").record
    assert found["output"]["written"]
    assert "cannot be made" in found["speed_note"]
    run("bench", tmp_path / "m.onnx").failed(5, "cannot be made")


def test_where_time_is_short_one_level_must_do(model: Path) -> None:
    with mock.patch("bnfold.speed.cases.time.monotonic", side_effect=iter([0.0, 100.0])):
        (found,) = run("bench", model, "--no-memory", "--json").record["speed"]
    assert found["level"] == "all"
    assert "no time was left for optimization disabled" in found["note"]


def test_a_model_that_is_slow_runs_once_each() -> None:
    found = compare_speed(REWRITTEN, REWRITTEN, seconds=-1.0)
    assert [len(times) for times in found.samples[0].run_ms.values()] == [1, 1, 1]
    assert "too few turns (1)" in found.note


def test_whose_fault_it_is_is_told(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    onnx.save(build("(float[2,5] z) => (float[2,5] y) { y = Neg(z) }"), other)
    run("bench", model, other).failed(5, "the other model")
