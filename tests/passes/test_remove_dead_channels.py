"""remove-dead-channels: what constant channels pass, where they end, and where they must stay."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.algebra.affine_maps.reach import NotReached
from bnfold.algebra.channel_removal.spare_lanes import NotLeftOut
from bnfold.algebra.weights import NotStorable
from bnfold.rewriting.contract import Common, Refusal
from bnfold_passes.remove_dead_channels import Why
from tests.support.evaluate import assert_equivalent, run_float64
from tests.support.graphs import (
    Array,
    Parameters,
    batch_norm,
    build,
    draw_feeds,
    make_overridable,
    normal,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, parameters, run_pass

NAME = "remove-dead-channels"
DEAD = [1, 4]
"""The filters without weights, among 6."""
KEPT = [0, 2, 3, 5]


def dead(*shape: int, rows: list[int] = DEAD, seed: int = 0, axis: int = 0) -> Array:
    """Return weights, of which those at some places along an axis are zero."""
    weight = normal(*shape, seed=seed)
    np.moveaxis(weight, axis, 0)[rows] = 0
    return weight


def bias(*, zero: bool = False, size: int = 6) -> Array:
    """Return a bias; on request, it is zero where filters have no weights."""
    values = normal(size, seed=3) + 2
    values[DEAD] *= 0 if zero else 1
    return values


def between(
    lines: str,
    *,
    zero: bool = False,
    last: str = "Conv(t, u, e)",
    opset: int = 17,
    **weights: Array,
) -> onnx.ModelProto:
    """Return a model of a Conv with dead filters, the operators of `lines` from c to t, a Conv."""
    used: Parameters = {
        "w": dead(6, 4, 1, 1),
        "b": bias(zero=zero),
        "u": normal(5, 6, 3, 3),
        "e": normal(5, seed=4),
        **weights,
    }
    text = f"c = Conv(x, w, b) {lines} y = {last}"
    used = {name: array for name, array in used.items() if re.search(rf"\b{name}\b", text)}
    return build(f"(float[N,4,12,12] x) => (float[N,o,h,l] y) {{ {text} }}", opset=opset, **used)


def assert_narrowed(model: onnx.ModelProto, channels: int = 4) -> onnx.ModelProto:
    """Assert that the first Conv loses filters, and that no operator comes or goes."""
    optimized = assert_rewritten(model, NAME, operators(model))
    assert parameters(optimized)["w.folded"].shape[0] == channels
    return optimized


# --- What constant channels pass ----------------------------------------------------------------


ACTIVATIONS = [
    "t = Relu(c)",
    "t = Clip(c, lo, hi)",
    "t = Clip(c, , hi)",
    "t = LeakyRelu<alpha=0.2>(c)",
    "t = PRelu(c, slopes)",
    "t = PRelu(c, slope)",
    "t = HardSwish(c)",
    "t = HardSigmoid<alpha=0.3>(c)",
    "t = Sigmoid(c)",
    "t = Tanh(c)",
    "t = Elu<alpha=0.7>(c)",
    "t = Selu(c)",
    "t = Celu(c)",
    "t = Softplus(c)",
    "t = Softsign(c)",
    "t = Erf(c)",
    "t = Exp(c)",
    "t = Abs(c)",
    "t = Neg(c)",
    "t = Identity(c)",
    "t = ThresholdedRelu(c)",
    "t = Mul(c, slopes)",
    "t = Mul(k, c)",
    "t = Add(slopes, c)",
    "t = Sub(slopes, c)",
    "t = Div(c, slopes)",
    "t = Pow(c, two)",
    "t = Max(c, slopes)",
    "t = Min(c, k, slopes)",
    "g = Sigmoid(c) t = Mul(c, g)",
    "a = Add(c, k) g = Clip(a, lo, hi) t = Mul(c, g)",
    "t = BatchNormalization(c, s, b2, m, v)",
]
PARAMETERS: Parameters = {
    "lo": np.array(-0.5, np.float32),
    "hi": np.array(0.75, np.float32),
    "k": np.array(0.3, np.float32),
    "two": np.array(2, np.float32),
    "slopes": normal(6, 1, 1, seed=5),
    "slope": np.array([0.25], np.float32),
}
NORM = {("b2" if name == "b" else name): array for name, array in batch_norm(6).items()}
POOLS = [
    "t = MaxPool<kernel_shape=[2,2]>(c)",
    "t = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)",
    "t = AveragePool<kernel_shape=[2,2]>(c)",
    "t = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)",
    "t = AveragePool<kernel_shape=[3,3], count_include_pad=1>(c)",
    "t = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(c)",
    "t = Resize(c, , scales)",
    'r = Resize<mode="linear">(c, , scales) t = Relu(r)',
    'p = Pad<mode="reflect">(c, around) t = Relu(p)',
    'p = Pad<mode="edge">(c, around) t = Relu(p)',
    "t = Conv<group=6>(c, each, b)",
    "t = Conv<group=6, strides=[2,2]>(c, each)",
    'd = Conv<group=6, auto_pad="VALID">(c, each, b) t = Relu(d)',
]
SPACE: Parameters = {
    "scales": np.array([1, 1, 2, 2], np.float32),
    "around": np.array([0, 0, 1, 2, 0, 0, 1, 0]),
    "each": normal(6, 1, 3, 3, seed=6),
}


@pytest.mark.parametrize("lines", [*ACTIVATIONS, *POOLS])
def test_the_constant_moves_into_the_next_conv(lines: str) -> None:
    model = between(lines, **PARAMETERS, **SPACE, **NORM)
    optimized = assert_narrowed(model)
    weights = parameters(optimized)
    assert weights["u.folded"].shape == (5, 4, 3, 3)


@pytest.mark.parametrize(
    "lines",
    [
        "t = MaxPool<kernel_shape=[3,3], pads=[2,2,2,2]>(c)",
        "t = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(c)",
        "t = Pad(c, around)",
        'p = Pad<mode="constant">(c, around, nil) t = Relu(p)',
        "t = Conv<group=6, pads=[1,1,1,1]>(c, each)",
        'd = Conv<group=6, auto_pad="SAME_UPPER">(c, each) t = LeakyRelu(d)',
    ],
)
def test_zero_passes_what_pads(lines: str) -> None:
    weights: Parameters = {**SPACE, "nil": np.array(0, np.float32)}
    assert_narrowed(between(lines, zero=True, last="Conv<pads=[1,1,1,1]>(t, u, e)", **weights))


@pytest.mark.parametrize(
    ("lines", "subject"),
    [
        ("t = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(c)", "Average"),
        (
            "t = AveragePool<kernel_shape=[3,3], ceil_mode=1, strides=[2,2], "
            "count_include_pad=1>(c)",
            "Average",
        ),
        ("t = Pad(c, around)", "Pad"),
        ("t = Pad(c, around, k)", "Pad"),
        ("p = Mul(c, nil) t = Pad(p, around, k)", "Pad"),
        ("t = Conv<group=6, pads=[0,0,0,1]>(c, each)", "Conv"),
        ('t = Conv<group=6, auto_pad="SAME_LOWER">(c, each)', "Conv"),
    ],
)
def test_other_constants_are_not_constant_at_the_border(lines: str, subject: str) -> None:
    model = between(lines, **PARAMETERS, **SPACE, nil=np.array(0, np.float32))
    result = run_pass(model, NAME)
    assert not result.record.rewrites
    (refusal,) = result.record.refusals
    assert refusal.reason == NotLeftOut.BORDER.name
    assert refusal.in_the_way.startswith(subject)


@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_no_constant_is_known_where_windows_may_be_padding_alone(pool: str) -> None:
    model = build(
        "(float[N,4,H,W] x) => (float[N,5,h,w2] y) { c = Conv(x, w, b) "
        f"p = {pool}<kernel_shape=[2,2], dilations=[2,2], pads=[1,1,1,1]>(c) y = Conv(p, u) }}",
        opset=19,
        w=dead(6, 4, 1, 1),
        b=bias(zero=pool == "AveragePool"),
        u=normal(5, 6, 1, 1),
    )
    assert_refused(model, NAME, NotLeftOut.BORDER)


def test_no_constant_is_known_where_a_resize_fills_in_another() -> None:
    crop = (
        'Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize", '
        "extrapolation_value=9.0>(c, roi, scales)"
    )
    roi = np.array([0, 0, -0.5, 0, 1, 1, 1, 1], np.float32)
    assert_refused(between(f"t = {crop}", roi=roi, **SPACE), NAME, NotLeftOut.VARIES_LATER)


def test_a_constant_does_not_move_into_a_conv_that_pads() -> None:
    padded = "Conv<pads=[1,1,1,1]>(t, u, e)"
    assert_refused(between("t = Abs(c)", last=padded), NAME, NotLeftOut.BORDER)
    assert_narrowed(between("t = Abs(c)", last=padded, zero=True))
    assert_narrowed(between("t = Relu(c)", last=padded, b=-np.abs(bias())))


def test_a_filter_of_a_depthwise_conv_without_weights_ends_a_channel_that_varies() -> None:
    lines = "d = Conv<group=6, pads=[1,1,1,1]>(c, each, b) t = Relu(d)"
    model = between(lines, w=normal(6, 4, 1, 1), each=dead(6, 1, 3, 3))
    assert parameters(assert_narrowed(model))["each.folded"].shape == (4, 1, 3, 3)


@pytest.mark.parametrize("scale", ["Mul(c, slopes)", "BatchNormalization(c, s, b2, m, v)"])
def test_a_scale_of_zero_ends_a_channel_that_varies(scale: str) -> None:
    weights = {**NORM, "s": NORM["s"].copy(), "slopes": normal(6, 1, 1)}
    weights["s"][DEAD] = weights["slopes"][DEAD] = 0
    lines = f"q = {scale} d = Conv<group=6>(q, each, b) t = Relu(d)"
    # The depthwise Conv is what makes a root of the pass.
    model = between(lines, w=normal(6, 4, 1, 1), each=dead(6, 1, 3, 3, rows=[1]), **weights)
    assert_narrowed(model)


def test_a_depthwise_conv_may_have_several_filters_a_channel() -> None:
    model = between("t = Conv<group=6>(c, each)", each=normal(18, 1, 2, 2), u=normal(5, 18, 3, 3))
    weights = parameters(assert_narrowed(model))
    assert weights["each.folded"].shape == (12, 1, 2, 2)
    assert weights["u.folded"].shape == (5, 12, 3, 3)


def test_one_of_several_filters_a_channel_keeps_the_channel() -> None:
    each = dead(18, 1, 2, 2, rows=[0, 3, 4, 5])
    model = between(
        "t = Conv<group=6>(c, each)", w=normal(6, 4, 1, 1), each=each, u=normal(5, 18, 3, 3)
    )
    assert_narrowed(model, 5)


@pytest.mark.parametrize("where", ["before", "between", "after"])
def test_concat_puts_other_channels_beside(where: str) -> None:
    operands = {"before": "z, c", "between": "z, c, z2", "after": "c, z"}[where]
    lines = f"z = Conv(x, q) z2 = Conv(x, q2) j = Concat<axis=1>({operands}) t = Relu(j)"
    width = 6 + {"before": 3, "between": 5, "after": 3}[where]
    model = between(lines, q=normal(3, 4, 1, 1), q2=normal(2, 4, 1, 1), u=normal(5, width, 3, 3))
    assert parameters(assert_narrowed(model))["u.folded"].shape == (5, width - 2, 3, 3)


def test_concat_of_a_value_with_what_is_computed_from_it() -> None:
    lines = (
        "p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(c) "
        "q = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(p) t = Concat<axis=-3>(c, q, p, c)"
    )
    model = between(lines, u=normal(5, 24, 3, 3))
    assert parameters(assert_narrowed(model))["u.folded"].shape == (5, 16, 3, 3)


def test_concat_along_another_axis() -> None:
    lines = "z = Conv(x, q, b) t = Concat<axis=2>(c, z)"
    both = between(lines, q=dead(6, 4, 1, 1, rows=[1, 2], seed=2))
    assert_narrowed(both, 5)
    assert_refused(between(lines, q=normal(6, 4, 1, 1)), NAME, NotLeftOut.VARIES_LATER)
    other = between(lines.replace("q, b)", "q, b2)"), q=dead(6, 4, 1, 1), b2=bias() + 1)
    result = run_pass(other, NAME)
    assert [refusal.reason for refusal in result.record.refusals] == ["VARIES_LATER"] * 2
    assert not result.record.rewrites


def test_channels_that_meet_one_another_stay_or_go_together() -> None:
    lines = (
        "z = Conv(x, one) n = Concat<axis=1>(c, z) j = Concat<axis=1>(z, c) "
        "d = Sub(n, j) t = Conv(d, w7)"
    )
    weights: Parameters = {"one": normal(1, 4, 1, 1), "w7": normal(6, 7, 1, 1)}
    assert_refused(between(lines, **weights), NAME, NotLeftOut.VARIES_LATER)
    zeros = np.zeros((6, 4, 1, 1), np.float32)
    weights["one"] *= 0
    record = run_pass(between(lines, w=zeros, **weights), NAME).record
    assert not record.rewrites
    assert [refusal.reason for refusal in record.refusals] == ["ONLY_CHANNEL"] * 2


def test_several_branches_of_a_concat_go_at_once() -> None:
    lines = "z = Conv(x, q, b) j = Concat<axis=1>(c, x, z) k2 = Concat<axis=1>(j, c) t = Relu(k2)"
    model = between(lines, q=dead(6, 4, 1, 1, rows=[2], seed=1), u=normal(5, 22, 3, 3))
    (rewrite,) = run_pass(model, NAME).record.rewrites
    assert rewrite.detail == "3 of 16 channels"
    assert parameters(assert_narrowed(model))["u.folded"].shape == (5, 17, 3, 3)


def test_squeeze_and_excitation() -> None:
    lines = (
        "g = GlobalAveragePool(c) f = Conv(g, down) r = Relu(f) k = Conv(r, up) "
        "s = HardSigmoid(k) t = Mul(c, s)"
    )
    model = between(lines, zero=True, down=normal(2, 6, 1, 1), up=normal(6, 2, 1, 1))
    weights = parameters(assert_narrowed(model))
    assert weights["down.folded"].shape == (2, 4, 1, 1)
    assert weights["up.folded"].shape == (4, 2, 1, 1)


def test_a_product_with_what_varies_is_constant_only_at_zero() -> None:
    lines = "g = Conv(x, q) t = Mul(g, c)"
    assert_narrowed(between(lines, zero=True, q=normal(6, 4, 1, 1)))
    assert_refused(between(lines, q=normal(6, 4, 1, 1)), NAME, NotLeftOut.VARIES_LATER)


def test_a_map_of_one_channel_weighs_all() -> None:
    lines = "g = Conv(x, q) t = Mul(c, g)"
    assert_narrowed(between(lines, zero=True, q=normal(1, 4, 1, 1)))
    assert_refused(between(lines, q=normal(1, 4, 1, 1)), NAME, NotLeftOut.VARIES_LATER)


def test_a_residual_sum_of_values_that_are_both_constant() -> None:
    lines = "f = Relu(c) z = Conv(f, q, b) a = Add(c, z) z2 = Conv(a, q, b) t = Sub(z2, a)"
    assert_narrowed(between(lines, q=dead(6, 6, 1, 1, rows=[1, 3])), 5)
    assert_refused(between(lines, q=normal(6, 6, 1, 1)), NAME, NotLeftOut.VARIES_LATER)


def test_several_readers_take_the_constant_each() -> None:
    lines = "r = Relu(c) t = Conv(r, q) z = Conv<strides=[3,3]>(r, q, b) s = Conv(c, q)"
    text = "q2 = Conv(t, u) q3 = Conv(z, q) q4 = Add(s, t) g = GlobalMaxPool(q4)"
    model = between(f"{lines} {text}", q=normal(6, 6, 1, 1), last="Conv(t, u, e)")
    optimized = run_pass(model, NAME).to_proto()
    assert_equivalent(model, optimized, draw_feeds(model))


@pytest.mark.parametrize(
    "lines",
    [
        "g = GlobalAveragePool(c) f = Flatten(g) y = Gemm(f, u, e)",
        "g = GlobalMaxPool(c) f = Reshape(g, flat) "
        "y = Gemm<transB=1, alpha=0.5, beta=2.0>(f, v, e)",
        "g = ReduceMean<axes=[2,3], keepdims=0>(c) y = Gemm(g, u)",
        "g = ReduceMax<axes=[-1,2], keepdims=1>(c) f = Squeeze(g, space) y = MatMul(f, u)",
        "f = Flatten(c) y = Gemm(f, wide, e)",
        "f = Reshape(c, flat) r = Relu(f) y = Gemm(r, wide, rows)",
        "g = GlobalAveragePool(c) f = Flatten(g) h = Gemm(f, u6) r = Relu(h) "
        "i = Unsqueeze(r, space) s = Mul(c, i) y = Conv(s, conv)",
    ],
)
@pytest.mark.parametrize("zero", [False, True])
def test_through_flatten_into_dense_layers(lines: str, zero: bool) -> None:
    weights: Parameters = {
        "w": dead(6, 4, 1, 1),
        "b": bias(zero=zero),
        "u": normal(6, 5),
        "u6": dead(6, 6, axis=1),
        "v": normal(5, 6),
        "wide": normal(54, 5),
        "e": normal(5),
        "rows": normal(2, 5),
        "conv": normal(5, 6, 1, 1),
        "flat": np.array([0, -1]),
        "space": np.array([2, 3]),
    }
    used = {name: array for name, array in weights.items() if f" {name}" in lines or name in "wb"}
    shape = "float[2,5,3,3]" if "conv" in lines else "float[2,5]"
    model = build(
        f"(float[2,4,3,3] x) => ({shape} y) {{ c = Conv(x, w, b) {lines} }}", opset=17, **used
    )
    optimized = run_pass(model, NAME).to_proto()
    assert parameters(optimized)[optimized.graph.node[0].input[1]].shape[0] == 4
    assert_equivalent(model, optimized, draw_feeds(model))
    assert not run_pass(optimized, NAME).record.rewrites


# --- Where they start, and where they end -------------------------------------------------------


SOURCES = {
    "Gemm(x, w, b)": (dead(4, 6, axis=1), bias()),
    "Gemm<transB=1, alpha=2.0, beta=0.5>(x, w, b)": (dead(6, 4), bias()),
    "Gemm(x, w)": (dead(4, 6, axis=1), None),
    "Gemm<beta=3.0>(x, w, b)": (dead(4, 6, axis=1), np.array([[1.5]], np.float32)),
    "MatMul(x, w)": (dead(4, 6, axis=1), None),
}


@pytest.mark.parametrize(
    "last", ["Gemm(r, u, e)", "MatMul(r, u)", "Gemm<alpha=3.0, beta=2.0>(r, u, e)"]
)
@pytest.mark.parametrize("first", SOURCES)
def test_dense_layers(first: str, last: str) -> None:
    weight, shift = SOURCES[first]
    used: Parameters = {"w": weight, "u": normal(6, 5)}
    used |= {"b": shift} if shift is not None else {}
    used |= {"e": normal(5)} if "e)" in last else {}
    model = build(
        f"(float[N,4] x) => (float[N,5] y) {{ c = {first} r = Sigmoid(c) y = {last} }}", **used
    )
    optimized = run_pass(model, NAME).to_proto()
    expected = [*operators(model), *(["Add"] if "MatMul" in last else [])]
    assert operators(optimized) == expected
    assert 4 in parameters(optimized)["w.folded"].shape[:2]
    assert parameters(optimized)["u.folded"].shape == (4, 5)
    assert_equivalent(model, optimized, draw_feeds(model))


def test_the_bias_of_a_gemm_may_differ_from_row_to_row() -> None:
    rows = normal(2, 6)
    rows[:, 4] = 1.5
    model = build(
        "(float[2,4] x) => (float[2,5] y) { c = Gemm(x, w, b) y = Gemm(c, u) }",
        w=dead(4, 6, axis=1),
        b=rows,
        u=normal(6, 5),
    )
    optimized = assert_rewritten(model, NAME, ["Gemm", "Gemm"])
    assert parameters(optimized)["w.folded"].shape == (4, 5)
    assert parameters(optimized)["b.folded"].shape == (2, 5)


def test_before_opset_7() -> None:
    model = build(
        "(float[2,4] x) => (float[2,5] y) "
        "{ c = Gemm<broadcast=1>(x, w, b) r = Sigmoid(c) y = Gemm<broadcast=1>(r, u, e) }",
        opset=6,
        w=dead(4, 6, axis=1),
        b=bias(),
        u=normal(6, 5),
        e=normal(5),
    )
    optimized, feeds = run_pass(model, NAME).to_proto(), draw_feeds(model)
    assert parameters(optimized)["w.folded"].shape == (4, 4)
    expected, actual = run_float64(model, feeds), run_float64(optimized, feeds)
    rounding = 2.0**-23 * float(np.abs(expected).max())  # of the bias, which is stored in float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rounding)
    added = build(
        "(float[2,4] x) => (float[2,5] y) "
        "{ c = MatMul(x, w) r = Add<broadcast=1, axis=1>(c, b) y = MatMul(r, u) }",
        opset=6,
        w=dead(4, 6, axis=1),
        b=bias(),
        u=normal(6, 5),
    )
    assert_refused(added, NAME, NotLeftOut.CHANNELS_MIXED)


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_the_last_axis_of_matmul(rank: int) -> None:
    sizes = ",".join(["N", *["3"] * (rank - 2)])
    model = build(
        f"(float[{sizes},4] x) => (float[{sizes},5] y) "
        "{ m = MatMul(x, w) c = Add(m, b) g = Erf(c) y = MatMul(g, u) }",
        w=dead(4, 6, axis=1),
        b=bias(),
        u=normal(6, 5),
    )
    assert_rewritten(model, NAME, ["MatMul", "Add", "Erf", "MatMul", "Add"])


@pytest.mark.parametrize("zero", [False, True])
def test_conv_transpose(zero: bool) -> None:
    text = "c = ConvTranspose<strides=[2,2], pads=[0,1,0,1]>(x, w, b) y = Conv(c, u)"
    model = build(
        f"(float[N,4,5,5] x) => (float[N,5,h,l] y) {{ {text} }}",
        w=dead(4, 6, 3, 3, axis=1),
        b=bias(zero=zero),
        u=normal(5, 6, 1, 1),
    )
    optimized = assert_rewritten(model, NAME, ["ConvTranspose", "Conv"])
    assert parameters(optimized)["w.folded"].shape == (4, 4, 3, 3)
    after = between("t = Relu(c)", zero=zero, last="ConvTranspose(t, u, e)", u=normal(6, 5, 3, 3))
    if zero:
        assert_narrowed(after)
    else:
        assert_refused(after, NAME, NotLeftOut.BORDER)


@pytest.mark.parametrize("spatial_rank", [1, 3])
def test_any_rank(spatial_rank: int) -> None:
    size, ones = ",".join(["6"] * spatial_rank), [1] * spatial_rank
    model = build(
        f"(float[N,4,{size}] x) => (float[N,5,{size}] y) "
        "{ c = Conv(x, w, b) d = Conv<group=6>(c, each) r = Tanh(d) y = Conv(r, u) }",
        w=dead(6, 4, *ones),
        b=bias(),
        each=normal(6, 1, *ones),
        u=normal(5, 6, *ones),
    )
    assert_rewritten(model, NAME, ["Conv", "Conv", "Tanh", "Conv"])


def test_no_bias_comes_where_none_is_needed() -> None:
    model = between("t = Relu(c)", zero=True, last="Conv(t, u)")
    conv = assert_narrowed(model).graph.node[-1]
    assert len(conv.input) == 2
    assert len(assert_narrowed(between("t = Exp(c)", last="Conv(t, u)")).graph.node[-1].input) == 3


def test_half_precision() -> None:
    weights = [dead(6, 4, 1, 1), bias(), normal(5, 6, 3, 3), normal(5)]
    w, b, u, e = (weight.astype(np.float16) for weight in weights)
    model = build(
        "(float16[N,4,8,8] x) => (float16[N,5,6,6] y) "
        "{ c = Conv(x, w, b) r = LeakyRelu(c) y = Conv(r, u, e) }",
        w=w,
        b=b,
        u=u,
        e=e,
    )
    assert_rewritten(model, NAME, ["Conv", "LeakyRelu", "Conv"], rtol=2e-2, atol=2e-2)


def test_double_precision() -> None:
    weights = [dead(4, 6, axis=1), bias(), normal(6, 5), normal(5)]
    w, b, u, e = (weight.astype(np.float64) for weight in weights)
    model = build(
        "(double[N,4] x) => (double[N,5] y) { c = Gemm(x, w, b) r = Tanh(c) y = Gemm(r, u, e) }",
        w=w,
        b=b,
        u=u,
        e=e,
    )
    assert_rewritten(model, NAME, ["Gemm", "Tanh", "Gemm"], rtol=1e-13, atol=1e-13)


def test_subnormal_weights_count_as_zero() -> None:
    weight = normal(6, 4, 1, 1)
    weight[1] = 1e-40
    weight[2] = 2e-38
    assert_narrowed(between("t = Relu(c)", w=weight), 5)


def test_half_precision_needs_its_subnormal_weights() -> None:
    weight = normal(6, 4, 1, 1).astype(np.float16)
    weight[1] = 6e-8
    model = build(
        "(float16[N,4,8,8] x) => (float16[N,5,8,8] y) { c = Conv(x, w) y = Conv(c, u) }",
        w=weight,
        u=normal(5, 6, 1, 1).astype(np.float16),
    )
    assert not run_pass(model, NAME).record.rewrites


# --- Channels that nothing reads ----------------------------------------------------------------


def test_a_constant_that_is_ignored_may_be_padded() -> None:
    ignoring = dead(5, 6, 3, 3, axis=1)
    assert_narrowed(between("t = Exp(c)", last="Conv<pads=[1,1,1,1]>(t, u, e)", u=ignoring))


@pytest.mark.parametrize(
    "lines",
    [
        "t = Relu(c)",
        "d = Conv<group=6, pads=[1,1,1,1]>(c, each, b) t = MaxPool<kernel_shape=[2,2]>(d)",
        "z = Conv(x, q) t = Add(c, z)",
    ],
)
def test_what_all_readers_ignore_goes(lines: str) -> None:
    live: Parameters = {"w": normal(6, 4, 1, 1), "q": normal(6, 4, 1, 1, seed=9)}
    ignoring = dead(5, 6, 3, 3, axis=1)
    padded = "Conv<pads=[1,1,1,1]>(t, u, e)"
    assert_narrowed(between(lines, last=padded, u=ignoring, **SPACE, **live))


def test_what_one_reader_ignores_stays() -> None:
    lines = "t = Relu(c) z = Conv(t, q) a = GlobalMaxPool(z)"
    used: Parameters = {"w": normal(6, 4, 1, 1), "u": dead(5, 6, 3, 3, axis=1)}
    last = "Conv(t, u, e) s = ReduceSum<keepdims=0>(a)"
    model = build(
        "(float[N,4,12,12] x) => (float[N,o,h,l] y, float s) "
        f"{{ c = Conv(x, w) {lines} y = {last} }}",
        q=dead(6, 6, 1, 1, rows=[1], axis=1),
        e=normal(5),
        **used,
    )
    optimized = run_pass(model, NAME).to_proto()
    assert parameters(optimized)["w.folded"].shape[0] == 5
    assert_equivalent(model, optimized, draw_feeds(model))


def test_what_then_becomes_idle_goes_in_the_same_run() -> None:
    lines = "r = Relu(c) d = Conv(r, q) t = Relu(d)"
    q = normal(6, 6, 1, 1)
    q[np.ix_(KEPT, [0])] = 0  # only filters that go read channel 0
    used: Parameters = {"w": normal(6, 4, 1, 1), "u": dead(5, 6, 3, 3, axis=1), "q": q}
    optimized = assert_narrowed(between(lines, **used), 5)
    assert parameters(optimized)[optimized.graph.node[2].input[1]].shape == (4, 5, 1, 1)


# --- Blocks of channels -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "idle", "left"),
    [
        (16, 5, 16),
        (16, 7, 16),
        (16, 8, 8),
        (16, 9, 8),
        (24, 3, 24),
        (24, 10, 16),
        (12, 4, 8),
        (20, 1, 20),
        (20, 4, 16),
        (18, 3, 15),
        (9, 1, 8),
        (8, 7, 8),
    ],
)
def test_a_multiple_of_eight_stays(channels: int, idle: int, left: int) -> None:
    model = build(
        "(float[N,4,6,6] x) => (float[N,5,6,6] y) { c = Conv(x, w, b) y = Conv(c, u) }",
        w=dead(channels, 4, 1, 1, rows=list(range(1, 1 + idle))),
        b=normal(channels),
        u=normal(5, channels, 1, 1),
    )
    if left == channels:
        assert_refused(model, NAME, Common.NO_GAIN)
    else:
        optimized = run_pass(model, NAME).to_proto()
        assert parameters(optimized)["w.folded"].shape[0] == left
        assert_equivalent(model, optimized, draw_feeds(model))
        assert not run_pass(optimized, NAME).record.rewrites


def test_dense_layers_have_no_blocks() -> None:
    model = build(
        "(float[N,4] x) => (float[N,5] y) { c = Gemm(x, w) y = Gemm(c, u) }",
        w=dead(4, 16, rows=[3], axis=1),
        u=normal(16, 5),
    )
    assert parameters(assert_rewritten(model, NAME, ["Gemm", "Gemm"]))["w.folded"].shape == (4, 15)


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("t = Softmax<axis=1>(c)", NotLeftOut.CHANNELS_MIXED),
        ("t = LRN<size=3>(c)", NotLeftOut.CHANNELS_MIXED),
        ("t = InstanceNormalization(c, s, m)", NotLeftOut.CHANNELS_MIXED),
        ("f = Shape(c) h = Reshape(c, f) t = Relu(h)", NotLeftOut.CHANNELS_MIXED),
        ("t = DepthToSpace<blocksize=1>(c)", NotLeftOut.CHANNELS_MIXED),
        ("t = Resize(c, , , sizes)", NotLeftOut.CHANNELS_MIXED),
        ("t = Pad(c, onto)", NotLeftOut.CHANNELS_MIXED),
        ("q1 = ReduceMean<axes=[1]>(c) t = Mul(c, q1)", NotLeftOut.CHANNELS_MIXED),
        ("t, i = MaxPool<kernel_shape=[2,2]>(c) j = Cast<to=1>(i) k2 = ReduceMax(j)", None),
        ("t = Conv<group=2>(c, grouped)", NotLeftOut.GROUPED),
        ("z = Conv<group=2>(x, q) t = Add(c, z)", NotLeftOut.GROUPED),
        ("z = Conv(x, live) t = Add(c, z)", NotLeftOut.VARIES_LATER),
        ("z = Concat<axis=1>(x, two) t = Max(c, z)", NotLeftOut.OTHER_SOURCE),
        ("t = Add(c, everywhere)", NotLeftOut.VARIES_LATER),
    ],
)  # fmt: skip
def test_refuses_channels_that_do_not_stay_apart(lines: str, reason: Refusal | None) -> None:
    weights: Parameters = {
        **NORM,
        "grouped": normal(6, 3, 1, 1),
        "q": normal(6, 2, 1, 1),
        "live": normal(6, 4, 1, 1, seed=8),
        "two": normal(1, 2, 12, 12),
        "everywhere": normal(6, 12, 12),
        "sizes": np.array([2, 6, 24, 24]),
        "onto": np.array([0, 0, 0, 0, 0, 1, 0, 0]),
    }
    weights["u"] = normal(5, 7 if "onto" in lines else 6, 3, 3)
    model = between(lines, **weights)
    if reason is None:
        reason = NotLeftOut.CHANNELS_MIXED
        output = onnx.helper.make_tensor_value_info("k2", onnx.TensorProto.FLOAT, None)
        model.graph.output.append(output)
    if "two" in lines:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert_refused(model, NAME, reason)


def test_refuses_a_mean_over_the_channels_as_long_as_another_axis() -> None:
    model = build(
        "(float[N,4,6] x) => (float[N,5] y) "
        "{ c = Conv(x, w) m = ReduceMean<axes=[1], keepdims=0>(c) y = Gemm(m, u) }",
        w=dead(6, 4, 1),
        u=normal(6, 5),
    )
    assert_refused(model, NAME, NotLeftOut.CHANNELS_MIXED)


def test_refuses_a_concat_of_unknown_size() -> None:
    model = build(
        "(float[N,4,6] x, float[N,K,6] z) => (float[N,5,6] y) "
        "{ c = Conv(x, w) j = Concat<axis=1>(c, z) y = Conv(j, u) }",
        w=dead(6, 4, 1),
        u=normal(5, 8, 1),
    )
    assert_refused(model, NAME, NotLeftOut.CHANNELS_MIXED)


def test_refuses_an_operand_that_has_its_channels_on_another_axis() -> None:
    model = build(
        "(float[N,4,6,9] x, float[6,4,9] z) => (float[N,5,6,9] y) "
        "{ c = Conv(x, w) v = Conv(z, q) a = Add(c, v) y = Conv(a, u) }",
        w=dead(6, 4, 1, 1),
        q=dead(6, 4, 1, seed=2),
        u=normal(5, 6, 1, 1),
    )
    result = run_pass(model, NAME)
    assert {refusal.reason for refusal in result.record.refusals} == {"CHANNELS_MIXED"}
    assert not result.record.rewrites


def test_refuses_a_matmul_along_another_axis() -> None:
    model = build(
        "(float[N,4,6] x) => (float[N,6,5] y) { c = Conv(x, w) y = MatMul(c, u) }",
        w=dead(6, 4, 1),
        u=normal(6, 5),
    )
    assert_refused(model, NAME, NotLeftOut.CHANNELS_MIXED)


def test_refuses_numbers_of_channels_that_do_not_fit() -> None:
    model = build(
        "(float[N,4] x) => (float[N,5] y) { c = Gemm(x, w) y = Gemm(c, u) }",
        w=dead(4, 6, axis=1),
        u=normal(7, 5),
    )
    assert_refused(model, NAME, NotLeftOut.CHANNELS_MIXED)


def test_refuses_a_gemm_that_reads_channels_as_rows() -> None:
    model = build(
        "(float[6,4] x) => (float[6,5] y) { c = Gemm(x, w) y = Gemm<transA=1>(c, u) }",
        w=dead(4, 6, axis=1),
        u=normal(6, 5),
    )
    assert_refused(model, NAME, NotLeftOut.CHANNELS_MIXED)


def test_refuses_a_graph_output() -> None:
    model = between("t = Relu(c)")
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, ["N", 6, 12, 12])
    )
    assert_refused(model, NAME, NotReached.GRAPH_OUTPUT, in_the_way="Relu t")
    last = build("(float[N,4,5,5] x) => (float[N,6,5,5] y) { y = Conv(x, w) }", w=dead(6, 4, 1, 1))
    assert_refused(last, NAME, NotReached.GRAPH_OUTPUT)


@pytest.mark.parametrize("weight", ["u", "e"])
def test_refuses_weights_that_are_not_constant(weight: str) -> None:
    model = make_overridable(between("t = Relu(c)"), weight)
    assert_refused(model, NAME, Common.WEIGHT_OVERRIDABLE)
    computed = between("t = Relu(c)")
    index = [tensor.name for tensor in computed.graph.initializer].index(weight)
    tensor = computed.graph.initializer.pop(index)
    computed.graph.input.append(
        onnx.helper.make_tensor_value_info(weight, tensor.data_type, tensor.dims)
    )
    assert_refused(computed, NAME, Common.WEIGHT_NOT_CONSTANT)


def test_refuses_a_matrix_before_the_channels() -> None:
    """Its weight is the first operand, and constant: what it does is to combine channels."""
    text = "(float[N,4,5,5] x) => (float[N,6,7,5] y) { c = Conv(x, w) y = MatMul(a, c) }"
    model = build(text, w=dead(6, 4, 1, 1), a=normal(7, 5))
    assert_refused(model, NAME, NotLeftOut.CHANNELS_MIXED)
    text = text.replace(" x)", " x, float[7,5] a)")
    computed = build(text, w=dead(6, 4, 1, 1))
    assert_refused(computed, NAME, Common.WEIGHT_NOT_CONSTANT)


def test_refuses_to_remove_the_only_channel() -> None:
    model = between(
        "t = Relu(c)", w=np.zeros((1, 4, 1, 1), np.float32), b=normal(1), u=normal(5, 1, 3, 3)
    )
    assert_refused(model, NAME, Why.ONLY_CHANNEL)


def test_keeps_one_channel() -> None:
    model = between("t = Relu(c)", w=np.zeros((6, 4, 1, 1), np.float32))
    result = run_pass(model, NAME)
    optimized = result.to_proto()
    assert parameters(optimized)["w.folded"].shape[0] == 1
    assert [refusal.reason for refusal in result.record.refusals] == ["ONLY_CHANNEL"]
    assert_equivalent(model, optimized, draw_feeds(model))


def test_refuses_what_a_body_reads() -> None:
    model = build(
        """(float[N,4,9,9] x, bool q) => (float[N,5,7,7] y) {
            c = Conv(x, w, b)
            y = If (q) <
                then_branch = t () => (float[N,5,7,7] o) { o = Conv(c, u) },
                else_branch = e () => (float[N,5,7,7] p) { p1 = Neg(c) p = Conv(p1, u) }
            >
        }""",
        w=dead(6, 4, 1, 1),
        b=bias(),
        u=normal(5, 6, 3, 3),
    )
    assert_refused(model, NAME, NotReached.OTHER_GRAPH)


def test_within_a_body() -> None:
    model = build(
        """(float[N,4,9,9] x, bool q) => (float[N,5,7,7] y) {
            y = If (q) <
                then_branch = t () => (float[N,5,7,7] o) {
                    c = Conv(x, w, b) r = Exp(c) o = Conv(r, u)
                },
                else_branch = e () => (float[N,5,7,7] p) { p1 = Conv(x, w2) p = Conv(p1, u) }
            >
        }""",
        w=dead(6, 4, 1, 1),
        w2=normal(6, 4, 1, 1),
        b=bias(),
        u=normal(5, 6, 3, 3),
    )
    result = run_pass(model, NAME)
    assert len(result.record.rewrites) == 1
    assert_equivalent(model, result.to_proto(), {**draw_feeds(model), "q": np.array(True)})


def test_refuses_a_bias_that_overflows() -> None:
    model = between(
        "t = Relu(c)", b=np.full(6, 1e30, np.float32), u=np.full((5, 6, 3, 3), 1e10, np.float32)
    )
    assert_refused(model, NAME, NotStorable.NOT_REPRESENTABLE)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_bias_that_is_not_finite_is_no_constant(value: float) -> None:
    shift = bias()
    shift[DEAD[0]] = value
    model = between("t = Relu(c)", b=shift)
    optimized = run_pass(model, NAME).to_proto()
    assert parameters(optimized)["w.folded"].shape[0] == 5


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_bias_that_is_not_finite_spreads_where_its_weights_are_zero(value: float) -> None:
    shift = bias()
    shift[4] = value
    model = between(
        "t = Relu(c)", w=dead(6, 4, 1, 1, rows=[4]), b=shift, u=dead(5, 6, 3, 3, axis=1)
    )
    optimized = run_pass(model, NAME).to_proto()
    assert parameters(optimized)["w.folded"].shape[0] == 5


def test_a_constant_that_becomes_infinite_stays() -> None:
    model = between("t = Exp(c)", b=np.full(6, 1000, np.float32))
    assert not run_pass(model, NAME).record.rewrites
    scales = NORM["s"].copy()
    scales[DEAD] = 0
    norm = "q = Exp(c) t = BatchNormalization(q, s, b2, m, v)"
    depthwise = "q = Exp(c) t = Conv<group=6>(q, each)"
    overflows: Parameters = {"b": np.full(6, 1000, np.float32), "each": dead(6, 1, 1, 1)}
    for lines in (norm, depthwise):
        model = between(lines, **NORM | {"s": scales}, **overflows)
        assert not run_pass(model, NAME).record.rewrites
    zero = between("s = Div(one, c) t = Mul(c, s)", zero=True, one=np.array(1, np.float32))
    assert not run_pass(zero, NAME).record.rewrites


def test_models_without_constant_filters_stay_without_a_refusal() -> None:
    for model in (
        between("t = Relu(c)", w=normal(6, 4, 1, 1)),
        between("t = Softmax(c)", w=normal(6, 4, 1, 1)),
    ):
        record = run_pass(model, NAME).record
        assert not record.rewrites
        assert not record.refusals


def test_a_long_way_is_refused() -> None:
    lines = (
        "a0 = Abs(c) " + " ".join(f"a{i} = Abs(a{i - 1})" for i in range(1, 300)) + " t = Abs(a299)"
    )
    assert_refused(between(lines), NAME, NotReached.TOO_FAR)


def test_after_folding() -> None:
    norm = batch_norm(6)
    norm["s"][DEAD] = 0
    model = between(
        "n = BatchNormalization(c, s, b, m, v) t = Relu(n)", w=normal(6, 4, 1, 1), **norm
    )
    result = run_pass(model, NAME, "fold-batchnorm")
    optimized = result.to_proto()
    assert operators(optimized) == ["Conv", "Relu", "Conv"]
    assert parameters(optimized)[optimized.graph.node[0].input[1]].shape[0] == 4
    assert_equivalent(model, optimized, draw_feeds(model))


# --- All of it together -------------------------------------------------------------------------


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw a few operators between Convs, with filters without weights and columns of zeros."""
    rank = draw(st.integers(1, 2))
    channels = draw(st.sampled_from([3, 5, 6, 8, 16]))
    weights: Parameters = {}
    lines: list[str] = []

    def some(count: int) -> list[int]:
        return draw(st.lists(st.integers(0, count - 1), max_size=count, unique=True))

    def weight(rows: int, columns: int, size: int, idle: int = 0) -> str:
        name = f"w{len(weights)}"
        array = normal(rows, columns, *[size] * rank, seed=len(weights))
        array[some(rows)] = 0
        array[:, some(columns) if columns > 1 and idle else []] = 0
        weights[name] = array
        return name

    def shift(size: int) -> str:
        name = f"w{len(weights)}"
        array = normal(size, seed=len(weights))
        array[some(size)] = 0
        weights[name] = array
        return name

    def add(op: str) -> str:
        lines.append(f"v{len(lines)} = {op}")
        return f"v{len(lines) - 1}"

    def pads() -> str:
        return f"pads={[draw(st.integers(0, 1)) for _ in range(2 * rank)]}"

    def source() -> str:
        return add(f"Conv(x, {weight(channels, 4, 1)}, {shift(channels)})")

    def same_shape(value: str) -> str:
        kinds = ["Relu", "Sigmoid", "Tanh", "Neg", "Mul", "Add", "scale", "gate", "more"]
        kind = draw(st.sampled_from(kinds))
        if kind == "scale":
            name = f"w{len(weights)}"
            weights[name] = normal(channels, *[1] * rank, seed=len(weights))
            return add(f"{draw(st.sampled_from(['Mul', 'Add', 'Max']))}({value}, {name})")
        if kind == "gate":
            mean = add(f"GlobalAveragePool({value})")
            gate = add(f"Conv({mean}, {weight(channels, channels, 1, 1)}, {shift(channels)})")
            return add(f"Mul({value}, {gate})")
        if kind == "more":
            each = weight(channels, 1, 3)
            ones = [1] * 2 * rank
            return add(f"Conv<group={channels}, pads={ones}>({value}, {each}, {shift(channels)})")
        if kind in ("Mul", "Add"):
            return add(f"{kind}({value}, {draw(st.sampled_from(values))})")
        return add(f"{kind}({value})")

    values = [source()]
    if draw(st.booleans()):
        values.append(source())
    for _ in range(draw(st.integers(0, 4))):
        values.append(same_shape(draw(st.sampled_from(values))))
    value, width = values[-1], channels
    if draw(st.booleans()):
        chosen = draw(st.lists(st.sampled_from(values), min_size=2, max_size=3))
        value, width = add(f"Concat<axis=1>({', '.join(chosen)})"), channels * len(chosen)
    threes, twos = [3] * rank, [2] * rank
    last = draw(st.sampled_from(["", "MaxPool", "AveragePool", "AveragePool counted", "Pad"]))
    if last == "Pad":
        weights["around"] = np.array([0, 0, *[1] * rank, 0, 0, *[0] * rank])
        mode = draw(st.sampled_from(["constant", "edge", "reflect"]))
        value = add(f'Pad<mode="{mode}">({value}, around)')
    elif last:
        op, _, counted = last.partition(" ")
        counts = ", count_include_pad=1" if counted else ""
        steps = draw(st.sampled_from([[1] * rank, twos]))
        around = pads() if rank == 2 else "pads=[0,0]"  # onnx fails to pad along one axis
        value = add(f"{op}<kernel_shape={threes}, strides={steps}, {around}{counts}>({value})")
    kernel = weight(draw(st.integers(1, 4)), width, draw(st.integers(1, 3)), 1)
    lines.append(f"y = Conv<{pads()}>({value}, {kernel})")
    size = draw(st.sampled_from(["9", "N"]))
    text = f"(float[2,4,{','.join([size] * rank)}] x) => (float[2,o,{','.join('hl'[:rank])}] y)"
    return build(f"{text} {{ {' '.join(lines)} }}", opset=draw(st.integers(13, 17)), **weights)


@settings(max_examples=12, deadline=None)
@given(networks())
def test_random_networks(model: onnx.ModelProto) -> None:
    result = run_pass(model, NAME)
    optimized = result.to_proto()
    assert_equivalent(model, optimized, draw_feeds(model, sizes={"N": 9}))
    again = run_pass(optimized, NAME)
    assert not again.record.rewrites
    assert again.to_proto() == optimized
