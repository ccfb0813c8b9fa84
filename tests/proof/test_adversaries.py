"""Pairs made to deceive the check: models that differ hardly anywhere, and equal ones that differ.

Each was among 250 that nobody had tuned for; those of the first kind had passed, or are near others
that had.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.support.checks import verdict
from tests.support.graphs import Array, Parameters, build, normal


def array(*values: float) -> Array:
    return np.array(values, np.float32)


def verdict_of_samples(one: onnx.ModelProto, other: onnx.ModelProto) -> str:
    return verdict(one, other, certify="off")


def models(
    weights: Parameters, interface: str, one: str, other: str, changes: Parameters
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return two models; the second is like the first where it has no text of its own."""
    first = build(f"{interface} {{ {one} }}", **weights)
    return first, build(f"{interface} {{ {other or one} }}", **weights | changes)


Case = tuple[Parameters, str, str, str, Parameters]

SIZES: Parameters = {
    "height": np.array(2),
    "width": np.array(3),
    "off": array(0.01),
    "unit": array(1),
}
IMAGE = "(float[N,3,H,W] x) => (float[N,3,H,W] y)"
WHERE = (
    "q = Shape(x) h = Gather(q, height) w = Gather(q, width) i = {} f = Cast<to=1>(i) "
    "k = Mul(f, off) j = Add(k, unit) t = Tanh(x) y = Mul(t, j)"
)
LSTM: Parameters = {"w": normal(1, 24, 4) / 2, "r": normal(1, 24, 6) / 2}
LABELS = "(float[N,20] x) => (uint8[N] y)"
SUPPRESS: Parameters = {
    "half": np.array([2, 2]),
    "unit": array(1),
    "most": np.array([20]),
    "overlap": array(0.5),
    "score": array(0.3),
}

DIFFERENT: dict[str, Case] = {
    "wide images": (SIZES, IMAGE, "y = Tanh(x)", WHERE.format("Greater(w, h)"), {}),
    "tall images": (SIZES, IMAGE, "y = Tanh(x)", WHERE.format("Greater(h, w)"), {}),
    "a width of one": (SIZES, IMAGE, "y = Tanh(x)", WHERE.format("Less(w, n)"), {"n": np.array(2)}),
    "up to a height": (SIZES, IMAGE, "y = Tanh(x)", WHERE.format("Less(h, n)"), {"n": np.array(9)}),
    "a crop of one trace": (
        {"zero": np.array([0]), "end": np.array([300]), "axis": np.array([2])},
        "(float[N,3,H,W] x) => (float[N,3,P,W] y)",
        "y = Tanh(x)",
        "t = Tanh(x) y = Slice(t, zero, end, axis)",
        {},
    ),
    "a clip of gates, which onnx ignores": (
        LSTM,
        "(float[T,1,4] x) => (float[T,1,1,6] y)",
        "y = LSTM<hidden_size=6, clip=3.0>(x, w, r)",
        "y = LSTM<hidden_size=6>(x, w, r)",
        {},
    ),
    "one label of 20": (
        {"names": (np.arange(20) + (np.arange(20) == 7)).astype(np.int64)},
        LABELS,
        "a = ArgMax<axis=1, keepdims=0>(x) y = Cast<to=2>(a)",
        "a = ArgMax<axis=1, keepdims=0>(x) n = Gather(names, a) y = Cast<to=2>(n)",
        {},
    ),
    "one class that is chosen a little too often": (
        {"w": normal(16, 10)},
        "(float[N,16] x) => (int64[N] y)",
        "m = MatMul(x, w) y = ArgMax<axis=1, keepdims=0>(m)",
        "",
        {"w": normal(16, 10) * np.where(np.arange(10) == 2, 1.1, 1).astype(np.float32)},
    ),
    "a rare alarm": (
        {"limit": array(3)},
        "(float[N,64] x) => (bool[N] y)",
        "m = ReduceMax<axes=[1], keepdims=0>(x) y = Greater(m, limit)",
        "",
        {"limit": array(2.5)},
    ),
    "boxes that overlap less": (
        SUPPRESS,
        "(float[1,40,4] r, float[1,2,40] s) => (int64[K,3] y)",
        "a, b = Split<axis=2>(r, half) e = Sigmoid(b) f = Add(e, unit) c = Add(a, f) "
        "boxes = Concat<axis=2>(a, c) p = Sigmoid(s) "
        "y = NonMaxSuppression(boxes, p, most, overlap, score)",
        "",
        {"overlap": array(0.4)},
    ),
    "a pixel that is the only one": (
        {"half": np.array([1, 1, 0.5, 0.5], np.float32)},
        "(float[N,3,H,W] x) => (float[N,3,h,w] y)",
        'y = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(x, , half)',
        'y = Resize<mode="linear", coordinate_transformation_mode="pytorch_half_pixel">(x, , half)',
        {},
    ),
    "a small bias": (
        {"w": normal(64, 8) / 10, "b": np.full(8, 1e-5, np.float32)},
        "(float[N,64] x) => (float[N,8] y)",
        "m = MatMul(x, w) y = Add(m, b)",
        "",
        {"b": np.zeros(8, np.float32)},
    ),
    "a layer of little weight": (
        {"w": normal(64, 64) / 10, "scale": array(1e-4)},
        "(float[N,64] x) => (float[N,64] y)",
        "t = Tanh(x) m = MatMul(t, w) g = Mul(m, scale) y = Add(x, g)",
        "y = Identity(x)",
        {},
    ),
}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ThresholdedRelu<alpha=2.0>(x)", "ThresholdedRelu<alpha=2.6>(x)"),
        ("ThresholdedRelu<alpha=1.0>(x)", "ThresholdedRelu<alpha=1.2>(x)"),
        ("Shrink<lambd=1.5>(x)", "Shrink<lambd=1.8>(x)"),
        ("Shrink<lambd=0.5>(x)", "Shrink<lambd=0.5001>(x)"),
        ("Clip(x, , limit)", "Clip(x, , further)"),
        ("s = Sub(x, limit) y = Clip(s, , fifty)", "s = Sub(x, limit) y = Clip(s, , eighty)"),
    ],
)
@pytest.mark.parametrize("size", ["5", "N,9"])
def test_thresholds_are_met_on_both_sides(size: str, one: str, other: str) -> None:
    limits: Parameters = {
        "limit": array(300)[0], "further": array(330)[0], "fifty": array(50)[0],
        "eighty": array(80)[0],
    }  # fmt: skip
    interface = f"(float[{size}] x) => (float[{size}] y)"
    bodies = [each if " = " in each else f"y = {each}" for each in (one, other)]
    pair = [build(f"{interface} {{ {body} }}", **limits) for body in bodies]
    assert verdict_of_samples(pair[0], pair[1]) == "fail"
    assert verdict_of_samples(pair[1], pair[0]) == "fail"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("y = Greater(x, zero)", "y = GreaterOrEqual(x, zero)", "fail"),
        ("y = Greater(x, half)", "y = GreaterOrEqual(x, half)", "fail"),
        ("y = Cast<to=9>(x)", "y = Greater(x, zero)", "fail"),
        ("d = Mul(x, two) y = Greater(d, unit)", "y = GreaterOrEqual(x, half)", "fail"),
        (
            "d = Mul(x, tenth) y = Greater(d, ten)",
            "d = Mul(x, tenth) y = Greater(d, fifteen)",
            "fail",
        ),
        (
            "d = Sigmoid(x) y = Greater(d, half)",
            "d = Sigmoid(x) y = GreaterOrEqual(d, half)",
            "fail",
        ),
        ("d = Sigmoid(x) y = Greater(d, tenth)", "y = Greater(x, logit)", "pass"),
        ("d = Mul(x, tenth) y = Greater(d, half)", "y = Greater(x, five)", "pass"),
        (
            "d = Mul(x, three) s = Add(d, half) r = Round(s) y = Greater(r, zero)",
            "s = Add(x, sixth) d = Mul(s, three) r = Round(d) y = Greater(r, zero)",
            "pass",
        ),
        ("d = Mul(x, tenth) y = Greater(d, half)", "d = Div(x, ten) y = Greater(d, half)", "pass"),
        ("y = Greater(x, half)", "c = LessOrEqual(x, half) y = Not(c)", "pass"),
        ("y = Greater(x, half)", "d = Mul(x, two) y = Greater(d, unit)", "pass"),
        ("y = Greater(x, tenth)", "d = Mul(x, ten) y = Greater(d, unit)", "pass"),
        ("y = Greater(x, tenth)", "d = Div(x, tenth) y = Greater(d, unit)", "pass"),
        ("y = Greater(x, tenth)", "d = Sub(x, tenth) y = Greater(d, zero)", "pass"),
    ],
)
def test_masks_are_compared_at_their_threshold(one: str, other: str, expected: str) -> None:
    """Where arithmetic rounds at it, it is met closely, and not exactly."""
    numbers: Parameters = {
        "zero": array(0)[0], "half": array(0.5)[0], "two": array(2)[0], "unit": array(1)[0],
        "tenth": array(0.1)[0], "ten": array(10)[0], "fifteen": array(15)[0],
        "logit": array(-np.log(9))[0], "five": array(5)[0], "three": array(3)[0],
        "sixth": array(1 / 6)[0],
    }  # fmt: skip
    interface = "(float[N,20] x) => (bool[N,20] y)"
    pair = [build(f"{interface} {{ {each} }}", **numbers) for each in (one, other)]
    assert verdict_of_samples(pair[0], pair[1]) == expected
    assert verdict_of_samples(pair[1], pair[0]) == expected


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_models_fail(name: str) -> None:
    one, other = models(*DIFFERENT[name])
    assert verdict_of_samples(one, other) == "fail"


ROW = "(float[N,64] x) => (float[N,64] y)"
NORMALISE = (
    "m = ReduceMean<axes=[1]>(a) c = Sub(a, m) q = Mul(c, c) v = ReduceMean<axes=[1]>(q) "
    "w = Add(v, epsilon) r = Sqrt(w) d = Div(c, r) g = Mul(d, s) y = Add(g, b)"
)
NORMALISED: Parameters = {
    "epsilon": array(1e-5),
    "s": normal(64),
    "b": normal(64, seed=2),
    "large": array(100),
    "small": array(1e-3),
}
SHUFFLED = np.random.default_rng(1).permutation(512)
WIDE = normal(512, 32)
SELECT: Parameters = {"a": array(1.7), "b": array(0.3), "c": array(0.51), "k": np.array([8])}

EQUAL: dict[str, Case] = {
    "what is left of a million": (
        {"k": array(1e6), "axis": np.array([1]), "share": array(1 / 64)},
        ROW,
        "a = Add(x, k) m = ReduceMean<axes=[1]>(a) y = Sub(a, m)",
        "a = Add(x, k) m = ReduceSum(a, axis) n = Mul(m, share) y = Sub(a, n)",
        {},
    ),
    "the norm of almost equal values": (
        NORMALISED,
        ROW,
        f"t = Mul(x, small) a = Add(t, large) {NORMALISE}",
        "t = Mul(x, small) a = Add(t, large) y = LayerNormalization<axis=1, epsilon=1e-5>(a, s, b)",
        {},
    ),
    "a quotient of a difference": (
        {"axis": np.array([1]), "count": array(64), "unit": array(1)},
        ROW,
        "m = ReduceMean<axes=[1]>(x) d = Sub(x, m) y = Div(unit, d)",
        "t = ReduceSum(x, axis) m = Div(t, count) d = Sub(x, m) y = Div(unit, d)",
        {},
    ),
    "a variance of two kinds": (
        {"k": array(3)},
        ROW,
        "a = Add(x, k) m = ReduceMean<axes=[1]>(a) c = Sub(a, m) q = Mul(c, c) "
        "v = ReduceMean<axes=[1]>(q) y = Mul(x, v)",
        "a = Add(x, k) m = ReduceMean<axes=[1]>(a) q = Mul(a, a) s = ReduceMean<axes=[1]>(q) "
        "n = Mul(m, m) v = Sub(s, n) y = Mul(x, v)",
        {},
    ),
    "a sum in another order": (
        {"w": WIDE, "order": SHUFFLED, "v": WIDE[SHUFFLED]},
        "(float[N,512] x) => (float[N,32] y)",
        "y = MatMul(x, w)",
        "g = Gather<axis=1>(x, order) y = MatMul(g, v)",
        {},
    ),
    "huge exponents": (
        {"k": array(1000), "axis": np.array([1])},
        "(float[N,10] x) => (float[N,10] y)",
        "m = Mul(x, k) y = Softmax(m)",
        "m = Mul(x, k) t = ReduceMax<axes=[1]>(m) d = Sub(m, t) e = Exp(d) u = ReduceSum(e, axis) "
        "y = Div(e, u)",
        {},
    ),
    "the sine of a thousand": (
        {"k": array(999.9), "one": array(3.3), "other": array(303)},
        ROW,
        "m = Mul(x, k) y = Sin(m)",
        "a = Mul(x, one) m = Mul(a, other) y = Sin(m)",
        {},
    ),
    "casts on the way": (
        {
            "k": np.array([1.37], np.float16),
            "wide": np.array([1.37], np.float16).astype(np.float32),
        },
        ROW,
        "c = Cast<to=10>(x) a = Mul(c, k) y = Cast<to=1>(a)",
        "c = Cast<to=10>(x) d = Cast<to=1>(c) a = Mul(d, wide) e = Cast<to=10>(a) "
        "y = Cast<to=1>(e)",
        {},
    ),
    "places that tie": (
        SELECT,
        "(float[N,64] x) => (float[N,8] y, int64[N,8] i)",
        "r = Round(x) y, i = TopK<axis=1>(r, k)",
        "r = Round(x) n = Neg(r) z, i = TopK<axis=1, largest=0>(n, k) y = Neg(z)",
        {},
    ),
    "fractions": (
        {"one": array(1.7), "other": array(4.1), "both": array(1.7 * 4.1)},
        ROW,
        "a = Mul(x, one) m = Mul(a, other) f = Floor(m) y = Sub(m, f)",
        "m = Mul(x, both) f = Floor(m) y = Sub(m, f)",
        {},
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_models_pass(name: str) -> None:
    one, other = models(*EQUAL[name])
    assert verdict_of_samples(one, other) == "pass"
