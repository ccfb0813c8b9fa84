"""cascade-max-pool: a large pool is computed from a smaller one of the same value."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.rewriting.contract import Common
from tests.support.evaluate import assert_equal_outputs
from tests.support.graphs import build, draw_feeds
from tests.support.passes import assert_refused, run_pass

NAME = "cascade-max-pool"


def pools(*attributes: str, size: str = "13,12", element: str = "float") -> onnx.ModelProto:
    """Return a model whose outputs are MaxPools of x with these attributes."""
    outputs = ", ".join(f"{element}[N,3,h{i},w{i}] y{i}" for i in range(len(attributes)))
    lines = " ".join(f"y{i} = MaxPool<{text}>(x)" for i, text in enumerate(attributes))
    return build(f"({element}[N,3,{size}] x) => ({outputs}) {{ {lines} }}")


def assert_cascaded(model: onnx.ModelProto, *sites: str) -> onnx.ModelProto:
    """Assert that these pools read another pool's result, with equal bits in onnxruntime."""
    optimized = run_pass(model, NAME).to_proto()
    cascaded = [node.output[0] for node in optimized.graph.node if node.input[0] != "x"]
    assert sorted(cascaded) == sorted(sites)
    onnx.checker.check_model(optimized, full_check=True)
    for seed in range(2):
        feeds = draw_feeds(model, seed=seed)
        assert_equal_outputs(model, optimized, feeds)
    assert not run_pass(optimized, NAME).record.rewrites
    return optimized


def padded(size: int, more: str = "") -> str:
    return f"kernel_shape=[{size},{size}], pads={[size // 2] * 4}{more}"


@pytest.mark.parametrize("order", [(5, 9, 13), (13, 9, 5), (9, 13, 5), (9, 5, 13)])
def test_a_spatial_pyramid_becomes_a_chain_of_its_smallest(order: tuple[int, ...]) -> None:
    model = pools(*(padded(size) for size in order))
    sites = [f"y{i}" for i, size in enumerate(order) if size != 5]
    optimized = assert_cascaded(model, *sites)
    kernels = [
        list(attribute.ints)
        for node in optimized.graph.node
        for attribute in node.attribute
        if attribute.name == "kernel_shape"
    ]
    assert kernels == [[5, 5]] * 3


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ("kernel_shape=[3,3]", "kernel_shape=[5,5]"),
        ("kernel_shape=[3,1]", "kernel_shape=[3,4]"),
        ("kernel_shape=[2,3], pads=[1,0,0,2]", "kernel_shape=[4,5], pads=[2,1,1,3]"),
        ('kernel_shape=[3,3], auto_pad="VALID"', "kernel_shape=[5,5], strides=[2,3]"),
        ("kernel_shape=[3,3]", "kernel_shape=[7,7], pads=[1,2,3,4], strides=[3,3]"),
        (padded(3), 'kernel_shape=[5,6], auto_pad="SAME_UPPER"'),
        ('kernel_shape=[3,4], auto_pad="SAME_LOWER"', 'kernel_shape=[5,7], auto_pad="SAME_LOWER"'),
    ],
)
def test_other_windows(smaller: str, larger: str) -> None:
    assert_cascaded(pools(smaller, larger), "y1")
    assert_cascaded(pools(larger, smaller), "y0")


@pytest.mark.parametrize("element", ["int8", "uint8", "double"])
def test_other_types(element: str) -> None:
    assert_cascaded(pools(padded(3), padded(7), element=element), "y1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (padded(3), padded(3)),
        (padded(3), "kernel_shape=[5,5]"),
        ("kernel_shape=[3,5]", "kernel_shape=[5,3]"),
        (padded(3, ", strides=[2,2]"), padded(5)),
        (padded(3, ", dilations=[2,2]"), padded(9)),
        (padded(3), "kernel_shape=[3,3], dilations=[2,2]"),
        (padded(3), padded(5, ", ceil_mode=1")),
        (padded(3), 'kernel_shape=[5,5], auto_pad="SAME_UPPER", ceil_mode=1'),
        ("kernel_shape=[4,4]", "kernel_shape=[5,5], pads=[2,0,0,0]"),
    ],
)
def test_pools_that_cannot_be_computed_from_each_other(one: str, other: str) -> None:
    record = run_pass(pools(one, other), NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_pools_of_other_values_stay() -> None:
    model = build(
        f"(float[N,3,9,9] x) => (float[N,3,9,9] y, float[N,3,9,9] z) "
        f"{{ y = MaxPool<{padded(3)}>(x) n = Neg(x) z = MaxPool<{padded(5)}>(n) }}"
    )
    assert not run_pass(model, NAME).record.rewrites


def test_refuses_indices_in_use() -> None:
    model = build(
        f"(float[N,3,9,9] x) => (float[N,3,9,9] y, float[N,3,9,9] z, int64[N,3,9,9] i) "
        f"{{ y = MaxPool<{padded(3)}>(x) z, i = MaxPool<{padded(5)}>(x) }}"
    )
    assert_refused(model, NAME, Common.INDICES_USED)


@st.composite
def windows(draw: st.DrawFn) -> str:
    kernel = [draw(st.integers(1, 6)), draw(st.integers(1, 6))]
    pads = [draw(st.integers(0, k - 1)) for k in [*kernel, *kernel]]
    strides = [draw(st.sampled_from([1, 1, 1, 2])), draw(st.sampled_from([1, 1, 1, 3]))]
    return f"kernel_shape={kernel}, pads={pads}, strides={strides}"


@settings(max_examples=12, deadline=None)
@given(st.lists(windows(), min_size=2, max_size=4), st.integers(6, 11))
def test_random_pools(attributes: list[str], size: int) -> None:
    model = pools(*attributes, size=f"{size},{size + 1}")
    optimized = run_pass(model, NAME).to_proto()
    assert_cascaded(model, *(n.output[0] for n in optimized.graph.node if n.input[0] != "x"))
