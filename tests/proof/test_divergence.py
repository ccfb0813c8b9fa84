"""Where two models first diverge, and tolerances by output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from tests.support.checks import compared
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
    return compared(original, other, outputs="all").divergence


def test_the_first_value_that_differs_is_named() -> None:
    equivalence = bnfold.check(RIGHT, WRONG, outputs="all").equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"
    assert equivalence.divergence is not None
    assert (equivalence.divergence.value, equivalence.divergence.op_type) == ("s", "Sigmoid")
    assert equivalence.divergence.compared == 6
    assert (equivalence.divergence.max_abs or 0) > 0.01


def test_a_divergence_that_no_output_shows_is_found_too() -> None:
    """The two differ within, where a Relu hides it."""
    text = "(float[N,4] x) => (float[N,4] y) {{ a = Abs(x) b = {} y = Relu(b) }}"
    same = build(text.format("Neg(a)"))
    other = build(text.format("Sub(low, a)"), low=np.full(1, -1, np.float32))
    equivalence = bnfold.check(same, other, outputs="all").equivalence
    assert equivalence is not None
    assert equivalence.divergence is not None
    assert equivalence.divergence.value == "b"


def place_of(original: onnx.ModelProto, other: onnx.ModelProto) -> tuple[str, str, str, str]:
    place = compared(original, other, outputs="all").divergence
    assert place is not None
    return place.value, place.op_type, place.other_value, place.other_op_type


NUMBERED = """(float[N,3,8,8] x) => (float[N,4] y, float[N,3,8,8] z) {
    z = Neg(x) s = Conv(x, w) c = Relu(s) r = Sigmoid(c) y2 = GlobalAveragePool(r) y = Flatten(y2)
}"""
"""RIGHT with other names, some of which are those of other values there."""


def test_names_do_not_decide() -> None:
    assert divergence(RIGHT, build(NUMBERED, w=WEIGHTS)) is None
    wrong = NUMBERED.replace("r = Sigmoid(c)", "r = HardSigmoid(c)")
    assert place_of(RIGHT, build(wrong, w=WEIGHTS)) == ("s", "Sigmoid", "r", "HardSigmoid")


NORMALIZED = """(float[N,3,9,9] x) => (float[N,4] y) {
    c = Conv(x, w) b = BatchNormalization(c, scale, shift, mean, var) r = Relu(b)
    d = Conv(r, v) e = BatchNormalization(d, scale, shift, mean, var) t = Tanh(e)
    g = GlobalAveragePool(t) y = Flatten(g)
}"""
CONSTANTS: dict[str, Any] = {
    "w": normal(4, 3, 3, 3),
    "v": normal(4, 4, 3, 3, seed=1),
    "scale": np.linspace(0.5, 2, 4, dtype=np.float32),
    "shift": normal(4, seed=2),
    "mean": normal(4, seed=3),
    "var": np.linspace(0.5, 2, 4, dtype=np.float32),
}


def folded(**changes: np.ndarray) -> onnx.ModelProto:
    """Return NORMALIZED without its BatchNormalizations, and with other names throughout."""
    own = {**CONSTANTS, **changes}
    factor = own["scale"] / np.sqrt(own["var"] + np.float32(1e-5))
    bias = own["shift"] - own["mean"] * factor
    weights: dict[str, Any] = {name: own[name] * factor.reshape(4, 1, 1, 1) for name in ("w", "v")}
    text = (
        "(float[N,3,9,9] x) => (float[N,4] y) { n1 = Conv(x, w, b) n2 = Relu(n1) "
        "n3 = Conv(n2, v, b) n4 = Tanh(n3) n5 = GlobalAveragePool(n4) y = Flatten(n5) }"
    )
    return build(text, **weights, b=bias)


def test_values_that_a_rewrite_took_away_are_no_divergence() -> None:
    original = build(NORMALIZED, **CONSTANTS)
    assert divergence(original, folded()) is None
    first = CONSTANTS["w"].copy()
    first[1] *= 1.1
    assert place_of(original, folded(w=first)) == ("c", "Conv", "n1", "Conv")
    second = CONSTANTS["v"].copy()
    second[1, 2, 0, 0] += 0.5
    assert place_of(original, folded(v=second)) == ("d", "Conv", "n3", "Conv")


def test_sizes_that_became_constants_are_no_divergence() -> None:
    text = """(float[2,3,4,4] x) => (float[2,3,16] y) {{
        n = Shape(x) f = Gather(n, front) s = Concat <axis = 0> (f, rest) a = {}(x) {} }}"""
    constants: dict[str, Any] = {
        "front": np.array([0, 1]),
        "rest": np.array([16]),
        "sizes": np.array([2, 3, 16]),
    }
    original = build(text.format("Sin", "y = Reshape(a, s)"), **constants)
    other = "(float[2,3,4,4] x) => (float[2,3,16] y) { k = Cos(x) y = Reshape(k, sizes) }"
    assert place_of(original, build(other, **constants)) == ("a", "Sin", "k", "Cos")


def test_models_of_one_operator_and_of_other_outputs() -> None:
    one = build("(float[N,4] x) => (float[N,4] y) { y = Exp(x) }")
    assert place_of(one, build("(float[N,4] x) => (float[N,4] y) { y = Cosh(x) }")) == (
        "y",
        "Exp",
        "y",
        "Cosh",
    )
    other = build("(float[N,4] x) => (float[N,4] q) { q = Exp(x) }")
    assert divergence(one, other) is None  # another interface: the verdict says it


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**16), depth=st.integers(1, 6), at=st.integers(0, 5))
def test_the_operator_that_was_changed_is_found(seed: int, depth: int, at: int) -> None:
    """In chains of operators, each with a skip, whose values have other names in the other."""
    draw = np.random.default_rng(seed)
    operators = [str(draw.choice(["Tanh", "Sin", "Sigmoid", "Atan"])) for _ in range(depth)]
    at %= depth

    def chain(prefix: str, operators: list[str]) -> onnx.ModelProto:
        steps = [f"{prefix}0 = Mul(x, w)"]
        for number, operator in enumerate(operators):
            steps.append(f"{prefix}t{number} = {operator}({prefix}{number})")
            steps.append(f"{prefix}{number + 1} = Add({prefix}t{number}, {prefix}{number})")
        steps.append(f"y = Identity({prefix}{depth})")
        return build(
            f"(float[N,7] x) => (float[N,7] y) {{ {' '.join(steps)} }}", w=normal(7, seed=seed)
        )

    changed = [*operators]
    changed[at] = "Softsign" if operators[at] != "Softsign" else "Cos"
    found = place_of(chain("a", operators), chain("b", changed))
    assert found == (f"at{at}", operators[at], f"bt{at}", changed[at])


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
