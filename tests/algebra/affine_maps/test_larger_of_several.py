"""Maps through a Max or Min: into all that it takes the larger or smaller of."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.algebra.affine_maps.carrying import NotCarried
from bnfold.algebra.affine_maps.reach import NotReached
from bnfold.algebra.weights import NotStorable
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

NAME, SCALE = "fold-batchnorm", "fold-scale-shift"
P, Q = "p = Conv(x, v)", "r = Relu(x) q = Conv(r, w)"
BN = {"bn_" + name: array for name, array in batch_norm(4).items()}
POSITIVE = {**BN, "bn_s": np.abs(BN["bn_s"]) + np.float32(0.1)}


def mapped(lines: str, sizes: str = "2,3,3,2", opset: int = 17, **weights: Any) -> onnx.ModelProto:
    """Return Convs p and q of 4 channels, lines that compute c of them, and its map."""
    known: Parameters = {
        "v": normal(4, 3, 1, 1),
        "w": normal(4, 3, 1, 1, seed=1),
        "z": np.array(0.25, np.float32),
        "o": normal(1, 4, 1, 1),
        "n": normal(1, 3, 1, 1),
        "big": np.array(3e38, np.float32),
        **POSITIVE,
        **weights,
    }
    text = f"(float[{sizes}] x) => (float[d,e,f,g] y) "
    text += f"{{ {lines} y = BatchNormalization(c, bn_s, bn_b, bn_m, bn_v) }}"
    return build(text, opset=opset, **named_in(text, known))


@pytest.mark.parametrize("operator", ["Max", "Min"])
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (f"{P} {Q} c = Max(p, q)", ["Relu", "Conv", "Conv", "Max"]),
        (f"{P} c = Max(p)", ["Conv", "Max"]),
        (f"{P} c = Max(z, p)", ["Conv", "Max"]),
        (f"{P} c = Max(p, o)", ["Conv", "Max"]),
        (f"{P} {Q} c = Max(p, z, q)", ["Relu", "Conv", "Conv", "Max"]),
        (f"{P} {Q} g = GlobalAveragePool(p) c = Max(g, q)",
         ["Relu", "Conv", "GlobalAveragePool", "Conv", "Max"]),
        (f"{P} {Q} g = Max(p, q) c = MaxPool<kernel_shape=[2,2]>(g)",
         ["Relu", "Conv", "Conv", "Max", "MaxPool"]),
        (f"{P} {Q} g = Max(p, z) c = Add(g, q)", ["Relu", "Conv", "Max", "Conv", "Add"]),
        (f"{P} {Q} t = Transpose<perm=[0,2,3,1]>(p) u = Transpose<perm=[0,2,3,1]>(q) "
         "g = Max(t, u) c = Transpose<perm=[0,3,1,2]>(g)",
         ["Relu", "Conv", "Transpose", "Conv", "Transpose", "Max", "Transpose"]),
    ],
)  # fmt: skip
def test_all_operands_take_the_map(operator: str, lines: str, expected: list[str]) -> None:
    lines = lines.replace(" Max(", f" {operator}(")
    after = [operator if each == "Max" else each for each in expected]
    certified = "Pool" not in lines and "(p)" not in lines.split("c = ")[1]
    for sizes in ("2,3,3,2", "N,3,H,W"):
        free = {"N": 2, "H": 4, "W": 3} if sizes.startswith("N") else None
        assert_rewritten(mapped(lines, sizes), NAME, after, sizes=free, certified=certified)


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_maxout_of_stacked_parts_takes_the_map(operator: str, keepdims: int) -> None:
    lines = f"{P} {Q} i = Unsqueeze(p, a) j = Unsqueeze(q, a) k = Concat<axis=1>(i, j) "
    lines += f"l = {operator}<axes=[1], keepdims={keepdims}>(k) "
    lines += "c = Identity(l)" if not keepdims else "c = Squeeze(l, a)"
    expected = ["Relu", "Conv", "Unsqueeze", "Conv", "Unsqueeze", "Concat", operator]
    expected.append("Squeeze" if keepdims else "Identity")
    assert_rewritten(mapped(lines, a=np.array([1])), NAME, expected, certified=True)


@pytest.mark.parametrize(
    ("lines", "reason", "subject"),
    [
        ("c = Max(z, o)", NotReached.NOT_LINEAR, "Max c"),
        (f"{P} i = Sigmoid(p) c = Max(z, i)", NotReached.NOT_LINEAR, "Sigmoid i"),
        (f"{P} i = Neg(p) c = Max(p, i)", Common.SHARED, "Conv p"),
        (f"{P} i = Conv(x, n) c = Max(p, i)", NotCarried.BROADCAST, "Max c"),
        (f"{P} c = Max(p, big)", NotStorable.NOT_REPRESENTABLE, "Max c"),
        (f"{P} c = Max(p, x)", NotReached.GRAPH_INPUT, "Max c"),
    ],
)  # fmt: skip
def test_refused(lines: str, reason: Refusal, subject: str) -> None:
    weights: Parameters = {}
    if "x)" in lines.split("c = ")[1]:
        weights = {"v": normal(4, 4, 1, 1)}
    if reason is NotStorable.NOT_REPRESENTABLE:
        weights = {"bn_s": np.full(4, 100, np.float32)}
    sizes = "2,4,3,2" if reason is NotReached.GRAPH_INPUT else "2,3,3,2"
    assert_refused(mapped(lines, sizes, **weights), NAME, reason, in_the_way=subject)


@pytest.mark.parametrize("operator", ["Max", "Min"])
def test_a_negative_scale_would_turn_one_into_the_other(operator: str) -> None:
    scales = POSITIVE["bn_s"].copy()
    scales[2] *= -1
    model = mapped(f"{P} {Q} c = {operator}(p, q)", bn_s=scales)
    assert_refused(model, NAME, NotCarried.NEGATIVE_SCALE, in_the_way=f"{operator} c")


def test_a_scale_of_zero_is_none() -> None:
    scales = POSITIVE["bn_s"].copy()
    scales[2] = 0
    model = mapped(f"{P} {Q} c = Max(p, q)", bn_s=scales)
    assert_rewritten(model, NAME, ["Relu", "Conv", "Conv", "Max"])


def test_before_operator_set_8_nothing_is_broadcast() -> None:
    model = mapped(f"{P} {Q} c = Max(p, q, o)", "1,3,1,1", opset=7)
    assert_rewritten(model, NAME, ["Relu", "Conv", "Conv", "Max"])


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_what_is_folded_is_equal(data: st.DataObject) -> None:
    sizes = {letter: data.draw(st.integers(1, 3)) for letter in "NHW"}
    channels = data.draw(st.integers(1, 4))
    lines, values = ["p = Conv(x, v)", "q = Conv(x, w)"], ["p", "q"]
    weights: Parameters = {"v": normal(channels, 2, 1, 1), "w": normal(channels, 2, 1, 1, seed=1)}
    for step in range(data.draw(st.integers(1, 3))):
        operands = [values.pop(data.draw(st.integers(0, len(values) - 1)))]
        joins = data.draw(st.booleans())
        if values and joins:
            operands.append(values.pop())
        if data.draw(st.booleans()):
            shape = data.draw(st.sampled_from([(), (1,), (channels, 1, 1), (1, 1, 1, 1)]))
            weights[f"o{step}"] = np.asarray(normal(*shape, seed=step))
            operands.insert(data.draw(st.integers(0, len(operands))), f"o{step}")
        operator = "Max" if data.draw(st.booleans()) else "Min"
        lines.append(f"u{step} = {operator}({', '.join(operands)})")
        values.append(f"u{step}")
    kind = data.draw(st.sampled_from(["Mul", "Add", "Sub", "Div"]))
    weights["t"] = normal(*data.draw(st.sampled_from([(1,), (channels, 1, 1)])), seed=9) * 2
    model = build(
        "(float[N,2,H,W] x) => (float[d,e,f,g] y) "
        f"{{ {' '.join(lines)} y = {kind}({values[-1]}, t) }}",
        **weights,
    )
    result = run_pass(model, SCALE)
    optimized = result.to_proto()
    assert_equivalent(model, optimized, draw_feeds(model, sizes=sizes), rtol=1e-4, atol=1e-5)
    is_decreasing = kind in ("Mul", "Div") and bool((weights["t"] < 0).any())
    assert (kind in operators(optimized)) == is_decreasing
    assert not run_pass(optimized, SCALE).record.rewrites
