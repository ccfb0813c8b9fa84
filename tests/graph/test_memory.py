"""What a sweep remembers, until when, and of what."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from bnfold.graph import constants
from bnfold.graph.constants import constant
from bnfold.graph.memory import memory, remembering
from bnfold.modelfile.loading import load
from tests.support.graphs import Array, Parameters, build, normal


def test_nothing_is_remembered_outside_a_sweep() -> None:
    memory().answers("question")["subject"] = 1
    assert memory().answers("question") == {}


def test_a_sweep_remembers_until_its_end_and_hides_the_one_outside() -> None:
    with remembering() as outer:
        memory().answers("question")["subject"] = 1
        with remembering():
            assert memory().answers("question") == {}
        assert memory() is outer
        assert memory().answers("question") == {"subject": 1}
    assert memory() is not outer


def test_forgetting_concerns_all_questions() -> None:
    graph = load(build("(float[4] x) => (float[4] y) { y = Neg(x) }")).ir.graph
    (node,) = graph
    with remembering() as known:
        for question in ("one", "other"):
            known.answers(question).update({node: 1, node.outputs[0]: 2})
        known.forget([node])
        assert [list(known.answers(q).values()) for q in ("one", "other")] == [[2], [2]]


def test_an_expression_is_tried_once_in_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step reads the one before it twice, so there are 2⁶⁰ paths."""
    lines = " ".join(f"v{i + 1} = Add(v{i}, v{i})" for i in range(60))
    tried: list[object] = []
    evaluate = constants._evaluate

    def counted(node: ir.Node) -> Array | None:
        tried.append(node)
        return evaluate(node)

    monkeypatch.setattr(constants, "_evaluate", counted)
    cases: list[tuple[str, Parameters]] = [("x", {}), ("w", {"w": normal(4)})]
    for start, weights in cases:
        interface = "(float[4] x) => (float[4] v60)"
        model = build(f"{interface} {{ v0 = Identity({start}) {lines} }}", **weights)
        nodes = list(load(model).ir.graph)
        tried.clear()
        with remembering():
            for node in reversed(nodes):
                assert (constant(node.outputs[0]) is None) == (start == "x")
        assert len(tried) == len(nodes)
