"""The padding that auto_pad stands for is what onnxruntime adds."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.algebra.padding import padding_of
from bnfold.graph.shapes import record_shape
from tests.support.evaluate import run_plain
from tests.support.graphs import build, normal


def node_of(op_type: str, sizes: list[int | None] | None, **attributes: Any) -> ir.Node:
    data = ir.Value(name="x")
    record_shape(data, None if sizes is None else ir.Shape([1, 1, *sizes]))
    given = [
        ir.AttrString(name, value) if isinstance(value, str) else ir.AttrInt64s(name, value)
        for name, value in attributes.items()
    ]
    return ir.Node("", op_type, [data], given)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["SAME_UPPER", "SAME_LOWER"]),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 11),
)
def test_it_is_what_onnxruntime_adds(auto_pad: str, kernel: int, stride: int, size: int) -> None:
    node = node_of("Conv", [size], auto_pad=auto_pad)
    widths = padding_of(node, [kernel], [stride], [1])
    if widths is None:
        assert stride > kernel + 1
        return
    ((before, after),) = widths
    weight, x = normal(1, 1, kernel), normal(1, 1, size, seed=1)
    by_size, explicit = (
        build(
            f"(float[1,1,{size}] x) => (float[1,1,n] y) "
            f"{{ y = Conv<{padding}, strides=[{stride}]>(x, w) }}",
            w=weight,
        )
        for padding in (f'auto_pad="{auto_pad}"', f"pads=[{before},{after}]")
    )
    (expected,), (actual,) = run_plain(by_size, {"x": x}), run_plain(explicit, {"x": x})
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("sizes", [None, [None], [None, None], [7, 7]])
def test_without_a_size(sizes: list[int | None] | None) -> None:
    node = node_of("Conv", sizes, auto_pad="SAME_LOWER")
    assert padding_of(node, [4], [1], [1]) == ((2, 1),)
    assert padding_of(node, [1], [2], [1]) == ((0, 0),)
    assert padding_of(node, [1], [3], [1]) is None
    assert padding_of(node, [4], [2], [1]) is None


def test_what_runtimes_refuse_or_differ_in() -> None:
    node = node_of("Conv", [7], auto_pad="SAME_UPPER")
    assert padding_of(node, [3], [1], [2]) is None
    assert padding_of(node, [1], [3], [1]) == ((0, 0),)
    assert padding_of(node, [1], [4], [1]) is None
    assert padding_of(node, [1], [5], [1]) == ((0, 0),)  # lacks −1
    assert padding_of(node, [3], [4], [1]) == ((0, 0),)
    assert padding_of(node, [1], [1], [2]) == ((0, 0),)
    node.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 1)
    assert padding_of(node, [3], [1], [1]) is None


def test_what_is_said() -> None:
    assert padding_of(node_of("Conv", None), [3], [2], [2]) == ((0, 0),)
    assert padding_of(node_of("Conv", None, auto_pad="VALID", pads=[1, 1]), [3], [1], [1]) == (
        (0, 0),
    )
    pads = [1, 2, 3, 4]
    node = node_of("MaxPool", None, auto_pad="NOTSET", pads=pads)
    assert padding_of(node, [3, 3], [1, 1], [1, 1]) == ((1, 3), (2, 4))
