"""Of a product that is moved only, the columns that are read are computed."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.normal_forms.columns import with_columns_read
from bnfold.proof.certificates.windows import Window
from bnfold.running.evaluation import evaluate
from tests.support.graphs import Parameters, normal, operators
from tests.support.windows import window

HEADS = "(float[2,5,6] x) => (float[a,b,c,d] y)"
PRODUCT = "m = MatMul(x, w) s = Add(m, b)"
APART = "r = Reshape(s, shape) t = Transpose<perm=[2,0,3,1,4]>(r) q, k, v = Split<axis=0>(t)"
NUMBERS: Parameters = {
    "shape": np.array([2, 5, 3, 2, 4]),
    "first": np.array([0]),
    "half": np.array(0.5, np.float32),
    "row": normal(24, seed=1),
}
WEIGHTS: Parameters = {"w": normal(6, 24), "b": normal(24)}


def read(text: str, weights: Parameters) -> Parameters:
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return {name: array for name, array in {**NUMBERS, **weights}.items() if name in words}


def pair(before: str, after: str, others: Parameters = WEIGHTS) -> Window:
    return window(HEADS, before, after, read(before, WEIGHTS), read(after, others))


def scaled(columns: slice, factor: float) -> Parameters:
    factors = np.ones(24, np.float32)
    factors[columns] = factor
    return {name: array * factors for name, array in WEIGHTS.items()}


QUERIES, KEYS = slice(0, 8), slice(8, 16)
KEY = f"{PRODUCT} {APART} y = Squeeze(k, first)"
QUERY = f"{PRODUCT} {APART} y = Squeeze(q, first)"
SCALED = f"{PRODUCT} {APART} u = Squeeze(q, first) y = Mul(u, half)"


def test_the_columns_that_are_read_are_computed() -> None:
    made = with_columns_read(pair(KEY, KEY))
    assert operators(made.before) == ["MatMul", "Add", "Reshape", "Gather"]
    (matrix,) = (array for name, array in made.constants.items() if array.shape == (6, 8))
    assert np.array_equal(matrix, WEIGHTS["w"][:, KEYS])
    feeds = {"x": normal(2, 5, 6, seed=3)}
    for before, after in zip(pair(KEY, KEY).models, made.models, strict=True):
        (expected,), (found,) = evaluate(before, feeds) or (), evaluate(after, feeds) or ()
        assert np.allclose(expected, found, 1e-6, 1e-6)


FLAT = "(float[5,6] x) => (float[a,b] y)"
MAPS = "(float[2,6,3,3] x) => (float[a,b,c,d] y)"
CONV = "s = Conv(x, f, b)"
MORE: Parameters = {
    "f": normal(24, 6, 1, 1),
    "channel": normal(24, 1, 1),
    "single": normal(1),
    "eight": np.array([8]),
    "ends": np.array([16]),
    "one": np.array([1]),
    "vector": normal(6),
}


@pytest.mark.parametrize(
    ("interface", "body"),
    [
        (FLAT, f"{PRODUCT} q, k, y = Split<axis=1>(s)"),
        (FLAT, "s = MatMul(x, w) q, y, v = Split<axis=1>(s)"),
        (FLAT, f"{PRODUCT} n = Mul(s, row) q, k, y = Split<axis=1>(n)"),
        (FLAT, f"{PRODUCT} t = Transpose(s) y = Slice(t, eight, ends, first)"),
        (FLAT, f"{PRODUCT} n = Mul(s, single) q, k, y = Split<axis=1>(n)"),
        (FLAT, f"{PRODUCT} q, k, v = Split<axis=1>(s) y = Relu(k)"),
        (MAPS, f"{CONV} q, y, v = Split<axis=1>(s)"),
        (MAPS, "s = Conv(x, f) q, y, v = Split<axis=1>(s)"),
        (MAPS, f"{CONV} n = Mul(s, channel) m = Add(half, n) q, y, v = Split<axis=1>(m)"),
        (MAPS, f"{CONV} t = Transpose<perm=[2,1,0,3]>(s) y = Slice(t, eight, ends, one)"),
    ],
)
def test_what_is_computed_stays_the_same(interface: str, body: str) -> None:
    whole = window(interface, body, body, read(body, {**WEIGHTS, **MORE}))
    made = with_columns_read(whole)
    assert made is not whole
    assert "Gather" in operators(made.before)
    feeds = {"x": normal(*((5, 6) if interface is FLAT else (2, 6, 3, 3)), seed=3)}
    (expected,), (found,) = (evaluate(each.before, feeds) or () for each in (whole, made))
    assert np.allclose(expected, found, 1e-6, 1e-6)
    matrices = [
        array for array in made.constants.values() if array.ndim == (4 if "f" in body else 2)
    ]
    assert all(8 in matrix.shape for matrix in matrices if matrix.dtype.kind == "f")


@pytest.mark.parametrize(
    ("body", "interface"),
    [
        ("s = Conv<group=2>(x, f) q, y, v = Split<axis=1>(s)",
         MAPS.replace("[2,6,3,3]", "[2,12,3,3]")),
        (f"{PRODUCT} y = Reshape(s, shape)", HEADS),  # all are read
        (f"{PRODUCT} r = Relu(s) y = Slice(r, first, first)", HEADS),  # they are not moved only
        (KEY, HEADS.replace("[2,5,6]", "[N,5,6]")),  # sizes are not known
        ("m = Add(x, x) y = Squeeze(m, first)", HEADS),
        ("m = MatMul(x, vector) y = Slice(m, first, one, first)", FLAT),
        ("m = MatMul(x, x) y = Squeeze(m, first)", HEADS),  # no matrix of constants
    ],
)  # fmt: skip
def test_all_else_stays(body: str, interface: str) -> None:
    made = window(interface, body, body, read(body, {**WEIGHTS, **MORE}))
    assert with_columns_read(made) is made


@pytest.mark.parametrize(
    ("before", "after", "others"),
    [
        (KEY, KEY, scaled(QUERIES, 0.5)),
        (SCALED, QUERY, scaled(QUERIES, 0.5)),
        (SCALED.replace("Mul(u, half)", "Mul(half, u)"), QUERY, scaled(QUERIES, 0.5)),
        (SCALED, f"{PRODUCT} n = Mul(s, half) {APART.replace('(s,', '(n,')} y = Squeeze(q, first)",
         WEIGHTS),
        (KEY, KEY.replace("Add(m, b)", "Add(b, m)"), scaled(QUERIES, 0.5)),
    ],
)  # fmt: skip
def test_equal_columns_are_certified(before: str, after: str, others: Parameters) -> None:
    found = certify(pair(before, after, others))
    assert (found.verdict, found.note) == ("certified", "")
    assert found.bound is None or found.bound < 1e-6


@pytest.mark.parametrize(
    ("before", "after", "others"),
    [
        (KEY, KEY, scaled(KEYS, 0.5)),
        (KEY, KEY, scaled(slice(15, 16), 1.01)),
        (KEY, QUERY, WEIGHTS),
        (SCALED, QUERY, WEIGHTS),
        (SCALED, QUERY, scaled(KEYS, 0.5)),
        (KEY, KEY.replace("[2,0,3,1,4]", "[2,0,1,3,4]"), WEIGHTS),
        (KEY, KEY.replace("Add(m, b)", "Mul(m, b)"), WEIGHTS),
        (KEY, KEY.replace("Add(m, b)", "Add(m, row)"), WEIGHTS),
    ],
)
def test_other_columns_are_not(before: str, after: str, others: Parameters) -> None:
    assert certify(pair(before, after, others)).verdict == "differs"
