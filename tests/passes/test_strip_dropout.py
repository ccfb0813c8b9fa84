"""strip-dropout: all opsets and modes, masks, bodies and functions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from bnfold.rewriting.contract import Common
from bnfold_passes.strip_dropout import Why
from tests.support.evaluate import assert_equivalent, run_plain
from tests.support.graphs import (
    Array,
    Parameters,
    build,
    draw_feeds,
    make_overridable,
    named_in,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "strip-dropout"
TRUE, FALSE = np.array(True), np.array(False)
RATIO = np.array(0.3, np.float32)


def dropout(
    attributes: str = "", inputs: str = "", *, opset: int = 17, **weights: Array
) -> onnx.ModelProto:
    graph = (
        "(float[N,4] x) => (float[N,4] y) "
        f"{{ r = Relu(x) d = Dropout{attributes}(r{inputs}) y = Neg(d) }}"
    )
    return build(graph, opset=opset, ir_version=10 if opset > 20 else 8, **weights)


# --- Modes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [7, 9, 10, 11])
def test_always_inference_from_7_to_11(opset: int) -> None:
    assert_rewritten(dropout("<ratio=0.4>", opset=opset), NAME, ["Relu", "Neg"])


@pytest.mark.parametrize("opset", [12, 13, 17, 22])
@pytest.mark.parametrize("inputs", ["", ", ratio", ", , off", ", ratio, off"])
def test_inference_from_12_unless_training_mode_is_true(opset: int, inputs: str) -> None:
    weights: Parameters = {"ratio": RATIO, "off": FALSE}
    weights = named_in(inputs, weights)
    model = dropout(inputs=inputs, opset=opset, **weights)
    assert not assert_rewritten(model, NAME, ["Relu", "Neg"]).graph.initializer


@pytest.mark.parametrize("opset", [1, 6])
def test_is_test_decides_before_7(opset: int) -> None:
    consumed = ", consumed_inputs=[0]" if opset == 1 else ""
    result = run_pass(dropout(f"<is_test=1{consumed}>", opset=opset), NAME)
    assert operators(result.to_proto()) == ["Relu", "Neg"]
    for attributes in ("", "<is_test=0>"):
        assert_refused(dropout(attributes, opset=opset), NAME, Common.TRAINING_MODE)


def test_refuses_training_mode() -> None:
    assert_refused(dropout(inputs=", ratio, on", ratio=RATIO, on=TRUE), NAME, Common.TRAINING_MODE)


def test_ratio_zero_does_nothing_even_in_training() -> None:
    zero = np.array(0, np.float32)
    model = dropout(inputs=", ratio, on", ratio=zero, on=TRUE)
    assert_rewritten(model, NAME, ["Relu", "Neg"])


@pytest.mark.parametrize(
    ("opset", "attributes", "inputs"),
    [
        (6, "<is_test=1>", ""),
        (7, "<ratio=0.4>", ""),
        (13, "", ", ratio"),
        (13, "", ", ratio, off"),
        (22, "", ", zero, on"),
    ],
)
def test_in_each_mode_it_is_certified(opset: int, attributes: str, inputs: str) -> None:
    given: Parameters = {"ratio": RATIO, "zero": np.array(0, np.float32), "on": TRUE, "off": FALSE}
    weights = named_in(inputs, given)
    model = dropout(attributes, inputs, opset=opset, **weights)
    (rewrite,) = bnfold.optimize(model, passes=bnfold.PassOptions(only=[NAME])).record.rewrites
    assert rewrite.certificate is not None
    assert rewrite.certificate.verdict == "certified"


def test_refuses_a_mode_that_a_caller_decides() -> None:
    model = build(
        "(float[N,4] x, bool mode) => (float[N,4] y) { y = Dropout(x, ratio, mode) }", ratio=RATIO
    )
    assert_refused(model, NAME, Why.MODE_NOT_CONSTANT)


def test_refuses_a_mode_that_a_caller_may_override() -> None:
    model = dropout(inputs=", ratio, off", ratio=RATIO, off=FALSE)
    assert_refused(make_overridable(model, "off"), NAME, Why.MODE_NOT_CONSTANT)


def test_refuses_a_mode_that_is_computed() -> None:
    model = build(
        "(float[N,4] x, bool a) => (float[N,4] y) { mode = Not(a) y = Dropout(x, ratio, mode) }",
        ratio=RATIO,
    )
    assert_refused(model, NAME, Why.MODE_NOT_CONSTANT)


def test_refuses_a_decomposed_dropout() -> None:
    model = build(
        "(float[N,4] x) => (float[N,4] y) { r = RandomUniformLike(x) g = Greater(r, p) "
        "f = Cast<to=1>(g) y = Mul(x, f) }",
        p=RATIO,
    )
    assert_refused(model, NAME, Why.WRITTEN_OUT, in_the_way="Mul y")


def test_random_numbers_for_other_purposes_are_not_a_dropout() -> None:
    model = build("(float[N,4] x) => (float[N,4] y) { r = RandomUniformLike(x) y = Add(x, r) }")
    result = run_pass(model, NAME)
    assert not result.record.refusals


# --- Masks ----------------------------------------------------------------------------------

MASKED = "(float[N,4] x) => (float[N,4] y, bool[N,4] n) { y, mask = Dropout(x) n = Not(mask) }"


@pytest.mark.parametrize("opset", [12, 13, 17])
def test_a_mask_that_is_read_becomes_true_everywhere(opset: int) -> None:
    expected = ["Shape", "ConstantOfShape", "Identity", "Not"]
    assert_rewritten(build(MASKED, opset=opset), NAME, expected)


def test_a_mask_that_is_a_graph_output_keeps_its_name() -> None:
    model = build("(float[N,4] x) => (float[N,4] y, bool[N,4] mask) { y, mask = Dropout(x) }")
    assert_rewritten(model, NAME, ["Shape", "ConstantOfShape", "Identity"])


def test_an_unused_mask_is_removed() -> None:
    model = build("(float[N,4] x) => (float[N,4] y) { d, mask = Dropout(x) y = Neg(d) }")
    assert_rewritten(model, NAME, ["Neg"])


@pytest.mark.parametrize("opset", [7, 10, 11])
def test_refuses_a_mask_that_the_standard_does_not_define(opset: int) -> None:
    kind = "float" if opset < 10 else "bool"
    model = build(
        f"(float[N,4] x) => (float[N,4] y, {kind}[N,4] mask) {{ y, mask = Dropout(x) }}",
        opset=opset,
    )
    assert_refused(model, NAME, Why.MASK_UNDEFINED)


# --- Names of the interface -----------------------------------------------------------------


def test_from_input_to_output_an_identity_stays() -> None:
    model = build("(float[N,4] x) => (float[N,4] y) { y = Dropout(x) }")
    assert_rewritten(model, NAME, ["Identity"])


def test_a_graph_output_keeps_its_name() -> None:
    model = build("(float[N,4] x) => (float[N,4] y) { r = Relu(x) y = Dropout(r) }")
    assert_rewritten(model, NAME, ["Relu"])


def test_two_outputs_of_one_value_keep_both_names() -> None:
    model = build(
        "(float[N,4] x) => (float[N,4] r, float[N,4] y, float[N,4] z) "
        "{ r = Relu(x) y = Dropout(r) z = Dropout(y) }"
    )
    assert_rewritten(model, NAME, ["Relu", "Identity", "Identity"])


def test_a_constant_after_dropout_stays_an_output() -> None:
    model = build(
        "(float[N,4] x) => (float[4] y, float[N,4] z) { y = Dropout(k) z = Neg(x) }",
        k=np.arange(4, dtype=np.float32),
    )
    assert_rewritten(model, NAME, ["Identity", "Neg"])


def test_whole_chains_are_removed() -> None:
    chain = " ".join(f"d{i + 1} = Dropout(d{i})" for i in range(20))
    model = build(f"(float[N,4] x) => (float[N,4] y) {{ d0 = Relu(x) {chain} y = Neg(d20) }}")
    assert_rewritten(model, NAME, ["Relu", "Neg"])


# --- Bodies and functions -------------------------------------------------------------------


def test_inside_a_body_that_captures_from_outside() -> None:
    model = build(
        """(float[N,4] x, bool cond) => (float[N,4] z) {
            d = Dropout(x)
            z = If (cond) <
                then_branch = then () => (float[N,4] t) { t = Dropout(d) },
                else_branch = other () => (float[N,4] e) { a = Dropout(d) e = Neg(a) }
            >
        }"""
    )
    result = run_pass(model, NAME)
    assert len(result.record.rewrites) == 3
    assert operators(result.to_proto()) == ["If"]
    for cond in (True, False):
        feeds = {**draw_feeds(model), "cond": np.array(cond)}
        assert_equivalent(model, result.to_proto(), feeds)


def test_a_weight_in_a_body_that_hides_a_value_outside_does_not_capture() -> None:
    """Not compared in float64: onnx's evaluator reads the outer value if names collide."""
    model = build(
        """(float[N,4] x, bool cond) => (float[N,4] z) {
            r = Relu(x)
            d = Dropout(r)
            z = If (cond) <
                then_branch = then () => (float[N,4] t) <float[4] r = {1, 2, 3, 4}> {
                    t = Add(r, d)
                },
                else_branch = other () => (float[N,4] e) { e = Identity(d) }
            >
        }"""
    )
    result = run_pass(model, NAME)
    assert operators(result.to_proto()) == ["Relu", "If"]
    for cond in (True, False):
        feeds = {**draw_feeds(model), "cond": np.array(cond)}
        np.testing.assert_array_equal(run_plain(model, feeds), run_plain(result.to_proto(), feeds))


def test_inside_loop_and_scan_bodies() -> None:
    model = build(
        """(float[4] x, int64 count) => (float[4] y, float[S,4] z) {
            go = Constant<value = bool {1}>()
            y = Loop (count, go, x) <
                body = step (int64 i, bool c, float[4] a) => (bool c2, float[4] b) {
                    c2 = Identity(c)
                    d = Dropout(a)
                    b = Add(d, d)
                }
            >
            m = Unsqueeze(x, zero)
            s, z = Scan <num_scan_inputs = 1, body = scanned (float[4] u, float[4] v) =>
                (float[4] o, float[4] w) { o = Dropout(u) w = Dropout(v) }> (x, m)
        }""",
        zero=np.array([0], np.int64),
    )
    result = run_pass(model, NAME)
    assert len(result.record.rewrites) == 3
    feeds = {**draw_feeds(model), "count": np.array(3, np.int64)}
    assert_equivalent(model, result.to_proto(), feeds)


def test_inside_a_local_function() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    agraph (float[N,4] x) => (float[N,4] y) { y = local.block(x) }
    <domain: "local", opset_import: ["" : 17]>
    block (a) => (c) {
        ratio = Constant<value_float = 0.5>()
        b = Dropout(a, ratio)
        c = Dropout(b, ratio)
    }"""
    model = onnx.parser.parse_model(text)
    passes = bnfold.PassOptions(only=[NAME], keep_functions=True)
    result = bnfold.optimize(model, check=False, passes=passes)
    assert [rewrite.site for rewrite in result.record.rewrites] == [
        "local.block/b",
        "local.block/c",
    ]
    assert [node.op_type for node in result.to_proto().functions[0].node] == ["Identity"]
    assert_equivalent(model, result.to_proto(), draw_feeds(model))


# --- Random graphs --------------------------------------------------------------------------


@st.composite
def dropouts_in_a_dag(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw a graph of Dropout and Add nodes, some of whose values are outputs."""
    count = draw(st.integers(1, 8))
    values, lines = ["x"], []
    for index in range(count):
        first = draw(st.sampled_from(values))
        if draw(st.booleans()):
            lines.append(f"v{index} = Dropout({first})")
        else:
            lines.append(f"v{index} = Add({first}, {draw(st.sampled_from(values))})")
        values.append(f"v{index}")
    outputs = draw(st.lists(st.sampled_from(values[1:]), min_size=1, unique=True))
    shown = ", ".join(f"float[N,4] {name}" for name in outputs)
    opset = draw(st.sampled_from([7, 10, 12, 13, 17]))
    return build(f"(float[N,4] x) => ({shown}) {{ {' '.join(lines)} }}", opset=opset)


@settings(max_examples=12, deadline=None)
@given(dropouts_in_a_dag())
def test_random_graphs(model: onnx.ModelProto) -> None:
    result = run_pass(model, NAME)
    assert "Dropout" not in operators(result.to_proto())
    assert_equivalent(model, result.to_proto(), draw_feeds(model), rtol=0, atol=0)
    assert not run_pass(result.to_proto(), NAME).record.rewrites
