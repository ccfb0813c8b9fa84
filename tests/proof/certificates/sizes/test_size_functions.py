"""What is computed from sizes is proven where the sizes that are tried speak for all others."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.arrays import Array
from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.sizes.size_functions import demands
from bnfold.proof.certificates.windows import NotShown
from tests.support.windows import window

INTERFACE = "(float[n,s,6] x) => (float[n,t,6] y)"
SIZE = "h = Shape<start=1, end=2>(x)"
KEPT = "g = Cast<to=1>(e) f = Sub(one, g) r = Relu(x) y = Mul(r, f)"

CONSTANTS: dict[str, Array] = {
    "one": np.ones(1, np.float32),
    "zero": np.array([0]),
    "unit": np.array([1]),
    "two": np.array([2]),
    "three": np.array([3]),
    "six": np.array([6]),
    "seven": np.array([7]),
    "eight": np.array([8]),
    "many": np.array([300]),
    "dozens": np.array([60]),  # where whole matrices are compared, which 300 would take minutes for
    "most": np.array([40000]),
    "endless": np.array([2**60]),
    "manyf": np.array([300], np.float32),
    "sevenf": np.array([7], np.float32),
    "sixf": np.array([6], np.float32),
    "half": np.array([0.5], np.float32),
    "steep": np.array([50], np.float32),
    "origin": np.array(0),
    "next": np.array(1),
    "table": np.arange(40, dtype=np.float32)[:, None],
    "other": np.where(np.arange(40) == 37, 0, np.arange(40)).astype(np.float32)[:, None],
}

DIFFERENT = {
    "a comparison": f"{SIZE} e = Greater(h, many) {KEPT}",
    "a comparison of floats": f"{SIZE} c = Cast<to=1>(h) e = Greater(c, manyf) {KEPT}",
    "an equality": f"{SIZE} e = Equal(h, many) {KEPT}",
    "of what is shifted": f"{SIZE} c = Add(h, seven) e = Greater(c, many) {KEPT}",
    "of a square": f"{SIZE} c = Mul(h, h) e = Greater(c, most) {KEPT}",
    "of a quotient": f"{SIZE} c = Div(h, two) e = Greater(c, many) {KEPT}",
    "of a size within": f"w = Relu(x) v = Shape(w) h = Gather(v, unit) e = Greater(h, many) {KEPT}",
    "of a sum of ones": (
        f"{SIZE} c = ConstantOfShape<value = float[1] {{1}}>(h) d = ReduceSum<keepdims=0>(c) "
        f"e = Greater(d, manyf) {KEPT}"
    ),
    "of how many there are": f"c = Size(x) e = Greater(c, most) {KEPT}",
    "a rest": f"{SIZE} c = Mod(h, seven) e = Equal(c, six) {KEPT}",
    "a rest of floats": (
        f"{SIZE} c = Cast<to=1>(h) d = Div(c, sevenf) i = Floor(d) j = Mul(i, sevenf) "
        f"k = Sub(c, j) e = Equal(k, sixf) {KEPT}"
    ),
    "bits": (
        f"{SIZE} u = Cast<to=13>(h) k = Cast<to=13>(three) c = BitShift<direction=\"RIGHT\">(u, k) "
        f"v = Cast<to=7>(c) d = Mul(v, eight) i = Sub(h, d) e = Equal(i, six) {KEPT}"
    ),
    "a root": f"{SIZE} c = Cast<to=1>(h) d = Sqrt(c) i = Floor(d) e = Greater(i, sevenf) {KEPT}",
    "a step that is steep": (
        f"{SIZE} c = Cast<to=1>(h) d = Sub(c, manyf) i = Mul(d, steep) e = Sigmoid(i) "
        "f = Sub(one, e) r = Relu(x) y = Mul(r, f)"
    ),
    "a minimum": f"{SIZE} r = Relu(x) m = Min(h, dozens) y = Slice(r, zero, m, unit)",
    "a maximum": (
        f"{SIZE} r = Relu(x) q = Max(h, dozens) m = Sub(q, dozens) "
        "a = Slice(r, m, endless, unit) b = Slice(r, zero, m, unit) y = Concat<axis=1>(a, b)"
    ),
    "a ratio above 1": (
        f"{SIZE} c = Cast<to=1>(h) d = Div(c, manyf) m = Max(d, one) r = Relu(x) y = Mul(r, m)"
    ),
    "positions": (
        f"{SIZE} c = Squeeze(h) i = Range(origin, c, next) d = Less(i, many) e = Cast<to=1>(d) "
        "f = Unsqueeze(e, unit) r = Relu(x) y = Mul(r, f)"
    ),
}  # fmt: skip


CHANGED = {
    "a size of what is longer": (
        "z = Concat<axis=1>(x, x, x) h = Shape<start=1, end=2>(z) e = Greater(h, {}) ",
        "twenty", "beyond",
    ),
    "a size of what is flat": (
        "z = Reshape(x, rest) h = Shape(z) e = Greater(h, {}) ", "many", "beyond",
    ),
    "a rest that a stride leaves": (
        "a = Transpose<perm=[0,2,1]>(x) z = MaxPool<kernel_shape=[4], strides=[4]>(a) "
        "h = Shape<start=2>(z) c = Mod(h, four) e = Less(c, {}) ", "unit", "two",
    ),
    "a narrow integer": (
        f"{SIZE} i = Cast<to={{}}>(h) l = Cast<to=7>(i) e = Less(l, zero) ", "3", "7",
    ),
    "a narrow float": (f"{SIZE} i = Cast<to={{}}>(h) l = Cast<to=7>(i) e = Less(l, h) ", "10", "1"),
    "a difference of constants": (
        f"{SIZE} a = Add(h, {{}}) e = Greater(a, ten) ", "eight", "nine",
    ),
    "one of many": (
        f"{SIZE} a = Greater(h, eight) b = Greater(h, sixteen) c = Greater(h, {{}}) d = Xor(a, b) "
        "e = Xor(c, d) ", "twenty", "beyond",
    ),
    "two sizes at once": (
        f"{SIZE} v = Shape<end=1>(x) a = Greater(h, ten) b = Greater(v, {{}}) e = And(a, b) ",
        "seven", "six",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGED)
def test_what_differs_at_some_sizes_alone_is_not_certified(kind: str) -> None:
    text, one, other = CHANGED[kind]
    constants = {
        **CONSTANTS,
        "twenty": np.array([20]),
        "beyond": np.array([23]),
        "rest": np.array([-1]),
        "four": np.array([4]),
        "ten": np.array([10]),
        "nine": np.array([9]),
        "sixteen": np.array([16]),
    }
    before, after = (f"{text.format(each)} {KEPT}" for each in (one, other))
    assert certify(window(INTERFACE, before, after, constants)).verdict != "certified"


@pytest.mark.parametrize("kind", DIFFERENT)
def test_what_differs_at_other_sizes_is_not_certified(kind: str) -> None:
    pair = window(INTERFACE, DIFFERENT[kind], "y = Relu(x)", CONSTANTS)
    assert certify(pair).verdict != "certified"
    turned = window(INTERFACE, "y = Relu(x)", DIFFERENT[kind], CONSTANTS)
    assert certify(turned).verdict != "certified"


SAME = {
    "a size times a number": (
        f"{SIZE} c = Mul(h, two) d = Cast<to=1>(c) y = Mul(x, d)",
        f"{SIZE} c = Cast<to=1>(h) d = Mul(x, c) y = Add(d, d)",
    ),
    "halves of a size": (
        f"{SIZE} c = Div(h, two) y = Slice(x, zero, c, unit)",
        f"{SIZE} a = Cast<to=1>(h) b = Mul(a, half) d = Floor(b) c = Cast<to=7>(d) "
        "y = Slice(x, zero, c, unit)",
    ),
    "a comparison with less than any size": (
        f"{SIZE} e = Less(h, zero) {KEPT}",
        "y = Relu(x)",
    ),
    "a minimum that is small": (
        f"{SIZE} m = Min(h, seven) y = Slice(x, zero, m, unit)",
        "y = Slice(x, zero, seven, unit)",
    ),
    "positions below a size": (
        f"{SIZE} c = Squeeze(h) i = Range(origin, c, next) y = Gather<axis=1>(x, i)",
        "y = Identity(x)",
    ),
    "another table": (
        f"{SIZE} c = Squeeze(h) i = Range(origin, c, next) t = Gather(table, i) y = Add(x, t)",
        f"{SIZE} t = Slice(other, zero, h, zero) y = Add(x, t)",
    ),
}


@pytest.mark.parametrize("kind", SAME)
def test_what_is_the_same_at_all_sizes_is_certified(kind: str) -> None:
    before, after = SAME[kind]
    found = certify(window(INTERFACE, before, after, CONSTANTS))
    assert (found.verdict == "certified") == ("another table" not in kind), found


@pytest.mark.parametrize(
    ("text", "cuts", "period"),
    [
        (f"{SIZE} c = Add(h, seven) e = Greater(c, many)", {7, 300}, 1),
        (f"{SIZE} c = Div(h, two) d = Div(c, three)", set(), 6),
        (f"{SIZE} c = Div(h, two) d = Div(c, two)", set(), 4),
        (f"{SIZE} c = Div(h, two) d = Mod(h, three)", set(), 6),
        (f"{SIZE} c = Div(h, six) d = Mod(h, two)", set(), 6),
        (f"{SIZE} c = Cast<to=1>(h) d = Mul(c, half) e = Floor(d)", set(), 2),
        (f"{SIZE} c = Cast<to=1>(h) d = Div(c, sevenf) e = Cast<to=7>(d)", set(), 7),
        (f"{SIZE} c = Cast<to=1>(h) d = Mul(c, sevenf) e = Floor(d)", set(), 1),
        (f"{SIZE} c = Squeeze(h) i = Range(origin, c, next) t = Gather(table, i)", {0, 1, 40}, 1),
    ],
)  # fmt: skip
def test_sizes_to_be_tried(text: str, cuts: set[int], period: int) -> None:
    found = demands(window(INTERFACE, f"{text} y = Relu(x)", "y = Relu(x)", CONSTANTS))
    assert found.cuts == cuts
    assert found.period == period


@pytest.mark.parametrize(
    ("operator", "text"),
    [
        ("Greater", f"{SIZE} c = Mul(h, h) e = Greater(c, many)"),
        ("Greater", f"{SIZE} c = Sub(h, many) d = Mul(c, c) e = Greater(d, unit)"),
        ("Equal", f"{SIZE} v = Shape<end=1>(x) e = Equal(h, v)"),
        ("Sigmoid", f"{SIZE} c = Cast<to=1>(h) e = Sigmoid(c)"),
        ("Abs", f"{SIZE} c = Sub(h, many) e = Abs(c)"),
        ("Cast", f"{SIZE} c = Sub(h, many) e = Cast<to=9>(c)"),
        ("Div", f"{SIZE} v = Shape<end=1>(x) e = Div(h, v)"),
        ("Gather", f"{SIZE} e = Gather(table, h)"),
    ],
)
def test_what_may_be_anything_at_another_size_is_named(operator: str, text: str) -> None:
    with pytest.raises(NotShown, match=f"what its {operator} of sizes does at other sizes"):
        demands(window(INTERFACE, f"{text} y = Relu(x)", "y = Relu(x)", CONSTANTS))
