"""A certificate says what is proven of a window; what is not proven says why."""

from __future__ import annotations

import itertools
from unittest.mock import Mock

import numpy as np
import pytest

from bnfold.errors import BnfoldError
from bnfold.proof.certificates import certificate as module
from bnfold.proof.certificates.certificate import certify, certify_any
from bnfold.proof.certificates.windows import NotShown, Window
from bnfold.proof.float64.evaluation import NoTruth
from bnfold.record.data import Certificate
from tests.support.graphs import Array, build, normal, scalar
from tests.support.windows import (
    BIAS,
    MAP,
    POOL,
    ROW,
    certified,
    differs,
    folded,
    window,
)

pytestmark = pytest.mark.usefixtures("without_weights")

TRAINING = {name: np.ones(4, np.float32) for name in "sbmv"}


HALF = {"r": scalar(0.5), "t": np.array(True)}


OPEN: dict[str, tuple[str, str, str, dict[str, Array]]] = {
    "Dropout draws": (
        ROW,
        "a = Dropout(x, r, t) b = Dropout(x, r, t) y = Sub(a, b)",
        "a = Dropout(x, r, t) y = Sub(a, a)",
        HALF,
    ),
    "Dropout may draw": (ROW, "y = Dropout(x, r, t)", "y = Identity(x)", HALF),
    "random numbers": (
        ROW,
        "a = RandomNormalLike(x) y = Add(a, x)",
        "a = RandomNormalLike(x) y = Sub(a, x)",
        {},
    ),
    "a narrower type": (ROW, "y = Identity(x)", "a = Cast<to=10>(x) y = Cast<to=1>(a)", {}),
    "integers that wrap": (
        "(int32[N,4] x, int32[N,4] z) => (float[N,4] y)",
        "a = Add(x, z) c = Cast<to=1>(a) y = Mul(c, t)",
        "a = Cast<to=1>(x) b = Cast<to=1>(z) c = Add(a, b) y = Mul(c, t)",
        {"t": scalar(2)},
    ),
    "indices that are read": (
        "(int64[3] i, float[8] x) => (float[3] y)",
        "y = Gather(x, i)",
        "y = Slice(x, a, b)",
        {"a": np.array([0]), "b": np.array([3])},
    ),
    "a slice too far": (
        ROW.replace("4", "M"),
        "y = Slice(x, a, b, c)",
        "y = Identity(x)",
        {"a": np.array([0]), "b": np.array([5000]), "c": np.array([1])},
    ),
    "unknown rank": ("(float x) => (float y)", "a = Foo(x) y = Relu(a)", "y = Relu(x)", {}),
    "indices of a pool": (
        MAP,
        "y, i = MaxPool<kernel_shape=[2,2]>(x)",
        "y, i = MaxPool<kernel_shape=[2,1]>(x)",
        {},
    ),
}


@pytest.mark.parametrize("case", OPEN)
def test_what_cannot_be_decided_says_why(case: str) -> None:
    certificate = certify(window(*OPEN[case]))
    assert certificate.verdict == "open"
    assert certificate.note


@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("mask", ["", ", k"])
def test_a_dropout_in_training_draws_unless_its_ratio_is_0(ratio: float, mask: str) -> None:
    weights = {"r": scalar(ratio), "t": np.array(True)}
    certificate = certify(window(ROW, f"y{mask} = Dropout(x, r, t)", "y = Identity(x)", weights))
    if ratio:
        assert (certificate.verdict, certificate.note) == ("open", "it draws random numbers")
    else:
        certified(certificate, "copying")
        differs(certify(window(ROW, "y = Dropout(x, r, t)", "y = Neg(x)", weights)))
    masks = "(float[N,4] x) => (bool[N,4] y)", "a, y = Dropout(x, r, t)"
    right = "s = Shape(x) y = ConstantOfShape<value=bool[1] {1}>(s)"
    certificate = certify(window(*masks, right, weights))
    assert (certificate.verdict == "certified") == (ratio == 0)
    assert certify(window(*masks, right.replace("{1}", "{0}"), weights)).verdict != "certified"


@pytest.mark.parametrize("opset", [1, 6])
def test_a_dropout_of_an_old_operator_set_says_whether_it_draws(opset: int) -> None:
    """onnxruntime has no such operators: a proof must do without."""
    for before, after, verdict in (
        ("a = Dropout<is_test=1>(x) y = Relu(a)", "y = Relu(x)", "certified"),
        ("a, m = Dropout<is_test=1>(x) y = Relu(a)", "y = Relu(x)", "certified"),
        ("a, m = Dropout<is_test=1>(x) y = Relu(m)", "y = Relu(x)", "open"),
        ("a = Dropout<is_test=1>(x) y = Relu(a)", "y = Neg(x)", "differs"),
        ("a = Dropout<is_test=0>(x) y = Relu(a)", "y = Relu(x)", "open"),
        ("a = Dropout(x) y = Relu(a)", "a = Dropout(x) y = Relu(a)", "open"),
    ):
        certificate = certify(window(ROW, before, after, opset=opset))
        assert certificate.verdict == verdict, (before, after, certificate)
        assert "failed" not in certificate.note


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_a_dropout_that_cannot_say_does_not_draw(domain: str) -> None:
    pair = window(ROW, "a = Dropout(x) y = Relu(a)", "y = Relu(x)")
    for model in pair.models:
        model.opset_import[0].domain = domain
    assert certify(pair).verdict == "certified"


@pytest.mark.parametrize("axis", [0, 1, 2, -2])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_old_operators_spread_along_an_axis(op: str, axis: int) -> None:
    """Which onnx's reference evaluator leaves out: all of the axes have one size here."""
    interface = "(float[3,3,3] x) => (float[3,3,3] y)"
    k = normal(3) + 3
    old = f"y = {op}<broadcast=1, axis={axis}>(x, k)"
    for spread, verdict in ((axis % 3, "certified"), ((axis + 1) % 3, "differs")):
        others = {"k": k.reshape([3 if at == spread else 1 for at in range(3)])}
        new = f"y = {op}<broadcast=1>(x, k)"
        assert certify(window(interface, old, new, {"k": k}, others, opset=6)).verdict == verdict
    pair = window(
        "(float[N,3,3] x, float[3] z) => (float[A,3,3] y)",
        f"y = {op}<broadcast=1, axis=1>(x, z)",
        f"y = {op}<broadcast=1>(x, z)",
        opset=6,
    )
    assert certify(pair).verdict == "open"


def test_statistics_of_a_batch_differ_from_those_of_its_maxima() -> None:
    certificate = certify(
        window(
            MAP,
            f"n = BatchNormalization<training_mode=1>(x, s, b, m, v) y = {POOL}(n)",
            f"n = {POOL}(x) y = BatchNormalization<training_mode=1>(n, s, b, m, v)",
            TRAINING,
        )
    )
    assert certificate.verdict == "differs"


def test_a_window_is_as_certain_as_its_least_certain_output() -> None:
    text = "(float[N,4] x, float[N,4] z) => (float[N,3] y, float[N,4] q)"
    before = "y = MatMul(x, w) a = Div(x, z) b = Sqrt(a) q = Mul(b, k)"
    after = "y = MatMul(x, v) a = Div(x, z) b = Sqrt(a) c = Mul(b, l) q = Mul(c, l)"
    w = normal(4, 3)
    weights, others = {"w": w, "k": scalar(4)}, {"v": np.nextafter(w, scalar(9)), "l": scalar(2)}
    assert certify(window(text, before, after, weights, others)).verdict == "sampled"


def test_a_window_is_as_certain_as_its_least_certain_size(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Certificate("certified", "constant"), Certificate("open", note="why")] * 9)
    text = "(float[N,M] x) => (float[n] y)"
    body = "s = Shape(x) f = Cast<to=1>(s) y = Mul(f, k)"
    pair = window(text, body, body, {"k": scalar(2)})
    monkeypatch.setattr(module, "_certify", lambda _: next(answers))
    assert module._at_sizes(pair).verdict == "open"


ACTIVATIONS = ("Relu", "LeakyRelu<alpha=0.2>", "PRelu", "Elu")


SCALES = itertools.cycle(["m = Mul(r, k)", "m = Mul(k, r)", "m = Div(r, k)"])


@pytest.mark.parametrize(
    ("activation", "scale", "sign", "error"),
    [
        (activation, next(SCALES), sign, error)
        for activation, sign, error in itertools.product(ACTIVATIONS, (1.0, -1.0), (0.0, 1e-3))
    ],
)
def test_a_positive_scale_after_a_relu_is_one_before_it(
    activation: str, scale: str, sign: float, error: float
) -> None:
    w, k = normal(4, 8), np.abs(normal(8, seed=1)) + np.float32(0.1)
    k[3] *= sign
    factor = (1 / k if "Div" in scale else k) * np.float32(1 + error)
    function, slope = (
        f"{activation}(a{', slope' if activation == 'PRelu' else ''})",
        normal(8, seed=2),
    )
    pair = window(
        "(float[N,4] x) => (float[N,8] y)",
        f"a = MatMul(x, w) r = {function} {scale} y = Tanh(m)",
        f"a = MatMul(x, w2) r = {function} y = Tanh(r)",
        {"w": w, "k": k, "slope": slope},
        {"w2": (w.astype(np.float64) * factor).astype(np.float32), "slope": slope},
    )
    is_right = activation != "Elu" and sign > 0 and not error
    assert (certify(pair).verdict == "certified") == is_right


def test_a_scale_after_a_relu_that_others_read_stays() -> None:
    k = np.abs(normal(8, seed=1))
    body = "a = MatMul(x, w) r = Relu(a) m = Mul(r, k) y = Add(m, r)"
    pair = window(
        "(float[N,4] x) => (float[N,8] y)",
        body,
        "a = MatMul(x, w2) r = Relu(a) y = Add(r, r)",
        {"w": normal(4, 8), "k": k},
        {"w2": normal(4, 8) * k},
    )
    assert certify(pair).verdict != "certified"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (StopIteration(), "StopIteration"),
        (KeyError("x"), "KeyError: 'x'"),
        (AssertionError(), "AssertionError"),
        (MemoryError(), "MemoryError"),
    ],
)
@pytest.mark.parametrize("step", ["with_definitions", "with_scales", "sizings", "prove_linear"])
def test_any_error_is_a_reason(
    step: str, error: Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, step, Mock(side_effect=error))
    certificate = certify(folded())
    assert (certificate.verdict, certificate.note) == ("open", f"its proof failed with {told}")


@pytest.mark.parametrize("error", [NotShown(), NoTruth(), BnfoldError("")])
def test_no_reason_is_empty(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "sizings", Mock(side_effect=error))
    assert certify(folded()).note == f"its proof failed with {type(error).__name__}"


def test_of_several_windows_of_a_rewrite_one_is_enough() -> None:
    right, wrong, body = folded(), folded(d=-BIAS), "a = RandomNormalLike(x) y = Mul(a, k)"
    unknown = window(
        "(float[N] x) => (float[N] y)", body, body.replace("a, k", "k, a"), {"k": scalar(2)}
    )
    for windows, verdict in (
        ([wrong, right], "certified"),
        ([unknown, right], "certified"),
        ([wrong, wrong], "differs"),
        ([wrong, unknown], "open"),
        ([unknown, wrong], "open"),
        ([wrong], "differs"),
    ):
        assert certify_any(windows).verdict == verdict


@pytest.mark.parametrize("seed", range(16))
def test_what_cancels_somewhere_is_no_difference(seed: int) -> None:
    """Near a zero of s·x + b, constants that are rounded alike would move nothing."""
    generator = np.random.default_rng(seed)
    act = ("Relu(a)", "LeakyRelu<alpha=0.1>(a)", "Abs(a)")[seed % 3]
    scale = np.exp(generator.normal(0, 0.5, (1, 4, 1, 1))).astype(np.float32)
    shift = generator.standard_normal((1, 4, 1, 1)).astype(np.float32)
    moved = (shift.astype(np.float64) / scale).astype(np.float32)
    text = "(float[1,4,2,5] x) => (float[1,4,2,5] y)"
    before = build(f"{text} {{ m = Mul(x, s) a = Add(m, b) y = {act} }}", s=scale, b=shift)
    after, wrong = (
        build(f"{text} {{ a = Add(x, b) n = {act} y = Mul(n, s) }}", s=scale, b=moved * error)
        for error in (np.float32(1), np.float32(1 + 4e-6))
    )
    assert certify(Window(before, after)).verdict == "certified"
    assert certify(Window(before, wrong)).verdict == "differs"
