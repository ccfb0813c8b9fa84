"""recognise-hard-activations: all ways to write HardSigmoid and HardSwish, and near misses."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from bnfold.rewriting.contract import Common
from bnfold_passes.recognise_hard_activations import Why
from tests.support.evaluate import assert_equivalent, run_plain
from tests.support.graphs import (
    Array,
    Parameters,
    build,
    draw_feeds,
    make_overridable,
    normal,
    only_node,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "recognise-hard-activations"

CONSTANTS = {
    "zero": 0,
    "one": 1,
    "three": 3,
    "six": 6,
    "sixth": 1 / 6,
    "half": 0.5,
    "fifth": 0.2,
    "two": 2,
    "minus": -3,
}


NUMBERS: Parameters = {n: np.array(CONSTANTS[n], np.float32) for n in ("zero", "three", "six")}


def written(
    lines: str, *, opset: int = 17, kind: str = "float", shape: str = "N,3,5", **others: Array
) -> onnx.ModelProto:
    """Return a model of y in terms of x and of the `CONSTANTS`."""
    dtype = {"float": np.float32, "double": np.float64, "float16": np.float16}[kind]
    words = set(lines.replace("(", " ").replace(")", " ").replace(",", " ").split())
    weights: Parameters = {
        name: np.array(n, dtype) for name, n in CONSTANTS.items() if name in words
    }
    sizes = ",".join("abcd"[: len(shape.split(","))])
    return build(
        f"({kind}[{shape}] x) => ({kind}[{sizes}] y) {{ {lines} }}",
        opset=opset,
        ir_version=8 if opset < 19 else 10,
        **weights,
        **others,
    )


def alpha_and_beta(model: onnx.ModelProto) -> tuple[float, float]:
    found = {a.name: a.f for a in only_node(model, "HardSigmoid").attribute}
    return found["alpha"], found["beta"]


# --- HardSigmoid ----------------------------------------------------------------------------------

CLAMPS = [
    "c = Clip(a, zero, six)",
    "r = Relu(a) c = Clip(r, , six)",
    "r = Relu(a) c = Min(r, six)",
    "r = Clip(a, , six) c = Relu(r)",
    "r = Min(six, a) c = Max(r, zero)",
    "r = Max(a, zero) c = Min(six, r)",
    "r = Clip(a, minus, six) q = Relu(r) c = Clip(q, zero, six)",
]
SUMS = ["a = Add(x, three)", "a = Add(three, x)", "a = Sub(x, minus)"]
SIXTHS = ["{} = Div({}, six)", "{} = Mul({}, sixth)", "{} = Mul(sixth, {})"]


@pytest.mark.parametrize("opset", [11, 13, 17, 22])
@pytest.mark.parametrize("clamp", CLAMPS)
def test_a_hard_sigmoid(clamp: str, opset: int) -> None:
    lines = f"{SUMS[0]} {clamp} y = Div(c, six)"
    optimized = assert_rewritten(written(lines, opset=opset), NAME, ["HardSigmoid"])
    assert alpha_and_beta(optimized) == (float(np.float32(1 / 6)), 0.5)


@pytest.mark.parametrize(("total", "scale"), list(itertools.product(SUMS, SIXTHS)))
def test_sums_and_factors_either_way(total: str, scale: str) -> None:
    lines = f"{total} {CLAMPS[0]} {scale.format('y', 'c')}"
    assert_rewritten(written(lines), NAME, ["HardSigmoid"])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("a = Mul(x, fifth) b = Add(a, half) y = Clip(b, zero, one)", (0.2, 0.5)),
        ("a = Add(half, x) y = Clip(a, zero, one)", (1, 0.5)),
        ("a = Mul(x, fifth) y = Clip(a, zero, one)", (0.2, 0)),
        ("a = Sub(half, x) y = Clip(a, zero, one)", (-1, 0.5)),
        ("a = Div(x, minus) y = Clip(a, zero, one)", (-1 / 3, 0)),
        ("a = Add(x, three) b = Mul(a, fifth) y = Clip(b, zero, one)", (0.2, 0.6)),
        ("a = Mul(x, two) b = Add(a, three) c = Clip(b, zero, six) y = Div(c, six)", (1 / 3, 0.5)),
        ("c = Clip(x, zero, six) y = Div(c, six)", (1 / 6, 0)),
        ("c = Clip(x, zero, half) y = Mul(c, two)", (2, 0)),
        ("r = Relu(x) y = Clip(r, , one)", (1, 0)),
        ("a = Add(x, one) y = HardSigmoid<alpha=0.5>(a)", (0.5, 1)),
        ("a = Mul(x, two) b = Add(a, one) y = HardSigmoid(b)", (0.4, 0.7)),
    ],
)
def test_other_slopes_and_heights(lines: str, expected: tuple[float, float]) -> None:
    optimized = assert_rewritten(written(lines), NAME, ["HardSigmoid"])
    np.testing.assert_allclose(alpha_and_beta(optimized), expected, rtol=1e-6)


@pytest.mark.parametrize("opset", [6, 7, 10])
def test_early_opsets(opset: int) -> None:
    lines = "a = Add{0}(x, three) c = Clip<min=0.0, max=6.0>(a) d = Mul{0}(c, x) y = Div{0}(d, six)"
    model = written(lines.format("<broadcast=1>" if opset < 7 else ""), opset=opset)
    result = run_pass(model, NAME)
    assert operators(result.to_proto()) == ["HardSigmoid", "Mul"]
    if opset >= 7:
        assert_equivalent(model, result.to_proto(), draw_feeds(model))


def test_before_opset_6_nothing_is_tried() -> None:
    model = written("a = Clip<min=0.0, max=6.0>(x) y = Div<broadcast=1>(a, six)", opset=5)
    assert not run_pass(model, NAME).record.rewrites


# --- HardSwish ------------------------------------------------------------------------------------

SWISHES = [
    *(
        f"p = Mul({order}) {scale.format('y', 'p')}"
        for order in ("x, c", "c, x")
        for scale in SIXTHS
    ),
    *(f"{scale.format('d', 'c')} y = Mul(x, d)" for scale in SIXTHS),
    *(f"{scale.format('d', 'x')} y = Mul(d, c)" for scale in SIXTHS),
    "p = Mul(x, c) q = Div(p, three) y = Mul(q, half)",
    "d = Mul(half, x) e = Div(c, three) y = Mul(d, e)",
]


@pytest.mark.parametrize(("opset", "expected"), [(13, ["HardSigmoid", "Mul"]), (14, ["HardSwish"])])
@pytest.mark.parametrize("product", SWISHES)
def test_a_hard_swish(product: str, opset: int, expected: list[str]) -> None:
    lines = f"{SUMS[0]} {CLAMPS[0]} {product}"
    assert_rewritten(written(lines, opset=opset), NAME, expected)


@pytest.mark.parametrize("clamp", CLAMPS)
@pytest.mark.parametrize("total", SUMS)
def test_all_sums_and_clamps_of_a_hard_swish(clamp: str, total: str) -> None:
    lines = f"{total} {clamp} p = Mul(c, x) y = Div(p, six)"
    assert_rewritten(written(lines), NAME, ["HardSwish"])


def test_x_times_its_hard_sigmoid() -> None:
    sixth = float(np.float32(1 / 6))
    lines = f"h = HardSigmoid<alpha={sixth}, beta=0.5>(x) y = Mul(h, x)"
    assert_rewritten(written(lines, opset=14), NAME, ["HardSwish"])
    assert not run_pass(written(lines, opset=13), NAME).record.rewrites
    other = written("h = HardSigmoid(x) y = Mul(h, x)")
    assert not run_pass(other, NAME).record.rewrites


def test_a_gate_with_other_slopes_is_no_hard_swish() -> None:
    lines = "a = Mul(x, fifth) b = Add(a, half) c = Clip(b, zero, one) y = Mul(x, c)"
    assert_rewritten(written(lines), NAME, ["HardSigmoid", "Mul"])


def test_at_the_extremes() -> None:
    """At infinity, both are NaN for −∞ · 0; beyond, a product overflows only if written out."""
    model = written(f"{SUMS[0]} {CLAMPS[0]} {SWISHES[0]}", shape="1,8")
    optimized = run_pass(model, NAME).to_proto()
    values = np.array([[-np.inf, np.inf, -1e38, 1e37, -3, 3, 0, np.nan]], np.float32)
    (before,), (after,) = (run_plain(each, {"x": values}) for each in (model, optimized))
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(), (1,), (1, 1), (1, 1, 1)])
def test_numbers_of_any_rank_up_to_that_of_the_data(size: tuple[int, ...]) -> None:
    model = written(f"{SUMS[0]} {CLAMPS[0]} {SWISHES[0]}")
    for tensor in model.graph.initializer:
        if tensor.name in ("three", "six"):
            tensor.dims.extend(size)
    if size:
        model.graph.node[1].input[2] = "top"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(6, np.float32), "top"))
    assert_rewritten(model, NAME, ["HardSwish"])


def test_a_number_of_higher_rank_adds_an_axis() -> None:
    model = written("a = Clip(x, zero, half) y = Mul(a, k)", k=np.full((1, 1, 1, 1), 2, np.float32))
    assert not run_pass(model, NAME).record.rewrites


# --- Near misses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        "a = Add(x, three) c = Clip(a, zero, six) y = Div(c, three)",
        "a = Add(x, three) c = Clip(a, zero, six) y = Mul(c, x)",
        "a = Add(x, three) c = Clip(a, zero, six) y = Div(six, c)",
        "a = Add(x, three) c = Clip(a, minus, six) y = Div(c, six)",
        "a = Add(x, three) c = Clip(a, half, six) y = Div(c, six)",
        "a = Add(x, three) c = Relu(a) y = Div(c, six)",
        "a = Add(x, three) c = Clip(a, , six) y = Div(c, six)",
        "a = Add(x, three) c = Clip(a, zero, six) d = Add(c, half) y = Div(d, six)",
        "y = Clip(x, zero, one)",
        "a = Relu(x) y = Clip(a, , six)",
        "y = Div(x, six)",
        "a = Add(x, x) c = Clip(a, zero, six) y = Mul(c, c)",
        "a = Mul(x, zero) y = Clip(a, zero, one)",
        "c = Clip(x, zero, zero) y = Mul(c, six)",
        "c = Clip(x, x, six) y = Div(c, six)",
        "y = HardSigmoid(x)",
        "y = HardSwish(x)",
        "a = Add(x, three) r = Relu(a) d = Div(r, six) y = Min(d, one)",
    ],
)
def test_is_silent_about_other_functions(lines: str) -> None:
    record = run_pass(written(lines), NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_a_gate_of_another_value_is_a_hard_sigmoid_at_most() -> None:
    lines = "z = Neg(x) a = Add(z, three) c = Clip(a, zero, six) p = Mul(x, c) y = Div(p, six)"
    assert not run_pass(written(lines), NAME).record.rewrites
    lines = "z = Neg(x) a = Add(z, three) c = Clip(a, zero, six) d = Div(c, six) y = Mul(x, d)"
    assert_rewritten(written(lines), NAME, ["Neg", "HardSigmoid", "Mul"])


@pytest.mark.parametrize(
    ("six", "ok"), [(6.0000005, False), (5.9999995, False), (6.01, False), (6, True)]
)
def test_a_factor_that_is_not_quite_one_sixth(six: float, ok: bool) -> None:
    lines = f"{SUMS[0]} {CLAMPS[0]} p = Mul(x, c) y = Div(p, k)"
    model = written(lines, k=np.array(six, np.float32))
    assert bool(run_pass(model, NAME).record.rewrites) == ok


@pytest.mark.parametrize(
    ("lines", "node"),
    [
        (f"{SUMS[0]} {CLAMPS[0]} n = Neg(c) p = Mul(x, c) q = Div(p, six) y = Sub(q, n)", "Clip c"),
        (f"{SUMS[0]} {CLAMPS[0]} n = Neg(a) p = Mul(x, c) q = Div(p, six) y = Sub(q, n)", "Add a"),
        (f"{SUMS[0]} {CLAMPS[0]} p = Mul(x, c) n = Neg(p) q = Div(p, six) y = Sub(q, n)", "Mul p"),
        (f"{SUMS[0]} {CLAMPS[0]} n = Neg(c) q = Div(c, six) y = Sub(q, n)", "Clip c"),
    ],
)
def test_refuses_what_something_else_reads(lines: str, node: str) -> None:
    assert_refused(written(lines), NAME, Common.SHARED, in_the_way=node)


def test_a_shared_sum_is_not_taken_in() -> None:
    lines = f"{SUMS[0]} {CLAMPS[0]} n = Neg(a) q = Div(c, six) y = Sub(q, n)"
    optimized = run_pass(written(lines), NAME).to_proto()
    assert operators(optimized) == ["Add", "Neg", "HardSigmoid", "Sub"]
    assert alpha_and_beta(optimized) == (float(np.float32(1 / 6)), 0.0)


def test_a_sum_that_rounds_is_not_taken_in() -> None:
    lines = f"a = Add(x, p) {CLAMPS[0]} y = Div(c, six)"
    model = written(lines, p=np.array(1.5 * 2**23, np.float32))
    assert_rewritten(model, NAME, ["Add", "HardSigmoid"])


def test_is_silent_about_integers() -> None:
    lines = "a = Relu(x) b = Min(a, six) c = Mul(x, b) y = Div(c, six)"
    model = build(f"(int32[N] x) => (int32[N] y) {{ {lines} }}", six=np.array(6, np.int32))
    record = run_pass(model, NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_refuses_a_type_without_kernel() -> None:
    model = written(f"{SUMS[0]} {CLAMPS[0]} {SWISHES[0]}", kind="double")
    assert_refused(model, NAME, Why.NO_KERNEL)


@pytest.mark.parametrize("product", SWISHES)
def test_half(product: str) -> None:
    model = written(f"{SUMS[0]} {CLAMPS[0]} {product}", kind="float16")
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized) == ["HardSwish"]
    feeds = draw_feeds(model)
    (before,), (after,) = (run_plain(each, feeds) for each in (model, optimized))
    np.testing.assert_allclose(after, before, rtol=4e-3, atol=4e-3)


@pytest.mark.parametrize("name", ["three", "six"])
def test_numbers_that_a_caller_may_override_are_not_read(name: str) -> None:
    model = make_overridable(written(f"{SUMS[0]} {CLAMPS[0]} {SWISHES[0]}"), name)
    assert not run_pass(model, NAME).record.rewrites


def test_what_is_outside_a_body_is_not_taken_in() -> None:
    body = "() => (float[N,3,5] o) { o = Div(c, six) }"
    model = build(
        "(float[N,3,5] x, bool b) => (float[N,3,5] y) { a = Add(x, three) c = Clip(a, zero, six) "
        f"y = If(b) <then_branch = t {body}, else_branch = e {body.replace(' o', ' q')}> }}",
        **NUMBERS,
    )
    assert not run_pass(model, NAME).record.rewrites


def test_a_whole_activation_in_a_body() -> None:
    body = (
        "() => (float[N,3,5] o) { a = Add(x, three) c = Clip(a, zero, six) p = Mul(c, x) "
        "o = Div(p, six) }"
    )
    model = build(
        f"(float[N,3,5] x, bool b) => (float[N,3,5] y) {{ y = If(b) <then_branch = t {body}, "
        "else_branch = e () => (float[N,3,5] q) { q = Neg(x) }> }",
        **NUMBERS,
    )
    optimized = run_pass(model, NAME).to_proto()
    bodies = {a.name: a.g for a in only_node(optimized, "If").attribute}
    assert [node.op_type for node in bodies["then_branch"].node] == ["HardSwish"]
    for choice in (True, False):
        assert_equivalent(model, optimized, {**draw_feeds(model), "b": np.array(choice)})


def test_an_activation_in_a_function() -> None:
    """A function has no initializers: its numbers are Constant nodes."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "f" : 1]> '
        "agraph (float[N,3,5] x) => (float[N,3,5] y) { y = f.swish(x) } "
        '<domain: "f", opset_import: ["" : 17]> swish (x) => (y) '
        "{ three = Constant<value_float=3.0>() zero = Constant<value_float=0.0>() "
        "six = Constant<value_float=6.0>() a = Add(x, three) c = Clip(a, zero, six) "
        "p = Mul(c, x) y = Div(p, six) }"
    )
    passes = bnfold.PassOptions(only=[NAME], keep_functions=True)
    optimized = bnfold.optimize(model, passes=passes, check=False).to_proto()
    assert [node.op_type for node in optimized.functions[0].node] == ["HardSwish"]
    feeds = draw_feeds(model)
    (before,), (after,) = (run_plain(each, feeds) for each in (model, optimized))
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


def test_a_value_of_one_element() -> None:
    model = written(f"{SUMS[0]} {CLAMPS[0]} {SWISHES[0]}", shape="1,1,1")
    assert_rewritten(model, NAME, ["HardSwish"])


# --- With other passes ----------------------------------------------------------------------------


@pytest.mark.parametrize("product", [each for each in SWISHES if "three" not in each])
@pytest.mark.parametrize("opset", [13, 14])
def test_the_factor_is_not_folded_into_the_conv_after(product: str, opset: int) -> None:
    """Without it, a sum, a clamp and a product would be left."""
    lines = f"x = Conv(i, w) {SUMS[0]} {CLAMPS[0]} {product.replace('y =', 'z =')} y = Conv(z, v)"
    words = set(lines.replace("(", " ").replace(")", " ").replace(",", " ").split())
    constants: Parameters = {
        name: np.array(n, np.float32) for name, n in CONSTANTS.items() if name in words
    }
    model = build(
        f"(float[N,4,8,8] i) => (float[N,a,b,c] y) {{ {lines} }}",
        opset=opset,
        w=normal(4, 4, 3, 3),
        v=normal(4, 4, 3, 3),
        **constants,
    )
    optimized = bnfold.optimize(model, check=False).to_proto()
    activation = ["HardSwish"] if opset == 14 else ["HardSigmoid", "Mul"]
    assert operators(optimized) == ["Conv", *activation, "Conv"]
    assert_equivalent(model, optimized, draw_feeds(model))


def test_all_is_certified() -> None:
    for opset, product in itertools.product((13, 14), SWISHES[::3]):
        model = written(f"{SUMS[0]} {CLAMPS[0]} {product}", opset=opset, shape="1,3,5")
        record = bnfold.optimize(model, only=NAME, certify="always").record
        verdicts = [
            rewrite.certificate and rewrite.certificate.verdict for rewrite in record.rewrites
        ]
        assert set(verdicts) == {"certified"}


# --- Any ------------------------------------------------------------------------------------------

VALUES = ["zero", "one", "three", "six", "sixth", "half", "fifth", "two", "minus"]


@st.composite
def functions(draw: st.DrawFn) -> str:
    """Draw a few operators in a row, all of one number, with some chance of a gate."""
    lines, last = [], "x"
    for place in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Clip", "Clip", "Gate", "Relu"]))
        number = draw(st.sampled_from(VALUES[1:]))
        now = f"v{place}"
        if kind == "Clip":
            low, high = draw(st.sampled_from([("zero", number), ("", "six"), ("zero", "one")]))
            lines.append(f"{now} = Clip({last}, {low}, {high})")
        elif kind == "Gate":
            lines.append(f"{now} = Mul({last}, {draw(st.sampled_from(['x', last]))})")
        elif kind == "Relu":
            lines.append(f"{now} = Relu({last})")
        elif draw(st.booleans()):
            lines.append(f"{now} = {kind}({last}, {number})")
        else:
            lines.append(f"{now} = {kind if kind != 'Div' else 'Add'}({number}, {last})")
        last = now
    return " ".join([*lines, f"y = Identity({last})"])


@settings(max_examples=12, deadline=None)
@given(functions(), st.sampled_from([13, 14]))
def test_random_functions(lines: str, opset: int) -> None:
    model = written(lines, opset=opset, shape="2,200")
    optimized = run_pass(model, NAME).to_proto()
    feeds = draw_feeds(model)
    (before,), (after,) = (run_plain(each, feeds) for each in (model, optimized))
    scale = float(np.abs(before).max(initial=1.0))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * scale)
    assert not run_pass(optimized, NAME).record.rewrites
