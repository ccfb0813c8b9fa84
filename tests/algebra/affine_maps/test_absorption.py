"""Producing branches and consumers: all absorb their part of the map, or none does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from bnfold.algebra.affine_maps.carrying import NotCarried
from bnfold.algebra.affine_maps.linear import NotAbsorbed
from bnfold.algebra.affine_maps.reach import FARTHEST, NotReached
from bnfold.rewriting.contract import Common
from tests.support.evaluate import assert_equivalent
from tests.support.graphs import Parameters, batch_norm, build, draw_feeds, normal, operators
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "fold-batchnorm"
CONVS: Parameters = {f"w{i}": normal(n, 3, 3, 3, seed=i) for i, n in enumerate((2, 3, 1))}
INTERFACE = "(float[N,3,8,8] x) => (float[N,6,6,6] y) "


# --- Producing branches -----------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, -3])
def test_each_branch_of_a_concat_takes_its_channels(axis: int) -> None:
    model = build(
        INTERFACE + "{ p = Conv(x, w0) q = Conv(x, w1) r = Conv(x, w2) "
        f"g = Concat<axis={axis}>(p, q, r) y = BatchNormalization(g, s, b, m, v) }}",
        **CONVS,
        **batch_norm(6),
    )
    assert_rewritten(model, NAME, ["Conv", "Conv", "Conv", "Concat"])


def test_along_another_axis_each_branch_takes_the_whole_map() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,2,12,6] y) { p = Conv(x, w0) q = Conv(x, u) "
        "g = Concat<axis=2>(p, q) y = BatchNormalization(g, s, b, m, v) }",
        w0=CONVS["w0"],
        u=normal(2, 3, 3, 3),
        **batch_norm(2),
    )
    assert_rewritten(model, NAME, ["Conv", "Conv", "Concat"])


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ("r = Identity(e)", NotReached.GRAPH_INPUT),
        ("t = Conv(x, w2) r = Exp(t)", NotReached.NOT_LINEAR),
        ("r = Conv(x, w2) z = Neg(r)", Common.SHARED),
    ],
)
def test_one_branch_that_cannot_absorb_blocks_all(last: str, reason: NotReached) -> None:
    model = build(
        "(float[N,3,8,8] x, float[N,1,6,6] e) => (float[N,6,6,6] y) "
        f"{{ p = Conv(x, w0) q = Conv(x, w1) {last} "
        "g = Concat<axis=1>(p, q, r) y = BatchNormalization(g, s, b, m, v) }",
        **CONVS,
        **batch_norm(6),
    )
    assert_refused(model, NAME, reason)


def test_refuses_a_concat_of_branches_of_unknown_size() -> None:
    model = build(
        "(float[N,3,8,8] x, float[M,3,1,1] w) => (float[N,6,8,8] y) "
        "{ p = Conv(x, w) q = Conv(x, w) g = Concat<axis=1>(p, q) "
        "y = BatchNormalization(g, s, b, m, v) }",
        **batch_norm(6),
    )
    assert_refused(model, NAME, Common.SHAPE_UNKNOWN)


@pytest.mark.parametrize("lines", ["g = Add(p, q)", "g = Sub(p, q)", "g = Sum(p, q)"])
def test_sums_of_branches_take_the_shift_once(lines: str) -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,2,6,6] y) "
        f"{{ p = Conv(x, w0) q = Conv(x, u) {lines} y = BatchNormalization(g, s, b, m, v) }}",
        w0=CONVS["w0"],
        u=normal(2, 3, 3, 3),
        **batch_norm(2),
    )
    assert_rewritten(model, NAME, ["Conv", "Conv", operators(model)[2]])


def test_a_branch_that_is_repeated_along_the_channels_cannot_take_its_part() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,2,6,6] y) "
        "{ p = Conv(x, w0) q = Conv(x, w2) g = Add(p, q) y = BatchNormalization(g, s, b, m, v) }",
        w0=CONVS["w0"],
        w2=CONVS["w2"],
        **batch_norm(2),
    )
    assert_refused(model, NAME, NotCarried.BROADCAST, in_the_way="Add g")


def test_a_value_added_to_itself_is_shared() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,2,6,6] y) "
        "{ p = Conv(x, w0) g = Add(p, p) y = BatchNormalization(g, s, b, m, v) }",
        w0=CONVS["w0"],
        **batch_norm(2),
    )
    assert_refused(model, NAME, Common.SHARED)


@pytest.mark.parametrize("reader", ["z = Shape(c)", "z = CastLike(i, c)"])
def test_a_node_that_reads_only_the_shape_or_type_does_not_block(reader: str) -> None:
    kind = "int64[2]" if "Shape" in reader else "float[2]"
    model = build(
        f"(float[N,4] x, int64[2] i) => (float[N,6] y, {kind} z) "
        f"{{ c = MatMul(x, w) {reader} r = Relu(x) y = BatchNormalization(c, s, b, m, v) }}",
        w=normal(4, 6),
        **batch_norm(6),
    )
    result = run_pass(model, NAME)
    assert "BatchNormalization" not in operators(result.to_proto())
    assert_equivalent(model, result.to_proto(), draw_feeds(model))


def test_a_node_that_is_cast_like_another_reads_its_content() -> None:
    model = build(
        "(float[N,4] x, int64 i) => (float[N,6] y, int64[N,6] z) "
        "{ c = MatMul(x, w) z = CastLike(c, i) y = BatchNormalization(c, s, b, m, v) }",
        w=normal(4, 6),
        **batch_norm(6),
    )
    assert_refused(model, NAME, Common.SHARED)


# --- Consumers --------------------------------------------------------------------------------


def after(lines: str, outputs: str, **weights: Any) -> onnx.ModelProto:
    """Return a BatchNormalization a after a Sigmoid, followed by lines that read a."""
    return build(
        f"(float[N,4,8,8] x) => ({outputs}) "
        f"{{ r = Sigmoid(x) a = BatchNormalization(r, s, b, m, v) {lines} }}",
        **batch_norm(4),
        **weights,
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("attributes", ["", ", strides=[2,2]", ', auto_pad="VALID"'])
def test_a_conv_that_does_not_pad(groups: int, bias: bool, attributes: str) -> None:
    weights: Parameters = {"w": normal(8, 4 // groups, 3, 3)} | ({"d": normal(8)} if bias else {})
    model = after(
        f"y = Conv<group={groups}{attributes}>(a, w{', d' if bias else ''})",
        "float[N,8,h,w] y",
        **weights,
    )
    assert_rewritten(model, NAME, ["Sigmoid", "Conv"])


@pytest.mark.parametrize(
    "attributes", ["pads=[1,1,1,1]", "pads=[0,0,0,1]", 'auto_pad="SAME_UPPER"']
)
def test_refuses_a_shift_before_zero_padding(attributes: str) -> None:
    model = after(f"y = Conv<{attributes}>(a, w)", "float[N,8,h,w] y", w=normal(8, 4, 3, 3))
    record = run_pass(model, NAME).record
    assert [refusal.also_reason for refusal in record.refusals] == [NotAbsorbed.PADDED_SHIFT.name]
    assert record.refusals[0].also_in_the_way == "Conv y"


def test_a_pointwise_conv_with_auto_pad_does_not_pad() -> None:
    model = after('y = Conv<auto_pad="SAME_UPPER">(a, w)', "float[N,8,8,8] y", w=normal(8, 4, 1, 1))
    assert_rewritten(model, NAME, ["Sigmoid", "Conv"])


def test_without_shift_padding_does_not_matter() -> None:
    model = build(
        "(float[N,4,8,8] x) => (float[N,8,8,8] y) "
        "{ r = Sigmoid(x) a = Mul(r, k) y = Conv<pads=[1,1,1,1]>(a, w) }",
        k=normal(4, 1, 1),
        w=normal(8, 4, 3, 3),
    )
    assert_rewritten(model, "fold-scale-shift", ["Sigmoid", "Conv"])


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    "attributes", ["", ", strides=[2,3], output_padding=[1,0]", ", pads=[1,0,1,1], dilations=[1,2]"]
)
def test_a_scale_before_a_conv_transpose(groups: int, attributes: str) -> None:
    model = build(
        "(float[N,4,H,5] x, float[D] d) => (float[N,c,h,v] y) { r = Sigmoid(x) a = Mul(r, k) "
        f"y = ConvTranspose<group={groups}{attributes}>(a, w, d) }}",
        k=normal(4, 1, 1),
        w=normal(4, 3, 3, 2),
    )
    sizes = {"H": 3, "D": 3 * groups}
    assert_rewritten(model, "fold-scale-shift", ["Sigmoid", "ConvTranspose"], sizes=sizes)


def test_refuses_a_shift_before_a_conv_transpose() -> None:
    model = after("y = ConvTranspose(a, w)", "float[N,3,h,v] y", w=normal(4, 3, 3, 3))
    record = run_pass(model, NAME).record
    reasons = [refusal.also_reason for refusal in record.refusals]
    assert reasons == [NotAbsorbed.TRANSPOSED_SHIFT.name]


def test_refuses_a_conv_transpose_of_other_channels() -> None:
    model = build(
        "(float[N,C,8,8] x) => (float[N,3,8,8] y) "
        "{ a = BatchNormalization(x, s, b, m, v) y = ConvTranspose(a, w) }",
        w=normal(3, 4, 1, 1),
        **batch_norm(4),
    )
    record = run_pass(model, NAME).record
    reasons = [refusal.also_reason for refusal in record.refusals]
    assert reasons == [NotAbsorbed.CHANNELS_DIFFER.name]


def test_all_readers_absorb() -> None:
    model = after(
        "y = Conv(a, w) z = Conv<group=2>(a, u)",
        "float[N,8,6,6] y, float[N,2,6,6] z",
        w=normal(8, 4, 3, 3),
        u=normal(2, 2, 3, 3),
    )
    assert_rewritten(model, NAME, ["Sigmoid", "Conv", "Conv"])


@pytest.mark.parametrize(
    ("lines", "outputs", "reason"),
    [
        ("y = Conv(a, w) z = Exp(a)", "float[N,8,6,6] y, float[N,4,8,8] z", "READER_NOT_LINEAR"),
        ("y = Conv(a, w)", "float[N,8,6,6] y, float[N,4,8,8] a", "GRAPH_OUTPUT"),
        ("y = Conv(w, a)", "float[8,N,1,1] y", "READER_NOT_LINEAR"),
        ("y = Add(a, a)", "float[N,4,8,8] y", "READER_NOT_LINEAR"),
    ],
)
def test_one_reader_that_cannot_absorb_blocks_all(lines: str, outputs: str, reason: str) -> None:
    weights = {"w": normal(8, 4, 3, 3)} if "w" in lines else {}
    record = run_pass(after(lines, outputs, **weights), NAME).record
    assert [refusal.also_reason for refusal in record.refusals] == [reason]


def test_a_reader_in_a_body_is_out_of_reach() -> None:
    model = build(
        """(float[N,4,8,8] x, bool cond) => (float[N,8,6,6] y) {
            r = Sigmoid(x)
            a = BatchNormalization(r, s, b, m, v)
            y = If (cond) <
                then_branch = then () => (float[N,8,6,6] t) { t = Conv(a, w) },
                else_branch = other () => (float[N,8,6,6] e) { q = Conv(a, w) e = Neg(q) }
            >
        }""",
        w=normal(8, 4, 3, 3),
        **batch_norm(4),
    )
    record = run_pass(model, NAME).record
    assert [refusal.also_reason for refusal in record.refusals] == [NotReached.OTHER_GRAPH.name]


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("shape", [None, (), (7,), (1, 7), (4, 1), (4, 7)])
def test_into_a_gemm_after(
    transposed: tuple[int, int], beta: float, shape: tuple[int, ...] | None
) -> None:
    trans_a, trans_b = transposed
    weights: Parameters = {"w": normal(*((7, 4) if trans_b else (4, 7)))}
    if shape is not None:
        weights["d"] = np.asarray(normal(*shape))
    scale = normal(4, 1) if trans_a else normal(4)
    model = build(
        "(float[4,4] x) => (float[4,7] y) { r = Sigmoid(x) a = Mul(r, k) c = Add(a, t) "
        f"y = Gemm<alpha=0.7, beta={beta}, transA={trans_a}, transB={trans_b}>"
        f"(c, w{'' if shape is None else ', d'}) }}",
        k=scale,
        t=scale * 2,
        **weights,
    )
    assert_rewritten(model, "fold-scale-shift", ["Sigmoid", "Gemm"])


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_into_a_matmul_after(rank: int) -> None:
    lead = ",".join(["N", "5", "6"][: rank - 1])
    model = build(
        f"(float[{lead},4] x) => (float[{lead},7] y) "
        "{ r = Sigmoid(x) a = Mul(r, k) c = Add(a, t) y = MatMul(c, w) }",
        k=normal(4),
        t=normal(4),
        w=normal(4, 7),
    )
    expected = ["Sigmoid", "Gemm"] if rank == 2 else ["Sigmoid", "MatMul", "Add"]
    assert_rewritten(model, "fold-scale-shift", expected)


def test_into_a_batch_normalization_after() -> None:
    model = build(
        "(float[N,4,8,8] x) => (float[N,4,8,8] y) "
        "{ r = Sigmoid(x) a = Mul(r, k) y = BatchNormalization(a, s, b, m, v) }",
        k=normal(4, 1, 1),
        **batch_norm(4),
    )
    assert_rewritten(model, "fold-scale-shift", ["Sigmoid", "BatchNormalization"])


# --- Gain ---------------------------------------------------------------------------------------


def test_an_add_may_replace_a_batch_normalization() -> None:
    model = build(
        "(float[N,5,4] x) => (float[N,6,5] y) { c = MatMul(x, w) t = Transpose<perm=[0,2,1]>(c) "
        "y = BatchNormalization(t, s, b, m, v) }",
        w=normal(4, 6),
        **batch_norm(6),
    )
    assert_rewritten(model, NAME, ["MatMul", "Add", "Transpose"])


def test_an_add_does_not_replace_another_add() -> None:
    model = build(
        "(float[N,5,4] x) => (float[N,5,6] y) { c = MatMul(x, w) y = Add(c, t) }",
        w=normal(4, 6),
        t=normal(6),
    )
    assert not run_pass(model, "fold-scale-shift").record.rewrites


# --- Distance -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "folds"), [(FARTHEST - 1, True), (FARTHEST, False), (3000, False)]
)
def test_the_distance_is_limited(length: int, folds: bool) -> None:
    chain = " ".join(f"g{i + 1} = Identity(g{i})" for i in range(length))
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) "
        f"{{ g0 = Conv(x, w) {chain} y = BatchNormalization(g{length}, s, b, m, v) }}",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    record = run_pass(model, NAME).record
    assert bool(record.rewrites) == folds
    assert [refusal.reason for refusal in record.refusals] == ([] if folds else ["TOO_FAR"])


@pytest.mark.slow
def test_a_long_chain_of_maps_terminates() -> None:
    chain = " ".join(f"v{i + 1} = Add(v{i}, t)" for i in range(1000))
    model = build(
        f"(float[N,4,8,8] v0) => (float[N,4,8,8] y) {{ {chain} y = Neg(v1000) }}",
        t=normal(4, 1, 1),
    )
    assert not run_pass(model, "fold-scale-shift").record.rewrites
