"""What the benchmarks compute from measurements, and that they can take them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bnfold
from benchmarks import blocks, page, records, regression, summary
from benchmarks.compare import Comparison
from benchmarks.examine import relative_rms
from benchmarks.models import SUITE, Model, chosen
from benchmarks.processes import CommandError, run_alone
from benchmarks.records import AUTHORS, BNFOLD, Graph, ModelRecord, ToolRecord
from benchmarks.variants import VARIANTS
from bnfold.record.data import SpeedBlock, SpeedRecord, SpeedSummary, SpeedVerdict
from tests.support.cli import MODELS
from tests.support.evaluate import run_plain
from tests.support.graphs import batch_norm, build, normal, operators

FACTS = {
    "python": "3.11",
    "platform": "Linux",
    "cpu": "a processor",
    "onnx": "1.18",
    "threads": 2,
    "exporters": {"torch": "2.9"},
}


def graph(nodes: int = 10, norms: int = 4, error: float | None = 1e-6, **more: Any) -> Graph:
    return Graph("", 1000, nodes, norms, 0, run_error=error, **more)


def speed(ratio: float, error: float = 0.01, control_error: float = 0.002) -> SpeedRecord:
    """Return a record of this speed-up, with intervals of plus and minus these errors."""
    verdict: SpeedVerdict = "no significant difference"
    if ratio - error > 1 + control_error:
        verdict = "faster"
    if ratio + error < 1 - control_error:
        verdict = "slower"
    return SpeedRecord(
        provider="cpu",
        level="all",
        threads=2,
        shapes={"images": [1, 3, 8, 8]},
        original_ms=2.0,
        optimized_ms=2.0 / ratio,
        speedup=ratio,
        ci95=[ratio - error, ratio + error],
        control=1.0,
        control_ci95=[1 - control_error, 1 + control_error],
        verdict=verdict,
        note="",
        load_ms=[1.0, 1.0],
        peak_mb=None,
        placement=None,
        samples=[SpeedBlock({}, {"original": [2.0, 2.0], "control": [2.0, 2.0]})],
    )


def tool(ratio: float, result: Graph, seconds: float = 1.0) -> ToolRecord:
    return ToolRecord(
        version="1.0",
        seconds=[seconds, 3 * seconds, seconds],
        peak_mb=[100.0, 120.0, 110.0],
        graph=result,
        speed_seconds=2,
        speed={"all": speed(ratio), "disabled": speed(2 * ratio)},
    )


def model_record(name: str = "net", **tools: ToolRecord) -> ModelRecord:
    named = {key.replace("_", " "): record for key, record in tools.items()}
    return ModelRecord(name, "timm", name, [1, 3, 8, 8], graph(), FACTS, named)


OURS = tool(1.2, graph(5, 0, weight_error=1e-7))
THEIRS = tool(1.1, graph(7, 2, weight_error=2e-7))
FAILED = ToolRecord("1.0", failure="exit code 1: no such operator")


# --- The suite ------------------------------------------------------------------------------------


def test_the_suite_is_complete() -> None:
    names = [model.name for model in SUITE]
    assert len(set(names)) == len(names)
    libraries = [model.library for model in SUITE]
    assert libraries.count("light") == 9
    assert libraries.count("rapidocr") == 3
    assert libraries.count("torchvision") + libraries.count("timm") >= 25


def test_models_are_chosen_in_the_order_of_the_suite() -> None:
    assert [model.name for model in chosen(["resnet50", "resnet18"])] == ["resnet18", "resnet50"]
    assert chosen(None) == list(SUITE)
    with pytest.raises(SystemExit, match="unknown: no_such; the suite has light_"):
        chosen(["no_such"])


# --- Measuring ------------------------------------------------------------------------------------


NETWORK = """
    (float[1,3,9,9] x) => (float[1,4,7,7] z) {
        c = Conv(x, w) n = BatchNormalization(c, s, b, m, v) h = HardSwish(n) z = Relu(h)
    }
"""


@pytest.mark.parametrize(
    ("variant", "grown"),
    [("overridable", 4), ("functions", 4), ("casts", 6), ("written_out", 7), ("preprocessing", 7)],
)
def test_bnfold_makes_of_a_variant_what_it_makes_of_the_export(variant: str, grown: int) -> None:
    model = build(NETWORK, opset=17, w=normal(4, 3, 3, 3), **batch_norm(4))
    made = onnx.ModelProto.FromString(model.SerializeToString())
    VARIANTS[variant](made)
    onnx.checker.check_model(made, full_check=True)
    assert len(made.graph.node) == grown
    x = normal(1, 3, 9, 9)
    if variant != "preprocessing":
        (one,), (other,) = run_plain(model, {"x": x}), run_plain(made, {"x": x})
        np.testing.assert_allclose(one, other, atol=1e-6)
    passes = bnfold.PassOptions(freeze_initializers=variant == "overridable")
    optimized = bnfold.optimize(made, check=False, passes=passes).to_proto()
    assert operators(optimized) == ["Conv", "HardSwish", "Relu"]


def test_cost_is_of_the_process_alone() -> None:
    ballast = bytearray(300_000_000)
    idle = run_alone([sys.executable, "-c", "pass"], timeout=60)
    busy = run_alone([sys.executable, "-c", "bytearray(100_000_000)"], timeout=60)
    assert len(ballast) > 1e6 * idle.peak_mb
    assert 90 < busy.peak_mb - idle.peak_mb < 110
    assert idle.cpu_seconds > 0
    assert idle.seconds > 0


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; print('first', file=sys.stderr); sys.exit('last')", "^exit code 1: last$"),
        ("import os; os.abort()", "^signal 6$"),
        ("while True: pass", "^timed out after 1 s$"),
    ],
)
def test_a_failed_command_tells_how(code: str, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        run_alone([sys.executable, "-c", code], timeout=1 if "while" in code else 60)


def test_a_command_that_does_not_exist_is_a_failure() -> None:
    with pytest.raises(CommandError, match="No such file"):
        run_alone(["no-such-command"], timeout=60)


def test_comparison_of_one_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Model("conv_bn_relu_pool", "samples", "conv_bn_relu_pool", (1, 1, 8, 8))
    names = [BNFOLD, "onnxruntime basic", AUTHORS]
    Comparison(model, MODELS, tmp_path, seconds=0).run(names)
    (record,) = records.load_all(tmp_path)
    assert record.original.batch_normalizations == 2
    assert set(record.tools) == {BNFOLD, "onnxruntime basic"}
    for tool_record in record.tools.values():
        assert tool_record.graph is not None
        assert tool_record.graph.batch_normalizations == 0
        assert tool_record.graph.run_error is not None
        assert tool_record.graph.run_error < 1e-6
        assert tool_record.graph.weight_error is not None
        assert 0 < tool_record.graph.weight_error < 1e-6
        assert tool_record.seconds
    assert "bnfold" in capsys.readouterr().out
    Comparison(model, MODELS, tmp_path, seconds=0).run(names)
    assert capsys.readouterr().out == "", "existing measurements are not repeated"


@pytest.mark.slow
def test_a_comparison_with_timing(tmp_path: Path) -> None:
    model = Model("conv_bn_relu_pool", "samples", "conv_bn_relu_pool", (1, 1, 8, 8))
    Comparison(model, MODELS, tmp_path, seconds=0).run([BNFOLD])
    Comparison(model, MODELS, tmp_path, seconds=0.1).run([BNFOLD])
    (record,) = records.load_all(tmp_path)
    assert set(record.tools[BNFOLD].speed) == {"all", "disabled"}
    assert all(timing.samples for timing in record.tools[BNFOLD].speed.values())


def test_relative_error_is_of_the_worst_output() -> None:
    expected = {"a": np.array([3.0, -4.0]), "b": np.array([1.0])}
    actual = {"b": np.array([1.0], np.float32), "a": np.array([3.0, -4.5], np.float32)}
    assert relative_rms(actual, expected) == pytest.approx(0.1)
    assert relative_rms(expected, expected) == 0.0


def test_no_error_without_a_truth_or_a_finite_number() -> None:
    one = {"a": np.array([1.0])}
    assert relative_rms(one, {}) is None
    assert relative_rms({}, one) is None
    assert relative_rms({"a": np.array([np.nan])}, one) is None


# --- Records --------------------------------------------------------------------------------------


def test_records_survive_the_file(tmp_path: Path) -> None:
    record = model_record(bnfold=OURS, other=FAILED)
    records.save(record, tmp_path / "data")
    (place,) = (tmp_path / "data").iterdir()
    assert records.load(place) == record
    assert '"original": [2.0, 2.0]' in place.read_text()


def test_options_of_a_model_are_for_bnfold_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def record(command: list[str], timeout: float) -> None:
        commands.append(command)
        raise CommandError("not run")

    monkeypatch.setattr("benchmarks.compare.run_alone", record)
    monkeypatch.setattr("benchmarks.tools.version", lambda package: "1.0")
    onnx.save(build("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }"), tmp_path / "net.onnx")
    model = Model("net", "torchvision", "net", (1, 4), options=("--freeze-initializers",))
    Comparison(model, tmp_path, tmp_path / "data", 0).run(["bnfold", "onnxsim"])
    assert ["--freeze-initializers" in command for command in commands] == [True, False]
    (made,) = records.load_all(tmp_path / "data")
    assert "--freeze-initializers" in page.page([replace(made, name="resnet18_overridable")])
    assert "--freeze-initializers" not in page.page([made])


# --- Summaries ------------------------------------------------------------------------------------


def test_totals() -> None:
    models = [model_record("a", bnfold=OURS), model_record("b", bnfold=tool(0.9, graph(8, 1)))]
    total = summary.total(models, BNFOLD)
    assert (total.models, total.failures) == (2, 0)
    assert (total.batch_normalizations, total.nodes) == (1, 13)
    assert (total.faster, total.slower) == (1, 1)
    assert total.speedup["all"] == pytest.approx((1.2 * 0.9) ** 0.5)
    assert total.speedup["disabled"] == pytest.approx(2 * (1.2 * 0.9) ** 0.5)
    assert (total.seconds, total.peak_mb) == (1.0, 110.0)
    assert total.run_error == 1.0


def test_sums_are_over_the_models_that_all_tools_were_run_on() -> None:
    both = model_record("both", bnfold=OURS, onnxsim=THEIRS, bnfold_with_its_proof=OURS)
    ours_alone = model_record("one", bnfold=OURS)
    without_proof = model_record("two", bnfold=OURS, onnxsim=THEIRS)
    models = [both, ours_alone, without_proof]
    assert [model.name for model in summary.compared(models)] == ["both", "two"]
    assert summary.compared([ours_alone]) == [ours_alone]
    assert "Over the 2 models" in page.page(models)


def test_rounding_is_compared_only_where_as_much_is_folded() -> None:
    rough, lazy = (tool(1, graph(5, left, weight_error=3e-7)) for left in (0, 1))
    models = [model_record(bnfold=OURS, rough=rough, lazy=lazy)]
    assert summary.total(models, BNFOLD).rounding == 1.0
    assert summary.total(models, "rough").rounding == pytest.approx(3.0)
    assert summary.total(models, "lazy").rounding is None


def test_if_a_tool_failed_the_original_counts() -> None:
    total = summary.total([model_record(other=FAILED), model_record(other=THEIRS)], "other")
    assert (total.models, total.failures) == (2, 1)
    assert (total.batch_normalizations, total.nodes) == (4 + 2, 10 + 7)
    assert total.speedup["all"] == pytest.approx(1.1**0.5)


def test_unexamined_results_are_not_summed_up() -> None:
    proof = ToolRecord("1.0", seconds=[2.0], peak_mb=[50.0])
    total = summary.total([model_record(bnfold_with_its_proof=proof)], "bnfold with its proof")
    assert not total.examined
    assert total.seconds == 2.0


def test_below_the_floor_means_beyond_the_controls_error() -> None:
    ratios = {"fine": 0.995, "excused": 0.989, "slow": 0.95}
    models = [model_record(name, bnfold=tool(ratio, graph())) for name, ratio in ratios.items()]
    assert summary.below_floor(models) == ["slow"]


def test_where_another_tool_is_better() -> None:
    better = tool(1.3, graph(3, 0, 1e-8, weight_error=1e-8), seconds=0.5)
    losses = summary.not_the_best([model_record(bnfold=OURS, other=better, failing=FAILED)])
    ahead = {measure for measure, models in losses.items() if models}
    assert ahead == {
        "nodes left",
        "error of the outputs",
        "rounding of the weights",
        "speed with onnxruntime's optimizations",
        "speed without them",
        "seconds of the tool",
    }
    assert losses["nodes left"] == [summary.Better("net", "other", 3, 5)]


def test_constants_are_counted_among_the_nodes() -> None:
    theirs = tool(1.3, graph(3, constants=9))
    models = [model_record(bnfold=OURS, other=theirs)]
    assert not summary.not_the_best(models)["nodes left"]
    total = summary.total(models, "other")
    assert (total.nodes, total.constants) == (12, 9)


def test_where_no_other_tool_is_better() -> None:
    models = [model_record(bnfold=OURS, other=THEIRS, failing=FAILED)]
    assert not any(summary.not_the_best(models).values())


def test_a_tool_that_folds_less_does_not_round_better() -> None:
    lazy = tool(1.0, graph(10, 4, weight_error=0.0))
    losses = summary.not_the_best([model_record(bnfold=OURS, other=lazy)])
    assert not losses["rounding of the weights"]


def test_an_interval_that_overlaps_is_not_faster() -> None:
    losses = summary.not_the_best([model_record(bnfold=OURS, other=tool(1.215, graph(9)))])
    assert not losses["speed with onnxruntime's optimizations"]


def test_errors_above_the_originals_are_listed() -> None:
    worse = model_record("worse", bnfold=tool(1, graph(error=2e-6)))
    losses = summary.worse_than_the_original([model_record(bnfold=OURS), worse])
    assert losses == [summary.Better("worse", summary.ORIGINAL, 1e-6, 2e-6)]


# --- The page -------------------------------------------------------------------------------------


def test_page() -> None:
    identical = ToolRecord("1.0", seconds=[1.0], peak_mb=[1.0], identical=True, graph=graph())
    text = page.page(
        [
            model_record("net", bnfold=OURS, other=THEIRS),
            model_record("same", bnfold=identical, other=FAILED),
        ]
    )
    assert "Measured on 2 cores of a processor" in text
    assert "by the protocol of\n`bnfold bench` on 2 threads, with" in text
    assert "bnfold 1.0, other 1.0, onnx 1.18, torch 2.9" in text
    assert "| net | 2.00 | 1.200 [1.190, 1.210] |  | 1.000 [0.998, 1.002] | faster |" in text
    assert "| same |  | same file |" in text
    assert "| same | same file | failed |" in text
    assert "| net | 4 / 0 / 10 | 0 / 0 / 5 | 2 / 0 / 7 |" in text
    assert "- other on same: exit code 1: no such operator" in text
    assert "- **BatchNormalizations left**: better on no model." in text


def test_the_page_counts_portable_rivals_by_themselves() -> None:
    fewer = tool(1.0, graph(3, 1))
    tied, rival = model_record("tied", bnfold=OURS), model_record("rival", bnfold=OURS, other=fewer)
    tied = tied.with_tool("onnxruntime all", fewer).with_tool("other", THEIRS)
    text = page.page([tied, rival.with_tool("onnxruntime all", fewer)])
    assert "- **nodes left**: better on 2 of 2 models: " in text
    portable = (
        "- **nodes left, by portable tools**: better on 1 of 2 models: rival (other 3, bnfold 5)."
    )
    assert portable in text


def test_page_names_models_below_the_floor() -> None:
    text = page.page([model_record("snail", bnfold=tool(0.9, graph()))])
    assert "Below 0.99\nbeyond the control's error: snail." in text
    assert "better on" in text


# --- Blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", blocks.BLOCKS)
def test_a_plain_block_becomes_what_its_authors_make_of_it(name: str) -> None:
    plain, authors = (make(name, channels=8, size=18) for make in FORMS)
    ours = bnfold.optimize(plain, check=False).to_proto()
    assert operators(ours) == operators(authors) == ["Conv", "Relu"]
    weights = [model.graph.initializer for model in (ours, authors)]
    shapes = [{tuple(tensor.dims) for tensor in tensors} for tensors in weights]
    assert shapes[0] == shapes[1]
    feeds = {"x": normal(1, 8, 18, 18)}
    expected, *results = (run_plain(model, feeds)[0] for model in (plain, authors, ours))
    for result in results:
        np.testing.assert_allclose(result, expected, atol=1e-4 * np.abs(expected).max())


FORMS = (blocks.plain, blocks.reparameterised)


# --- Regression -----------------------------------------------------------------------------------


def test_the_chain_is_a_network_that_folds() -> None:
    model = regression.chain(blocks=3, channels=4)
    onnx.checker.check_model(model, full_check=True)
    optimized = bnfold.optimize(model).to_proto()
    assert [node.op_type for node in optimized.graph.node] == ["Conv", "Relu"] * 3


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("slower", "MORE EXPENSIVE"),
        ("faster", "cheaper"),
        ("no significant difference", "no significant difference"),
    ],
)
def test_a_change_of_time_is_described(verdict: SpeedVerdict, words: str) -> None:
    summary = SpeedSummary(100, 125, 0.8, [0.5, 0.9], 1.0, [0.8, 1.25], verdict)
    assert regression.judge_time(summary).describe() == (
        f"{words}: 100 → 125 ms of CPU time, × 1.2500 [1.1111, 2.0000] (control [0.8000, 1.2500])"
    )


@pytest.mark.parametrize(
    ("new", "again", "words"),
    [
        (1_010_000, 1_001_000, "MORE EXPENSIVE: 1,000,000 → 1,010,000 instructions, × 1.0100 "),
        (990_000, 1_001_000, "cheaper: "),
        (1_002_000, 1_001_000, "no significant difference: "),
        (1_010_000, 1_020_000, "no significant difference: "),
    ],
)
def test_a_change_of_instructions_is_described(new: float, again: float, words: str) -> None:
    comparison = regression.judge_instructions(1_000_000, new, again)
    assert comparison.describe().startswith(words)
