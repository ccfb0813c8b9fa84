"""take-branch: an If over a constant becomes its branch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import bnfold
from tests.support.evaluate import assert_equal_outputs
from tests.support.graphs import build, draw_feeds, make_overridable, operators
from tests.support.passes import run_pass

NAME = "take-branch"

BRANCHES = """
    then_branch = t () => (float[N,4] a) { k = Constant<value_float=2.0>() a = Mul(y, k) },
    else_branch = e () => (float[N,4] b) { k = Relu(y) b = Neg(k) }
"""


def taken(model: onnx.ModelProto, *more: str) -> onnx.ModelProto:
    """Run the pass; assert equal bits, a valid graph, and that a second run changes nothing."""
    optimized = run_pass(model, NAME, *more).to_proto()
    onnx.checker.check_model(optimized, full_check=True)
    feeds = draw_feeds(model)
    assert_equal_outputs(model, optimized, feeds)
    assert not run_pass(optimized, NAME).record.rewrites
    return optimized


def assert_certified(model: onnx.ModelProto) -> None:
    (rewrite,) = bnfold.optimize(model, passes=bnfold.PassOptions(only=[NAME])).record.rewrites
    assert rewrite.certificate is not None
    assert rewrite.certificate.verdict == "certified"


@pytest.mark.parametrize(
    ("condition", "expected"), [(True, ["Constant", "Mul"]), (False, ["Relu", "Neg"])]
)
def test_either_branch(condition: bool, expected: list[str]) -> None:
    model = build(
        f"(float[N,4] x) => (float[N,4] z) {{ y = Abs(x) z = If (c) <{BRANCHES}> }}",
        c=np.array(condition),
    )
    optimized = taken(model)
    assert operators(optimized) == ["Abs", *expected]
    assert optimized.graph.output[0].name == "z"
    assert_certified(model)


@pytest.mark.parametrize(("size", "expected"), [("1", ["Squeeze"]), ("C", None)])
def test_a_squeeze_as_torch_has_exported_it(size: str, expected: list[str] | None) -> None:
    model = build(
        f"""(float[N,{size},4] x) => (float z) {{
            y = Neg(x) s = Shape(y) n = Gather(s, one) c = Equal(n, one)
            q = If (c) <
                then_branch = t () => (float a) {{ a = Squeeze(y, axes) }},
                else_branch = e () => (float b) {{ b = Identity(y) }}
            >
            z = Abs(q)
        }}""",
        one=np.array(1),
        axes=np.array([1]),
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    optimized = run_pass(model, NAME, "evaluate-constants", "strip-identity").to_proto()
    if expected is None:
        assert "If" in operators(optimized)
    else:
        assert operators(optimized) == ["Neg", *expected, "Abs"]
        feeds = draw_feeds(model)
        assert_equal_outputs(model, optimized, feeds)


def test_weights_and_names_of_a_branch_and_branches_within() -> None:
    """Both Ifs use the same names within, and the taken branch returns its weight as it is."""
    inner = "z1 = If (d) <then_branch = i () => (float[4] p) { p = Mul(w, y) }, "
    inner += "else_branch = j () => (float[4] q) { q = Sub(y, w) }>"
    model = build(
        f"""(float[4] x, bool d) => (float[4] a, float[4] b) {{
            y = Abs(x)
            a, o = If (c) <
                then_branch = t () => (float[4] z1, float[4] w) <float[4] w = {{1.,2.,3.,4.}}> {{
                    {inner}
                }},
                else_branch = e () => (float[4] u, float[4] v) {{ u = Neg(y) v = Exp(y) }}
            >
            z1 = If (d) <
                then_branch = t () => (float[4] k) {{ k = Add(o, y) }},
                else_branch = e () => (float[4] k) {{ k = Identity(o) }}
            >
            b = Neg(z1)
        }}""",
        c=np.array(True),
    )
    optimized = taken(model)
    assert operators(optimized) == ["Abs", "If", "If", "Neg"]
    assert_certified(model)


@pytest.mark.parametrize("condition", [True, False])
def test_a_branch_with_a_body_is_certified_taken_or_not(condition: bool) -> None:
    model = build(
        """(float[N,4] x, bool d, int64 n) => (float[N,4] y) {
            r = If (c) <
                then_branch = t () => (float[N,4] a) {
                    a = If (d) <then_branch = i () => (float[N,4] p) { p = Tanh(x) },
                                else_branch = j () => (float[N,4] q) { q = Abs(x) }>
                },
                else_branch = e () => (float[N,4] b) {
                    b = Loop (n, c, x) <body = l (int64 m, bool f, float[N,4] h)
                        => (bool g, float[N,4] o) { g = Identity(f) o = Sin(h) }>
                }
            >
            y = Neg(r)
        }""",
        c=np.array(condition),
    )
    assert operators(taken(model)) == ["If" if condition else "Loop", "Neg"]
    assert_certified(model)


def test_strings_in_a_branch_move_out() -> None:
    branch = '(string[2] o) <string[2] w = {"a", "b"}> { o = Identity(w) }'
    model = build(
        f"""(float[N,4] x) => (string[2] y) {{
            y = If (c) <then_branch = t () => {branch}, else_branch = e () => {branch}>
        }}""",
        c=np.array(True),
    )
    assert operators(taken(model)) == ["Identity"]
    assert_certified(model)


def test_in_a_function() -> None:
    model = build(
        """(float[4] x) => (float[4] z) { z = local.f(x) }
        <domain: "local", opset_import: ["" : 17]> f (p) => (q) {
            c = Constant<value = bool {1}>()
            q = If (c) <
                then_branch = t () => (float[4] a) <float[4] w = {1.,2.,3.,4.}> { a = Mul(p, w) },
                else_branch = e () => (float[4] b) { b = Neg(p) }
            >
        }"""
    )
    model.opset_import.append(onnx.helper.make_opsetid("local", 1))
    passes = bnfold.PassOptions(only=[NAME], keep_functions=True)
    optimized = bnfold.optimize(model, check=False, passes=passes).to_proto()
    assert [node.op_type for node in optimized.functions[0].node] == ["Constant", "Mul"]
    feeds = draw_feeds(model)
    assert_equal_outputs(model, optimized, feeds)


def test_a_condition_that_may_vary_stays() -> None:
    text = f"(float[N,4] x, bool c) => (float[N,4] z) {{ y = Abs(x) z = If (c) <{BRANCHES}> }}"
    assert not run_pass(build(text), NAME).record.rewrites
    model = build(text.replace(", bool c", ""), c=np.array(True))
    assert not run_pass(make_overridable(model, "c"), NAME).record.rewrites


def test_a_batchnorm_in_the_branch_that_is_not_taken_is_in_the_record() -> None:
    model = build(
        """(float[N,4] x) => (float[N,4] z) { z = If (c) <
            then_branch = t () => (float[N,4] a) { a = Neg(x) },
            else_branch = e () => (float[N,4] b) { b = BatchNormalization(x, s, s, s, s) }
        > }""",
        c=np.array(True),
        s=np.ones(4, np.float32),
    )
    (rewrite,) = run_pass(model, NAME).record.rewrites
    assert list(rewrite.gone.values()) == ["BatchNormalization"]
