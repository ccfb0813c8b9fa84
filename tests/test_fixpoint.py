"""One run is the fixpoint: a second one changes nothing, whatever the order of the nodes."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest

import bnfold
from tests.support.evaluate import run_float64, run_plain
from tests.support.random_graphs import random_model
from tests.support.slow import few

MANY = int(os.environ.get("BNFOLD_TEST_GRAPHS", "50"))
"""Graphs that are tried beside those of every run; a long run sets more."""


def in_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its nodes sorted, which onnxruntime does by itself."""
    import onnx_ir as ir

    sorted_model = ir.from_proto(model)
    sorted_model.graph.sort()
    return ir.to_proto(sorted_model)


def assert_fixpoint(seed: int) -> None:
    model = random_model(seed)
    once = bnfold.optimize(model, check=False)
    twice = bnfold.optimize(once.to_proto(), check=False)
    assert [(r.pass_name, r.site) for r in twice.record.rewrites] == [], seed
    x = np.random.default_rng(seed).normal(0, 1, (2, 3, 9, 11)).astype(np.float32)
    (expected,) = run_plain(in_order(model), {"x": x})
    (found,) = run_plain(once.to_proto(), {"x": x})
    assert expected.shape == found.shape
    tolerance = 1e-4 * max(float(np.abs(expected).max()), 1)
    if not np.allclose(found, expected, rtol=1e-4, atol=tolerance):
        (exact,) = run_float64(in_order(model), {"x": x})
        (other,) = run_float64(once.to_proto(), {"x": x})
        np.testing.assert_allclose(other, exact, rtol=1e-4, atol=tolerance, err_msg=str(seed))


@pytest.mark.parametrize("seed", few(range(30), range(12)))
def test_a_second_run_changes_nothing(seed: int) -> None:
    assert_fixpoint(seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100, 100 + MANY, 50))
def test_a_second_run_changes_nothing_in_many_more(start: int) -> None:
    for seed in range(start, start + 50):
        assert_fixpoint(seed)
