"""Libraries of operators that onnxruntime lacks: every session knows them, in every process."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

import bnfold
from bnfold.running.libraries import registered
from tests.support.cli import REWRITTEN, run
from tests.support.graphs import batch_norm, build, normal, operators

DOMAIN = "ai.onnx.contrib"


@pytest.fixture(scope="module")
def library() -> str:
    extensions = pytest.importorskip("onnxruntime_extensions")
    path: str = extensions.get_library_path()
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a model with an operator of onnxruntime-extensions after something to fold."""
    proto = build(
        "(float[N,3,8,8] x) => (float[N,4,8,8] low, float[N,4,8,8] high) "
        "{ y = Conv(x, w) z = BatchNormalization(y, s, b, m, v) low = Neg(z) high = Neg(z) }",
        w=normal(4, 3, 1, 1),
        **batch_norm(4),
    )
    del proto.graph.node[2:]
    proto.graph.node.append(helper.make_node("NegPos", ["z"], ["low", "high"], domain=DOMAIN))
    proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    onnx.save(proto, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_model_with_foreign_operators_is_checked_and_timed(
    tmp_path: Path, model: Path, library: str
) -> None:
    place, ops = tmp_path / "out.onnx", ("--custom-ops", library)
    off = ("--certify", "off", "--truth", "off")
    run("optimize", model, place, *off).failed(5, "NegPos")
    record = run("optimize", model, place, *off, *ops, "--json").record
    assert record["equivalence"]["verdict"] == "pass"
    assert record["speed"]
    assert operators(onnx.load(place)) == ["Conv", "NegPos"]
    record = run("check", model, place, *off, *ops, "--outputs", "all", "--json").record
    assert record["equivalence"]["verdict"] == "pass"
    record = run("bench", model, *ops, "--json").record  # memory: in another process
    assert record["speed"][0]["peak_mb"]


def test_the_float64_evaluation_does_without(tmp_path: Path, model: Path, library: str) -> None:
    record = run("check", model, model, "--custom-ops", library, "--truth", "always", "--json")
    assert record.code in (0, 5)
    assert record.err == ""


def test_libraries_are_for_one_run_alone(model: Path, library: str) -> None:
    execution = bnfold.ExecutionOptions(custom_ops=[library])
    off = bnfold.CheckOptions(truth="off", certify="off")
    assert bnfold.optimize(model, execution=execution, checking=off).record.equivalence is not None
    assert registered() == ()
    with pytest.raises(bnfold.NotVerifiedError, match="NegPos"):
        bnfold.optimize(model, checking=off)


@pytest.mark.parametrize("command", ["optimize", "check", "bench"])
def test_what_is_no_library_is_told(tmp_path: Path, command: str) -> None:
    arguments = (command, REWRITTEN, *(() if command == "bench" else (tmp_path / "out.onnx",)))
    missing = tmp_path / "missing.so"
    run(*arguments, "--custom-ops", missing).failed(2, "--custom-ops", "missing.so", "exist")
    (tmp_path / "text.so").write_text("no library")
    outcome = run(*arguments, "--custom-ops", tmp_path / "text.so")
    outcome.failed(4, "--custom-ops", "text.so", "onnxruntime cannot use it")
    assert not (tmp_path / "out.onnx").exists()


def test_a_library_without_effect_is_told(tmp_path: Path, library: str) -> None:
    quick = ("--no-check", "--no-bench")
    outcome = run("optimize", REWRITTEN, tmp_path / "o", *quick, "--custom-ops", library)
    assert outcome.code == 0
    assert "leaves --custom-ops without effect" in outcome.err
