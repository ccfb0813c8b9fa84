"""strip-unused: what nothing reads is removed, and only that."""

from __future__ import annotations

import numpy as np
import onnx

import bnfold
from tests.support.graphs import build, normal, operators
from tests.support.passes import run_pass

NAME = "strip-unused"


def test_operators_go_with_what_only_they_read() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,3,8,8] z) "
        "{ y = Relu(x) z = Neg(y) a = Conv(y, w) b = Abs(a) c, d = Dropout(b) }",
        w=normal(4, 3, 3, 3),
        unread=normal(5),
    )
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized) == ["Relu", "Neg"]
    assert not optimized.graph.initializer
    record = bnfold.optimize(model, passes=bnfold.PassOptions(only=[NAME])).record
    assert record.equivalence is not None
    assert record.equivalence.verdict == "pass"
    assert all(
        rewrite.certificate is not None and rewrite.certificate.verdict == "certified"
        for rewrite in record.rewrites
    )
    assert {kind for rewrite in record.rewrites for kind in rewrite.gone.values()} <= {"Dropout"}


def test_what_is_read_in_a_body_or_in_part_stays() -> None:
    model = build(
        """(float[4] x, bool c) => (float[4] z) {
            y = Abs(x)
            u, v = Split(x, h)
            w = Concat<axis=0>(v, v)
            z = If (c) <
                then_branch = t () => (float[4] a) { a = Neg(y) d = Exp(y) },
                else_branch = e () => (float[4] b) { b = Relu(w) }
            >
        }""",
        h=np.array([2, 2]),
    )
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized) == ["Abs", "Split", "Concat", "If"]
    branches = {a.name: [n.op_type for n in a.g.node] for a in optimized.graph.node[3].attribute}
    assert branches == {"then_branch": ["Neg"], "else_branch": ["Relu"]}


def test_a_loop_whose_results_nothing_reads() -> None:
    model = build(
        """(float[4] x, int64 n) => (float[4] z) {
            y = Abs(x)
            k = Neg(y)
            u = Loop (n, , k) <body = b (int64 i, bool c, float[4] p) => (bool d, float[4] q) {
                d = Identity(c) q = Add(p, y)
            }>
            z = Relu(y)
        }"""
    )
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized) == ["Abs", "Relu"]


def test_a_model_without_such_operators_is_copied() -> None:
    model = build("(float[4] x) => (float[4] z) { z = Abs(x) }", unread=normal(5))
    record = run_pass(model, NAME).record
    assert record.output is not None
    assert record.output.same
    assert onnx.ModelProto.FromString(model.SerializeToString()) == model
