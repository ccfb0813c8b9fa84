"""Windows that apply a function to the largest of some elements are proven."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from tests.support.graphs import Parameters
from tests.support.windows import BORDER, MAP, POOL, certified, differs, window

pytestmark = pytest.mark.usefixtures("without_weights")

MONOTONE = ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "HardSigmoid", "Softplus", "Softsign"]


MONOTONE += ["Erf", "Selu", "Celu", "Floor", "Round", "Sign", "Ceil", "Atan", "Exp"]


@pytest.mark.parametrize("function", MONOTONE)
def test_a_monotone_function_commutes_with_a_pool(function: str) -> None:
    before, after = f"a = {function}(x) y = {POOL}(a)", f"a = {POOL}(x) y = {function}(a)"
    text = "(float[N,1,L,W] x) => (float[N,c,l,w] y)"
    certified(certify(window(text, before, after)), "selection")


@pytest.mark.parametrize("name", ["float", "double", "float16"])
@pytest.mark.parametrize(
    ("before", "low", "high"),
    [("a = Max(x, l) y = Min(h, a)", -1, 2), ("a = Min(x, l) y = Max(a, h)", 2, 2)],
)
def test_the_larger_of_a_value_and_a_number_is_a_clip(
    before: str, low: float, high: float, name: str
) -> None:
    dtype = np.dtype({"float": "f4", "double": "f8", "float16": "f2"}[name])
    text = MAP.replace("float", name)
    old = {"l": np.array(-1, dtype), "h": np.array(2, dtype)}
    for wrong in (0, 0.125):
        new = {"p": np.array(low, dtype), "q": np.array(high + wrong, dtype)}
        certificate = certify(window(text, before, "y = Clip(x, p, q)", old, new))
        _ = differs(certificate) if wrong else certified(certificate, "selection")


def test_what_is_larger_than_other_numbers_for_other_elements_is_no_clip() -> None:
    weights = {"l": np.arange(4, dtype=np.float32).reshape(4, 1, 1), "p": np.array(0, np.float32)}
    differs(certify(window(MAP, "y = Max(x, l)", "y = Clip(x, p)", weights, weights)))
    wide = {**weights, "l": np.zeros((1,) * 5, np.float32)}
    text = "(float[N,4,H,W] x) => (float y)"
    assert certify(window(text, "y = Max(x, l)", "y = Clip(x, p)", wide, wide)).verdict == "differs"


@pytest.mark.parametrize("name", ["float16", "bfloat16", "double"])
def test_selection_in_other_types(name: str) -> None:
    before, after = f"a = Elu(x) y = {POOL}(a)", f"a = {POOL}(x) y = Elu(a)"
    certified(certify(window(MAP.replace("float", name), before, after)), "selection")


def test_cascades_of_pools() -> None:
    small = "MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>"
    large = "MaxPool<kernel_shape=[5,5], pads=[2,2,2,2]>"
    before = f"a = {small}(x) y = {small}(a)"
    certified(certify(window(MAP, before, f"y = {large}(x)")), "selection")
    fixed = MAP.replace("H,W", "80,80")
    assert certify(window(fixed, before, f"y = {large}(x)")).note.startswith("at smaller sizes")
    wrong = large.replace("5,5", "5,4").replace("2,2,2,2", "2,2,2,1")
    differs(certify(window(MAP, before, f"y = {wrong}(x)")))


PADDED_POOL = "MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[{}]>"


@pytest.mark.parametrize(
    ("function", "number", "ok", "pads"),
    [
        ("Identity(x)", -np.inf, True, "1,0,0,2"),
        ("Identity(x)", float(np.finfo(np.float32).min), True, "1,0,0,2"),
        ("Relu(x)", 0.0, True, "1,0,0,2"),
        ("Relu(x)", -3.0, True, "1,0,0,2"),
        ("Identity(x)", 0.0, False, "1,0,0,2"),
        ("Identity(x)", -1e30, False, "1,0,0,2"),
        ("Relu(x)", 1e-3, False, "1,0,0,2"),
        ("Identity(x)", -np.inf, False, "0,1,0,2"),
        ("Relu(x)", 0.0, False, "1,0,1,2"),
        ("Relu(x)", 0.0, False, "1,0,0,1"),
    ],
)
@pytest.mark.parametrize("text", [MAP, MAP.replace("H,W", "31,31")])
def test_pads_before_a_pool(function: str, number: float, ok: bool, pads: str, text: str) -> None:
    pool = PADDED_POOL.format("0,0,0,0")
    before = f"a = {function} p = Pad(a, border, number) y = {pool}(p)"
    after = f"a = {function} y = {PADDED_POOL.format(pads)}(a)"
    weights: Parameters = {"border": BORDER, "number": np.array(number, np.float32)}
    certificate = certify(window(text, before, after, weights))
    if ok:
        certified(certificate, "constant" if np.isinf(number) else "selection")
    else:
        differs(certificate)


@pytest.mark.parametrize(
    ("border", "kind"),
    [([0, 1, 1, 0, 0, -1, 0, 2], ""), ([0, 0, -1, 1, 0, 0, 0, 2], ""), (BORDER, "edge")],
)
def test_pads_of_another_kind_are_no_selection(border: list[int], kind: str) -> None:
    """A one-hot image is the same in all channels: it does not show a shift of channels."""
    pad = 'Pad<mode="edge">(a, border)' if kind else "Pad(a, border)"
    before = f"a = Relu(x) p = {pad} y = {PADDED_POOL.format('0,0,0,0')}(p)"
    after = f"a = Relu(x) y = {PADDED_POOL.format('1,0,0,2')}(a)"
    certificate = certify(window(MAP, before, after, {"border": np.array(border)}))
    assert certificate.verdict != "certified"


def test_ceil_mode_counts() -> None:
    ceil = POOL.replace(">", ", ceil_mode=1>")
    before, after = f"a = Elu(x) y = {ceil}(a)", f"a = {ceil}(x) y = Elu(a)"
    certified(certify(window(MAP, before, after)), "selection")
    differs(certify(window(MAP, before, f"a = {POOL}(x) y = Elu(a)")))
