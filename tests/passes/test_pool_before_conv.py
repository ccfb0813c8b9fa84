"""pool-before-conv: exact for averages after a pointwise Conv, and only where it pays off."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfold.rewriting.contract import Common
from bnfold_passes.pool_before_conv import Why
from tests.support.graphs import Array, Parameters, build, normal, operators
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "pool-before-conv"
HALVES = "AveragePool<kernel_shape=[2,2], strides=[2,2]>"


def after_conv(
    pool: str, *, conv: str = "Conv(x, w)", size: str = "8,8", opset: int = 17, **weights: Array
) -> onnx.ModelProto:
    used: Parameters = {"w": normal(6, 4, 1, 1), **weights}
    return build(
        f"(float[N,4,{size}] x) => (float[N,c,h,l] y) {{ c = {conv} y = {pool} }}",
        opset=opset,
        **used,
    )


BIAS: Parameters = {"d": normal(6)}
SPACE: Parameters = {"space": np.array([2, 3], np.int64), "last": np.array([-2, -1], np.int64)}


@pytest.mark.parametrize("conv", ["Conv(x, w)", "Conv(x, w, d)"])
@pytest.mark.parametrize(
    "pool",
    [
        f"{HALVES}(c)",
        "AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(c)",
        "AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(c)",
        "AveragePool<kernel_shape=[2,2], strides=[2,1], count_include_pad=1>(c)",
        "GlobalAveragePool(c)",
        "ReduceMean<axes=[2,3]>(c)",
        "ReduceMean<axes=[-1,-2], keepdims=1>(c)",
    ],
)
def test_the_average_moves_before(pool: str, conv: str) -> None:
    model = after_conv(pool, conv=conv, **(BIAS if "d" in conv else {}))
    operator = pool.partition("(")[0].partition("<")[0]
    assert_rewritten(model, NAME, [operator, "Conv"])


@pytest.mark.parametrize("axes", ["space", "last"])
def test_axes_as_an_input(axes: str) -> None:
    model = after_conv(f"ReduceMean(c, {axes})", opset=18, **{axes: SPACE[axes]})
    assert_rewritten(model, NAME, ["ReduceMean", "Conv"])


@pytest.mark.parametrize("groups", [2, 4])
def test_any_groups(groups: int) -> None:
    model = after_conv(
        f"{HALVES}(c)", conv=f"Conv<group={groups}>(x, w)", w=normal(8, 4 // groups, 1, 1)
    )
    assert_rewritten(model, NAME, ["AveragePool", "Conv"])


@pytest.mark.parametrize("spatial_rank", [1, 3])
def test_any_rank(spatial_rank: int) -> None:
    size, out = (",".join([length] * spatial_rank) for length in ("8", "4"))
    twos = [2] * spatial_rank
    model = build(
        f"(float[N,4,{size}] x) => (float[N,6,{out}] y) "
        f"{{ c = Conv(x, w) y = AveragePool<kernel_shape={twos}, strides={twos}>(c) }}",
        w=normal(6, 4, *[1] * spatial_rank),
    )
    assert_rewritten(model, NAME, ["AveragePool", "Conv"])


def test_a_whole_chain_of_pointwise_convs_moves_after_the_pool() -> None:
    model = build(
        "(float[N,4,8,8] x) => (float[N,6,1,1] y) "
        "{ a = Conv(x, w) b = Conv(a, u) y = GlobalAveragePool(b) }",
        w=normal(6, 4, 1, 1),
        u=normal(6, 6, 1, 1),
    )
    assert_rewritten(model, NAME, ["GlobalAveragePool", "Conv", "Conv"])


def test_counted_padding_does_not_matter_without_bias() -> None:
    pool = "AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1>(c)"
    assert_rewritten(after_conv(pool), NAME, ["AveragePool", "Conv"])
    assert_refused(after_conv(pool, conv="Conv(x, w, d)", **BIAS), NAME, Why.COUNTED_PADDING)


def test_refuses_windows_that_may_be_only_padding() -> None:
    pool = "AveragePool<kernel_shape=[2,2], strides=[2,2], dilations=[2,2], pads=[1,1,1,1]>(c)"
    model = after_conv(pool, conv="Conv(x, w, d)", size="H,W", opset=19, **BIAS)
    assert_refused(model, NAME, Common.PADDING_ONLY_WINDOW)


def test_refuses_a_result_that_something_else_reads() -> None:
    assert_refused(after_conv(f"{HALVES}(c) z = Neg(c)"), NAME, Common.SHARED)


@pytest.mark.parametrize("axes", ["[1]", "[0,2,3]", "[2]"])
def test_refuses_a_mean_over_anything_but_space(axes: str) -> None:
    assert_refused(after_conv(f"ReduceMean<axes={axes}>(c)"), NAME, Why.NOT_OVER_SPACE)


@pytest.mark.parametrize("opset", [12, 13])
def test_a_mean_that_drops_axes_keeps_them_for_the_conv(opset: int) -> None:
    model = build(
        "(float[N,4,8,8] x) => (float[N,6] y) "
        "{ c = Conv(x, w) y = ReduceMean<axes=[-1,2], keepdims=0>(c) }",
        opset=opset,
        w=normal(6, 4, 1, 1),
    )
    assert_rewritten(model, NAME, ["ReduceMean", "Conv", "Squeeze"], certified=True)


def test_a_squeeze_after_the_mean_does_not_prevent_it() -> None:
    model = build(
        "(float[N,4,8,8] x) => (float[N,6] y) "
        "{ r = Neg(x) c = Conv(r, w) p = ReduceMean<axes=[2,3]>(c) y = Squeeze(p, s) }",
        w=normal(6, 4, 1, 1),
        s=np.array([2, 3]),
    )
    first = run_pass(model, "fold-squeeze").to_proto()
    assert operators(first) == ["Neg", "Conv", "ReduceMean"]
    both = run_pass(first, NAME, "fold-squeeze").to_proto()
    assert operators(both) == ["Neg", "ReduceMean", "Conv", "Squeeze"]


def test_refuses_without_gain() -> None:
    stride_one = after_conv("AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)")
    assert_refused(stride_one, NAME, Common.NO_GAIN)
    few = after_conv(
        "AveragePool<kernel_shape=[7,7], strides=[2,2], pads=[3,3,3,3]>(c)", w=normal(1, 4, 1, 1)
    )
    assert_refused(few, NAME, Common.NO_GAIN)


@pytest.mark.parametrize(
    "conv",
    [
        "Conv<pads=[1,1,1,1]>(x, w)",
        "Conv<strides=[2,2]>(x, w)",
        'Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)',
        "Conv(x, v)",
    ],
)
def test_other_convs_stay_without_a_refusal(conv: str) -> None:
    weights: Parameters = {"v": normal(6, 4, 3, 3)} if "v" in conv.partition("(")[2] else {}
    record = run_pass(after_conv(f"{HALVES}(c)", conv=conv, **weights), NAME).record
    assert not record.rewrites
    assert not record.refusals


@pytest.mark.parametrize(
    "last", ["ReduceMean<axes=[2,3]>(q)", "AveragePool<kernel_shape=[2,2], strides=[3,3]>(q)"]
)
def test_two_averages_after_two_convs_move_in_one_run(last: str) -> None:
    model = build(
        "(float[N,4,17,17] x) => (float[N,6,h,l] y) { a = Conv(x, w, d) b = Conv(a, u, d) "
        f"q = {HALVES}(b) y = {last} }}",
        w=normal(6, 4, 1, 1),
        u=normal(6, 6, 1, 1),
        **BIAS,
    )
    operator = last.partition("<")[0]
    assert_rewritten(model, NAME, ["AveragePool", operator, "Conv", "Conv"])
