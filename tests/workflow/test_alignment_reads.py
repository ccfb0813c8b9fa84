"""Both sides of a window read the same values: what one computes of them, the other does, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.alignment import certified
from tests.support.graphs import Parameters, build, normal

INTERFACE = "(float[n,5,4] x) => (float[n,4,5] y, float[n,4,5] z)"
HEAD = "l = Exp(x) t = Transpose<perm=[0,2,1]>(l) z = Neg(t) m = MatMul(l, w)"
WEIGHTS: Parameters = {"w": normal(4, 4), "two": np.array(2, np.float32)}


def pair(before: str, after: str) -> list[onnx.ModelProto]:
    """Return two models that compute what is added to a value in two layouts of it."""
    models = []
    for tail in (before, after):
        text = f"{HEAD} {tail}"
        read = {name: array for name, array in WEIGHTS.items() if f" {name})" in text}
        models.append(build(f"{INTERFACE} {{ {text} }}", **read))
    return models


TRANSPOSED = "u = Transpose<perm=[0,2,1]>(m) y = Add(t, u)"
REPEATED = "u = Transpose<perm=[0,2,1]>(m) a = Add(t, u) n = Mul(a, two) s = Neg(a) y = Add(n, s)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (TRANSPOSED, "b = Add(l, m) y = Transpose<perm=[0,2,1]>(b)"),
        (TRANSPOSED, "b = Add(m, l) y = Transpose<perm=[0,2,1]>(b)"),
        (REPEATED, "b = Add(l, m) n = Mul(b, two) s = Neg(b) c = Add(n, s) "
         "y = Transpose<perm=[0,2,1]>(c)"),
    ],
)  # fmt: skip
def test_a_value_and_its_transpose_are_no_two_inputs(
    before: str, after: str, tmp_path: Path
) -> None:
    """In both directions."""
    one, other = pair(before, after)
    assert not certified(one, other, tmp_path).open
    assert not certified(other, one, tmp_path).open


@pytest.mark.parametrize(
    "after",
    [
        "b = Sub(l, m) y = Transpose<perm=[0,2,1]>(b)",
        "b = Add(l, l) y = Transpose<perm=[0,2,1]>(b)",
        "b = Add(l, m) s = Neg(b) y = Transpose<perm=[0,2,1]>(s)",
    ],
)
def test_what_is_wrong_in_another_layout_is_not_certified(after: str, tmp_path: Path) -> None:
    one, other = pair(TRANSPOSED, after)
    found = certified(one, other, tmp_path)
    assert [window.output for window in found.open] == ["y"]
    assert found.open[0].differs


def test_parts_of_which_one_is_read_stay_apart(tmp_path: Path) -> None:
    """Of a Split that is taken in, another part may be read as it is."""
    interface = "(float[n,4,6] x) => (float[n,3,4] y, float[n,4,3] z)"
    head = "l = Exp(x) a, b = Split<axis=2>(l) z = Neg(b)"
    one = f"{head} t = Transpose<perm=[0,2,1]>(a) u = Transpose<perm=[0,2,1]>(b) y = Add(t, u)"
    other = f"{head} c = Add(a, b) y = Transpose<perm=[0,2,1]>(c)"
    models = [build(f"{interface} {{ {lines} }}") for lines in (one, other)]
    assert not certified(models[0], models[1], tmp_path).open
    wrong = build(f"{interface} {{ {other.replace('(a, b)', '(a, a)')} }}")
    assert certified(models[0], wrong, tmp_path).open
