"""fold-scale-shift: constants that are per channel after broadcasting, and others."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import bnfold
from tests.cli.test_explain import lines
from tests.support.evaluate import RuntimeException, assert_equivalent, run_float64, run_plain
from tests.support.graphs import (
    Parameters,
    batch_norm,
    build,
    draw_feeds,
    named_in,
    normal,
    operators,
)
from tests.support.passes import assert_rewritten, run_pass

NAME = "fold-scale-shift"


def after_conv(lines: str, *, opset: int = 17, **weights: Any) -> onnx.ModelProto:
    return build(
        f"(float[N,3,6,6] x) => (float[N,4,4,4] y) {{ c = Conv(x, w) {lines} }}",
        opset=opset,
        w=normal(4, 3, 3, 3),
        **weights,
    )


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (4, 1, 1), (1, 4, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize(
    "lines",
    ["Mul(c, k)", "Mul(k, c)", "Div(c, k)", "Add(c, k)", "Add(k, c)", "Sub(c, k)", "Sub(k, c)"],
)
def test_folds_into_conv(lines: str, shape: tuple[int, ...]) -> None:
    k = np.asarray(normal(*shape)) + np.float32(3)
    assert_rewritten(after_conv(f"y = {lines}", k=k), NAME, ["Conv"])


@pytest.mark.parametrize("shape", [(4,), (1, 4), (4, 1), (4, 4), (4, 4, 4), (2, 1, 1, 1)])
def test_leaves_what_is_not_per_channel(shape: tuple[int, ...]) -> None:
    """A bare (C,) aligns with the last axis, also where the width is C."""
    model = build(
        "(float[2,3,6,6] x) => (float[2,4,4,4] y) { c = Conv(x, w) y = Mul(c, k) }",
        w=normal(4, 3, 3, 3),
        k=normal(*shape),
    )
    assert not run_pass(model, NAME).record.rewrites


@pytest.mark.parametrize(
    ("lines", "weights"),
    [
        ("y = Div(k, c)", {"k": normal(4, 1, 1)}),
        ("s = Sigmoid(c) y = Mul(c, s)", {}),
        ("y = Add(c, c)", {}),
        ("y = Mul(c, k)", {"k": np.full((4, 1, 1), np.inf, np.float32)}),
        ("y = Div(c, k)", {"k": np.zeros((4, 1, 1), np.float32)}),
    ],
)
def test_leaves_what_is_not_affine_or_not_finite(lines: str, weights: Parameters) -> None:
    result = run_pass(after_conv(lines, **weights), NAME)
    assert not result.record.rewrites
    assert not result.record.refusals


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (3, 1, 1, 1, 1)])
def test_leaves_a_constant_that_adds_an_axis(shape: tuple[int, ...]) -> None:
    model = build(
        "(float[N,3,6,6] x) => (float[a,N,4,4,4] y) { c = Conv(x, w) y = Mul(c, k) }",
        w=normal(4, 3, 3, 3),
        k=normal(*shape),
    )
    assert not run_pass(model, NAME).record.rewrites


def test_leaves_a_constant_that_repeats_the_data_along_the_channels() -> None:
    model = build(
        "(float[N,3,6,6] x) => (float[N,4,4,4] y) { c = Conv(x, w) y = Mul(c, k) }",
        w=normal(1, 3, 3, 3),
        k=normal(4, 1, 1),
    )
    assert not run_pass(model, NAME).record.rewrites
    before_conv = build(
        "(float[N,1,6,6] x) => (float[N,5,4,4] y) { a = Mul(x, k) y = Conv(a, w) }",
        w=normal(5, 4, 3, 3),
        k=normal(4, 1, 1),
    )
    assert not run_pass(before_conv, NAME).record.rewrites


def test_chains_as_caffe2_and_tensorflow_export_them() -> None:
    caffe2 = after_conv(
        "n = BatchNormalization(c, s, b, m, v) g = Unsqueeze(scale, axes) a = Mul(n, g) "
        "h = Unsqueeze(shift, axes) y = Add(a, h)",
        scale=normal(4),
        shift=normal(4),
        axes=np.array([1, 2], np.int64),
        **batch_norm(4),
    )
    result = run_pass(caffe2, NAME, "fold-batchnorm")
    assert operators(result.to_proto()) == ["Conv"]
    assert_equivalent(caffe2, result.to_proto(), draw_feeds(caffe2))
    tensorflow = after_conv(
        "a = Sub(c, mean) y = Div(a, deviation)",
        mean=normal(1, 4, 1, 1),
        deviation=np.abs(normal(1, 4, 1, 1)) + np.float32(1),
    )
    assert_rewritten(tensorflow, NAME, ["Conv"])


def test_a_batch_normalization_that_stays_absorbs_its_neighbours() -> None:
    model = build(
        "(float[N,4,6,6] x) => (float[N,4,6,6] y) { r = Sigmoid(x) "
        "n = BatchNormalization(r, s, b, m, v) a = Mul(n, k) y = Add(a, t) }",
        k=normal(4, 1, 1),
        t=normal(1, 4, 1, 1),
        **batch_norm(4),
    )
    assert_rewritten(model, NAME, ["Sigmoid", "BatchNormalization"])


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [("<broadcast=1, axis=1>", (4,)), ("<broadcast=1>", (4, 1, 1)), ("<broadcast=1>", ())],
)
def test_the_broadcast_attribute_of_old_opsets(attributes: str, shape: tuple[int, ...]) -> None:
    model = after_conv(f"y = Mul{attributes}(c, k)", opset=6, k=np.asarray(normal(*shape)))
    result = run_pass(model, NAME)
    assert operators(result.to_proto()) == ["Conv"]
    onnx.checker.check_model(result.to_proto(), full_check=True)
    (rewrite,) = bnfold.optimize(model, only=[NAME]).record.rewrites  # onnxruntime cannot run it
    assert rewrite.certificate is not None
    assert rewrite.certificate.verdict == "certified"


# --- The scale alone, before an operator that pads ----------------------------------------------


def before_padding(lines: str, *, opset: int = 17, **weights: Any) -> onnx.ModelProto:
    return build(
        f"(float[N,3,7,5] x) => (float[n,c,h,v] y) {{ {lines} }}",
        opset=opset,
        w=normal(4, 3, 3, 3),
        k=np.array([0.5, -2, 3], np.float32).reshape(3, 1, 1),
        t=normal(3, 1, 1),
        **weights,
    )


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        ("a = Mul(x, k) b = Add(a, t) y = Conv<pads=[1,1,0,1]>(b, w)", ["Conv"]),
        ("a = Mul(x, k) b = Add(t, a) y = Conv<pads=[1,1,0,1], strides=[2,2]>(b, w)", ["Conv"]),
        ("a = Sub(x, t) b = Div(a, k) y = Conv<pads=[1,1,1,1]>(b, w, d)", ["Conv"]),
        ("a = Div(x, h) b = Sub(t, a) c = Mul(b, k) y = Conv<pads=[1,1,1,1]>(c, w)", ["Conv"]),
        ("a = Div(x, h) b = Sub(a, h) y = Conv<pads=[1,1,1,1]>(b, w)", ["Conv"]),
        ('a = Mul(x, k) b = Add(a, t) y = Conv<auto_pad="SAME_UPPER">(b, w)', ["Conv"]),
        ("a = Mul(x, k) b = Add(a, t) y = ConvTranspose(b, v)", ["ConvTranspose"]),
        (
            "a = Mul(x, k) b = Add(a, t) p = Transpose<perm=[0,1,3,2]>(b) "
            "y = Conv<pads=[1,1,1,1]>(p, w)",
            ["Transpose", "Conv"],
        ),
        (
            "a = Mul(x, k) b = Add(a, t) c = Conv<pads=[1,1,1,1]>(b, w) e = Conv(b, u) "
            "f = Flatten(c) g = Flatten(e) y = Concat<axis=1>(f, g)",
            ["Conv", "Conv", "Flatten", "Flatten", "Concat"],
        ),
    ],
)
def test_leaves_one_add_before_an_operator_that_pads(lines: str, left: list[str]) -> None:
    choices: Parameters = {
        "h": np.array(255, np.float32),
        "d": normal(4),
        "v": normal(3, 4, 3, 3),
        "u": normal(4, 3, 1, 1),
    }
    weights = {name: array for name, array in choices.items() if f" {name})" in lines}
    model = before_padding(lines, **weights)
    if "Flatten" in lines:
        del model.graph.output[0].type.tensor_type.shape.dim[2:]
    assert_rewritten(model, NAME, ["Add", *left])


@pytest.mark.parametrize(
    "lines",
    [
        "b = Add(x, t) y = Conv<pads=[1,1,1,1]>(b, w)",
        "a = Mul(x, zero) b = Add(a, t) y = Conv<pads=[1,1,1,1]>(b, w)",
        "a = Mul(x, tiny) b = Add(a, large) y = Conv<pads=[1,1,1,1]>(b, w)",
        "a = Mul(x, k) b = Add(a, t) c = Conv<pads=[1,1,1,1]>(b, w) e = Sigmoid(a) "
        "f = GlobalMaxPool(c) g = GlobalMaxPool(e) y = Concat<axis=1>(f, g)",
        "a = Mul(x, k) b = Add(a, t) c = Relu(b) y = Conv<pads=[1,1,1,1]>(c, w)",
    ],
)
def test_leaves_both_where_one_add_would_not_do(lines: str) -> None:
    choices: Parameters = {
        "zero": np.array([1, 0, 2], np.float32).reshape(3, 1, 1),
        "tiny": np.array(1e-30, np.float32),
        "large": np.array(1e10, np.float32),
    }
    weights = {name: array for name, array in choices.items() if f" {name})" in lines}
    assert not run_pass(before_padding(lines, **weights), NAME).record.rewrites


def test_leaves_both_before_broadcasting_as_of_opset_7() -> None:
    lines = "a = Mul<broadcast=1>(x, k) b = Add<broadcast=1>(a, t) y = Conv<pads=[1,1,1,1]>(b, w)"
    assert not run_pass(before_padding(lines, opset=6), NAME).record.rewrites


# --- Random graphs ------------------------------------------------------------------------------

STEPS = [
    "{o} = BatchNormalization({i}, s, b, m, v)",
    "{o} = BatchNormalization({i}, p, b, m, v)",
    "{o} = Mul({i}, k)",
    "{o} = Add({i}, t)",
    "{o} = Sub({i}, t)",
    "{o} = Sub(t, {i})",
    "{o} = Div({i}, e)",
    "{o} = Mul({i}, e)",
    "{o} = Conv({i}, w1)",
    "{o} = Conv({i}, w2, t4)",
    "{o} = Conv<pads=[1,1,1,1]>({i}, w3)",
    "{o}a = Mul({i}, k) {o}b = Add({o}a, t) {o} = Conv<pads=[1,1,1,1]>({o}b, w3)",
    "{o} = Conv<group=4>({i}, w4)",
    "{o} = ConvTranspose({i}, w1)",
    "{o} = Relu({i})",
    "{o} = LeakyRelu({i})",
    "{o} = Elu({i})",
    "{o} = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>({i})",
    "{o} = MaxPool<kernel_shape=[2,2]>({i})",
    "{o} = AveragePool<kernel_shape=[2,2]>({i})",
    "{o} = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>({i})",
    "{o} = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>({i})",
    "{o} = Pad({i}, pads)",
    '{o} = Pad<mode="edge">({i}, pads)',
    '{o} = Resize<mode="nearest">({i}, , scales)',
    "{o} = Identity({i})",
    "{o} = Dropout({i})",
    "{o}a = Transpose<perm=[0,2,3,1]>({i}) {o}b = Mul({o}a, k1) "
    "{o} = Transpose<perm=[0,3,1,2]>({o}b)",
    "{o}a = Conv({i}, w1) {o}b = Conv({i}, w5) {o} = Add({o}a, {o}b)",
    "{o}a = Conv({i}, w1) {o}b = Elu({i}) {o} = Sub({o}a, {o}b)",
    "{o}a = Conv({i}, w6) {o}b = Conv({i}, w7) {o} = Concat<axis=1>({o}a, {o}b)",
    "{o}a = Conv({i}, w6) {o}b = Slice({i}, one, four, one) {o} = Concat<axis=1>({o}a, {o}b)",
]
POOL: Parameters = {
    **batch_norm(4),
    "p": np.array([0.5, 2, 0, 1], np.float32),
    "k": normal(4, 1, 1),
    "k1": normal(4),
    "t": normal(1, 4, 1, 1),
    "e": np.array(1.7, np.float32),
    "t4": normal(4),
    **{f"w{i}": normal(4, 4, 1, 1, seed=i) for i in (1, 5)},
    **{f"w{i}": normal(4, 4, 3, 3, seed=i) / 3 for i in (2, 3)},
    "w4": normal(4, 1, 1, 1),
    "w6": normal(1, 4, 1, 1),
    "w7": normal(3, 4, 1, 1),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "one": np.array([1], np.int64),
    "four": np.array([4], np.int64),
}


@st.composite
def affine_graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw a chain of steps with shortcuts, some of whose values are read twice or are outputs."""
    steps = draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=9))
    lines, values = [], ["x"]
    for number, step in enumerate(steps):
        back = draw(st.sampled_from([1, 1, 1, 1, 2]))
        source = values[-min(back, len(values))]
        lines.append(step.format(i=source, o=f"v{number}"))
        values.append(f"v{number}")
    tail = ""
    if draw(st.booleans()):
        tail = f" f = GlobalAveragePool({values[-1]}) g = Flatten(f) y = Gemm(g, dense, t4)"
        values.append("y")
    outputs = {values[-1], *draw(st.lists(st.sampled_from(values[1:]), max_size=1))}
    shapes = {name: "n,c" if name == "y" else "n,c,h,w" for name in sorted(outputs)}
    declared = ", ".join(f"float[{shape}] {name}" for name, shape in shapes.items())
    text = f"(float[N,4,14,14] x) => ({declared}) {{ {' '.join(lines)}{tail} }}"
    weights = named_in(text, POOL)
    weights |= {"dense": normal(4, 4)} if tail else {}
    return build(text, **weights)


@settings(max_examples=12, deadline=None)
@given(affine_graphs())
def test_random_graphs(model: onnx.ModelProto) -> None:
    try:
        run_plain(model, draw_feeds(model))
        run_float64(model, draw_feeds(model))
    except (*RuntimeException, RuntimeError):
        reject()  # the pools left fewer positions than the next kernel needs
    result = run_pass(model)
    assert_equivalent(model, result.to_proto(), draw_feeds(model), rtol=1e-4, atol=1e-4)
    again = run_pass(result.to_proto())
    assert not again.record.rewrites
    nodes = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    expected = Counter(node.output[0] for node in nodes)
    assert lines(result.record, "BatchNormalization") == expected


@pytest.mark.parametrize(("kind", "constant"), [("float", 1.5 * 2**23), ("float16", 1536)])
def test_keeps_a_constant_that_rounds_to_whole_numbers(kind: str, constant: float) -> None:
    """Adding and subtracting 1.5·2²³ rounds float32 values, and is written to do so."""
    dtype = {"float": np.float32, "float16": np.float16}[kind]
    model = build(
        f"({kind}[N,3,6,6] x) => ({kind}[N,4,4,4] y) {{ c = Conv(x, w) y = Add(c, k) }}",
        w=normal(4, 3, 3, 3, dtype=dtype),
        k=np.array(constant, dtype),
    )
    record = run_pass(model, NAME).record
    assert not record.rewrites
    assert {refusal.reason for refusal in record.refusals} == {"ROUNDS"}


@pytest.mark.parametrize(
    "pair",
    [
        "a = Add(c, k) y = Sub(a, k)",
        "a = Sub(c, k) y = Add(k, a)",
        "a = Add(c, k) y = Sub(k, a)",
        "a = Add(c, k) i = Identity(a) y = Sub(i, k)",
        "a = Add(c, k) h = Add(k, k) m = Mul(a, two) y = Sub(m, h)",
    ],
)
def test_keeps_a_pair_that_cancels(pair: str) -> None:
    weights: Parameters = {"two": np.array(2, np.float32)} if "two" in pair else {}
    model = after_conv(pair, k=np.array(2.0**18, np.float32), **weights)
    record = run_pass(model, NAME).record
    assert not record.rewrites
    assert {refusal.reason for refusal in record.refusals} == {"ROUNDS"}


def test_folds_small_constants_that_cancel() -> None:
    assert_rewritten(
        after_conv("a = Add(c, k) y = Sub(a, k)", k=np.array(2.5, np.float32)), NAME, ["Conv"]
    )
    large = np.array(2.0**18, np.float32)
    model = after_conv("a = Add(c, k) y = Add(a, k)", k=large)
    assert_rewritten(model, NAME, ["Conv"], atol=1)


# --- Products of two values -----------------------------------------------------------------------


def product(
    lines: str, *, inputs: str = "float[N,4,5,6] x, float[N,4,5,6] g", **more: Any
) -> onnx.ModelProto:
    weights: Parameters = {
        "k": normal(4, 1, 1),
        "t": normal(4, 1, 1, seed=1),
        "h": np.array(0.5, np.float32),
        "w": normal(3, 4, 3, 3),
        "v": normal(4, 4, 1, 1),
        "mw": normal(6, 2),
        **more,
    }
    used = named_in(lines, weights)
    return build(f"({inputs}) => (float[N,c,p,q] y) {{ {lines} }}", **used)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("a = Mul(x, k) p = Mul(a, g) y = Conv(p, w)", ["Mul", "Conv"]),
        ("a = Div(x, k) p = Mul(g, a) y = Conv<pads=[1,1,1,1]>(p, w)", ["Mul", "Conv"]),
        ("a = Mul(x, h) p = Mul(a, g) y = MatMul(p, mw)", ["Mul", "MatMul"]),
        ("a = Mul(x, h) p = Mul(a, g) q = Mul(g, p) y = Conv(q, w)", ["Mul", "Mul", "Conv"]),
        ("a = Mul(x, h) p = Mul(a, g) r = Relu(p) y = Conv(r, w)", ["Mul", "Relu", "Conv"]),
        # the other factor is computed from a, but after a Conv that absorbs the scale
        (
            "a = Mul(x, k) c = Conv(a, v) p = Mul(a, c) y = Conv(p, w)",
            ["Conv", "Mul", "Conv"],
        ),
    ],
)
def test_a_scale_passes_a_product(lines: str, expected: list[str]) -> None:
    assert_rewritten(product(lines), NAME, expected)


@pytest.mark.parametrize(
    ("gate", "scale"), [("N,4,1,1", "k"), ("N,4,1,1", "h"), ("4,5,6", "k"), ("4,1,1", "k")]
)
def test_a_gate_that_is_repeated(gate: str, scale: str) -> None:
    """As after a squeeze and excitation: the scale is of the gate, and lies elsewhere there."""
    model = product(
        f"a = Mul(g, {scale}) p = Mul(x, a) y = Conv(p, w)",
        inputs=f"float[N,4,5,6] x, float[{gate}] g",
    )
    assert_rewritten(model, NAME, ["Mul", "Conv"])


@pytest.mark.parametrize(
    "lines",
    [
        "a = Add(x, t) p = Mul(a, g) y = Conv(p, w)",
        "a = Mul(x, k) p = Mul(a, a) y = Conv(p, w)",
        "a = Mul(x, k) i = Identity(a) p = Mul(a, i) y = Conv(p, w)",
        "a = Mul(x, h) r = Relu(a) p = Mul(r, a) y = Conv(p, w)",
        "a = Mul(x, h) p = Mul(a, g) q = Mul(p, a) y = Conv(q, w)",
        "a = Mul(x, k) p = Mul(a, g) y = Sigmoid(p)",
        "a = Mul(x, k) p = Mul(a, g) z = Sigmoid(p) q = Conv(p, v) y = Add(z, q)",
        "a = Mul(x, k) p = Div(g, a) y = Conv(p, w)",
    ],
)
def test_products_that_depend_on_more_than_a_scale_once(lines: str) -> None:
    model = product(lines)
    assert not run_pass(model, NAME).record.rewrites


def test_the_shift_of_a_normalization_before_a_product_is_named() -> None:
    lines = "a = BatchNormalization(x, s, b, m, v2) p = Mul(a, g) y = Conv(p, w)"
    norm = batch_norm(4)
    norm["v2"] = norm.pop("v")
    (refusal,) = run_pass(product(lines, **norm), "fold-batchnorm").record.refusals
    assert (refusal.reason, refusal.also_reason) == ("GRAPH_INPUT", "PRODUCT_SHIFT")


@st.composite
def gated(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw scales, products and Convs of 4 channels, each of any of the last values."""
    values, lines = ["x", "g"], []
    weights: Parameters = {}
    for step in range(draw(st.integers(2, 7))):
        kind = draw(st.sampled_from(["scale", "scale", "product", "product", "conv", "Relu"]))
        name, source = f"v{step}", draw(st.sampled_from(values[-3:]))
        if kind == "scale":
            weights[f"w{step}"] = normal(*draw(st.sampled_from([(4, 1, 1), (1,)])), seed=step)
            lines.append(f"{name} = Mul({source}, w{step})")
        elif kind == "product":
            lines.append(f"{name} = Mul({source}, {draw(st.sampled_from(values[-4:]))})")
        elif kind == "conv":
            weights[f"w{step}"] = normal(4, 4, 1, 1, seed=step)
            lines.append(f"{name} = Conv({source}, w{step})")
        else:
            lines.append(f"{name} = Relu({source})")
        values.append(name)
    lines.append(f"y = Conv({values[-1]}, w)")
    weights["w"] = normal(3, 4, 3, 3)
    gate = draw(st.sampled_from(["N,4,5,6", "N,4,1,1", "4,1,1"]))
    inputs = f"float[N,4,5,6] x, float[{gate}] g"
    return build(f"({inputs}) => (float[N,3,p,q] y) {{ {' '.join(lines)} }}", **weights)


@settings(max_examples=30, deadline=None)
@given(gated())
def test_random_products(model: onnx.ModelProto) -> None:
    feeds = draw_feeds(model)
    try:
        run_plain(model, feeds)
    except RuntimeException:
        reject()  # a Conv of too few axes
    optimized = run_pass(model, NAME).to_proto()
    assert_equivalent(model, optimized, feeds, rtol=1e-3, atol=1e-4)
    assert not run_pass(optimized, NAME).record.rewrites
