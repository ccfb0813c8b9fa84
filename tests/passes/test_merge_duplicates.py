"""merge-duplicates: equal operators are computed once, and equal large initializers stored once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from tests.support.evaluate import assert_equal_outputs
from tests.support.graphs import Array, Parameters, build, draw_feeds, make_overridable, operators
from tests.support.passes import run_pass

NAME = "merge-duplicates"


def merged(model: onnx.ModelProto) -> onnx.ModelProto:
    """Run the pass; assert equal bits, and that a second run changes nothing."""
    optimized = run_pass(model, NAME).to_proto()
    onnx.checker.check_model(optimized, full_check=True)
    feeds = draw_feeds(model)
    assert_equal_outputs(model, optimized, feeds)
    assert not run_pass(optimized, NAME).record.rewrites
    return optimized


@pytest.mark.parametrize(
    ("graph", "left"),
    [
        ("a = Relu(x) b = Relu(x) z = Mul(a, b)", 2),
        ("a = Relu(x) b = Relu(x) c = Neg(a) d = Neg(b) z = Mul(c, d)", 3),
        ("b = Elu<alpha=2.0>(x) a = Elu<alpha=2.0>(x) z = Mul(a, b)", 2),
        ("a = Mul(x, k) b = Mul(x, m) z = Sub(a, b)", 2),
        ("c = Constant<value_float=3.0>() a = Mul(x, k) b = Mul(x, c) z = Sub(a, b)", 2),
        ("a, c = Split<axis=1>(x, h) b, d = Split<axis=1>(x, h) e = Mul(a, d) f = Mul(b, c) "
         "z = Concat<axis=1>(e, f)", 3),
        ("a, c = TopK<axis=1>(x, n) b, d = TopK<axis=1>(x, n) z = Concat<axis=1>(a, b)", 2),
    ],
)  # fmt: skip
def test_equal_operators_are_computed_once(graph: str, left: int) -> None:
    weights: Parameters = {
        "k": np.array(3, np.float32),
        "m": np.array(3, np.float32),
        "h": np.array([3, 3]),
        "n": np.array([2]),
    }
    read = {name: content for name, content in weights.items() if f" {name})" in graph}
    model = build(f"(float[N,6] x) => (float[N,M] z) {{ {graph} }}", **read)
    optimized = merged(model)
    assert sum(op_type != "Constant" for op_type in operators(optimized)) == left
    record = bnfold.optimize(model, passes=bnfold.PassOptions(only=[NAME])).record
    assert [r.certificate and r.certificate.verdict for r in record.rewrites] == ["certified"] * (
        len(record.rewrites)
    )


@pytest.mark.parametrize(
    "graph",
    [
        "a = Relu(x) b = Neg(x) z = Mul(a, b)",
        "a = Elu<alpha=2.0>(x) b = Elu<alpha=3.0>(x) z = Mul(a, b)",
        "a = Elu<alpha=1.0>(x) b = Elu(x) z = Mul(a, b)",
        "a = Mul(x, k) b = Mul(x, m) z = Sub(a, b)",
        "a = Sub(x, k) b = Sub(k, x) z = Sub(a, b)",
        "a = RandomNormalLike(x) b = RandomNormalLike(x) z = Sub(a, b)",
        "a = Bernoulli(p) b = Bernoulli(p) z = Sub(a, b)",
        "a = Clip(x, k) b = Clip(x, , k) z = Sub(a, b)",
        "a, c = Dropout(x, r, t) b, d = Dropout(x, r, t) z = Sub(a, b)",
    ],
)
def test_others_stay(graph: str) -> None:
    weights: Parameters = {
        "k": np.array(3, np.float32),
        "m": np.array(-3, np.float32),
        "r": np.array(0.5, np.float32),
        "t": np.array(True),
    }
    model = build(f"(float[N,6] x, float[N,6] p) => (float[N,6] z) {{ {graph} }}", **weights)
    assert not run_pass(model, NAME).record.rewrites


def test_outputs_keep_their_names() -> None:
    model = build(
        "(float[N] x) => (float[N] a, float[N] b, float[N] y) "
        "{ a = Relu(x) b = Relu(x) c = Neg(x) y = Neg(x) d = Abs(c) }"
    )
    optimized = merged(model)
    assert [output.name for output in optimized.graph.output] == ["a", "b", "y"]
    assert operators(optimized) == ["Relu", "Relu", "Neg", "Abs"]


def test_a_body_and_its_surroundings_are_apart() -> None:
    model = build(
        """(float[N] x, bool c) => (float[N] z) {
            a = Relu(x)
            z = If (c) <
                then_branch = t () => (float[N] u) { b = Relu(x) d = Relu(x) u = Mul(b, d) },
                else_branch = e () => (float[N] v) { v = Mul(a, x) }
            >
        }"""
    )
    optimized = run_pass(model, NAME).to_proto()
    branches = {a.name: [n.op_type for n in a.g.node] for a in optimized.graph.node[1].attribute}
    assert branches == {"then_branch": ["Relu", "Mul"], "else_branch": ["Mul"]}


def two_tables(second: Array) -> onnx.ModelProto:
    return build(
        "(float[2,64] x) => (float[2,64] z) { a = MatMul(x, v) b = Relu(a) z = MatMul(b, w) }",
        v=np.arange(64 * 64, dtype=np.float32).reshape(64, 64) / 999,
        w=second,
    )


def test_equal_initializers_are_stored_once() -> None:
    equal = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) / 999
    optimized = merged(two_tables(equal))
    assert [tensor.name for tensor in optimized.graph.initializer] == ["v"]
    assert [list(node.input) for node in optimized.graph.node] == [["x", "v"], ["a"], ["b", "v"]]
    (rewrite,) = bnfold.optimize(
        two_tables(equal), passes=bnfold.PassOptions(only=[NAME])
    ).record.rewrites
    assert rewrite.certificate is not None
    assert rewrite.certificate.verdict == "certified"


def test_initializers_that_differ_in_one_element_or_in_type_stay() -> None:
    different = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) / 999
    different[1, 7] *= -1
    assert not run_pass(two_tables(different), NAME).record.rewrites
    zeros = np.zeros((64, 64), np.float32)
    model = two_tables(zeros)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(-zeros, "v"))
    assert not run_pass(model, NAME).record.rewrites


def test_an_initializer_that_a_caller_may_override_stays() -> None:
    equal = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) / 999
    for name in ("v", "w"):
        model = make_overridable(two_tables(equal), name)
        assert not run_pass(model, NAME).record.rewrites


@given(st.lists(st.tuples(st.sampled_from(["Relu", "Neg", "Abs"]), st.integers(0, 4)), max_size=9))
@settings(max_examples=12, deadline=None)
def test_random_graphs(drawn: list[tuple[str, int]]) -> None:
    """What is left has no two operators that compute the same; all is added up at the end."""
    lines, values = [], ["x"]
    for number, (op_type, place) in enumerate(drawn):
        lines.append(f"v{number} = {op_type}({values[place % len(values)]})")
        values.append(f"v{number}")
    model = build(
        f"(float[N] x) => (float[N] z) {{ {' '.join(lines)} z = Sum({', '.join(values)}) }}"
    )
    optimized = merged(model)
    seen = [(node.op_type, tuple(node.input)) for node in optimized.graph.node]
    assert len(seen) == len(set(seen))
