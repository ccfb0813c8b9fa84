from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import bnfold
from bnfold.errors import BnfoldError
from bnfold.modelfile.loading import load
from bnfold.rewriting.contract import (
    Exactness,
    General,
    Op,
    Pass,
    Refusal,
    Refused,
    Replace,
    Stage,
    require,
    rewrite,
)
from bnfold.rewriting.engine import Outcome, run_passes
from bnfold.rewriting.registry import all_passes
from bnfold.rewriting.sites import sketch
from tests.support.evaluate import run_plain
from tests.support.graphs import batch_norm, build, draw_feeds, normal


class Why(Refusal):
    TOO_LATE = "it is too late"


@rewrite("neg-twice", roots=["Neg"], exactness=Exactness.BITWISE, refusals=Why)
def neg_twice(node: ir.Node) -> Replace | None:
    inner = node.inputs[0].producer() if node.inputs[0] is not None else None
    if inner is None or inner.op_type != "Neg":
        return None
    require(node.name != "last", Why.TOO_LATE, inner)
    data = inner.inputs[0]
    assert data is not None
    return Replace([inner, node], {node.outputs[0]: data})


def run(model: onnx.ModelProto, passes: Sequence[Pass], keep: str = "") -> tuple[Outcome, ir.Model]:
    loaded = load(model)
    outcome = run_passes(loaded.ir, passes, re.compile(keep) if keep else None)
    return outcome, loaded.ir


def negations(count: int, last: str = "") -> onnx.ModelProto:
    lines = [f"v{i + 1} = Neg(v{i})" for i in range(count)]
    model = build(f"(float[4] v0) => (float[4] v{count}) {{ {' '.join(lines)} }}")
    model.graph.node[-1].name = last
    return model


@rewrite("abs-to-neg", roots=["Abs"], exactness=Exactness.SEMANTIC, refusals=[], stage=Stage.LATE)
def abs_to_neg(node: ir.Node) -> Replace | None:
    return Replace([node], {node.outputs[0]: Op("Neg", [node.inputs[0]], (), node)})


@rewrite("neg-to-sin", roots=["Neg"], exactness=Exactness.SEMANTIC, refusals=[], stage=Stage.LAST)
def neg_to_sin(node: ir.Node) -> Replace | None:
    return Replace([node], {node.outputs[0]: Op("Sin", [node.inputs[0]], (), node)})


@pytest.mark.parametrize(
    ("operators", "expected"),
    [
        (["Neg"], ["Neg"]),
        (["Neg", "Neg", "Exp", "Neg"], ["Exp", "Sin"]),
        (["Neg", "Abs"], []),
        (["Abs"], ["Sin"]),
    ],
)
def test_the_last_stage_follows_what_others_have_changed(
    operators: list[str], expected: list[str]
) -> None:
    lines = [f"v{i + 1} = {op_type}(v{i})" for i, op_type in enumerate(operators)]
    model = build(f"(float[4] v0) => (float[4] v{len(lines)}) {{ {' '.join(lines)} }}")
    _, graph = run(model, [neg_to_sin, abs_to_neg, neg_twice])
    found = [node.op_type for node in graph.graph if node.op_type != "Identity"]
    assert found == expected


def test_passes_of_the_last_stage_alone() -> None:
    outcome, graph = run(negations(2), [neg_to_sin])
    assert [node.op_type for node in graph.graph] == ["Sin", "Sin"]
    assert len(outcome.rewrites) == 2


def test_runs_to_a_fixpoint() -> None:
    outcome, model = run(negations(9), [neg_twice])
    assert len(outcome.rewrites) == 4
    assert len(model.graph) == 1


def test_only_the_refusals_of_the_last_sweep_count() -> None:
    outcome, _ = run(negations(3, last="last"), [neg_twice])
    assert [refusal.reason for refusal in outcome.refusals] == []
    outcome, _ = run(negations(2, last="last"), [neg_twice])
    (refusal,) = outcome.refusals
    assert (refusal.reason, refusal.site, refusal.in_the_way) == ("TOO_LATE", "last", "Neg v1")


def test_kept_nodes_do_not_change_and_are_reported() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) "
        "{ c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    for keep in ("^y$", "^c$"):
        outcome, _ = run(model, all_passes(), keep)
        assert [refusal.reason for refusal in outcome.refusals] == ["KEPT_BY_REQUEST"]
        assert not outcome.rewrites
    assert run(model, all_passes(), "nothing")[0].rewrites


def test_a_pass_that_never_ends_is_stopped() -> None:
    @rewrite("again", roots=["Neg"], exactness=Exactness.BITWISE, refusals=[])
    def again(node: ir.Node) -> Replace:
        return Replace([node], {node.outputs[0]: Op("Neg", [node.inputs[0]])})

    with pytest.raises(BnfoldError, match="the pass again keeps rewriting without end"):
        run(negations(1), [again])


def test_a_pass_that_fails_is_named() -> None:
    @rewrite("broken", roots=["Neg"], exactness=Exactness.BITWISE, refusals=[])
    def broken(node: ir.Node) -> Replace:
        raise ZeroDivisionError("oops")

    with pytest.raises(BnfoldError, match=r"broken failed at 'v1' with ZeroDivisionError.*--skip"):
        run(negations(1), [broken])


def test_the_order_of_nodes_in_the_file_does_not_matter() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) "
        "{ c = Conv(x, w) d = Dropout(c) y = BatchNormalization(d, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    feeds = draw_feeds(model)
    expected = run_plain(model, feeds)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    outcome, optimized = run(model, all_passes())
    assert [node.op_type for node in optimized.graph] == ["Conv"]
    assert len(outcome.rewrites) == 2
    np.testing.assert_allclose(
        run_plain(ir.to_proto(optimized), feeds)[0], expected[0], rtol=1e-5, atol=1e-5
    )


def test_every_pass_states_its_identity_and_its_reasons() -> None:
    for pass_ in all_passes():
        assert "=" in pass_.documentation, pass_.name
        assert pass_.exactness.name in pass_.documentation, pass_.name
        for reason in pass_.refusals:
            assert reason.message[0].islower(), reason
            assert not reason.message.endswith("."), reason


def test_a_reason_has_one_name_in_one_enum() -> None:
    """So a refusal in a record is unique by pass and reason, also to readers of several."""
    reasons = {reason for pass_ in all_passes() for reason in pass_.refusals} | {*General}
    names = [reason.name for reason in reasons]
    assert not {name for name in names if names.count(name) > 1}


def test_a_reason_that_a_pass_does_not_declare_is_an_error() -> None:
    """`tests/conftest.py` checks every pass against its declaration, in all tests."""

    def function(node: ir.Node) -> Replace | None:
        raise Refused(Why.TOO_LATE)

    silent = Pass("silent", ("Neg",), Exactness.BITWISE, (), function, "")
    model = load(build("(float[4] x) => (float[4] y) { y = Neg(x) }")).ir
    with pytest.raises(AssertionError, match="silent does not declare TOO_LATE"):
        silent(model.graph[0])


@pytest.mark.slow
def test_fifty_thousand_nodes() -> None:
    lines = "".join(f"v{i + 1} = Dropout(v{i}) " for i in range(50_000))
    outcome, model = run(
        build(f"(float[4] v0) => (float[4] y) {{ {lines} y = Neg(v50000) }}"), all_passes()
    )
    assert len(outcome.rewrites) == 50_000
    assert len(model.graph) == 1


# --- Sketches -------------------------------------------------------------------------------------


def test_a_rewrite_records_how_its_nodes_read_each_other_before_and_after() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,8,8] y) { a = Conv(x, w) b = Conv(x, v) y = Add(a, b) }",
        w=normal(4, 3, 1, 1),
        v=2 * normal(4, 3, 1, 1),
    )
    (record,) = bnfold.explain(model).rewrites
    assert [(node.op_type, node.reads) for node in record.before] == [
        ("Conv", [-1]), ("Conv", [-1]), ("Add", [0, 1])
    ]  # fmt: skip
    assert [(node.op_type, node.reads) for node in record.after] == [("Conv", [-1])]


def test_values_from_outside_are_distinguished() -> None:
    model = build(
        "(float[4] x, float[4] y) => (float[4] z) { c = Constant<value_floats=[1.0]>() "
        "a = Add(x, y) b = Sub(y, a) z = Mul(b, c) }"
    )
    sketches = sketch(ir.from_proto(model).graph)
    assert [(node.op_type, node.reads) for node in sketches] == [
        ("Add", [-1, -2]), ("Sub", [-2, 0]), ("Mul", [1])
    ]  # fmt: skip
