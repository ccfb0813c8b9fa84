"""Expressions have the content that onnxruntime computes, and never a content without end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from bnfold.graph import expressions
from bnfold.graph.constants import constant, is_constant
from bnfold.graph.expressions import by_reference
from bnfold.graph.facts import Tools, forget, learn
from bnfold.graph.shapes import shape_of
from bnfold.modelfile.loading import load
from bnfold.running.evaluation import evaluate
from tests.support.evaluate import run_plain
from tests.support.graphs import Array, Parameters, build, ints
from tests.support.learning import learned


def values_learned(lines: str, opset: int = 17, **weights: Any) -> dict[str, ir.Value]:
    """Return the values of a model of these lines, by name, after learning."""
    text = f"(float[N,4,5] x) => (float[N,4,5] y) {{ {lines} y = Neg(x) }}"
    model = learned(build(text, opset=opset, **weights))
    return {value.name or "": value for node in model.graph for value in node.outputs}


MATRIX = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
AS_THE_RUNTIME: list[tuple[str, int, Parameters]] = [
    ("k = Unsqueeze(w, p)", 17, {"w": np.ones(3, np.float32), "p": ints(-1, -2)}),
    ("k = Unsqueeze(w, p)", 17, {"w": np.ones(3, np.float32), "p": ints(-3, 1)}),
    ("k = Unsqueeze<axes=[-1,-2]>(w)", 11, {"w": np.ones(3, np.float32)}),
    ("k = Unsqueeze<axes=[2,0]>(w)", 11, {"w": np.ones(3, np.float32)}),
    ("k = Div(w, p)", 17, {"w": ints(-7, 7, -7, 7), "p": ints(2, 2, -2, -2)}),
    ("k = Pow(w, p)", 17, {"w": ints(3, -3, 2, 5), "p": ints(3, 3, 40, 0)}),
    ("k = Pow(w, p)", 17, {"w": ints(3, 2), "p": np.array([0.5, 2.5], np.float32)}),
    ("k = Mul(w, w)", 17, {"w": ints(2**40, -(2**33))}),
    ("k = Cast<to=6>(w)", 17, {"w": np.array([1.9, -1.9, 0.5], np.float32)}),
    ("k = Cast<to=9>(w)", 17, {"w": np.array([0.0, -0.0, 0.1, np.nan], np.float32)}),
    ("k = Cast<to=10>(w)", 17, {"w": np.array([1e5, 2049, 1e-8], np.float32)}),
    ("k = Exp(w)", 17, {"w": np.linspace(-3, 3, 37, dtype=np.float32)}),
    ("k = Reciprocal(w)", 17, {"w": np.linspace(1, 3, 37, dtype=np.float32)}),
    ("k = Sqrt(w)", 17, {"w": np.linspace(1, 3, 37, dtype=np.float32)}),
    ("k = Gather<axis=1>(w, p)", 17, {"w": MATRIX, "p": ints(-1, 0)}),
    ("k = Transpose<perm=[2,0,1]>(w)", 17, {"w": MATRIX}),
    *(
        (
            "k = Slice(w, b, e, a, s)",
            17,
            {"w": MATRIX, "b": ints(begin), "e": ints(end), "a": ints(-1), "s": ints(step)},
        )
        for begin, end, step in [
            (-1, -9, -1),
            (9, -9, -2),
            (-9, 9, 2),
            (-9, -(2**62), -1),
            (2, 1, 1),
            (3, 0, -5),
        ]
    ),
]


@pytest.mark.parametrize(("lines", "opset", "weights"), AS_THE_RUNTIME)
def test_a_content_has_the_bits_that_onnxruntime_computes(
    lines: str, opset: int, weights: Parameters
) -> None:
    content = constant(values_learned(lines, opset, **weights)["k"])
    assert content is not None
    model = build(f"(float[1] x) => (float[a] y) {{ {lines} y = Neg(x) }}", opset=opset, **weights)
    dtype = helper.np_dtype_to_tensor_dtype(content.dtype)
    model.graph.output.append(helper.make_tensor_value_info("k", dtype, None))
    expected = run_plain(model, {"x": np.ones(1, np.float32)})[1]
    np.testing.assert_array_equal(content, expected)
    assert content.dtype == expected.dtype
    assert content.shape == expected.shape


class Counted:
    """Evaluates as usual, and counts the nodes of each run."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, model: onnx.ModelProto, feeds: Mapping[str, Array]) -> Any:
        self.runs.append(len(model.graph.node))
        return evaluate(model, feeds)


DTYPES = [np.float32, np.float64, np.float16, np.int64, np.int32, np.int8, np.uint8, np.bool_]


@settings(max_examples=75, deadline=None)
@given(data=st.data())
def test_the_reference_evaluator_agrees_where_it_is_trusted(data: st.DataObject) -> None:
    op_type = data.draw(st.sampled_from(sorted(expressions._ALIKE_EVERYWHERE)))
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    generator = np.random.default_rng(data.draw(st.integers(0, 999)))
    shape = [2, int(generator.integers(1, 4)), 3]
    operand = generator.integers(-4, 5, shape).astype(dtype)
    other = generator.integers(-4, 5, [1, shape[1], 1]).astype(dtype)
    flag = generator.integers(0, 2, shape).astype(np.bool_)
    attributes: dict[str, Any] = {}
    operands = {
        "ConstantOfShape": [ints(2, 3)],
        "Concat": [operand, operand],
        "Expand": [other, ints(2, 1, 4)],
        "Gather": [operand, ints(-1, 0, 1)],
        "Reshape": [operand, ints(0, -1)],
        "Where": [flag, operand, other],
        "And": [flag, flag],
        "Or": [flag, ~flag],
        "Not": [flag],
        "Neg": [operand],
        "Flatten": [operand],
        "Identity": [operand],
        "Transpose": [operand],
    }.get(op_type, [operand, other])
    if op_type in ("Concat", "Gather", "Flatten"):
        attributes["axis"] = int(generator.integers(-2, 3 if op_type == "Flatten" else 2))
    names = [f"i{index}" for index in range(len(operands))]
    feeds = dict(zip(names, operands, strict=True))
    graph = helper.make_graph(
        [helper.make_node(op_type, names, ["k"], **attributes)],
        "one",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(each.dtype), each.shape
            )
            for name, each in feeds.items()
        ],
        [helper.make_empty_tensor_value_info("k")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    expected, found = evaluate(model, feeds), by_reference(model, feeds)
    if expected is not None and found is not None:
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[0].dtype == expected[0].dtype


def test_types_that_onnxruntime_lacks_are_evaluated_by_the_reference() -> None:
    values = values_learned("k = Transpose(w)", 17, w=MATRIX.astype(np.uint16))
    content = constant(values["k"])
    assert content is not None
    np.testing.assert_array_equal(content, MATRIX.T)
    model = build("(float[1] x) => (float[1] y) { b = Cast<to=16>(w) y = Neg(x) }", w=MATRIX)
    model.graph.node[0].op_type = "Constant"
    del model.graph.node[0].input[:], model.graph.node[0].attribute[:]
    tensor = helper.make_tensor("", onnx.TensorProto.BFLOAT16, [2, 2], [1, 2, 3, 4])
    model.graph.node[0].attribute.append(helper.make_attribute("value", tensor))
    model.graph.node.insert(1, helper.make_node("Transpose", ["b"], ["k"]))
    loaded = learned(model)
    content = constant(list(loaded.graph)[1].outputs[0])
    assert content is not None
    assert content.astype(np.float32).tolist() == [[1, 3], [2, 4]]


def test_without_a_runtime_only_operators_that_agree_are_evaluated() -> None:
    text = "(float[1] x) => (float[1] y) { a = Neg(w) b = Exp(w) y = Neg(x) }"
    model = load(build(text, w=np.ones(3, np.float32))).ir
    learn(model, Tools())
    neg, exp, _ = model.graph
    assert is_constant(neg.outputs[0])
    assert not is_constant(exp.outputs[0])


def test_what_cannot_be_evaluated_keeps_nothing_else_from_it() -> None:
    """onnxruntime rejects a Gather out of range, and so the whole batch."""
    values = values_learned(
        "a = Neg(w) b = Gather(w, far) c = Neg(b) d = Add(a, a)", w=ints(1, 2), far=ints(9)
    )
    assert {name for name in "abcd" if is_constant(values[name])} == {"a", "d"}
    assert constant(values["d"]) is not None


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_a_quotient_that_ends_the_process_is_not_computed(dtype: type[np.signedinteger]) -> None:
    """The lowest integer by −1 is a trap on x86."""
    lowest, two = np.array([np.iinfo(dtype).min], dtype), np.array([2], dtype)
    values = values_learned(
        "a = Div(w, k) n = Neg(one) b = Div(w, n) c = Div(w, two)",
        w=lowest,
        k=np.array([-1], dtype),
        one=np.array([1], dtype),
        two=two,
    )
    assert {name for name in "abc" if is_constant(values[name])} == {"c"}


def test_all_small_expressions_are_one_session() -> None:
    lines = " ".join(f"v{i} = Neg(w) u{i} = Add(v{i}, v{i})" for i in range(50))
    text = f"(float[1] x) => (float[1] y) {{ {lines} y = Neg(x) }}"
    model = load(build(text, w=np.ones(3, np.float32))).ir
    counted = Counted()
    learn(model, Tools(evaluate=counted))
    assert counted.runs == [100]


def test_an_expression_that_is_read_twice_is_evaluated_once() -> None:
    """Each step reads the one before it twice, so there are 2⁶⁰ paths."""
    lines = " ".join(f"v{i + 1} = Add(v{i}, v{i})" for i in range(60))
    text = f"(float[1] x) => (float[1] y) {{ v0 = Identity(w) {lines} y = Neg(x) }}"
    model = load(build(text, w=np.ones(3, np.float32))).ir
    counted = Counted()
    learn(model, Tools(evaluate=counted))
    assert counted.runs == [61]


def test_large_expressions_are_computed_when_they_are_asked_for() -> None:
    text = "(float[1] x) => (float[1] y) { a = Transpose(w) b = Neg(a) c = Neg(b) y = Neg(x) }"
    model = load(build(text, w=np.ones((200, 300), np.float32))).ir
    counted = Counted()
    learn(model, Tools(evaluate=counted))
    assert counted.runs == []
    values = [node.outputs[0] for node in model.graph]
    content = constant(values[2])
    assert content is not None
    assert content.shape == (300, 200)
    assert counted.runs == [3]
    forget(model)
    assert not is_constant(values[2])


# --- Bombs --------------------------------------------------------------------------------------

DOUBLINGS = " ".join(f"v{i + 1} = Concat<axis=0>(v{i}, v{i})" for i in range(38))


@pytest.mark.parametrize(
    "lines",
    [
        f"v0 = Identity(w) {DOUBLINGS} k = Neg(v38)",
        "k = ConstantOfShape(huge)",
        "k = Expand(w, huge)",
        "a = Expand(w, wide) b = Unsqueeze(a, two) k = Mul(a, b)",
        "k = Unsqueeze(w, many)",
        "k = Reshape(w, endless)",
    ],
)
def test_a_content_without_end_is_not_computed(lines: str) -> None:
    values = values_learned(
        lines,
        w=np.ones(1024),
        huge=ints(2**20, 2**20),
        wide=ints(2**16, 1024),
        many=np.arange(2**20),
        endless=ints(2**62),
        two=ints(2),
    )
    assert not is_constant(values["k"])


def test_all_contents_together_have_an_end() -> None:
    lines = " ".join(f"v{i} = ConstantOfShape(large)" for i in range(600))
    values = values_learned(lines, large=ints(2**18))
    known = sum(is_constant(value) for value in values.values())
    assert 10 < known <= 64  # of one MiB each


def test_inferring_again_computes_no_large_expression() -> None:
    """A small constant is new and a shape is unknown, so shapes are inferred twice."""
    text = (
        "(float[4] x) => (float[1] y) "
        "{ a = Transpose(w) b = Neg(k) c = CastLike(b, x) n = NonZero(x) y = Neg(x) }"
    )
    model = load(build(text, w=np.ones((200, 300), np.float32), k=ints(1))).ir
    counted = Counted()
    learn(model, Tools(evaluate=counted))
    assert counted.runs == [2]
    transposed, *_ = model.graph
    assert shape_of(transposed.outputs[0]) == (300, 200)
