"""The numbers at which trees branch, and those that only one of two models has, are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.proof.hints.levels import Levels, deciding, few, few_of_both
from tests.support.checks import verdict

BRANCHES = (0.75, -2.5, 40.0, 1234.5)


def trees(
    values: Sequence[float] = BRANCHES, modes: Sequence[str] = ("BRANCH_LEQ",) * 4
) -> onnx.ModelProto:
    """Return a regressor of four trees with a branch each, by one of four features."""
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[tree for tree in range(4) for _ in range(3)],
        nodes_nodeids=[0, 1, 2] * 4,
        nodes_featureids=[feature for tree in range(4) for feature in (tree, 0, 0)],
        nodes_modes=[mode for tree in range(4) for mode in (modes[tree], "LEAF", "LEAF")],
        nodes_values=[number for tree in range(4) for number in (values[tree], 0.0, 0.0)],
        nodes_truenodeids=[1, 0, 0] * 4,
        nodes_falsenodeids=[2, 0, 0] * 4,
        target_treeids=[tree for tree in range(4) for _ in range(2)],
        target_nodeids=[1, 2] * 4,
        target_ids=[0] * 8,
        target_weights=[1.0, -1.0, 2.0, -2.0, 4.0, -4.0, 8.0, -8.0],
    )
    return model_of(node)


def ensemble(splits: Sequence[float]) -> onnx.ModelProto:
    """Return one tree of the newer operator, with two branches."""
    node = helper.make_node(
        "TreeEnsemble",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        tree_roots=[0],
        nodes_featureids=[0, 1],
        nodes_splits=numpy_helper.from_array(np.array(splits, np.float32)),
        nodes_modes=numpy_helper.from_array(np.zeros(2, np.uint8)),
        nodes_truenodeids=[1, 0],
        nodes_trueleafs=[0, 1],
        nodes_falsenodeids=[1, 2],
        nodes_falseleafs=[1, 1],
        leaf_targetids=[0, 0, 0],
        leaf_weights=numpy_helper.from_array(np.array([1, 5, -3], np.float32)),
    )
    return model_of(node, version=5)


def model_of(node: onnx.NodeProto, version: int = 3) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "trees",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("tree", range(4))
def test_another_branch_of_a_tree_fails(tree: int) -> None:
    values = [number * (1.001 if place == tree else 1) for place, number in enumerate(BRANCHES)]
    assert verdict(trees(), trees(values)) == "fail"
    modes = ["BRANCH_LT" if place == tree else "BRANCH_LEQ" for place in range(4)]
    assert verdict(trees(), trees(modes=modes)) == "fail"
    assert verdict(trees(), trees()) == "pass"


@pytest.mark.parametrize("splits", [(0.75, 40.5), (0.75, 0.7501)])
def test_another_split_of_an_ensemble_fails(splits: tuple[float, float]) -> None:
    assert verdict(ensemble((0.75, 40.0)), ensemble(splits)) == "fail"
    assert verdict(ensemble(splits), ensemble(splits)) == "pass"


def test_more_of_what_only_one_model_has() -> None:
    common: dict[float, set[float]] = {float(number): {1.0} for number in range(10)}
    own: Levels = {"x": {**common, 100.0: {100.0}}, "z": {1.0: set()}}
    other: Levels = {"x": {**common, 200.0: {200.0, 7.0}}}
    assert few(own) == {"x": [0, 1, 2, 3], "z": [1]}
    both = few_of_both(own, other)
    assert both == {"x": [0, 1, 2, 3, 100, 200], "z": [1]}
    assert deciding(both, own, other) == {1, 7, 100, 200}
    assert deciding({"x": [100.0]}, own, other) == {100}
    many: Levels = {"x": {float(number): {1.0} for number in range(-50, 50)}}
    assert few_of_both(many, {})["x"] == [float(number) for number in range(-8, 8)]
