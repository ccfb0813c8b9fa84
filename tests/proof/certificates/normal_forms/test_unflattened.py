"""What a tool computes of a matrix with the rows of a tensor is proven to be the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.normal_forms.unflattened import with_rows_of_tensors
from bnfold.proof.certificates.windows import Window
from bnfold.proof.float64.evaluation import Truth64
from tests.support.graphs import Parameters, named_in, normal, operators
from tests.support.windows import window

TOKENS = "(float[2,3,5] x) => (float[a,b,c] y)"
NUMBERS: Parameters = {
    "rows": np.array([-1, 5]),
    "twisted": np.array([5, 6]),
    "back": np.array([2, 3, 4]),
    "same": np.array([2, 3, 5]),
    "other": np.array([3, 2, 4]),
    "w": normal(5, 4),
    "wt": normal(4, 5),
    "v": normal(4, 5, seed=1),
    "b": normal(4),
    "g": normal(5, seed=2),
    "row": normal(1, 5, seed=3),
    "column": normal(6, 1, seed=4),
    "whole": normal(6, 4, seed=5),
    "number": np.array(1.5, np.float32),
    "half": np.array(0.5, np.float32),
}
TO_ROWS = "r = Reshape(x, rows)"


def pair_of(before: str, after: str, opset: int = 17) -> Window:
    return window(
        TOKENS, before, after, named_in(before, NUMBERS), named_in(after, NUMBERS), opset=opset
    )


ROWS = [
    ("m = MatMul(x, w) y = Add(m, b)", f"{TO_ROWS} g0 = Gemm(r, w, b) y = Reshape(g0, back)"),
    ("t = Transpose<perm=[1,0]>(wt) m = MatMul(x, t) y = Add(b, m)",
     f"{TO_ROWS} g0 = Gemm<transB=1>(r, wt, b) y = Reshape(g0, back)"),
    ("y = MatMul(x, w)", f"{TO_ROWS} g0 = Gemm(r, w) y = Reshape(g0, back)"),
    ("y = MatMul(x, w)", f"{TO_ROWS} g0 = MatMul(r, w) y = Reshape(g0, back)"),
    ("m = MatMul(x, w) a = Add(m, b) e = Erf(a) o = Add(e, number) p = Mul(a, o) h = Mul(p, half) "
     "y = MatMul(h, v)",
     f"{TO_ROWS} a = Gemm(r, w, b) e = Erf(a) o = Add(e, number) p = Mul(a, o) h = Mul(p, half) "
     "g0 = Gemm(h, v) y = Reshape(g0, same)"),
    ("l = LayerNormalization<axis=-1>(x, g) s = Softmax<axis=-1>(l) y = Sub(number, s)",
     f"{TO_ROWS} l = LayerNormalization<axis=1>(r, g) s = Softmax<axis=1>(l) d = Sub(number, s) "
     "y = Reshape(d, same)"),
    ("y = Softmax<axis=-1>(x)", f"{TO_ROWS} s = Softmax(r) y = Reshape(s, same)"),
    ("p = Mul(x, row) y = Max(p, half, g)",
     f"{TO_ROWS} p = Mul(r, row) d = Max(p, half, g) y = Reshape(d, same)"),
    ("y = MatMul(x, w)",
     "f = Flatten<axis=2>(x) g0 = Gemm(f, w) y = Reshape(g0, back)"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), ROWS)
def test_rows_of_a_matrix_are_those_of_a_tensor(before: str, after: str) -> None:
    pair = pair_of(before, after)
    changed = with_rows_of_tensors(pair)
    assert not {"Flatten", "Gemm", "Reshape"} & set(operators(changed.after))
    feeds = {"x": normal(2, 3, 5)}
    values = [Truth64(model).outputs(feeds)["y"] for model in (*pair.models, *changed.models)]
    for value in values[1:]:
        assert np.allclose(value, values[0], rtol=1e-12, atol=1e-12)
    assert certify(pair).verdict == "certified"


@pytest.mark.parametrize(
    "after",
    [
        "r = Reshape(x, twisted) t = Transpose<perm=[1,0]>(r) g0 = Gemm(t, w) "
        "y = Reshape(g0, back)",
        f"{TO_ROWS} g0 = Gemm(r, w) y = Reshape(g0, other)",
        f"{TO_ROWS} g0 = Gemm(r, w, whole) y = Reshape(g0, back)",
        f"{TO_ROWS} g0 = Gemm<alpha=2.0>(r, w) y = Reshape(g0, back)",
        f"{TO_ROWS} g0 = Gemm<beta=0.5>(r, w, b) y = Reshape(g0, back)",
        f"{TO_ROWS} p = Mul(r, column) g0 = Gemm(p, w) y = Reshape(g0, back)",
        f"{TO_ROWS} p = Softmax<axis=0>(r) g0 = Gemm(p, w) y = Reshape(g0, back)",
        f"{TO_ROWS} p = CumSum(r, first) g0 = Gemm(p, w) y = Reshape(g0, back)",
        f"{TO_ROWS} t = Transpose<perm=[1,0]>(r) q = MatMul(t, r) p = MatMul(r, q) "
        "y = Reshape(p, same)",
        f"{TO_ROWS} p = ReduceMean<axes=[0]>(r) q = Sub(r, p) y = Reshape(q, same)",
    ],
)
def test_what_mixes_rows_stays(after: str) -> None:
    numbers = NUMBERS | {"first": np.array(0)}
    used = named_in(after, numbers)
    pair = window(TOKENS, after, after, used)
    changed = with_rows_of_tensors(pair)
    feeds = {"x": normal(2, 3, 5)}
    old, new = (Truth64(model).outputs(feeds)["y"] for model in (pair.before, changed.before))
    assert np.array_equal(old, new)
    assert "Reshape" in changed.operators


@pytest.mark.parametrize("opset", [9, 11, 12, 13])
def test_a_softmax_was_over_all_axes_from_one_on(opset: int) -> None:
    text = f"{TO_ROWS} s = Softmax(r) y = Reshape(s, same)"
    whole = "y = Softmax(x)" if opset < 13 else "y = Softmax<axis=-1>(x)"
    pair = window(TOKENS, whole, text, {}, named_in(text, NUMBERS), opset=opset)
    assert (certify(pair).verdict == "certified") == (opset == 13)
    feeds = {"x": normal(2, 3, 5)}
    changed = with_rows_of_tensors(pair)
    old, new = (Truth64(model).outputs(feeds)["y"] for model in (pair.after, changed.after))
    assert np.allclose(old, new, rtol=1e-12)


def test_tensors_of_other_first_sizes_stay_apart() -> None:
    interface = "(float[2,3,5] x, float[3,2,5] z) => (float[a,b,c] y)"
    both = "r = Reshape(x, rows) s = Reshape(z, rows) a = Add(r, s) y = Reshape(a, same)"
    same = window(interface, both, both, named_in(both, NUMBERS))
    assert with_rows_of_tensors(same).operators == same.operators
    wrong = window(interface, both, "y = Add(x, x)", named_in(both, NUMBERS), {})
    assert certify(wrong).verdict != "certified"


def test_another_row_or_bias_is_no_proof() -> None:
    before, after = ROWS[0]
    changed = NUMBERS | {"b": NUMBERS["b"] + np.float32(0.01)}
    pair = window(TOKENS, before, after, named_in(before, NUMBERS), named_in(after, changed))
    assert certify(pair).verdict == "differs"
    for (one, _), (_, other) in itertools.permutations(ROWS[:1] + ROWS[4:7], 2):
        assert certify(pair_of(one, other)).verdict != "certified"


def test_a_free_size_keeps_the_window() -> None:
    before, after = ROWS[0]
    free = TOKENS.replace("2,3,5", "N,3,5")
    pair = window(free, before, after, named_in(before, NUMBERS), named_in(after, NUMBERS))
    assert with_rows_of_tensors(pair) is pair
