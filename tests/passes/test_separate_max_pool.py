"""separate-max-pool: large windows, along rows and then along columns."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bnfold.rewriting.contract import Common
from tests.support.evaluate import run_plain
from tests.support.graphs import build, draw_feeds, operators
from tests.support.passes import assert_refused, run_pass

NAME = "separate-max-pool"


def assert_separated(model: onnx.ModelProto, expected: list[str]) -> None:
    """Assert equal bits in onnxruntime; onnx's evaluator fails if a kernel of 1 has no padding."""
    result = run_pass(model, NAME)
    assert operators(result.to_proto()) == expected
    onnx.checker.check_model(result.to_proto(), full_check=True)
    feeds = draw_feeds(model)
    np.testing.assert_array_equal(run_plain(model, feeds), run_plain(result.to_proto(), feeds))
    assert not run_pass(result.to_proto(), NAME).record.rewrites


def pooled(attributes: str, *, size: str = "14,15", opset: int = 17) -> onnx.ModelProto:
    return build(
        f"(float[N,3,{size}] x) => (float[N,3,h,w] y) {{ y = MaxPool<{attributes}>(x) }}",
        opset=opset,
    )


@pytest.mark.parametrize("opset", [1, 8, 10, 12, 17, 22])
@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape=[5,5]",
        "kernel_shape=[5,5], pads=[2,2,2,2]",
        "kernel_shape=[13,13], pads=[6,6,6,6]",
        "kernel_shape=[9,7], pads=[4,1,3,2], strides=[1,2]",
        'kernel_shape=[9,9], auto_pad="SAME_UPPER"',
        'kernel_shape=[7,9], auto_pad="SAME_LOWER", strides=[1,3]',
        'kernel_shape=[7,9], auto_pad="VALID"',
    ],
)
def test_large_windows_in_two_steps(attributes: str, opset: int) -> None:
    model = pooled(attributes, opset=opset)
    model.ir_version = 10 if opset > 20 else 8
    assert_separated(model, ["MaxPool", "MaxPool"])


def test_parallel_pools_as_in_spatial_pyramids() -> None:
    model = build(
        "(float[N,3,13,13] x) => (float[N,12,13,13] y) { "
        "a = MaxPool<kernel_shape=[5,5], pads=[2,2,2,2]>(x) "
        "b = MaxPool<kernel_shape=[9,9], pads=[4,4,4,4]>(x) "
        "c = MaxPool<kernel_shape=[13,13], pads=[6,6,6,6]>(x) y = Concat<axis=1>(x, a, b, c) }"
    )
    assert not run_pass(model, NAME, "cascade-max-pool").record.refusals
    sites = [rewrite.site for rewrite in run_pass(model, NAME).record.rewrites]
    assert sites == ["c", "b", "a"]  # each waits for larger ones that could be computed from it
    both = run_pass(model, NAME, "cascade-max-pool")
    assert operators(both.to_proto()) == ["MaxPool"] * 6 + ["Concat"]
    feeds = draw_feeds(model)
    np.testing.assert_array_equal(run_plain(model, feeds), run_plain(both.to_proto(), feeds))


@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape=[3,3]",
        "kernel_shape=[2,2], strides=[2,2]",
        "kernel_shape=[1,9]",
        "kernel_shape=[9,1]",
        "kernel_shape=[5,5], strides=[5,5]",
    ],
)
def test_small_windows_stay_without_a_refusal(attributes: str) -> None:
    record = run_pass(pooled(attributes), NAME).record
    assert not record.rewrites
    assert not record.refusals


@pytest.mark.parametrize(("size", "kernel"), [("40", "9"), ("9,9,9", "5,5,5")])
def test_other_ranks_stay(size: str, kernel: str) -> None:
    assert not run_pass(pooled(f"kernel_shape=[{kernel}]", size=size), NAME).record.rewrites


def test_refuses_indices_in_use() -> None:
    model = build(
        "(float[N,3,9,9] x) => (float[N,3,5,5] y, int64[N,3,5,5] i) "
        "{ y, i = MaxPool<kernel_shape=[5,5]>(x) }"
    )
    assert_refused(model, NAME, Common.INDICES_USED)


@st.composite
def large_pools(draw: st.DrawFn) -> onnx.ModelProto:
    kernel = [draw(st.integers(4, 9)) for _ in range(2)]
    strides = [draw(st.integers(1, 3)) for _ in range(2)]
    dilations = [draw(st.integers(1, 2)) for _ in range(2)]
    pads = [draw(st.integers(0, kernel[at % 2] - 1)) for at in range(4)]
    size = [draw(st.integers(5, 20)) for _ in range(2)]
    for at in range(2):
        assume(size[at] + pads[at] + pads[at + 2] > dilations[at] * (kernel[at] - 1))
    return pooled(
        f"kernel_shape={kernel}, strides={strides}, dilations={dilations}, pads={pads}, "
        f"ceil_mode={draw(st.integers(0, 1))}",
        size=",".join(map(str, size)),
    )


@settings(max_examples=12, deadline=None)
@given(large_pools())
def test_random_pools(model: onnx.ModelProto) -> None:
    count = len(operators(run_pass(model, NAME).to_proto()))
    assert_separated(model, ["MaxPool"] * count)
