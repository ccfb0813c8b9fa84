"""Functions are inlined where that brings operators into view, within limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import bnfold
from bnfold.rewriting.inlining import NAME, Why
from tests.support.evaluate import assert_equal_outputs
from tests.support.graphs import batch_norm, build, draw_feeds, normal, operators


def with_functions(text: str, opset: int = 17, **weights: Any) -> onnx.ModelProto:
    model = build(text, opset=opset, **weights)
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


TORCH_LIKE = """
    (float[N,3,8,8] x) => (float[N,4,6,6] z) {
        y = local.Conv2d(x, w)
        z = local.BatchNorm2d(y, s, b, m, v)
    }
    <domain: "local", opset_import: ["" : 17]> Conv2d (p, q) => (r) { r = Conv(p, q) }
    <domain: "local", opset_import: ["" : 17]> BatchNorm2d (p, s, b, m, v) => (r) {
        r = BatchNormalization(p, s, b, m, v)
    }
"""
WEIGHTS = {"w": normal(4, 3, 3, 3), **batch_norm(4)}


@pytest.mark.parametrize("only", [[], ["fold-batchnorm"]])
def test_a_conv_in_one_function_and_a_batchnorm_in_another(only: list[str]) -> None:
    model = with_functions(TORCH_LIKE, **WEIGHTS)
    result = bnfold.optimize(model, passes=bnfold.PassOptions(only=only))
    optimized = result.to_proto()
    assert operators(optimized) == ["Conv"]
    assert not optimized.functions
    assert [opset.domain for opset in optimized.opset_import] == [""]
    assert {(r.pass_name, r.site, tuple(r.nodes)) for r in result.record.rewrites} >= {
        (NAME, "local.Conv2d", ("y",)),
        (NAME, "local.BatchNorm2d", ("z",)),
    }
    certificates = [rewrite.certificate for rewrite in result.record.rewrites]
    assert {each.verdict for each in certificates if each is not None} == {"certified"}
    assert None not in certificates
    assert result.record.equivalence is not None
    assert result.record.equivalence.verdict == "pass"


def test_functions_are_kept_on_request_and_where_no_pass_is_concerned() -> None:
    model = with_functions(TORCH_LIKE, **WEIGHTS)
    for passes in (
        bnfold.PassOptions(keep_functions=True),
        bnfold.PassOptions(only=["strip-dropout"]),
    ):
        optimized = bnfold.optimize(model, check=False, passes=passes).to_proto()
        assert operators(optimized) == ["Conv2d", "BatchNorm2d"]
        assert len(optimized.functions) == 2


def test_a_result_that_a_call_leaves_out_may_be_read_in_the_function() -> None:
    model = with_functions(
        """(float[4] x) => (float[4] y) { o, y = local.both(x) }
        <domain: "local", opset_import: ["" : 17]> both (p) => (q, r) { q = Relu(p) r = Neg(q) }"""
    )
    model.graph.node[0].output[0] = ""
    optimized = bnfold.optimize(model, check=False, only=["strip-unused"]).to_proto()
    onnx.checker.check_model(optimized, full_check=True)
    assert operators(optimized) == ["Relu", "Neg"]


def test_a_call_without_its_last_results() -> None:
    model = with_functions(
        """(float[4] x) => (float[4] y) { y = local.both(x) }
        <domain: "local", opset_import: ["" : 17]> both (p) => (q, r) { q = Relu(p) r = Neg(q) }"""
    )
    optimized = bnfold.optimize(model, check=False, only=["strip-unused"]).to_proto()
    assert operators(optimized) == ["Relu"]


def test_attributes_defaults_absent_operands_and_bodies() -> None:
    model = with_functions(
        """(float[4] x, bool c) => (float[4] a, float[4] b, float[4] z) {
            a = local.scale <by = 3.0> (x, x)
            b = local.scale (a)
            z = If (c) <
                then_branch = t () => (float[4] u) { u = local.scale <by = 0.5> (x) },
                else_branch = e () => (float[4] v) { q = Neg(b) v = local.twice(q) }
            >
        }
        <domain: "local", opset_import: ["" : 17]> scale <by: float = 2.0> (p, o) => (r) {
            k = Constant<value_float: float = @by>() q = Mul(p, k) r = Add(q, k)
        }
        <domain: "local", opset_import: ["" : 17, "local" : 1]> twice (p) => (r) {
            q = local.scale<by = 7.0>(p) r = local.scale(q)
        }"""
    )
    optimized = bnfold.optimize(model, check=False, only=["strip-identity"]).to_proto()
    assert not optimized.functions
    onnx.checker.check_model(optimized, full_check=True)
    for c in (True, False):
        feeds = {"x": np.arange(4, dtype=np.float32), "c": np.array(c)}
        assert_equal_outputs(model, optimized, feeds)


def chained(depth: int, width: int = 2) -> onnx.ModelProto:
    """Return a model with functions that each call the next one twice."""
    functions = [
        f'<domain: "local", opset_import: ["" : 17, "local" : 1]> f{n} (p) => (q) {{ '
        + " ".join(f"v{i + 1} = local.f{n + 1}({f'v{i}' if i else 'p'})" for i in range(width))
        + f" q = Neg(v{width}) }}"
        for n in range(depth)
    ]
    last = f'<domain: "local", opset_import: ["" : 17]> f{depth} (p) => (q) {{ q = Relu(p) }}'
    text = "(float[4] x) => (float[4] z) { z = local.f0(x) } " + " ".join([*functions, last])
    return with_functions(text)


def test_calls_of_calls() -> None:
    model = chained(3)
    optimized = bnfold.optimize(model, check=False, only=["strip-dropout", "merge-duplicates"])
    assert len(optimized.to_proto().graph.node) == 2**3 + (2**3 - 1)
    assert_equal_outputs(model, optimized.to_proto(), draw_feeds(model))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (chained(20), Why.TOO_LARGE),
        (
            with_functions(TORCH_LIKE.replace('["" : 17]> Conv2d', '["" : 16]> Conv2d'), **WEIGHTS),
            Why.OPSETS_DIFFER,
        ),
    ],
)
def test_functions_stay_for_a_reason(model: onnx.ModelProto, reason: Why) -> None:
    record = bnfold.optimize(model, check=False).record
    assert {r.reason for r in record.refusals if r.pass_name == NAME} == {reason.name}
    assert not [r for r in record.rewrites if r.pass_name == NAME]


def test_functions_in_a_circle_stay() -> None:
    model = chained(2)
    model.functions[2].node[0].op_type = "f0"
    model.functions[2].node[0].domain = "local"
    model.functions[2].opset_import.append(helper.make_opsetid("local", 1))
    record = bnfold.explain(model)
    assert {r.reason for r in record.refusals} == {Why.RECURSIVE.name}


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_random_functions(data: st.DataObject) -> None:
    """Functions that call each other, with names that they share with each other and the graph."""
    names = ["x", "y", "z", "p", "q"]
    functions: list[str] = []
    for number in range(data.draw(st.integers(1, 4))):
        calls = [f"local.f{n}" for n in range(number)]
        lines, known = [], ["p"]
        for _ in range(data.draw(st.integers(1, 3))):
            operator = data.draw(st.sampled_from(["Neg", "Relu", "Abs", *calls]))
            free = [name for name in names if name not in known]
            made = data.draw(st.sampled_from(free))
            lines.append(f"{made} = {operator}({data.draw(st.sampled_from(known))})")
            known.append(made)
        imports = '["" : 17, "local" : 1]'
        functions.append(
            f'<domain: "local", opset_import: {imports}> f{number} (p) => ({known[-1]}) '
            f"{{ {' '.join(lines)} }}"
        )
    last = len(functions) - 1
    model = with_functions(
        f"(float[4] x) => (float[4] y, float[4] z) {{ y = local.f{last}(x) q = local.f0(y) "
        f"z = local.f{last}(q) }} {' '.join(functions)}"
    )
    optimized = bnfold.optimize(model, check=False).to_proto()
    assert not optimized.functions
    onnx.checker.check_model(optimized, full_check=True)
    assert [output.name for output in optimized.graph.output] == ["y", "z"]
    assert_equal_outputs(model, optimized, draw_feeds(model))
