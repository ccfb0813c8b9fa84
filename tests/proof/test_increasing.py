"""What is selected from may be another increasing function of the same: no order changes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.checks import verdict
from tests.support.graphs import Parameters, build, named_in, normal

ROW = np.abs(normal(1, 20)) + 0.5
WEIGHTS: Parameters = {
    "w": normal(20, 20) / 40,
    "v": normal(20, 20, seed=1) / 40,
    "two": np.array(2, np.float32),
    "huge": np.array(3e8, np.float32),
    "neg": np.array(-2, np.float32),
    "row": ROW,
    "k": np.array([3]),
    "most": np.array([20]),
    "share": np.array([0.5], np.float32),
    "least": np.array([0.1], np.float32),
}
TOP = "(float[N,20] x) => (int64[N,3] y)"
VALUES = "(float[N,20] x) => (float[N,3] y)"
CLASS = "(float[N,20] x) => (int64[N,1] y)"
BOXES = "(float[1,20,2] c, float[1,20,2] d, float[1,1,20] s) => (int64[M,3] y)"
CORNERS = "e = Abs(d) f = Add(c, e) b = Concat<axis=2>(c, f)"
HEAD = "h = Tanh(x) l = MatMul(h, w)"


def verdict_on_bodies(interface: str, one: str, other: str) -> str:
    pair = [build(f"{interface} {{ {body} }}", **named_in(body, WEIGHTS)) for body in (one, other)]
    return verdict(*pair)


def selected(boxes: str, scores: str = "s") -> str:
    return f"y = NonMaxSuppression({boxes}, {scores}, most, share, least)"


EQUAL = [
    (TOP, "z, y = TopK(x, k)", "m = Mul(x, two) z, y = TopK(m, k)"),
    (TOP, f"{HEAD} z, y = TopK(l, k)", f"{HEAD} m = Mul(l, two) z, y = TopK(m, k)"),
    (TOP, f"{HEAD} z, y = TopK(l, k)", f"{HEAD} m = Div(l, two) a = Add(two, m) z, y = TopK(a, k)"),
    (TOP, f"{HEAD} m = Mul(l, two) z, y = TopK(m, k)",
     f"{HEAD} m = Sub(l, two) z, y = TopK(m, k)"),
    (VALUES, f"{HEAD} z, i = TopK(l, k) y = Mul(z, two)",
     f"{HEAD} m = Mul(l, two) y, i = TopK(m, k)"),
    (VALUES, "z, i = TopK(x, k) y = GatherElements<axis=1>(x, i)",
     "m = Mul(x, two) z, i = TopK(m, k) y = GatherElements<axis=1>(x, i)"),
    (TOP, f"{HEAD} z, y = TopK(l, k)", f"{HEAD} m = Sigmoid(l) z, y = TopK(m, k)"),
    (TOP, f"{HEAD} m = LogSoftmax(l) z, y = TopK(m, k)",
     f"{HEAD} m = Softmax(l) z, y = TopK(m, k)"),
    (CLASS, f"{HEAD} y = ArgMax<axis=1>(l)", f"{HEAD} m = Mul(l, two) y = ArgMax<axis=1>(m)"),
    (CLASS, f"{HEAD} y = ArgMax<axis=1>(l)",
     f"{HEAD} m = Softmax<axis=1>(l) y = ArgMax<axis=1>(m)"),
    (CLASS, f"{HEAD} y = ArgMax<axis=1>(l)",
     f"{HEAD} m = Softmax<axis=-1>(l) y = ArgMax<axis=1>(m)"),
    (CLASS, "y = ArgMax<axis=1>(x)", "m = Softmax(x) y = ArgMax<axis=1>(m)"),
    (CLASS, "y = ArgMax<axis=1>(x)",
     "m = ReduceMax<axes=[1]>(x) e = Equal(x, m) c = Cast<to=6>(e) y = ArgMax<axis=1>(c)"),
    (BOXES, f"{CORNERS} {selected('b')}", f"{CORNERS} m = Mul(b, two) {selected('m')}"),
    (BOXES, f"{CORNERS} {selected('b')}", f"{CORNERS} m = Add(b, two) {selected('m')}"),
]  # fmt: skip


@pytest.mark.parametrize(("interface", "one", "other"), EQUAL)
def test_a_selection_from_an_increasing_function_is_the_same(
    interface: str, one: str, other: str
) -> None:
    assert verdict_on_bodies(interface, one, other) in ("pass", "certified")


DIFFERENT = [
    (TOP, f"{HEAD} z, y = TopK(l, k)", f"{HEAD} m = Mul(l, neg) z, y = TopK(m, k)"),
    (TOP, f"{HEAD} z, y = TopK(l, k)", f"{HEAD} m = Sub(two, l) z, y = TopK(m, k)"),
    (TOP, f"{HEAD} z, y = TopK(l, k)", f"{HEAD} m = Div(two, l) z, y = TopK(m, k)"),
    (TOP, f"{HEAD} z, y = TopK(l, k)", f"{HEAD} m = Mul(l, row) z, y = TopK(m, k)"),
    (TOP, f"{HEAD} z, y = TopK(l, k)", f"{HEAD} m = Add(l, row) z, y = TopK(m, k)"),
    (TOP, f"{HEAD} z, y = TopK(l, k)", f"{HEAD} m = Softmax<axis=0>(l) z, y = TopK(m, k)"),
    (TOP, f"{HEAD} z, y = TopK(l, k)", f"{HEAD} m = Softmax<axis=-2>(l) z, y = TopK(m, k)"),
    (CLASS, f"{HEAD} y = ArgMax<axis=1>(l)",
     f"{HEAD} m = Softmax<axis=-2>(l) y = ArgMax<axis=1>(m)"),
    (TOP, f"{HEAD} z, y = TopK(l, k)",
     "h = Tanh(x) l = MatMul(h, v) m = Mul(l, two) z, y = TopK(m, k)"),
    # not defined everywhere, or saturated nearly everywhere
    (TOP, f"{HEAD} z, y = TopK(l, k)", f"{HEAD} m = Log(l) z, y = TopK(m, k)"),
    (CLASS, f"{HEAD} y = ArgMax<axis=1>(l)", f"{HEAD} m = Sqrt(l) y = ArgMax<axis=1>(m)"),
    (CLASS, f"{HEAD} y = ArgMax<axis=1>(l)",
     f"{HEAD} m = Mul(l, huge) t = Tanh(m) y = ArgMax<axis=1>(t)"),
    (TOP, f"{HEAD} z, y = TopK(l, k)", f"{HEAD} m = Add(l, huge) z, y = TopK(m, k)"),
    (VALUES, f"{HEAD} y, i = TopK(l, k)", f"{HEAD} m = Mul(l, two) y, i = TopK(m, k)"),
    (CLASS, f"{HEAD} y = ArgMax<axis=1>(l)", f"{HEAD} m = Mul(l, row) y = ArgMax<axis=1>(m)"),
    (CLASS, f"{HEAD} y = ArgMax<axis=1>(l)", f"{HEAD} m = Mul(l, neg) y = ArgMax<axis=1>(m)"),
    (BOXES, f"{CORNERS} {selected('b')}", f"{CORNERS} m = Mul(s, two) {selected('b', 'm')}"),
    (BOXES, f"{CORNERS} {selected('b')}", f"{CORNERS} m = Exp(b) {selected('m')}"),
]  # fmt: skip


@pytest.mark.parametrize(("interface", "one", "other"), DIFFERENT)
def test_a_selection_from_another_function_is_not(interface: str, one: str, other: str) -> None:
    assert verdict_on_bodies(interface, one, other) == "fail"


def test_boxes_by_their_centres_are_not_moved_alike() -> None:
    centres = "b = Concat<axis=2>(c, d)"
    by_centres = "y = NonMaxSuppression<center_point_box=1>({}, s, most, share, least)"
    one = f"{centres} {by_centres.format('b')}"
    other = f"{centres} m = Add(b, two) {by_centres.format('m')}"
    assert verdict_on_bodies(BOXES, one, other) in ("fail", "not-verified")
