"""Constant expressions: evaluated if they are constant, and never if they are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bnfold.graph.constants import constant
from tests.support.graphs import Array, build, make_overridable
from tests.support.learning import learned

K = np.array([1.5, -2, 3, 0.25], np.float32)


def value_of(lines: str, *, overridable: str = "", opset: int = 17, **weights: Any) -> object:
    """Return what `constant` returns for the value k in a model with input x of shape (N,4,5)."""
    model = build(
        f"(float[N,4,5] x, float[3] free) => (float[N,4,5] y) {{ {lines} y = Neg(x) }}",
        opset=opset,
        **weights,
    )
    if overridable:
        make_overridable(model, overridable)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("k"))
    graph = learned(model).graph
    (value,) = [output for node in graph for output in node.outputs if output.name == "k"]
    return constant(value)


EXPRESSIONS = [
    ("k = Identity(w)", K),
    ("i = Identity(w) k = Identity(i)", K),
    ("k = Cast<to=11>(w)", K.astype(np.float64)),
    ("k = CastLike(w, x)", K),
    ("k = Unsqueeze(w, axes)", K[:, None, None]),
    ("k = Reshape(w, square)", K.reshape(2, 2)),
    ("k = Transpose(w)", K),
    ("k = Concat<axis=0>(w, w)", np.concatenate([K, K])),
    ("k = Mul(w, w)", K * K),
    ("a = Add(w, w) k = Sub(a, w)", K),
    ("k = Div(w, w)", np.ones(4, np.float32)),
    ("k = Neg(w)", -K),
    ("k = Slice(w, zero, two)", K[:2]),
    ("k = Gather(w, zero)", K[[0]]),
    ("k = Squeeze(u)", K),
    ("k = Flatten(w)", K.reshape(4, 1)),
    ("k = Shape(w)", np.array([4])),
    ("k = Shape<start=1>(x)", np.array([4, 5])),
    ("k = Shape<start=-1>(x)", np.array([5])),
    ("k = ConstantOfShape(square)", np.zeros((2, 2), np.float32)),
    ("s = Shape<start=1>(x) k = Expand(two, s)", np.full((4, 5), 2)),
    ("k, l = Split<axis=0>(w)", np.array([1.5, -2], np.float32)),
    ("l, k = Split<axis=0>(w, split)", np.array([-2, 3, 0.25], np.float32)),
    (", k = Split<axis=0>(w, split)", np.array([-2, 3, 0.25], np.float32)),
    ("k, i = TopK(w, two)", np.array([3, 1.5], np.float32)),
    ("v, k = TopK(w, two)", np.array([2, 0])),
    ("k = Sqrt(positive)", np.array([2, 3], np.float32)),
    ("k = Reciprocal(positive)", 1 / np.array([4.0, 9.0])),
    ("k = Exp(positive)", np.exp(np.array([4, 9]))),
    ("k = Pow(positive, positive)", np.array([4.0, 9.0]) ** np.array([4.0, 9.0])),
]
WEIGHTS: dict[str, Any] = {
    "w": K,
    "u": K.reshape(1, 4, 1),
    "axes": np.array([1, 2], np.int64),
    "square": np.array([2, 2], np.int64),
    "zero": np.array([0], np.int64),
    "two": np.array([2], np.int64),
    "split": np.array([1, 3], np.int64),
    "positive": np.array([4, 9], np.float32),
}


@pytest.mark.parametrize(("lines", "expected"), EXPRESSIONS)
def test_expressions_of_constants_are_constant(lines: str, expected: Array) -> None:
    content = value_of(lines, **WEIGHTS)
    assert isinstance(content, np.ndarray)
    assert content.shape == expected.shape
    np.testing.assert_allclose(content, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "lines",
    [
        "k = Neg(free)",
        "k = Add(w, free)",
        "k = Shape(x)",
        "k = Shape<end=1>(x)",
        "k = Size(x)",
        "k = RandomNormal<shape=[4]>()",
        "k = Identity(x)",
        "s = Shape(x) k = Gather(s, zero)",
        "k = RandomNormalLike(w)",
        "k, i = Unique(w)",
    ],
)
def test_other_expressions_are_not_constant(lines: str) -> None:
    assert value_of(lines, **WEIGHTS) is None


def test_overridable_initializers_are_not_constant() -> None:
    assert value_of("k = Neg(w)", overridable="w", **WEIGHTS) is None


def test_huge_results_are_not_evaluated() -> None:
    sizes = np.array([2**20, 2**20], np.int64)
    assert value_of("k = ConstantOfShape(huge)", huge=sizes) is None
    assert value_of("k = Expand(w, huge)", huge=sizes, w=K) is None


def test_the_broadcast_attribute_of_old_opsets_is_not_evaluated() -> None:
    lines = "k = Mul<broadcast=1, axis=0>(square, row)"
    weights: dict[str, Any] = {"square": np.ones((2, 2), np.float32), "row": np.ones(2, np.float32)}
    assert value_of(lines, opset=6, **weights) is None


def test_deep_expressions_are_evaluated() -> None:
    chain = " ".join(f"v{i + 1} = Neg(v{i})" for i in range(2000))
    content = value_of(f"v0 = Neg(w) {chain} k = Neg(v2000)", **WEIGHTS)
    np.testing.assert_array_equal(content, K)


def test_expressions_are_evaluated_once() -> None:
    model = learned(build("(float[4] x) => (float[4] y) { k = Neg(w) y = Mul(x, k) }", w=K))
    value = next(iter(model.graph)).outputs[0]
    assert isinstance(value, ir.Value)
    assert constant(value) is not None
    assert constant(value) is constant(value)
