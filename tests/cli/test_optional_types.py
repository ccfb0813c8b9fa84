"""Models with values of an optional type, from a file to a verdict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.cli import run
from tests.support.graphs import batch_norm, build, normal, operators

OPTIONAL = helper.make_optional_type_proto(
    helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 4, 6, 6])
)


def foldable() -> onnx.ModelProto:
    return build(
        "(float[1,3,8,8] x) => (float[1,4,6,6] z) "
        "{ y = Conv(x, w) z = BatchNormalization(y, s, b, m, v) }",
        opset=18,
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )


def given_out() -> onnx.ModelProto:
    """Return a model with an output of an optional type."""
    model = foldable()
    model.graph.node.append(helper.make_node("Optional", ["z"], ["o"]))
    model.graph.output[0].CopyFrom(helper.make_value_info("o", OPTIONAL))
    return model


def on_the_way() -> onnx.ModelProto:
    """Return a model in which a value is optional between two nodes."""
    model = foldable()
    model.graph.node.append(helper.make_node("Optional", ["z"], ["o"]))
    model.graph.node.append(helper.make_node("OptionalGetElement", ["o"], ["got"]))
    model.graph.output[0].name = "got"
    return model


def taken_in() -> onnx.ModelProto:
    """Return a model with an input of an optional type."""
    model = foldable()
    model.graph.node.insert(0, helper.make_node("OptionalGetElement", ["o"], ["x"]))
    kind = helper.make_optional_type_proto(
        helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 3, 8, 8])
    )
    model.graph.input[0].CopyFrom(helper.make_value_info("o", kind))
    return model


@pytest.mark.parametrize("make", [given_out, on_the_way])
def test_optional_values_are_compared_and_evaluated(
    tmp_path: Path, make: Callable[[], onnx.ModelProto]
) -> None:
    model, output = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(make(), model)
    assert "1 rewrite would be made" in run("explain", model).out
    outcome = run("optimize", model, output, "--no-bench", "--json")
    assert outcome.code == 0, outcome
    assert "BatchNormalization" not in operators(onnx.load(output))
    equivalence = outcome.record["equivalence"]
    (provider,) = equivalence["providers"]
    assert equivalence["verdict"] == "pass"
    assert len(provider["truth"]["outputs"]) == 1
    compared = run("check", model, output, "--certify", "off", "--json")
    assert (compared.code, compared.record["equivalence"]["verdict"]) == (0, "pass")


def test_an_optional_input_is_left_to_the_certificate(tmp_path: Path) -> None:
    model, output = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(taken_in(), model)
    outcome = run("optimize", model, output, "--no-bench")
    assert outcome.code == 0, outcome
    assert "certified" in outcome.out
    assert "'o' has the type optional(tensor(float)), which cannot be made" in outcome.out.replace(
        "\n  ", " "
    )
    run("optimize", model, output, "--no-bench", "--certify", "off").failed(5)
