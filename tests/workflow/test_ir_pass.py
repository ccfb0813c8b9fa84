"""bnfold's rewrites as a pass of an onnx_ir pipeline."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest

import bnfold
from tests.support.evaluate import assert_equivalent
from tests.support.graphs import batch_norm, build, draw_feeds, normal

CONV = build(
    "(float[N,3,8,8] x) => (float[N,4,6,6] y) "
    "{ c = Conv(x, w) d = Dropout(c) y = BatchNormalization(d, s, b, m, v) }",
    w=normal(4, 3, 3, 3),
    **batch_norm(4),
)


def test_it_runs_among_other_passes() -> None:
    pipeline = ir.passes.Sequential(
        common.ShapeInferencePass(), bnfold.RewritePass(), common.RemoveUnusedNodesPass()
    )
    outcome = pipeline(ir.from_proto(CONV))
    assert outcome.modified
    assert [node.op_type for node in outcome.model.graph] == ["Conv"]
    optimized = ir.to_proto(outcome.model)
    del optimized.graph.value_info[:]
    assert_equivalent(CONV, optimized, draw_feeds(CONV))


def test_it_says_when_it_changed_nothing() -> None:
    model = ir.from_proto(build("(float[N,3] x) => (float[N,3] y) { y = Neg(x) }"))
    assert not bnfold.RewritePass()(model).modified


def test_it_takes_the_options_of_optimize() -> None:
    only = bnfold.PassOptions(only=["strip-dropout"])
    outcome = bnfold.RewritePass(only)(ir.from_proto(CONV))
    assert [node.op_type for node in outcome.model.graph] == ["Conv", "BatchNormalization"]
    with pytest.raises(bnfold.UsageError, match="unknown pass"):
        bnfold.RewritePass(bnfold.PassOptions(skip=["nope"]))(ir.from_proto(CONV))
    trained = build(
        "(float[N,4] x) => (float[N,4] y) { y = Dropout(x, r, t) }",
        r=np.array(0.5, np.float32),
        t=np.array(True),
    )
    forced = bnfold.RewritePass(bnfold.PassOptions(force_inference=True))
    assert not [node for node in forced(ir.from_proto(trained)).model.graph if node.name]
    assert "Dropout" not in {node.op_type for node in forced(ir.from_proto(trained)).model.graph}


def test_what_it_knew_of_constants_is_forgotten() -> None:
    """Another pass may edit a weight in place between two runs."""
    text = (
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) { q = Sqrt(v) r = Mul(q, q) c = Conv(x, w) "
        "y = BatchNormalization(c, s, b, m, r) }"
    )
    model = ir.from_proto(build(text, w=normal(4, 3, 3, 3), **batch_norm(4)))
    kept = bnfold.RewritePass(bnfold.PassOptions(keep_node="."))
    assert not kept(model).modified
    changed = build(text, w=normal(4, 3, 3, 3), **(batch_norm(4) | {"v": batch_norm(4)["v"] * 9}))
    model.graph.initializers["v"].const_value = ir.tensor(batch_norm(4)["v"] * 9)
    assert bnfold.RewritePass()(model).modified
    assert_equivalent(changed, ir.to_proto(model), draw_feeds(changed))


def test_a_graph_that_does_not_hold_together_is_told() -> None:
    model = ir.from_proto(CONV)
    model.graph[0].replace_input_with(0, ir.Value(name="nowhere"))
    with pytest.raises(bnfold.ModelError, match="'nowhere', which nothing computes"):
        bnfold.RewritePass().call(model)
