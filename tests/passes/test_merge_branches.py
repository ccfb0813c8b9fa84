"""merge-branches: which parallel branches can be aligned, and which cannot."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from bnfold.algebra.spatial.operators import NotOneConv as Why
from bnfold.rewriting.contract import Common
from tests.support.evaluate import assert_equivalent
from tests.support.graphs import (
    Array,
    Parameters,
    batch_norm,
    build,
    draw_feeds,
    make_overridable,
    named_in,
    normal,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "merge-branches"
INTERFACE = "(float[N,4,9,9] x) => (float[N,4,h,w] y) "


def branches(lines: str, **weights: Array) -> onnx.ModelProto:
    used: Parameters = {"u": normal(4, 4, 3, 3), "p": normal(4, 4, 1, 1), **weights}
    used = named_in(lines, used)
    return build(INTERFACE + "{ " + lines + " }", **used)


MERGED = [
    "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv(x, p) y = Add(a, b)",
    "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv(x, p) y = Add(b, a)",
    "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv(x, p) y = Sub(a, b)",
    "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv(x, p) y = Sub(b, a)",
    "a = Conv<pads=[1,1,1,1]>(x, u, d) b = Conv(x, p, d) y = Add(a, b)",
    "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv(x, p) y = Sum(a, x, b)",
    "a = Conv<pads=[1,1,1,1]>(x, u, d) y = Add(a, x)",
    "a = Conv<pads=[1,1,1,1]>(x, u, d) y = Sub(x, a)",
    "a = Conv(x, p) b = Mul(x, k) y = Add(a, b)",
    "a = Conv(x, p) b = Mul(x, e) y = Sub(b, a)",
    "a = Conv<strides=[2,2], pads=[1,1,1,1]>(x, u) b = Conv<strides=[2,2]>(x, p) y = Add(a, b)",
    "a = Conv<pads=[2,2,0,0]>(x, u) b = Conv(x, p) y = Add(a, b)",
    "a = Conv(x, u) b = Conv(x, u2) y = Add(a, b)",
    'a = Conv<auto_pad="VALID">(x, u) b = Conv(x, u2) y = Add(a, b)',
    'a = Conv<auto_pad="SAME_UPPER">(x, u) y = Add(a, x)',
    "a = Conv<dilations=[2,2]>(x, u) b = Conv<dilations=[2,2]>(x, u2) y = Add(a, b)",
    "a = Conv<group=2>(x, g) b = Conv<group=2>(x, g2) y = Add(a, b)",
    "a = Conv<group=2>(x, g) b = Mul(x, k) y = Add(a, b)",
    "a = Conv<group=4, pads=[3,3,3,3]>(x, q) b = Conv<group=4, pads=[1,1,1,1]>(x, q2) "
    "c = Add(a, b) y = Add(c, x)",
    "a = Conv(x, p) b = Conv<group=2>(x, g) y = Add(a, b)",
    "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv<group=4, pads=[1,1,1,1]>(x, q2) y = Sub(b, a)",
    "a = Conv<group=4, pads=[1,1,1,1]>(x, q2) b = Conv<group=2, pads=[1,1,1,1]>(x, h) "
    "y = Sum(a, x, b)",
]
WEIGHTS: Parameters = {
    "u2": normal(4, 4, 3, 3, seed=1),
    "d": normal(4),
    "k": normal(4, 1, 1),
    "e": np.array(1.7, np.float32),
    "g": normal(4, 2, 1, 1),
    "g2": normal(4, 2, 1, 1, seed=1),
    "h": normal(4, 2, 3, 3),
    "q": normal(4, 1, 7, 7),
    "q2": normal(4, 1, 3, 3),
}


@pytest.mark.parametrize("lines", MERGED)
def test_branches_become_one_conv(lines: str) -> None:
    assert_rewritten(branches(lines, **WEIGHTS), NAME, ["Conv"])


TERMS = {
    "a": "a = Conv<pads=[1,1,1,1]>(x, u, d)",
    "b": "b = Conv(x, p)",
    "c": "c = Mul(x, k)",
    "x": "",
    "r": "r = Exp(x)",
    "t": "t0 = Exp(x) t1 = Conv<pads=[1,1,1,1]>(t0, u2) t = Relu(t1)",
}
"""Addends of a sum, those that are linear in x first."""

AMONG_OTHERS = {
    # another addend between two, before them, and after
    "r = Exp(x) a = Conv(x, p) b = Mul(x, k) c = Add(a, r) y = Add(c, b)": ["Exp", "Conv", "Add"],
    "r = Exp(x) a = Conv(x, p) b = Mul(x, k) c = Add(r, a) y = Add(c, b)": ["Exp", "Conv", "Add"],
    "r = Exp(x) a = Conv(x, p) b = Mul(x, k) c = Add(r, a) y = Add(b, c)": ["Exp", "Conv", "Add"],
    "r = Exp(x) a = Conv(x, p) c = Add(a, r) y = Add(c, x)": ["Exp", "Conv", "Add"],
    "r = Exp(x) a = Conv(x, p) y = Sum(a, r, x)": ["Exp", "Conv", "Add"],
    # both sides have one
    "r = Exp(x) t = Tanh(x) a = Conv(x, p) b = Mul(x, k) c = Add(a, r) n = Add(t, b) y = Add(c, n)":
        ["Exp", "Tanh", "Conv", "Add", "Add"],
    # two values have branches
    "r = Exp(x) a = Conv(x, p) b = Mul(x, k) n = Conv(r, p) f = Mul(r, k) c = Add(a, n) "
    "i = Add(b, f) y = Add(c, i)": ["Exp", "Conv", "Conv", "Add"],
    # branches of several operators
    "r = Exp(x) a = Conv(x, p) a2 = Mul(a, k) b = Mul(x, k) c = Add(a2, r) y = Add(c, b)":
        ["Exp", "Conv", "Add"],
    # all of them together cost more, one Conv and the rest do not
    "a = Conv<pads=[0,1,0,1]>(x, wide) b = Conv<pads=[1,0,1,0]>(x, high) c = Mul(x, k) "
    "n = Add(a, b) y = Add(n, c)": ["Conv", "Conv", "Add"],
}  # fmt: skip


@pytest.mark.parametrize("lines", AMONG_OTHERS)
def test_branches_among_other_addends(lines: str) -> None:
    more = {"wide": normal(4, 4, 1, 3), "high": normal(4, 4, 3, 1)}
    model = branches(lines, **WEIGHTS, **more)
    made = assert_rewritten(model, NAME, AMONG_OTHERS[lines], certified=True)
    assert sorted(operators(made)) == sorted(AMONG_OTHERS[lines])


@pytest.mark.parametrize(
    "lines",
    [
        # nothing to merge: one branch, no Conv, or another reader between
        "r = Exp(x) t = Tanh(x) a = Conv(x, p) c = Add(a, r) y = Add(c, t)",
        "r = Exp(x) b = Mul(x, k) c = Add(b, r) y = Add(c, x)",
        "r = Exp(x) a = Conv(x, p) b = Mul(x, k) c = Add(a, r) y = Add(c, b) z = Neg(c)",
        "r = Exp(x) a = Conv(x, p) b = Mul(x, k) c = Sub(a, r) y = Add(c, b)",
        "r = Exp(x) a = Conv(x, p) b = Mul(x, k) c = Add(a, r) y = Add(c, b) z = Neg(a)",
        "r = Exp(x) a = Conv(x, p) c = Add(a, r) y = Add(c, a)",
        "r = Exp(x) a = Conv(x, p) b = Mul(x, k) o = Add(a, r) y = Add(o, b)",
    ],
)
def test_sums_with_others_that_stay(lines: str) -> None:
    model = branches(lines, **WEIGHTS)
    if " z " in lines or " o " in lines:
        name = "z" if " z " in lines else "o"
        model.graph.output.append(onnx.ValueInfoProto(name=name))
        model.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    assert operators(run_pass(model, NAME).to_proto()) == operators(model)


def test_a_branch_that_is_not_aligned_is_named_among_others_too() -> None:
    lines = (
        "r = Exp(x) a = Conv<pads=[1,1,1,1]>(x, u) b = Conv(x, p) c = Mul(x, column) "
        "n = Add(a, r) y = Add(n, c)"
    )
    model = branches(lines.replace(" b = Conv(x, p)", ""), column=normal(9))
    assert_refused(model, NAME, Why.NOT_ALIGNED)


@settings(deadline=None)
@given(
    st.permutations(["a", "b", "c", "r", "t", "x"]),
    st.integers(3, 6),
    st.lists(st.integers(0, 4), min_size=5, max_size=5),
)
def test_sums_in_any_order(order: list[str], count: int, pairs: list[int]) -> None:
    """Any tree of sums over branches of x and others computes the same after as before."""
    chosen = order[:count]
    parts, lines = list(chosen), [TERMS[name] for name in chosen]
    for place in range(count - 1):
        at = pairs[place] % (len(parts) - 1)
        name = "y" if len(parts) == 2 else f"s{place}"
        lines.append(f"{name} = Add({parts[at]}, {parts[at + 1]})")
        parts[at : at + 2] = [name]
    weights = {name: WEIGHTS[name] for name in ("u2", "d", "k")}
    model = branches(" ".join(filter(None, lines)), **weights)
    result = run_pass(model, NAME)
    made = result.to_proto()
    assert_equivalent(model, made, draw_feeds(model, sizes={"N": 2}))
    again = run_pass(made, NAME)
    assert not again.record.rewrites
    linear = [name for name in chosen if name in "abcx"]
    if {"a", "b"} & {*linear} and len(linear) > 1:
        convs = operators(made).count("Conv") - ("t" in chosen)
        assert convs == 1, operators(made)


def test_a_repvgg_block_becomes_one_conv() -> None:
    model = build(
        INTERFACE + "{ a = Conv<pads=[1,1,1,1]>(x, u) m1 = BatchNormalization(a, s, b, m, v) "
        "c = Conv(x, p) m2 = BatchNormalization(c, s, m, b, v) "
        "m3 = BatchNormalization(x, b, s, m, v) t = Add(m1, m2) y = Add(t, m3) }",
        u=normal(4, 4, 3, 3),
        p=normal(4, 4, 1, 1),
        **batch_norm(4),
    )
    result = run_pass(model)
    assert operators(result.to_proto()) == ["Conv"]
    (last,) = [rewrite for rewrite in result.record.rewrites if rewrite.gone]
    assert last.gone == {"m3": "BatchNormalization"}


def test_the_shift_of_a_map_parallel_to_a_padded_conv_is_exact_at_the_border() -> None:
    model = branches(
        "a = Conv<pads=[1,1,1,1]>(x, u) c = BatchNormalization(x, s, b, m, v) y = Add(a, c)",
        **batch_norm(4),
    )
    assert_rewritten(model, NAME, ["Conv"])


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("a = Conv(x, p) b = Conv(x, p2) y = Add(a, b) z = Neg(a)", Common.SHARED),
        (
            "a = Conv(x, p) b = Conv<group=4, pads=[3,3,3,3]>(x, q) y = Add(a, b)",
            Why.COSTLIER,
        ),
        (
            "a = Conv<strides=[4,4]>(x, p) b = Conv<strides=[3,3]>(x, p2) y = Add(a, b)",
            Why.OTHER_STRIDES,
        ),
        (
            "a = Conv<pads=[1,1,1,1], dilations=[2,2]>(x, u) b = Conv(x, u2) y = Add(a, b)",
            Why.COSTLIER,
        ),
        (
            "a = Conv<strides=[2,2]>(x, u) b = Conv<strides=[2,2]>(x, two) y = Add(a, b)",
            Why.NOT_ALIGNED,
        ),
        ("a = Conv(x, one) y = Add(a, x)", Why.NOT_ALIGNED),
        (
            "a = Conv<pads=[0,1,0,1]>(x, wide) b = Conv<pads=[1,0,1,0]>(x, high) y = Add(a, b)",
            Why.COSTLIER,
        ),
        ("a = Conv(x, p) b = Mul(x, column) y = Add(a, b)", Why.NOT_ALIGNED),
    ],
)
def test_refusals(lines: str, reason: Why) -> None:
    extra: Parameters = {
        "p2": normal(4, 4, 1, 1, seed=1),
        "one": normal(1, 4, 1, 1),
        "wide": normal(4, 4, 1, 3),
        "high": normal(4, 4, 3, 1),
        "column": normal(9),
        "two": normal(4, 4, 2, 2),
    }
    model = branches(lines, **WEIGHTS | extra)
    assert_refused(model, NAME, reason)


def test_refuses_a_weight_that_a_caller_may_override() -> None:
    model = branches("a = Conv(x, p) y = Add(a, x)")
    assert_refused(make_overridable(model, "p"), NAME, Common.WEIGHT_OVERRIDABLE)


@pytest.mark.parametrize(
    "lines",
    [
        "r = Relu(x) a = Conv(x, p) y = Add(a, r)",
        "r = Relu(x) a = Conv(x, p) b = Conv(r, p) y = Add(a, b)",
        "a = Mul(x, k) y = Add(a, x)",
        "a = Conv(x, p) y = Add(a, k)",
    ],
)
def test_other_sums_stay_without_a_refusal(lines: str) -> None:
    record = run_pass(branches(lines, **WEIGHTS), NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_the_branches_may_read_the_result_of_a_conv() -> None:
    model = branches("x1 = Conv(x, p) a = Conv<pads=[1,1,1,1]>(x1, u) y = Add(a, x1)")
    assert_rewritten(model, NAME, ["Conv", "Conv"])


SLICED = "b = Slice(x, zero, far, space, two)"
STRIDED = "a = Conv<strides=[2,2], pads=[1,1,1,1]>(x, u, d)"
CHAINS = [
    # DBB: 1×1 then 3×3, and 1×1 then an average, padded before both
    "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv<pads=[1,1,1,1]>(x, p, d) c = Conv(b, u2, d) "
    "y = Add(a, c)",
    "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv<pads=[1,1,1,1]>(x, p, d) "
    "n = BatchNormalization(b, s, b0, m, v) c = AveragePool<kernel_shape=[3,3]>(n) y = Add(a, c)",
    # ECBSR: 1×1 then a depthwise mask
    "a = Conv<pads=[1,1,1,1]>(x, u, d) b = Conv(x, p) c = Conv<pads=[1,1,1,1], group=4>(b, q2, d) "
    "t = Add(a, c) y = Add(t, x)",
    "a = Conv<pads=[1,1,1,1]>(x, u, d) "
    "b = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x) y = Sub(b, a)",
    "a = Conv<pads=[2,2,2,2]>(x, u) b = AveragePool<kernel_shape=[3,3], strides=[2,2]>(a) "
    "c = Conv<strides=[2,2]>(x, p, d) y = Add(b, c)",
    # ACNet: only all three together cost no more
    "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv<pads=[1,0,1,0]>(x, high) "
    "c = Conv<pads=[0,1,0,1]>(x, wide) t = Add(b, c) y = Add(a, t)",
    "a = Conv(x, p) b = Conv(x, p2) c = Mul(x, k) t = Sub(a, c) r = Sub(x, b) y = Sub(t, r)",
    # UniRepLKNet: dilated kernels within a large one
    "a = Conv<group=4, pads=[3,3,3,3]>(x, q, d) "
    "b = Conv<group=4, dilations=[3,3], pads=[3,3,3,3]>(x, q2) "
    "c = Conv<group=4, dilations=[2,2], pads=[2,2,2,2]>(x, q2) t = Add(a, b) y = Add(t, c)",
    "a = Conv<dilations=[2,2], pads=[2,2,2,2]>(x, u) b = Conv(x, p) y = Add(a, b)",
    # taps of one between those of the other
    "a = Conv<dilations=[2,1], pads=[2,0,2,0]>(x, high) "
    "b = Conv<dilations=[2,1], pads=[1,0,3,0]>(x, high) y = Sub(a, b)",
    # x itself, subsampled
    f"{STRIDED} b = MaxPool<kernel_shape=[1,1], strides=[2,2]>(x) y = Add(a, b)",
    f"{STRIDED} b = AveragePool<kernel_shape=[1,1], strides=[2,2]>(x) y = Add(b, a)",
    f"{STRIDED} {SLICED} y = Add(a, b)",
    f"{STRIDED} {SLICED} c = Mul(b, k) y = Sub(c, a)",
    "a = Conv<strides=[2,2]>(x, w2) b = Slice(x, one, far, space, two) y = Add(a, b)",
    "a = Conv(x, p) b = Slice(x, none, none, none, none) y = Add(a, b)",
    # a value within that only the expression reads, twice
    "r = Conv(x, p) a = Conv(r, p2) t = Add(a, r) b = Conv(x, p) y = Sub(b, t)",
]
CHAIN_WEIGHTS: Parameters = {
    "p2": normal(4, 4, 1, 1, seed=1),
    "w2": normal(4, 4, 2, 2),
    "wide": normal(4, 4, 1, 3),
    "high": normal(4, 4, 3, 1),
    "b0": normal(4, seed=3),
    "s": normal(4, seed=4),
    "m": normal(4, seed=5),
    "v": np.abs(normal(4)) + 1,
    "none": np.zeros(0, np.int64),
    "zero": np.zeros(2, np.int64),
    "one": np.ones(2, np.int64),
    "two": np.full(2, 2, np.int64),
    "space": np.array([2, -1], np.int64),
    "far": np.full(2, 2**31 - 1, np.int64),
}


@pytest.mark.parametrize("lines", CHAINS)
def test_an_expression_becomes_one_conv(lines: str) -> None:
    model = branches(lines, **WEIGHTS | CHAIN_WEIGHTS)
    assert_rewritten(model, NAME, ["Conv"])
    assert_rewritten(at_any_size(model), NAME, ["Conv"], sizes={"H": 7, "W": 10})


def at_any_size(model: onnx.ModelProto) -> onnx.ModelProto:
    free = onnx.ModelProto()
    free.CopyFrom(model)
    for place, name in ((2, "H"), (3, "W")):
        free.graph.input[0].type.tensor_type.shape.dim[place].dim_param = name
    return free


@pytest.mark.parametrize("lines", CHAINS)
def test_an_expression_is_certified(lines: str) -> None:
    model = branches(lines, **WEIGHTS | CHAIN_WEIGHTS)
    result = bnfold.optimize(model, only=[NAME], certify="always", samples=1)
    certificates = [rewrite.certificate for rewrite in result.record.rewrites]
    kinds = {certificate and certificate.kind for certificate in certificates}
    assert kinds <= {"weights", "linear"}
    assert {certificate and certificate.verdict for certificate in certificates} == {"certified"}


TRANSPOSED = "ConvTranspose<strides=[2,2]"


@pytest.mark.parametrize(
    "lines",
    [
        f"a = {TRANSPOSED}>(x, u, d) b = {TRANSPOSED}, output_padding=[1,1]>(x, w2) y = Add(a, b)",
        f"a = {TRANSPOSED}, pads=[1,1,0,0]>(x, u) b = {TRANSPOSED}, pads=[0,0,1,1]>(x, u2) "
        "y = Sub(a, b)",
        f"a = {TRANSPOSED}, group=2>(x, g) b = {TRANSPOSED}>(x, p) y = Add(a, b)",
        f"a = {TRANSPOSED}, group=2, output_padding=[1,1]>(x, g) "
        f"b = {TRANSPOSED}, group=2>(x, h2, d) y = Add(b, a)",
        "a = ConvTranspose<pads=[1,1,1,1]>(x, u, d) b = Mul(x, k) y = Add(a, b)",
        f"a = {TRANSPOSED}>(x, w2, d) c = Mul(a, k) b = {TRANSPOSED}>(x, w2) y = Add(c, b)",
        f"a = {TRANSPOSED}, group=2>(x, h2) c = Mul(a, k) b = {TRANSPOSED}>(x, w2) y = Sub(c, b)",
        f"a = {TRANSPOSED}, dilations=[2,2], pads=[2,2,2,2]>(x, u) "
        f"b = {TRANSPOSED}>(x, p) y = Add(a, b)",
    ],
)
def test_transposed_convs_merge_alike(lines: str) -> None:
    weights = WEIGHTS | CHAIN_WEIGHTS | {"h2": normal(4, 2, 2, 2)}
    model = branches(lines, **weights)
    assert_rewritten(model, NAME, ["ConvTranspose"])


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        # the border of the value between
        (
            "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv(x, p, d) c = Conv<pads=[1,1,1,1]>(b, u2) "
            "y = Add(a, c)",
            Why.PADDED_BETWEEN,
        ),
        (
            "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv<pads=[1,1,1,1]>(x, u2) "
            "c = Conv<pads=[1,1,1,1], group=4>(b, q2) y = Add(a, c)",
            Why.PADDED_BETWEEN,
        ),
        (
            "a = Conv<pads=[1,1,1,1]>(x, u) b = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x) "
            "y = Add(a, b)",
            Why.UNEVEN_WINDOWS,
        ),
        (
            "a = Conv<strides=[2,2]>(x, p) b = AveragePool<kernel_shape=[1,1], strides=[2,2], "
            "ceil_mode=1>(x) y = Add(a, b)",
            Why.UNEVEN_WINDOWS,
        ),
        # another reader, within a branch
        (
            "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv<pads=[1,1,1,1]>(x, p) c = Conv(b, u2) "
            "y = Add(a, c) z = Neg(b)",
            Common.SHARED,
        ),
        ("a = ConvTranspose<group=4>(x, q2) b = Conv(x, u) y = Add(a, b)", Why.NOT_ALIGNED),
        (
            "a = Conv<strides=[2,2]>(x, p) b = Slice(x, zero4, far4, all, two4) y = Add(a, b)",
            Why.NOT_ALIGNED,
        ),
        ("a = Conv(x, p) t = Conv(a, one1) b = Conv(x, p2) y = Add(t, b)", Why.NOT_ALIGNED),
        (
            "a = Conv(x, down) b = Conv(a, up) y = Add(b, x)",
            Why.COSTLIER,
        ),
    ],
)
def test_refusals_of_expressions(lines: str, reason: Why) -> None:
    extra: Parameters = {
        "zero4": np.zeros(4, np.int64),
        "far4": np.full(4, 2**31 - 1, np.int64),
        "all": np.arange(4),
        "two4": np.array([2, 1, 2, 2]),
        "one1": normal(1, 4, 1, 1),
        "down": normal(1, 4, 1, 1),
        "up": normal(4, 1, 1, 1),
    }
    assert_refused(branches(lines, **WEIGHTS | CHAIN_WEIGHTS | extra), NAME, reason)


@pytest.mark.parametrize(
    "lines",
    [
        "a = Conv(x, p) r = Relu(a) b = Conv(r, p2) y = Add(a, b)",
        "a = Conv(x, p) b = MaxPool<kernel_shape=[2,2], pads=[1,1,0,0]>(x) y = Add(a, b)",
        "a = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x) y = Sub(a, x)",
        "a = Conv<pads=[1,0,1,0]>(x, high) b = Slice(x, zero, end, space, one) y = Add(a, b)",
        "a = Conv(x, p) b = Slice(x, back, far, space, one) y = Add(a, b)",
    ],
)
def test_what_is_not_linear_in_one_value_stays_without_a_refusal(lines: str) -> None:
    extra: Parameters = {"end": np.full(2, 9, np.int64), "back": np.full(2, -9, np.int64)}
    record = run_pass(branches(lines, **WEIGHTS | CHAIN_WEIGHTS | extra), NAME).record
    assert not record.rewrites
    assert not record.refusals


@pytest.mark.parametrize(
    "lines",
    [
        "a = ConvTranspose(x, w2) b = Slice(x, one, far, space, one) y = Add(a, b)",
        "a = ConvTranspose<strides=[2,2]>(x, p2) "
        "b = MaxPool<kernel_shape=[1,1], strides=[2,2]>(x) y = Add(a, b)",
    ],
)
def test_what_picks_positions_is_no_transposed_operator(lines: str) -> None:
    """Of a map of 2×2, a ConvTranspose makes 3×3, to which the picked position broadcasts."""
    graph = f"(float[N,4,2,2] x) => (float[N,4,3,3] y) {{ {lines} }}"
    model = build(graph, **CHAIN_WEIGHTS)
    assert_refused(model, NAME, Why.NOT_ALIGNED)


def test_a_branch_that_is_a_graph_output_stays() -> None:
    model = build(
        "(float[N,4,9,9] x) => (float[N,4,9,9] y, float[N,4,9,9] a) "
        "{ a = Conv(x, p) b = Conv(x, p2) y = Add(a, b) }",
        p=normal(4, 4, 1, 1),
        p2=normal(4, 4, 1, 1, seed=1),
    )
    assert_refused(model, NAME, Common.SHARED)


def test_crops_that_no_branch_pads_are_no_negative_padding() -> None:
    crop = "Slice(x, one, far, space, one)"
    model = branches(
        f"c = {crop} r = {crop} a = Conv(c, p) b = Conv(r, p2) y = Add(a, b)", **CHAIN_WEIGHTS
    )
    assert_refused(model, NAME, Why.NOT_ALIGNED)


def test_a_branch_that_only_a_body_reads_stays_outside() -> None:
    model = build(
        """(float[N,4,9,9] x, bool c) => (float[N,4,9,9] y) {
            b = Conv(x, p2)
            y = If (c) <
                then_branch = t () => (float[N,4,9,9] o) { a = Conv(x, p) o = Add(a, b) },
                else_branch = e () => (float[N,4,9,9] q) { q = Neg(x) }
            >
        }""",
        p=normal(4, 4, 1, 1),
        p2=normal(4, 4, 1, 1, seed=1),
    )
    assert not run_pass(model, NAME).record.rewrites


@pytest.mark.parametrize("rank", [1, 3])
def test_chains_of_any_rank(rank: int) -> None:
    pads, taps = [1] * 2 * rank, [3] * rank
    model = build(
        f"(float[N,4,{','.join(['9'] * rank)}] x) => (float[N,4,{','.join('hwd'[:rank])}] y) {{ "
        f"a = Conv<pads={pads}>(x, u) b = Conv<pads={pads}>(x, p, d) "
        f"c = AveragePool<kernel_shape={taps}>(b) y = Add(a, c) }}",
        u=normal(4, 4, *taps),
        p=normal(4, 4, *[1] * rank),
        d=normal(4),
    )
    assert_rewritten(model, NAME, ["Conv"])


@st.composite
def parallel_chains(draw: st.DrawFn) -> onnx.ModelProto:
    """Branches of up to two operators with random borders, beside a large kernel that holds all."""
    strides = [draw(st.integers(1, 2)) for _ in range(2)]
    lines = [f"c = Conv<strides={strides}, pads=[4,4,4,4]>(x, w)"]
    weights: Parameters = {"w": normal(4, 4, 9, 9)}
    total = "c"
    for index in range(draw(st.integers(1, 2))):
        data = "x"
        length = draw(st.integers(1, 2))
        for step in range(length):
            size = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(2)]
            dilations = [draw(st.integers(1, 2)) if k > 1 else 1 for k in size]
            reach = [(k - 1) * d for k, d in zip(size, dilations, strict=True)]
            start = [draw(st.integers(0, r)) for r in reach]
            if draw(st.booleans()):  # pad here for what comes after, too
                start = [0, 0] if step else start
            pads = [*start, *(r - b for r, b in zip(reach, start, strict=True))]
            result = f"v{index}{step}"
            here = strides if step == length - 1 else [1, 1]
            kind = draw(st.sampled_from(["dense", "depthwise", "average"]))
            common = f"strides={here}, pads={pads}"
            if kind == "average" and dilations == [1, 1]:
                lines.append(
                    f"{result} = AveragePool<kernel_shape={size}, {common}, count_include_pad=1>"
                    f"({data})"
                )
            else:
                groups = 1 if kind == "dense" else 4
                weights[f"w{result}"] = normal(4, 4 // groups, *size, seed=index)
                bias = f", d{result}" if draw(st.booleans()) else ""
                if bias:
                    weights[f"d{result}"] = normal(4, seed=step)
                lines.append(
                    f"{result} = Conv<group={groups}, dilations={dilations}, {common}>"
                    f"({data}, w{result}{bias})"
                )
            data = result
        lines.append(f"t{index} = {draw(st.sampled_from(['Add', 'Sub']))}({total}, {data})")
        total = f"t{index}"
    lines.append(f"y = Neg({total})")
    return build(INTERFACE + "{ " + " ".join(lines) + " }", **weights)


@settings(max_examples=20, deadline=None)
@given(parallel_chains(), st.booleans(), st.integers(5, 9), st.integers(5, 9))
def test_random_chains(model: onnx.ModelProto, free: bool, height: int, width: int) -> None:
    model = at_any_size(model) if free else model
    result = run_pass(model, NAME)
    sizes = {"H": height, "W": width}
    assert_rewritten(model, NAME, operators(result.to_proto()), sizes=sizes)


@st.composite
def parallel_convs(draw: st.DrawFn) -> onnx.ModelProto:
    stride = draw(st.integers(1, 2))
    lines: list[str] = []
    weights: Parameters = {}
    for index in range(draw(st.integers(1, 3))):
        groups = draw(st.sampled_from([1, 2, 4]))
        sizes = [draw(st.sampled_from([1, 2, 3, 5])) for _ in range(2)]
        starts = [draw(st.integers(0, size - 1)) for size in sizes]
        pads = [*starts, *(size - 1 - start for size, start in zip(sizes, starts, strict=True))]
        weights[f"w{index}"] = normal(4, 4 // groups, *sizes, seed=index)
        lines.append(
            f"c{index} = Conv<group={groups}, strides={[stride] * 2}, pads={pads}>(x, w{index})"
        )
    operands = [f"c{index}" for index in range(len(lines))]
    if stride == 1 and draw(st.booleans()):
        operands.append(draw(st.sampled_from(["x", "k"])))
    if "k" in operands:
        lines.append("k = BatchNormalization(x, s, b, m, v)")
        weights |= batch_norm(4)
    total = operands[0]
    for index, operand in enumerate(operands[1:]):
        lines.append(f"t{index} = {draw(st.sampled_from(['Add', 'Sub']))}({total}, {operand})")
        total = f"t{index}"
    lines.append(f"y = Neg({total})")
    return build(INTERFACE + "{ " + " ".join(lines) + " }", **weights)


@settings(max_examples=12, deadline=None)
@given(parallel_convs())
def test_random_branches(model: onnx.ModelProto) -> None:
    result = run_pass(model, NAME)
    assert_rewritten(model, NAME, operators(result.to_proto()))


@pytest.mark.parametrize("outside", ["b = Mul(x, k)", "b = Conv(x, p2)"])
def test_a_branch_outside_the_body_is_out_of_reach(outside: str) -> None:
    used: Parameters = {"k": normal(4, 1, 1)} if "k" in outside else {"p2": normal(4, 4, 1, 1)}
    model = build(
        f"""(float[N,4,9,9] x, bool c) => (float[N,4,9,9] y) {{
            {outside}
            y = If (c) <
                then_branch = t () => (float[N,4,9,9] o) {{ a = Conv(x, p) o = Add(a, b) }},
                else_branch = e () => (float[N,4,9,9] q) {{ q = Neg(b) }}
            >
        }}""",
        p=normal(4, 4, 1, 1),
        **used,
    )
    assert not run_pass(model, NAME).record.rewrites
    result = run_pass(model)
    assert_equivalent(model, result.to_proto(), {**draw_feeds(model), "c": np.array(True)})


def test_the_dilation_of_a_single_tap_does_not_matter() -> None:
    model = branches("a = Conv<dilations=[2,2]>(x, p) b = Mul(x, k) y = Add(a, b)", **WEIGHTS)
    assert_rewritten(model, NAME, ["Conv"])


PAIRS = "AveragePool<kernel_shape=[2,1], strides=[2,1]>"
FULL = "AveragePool<kernel_shape=[2,1], strides=[2,1], pads=[1,0,0,0], count_include_pad=1>"


@pytest.mark.parametrize(
    ("lines", "size", "merges"),
    [
        (f"a = Conv(x, w) b = {PAIRS}(a) c = {PAIRS}(x) y = Add(b, c)", "H", True),
        (f"a = Conv(x, w) b = {PAIRS}(a) c = {PAIRS}(x) d = Mul(c, t) y = Add(b, d)", "1", False),
        (f"a = {PAIRS}(x) b = Conv<group=5>(a, g) c = {PAIRS}(x) y = Add(b, c)", "1", False),
        (f"a = Conv(x, w) b = {PAIRS}(a) c = {PAIRS}(x) y = Add(b, c)", "1", False),
        (f"a = Conv(x, w) b = {PAIRS}(a) c = {PAIRS}(x) y = Add(b, c)", "2", True),
        (f"a = Conv(x, w) b = {FULL}(a) c = {FULL}(x) y = Add(b, c)", "H", True),
        (f"a = Conv<strides=[2,1]>(x, v) b = {PAIRS}(x) y = Add(a, b)", "H", True),
        (f"a = Conv<strides=[2,1]>(x, v) b = {PAIRS}(x) c = Add(b, b) y = Sub(a, c)", "H", True),
    ],
)
def test_where_all_branches_have_pools_the_map_is_as_large_as_their_windows(
    lines: str, size: str, *, merges: bool
) -> None:
    """A Conv fails on a smaller map, and onnxruntime's pool does not."""
    weights: Parameters = {
        "w": normal(5, 5, 1, 1),
        "v": normal(5, 5, 2, 1),
        "g": normal(5, 1, 1, 1),
        "t": normal(1, 5, 1, 1),
    }
    used = {name: array for name, array in weights.items() if f", {name})" in lines}
    model = build(f"(float[N,5,{size},W] x) => (float[N,5,c,d] y) {{ {lines} }}", **used)
    if merges:
        assert_rewritten(model, NAME, ["Conv"], sizes={"H": 2})
    else:
        assert_refused(model, NAME, Why.SMALLER_THAN_WINDOW)
