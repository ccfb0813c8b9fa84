"""Windows are the same once constants and known sizes are computed."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest

from bnfold.proof.certificates import certificate as module
from bnfold.proof.certificates.certificate import certify
from tests.support.graphs import Array, Parameters, normal
from tests.support.windows import ROW, certified, differs, window

pytestmark = pytest.mark.usefixtures("without_weights")


def test_constants() -> None:
    weights = {"p": normal(4), "q": normal(4)}
    others = {"r": weights["p"] + weights["q"]}
    right = window(ROW, "k = Add(p, q) y = Mul(x, k)", "y = Mul(x, r)", weights, others)
    certified(certify(right), "constant")
    others["r"][2] = np.nextafter(others["r"][2], np.float32(9))
    wrong = window(ROW, "k = Add(p, q) y = Mul(x, k)", "y = Mul(x, r)", weights, others)
    assert certify(wrong).kind == "linear"  # one rounding


def test_sizes_within_a_window_are_inferred() -> None:
    before = (
        "c = Conv<strides=[2,2]>(x, w) s = Shape(c) g = Gather(s, i) u = Unsqueeze(g, o) "
        "t = Concat<axis=0>(u, m) r = Reshape(c, t) q = Shape(r) p = Slice(q, o, e, o) "
        "f = Cast<to=1>(p) h = Relu(r) y = Mul(h, f)"
    )
    weights = {"w": normal(4, 4, 1, 1), "i": np.array(1), "o": np.array([0]), "m": np.array([-1])}
    weights["e"] = np.array([1])
    after = "c = Conv<strides=[2,2]>(x, w) r = Reshape(c, z) h = Relu(r) y = Mul(h, k)"
    others = {"w": weights["w"], "z": np.array([4, -1]), "k": np.array([4], np.float32)}
    text = "(float[1,4,9,9] x) => (float[n,m] y)"
    certified(certify(window(text, before, after, weights, others)), "constant")
    others["k"] = np.array([5], np.float32)
    differs(certify(window(text, before, after, weights, others)))


def test_what_is_the_same_at_any_sizes_is_tried_at_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators that ask for sizes twice are merged by the dozen, as in torch's exports."""
    monkeypatch.setattr(module, "sizings", Mock(side_effect=AssertionError))
    sizes = "s{0} = Shape(x) g{0} = Gather(s{0}, k) c{0} = Concat<axis=0>(g{0}, rest) "
    before = sizes.format(0) + sizes.format(1) + "r = Reshape(x, c0) a = Reshape(x, c1) "
    weights = {"k": np.array([0]), "rest": np.array([-1]), "other": np.array([1])}
    interface, after = "(float[N,4] x) => (float[A,B] y)", sizes.format(0) + "r = Reshape(x, c0) "
    right = window(interface, before + "y = Add(r, a)", after + "y = Add(r, r)", weights)
    certified(certify(right), "constant")
    wrong = window(interface, before + "y = Add(r, a)", after + "y = Sub(r, r)", weights)
    assert certify(wrong).verdict == "open"


def test_a_constant_proof_needs_no_small_inputs() -> None:
    text = "(float[1,64,1024,1024] x) => (float[n] y)"
    before = "s = Shape(x) a = Mul(s, d) y = Reshape(x, a)"
    weights = {"d": np.array([1, 1, 1, 1])}
    after, others = "y = Reshape(x, e)", {"e": np.array([1, 64, 1024, 1024])}
    certified(certify(window(text, before, after, weights, others)), "constant")
    others["e"][0] = 2
    assert certify(window(text, before, after, weights, others)).verdict == "open"


@pytest.mark.parametrize(
    ("dtype", "body", "constant", "is_shown"),
    [
        ("int64", "y = Mul(x, k)", np.array(1), True),
        ("int64", "y = Mul(k, x)", np.array([1]), True),
        ("int32", "y = Add(k, x)", np.array(0, np.int32), True),
        ("int64", "y = Sub(x, k)", np.array([[0]]), True),
        ("int64", "y = Div(x, k)", np.array(1), True),
        ("float", "y = Div(x, k)", np.array(1, np.float32), True),
        ("int64", "y = Sub(k, x)", np.array(0), False),
        ("int64", "y = Div(k, x)", np.array(1), False),
        ("int64", "y = Mul(x, k)", np.array(2), False),
        ("int64", "y = Add(x, k)", np.array([0, 0]), False),
        ("int64", "y = Mul(x, k)", np.array([[[1]]]), False),
    ],
)
def test_integers_that_arithmetic_leaves_as_they_are(
    dtype: str, body: str, constant: Array, is_shown: bool
) -> None:
    pair = window(
        f"({dtype}[N,M] x) => ({dtype}[n] y)", body, "y = Identity(x)", {"k": constant}, {}
    )
    assert (certify(pair).verdict == "certified") == is_shown
    assert (certify(pair).kind == "constant") == is_shown


def test_without_a_rank_only_a_scalar_leaves_integers_as_they_are() -> None:
    for constant, verdict in ((np.array(1), "certified"), (np.array([1]), "open")):
        text = "(int64[N] x) => (int64[n] y)"
        pair = window(text, "y = Mul(x, k)", "y = Identity(x)", {"k": constant}, {})
        for model in pair.models:
            model.graph.input[0].type.tensor_type.ClearField("shape")
        assert certify(pair).verdict == verdict


def test_a_squeeze_of_a_size_does_not_keep_free_ones_from_being_tried() -> None:
    sizes = "s = Shape<start=1, end=2>(x) q = Squeeze(s) t = Unsqueeze(q, zero)"
    weights: Parameters = {"zero": np.array([0]), "last": np.array([-1])}
    interface = "(float[N,M,2] x) => (float[y] y)"
    body = f"{sizes} u = Concat<axis=0>(last, t) y = Reshape(x, u)"
    other = "t = Shape<start=1, end=2>(x) u = Concat<axis=0>(last, t) y = Reshape(x, u)"
    assert certify(window(interface, body, other, weights)).verdict == "certified"


@pytest.mark.parametrize("operator", ["Max", "Mean", "Min", "Prod", "Sum"])
@pytest.mark.parametrize(
    ("axis", "keepdims", "is_same"), [(1, 1, True), (-1, 1, True), (0, 1, False), (1, 0, False)]
)
def test_a_reduction_of_one_element_is_that_element(
    operator: str, axis: int, keepdims: int, is_same: bool
) -> None:
    pair = window(
        "(float[N,1] x) => (float[N,1] y)",
        f"a = Reduce{operator}<keepdims={keepdims}>(x, axes) y = Exp(a)",
        "y = Exp(x)",
        {"axes": np.array([axis])},
        opset=18,
    )
    assert (certify(pair).kind == "constant") == is_same


@pytest.mark.parametrize(("sizes", "is_same"), [("1", True), ("1,1", True), ("1,2", False)])
def test_a_reduction_over_all_axes_of_one_element_is_that_element(
    sizes: str, is_same: bool
) -> None:
    pair = window(
        f"(float[{sizes}] x) => (float[{sizes}] y)",
        "a = ReduceMax(x) y = Exp(a)",
        "y = Exp(x)",
        opset=18,
    )
    assert (certify(pair).verdict == "certified") == is_same


@pytest.mark.parametrize(
    ("sizes", "lines"),
    [
        ("N,256,M", "s = Shape(x) g = Gather(s, one)"),
        ("N,256,M", "s = Shape<start=1>(x) g = Gather(s, zero)"),
        ("N,256,M", "s = Shape<start=0, end=2>(x) g = Gather(s, last)"),
        ("N,256,M", "s = Shape(x) g = Slice(s, one, two)"),
        ("N,M,256", "s = Shape(x) g = Gather(s, last)"),
        ("N,M,256", "s = Shape(x) g = Slice(s, last, many, zero, one)"),
        ("N,M,256", "s = Shape(x) g = Slice(s, last, one, zero, last)"),
    ],
)
@pytest.mark.parametrize("is_right", [True, False])
def test_a_known_size_is_one_though_others_are_free(sizes: str, lines: str, is_right: bool) -> None:
    """A free size that is divided by 64 has more rests than are tried."""
    before = f"{lines} d = Div(g, by) y = Add(d, zeros)"
    numbers = {"zero": 0, "one": 1, "two": 2, "many": 9, "last": -1, "by": 64, "zeros": 0}
    weights = {name: np.array([n]) for name, n in numbers.items() if f" {name}" in before}
    after = {"c": np.array([4 if is_right else 5])}
    text = f"(float[{sizes}] x) => (int64[a] y)"
    certificate = certify(window(text, before, "y = Identity(c)", weights, after))
    assert (certificate.verdict == "certified") == is_right


@pytest.mark.parametrize("chosen", ["Gather(s, zero)", "Gather(s, many)", "Slice(s, zero, two)"])
def test_a_size_that_is_not_known_is_none(chosen: str) -> None:
    numbers = {"zero": [0], "many": [7], "two": [2], "by": [64]}
    weights = {name: np.array(n) for name, n in numbers.items() if f" {name}" in f"{chosen} by"}
    before = f"s = Shape(x) g = {chosen} y = Div(g, by)"
    text = "(float[N,256] x) => (int64[a] y)"
    after = {"c": np.array([0, 4] if "two" in chosen else [4])}
    assert certify(window(text, before, "y = Identity(c)", weights, after)).verdict != "certified"
