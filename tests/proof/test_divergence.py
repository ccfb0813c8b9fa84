"""Where two models first diverge, and tolerances by output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import bnfold
from tests.support.cli import run
from tests.support.graphs import build, normal

TEXT = (
    "(float[N,3,8,8] x) => (float[N,4] y, float[N,3,8,8] z) { c = Conv(x, w) r = Relu(c) "
    "s = Sigmoid(r) g = GlobalAveragePool(s) y = Flatten(g) z = Neg(x) }"
)
WEIGHTS = normal(4, 3, 3, 3)
RIGHT = build(TEXT, w=WEIGHTS)
WRONG = build(TEXT.replace("s = Sigmoid(r)", "s = HardSigmoid(r)"), w=WEIGHTS)


def divergence(original: onnx.ModelProto, other: onnx.ModelProto) -> object:
    equivalence = bnfold.check(original, other, outputs="all").equivalence
    assert equivalence is not None
    return equivalence.divergence


def test_the_first_value_that_differs_is_named() -> None:
    equivalence = bnfold.check(RIGHT, WRONG, outputs="all").equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"
    assert equivalence.divergence is not None
    assert (equivalence.divergence.value, equivalence.divergence.op_type) == ("s", "Sigmoid")
    assert equivalence.divergence.compared == 6
    assert equivalence.divergence.max_abs > 0.01


def test_a_divergence_that_no_output_shows_is_found_too() -> None:
    """The two differ within, where a Relu hides it."""
    text = "(float[N,4] x) => (float[N,4] y) {{ a = Abs(x) b = {} y = Relu(b) }}"
    same = build(text.format("Neg(a)"))
    other = build(text.format("Sub(low, a)"), low=np.full(1, -1, np.float32))
    equivalence = bnfold.check(same, other, outputs="all").equivalence
    assert equivalence is not None
    assert equivalence.divergence is not None
    assert equivalence.divergence.value == "b"


def test_equal_models_diverge_nowhere() -> None:
    assert divergence(RIGHT, RIGHT) is None
    renamed = build(TEXT.replace("r = Relu(c)", "q = Relu(c) r = Identity(q)"), w=WEIGHTS)
    assert divergence(RIGHT, renamed) is None


def test_it_is_not_looked_for_unless_asked() -> None:
    equivalence = bnfold.check(RIGHT, WRONG).equivalence
    assert equivalence is not None
    assert equivalence.divergence is None
    with pytest.raises(bnfold.UsageError, match="unknown outputs 'some'"):
        bnfold.check(RIGHT, WRONG, outputs="some")


def test_the_command_names_it(tmp_path: Path) -> None:
    onnx.save(RIGHT, tmp_path / "right.onnx")
    onnx.save(WRONG, tmp_path / "wrong.onnx")
    outcome = run("check", tmp_path / "right.onnx", tmp_path / "wrong.onnx", "--outputs", "all")
    assert outcome.code == 1
    assert "first diverge at s (Sigmoid" in outcome.out


# --- Tolerances by output -------------------------------------------------------------------------


def off(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """Return the model with its first output off by a factor."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    tensor = onnx.numpy_helper.from_array(np.full(1, factor, np.float32), "factor")
    other.graph.initializer.append(tensor)
    other.graph.node[4].output[0] = "f"
    other.graph.node.append(onnx.helper.make_node("Mul", ["f", "factor"], ["y"]))
    return other


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 1),
        (["--rtol", "y=0.1", "--atol", "y=0.1"], 0),
        (["--rtol", "z=0.1", "--atol", "z=0.1"], 1),
        (["--rtol", "0.1", "--atol", "0.1"], 0),
        (["--rtol", "0.1", "--atol", "0.1", "--rtol", "y=0", "--atol", "y=0"], 1),
        (["--rtol", "u=0.1"], 2),
        (["--rtol", "y=much"], 2),
        (["--atol", "-1"], 2),
        (["--atol", "y=inf"], 2),
    ],
)
def test_tolerances_by_output(tmp_path: Path, options: list[str], code: int) -> None:
    onnx.save(RIGHT, tmp_path / "right.onnx")
    onnx.save(off(RIGHT, 1.01), tmp_path / "off.onnx")
    outcome = run("check", tmp_path / "right.onnx", tmp_path / "off.onnx", *options)
    assert outcome.code == code, outcome.err


def test_tolerances_by_output_in_python() -> None:
    other = off(RIGHT, 1.01)
    equivalence = bnfold.check(RIGHT, other, rtol={"y": 0.1}, atol={"y": 0.1}).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "pass"
    equivalence = bnfold.check(RIGHT, other, rtol={"z": 0.1}, atol={"z": 0.1}).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"
