"""A wrong rewrite among right ones is found, named, and dropped on request."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import bnfold
from bnfold.modelfile.model import LoadedModel
from bnfold.rewriting.contract import Exactness, Op, Pass, Replace
from bnfold.rewriting.registry import all_passes
from bnfold.workflow.variants import Variants
from tests.support.cli import MODELS, REWRITTEN, run
from tests.support.graphs import Parameters, batch_norm, build, normal, operators
from tests.support.slow import few


def planted(*sites: str) -> AbstractContextManager[object]:
    """Add a pass that replaces Relu by Abs at these sites."""

    def function(node: ir.Node) -> Replace | None:
        if node.outputs[0].name not in sites:
            return None
        return Replace([node], {node.outputs[0]: Op("Abs", node.inputs, like=node)})

    wrong = Pass("relu-to-abs", ("Relu",), Exactness.BITWISE, (), function, "Wrong.")

    def choose(only: Iterable[str] = (), skip: Iterable[str] = ()) -> list[Pass]:
        passes = [*all_passes(), wrong]
        return [candidate for candidate in passes if not only or candidate.name in only]

    return mock.patch("bnfold.workflow.variants.choose_passes", choose)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Six blocks of Conv, BatchNormalization and Relu."""
    lines, x = [], "x"
    weights: Parameters = {}
    for i in range(6):
        weights[f"w{i}"] = normal(4, 4, 3, 3, seed=i) / np.float32(6)
        for name, content in batch_norm(4, seed=i).items():
            weights[f"{name}{i}"] = content
        lines.append(
            f"c{i} = Conv<pads=[1,1,1,1]>({x}, w{i}) "
            f"n{i} = BatchNormalization(c{i}, s{i}, b{i}, m{i}, v{i}) r{i} = Relu(n{i})"
        )
        x = f"r{i}"
    text = f"(float[N,4,8,8] x) => (float[N,4,8,8] {x}) {{ {' '.join(lines)} }}"
    path = tmp_path / "m.onnx"
    onnx.save(build(text, **weights), path)
    return path


@pytest.mark.parametrize("site", few(["r0", "r3", "r5"], ["r3"]))
def test_the_wrong_rewrite_is_named(model: Path, site: str) -> None:
    with planted(site):
        outcome = run("optimize", model, "--json", "--certify", "off")
    outcome.failed(1, "relu-to-abs", repr(site), "nothing was written", "--drop-culprit")
    assert not model.with_name("m.bnfold.onnx").exists()
    (culprit,) = outcome.record["equivalence"]["culprits"]
    assert (culprit["pass"], culprit["site"], culprit["dropped"]) == ("relu-to-abs", site, False)
    assert culprit["output"] == "r5"
    assert culprit["worst"]["original"] != culprit["worst"]["optimized"]
    assert "r5" in culprit["reason"]


def test_only_one_trial_model_exists_at_a_time(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, places = Variants.write, list[Path]()
    models: list[weakref.ref[ir.Node]] = []  # nodes are in the cycles that keep weights alive

    def spy(self: Variants, loaded: LoadedModel) -> Path:
        assert not any(place.exists() for place in places)
        assert not any(model() for model in models)
        models.append(weakref.ref(loaded.ir.graph[0]))
        places.append(write(self, loaded))
        return places[-1]

    monkeypatch.setattr(Variants, "write", spy)
    with planted("r3"):
        assert run("optimize", model, "--certify", "off").code == 1
    assert len(places) > 3


@pytest.mark.slow
def test_the_terminal_names_the_culprit(model: Path) -> None:
    with planted("r3"):
        outcome = run("optimize", model, "--certify", "off")
    assert "the check fails with relu-to-abs at r3" in outcome.out


def test_drop_culprit_writes_the_rest(model: Path) -> None:
    saved = model.with_name("inputs")
    with planted("r1", "r4"):
        outcome = run("optimize", model, "--drop-culprit", "--json", "--save-inputs", saved)
    assert outcome.code == 0
    equivalence = outcome.record["equivalence"]
    assert equivalence["verdict"] == "pass"
    dropped = [(culprit["site"], culprit["dropped"]) for culprit in equivalence["culprits"]]
    assert dropped == [("r1", True), ("r4", True)]
    kept = [
        refusal for refusal in outcome.record["refusals"] if refusal["reason"] == "NOT_EQUIVALENT"
    ]
    assert sorted(refusal["site"] for refusal in kept) == ["r1", "r4"]
    written = onnx.load(model.with_name("m.bnfold.onnx"))
    assert operators(written) == ["Conv", "Relu"] * 6
    assert "which was dropped" in run_again(model)


def run_again(model: Path) -> str:
    with planted("r1"):
        return run("optimize", model, "--drop-culprit").out


def test_if_nothing_else_was_rewritten_the_output_is_the_input(tmp_path: Path) -> None:
    model = build("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    onnx.save(model, tmp_path / "m.onnx")
    with planted("y"):
        record = run("optimize", tmp_path / "m.onnx", "--drop-culprit", "--json").record
    assert record["output"]["same"]
    assert record["equivalence"]["verdict"] == "identical"
    assert [culprit["site"] for culprit in record["equivalence"]["culprits"]] == ["y"]


def test_if_no_rewrite_is_to_blame_none_is_named(model: Path) -> None:
    """A different reference model simulates a wrong change of meaning."""
    with mock.patch("bnfold.workflow.optimization.Optimization._reference", REWRITTEN):
        outcome = run("optimize", model, "--drop-culprit", "--json")
    assert outcome.code == 1
    assert outcome.record["equivalence"]["culprits"] == []


def test_a_wrong_rewrite_that_does_not_run_is_named(model: Path) -> None:
    def function(node: ir.Node) -> Replace | None:
        shape = Op("Reshape", [node.inputs[0], node.inputs[0]], like=node)
        return Replace([node], {node.outputs[0]: shape}) if node.op_type == "Relu" else None

    broken = Pass("break", ("Relu",), Exactness.BITWISE, (), function, "Wrong.")
    chosen = [*all_passes(), broken]
    with mock.patch("bnfold.workflow.variants.choose_passes", return_value=chosen):
        outcome = run("optimize", model, "--json")
    assert outcome.code == 1
    (culprit,) = outcome.record["equivalence"]["culprits"]
    assert (culprit["pass"], culprit["site"], culprit["worst"]) == ("break", "r0", None)
    assert "onnxruntime cannot load" in culprit["reason"]


def test_a_culprit_that_only_float64_reveals_is_named(model: Path) -> None:
    """Such a small slope stays within the tolerance."""

    def function(node: ir.Node) -> Replace | None:
        if node.outputs[0].name != "r5":
            return None
        slope = [ir.AttrFloat32("alpha", 1.4e-6)]
        return Replace([node], {node.outputs[0]: Op("LeakyRelu", node.inputs, slope, node)})

    leaky = Pass("leak", ("Relu",), Exactness.ROUNDED, (), function, "Wrong.")
    with mock.patch("bnfold.workflow.variants.choose_passes", return_value=[*all_passes(), leaky]):
        outcome = run("optimize", model, "--json", "--certify", "off")
    assert outcome.code == 1
    assert "in float64, output" in outcome.record["equivalence"]["reason"]
    (culprit,) = outcome.record["equivalence"]["culprits"]
    assert (culprit["pass"], culprit["site"]) == ("leak", "r5")


def test_weights_that_overflow_in_half_precision_are_refused_or_caught() -> None:
    model = build(
        "(float16[N,3,8,8] x) => (float16[N,4,8,8] y) "
        "{ c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }",
        w=(normal(4, 3, 1, 1) * 100).astype(np.float16),
        s=np.full(4, 1000, np.float16),
        b=np.zeros(4, np.float16),
        m=np.zeros(4, np.float16),
        v=np.ones(4, np.float16),
    )
    result = bnfold.optimize(model, check=False)
    assert [refusal.reason for refusal in result.record.refusals] == ["NOT_REPRESENTABLE"]


def test_training_mode_dropout_is_not_verified() -> None:
    model = onnx.load(MODELS / "training_mode.onnx")
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.doc_string = "another"
    equivalence = bnfold.check(model, other, certify="off").equivalence
    assert equivalence is not None
    assert equivalence.verdict == "not-verified"


def test_dropping_a_rewrite_keeps_the_data_that_both_results_share(tmp_path: Path) -> None:
    """The wrong rewrite changes no weight, so both write a data file of the same name."""
    model = build(
        "(float[N,64] x) => (float[N,64] y) { h = MatMul(x, w) d = Dropout(h) y = Relu(d) }",
        w=normal(64, 64),
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    with planted("y"):
        outcome = run("optimize", path, tmp_path / "out.onnx", "--drop-culprit")
    assert outcome.code == 0, outcome
    assert run("check", path, tmp_path / "out.onnx").code == 0
    assert len(list(tmp_path.glob("out.onnx.*.data"))) == 1
