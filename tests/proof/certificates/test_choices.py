"""A Where by a free condition is proven by what it chooses from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.choices import prove_choices
from bnfold.proof.certificates.sizes.sizing import sizings
from bnfold.proof.certificates.windows import Window
from tests.support.graphs import Array, Parameters, normal
from tests.support.windows import scaled, window

INTERFACE = "(float[2,2,3] x, bool[2,2,1] c, bool[2,2,1] d) => (float[2,h,2] y)"
SCALE = np.array([1.7, -0.6], np.float32)
ONE, TWO = normal(3, 2), normal(3, 2, seed=1)
NUMBER = np.array(0.75, np.float32)
OLD: Parameters = {"k": SCALE, "v": ONE, "w": TWO, "z": NUMBER}
NEW: Parameters = {
    "v": scaled(ONE, SCALE, 1),
    "w": scaled(TWO, SCALE, 1),
    "z": np.asarray(NUMBER * SCALE),
}
PRODUCTS = "p = MatMul(x, v) q = MatMul(x, w)"


def of(before: str, after: str, new: Parameters = NEW, old: Parameters = OLD) -> Window:
    pair = window(INTERFACE, before, after, old, new)
    return Window(*map(onnx.shape_inference.infer_shapes, pair.models))


def is_proven(pair: Window) -> bool:
    """Prove it by what is chosen, and by nothing else."""
    return prove_choices(pair, sizings(pair)) is not None


@pytest.mark.parametrize(
    ("between", "last", "wrong_name"),
    [
        ("s = Where(d, z, r)", "s", "z"),
        ("s = ReduceMean<axes=[1]>(r)", "s", "w"),
        ("s = Transpose<perm=[1,0,2]>(r) n = Not(c) t = Where(n, s, z)", "t", None),
    ],
)
def test_what_passes_a_where_is_certified(between: str, last: str, wrong_name: str | None) -> None:
    lines = f"{PRODUCTS} r = Where(c, p, q) {between}"
    before, after = f"{lines} y = Mul({last}, k)", f"{lines} y = Identity({last})"
    if wrong_name is None:
        found = certify(of(before, after))
        assert (found.verdict, found.kind) == ("certified", "linear")
        assert 0 < (found.bound or 0) < 1e-6
    else:
        assert is_proven(of(before, after))
        wrong: Parameters = {**NEW, wrong_name: NEW[wrong_name] * np.float32(1.001)}
        assert not is_proven(of(before, after, wrong))


@pytest.mark.parametrize(
    "after",
    [
        "y = Where(c, q, p)",
        "y = Where(d, p, q)",
        "n = Not(c) y = Where(n, p, q)",
        "y = Identity(p)",
        "r = Where(c, p, q) y = Where(c, r, z)",
        "r = Where(c, p, q) y = Neg(r)",
        "t = Transpose<perm=[1,0,2]>(c) y = Where(t, p, q)",
    ],
)
def test_another_choice_is_not_certified(after: str) -> None:
    before = f"{PRODUCTS} r = Where(c, p, q) y = Mul(r, k)"
    pair = of(before, f"{PRODUCTS} {after}")
    assert not is_proven(pair)
    if "Transpose" in after or "Not" in after:
        assert certify(pair).verdict == "differs"


def test_a_move_of_what_is_chosen_alone_is_not_certified() -> None:
    """Whether all or nothing is chosen, both sides are equal; otherwise they are not."""
    turn = "Transpose<perm=[1,0,2]>"
    before = f"{PRODUCTS} r = Where(c, p, q) s = {turn}(r) y = Mul(s, k)"
    after = f"{PRODUCTS} s = {turn}(p) t = {turn}(q) y = Where(c, s, t)"
    assert not is_proven(of(before, after))


def test_what_reads_the_condition_otherwise_is_not_certified() -> None:
    before = f"{PRODUCTS} r = Where(c, p, q) e = Cast<to=1>(c) f = Add(r, e) y = Mul(f, k)"
    after = f"{PRODUCTS} r = Where(c, p, q) e = Cast<to=1>(c) y = Add(r, e)"
    assert not is_proven(of(before, after))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("r = Where(c, p, q) s = Where(d, r, z)", "r = Where(d, p, q) y = Where(c, r, z)"),
        ("e = Cast<to=9>(p) s = Where(e, p, q)", "e = Cast<to=9>(q) y = Where(e, p, q)"),
    ],
)
def test_conditions_that_change_places_or_content_are_not_certified(
    before: str, after: str
) -> None:
    pair = of(f"{PRODUCTS} {before} y = Mul(s, k)", f"{PRODUCTS} {after}")
    assert not is_proven(pair)


def test_integers_are_not_certified() -> None:
    interface = INTERFACE.replace("d)", "d, int64[2,2,2] i)")
    lines = f"{PRODUCTS} e = Cast<to=1>(i) r = Where(c, p, e)"
    pair = window(interface, f"{lines} y = Neg(r)", f"{lines} y = Neg(r)", OLD)
    assert not is_proven(Window(*map(onnx.shape_inference.infer_shapes, pair.models)))


@pytest.mark.parametrize("is_same", [True, False])
def test_a_constant_condition(is_same: bool) -> None:
    chosen: Array = np.array([[True], [False]])
    old: Parameters = {**OLD, "e": chosen}
    new: Parameters = {**NEW, "f": chosen if is_same else ~chosen}
    before, after = "r = Where(e, p, q) y = Mul(r, k)", "y = Where(f, p, q)"
    pair = of(f"{PRODUCTS} {before}", f"{PRODUCTS} {after}", new, old)
    assert is_proven(pair) == is_same


@pytest.mark.parametrize("number", [0.0, -1e9, 1e-9])
@pytest.mark.parametrize("shift", [0.0, 0.3])
@pytest.mark.parametrize("size", ["3", "1"])
def test_a_number_beside_what_varies(number: float, shift: float, size: str) -> None:
    """Its own rounding says nothing of the scale and shift of what it is chosen beside."""
    z, t = np.array(number, np.float32), np.array(shift, np.float32)
    text = f"(float[N,2,3] x, bool[N,2,{size}] c) => (float[N,2,3] y)"
    w, k = normal(3, 3), np.array([1.7, -0.6, 0.3], np.float32)
    before = "p = MatMul(x, w) r = Where(c, p, z) m = Mul(r, k) y = Add(m, t)"
    after = "p = MatMul(x, w) q = Add(p, t) y = Where(c, q, z)"
    folded = (z * k.astype(np.float64) + t).astype(np.float32)
    old, new = {"w": w, "z": z, "k": k, "t": t}, {"w": scaled(w, k, 1), "z": folded, "t": t}
    assert certify(window(text, before, after, old, new)).verdict == "certified"
    for wrong in ({"w": new["w"] * np.float32(1.001)}, {"z": folded * np.float32(1.01) + 1}):
        pair = window(text, before, after, old, {**new, **wrong})
        assert certify(pair).verdict != "certified"


def test_two_numbers_show_scale_and_shift() -> None:
    old = {"z": np.array(2, np.float32), "w": np.array(-1, np.float32)}
    old |= {"k": np.array(3, np.float32), "t": np.array(0.5, np.float32)}
    new = {"z": np.array(6.5, np.float32), "w": np.array(-2.5, np.float32)}
    text = "(bool[N,3] c) => (float[N,3] y)"
    before = "r = Where(c, z, w) m = Mul(r, k) y = Add(m, t)"
    assert certify(window(text, before, "y = Where(c, z, w)", old, new)).verdict == "certified"
    wrong = new | {"w": new["w"] * np.float32(1.01)}
    assert certify(window(text, before, "y = Where(c, z, w)", old, wrong)).verdict != "certified"


RISING = np.array([1.7, 0.6], np.float32)
SHIFT = np.array([-0.4, 0.9], np.float32)
RISEN: Parameters = {
    "v": scaled(ONE, RISING, 1),
    "w": scaled(TWO, RISING, 1),
    "z": np.asarray(NUMBER * RISING + SHIFT),
    "b": SHIFT,
}
MAPPED: Parameters = {**OLD, "k": RISING, "b": SHIFT}
ADDED = "t = MatMul(x, v) p = Add(t, b) u = MatMul(x, w) q = Add(u, b)"
STACKED = "i = Unsqueeze(p, one) j = Unsqueeze(q, one) m = Concat<axis=1>(i, j)"
LARGER = [
    ("r = Max(p, q)", "r = Max(p, q)"),
    ("r = Min(p, q)", "r = Min(p, q)"),
    ("r = Max(p, q, z)", "r = Max(p, q, z)"),
    ("e = Max(p, q) r = Max(e, z)", "e = Max(p, q) r = Max(z, e)"),
    ("e = Max(p, q) r = Clip(e, z, inf)", "e = Max(p, q) r = Max(e, z)"),
    ("e = Max(p, q) r = Clip(e, z)", "e = Max(p, q) r = Max(e, z)"),
    ('e = Max(p, q) r = Clip(e, "", z)', "e = Max(p, q) r = Min(e, z)"),
    ("e = Max(p, q) r = Clip(e, less, z)", "e = Max(p, q) r = Min(z, e)"),
    ("e = Max(p, q) r = Where(c, e, z)", "e = Max(p, q) r = Where(c, e, z)"),
    (f"{STACKED} r = ReduceMax<axes=[1], keepdims=0>(m)",
     f"{STACKED} r = ReduceMax<axes=[1], keepdims=0>(m)"),
    (f"{STACKED} e = ReduceMin<axes=[1]>(m) r = Squeeze(e, one)",
     f"{STACKED} e = ReduceMin<axes=[1]>(m) r = Squeeze(e, one)"),
]  # fmt: skip
NAMED: Parameters = {
    "one": np.array([1]),
    "inf": np.array(np.inf, np.float32),
    "less": np.array(-np.inf, np.float32),
}


@pytest.mark.parametrize(("before", "after"), LARGER)
def test_the_larger_of_what_is_mapped_by_what_increases_is_proven(before: str, after: str) -> None:
    """And of no other."""
    lines = f"{PRODUCTS} {before} s = Mul(r, k) y = Add(s, b)"
    mapped = f"{ADDED} {after} y = Identity(r)"
    assert is_proven(of(lines, mapped, RISEN | NAMED, MAPPED | NAMED))
    wrongs: list[Parameters] = [
        {"b": SHIFT + np.float32(0.001)},
        {"w": RISEN["w"] * np.float32(1.001)},
    ]
    if ", z" in after or "(z" in after:
        wrongs.append({"z": np.asarray(RISEN["z"] + np.float32(0.001))})
    for wrong in wrongs:
        assert not is_proven(of(lines, mapped, RISEN | NAMED | wrong, MAPPED | NAMED))


@pytest.mark.parametrize("operator", ["Max", "Min", "Where"])
def test_what_decreases_makes_the_larger_the_smaller(operator: str) -> None:
    """A Where does not mind."""
    condition = "c, " if operator == "Where" else ""
    before = f"{PRODUCTS} r = {operator}({condition}p, q) y = Mul(r, k)"
    after = f"{PRODUCTS} y = {operator}({condition}p, q)"
    assert is_proven(of(before, after)) == (operator == "Where")


@pytest.mark.parametrize(
    "after",
    [
        f"{ADDED} y = Min(p, q)",
        f"{ADDED} y = Max(p, q, z)",
        f"{ADDED} y = Where(c, p, q)",
        f"{ADDED} y = Identity(p)",
        f"{ADDED} r = Max(p, q) y = Max(r, z)",
    ],
)
def test_what_takes_the_larger_of_something_else_is_not_proven(after: str) -> None:
    lines = f"{PRODUCTS} r = Max(p, q) s = Mul(r, k) y = Add(s, b)"
    assert not is_proven(of(lines, after, RISEN, MAPPED))


def test_a_map_that_differs_along_what_is_reduced_is_not_proven() -> None:
    """Of [p, q] and [2p, q/2], the larger is something else."""
    lines = f"{PRODUCTS} {STACKED} y = ReduceMax<axes=[1], keepdims=0>(m)"
    new = {**OLD, "v": ONE * 2, "w": TWO / 2}
    assert not is_proven(of(lines, lines, new | NAMED, OLD | NAMED))


def test_a_maximum_of_all_or_between_two_bounds_is_not_proven() -> None:
    for step in ("r = ReduceMax(m)", "e = Max(p, q) r = Clip(e, z, one_more)"):
        lines = f"{PRODUCTS} {STACKED} {step} s = Mul(r, k) y = Add(s, b)"
        bound: Parameters = {"one_more": NUMBER + 1}
        assert not is_proven(of(lines, lines, MAPPED | NAMED | bound, MAPPED | NAMED | bound))


def test_a_maximum_along_another_axis_is_another_one() -> None:
    """Its axes may be an operand, which tells them apart as an attribute does."""
    text = "(float[2,3,3] x) => (float[2,3] y)"
    lines = "h = Relu(x) y = ReduceMax<keepdims=0>(h, a)"
    for before, after in (([1], [2]), ([2], [1]), ([1], [1])):
        pair = window(text, lines, lines, {"a": np.array(before)}, {"a": np.array(after)}, opset=18)
        assert (certify(pair).verdict == "certified") == (before == after)
        free = lines.replace("Relu(x)", "Neg(x)")
        pair = window(text, free, free, {"a": np.array(before)}, {"a": np.array(after)}, opset=18)
        assert is_proven(pair) == (before == after)


def test_a_maximum_of_fewer_elements_is_another_operator() -> None:
    text = "(float[2,3] x) => (float[2] y)"
    lines = "m = Concat<axis=1>(x{}) h = Neg(m) y = ReduceMax<axes=[1], keepdims=0>(h)"
    assert not is_proven(window(text, lines.format(", x, x"), lines.format(", x")))
    assert is_proven(window(text, lines.format(", x"), lines.format(", x")))
