"""Patterns that onnxruntime fuses stay whole; constants next to them are folded."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.support.graphs import Parameters, build, normal, operators
from tests.support.passes import assert_rewritten, run_pass

GELU_AT_THE_END = (
    "d = Div(x, root) e = Erf(d) a = Add(e, one) p = Mul(x, a) g = Mul(p, half) y = Conv(g, w)"
)
GELU_AT_THE_START = (
    "h = Mul(x, half) d = Div(x, root) e = Erf(d) a = Add(e, one) g = Mul(h, a) y = Conv(g, w)"
)
NUMBERS: Parameters = {
    "root": np.array(np.sqrt(2), np.float32),
    "one": np.array(1, np.float32),
    "half": np.array(0.5, np.float32),
    "two": np.array(2, np.float32),
    "small": np.array(1e-5, np.float32),
}
IMAGE = "(float[N,4,8,8] x) => (float[N,5,6,6] y) "
LAYER_NORMALIZATION = (
    "(float[N,5,8] x) => (float[N,5,3] y) { m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) "
    "q = Pow(d, two) v = ReduceMean<axes=[-1]>(q) o = Add(v, small) r = Sqrt(o) z = Div(d, r) "
    "g = Mul(z, gamma) b = Add(g, beta) y = MatMul(b, w) }"
)


def fused_operators(model_bytes: bytes, folder: str) -> list[str]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = f"{folder}/fused.onnx"
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])
    return operators(onnx.load(options.optimized_model_filepath))


@pytest.mark.parametrize("gelu", [GELU_AT_THE_END, GELU_AT_THE_START])
@pytest.mark.parametrize("curve", ["Erf", "Tanh"])
def test_a_gelu_stays_whole(gelu: str, curve: str, tmp_path: object) -> None:
    numbers = {name: array for name, array in NUMBERS.items() if f" {name})" in gelu}
    text = IMAGE + "{ " + gelu.replace("Erf", curve) + " }"
    model = build(text, w=normal(5, 4, 3, 3), **numbers)
    assert not run_pass(model, "fold-scale-shift").record.rewrites
    if curve == "Erf":
        assert "Gelu" in fused_operators(model.SerializeToString(), str(tmp_path))


def test_a_layer_normalization_stays_whole(tmp_path: object) -> None:
    model = build(
        LAYER_NORMALIZATION,
        gamma=normal(8),
        beta=normal(8),
        w=normal(8, 3),
        two=NUMBERS["two"],
        small=NUMBERS["small"],
    )
    assert not run_pass(model, "fold-scale-shift").record.rewrites
    assert "LayerNormalization" in fused_operators(model.SerializeToString(), str(tmp_path))


def test_a_factor_after_a_gelu_is_folded() -> None:
    lines = GELU_AT_THE_END.replace("y = Conv(g, w)", "f = Mul(g, k) y = Conv(f, w)")
    numbers = {name: array for name, array in NUMBERS.items() if f" {name})" in lines}
    model = build(IMAGE + "{ " + lines + " }", w=normal(5, 4, 3, 3), k=normal(4, 1, 1), **numbers)
    expected = ["Div", "Erf", "Add", "Mul", "Mul", "Conv"]
    assert_rewritten(model, "fold-scale-shift", expected)


def test_a_decomposed_swish_is_left_to_its_own_pass() -> None:
    """Measured on PP-OCRv4: a HardSigmoid pays off more than folding the division into the Conv."""
    model = build(
        IMAGE + "{ a = Add(x, three) c = Clip(a, zero, six) p = Mul(x, c) d = Div(p, six) "
        "y = Conv(d, w) }",
        w=normal(5, 4, 3, 3),
        three=np.array(3, np.float32),
        zero=np.array(0, np.float32),
        six=np.array(6, np.float32),
    )
    assert not run_pass(model, "fold-scale-shift").record.rewrites
    passes = ("fold-scale-shift", "recognise-hard-activations")
    assert operators(run_pass(model, *passes).to_proto()) == ["HardSwish", "Conv"]
