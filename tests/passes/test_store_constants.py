"""store-constants: what Constant nodes hold become initializers, where a graph may have them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import bnfold
from tests.support.graphs import Array, build, normal, operators
from tests.support.passes import assert_rewritten, parameters, run_pass

NAME = "store-constants"

FUNCTION = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
graph (float[4] x, bool c) => (float[4] z) {
    one = Constant<value_float = 1.0>()
    y = Add(x, one)
    z = own.f(y, c)
}
<domain: "own", opset_import: ["" : 17]>
f (x, c) => (z) {
    two = Constant<value_float = 2.0>()
    y = Mul(x, two)
    z = If (c) <
        then_branch = t () => (a) { three = Constant<value_float = 3.0>() a = Add(y, three) },
        else_branch = e () => (b) { b = Neg(y) }
    >
}
"""


def test_all_kinds_of_attributes_keep_their_names() -> None:
    model = build(
        "(float[2,3] x) => (float[M,N] z) {"
        "a = Constant<value_float = 1.5>() b = Constant<value_floats = [1.0, 2.0, -3.0]>() "
        "c = Constant<value_int = 1>() d = Constant<value_ints = [1, 3]>() "
        "e = Constant<value = float[2,1] {4.0, 5.0}>() "
        "p = Add(x, a) q = Mul(p, b) r = Add(q, e) s = Concat<axis=0>(r, r) u = Tile(s, d) "
        "v = Gather<axis=1>(u, c) g = Unsqueeze(v, c) z = Mul(g, e0) }",
        e0=normal(1),
    )
    optimized = assert_rewritten(
        model,
        NAME,
        ["Add", "Mul", "Add", "Concat", "Tile", "Gather", "Unsqueeze", "Mul"],
        certified=True,
    )
    stored = parameters(optimized)
    assert {name: (content.shape, content.dtype.name) for name, content in stored.items()} == {
        "e0": ((1,), "float32"),
        "a": ((), "float32"),
        "b": ((3,), "float32"),
        "c": ((), "int64"),
        "d": ((2,), "int64"),
        "e": ((2, 1), "float32"),
    }
    assert stored["b"].tolist() == [1.0, 2.0, -3.0]


@pytest.mark.parametrize(
    "dtype",
    [np.float64, np.float16, ml_dtypes.bfloat16, np.uint8, ml_dtypes.int4,
     ml_dtypes.float8_e4m3fn, np.bool_, np.complex64],
)  # fmt: skip
def test_all_types_of_numbers(dtype: type[np.generic]) -> None:
    content: Array = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    model = build("(float[N] x) => (float[N] z) { z = Neg(x) }", opset=21, ir_version=10)
    tensor = numpy_helper.from_array(content)
    model.graph.node.append(helper.make_node("Constant", [], ["k"], value=tensor))
    model.graph.node.append(helper.make_node("Identity", ["k"], ["y"]))
    model.graph.output.append(helper.make_tensor_value_info("y", tensor.data_type, [2, 3]))
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized) == ["Neg", "Identity"]
    (stored,) = optimized.graph.initializer
    assert (stored.name, stored.data_type) == ("k", tensor.data_type)
    assert numpy_helper.to_array(stored).tobytes() == content.tobytes()


def test_in_bodies() -> None:
    model = build(
        """(float[4] x, bool c) => (float[4] z) {
            k = Constant<value_float = 3.0>()
            z = If (c) <
                then_branch = t () => (float[4] a) {
                    l = Constant<value_float = 2.0>() p = Mul(x, k) a = Add(p, l)
                },
                else_branch = e () => (float[4] b) {
                    b = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>()
                }
            >
        }"""
    )
    result = run_pass(model, NAME)
    optimized = assert_rewritten(model, NAME, ["If"], certified=True)
    then_branch, else_branch = (each.g for each in optimized.graph.node[0].attribute)
    assert [tensor.name for tensor in optimized.graph.initializer] == ["k"]
    assert [tensor.name for tensor in then_branch.initializer] == ["l"]
    assert [node.op_type for node in then_branch.node] == ["Mul", "Add"]
    assert [node.op_type for node in else_branch.node] == ["Constant"]  # an output
    assert [rewrite.detail for rewrite in result.record.rewrites] == ["1 in all", "1 in all"]


def test_not_in_functions_nor_in_their_bodies() -> None:
    model = onnx.parser.parse_model(FUNCTION)
    options = bnfold.PassOptions(only=[NAME], keep_functions=True)
    result = bnfold.optimize(model, check=False, passes=options)
    optimized = result.to_proto()
    assert [node.op_type for node in optimized.graph.node] == ["Add", "f"]
    (function,) = optimized.functions
    assert [node.op_type for node in function.node] == ["Constant", "Mul", "If"]
    assert [node.op_type for node in function.node[2].attribute[0].g.node] == ["Constant", "Add"]
    assert len(result.record.rewrites) == 1
    again = bnfold.optimize(optimized, check=False, passes=options)
    assert not again.record.rewrites


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ("y = Constant<value_float = 2.0>()", "float y"),
        ("k = Constant<value_string = 'a'>() y = Identity(k)", "string y"),
        ("k = Constant<value_strings = ['a', 'b']>() y = Identity(k)", "string[2] y"),
    ],
)
def test_outputs_and_strings_stay(line: str, result: str) -> None:
    line = line.replace("'", '"')
    model = build(f"(float[N] x) => (float[N] z, {result}) {{ z = Neg(x) {line} }}")
    record = run_pass(model, NAME).record
    assert not record.rewrites
    assert record.output is not None
    assert record.output.same


def test_other_nodes_of_one_graph_do_not_wait_for_what_stays() -> None:
    model = build(
        "(float[N] x) => (float[N] z, float y) "
        "{ y = Constant<value_float = 2.0>() k = Constant<value_float = 3.0>() z = Mul(x, k) }"
    )
    assert_rewritten(model, NAME, ["Constant", "Mul"])


def test_initializers_that_need_not_be_inputs_need_ir_version_4() -> None:
    model = build(
        "(float[N] x) => (float[N] z) { k = Constant<value = float {3.0}>() z = Mul(x, k) }",
        opset=9,
        ir_version=3,
    )
    optimized = assert_rewritten(model, NAME, ["Mul"], certified=True)
    assert optimized.ir_version == 4
    assert [value.name for value in optimized.graph.input] == ["x"]


def test_beside_a_constant_that_is_kept() -> None:
    model = build(
        "(float[N] x) => (float[N] z) { k = Constant<value_float = 3.0>() y = Mul(x, k) "
        "l = Constant<value_float = 2.0>() u = Add(y, l) "
        "m = Constant<value_float = 4.0>() z = Add(u, m) }"
    )
    model.graph.node[2].name = "mine"
    options = bnfold.PassOptions(only=[NAME], keep_node="mine")
    result = bnfold.optimize(model, check=False, passes=options)
    assert parameters(result.to_proto()).keys() == {"m"}
    reasons = {refusal.reason for refusal in result.record.refusals}
    assert reasons == {"KEPT_BY_REQUEST"}
