"""Maps of what is flattened to rows, and put in shape again, by sizes that are free."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest

from bnfold.algebra.affine_maps.carrying import NotCarried
from tests.support.evaluate import assert_equivalent
from tests.support.graphs import Parameters, batch_norm, build, draw_feeds, normal, operators
from tests.support.passes import certificates, run_pass

NAME = "fold-batchnorm"
PASSES = (NAME, "simplify-reshape", "merge-reshapes", "strip-identity")
OF_SIZES = {"Concat", "Gather", "Mul", "Shape", "Unsqueeze"}
SIZES = """
s = Shape(x) t = Gather(s, zero) n = Gather(s, one) p = Mul(ONE, OTHER)
p_ = Unsqueeze(p, first) t_ = Unsqueeze(t, first) n_ = Unsqueeze(n, first)
rows = Concat<axis=0>(p_, last) sequence = Concat<axis=0>(t_, n_, last)
"""


def flattened(
    before: str, after: str, *, width: str = "6", order: str = "tn",
    result: str = "float[i,j,k] y", **weights: Any,
) -> onnx.ModelProto:  # fmt: skip
    """Return a BatchNormalization b of rows h of x, lines before h, and after q, in sequences."""
    sizes = SIZES.replace("ONE", order[0]).replace("OTHER", order[1])
    return build(
        f"(float[T,N,{width}] x) => ({result}) {{ {sizes} {before} "
        f"b = BatchNormalization(h, s_, b_, m_, v_) q = Reshape(b, sequence) {after} }}",
        zero=np.array(0),
        one=np.array(1),
        first=np.array([0]),
        last=np.array([-1]),
        **{f"{name}_": array for name, array in batch_norm(6).items()},
        **weights,
    )


@pytest.mark.parametrize(
    ("before", "after", "expected", "order"),
    [
        ("h = Reshape(x, rows)", "y = GRU<hidden_size=3>(q, w, r)", ["GRU"], "tn"),
        ("h = Reshape(x, rows)", "y = MatMul(q, v)", ["MatMul", "Add"], "nt"),
        ("u = MatMul(x, v) h = Reshape(u, rows)", "y = Relu(q)", ["MatMul", "Add", "Relu"], "tn"),
        ("u = Relu(x) h = Reshape(u, rows)", "g = Sigmoid(q) y = MatMul(g, v)",
         ["Relu", "Reshape", "BatchNormalization", "Reshape", "Sigmoid", "MatMul"], "nt"),
    ],
)  # fmt: skip
def test_a_map_of_rows(before: str, after: str, expected: list[str], order: str) -> None:
    weights: Parameters = {"w": normal(1, 9, 6), "r": normal(1, 9, 3, seed=1), "v": normal(6, 6)}
    read = {n: each for n, each in weights.items() if re.search(rf"\b{n}\b", f"{before} {after}")}
    result = "float[i,d,j,k] y" if "GRU" in after else "float[i,j,k] y"
    model = flattened(before, after, order=order, result=result, **read)
    optimized = run_pass(model, *PASSES).to_proto()
    assert [op for op in operators(optimized) if op not in OF_SIZES] == expected
    for free in ({"T": 3, "N": 2}, {"T": 1, "N": 1}):
        feeds = draw_feeds(model, sizes=free)
        assert_equivalent(model, optimized, feeds, rtol=1e-4, atol=1e-5)
    assert not run_pass(optimized, *PASSES).record.rewrites
    if "MatMul" in before:
        found = certificates(model, *PASSES)
        assert {each.verdict for each in found} == {"certified"}


@pytest.mark.parametrize(("width", "order"), [("H", "t_, n_, last"), ("6", "t_, last, n_")])
def test_what_is_not_known_to_stay_last_is_refused(width: str, order: str) -> None:
    before = f"u = Relu(x) h = Reshape(u, rows) turned = Concat<axis=0>({order})"
    model = flattened(before, "y = MatMul(q, v)", width=width, v=normal(6, 6))
    last_reshape = [node for node in model.graph.node if node.op_type == "Reshape"][-1]
    last_reshape.input[1] = "turned"
    record = run_pass(model, NAME).record
    assert not record.rewrites
    assert [refusal.also_reason for refusal in record.refusals] == [NotCarried.AXIS_LOST.name]
