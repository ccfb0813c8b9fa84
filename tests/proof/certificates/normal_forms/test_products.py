"""A scale that passes a product of two values is proven."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.normal_forms.products import with_scales_after_products
from bnfold.proof.certificates.windows import Window
from tests.support.evaluate import run_float64
from tests.support.graphs import Parameters, build, normal
from tests.support.windows import scaled, window

pytestmark = pytest.mark.usefixtures("without_weights")

INTERFACE = "(float[N,4,H,W] x, float[N,4,1,1] g) => (float[N,3,h,w] y)"
KERNEL, SCALE = normal(3, 4, 3, 3), normal(4)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a = Mul(x, k) p = Mul(a, g) y = Conv(p, w)", "p = Mul(x, g) y = Conv(p, w)"),
        ("a = Mul(k, g) p = Mul(x, a) y = Conv(p, w)", "p = Mul(x, g) y = Conv(p, w)"),
        (
            "a = Mul(x, k) p = Mul(a, g) q = Mul(g, p) y = Conv(q, w)",
            "p = Mul(x, g) q = Mul(g, p) y = Conv(q, w)",
        ),
    ],
)
@pytest.mark.parametrize("off", [0.0, 1e-3])
def test_a_scale_that_passes_a_product(before: str, after: str, off: float) -> None:
    scale = SCALE.copy()
    scale[1] += off
    old: Parameters = {"k": SCALE.reshape(4, 1, 1), "w": KERNEL}
    pair = window(INTERFACE, before, after, old, {"w": scaled(KERNEL, scale, 1)})
    certificate = certify(Window(*map(onnx.shape_inference.infer_shapes, pair.models)))
    expected = ("differs", None) if off else ("certified", "linear")
    assert (certificate.verdict, None if off else certificate.kind) == expected


@pytest.mark.parametrize(
    "lines",
    [
        "a = Mul(x, k) p = Mul(a, g) y = Add(p, a)",
        "a = Mul(x, k) y = Mul(a, a)",
        "a = Div(k, x) y = Mul(a, g)",
        "a = Add(x, k) y = Mul(a, g)",
        "a = Mul(x, k) y = Mul(a, k)",
    ],
)
def test_others_stay(lines: str) -> None:
    model = build(f"{INTERFACE} {{ {lines} }}", k=SCALE.reshape(4, 1, 1))
    moved = with_scales_after_products(Window(model, model)).before
    assert list(moved.graph.node) == list(model.graph.node)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_what_moves_is_the_same(data: st.DataObject) -> None:
    values, lines = ["x", "g"], []
    weights: Parameters = {}
    for step in range(data.draw(st.integers(1, 6))):
        kind = data.draw(st.sampled_from(["Mul", "Div", "product", "product"]))
        operands = [data.draw(st.sampled_from(values)), f"k{step}"]
        if kind == "product":
            operands[1] = data.draw(st.sampled_from(values))
        else:
            shape = data.draw(st.sampled_from([(4, 1, 1), (), (1, 4, 3, 1)]))
            weights[f"k{step}"] = np.asarray(normal(*shape, seed=step))
            if data.draw(st.booleans()):
                operands.reverse()
        op_type = "Mul" if kind == "product" else kind
        lines.append(f"v{step} = {op_type}({', '.join(operands)})")
        values.append(f"v{step}")
    interface = f"(float[2,4,3,3] x, float[2,4,1,1] g) => (float[a,b,c,d] {values[-1]})"
    model = build(f"{interface} {{ {' '.join(lines)} }}", **weights)
    moved = with_scales_after_products(Window(model, model)).before
    feeds = {"x": normal(2, 4, 3, 3), "g": normal(2, 4, 1, 1, seed=1)}
    (expected,), (actual,) = run_float64(model, feeds), run_float64(moved, feeds)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
