"""What a sweep remembers, until when, and of what."""

from __future__ import annotations

from bnfold.graph.memory import memory, remembering
from bnfold.modelfile.loading import load
from tests.support.graphs import build


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
