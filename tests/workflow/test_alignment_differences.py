"""Two models that differ only where it is easily overlooked are not certified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest

from bnfold.arrays import Array
from tests.support.alignment import certified

IMAGE = "(float[N,4,H,W] x) => (float[a,b,c,d] y)"
ROWS = "(float[N,4] x) => (float[a,b] y)"
LINE = "(float[M] x) => (float[a] y)"

CONSTANTS: dict[str, Array] = {
    "w": np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32),
    "one": np.array(1.0, np.float32),
    "up": np.full(4, 7.0, np.float32),
    "top": np.full(4, 7.0005, np.float32),
    "down": np.full(4, 7.001, np.float32),
    "large": np.array(1e4, np.float32),
    "small": np.array(1e-4, np.float32),
    "big": np.array(1e6, np.float32),
    "ones": np.ones(4, np.float32),
    "zero": np.array([0]),
    "first": np.array([1]),
    "end": np.array([-1]),
    "endless": np.array([2**62]),
    "fourth": np.array([4]),
    "thirteen": np.array([13]),
    "square": np.array([2, 4, 16, 16]),
    "wide": np.array([2, 4, 8, 32]),
    "words": np.array(["left", "right"], object),
}


def made(text: str, opset: int = 17) -> onnx.ModelProto:
    """Return the model with the constants that it reads, also in bodies."""
    domains = f'"" : {opset}, "own" : 1'
    model = onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{domains}]> g {text}")
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    known = {value.name for value in (*model.graph.input, *model.graph.initializer)}
    for name, content in CONSTANTS.items():
        if name in words and name not in known:
            model.graph.initializer.append(onnx.numpy_helper.from_array(content, name))
    return model


def is_certified(one: onnx.ModelProto, other: onnx.ModelProto, folder: Path) -> bool:
    return not certified(one, other, folder).open


def branches(then: str) -> str:
    """Return an If with this branch, whose condition is not constant."""
    decided = "m = ReduceMax<keepdims=0>(x) c = Greater(m, one)"
    return (
        f"{decided} y = If(c) <then_branch = one () => (float[N,4] p) {{ p = {then} }}, "
        "else_branch = other () => (float[N,4] q) { q = Neg(x) }>"
    )


FUNCTION = '<domain: "own", opset_import: ["" : 17]> f (a) => (b) {{ b = {}(a) }}'

DIFFERENT = {
    "what a body reads": (
        f"{ROWS} {{ t = Sigmoid(x) {branches('Mul(x, t)')} }}",
        f"{ROWS} {{ t = Exp(x) {branches('Mul(x, t)')} }}",
    ),
    "two values that a body reads": (
        f"{ROWS} {{ t = Sigmoid(x) u = Exp(x) {branches('Sub(t, u)')} }}",
        f"{ROWS} {{ u = Sigmoid(x) t = Exp(x) {branches('Sub(t, u)')} }}",
    ),
    "a constant that a body reads": (
        f"{ROWS} {{ k = Constant<value_float=1.0>() {branches('Mul(x, k)')} }}",
        f"{ROWS} {{ k = Constant<value_float=5.0>() {branches('Mul(x, k)')} }}",
    ),
    "a function that a body calls": (
        f"{ROWS} {{ {branches('own.f(x)')} }} {FUNCTION.format('Sigmoid')}",
        f"{ROWS} {{ {branches('own.f(x)')} }} {FUNCTION.format('Exp')}",
    ),
    "how many parts there are": (
        f"{LINE} {{ y, z = Split(x) }}",
        f"{LINE} {{ y, z, u = Split(x) }}",
    ),
    "one axis over another": (
        f"{IMAGE} {{ s = Shape<start=2, end=3>(x) t = Shape<start=3, end=4>(x) "
        "h = Cast<to=1>(s) v = Cast<to=1>(t) r = Div(h, v) y = Mul(x, r) }",
        f"{IMAGE} {{ y = Mul(x, one) }}",
    ),
    "sizes of one rest": (
        f"{ROWS} {{ s = Shape<start=0, end=1>(x) r = Mod(s, thirteen) e = Equal(r, zero) "
        "f = Cast<to=1>(e) k = Add(f, one) y = Mul(x, k) }",
        f"{ROWS} {{ y = Mul(x, one) }}",
    ),
    "the last of a rest": (
        f"{LINE} {{ y = Slice(x, zero, endless, zero, fourth) }}",
        f"{LINE} {{ y = Slice(x, zero, end, zero, fourth) }}",
    ),
    "rows that are repeated": (
        "(float[2,1,4] x, float[2,3,4] t) => (float[2,a,4] y) "
        "{ p = MatMul(x, w) q = Add(p, t) y = Sub(q, t) }",
        "(float[2,1,4] x, float[2,3,4] t) => (float[2,a,4] y) { y = MatMul(x, w) }",
    ),
    "axes to resize": (
        "(float[2,4,8,16] x) => (float[2,4,a,b] y) { y = Resize<axes=[0,1,3,2]>(x, , , square) }",
        "(float[2,4,8,16] x) => (float[2,4,a,b] y) { y = Resize(x, , , wide) }",
    ),
    "where it rounds": (
        f"{ROWS} {{ a = Mul(x, small) b = Cast<to=10>(a) c = Cast<to=1>(b) y = Mul(c, large) }}",
        f"{ROWS} {{ b = Cast<to=10>(x) y = Cast<to=1>(b) }}",
    ),
    "a bump between two numbers": (
        f"{ROWS} {{ a = Sub(x, up) b = Relu(a) c = Sub(x, top) d = Relu(c) e = Sub(x, down) "
        "f = Relu(e) g = Sub(b, d) h = Sub(f, d) i = Add(g, h) j = Mul(i, big) y = Add(x, j) }",
        f"{ROWS} {{ y = Identity(x) }}",
    ),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_what_differs_is_not_certified(kind: str, tmp_path: Path) -> None:
    opset = 18 if "axes" in kind else 13 if "parts" in kind else 17
    one, other = (made(text, opset) for text in DIFFERENT[kind])
    assert not is_certified(one, other, tmp_path)
    assert not is_certified(other, one, tmp_path)


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Hardmax"])
def test_an_operator_that_has_changed_its_meaning_is_another(operator: str, tmp_path: Path) -> None:
    text = f"(float[N,4,5] x) => (float[N,4,5] y) {{ a = {operator}(x) y = Sigmoid(a) }}"
    assert not is_certified(made(text, 11), made(text, 13), tmp_path)
    assert is_certified(made(text, 13), made(text, 17), tmp_path)


def test_a_batch_normalization_with_statistics_is_training(tmp_path: Path) -> None:
    normal = "BatchNormalization(x, ones, ones, ones, ones)"
    one = f"{IMAGE} {{ y = {normal} }}"
    other = f"{IMAGE} {{ y, m, v, s, t = {normal} }}"
    assert not is_certified(made(one, 9), made(other, 9), tmp_path)


def test_what_a_caller_may_override_is_equal_by_default(tmp_path: Path) -> None:
    text = "(float[N,4] x, float[4] k) => (float[N,4] y) <float[4] k = {{{}}}> {{ y = Mul(x, k) }}"
    one, other = (made(text.format(content)) for content in ("1, 2, 3, 4", "4, 3, 2, 1"))
    assert not is_certified(one, other, tmp_path)
    assert is_certified(one, one, tmp_path)


LOOP = (
    "{ n = Constant<value_ints=[3]>() t = Constant<value = bool {1}>() s = Sigmoid(x) "
    "y = Loop(n, t, x) <body = b (int64 i, bool c, float[N,4] h) => (bool d, float[N,4] r) "
    "{ d = Identity(c) q = Mul(s, h) r = Add(q, one) }> }"
)

OTHER_NAMES = LOOP.replace(" h", " k").replace("s = S", "v = S").replace("(s", "(v")


@pytest.mark.parametrize(
    ("text", "other"),
    [
        (f"{ROWS} {LOOP}", f"{ROWS} {LOOP}"),
        (
            f"{ROWS} {LOOP}",
            f"{ROWS} {LOOP}".replace(" h", " k").replace("s = S", "v = S").replace("(s", "(v"),
        ),
        (
            f"{ROWS} {{ t = Sigmoid(x) {branches('Mul(x, t)')} }}",
            f"{ROWS} {{ z = Sigmoid(x) {branches('Mul(x, z)')} }}".replace(" p", " r"),
        ),
        (f"{ROWS} {{ e = Equal(words, words) f = Cast<to=1>(e) r = ReduceSum(f) y = Mul(x, r) }}",)
        * 2,
    ],
)
def test_bodies_and_words_that_are_the_same_are_certified(
    text: str, other: str, tmp_path: Path
) -> None:
    assert is_certified(made(text), made(other), tmp_path)
    wrong = other.replace("Sigmoid", "Tanh").replace("ReduceSum", "ReduceMax")
    assert not is_certified(made(text), made(wrong), tmp_path)
