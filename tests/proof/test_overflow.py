"""Where the original alone is infinite or NaN, float64 says whether the other model is right."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.record.data import Equivalence
from bnfold.report.notes import remarks
from tests.support.checks import compared
from tests.support.graphs import Parameters, build, normal

FLOATS = "(float[N,5] x) => (float[N,5] y)"
WEIGHTS: Parameters = {
    "w": normal(5, 5) * 5,
    "many": np.array(12, np.float32),
    "little": np.array(1e-3, np.float32),
    "ten": np.array(10, np.float32),
    "large": np.array(1e6, np.float32),
    "low": np.array(-100, np.float32),
    "more": np.array(1.05, np.float32),
    "k": np.array(3e38, np.float32),
}
LOG_SIGMOID = "s = Sigmoid(x) y = Log(s)", "n = Neg(x) s = Softplus(n) y = Neg(s)"
LOG_SOFTMAX = (
    "p = MatMul(x, w) s = Softmax<axis=1>(p) y = Log(s)",
    "p = MatMul(x, w) y = LogSoftmax<axis=1>(p)",
)
RATIO = "p = Mul(x, many) e = Exp(p) q = Div(e, e) y = Mul(q, x)", "y = Identity(x)"


def checked(one: str, other: str) -> Equivalence:
    models = []
    for lines in (one, other):
        read = {name: array for name, array in WEIGHTS.items() if f" {name})" in lines}
        models.append(build(f"{FLOATS} {{ {lines} }}", **read))
    return compared(*models, providers="cpu")


@pytest.mark.parametrize(("wrong", "right"), [LOG_SIGMOID, LOG_SOFTMAX, RATIO])
def test_what_is_right_where_the_original_overflows_passes(wrong: str, right: str) -> None:
    """And not the reverse."""
    found = checked(wrong, right)
    assert found.verdict == "pass", found.reason
    (output,) = found.providers[0].levels[0].outputs
    assert output.by_float64
    assert not output.mismatch
    (note,) = [note for note in remarks(output) if "infinite" in note]
    count = output.nonfinite.original
    assert f"in the original alone at {count} place" in note
    reverse = checked(right, wrong)
    assert reverse.verdict == "fail"
    assert f"is NaN or infinite at {count} places" in reverse.reason


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (RATIO[0], "a = Abs(x) g = Greater(a, ten) z = Mul(x, more) y = Where(g, z, x)"),
        (RATIO[0], "a = Abs(x) g = Greater(a, ten) r = Add(x, large) z = Sub(r, large) "
         "y = Where(g, z, x)"),
        (RATIO[0], "a = Abs(x) g = Greater(a, ten) z = Mul(x, more) y = Where(g, x, z)"),
        (LOG_SIGMOID[0], "n = Neg(x) s = Softplus(n) t = Neg(s) y = Sub(t, little)"),
        (LOG_SIGMOID[0], "n = Neg(x) s = Softplus(n) e = Mul(s, k) t = Div(e, k) y = Neg(t)"),
        ("r = Relu(x) y = Log(r)", "r = Relu(x) s = Log(r) y = Max(s, low)"),
        ("r = Relu(x) y = Log(r)", "r = Relu(x) s = Add(r, little) y = Log(s)"),
    ],
)  # fmt: skip
def test_what_is_wrong_where_the_original_overflows_fails(one: str, other: str) -> None:
    """Also where it is wrong nowhere else, or in float32 alone; where it overflows elsewhere, or
    float64 is infinite."""
    assert checked(one, other).verdict == "fail"
