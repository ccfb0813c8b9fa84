"""A map after a normalization goes into the normalization's own scale and bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.algebra.affine_maps.linear import NotAbsorbed
from bnfold.proof.certificates.certificate import certify
from bnfold.rewriting.contract import Common, Refusal
from tests.support.evaluate import assert_equivalent
from tests.support.graphs import (
    Parameters,
    batch_norm,
    build,
    draw_feeds,
    named_in,
    normal,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, run_pass
from tests.support.windows import window

NAME, SCALE = "fold-batchnorm", "fold-scale-shift"
BN: Parameters = {"bn_" + name: array for name, array in batch_norm(4).items()}
INSTANCE = "InstanceNormalization<epsilon=1e-3>(x, g, h)"
LAYER = "LayerNormalization<epsilon=1e-3>(x, g, h)"
FOLDED = "BatchNormalization({}, bn_s, bn_b, bn_m, bn_v)"


def mapped(sizes: str, lines: str, opset: int = 17, **changes: Any) -> onnx.ModelProto:
    weights: Parameters = {"g": normal(4, seed=5), "h": normal(4, seed=6), **BN, **changes}
    read = named_in(lines, weights)
    return build(f"(float[{sizes}] x) => (float y) {{ {lines} }}", opset=opset, **read)


def shaped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose output has the shape that is inferred."""
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize(
    ("sizes", "lines", "expected"),
    [
        ("N,4,H,W", f"c = {INSTANCE} y = {FOLDED.format('c')}", ["InstanceNormalization"]),
        ("2,4,5", f"c = {INSTANCE} y = {FOLDED.format('c')}", ["InstanceNormalization"]),
        ("N,4", f"c = {LAYER} y = {FOLDED.format('c')}", ["LayerNormalization"]),
        ("N,4", f"c = LayerNormalization(x, g) y = {FOLDED.format('c')}", ["LayerNormalization"]),
        ("N,4", f"c = LayerNormalization<axis=1>(x, g, h) y = {FOLDED.format('c')}",
         ["LayerNormalization"]),
        ("N,T,4", f"c = {LAYER} t = Transpose<perm=[0,2,1]>(c) y = {FOLDED.format('t')}",
         ["LayerNormalization", "Transpose"]),
        ("N,4,H,W", f"c = {INSTANCE} p = GlobalAveragePool(c) y = {FOLDED.format('p')}",
         ["InstanceNormalization", "GlobalAveragePool"]),
    ],
)  # fmt: skip
def test_the_map_is_folded(sizes: str, lines: str, expected: list[str]) -> None:
    model = shaped(mapped(sizes, lines))
    free = {"N": 2, "H": 4, "W": 3, "T": 5}
    assert_rewritten(model, NAME, expected, sizes=free, certified=True)


@pytest.mark.parametrize(
    ("sizes", "lines", "reason", "subject"),
    [
        ("N,4,3", f"c = LayerNormalization(x, k, l) y = {FOLDED.format('c')}",
         NotAbsorbed.OTHER_AXIS, "LayerNormalization c"),
        ("N,4,3", f"c = LayerNormalization<axis=1>(x, m, n) y = {FOLDED.format('c')}",
         NotAbsorbed.OTHER_AXIS, "LayerNormalization c"),
        ("N,4", f"c, e = LayerNormalization(x, g, h) d = {FOLDED.format('c')} y = Add(d, e)",
         NotAbsorbed.OTHER_AXIS, "LayerNormalization c"),
        ("N,4,3", f"z = Relu(g) c = InstanceNormalization(x, i, h) y = {FOLDED.format('c')}",
         Common.WEIGHT_NOT_CONSTANT, "InstanceNormalization c"),
    ],
)  # fmt: skip
def test_refused(sizes: str, lines: str, reason: Refusal, subject: str) -> None:
    more: Parameters = {
        "k": normal(3), "l": normal(3, seed=1), "m": normal(4, 3), "n": normal(4, 3, seed=1),
    }  # fmt: skip
    text = lines
    if reason is Common.WEIGHT_NOT_CONSTANT:
        text = lines.replace("z = Relu(g)", "r = ReduceMean<axes=[0,2], keepdims=0>(x) i = Exp(r)")
    assert_refused(shaped(mapped(sizes, text, **more)), NAME, reason, in_the_way=subject)


@pytest.mark.parametrize("normalization", [INSTANCE, LAYER])
@pytest.mark.parametrize("wrong", ["g2", "h2", "e2"])
def test_what_is_folded_otherwise_is_not_proven(normalization: str, wrong: str) -> None:
    """By 0.01 %, or with another number that the variance is added."""
    gamma, beta = normal(4, seed=5), normal(4, seed=6)
    scale, shift = normal(4, seed=7) + 2, normal(4, seed=8)
    at = [-1, 1] if normalization is INSTANCE else [-1]
    old = {"g": gamma, "h": beta, "s": scale.reshape(at), "t": shift.reshape(at)}
    new = {"g": (gamma.astype(np.float64) * scale).astype(np.float32),
           "h": (beta.astype(np.float64) * scale + shift).astype(np.float32)}  # fmt: skip
    interface = "(float[2,4,5] x) => (float[2,4,5] y)"
    if normalization is LAYER:
        interface = "(float[2,5,4] x) => (float[2,5,4] y)"
    before, after = f"c = {normalization} m = Mul(c, s) y = Add(m, t)", f"y = {normalization}"
    assert certify(window(interface, before, after, old, new)).verdict == "certified"
    if wrong == "e2":
        after = after.replace("1e-3", "1e-2")
    else:
        new[wrong[0]] = new[wrong[0]] * np.array([1, 1, 1.0001, 1], np.float32)
    assert certify(window(interface, before, after, old, new)).verdict != "certified"


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_what_is_folded_is_equal(data: st.DataObject) -> None:
    channels, rank = data.draw(st.integers(1, 5)), data.draw(st.integers(3, 5))
    is_instance, has_bias = data.draw(st.booleans()), data.draw(st.booleans())
    others = "BCDE"[: rank - 2]
    sizes = {letter: data.draw(st.integers(1, 4)) for letter in f"N{others}"}
    shape = ["N", str(channels), *others] if is_instance else ["N", *others, str(channels)]
    line = "InstanceNormalization(x, g, h)" if is_instance else "LayerNormalization(x, g, h)"
    if not has_bias and not is_instance:
        line = "LayerNormalization(x, g)"
    kind = data.draw(st.sampled_from(["Mul", "Add", "Sub", "Div"]))
    constant = normal(channels, *[1] * (rank - 2) * is_instance, seed=9) + 3
    weights: Parameters = {"g": normal(channels), "t": constant}
    if "h)" in line:
        weights["h"] = normal(channels, seed=1)
    model = build(
        f"(float[{','.join(shape)}] x) => (float y) {{ c = {line} y = {kind}(c, t) }}", **weights
    )
    model = shaped(model)
    optimized = run_pass(model, SCALE).to_proto()
    assert operators(optimized) == [line.split("(")[0]]
    assert_equivalent(model, optimized, draw_feeds(model, sizes=sizes), rtol=1e-4, atol=1e-5)
