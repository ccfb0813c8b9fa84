"""The cost of models that are odd or invalid; that of usual ones is tested with `inspect`."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import AttributeProto, helper

import bnfold
from tests.support.cli import run


def model(*nodes: onnx.NodeProto, **options: onnx.FunctionProto) -> onnx.ModelProto:
    """Return a model of these nodes, valid or not, that reads x and weights w and gives y."""
    values = [helper.make_tensor_value_info(name, 1, [2, 3]) for name in ("x", "y")]
    weights = helper.make_tensor("w", 1, [4, 3], range(12))
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weights])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    return helper.make_model(
        graph, ir_version=8, opset_imports=opsets, functions=list(options.values())
    )


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("MatMul", ["x"], ["y"]),
        helper.make_node("Conv", [], ["y"]),
        helper.make_node("Gemm", ["x", ""], ["y"]),
        helper.make_node("Conv", ["x", "w", "w", "w"], ["y"]),
    ],
    ids=["one input", "no input", "an absent input", "too many inputs"],
)
def test_an_invalid_operator_costs_what_is_not_known(tmp_path: Path, node: onnx.NodeProto) -> None:
    found = bnfold.inspect(model(node)).cost
    assert (found.parameters, found.unknown) == (12, 1 if node.op_type != "Conv" else found.unknown)
    path = tmp_path / "m.onnx"
    onnx.save(model(node), path)
    run("check", path, path, "--json").failed(3, "is not a valid ONNX model")


def test_a_function_may_take_its_attributes_from_the_caller() -> None:
    gemm, constant = (
        helper.make_node("Gemm", ["a", "b"], ["c"]),
        helper.make_node("Constant", [], ["k"]),
    )
    gemm.attribute.append(AttributeProto(name="transB", ref_attr_name="t", type=AttributeProto.INT))
    value = AttributeProto(name="value", ref_attr_name="v", type=AttributeProto.TENSOR)
    constant.attribute.append(value)
    nodes = [gemm, constant, helper.make_node("Add", ["c", "k"], ["d"])]
    opsets = [helper.make_opsetid("", 17)]
    body = helper.make_function("acme", "F", ["a", "b"], ["d"], nodes, opsets, ["t", "v"])
    one = helper.make_tensor("one", 1, [1], [1.0])
    call = helper.make_node("F", ["x", "w"], ["y"], domain="acme", t=1, v=one)
    assert bnfold.inspect(model(call, body=body)).cost.parameters >= 12
