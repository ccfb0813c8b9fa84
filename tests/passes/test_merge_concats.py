"""merge-concats: Concats in each other, along one axis, become one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from tests.support.evaluate import assert_equal_outputs
from tests.support.graphs import build, draw_feeds, operators
from tests.support.passes import assert_rewritten, run_pass

NAME = "merge-concats"
INPUTS = "(float[N,2,3] a, float[N,1,3] b, float[N,4,3] c, float[N,1,3] d) => (float[B,M,K] y)"


def model_of(lines: str, *, opset: int = 17) -> onnx.ModelProto:
    return build(f"{INPUTS} {{ {lines} }}", opset=opset)


def merged(lines: str, expected: list[str]) -> list[str]:
    """Return what the last Concat reads; assert the operators, equal bits and a certificate."""
    model = model_of(lines)
    optimized = assert_rewritten(model, NAME, expected, rtol=0, atol=0)
    record = bnfold.optimize(model, passes=bnfold.PassOptions(only=[NAME])).record
    verdicts = {each.certificate.verdict for each in record.rewrites if each.certificate}
    assert verdicts == {"certified"}
    last = [node for node in optimized.graph.node if node.op_type == "Concat"][-1]
    return list(last.input)


@pytest.mark.parametrize(
    ("lines", "operands"),
    [
        ("k = Concat<axis=1>(a, b) y = Concat<axis=1>(k, c)", "abc"),
        ("k = Concat<axis=1>(b, c) y = Concat<axis=1>(a, k, d)", "abcd"),
        ("k = Concat<axis=-2>(b, c) y = Concat<axis=1>(a, k)", "abc"),
        ("k = Concat<axis=1>(b, c) y = Concat<axis=-2>(a, k)", "abc"),
        ("k = Concat<axis=-2>(b, c) y = Concat<axis=-2>(a, k)", "abc"),
        ("k = Concat<axis=1>(a) y = Concat<axis=1>(k, b)", "ab"),
        (
            "i = Concat<axis=1>(a, b) j = Concat<axis=1>(i, c) k = Concat<axis=1>(d, j) "
            "y = Concat<axis=1>(k, a)",
            "dabca",
        ),
        (
            "i = Concat<axis=1>(a, b) j = Concat<axis=1>(c, d) y = Concat<axis=1>(i, d, j)",
            "abdcd",
        ),
        ("k = Concat<axis=1>(a, b) y = Concat<axis=1>(k, c, k)", "abcab"),
        (
            "i = Concat<axis=1>(a, b) j = Concat<axis=1>(c, i) k = Concat<axis=1>(i, d) "
            "y = Concat<axis=1>(j, k)",
            "cababd",
        ),
    ],
)
def test_one_remains(lines: str, operands: str) -> None:
    assert merged(lines, ["Concat"]) == list(operands)


def test_of_any_type() -> None:
    text = "k = Concat<axis=0>(a, b) y = Concat<axis=-1>(k, a)"
    model = build(f"(int64[N] a, int64[2] b) => (int64[M] y) {{ {text} }}")
    assert_rewritten(model, NAME, ["Concat"], rtol=0, atol=0)


def test_a_long_row_is_merged_at_once() -> None:
    lines = "".join(f"v{n + 1} = Concat<axis=0>(v{n}, v0) " for n in range(300))
    model = build(f"(float[1] v0) => (float[M] v300) {{ {lines} }}")
    result = run_pass(model, NAME)
    assert [len(node.input) for node in result.to_proto().graph.node] == [301]
    assert len(result.record.rewrites) == 1
    assert result.record.rewrites[0].nodes == [f"v{n + 1}" for n in range(300)]


def test_one_that_only_concats_read_is_merged_into_each() -> None:
    lines = (
        "k = Concat<axis=1>(a, b) i = Concat<axis=1>(k, c) j = Concat<axis=1>(c, k) "
        "e = Exp(i) f = Abs(j) y = Add(e, f)"
    )
    model = model_of(lines)
    assert_rewritten(model, NAME, ["Concat", "Concat", "Exp", "Abs", "Add"])
    (one, _) = run_pass(model, NAME).record.rewrites
    assert one.detail == "2 Concats into one"


@pytest.mark.parametrize(
    "lines",
    [
        "k = Concat<axis=2>(a, a) l = Concat<axis=2>(c, c) y = Concat<axis=1>(k, l)",
        "k = Concat<axis=1>(a, b) l = Concat<axis=1>(k, c) m = Abs(l) n = Neg(k) "
        "y = Concat<axis=1>(m, n)",
        "k = Concat<axis=1>(a, b) z = Neg(k) y = Concat<axis=1>(z, c)",
        "k = Concat<axis=1>(a, b) i = Concat<axis=1>(k, c) j = Concat<axis=2>(k, k) "
        "z = Neg(j) s = ReduceSum<keepdims=0>(z) y = Add(i, s)",
    ],
)
def test_others_stay(lines: str) -> None:
    assert not run_pass(model_of(lines), NAME).record.rewrites


def test_an_inner_one_that_is_an_output_stays() -> None:
    model = build(
        "(float[N,2] a, float[N,3] b) => (float[N,M] k, float[N,L] y) "
        "{ k = Concat<axis=1>(a, b) y = Concat<axis=1>(k, a) }"
    )
    assert not run_pass(model, NAME).record.rewrites


def test_one_that_a_body_reads_stays() -> None:
    model = build(
        "(bool p, float[N,2] a, float[N,3] b) => (float[N,M] y, float[N,K] z) "
        "{ k = Concat<axis=1>(a, b) z = Concat<axis=1>(k, b) "
        "y = If (p) <then_branch = g () => (float[N,L] t) { t = Concat<axis=1>(k, a) }, "
        "else_branch = h () => (float[N,L] e) { e = Concat<axis=1>(b, k) }> }"
    )
    assert not run_pass(model, NAME).record.rewrites


def test_equal_axes_are_enough_where_the_rank_is_not_known() -> None:
    lines = "v = Reshape(a, s) k = Concat<axis=AXIS>(v, v) z = Concat<axis=1>(k, k) y = Neg(z)"
    for axis, expected in (("1", 3), ("-1", 4)):
        text = lines.replace("AXIS", axis)
        model = build(f"(float[N,2] a, int64[R] s) => (float y) {{ {text} }}")
        model.graph.output[0].type.tensor_type.ClearField("shape")
        optimized = run_pass(model, NAME).to_proto()
        assert len(operators(optimized)) == expected
        for shape in ([2, 4], [8, 1]):
            feeds = {"a": np.arange(8, dtype=np.float32).reshape(4, 2), "s": np.array(shape)}
            assert_equal_outputs(model, optimized, feeds)


@pytest.mark.parametrize("opset", [1, 3])
def test_the_axis_need_not_be_given_in_old_operator_sets(opset: int) -> None:
    text = "k = Concat(a, b) y = Concat(c, k)"
    optimized = run_pass(model_of(text, opset=opset), NAME).to_proto()
    assert [list(node.input) for node in optimized.graph.node] == [["c", "a", "b"]]
    text = "k = Concat<axis=1>(a, b) y = Concat(c, k)"
    assert run_pass(model_of(text, opset=opset), NAME).record.rewrites
    text = "k = Concat<axis=2>(a, a) y = Concat(k, k)"
    assert not run_pass(model_of(text, opset=opset), NAME).record.rewrites


def doubling(levels: int) -> onnx.ModelProto:
    """Return a model whose number of operands doubles with each level that is merged."""
    lines = "".join(f"v{n + 1} = Concat<axis=0>(v{n}, v{n}) " for n in range(levels))
    return build(f"(float[1] v0) => (float[M] v{levels}) {{ {lines} }}")


def test_the_number_of_operands_is_limited_where_they_double() -> None:
    optimized = run_pass(doubling(8), NAME).to_proto()
    assert [len(node.input) for node in optimized.graph.node] == [256]
    optimized = run_pass(doubling(20), NAME).to_proto()
    assert max(len(node.input) for node in optimized.graph.node) <= 256
    assert len(optimized.graph.node) == 3


def test_the_record_has_the_nodes_in_the_order_of_the_graph() -> None:
    lines = "i = Concat<axis=1>(a, b) j = Concat<axis=1>(i, c) y = Concat<axis=1>(i, j)"
    (rewrite,) = run_pass(model_of(lines), NAME).record.rewrites
    assert rewrite.nodes == ["i", "j", "y"]


def test_one_that_very_many_read_stays() -> None:
    for readers, expected in ((8, 8), (9, 10)):
        lines = "".join(f"y{n} = Concat<axis=0>(k, a) " for n in range(readers))
        outputs = ", ".join(f"float[M] y{n}" for n in range(readers))
        text = f"(float[1] a) => ({outputs}) {{ k = Concat<axis=0>(a, a) {lines} }}"
        assert len(run_pass(build(text), NAME).to_proto().graph.node) == expected


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_random_concats(data: st.DataObject) -> None:
    """Concats of whatever came before, along any axes: equal bits, and never more nodes."""
    names, lines = ["a", "b", "c"], []
    for number in range(data.draw(st.integers(2, 5))):
        axis = data.draw(st.sampled_from([0, 0, 0, -2, 1]))
        read = data.draw(st.lists(st.sampled_from(names[-3:]), min_size=1, max_size=3))
        if axis == 1:
            lines.append(f"w{number} = Concat<axis=1>({', '.join(read[:1] * 2)}) ")
            lines.append(f"v{number} = Slice(w{number}, zero, three, one) ")
        else:
            lines.append(f"v{number} = Concat<axis={axis}>({', '.join(read)}) ")
        names.append(f"v{number}")
    model = build(
        f"(float[N,3] a, float[2,3] b, float[M,3] c) => (float[A,B] {names[-1]}) "
        f"{{ {''.join(lines)} }}",
        zero=np.array([0]), three=np.array([3]), one=np.array([1]),
    )  # fmt: skip
    optimized = run_pass(model, NAME).to_proto()
    assert len(optimized.graph.node) <= len(model.graph.node)
    feeds = draw_feeds(model, sizes={"N": 1, "M": 3})
    assert_equal_outputs(model, optimized, feeds)
    assert not run_pass(optimized, NAME).record.rewrites
