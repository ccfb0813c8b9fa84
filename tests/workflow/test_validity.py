"""Where onnxruntime cannot load a model, whether it is invalid is told from what it lacks."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.record.data import Cause, Equivalence, OverallVerdict, ProviderEquivalence
from bnfold.running.isolation import CrashedError
from bnfold.workflow import validity
from tests.support.cli import run
from tests.support.graphs import batch_norm, build, normal


def of_two_types() -> onnx.ModelProto:
    """Return what torch's older exporter makes of `.half()`: a Conv of two types."""
    model = build(
        "(float[N,3,9,9] x) => (float[N,4,7,7] y) { c = Conv(x, w) "
        "y = BatchNormalization(c, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    (weight,) = (each for each in model.graph.initializer if each.name == "w")
    halved = numpy_helper.to_array(weight).astype(np.float16)
    weight.CopyFrom(numpy_helper.from_array(halved, "w"))
    return model


def of_old_operators() -> onnx.ModelProto:
    """Return a model of operator set 6, as torch has exported to before its version 1.0."""
    weights = {"w": normal(4, 3, 3, 3), **batch_norm(4)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", ["c", *"sbmv"], ["y"], is_test=1),
    ]
    shapes = {"x": [1, 3, 9, 9], "y": [1, 4, 7, 7]}
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items())
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "old", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)], ir_version=4)


def test_an_invalid_model_is_no_certified_one(tmp_path: Path) -> None:
    path, output = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(of_two_types(), path)
    for arguments in (("optimize", path, output), ("check", path, path)):
        run(*arguments).failed(3, "m.onnx is not a valid ONNX model", "inconsistent type")
    assert not output.exists()
    assert run("optimize", path, output, "--no-check", "--no-bench").code == 0


def of_a_limit_that_is_a_vector() -> onnx.ModelProto:
    """Return a model that onnxruntime loads without optimizations alone, as the If hides a shape.

    The limit of a Range has one element and an axis, as in the body of onnx's own AffineGrid.
    """
    branches = []
    for value, result in (("d", "t"), ("e", "u")):
        output = helper.make_tensor_value_info(result, TensorProto.INT64, None)
        identity = helper.make_node("Identity", [value], [result])
        branches.append(helper.make_graph([identity], result, [], [output]))
    nodes = [
        helper.make_node("If", ["c"], ["w"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Range", ["zero", "w", "one"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    contents = {"d": [6], "e": [1, 1], "zero": 0, "one": 1}
    tensors = [numpy_helper.from_array(np.array(n), name) for name, n in contents.items()]
    tensors.append(numpy_helper.from_array(np.array(True), "c"))
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 6]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_a_model_that_is_made_invalid_is_no_certified_one(tmp_path: Path) -> None:
    path, output = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(of_a_limit_that_is_a_vector(), path)
    run("optimize", path, output).failed(
        5, "the optimized model is not a valid ONNX model", "Range"
    )
    assert not output.exists()


def test_what_the_checker_dies_of_says_nothing_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(of_two_types(), path)

    def die(*_: object) -> None:
        raise CrashedError("SIGKILL", "checking")

    monkeypatch.setattr(validity, "isolated", die)
    assert run("optimize", path, tmp_path / "out.onnx", "--certify", "off").code == 5


def test_old_operator_sets_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(of_old_operators(), path)
    outcome = run("optimize", path, tmp_path / "out.onnx", "--certify", "off")
    outcome.failed(5, "its operator set is 6", "supports those from 7 on")


@pytest.mark.parametrize(
    ("verdict", "cause", "looks"),
    [
        ("not-verified", "cannot-load", 1),
        ("not-verified", "constant-output", 0),
        ("not-verified", "", 0),
        ("certified", "cannot-load", 0),
        ("pass", "", 0),
    ],
)
def test_only_a_model_that_cannot_be_loaded_is_checked(
    verdict: OverallVerdict,
    cause: Cause,
    looks: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """onnx's checker takes a process of its own, and long for large models."""
    isolated = Mock()
    monkeypatch.setattr(validity, "isolated", isolated)
    provider = ProviderEquivalence("cpu", "not-verified", "", [], [], [], cause=cause)
    equivalence = Equivalence(verdict, providers=[provider])
    validity.require_valid_unless_loaded(tmp_path / "m.onnx", equivalence)
    assert isolated.call_count == looks
