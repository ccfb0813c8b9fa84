"""Proofs of windows of which one side has fewer channels: the right ones, and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.channels import _matched
from bnfold.proof.certificates.windows import Window
from tests.support.graphs import Array, normal
from tests.support.windows import window

MAP = "(float[N,4,H,W] x) => (float[N,o,h,l] y)"
LEFT = [0, 2, 3, 5]
GONE = [1, 4]


def weights(**changed: Array) -> dict[str, Array]:
    """Return weights of a Conv with two filters without weights, and of a Conv that follows."""
    w, u = normal(6, 4, 1, 1), normal(5, 6, 3, 3)
    w[GONE] = 0
    return {"w": w, "b": normal(6, seed=1), "u": u, "e": normal(5, seed=2), **changed}


def narrowed(old: dict[str, Array], results: Any) -> dict[str, Array]:
    """Return the weights without these channels, whose results move into the bias."""
    shift = (old["u"][:, GONE].astype(np.float64).sum(axis=(2, 3)) * results).sum(axis=1)
    return {
        "w2": old["w"][LEFT],
        "b2": old["b"][LEFT],
        "u2": old["u"][:, LEFT],
        "e2": (old["e"] + shift).astype(np.float32),
    }


def pair(
    function: str, old: dict[str, Array], new: dict[str, Array], last: str = "Conv", other: str = ""
) -> Window:
    before = f"c = Conv(x, w, b) {function} y = {last}(t, u, e)"
    after = f"c = Conv(x, w2, b2) {other or function} y = {last}(t, u2, e2)"
    return window(MAP, before, after, old, new)


def outcome(window: Window) -> tuple[str, str]:
    found = certify(window)
    return found.verdict, found.kind


PROVEN = ("certified", "channels")

FUNCTIONS = {
    "t = Relu(c)": lambda x: np.maximum(x, 0),
    "t = HardSwish(c)": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "s = Sigmoid(c) t = Mul(s, c)": lambda x: x / (1 + np.exp(-x)),
    "t = MaxPool<kernel_shape=[2,2]>(c)": lambda x: x,
    "r = Relu(c) p = AveragePool<kernel_shape=[2,2]>(r) t = Tanh(p)": lambda x: np.tanh(
        np.maximum(x, 0)
    ),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_constant_channels(function: str) -> None:
    old = weights()
    results = FUNCTIONS[function](old["b"][GONE].astype(np.float64))
    assert outcome(pair(function, old, narrowed(old, results))) == PROVEN
    wrong = narrowed(old, results * 1.01 + 0.01)
    assert outcome(pair(function, old, wrong))[0] == "differs"


def test_channels_that_nothing_reads() -> None:
    old = weights(w=normal(6, 4, 1, 1))
    old["u"][:, GONE] = 0
    new = narrowed(old, 0)
    padded = "Conv<pads=[1,1,1,1]>"
    assert outcome(pair("t = Elu(c)", old, new, padded)) == PROVEN
    old["u"][2, 4] = 0.01
    assert outcome(pair("t = Elu(c)", old, new, padded))[0] == "differs"


def test_a_channel_that_varies_is_no_constant() -> None:
    old = weights(w=normal(6, 4, 1, 1))
    assert outcome(pair("t = Elu(c)", old, narrowed(old, 0)))[0] == "differs"


def test_a_product_with_zero_is_constant_whatever_the_other_factor() -> None:
    gate = "z = Conv(x, q{n}) s = Exp(z) t = Mul(s, c)"
    old = weights(q=normal(6, 4, 1, 1, seed=3))
    old["b"][GONE] = 0
    new = narrowed(old, 0) | {"q2": old["q"][LEFT]}
    assert outcome(pair(gate.format(n=""), old, new, other=gate.format(n=2))) == PROVEN
    old["b"][GONE] = 1e-3
    found = outcome(pair(gate.format(n=""), old, new, other=gate.format(n=2)))
    assert found[0] == "differs"


def test_a_maximum_that_seems_constant_on_samples_is_not_proven() -> None:
    """At the samples, the map of one channel is never as large as 1,000; it may be."""
    function = "z = ReduceMean<axes=[1]>(x) t = Max(c, z)"
    old = weights()
    old["b"][GONE] = 1000
    new = narrowed(old, 1000.0)
    assert outcome(pair(function, old, new))[0] == "sampled"


def test_padding_is_not_the_constant() -> None:
    old = weights()
    results = np.maximum(old["b"][GONE], 0) + 1
    old["b"][GONE] = results
    wrong = pair("t = Relu(c)", old, narrowed(old, results), "Conv<pads=[1,1,1,1]>")
    assert outcome(wrong)[0] == "differs"


@pytest.mark.parametrize(
    "changed", [{"slope2": normal(4, 1, 1, seed=9)}, {"w2": normal(4, 4, 1, 1, seed=9)}]
)
def test_other_parameters_are_found(changed: dict[str, Array]) -> None:
    old = weights(slope=normal(6, 1, 1, seed=4))
    results = old["b"][GONE] * np.where(old["b"][GONE] > 0, 1, old["slope"][GONE, 0, 0])
    new = narrowed(old, results) | {"slope2": old["slope"][LEFT]}
    function, other = "t = PRelu(c, slope)", "t = PRelu(c, slope2)"
    assert outcome(pair(function, old, new, other=other)) == PROVEN
    assert outcome(pair(function, old, new | changed, other=other))[0] == "differs"


def test_channels_that_are_almost_the_same_are_told_apart() -> None:
    old = weights()
    old["w"][[2, 3]] = normal(2, 4, 1, 1) * np.float32(1e-18)
    old["b"][:] = [1, 0, 1e-17, 3e-17, 2e-17, 1]
    new = narrowed(old, old["b"][GONE].astype(np.float64))
    assert outcome(pair("t = LeakyRelu(c)", old, new)) == PROVEN


def test_functions_that_mix_channels_are_sampled() -> None:
    old = weights(w=normal(6, 4, 1, 1))
    old["u"][:, GONE] = 0
    old["b"][GONE] = -1000  # Softmax makes nothing of them
    new = narrowed(old, 0)
    assert outcome(pair("t = Softmax<axis=1>(c)", old, new))[0] == "sampled"


@pytest.mark.parametrize(("seed", "size"), [(0, "N,4"), (1, "1,4"), (2, "N,4"), (3, "1,4")])
def test_a_relu_that_happens_to_be_zero_is_no_constant(seed: int, size: str) -> None:
    """Of two random inputs, both may be negative in a channel that nothing reads later."""
    w, b, u, e = normal(4, 16, seed=seed), normal(16), normal(16, 5), normal(5)
    u[[2, 5]] = 0
    left = [i for i in range(16) if i not in (2, 5)]
    pair = window(
        f"(float[{size}] x) => (float[N,5] y)",
        "a = Gemm(x, w, b) r = Relu(a) y = Gemm(r, u, e)",
        "a = Gemm(x, w2, b2) r = Relu(a) y = Gemm(r, u2, e)",
        {"w": w, "b": b, "u": u, "e": e},
        {"w2": w[:, left], "b2": b[left], "u2": u[left], "e": e},
    )
    assert outcome(pair) == PROVEN
    wrong = window(
        f"(float[{size}] x) => (float[N,5] y)",
        "a = Gemm(x, w, b) r = Relu(a) y = Gemm(r, u, e)",
        "a = Gemm(x, w2, b2) r = Relu(a) y = Gemm(r, u2, e)",
        {"w": w, "b": b, "u": normal(16, 5), "e": e},
        {"w2": w[:, left], "b2": b[left], "u2": normal(16, 5)[left], "e": e},
    )
    assert certify(wrong).verdict != "certified"


def scaled(off: float = 0.0) -> Window:
    """Return a scale before a Conv, and a Conv with fewer filters that has absorbed it."""
    old = weights(k=np.array(0.7, np.float32))
    new = narrowed(old, np.maximum(old["b"][GONE].astype(np.float64), 0))
    absorbed = new["w2"].astype(np.float64) * float(old["k"])
    absorbed[1, 2] *= 1 + off
    new["w2"] = absorbed.astype(np.float32)
    return window(
        MAP,
        "m = Mul(x, k) c = Conv(m, w, b) t = Relu(c) y = Conv(t, u, e)",
        "c = Conv(x, w2, b2) t = Relu(c) y = Conv(t, u2, e2)",
        old,
        new,
    )


def test_weights_that_were_rounded_are_bounded() -> None:
    found = certify(scaled())
    assert (found.verdict, found.kind) == PROVEN
    assert found.bound is not None
    assert 0 < found.bound < 2e-6
    assert certify(scaled(1e-4)).verdict == "differs"


def test_the_nearest_of_several_rows_is_taken() -> None:
    """Weights of a trained network may be too small for a float32, and then all are alike."""
    known = np.array([[1.0], [4e-39], [3e-37], [2.0], [2e-39], [8e-38], [3.0]])
    assert _matched(known, known[[0, 2, 3, 5, 6]] * (1 + 1e-7), 1e-6) == [0, 2, 3, 5, 6]
    assert _matched(known, known, 1e-6) == list(range(7))
    assert _matched(known, known[[0, 6]], 1e-6) == [0, 6]
    assert _matched(known, known[[6, 0]], 1e-6) is None
    assert _matched(known[:2], known, 1e-6) is None
    assert _matched(known, known[[0]] * 1.01, 1e-6) is None
    assert _matched(known, known[:0], 1e-6) == []
