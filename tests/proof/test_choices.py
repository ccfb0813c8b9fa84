"""A Where by a free condition is proven by what it chooses from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfold.proof.certificate import certify
from bnfold.proof.windows import Window
from tests.support.graphs import Array, Parameters, normal
from tests.support.windows import scaled, window

INTERFACE = "(float[2,2,3] x, bool[2,2,1] c, bool[2,2,1] d) => (float[2,h,2] y)"
SCALE = np.array([2, -0.5], np.float32)
ONE, TWO = normal(3, 2), normal(3, 2, seed=1)
NUMBER = np.array(0.75, np.float32)
OLD: Parameters = {"k": SCALE, "v": ONE, "w": TWO, "z": NUMBER}
NEW: Parameters = {
    "v": scaled(ONE, SCALE, 1),
    "w": scaled(TWO, SCALE, 1),
    "z": np.asarray(NUMBER * SCALE),
}
PRODUCTS = "p = MatMul(x, v) q = MatMul(x, w)"


def verdict(before: str, after: str, new: Parameters = NEW) -> tuple[str, str]:
    pair = window(INTERFACE, before, after, OLD, new)
    found = certify(Window(*map(onnx.shape_inference.infer_shapes, pair.models)))
    return found.verdict, found.kind


@pytest.mark.parametrize(
    ("between", "last", "wrong_name"),
    [
        ("n = Not(d) s = Where(n, z, r)", "s", "z"),
        ("s = ReduceMean<axes=[1]>(r)", "s", "w"),
        ("s = Transpose<perm=[1,0,2]>(r) t = Where(c, s, z)", "t", None),
    ],
)
def test_what_passes_a_where_is_certified(between: str, last: str, wrong_name: str | None) -> None:
    lines = f"{PRODUCTS} r = Where(c, p, q) {between}"
    before, after = f"{lines} y = Mul({last}, k)", f"{lines} y = Identity({last})"
    assert verdict(before, after) == ("certified", "linear")
    if wrong_name is not None:
        wrong: Parameters = {**NEW, wrong_name: NEW[wrong_name] * np.float32(1.001)}
        assert verdict(before, after, wrong)[0] == "differs"


@pytest.mark.parametrize(
    "after",
    [
        "y = Where(c, q, p)",
        "y = Where(d, p, q)",
        "n = Not(c) y = Where(n, p, q)",
        "y = Identity(p)",
        "r = Where(c, p, q) y = Where(c, r, z)",
        "t = Transpose<perm=[1,0,2]>(c) y = Where(t, p, q)",
    ],
)
def test_another_choice_is_not_certified(after: str) -> None:
    before = f"{PRODUCTS} r = Where(c, p, q) y = Mul(r, k)"
    assert verdict(before, f"{PRODUCTS} {after}")[0] == "differs"


def test_a_move_of_what_is_chosen_alone_is_not_certified() -> None:
    """Whether all or nothing is chosen, both sides are equal; otherwise they are not."""
    turn = "Transpose<perm=[1,0,2]>"
    before = f"{PRODUCTS} r = Where(c, p, q) s = {turn}(r) y = Mul(s, k)"
    after = f"{PRODUCTS} s = {turn}(p) t = {turn}(q) y = Where(c, s, t)"
    assert verdict(before, after)[0] == "differs"


def test_what_reads_the_condition_otherwise_is_not_certified() -> None:
    before = f"{PRODUCTS} r = Where(c, p, q) e = Cast<to=1>(c) f = Add(r, e) y = Mul(f, k)"
    after = f"{PRODUCTS} r = Where(c, p, q) e = Cast<to=1>(c) y = Add(r, e)"
    assert verdict(before, after)[0] == "differs"


@pytest.mark.parametrize("is_same", [True, False])
def test_a_constant_condition(is_same: bool) -> None:
    chosen: Array = np.array([[True], [False]])
    old: Parameters = {**OLD, "e": chosen}
    new: Parameters = {**NEW, "f": chosen if is_same else ~chosen}
    pair = window(
        INTERFACE,
        f"{PRODUCTS} r = Where(e, p, q) y = Mul(r, k)",
        f"{PRODUCTS} y = Where(f, p, q)",
        old,
        new,
    )
    found = certify(Window(*map(onnx.shape_inference.infer_shapes, pair.models)))
    assert found.verdict == ("certified" if is_same else "differs")
