"""merge-constants: products and sums of constants in a row, and what they must not break."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from bnfold.algebra.weights import NotStorable
from bnfold.rewriting.contract import Common
from tests.support.evaluate import assert_equivalent, run_plain
from tests.support.graphs import (
    Parameters,
    build,
    draw_feeds,
    initializer,
    make_overridable,
    named_in,
    normal,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "merge-constants"
WEIGHTS: Parameters = {
    "k": np.array(0.3, np.float32),
    "m": np.array([-7.0], np.float32),
    "c": normal(4, 1, 1),
    "d": np.abs(normal(4, 1, 1, seed=1)) + np.float32(0.5),
    "w": normal(6),
    "z": normal(1, 4, 5, 6, seed=2),
}


def chain(*lines: str, opset: int = 17, kind: str = "float", **others: object) -> onnx.ModelProto:
    """Return a model of lines that compute y from x with the `WEIGHTS` and others."""
    text = " ".join(lines)
    weights = named_in(text, WEIGHTS | others)
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}.get(kind)
    if dtype is not None:
        weights = {name: array.astype(dtype) for name, array in weights.items()}
    return build(f"({kind}[N,4,5,6] x) => ({kind}[N,4,5,6] y) {{ {text} }}", opset=opset, **weights)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("Mul(x, k)", "Mul(a, m)", -2.1),
        ("Mul(k, x)", "Mul(m, a)", -2.1),
        ("Mul(x, k)", "Div(a, m)", -0.3 / 7),
        ("Div(x, k)", "Mul(a, m)", -7 / 0.3),
        ("Div(x, k)", "Div(a, m)", -1 / 2.1),
        ("Add(x, k)", "Add(a, m)", -6.7),
        ("Add(k, x)", "Add(m, a)", -6.7),
        ("Add(x, k)", "Sub(a, m)", 7.3),
        ("Sub(x, k)", "Add(a, m)", -7.3),
        ("Sub(x, k)", "Sub(a, m)", 6.7),
    ],
)
def test_two_become_one(first: str, second: str, expected: float) -> None:
    model = chain(f"a = {first}", f"y = {second}")
    kind = "Mul" if first[0] in "MD" else "Add"
    optimized = assert_rewritten(model, NAME, [kind])
    content = initializer(optimized, optimized.graph.node[0].input[1])
    assert content.shape == (1,)
    np.testing.assert_allclose(content, expected, rtol=2e-7)


@pytest.mark.parametrize(
    ("one", "other", "shape"),
    [("c", "d", (4, 1, 1)), ("c", "k", (4, 1, 1)), ("m", "w", (6,)), ("z", "c", (1, 4, 5, 6))],
)
@pytest.mark.parametrize("kind", ["Mul", "Add"])
def test_constants_broadcast(kind: str, one: str, other: str, shape: tuple[int, ...]) -> None:
    for first, second in ((one, other), (other, one)):
        optimized = assert_rewritten(
            chain(f"a = {kind}(x, {first})", f"y = {kind}(a, {second})"), NAME, [kind]
        )
        assert initializer(optimized, optimized.graph.node[0].input[1]).shape == shape


def test_a_constant_does_not_grow() -> None:
    assert not run_pass(chain("a = Mul(x, c)", "y = Mul(a, w)"), NAME).record.rewrites


def test_a_row_becomes_one() -> None:
    model = chain("a = Mul(x, k)", "b = Div(a, d)", "e = Mul(c, b)", "y = Mul(e, m)")
    assert_rewritten(model, NAME, ["Mul"])


def test_constants_are_rounded_once() -> None:
    model = chain("a = Mul(x, c)", "b = Mul(a, d)", "y = Neg(b)")
    optimized = run_pass(model, NAME).to_proto()
    exact = WEIGHTS["c"].astype(np.float64) * WEIGHTS["d"]
    content = initializer(optimized, optimized.graph.node[0].input[1])
    np.testing.assert_array_equal(content, exact.astype(np.float32))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Mul(x, k)", "Add(a, m)"),
        ("Add(x, k)", "Div(a, m)"),
        ("Sub(k, x)", "Add(a, m)"),
        ("Add(x, k)", "Sub(m, a)"),
        ("Div(k, x)", "Mul(a, m)"),
        ("Mul(x, k)", "Div(m, a)"),
        ("Mul(x, x)", "Mul(a, m)"),
        ("Mul(x, k)", "Mul(a, x)"),
        ("Mul(x, k)", "Mul(a, a)"),
        ("Neg(x)", "Mul(a, k)"),
    ],
)
def test_is_silent_about_others(first: str, second: str) -> None:
    record = run_pass(chain(f"a = {first}", f"y = {second}"), NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_integers_wrap_around() -> None:
    two = np.array(2, np.int32)
    model = chain("a = Mul(x, t)", "y = Mul(a, t)", kind="int32", t=two)
    assert not run_pass(model, NAME).record.rewrites


@pytest.mark.parametrize("name", ["k", "m"])
def test_a_constant_that_a_caller_may_override(name: str) -> None:
    model = make_overridable(chain("a = Mul(x, k)", "y = Mul(a, m)"), name)
    assert not run_pass(model, NAME).record.rewrites


def test_opset_6_broadcasts_otherwise() -> None:
    text = "(float[N,4] x) => (float[N,4] y) { a = Mul(x, k) y = Mul(a, k) }"
    weight = normal(1, 4)
    assert not run_pass(build(text, opset=6, k=weight), NAME).record.rewrites
    assert_rewritten(build(text, opset=7, k=weight), NAME, ["Mul"])


def test_refuses_a_first_result_that_something_else_reads() -> None:
    model = chain("a = Mul(x, k)", "b = Mul(a, m)", "y = Add(a, b)")
    assert_refused(model, NAME, Common.SHARED, in_the_way="Mul a")


@pytest.mark.parametrize(
    ("one", "other", "kind", "reason"),
    [
        (1e30, 1e30, "Mul", NotStorable.NOT_REPRESENTABLE),
        (1e-30, 1e-30, "Mul", NotStorable.LOSES_DIGITS),
        (1e-20, 1e-20, "Mul", NotStorable.LOSES_DIGITS),
        (1.0, 0.0, "Div", NotStorable.NOT_REPRESENTABLE),
    ],
)
def test_refuses_a_constant_that_its_type_does_not_hold(
    one: float, other: float, kind: str, reason: NotStorable
) -> None:
    model = chain(
        f"a = {kind}(x, p)", f"y = {kind}(a, q)", p=np.array(one, "f4"), q=np.array(other, "f4")
    )
    assert_refused(model, NAME, reason)


def test_a_half_that_vanishes_is_refused() -> None:
    model = chain("a = Mul(x, p)", "y = Mul(a, p)", kind="float16", p=np.array(1e-4, "f4"))
    assert_refused(model, NAME, NotStorable.LOSES_DIGITS)


def test_overflow_in_between_goes() -> None:
    model = chain("a = Mul(x, p)", "y = Mul(a, q)", p=np.array(1e38, "f4"), q=np.array(1e-38, "f4"))
    optimized = run_pass(model, NAME).to_proto()
    (before,), (after,) = (
        run_plain(each, {"x": np.full((1, 4, 5, 6), 100, np.float32)})
        for each in (model, optimized)
    )
    assert np.isinf(before).all()
    np.testing.assert_allclose(after, 100, rtol=1e-6)


@pytest.mark.parametrize(
    "lines",
    [
        ("a = Add(x, p)", "y = Sub(a, p)"),
        ("a = Sub(x, p)", "b = Add(a, p)", "y = Neg(b)"),
    ],
)
def test_what_rounds_stays(lines: tuple[str, ...]) -> None:
    model = chain(*lines, p=np.array(1.5 * 2**23, "f4"))
    assert not run_pass(model, NAME).record.rewrites


def test_patterns_that_others_replace_stay() -> None:
    gelu = ("a = Div(x, r)", "b = Erf(a)", "e = Add(b, o)", "f = Mul(x, e)", "y = Mul(f, h)")
    numbers: Parameters = {"r": np.array(2**0.5), "o": np.array(1.0), "h": np.array(0.5)}
    model = chain("q = Mul(x, k)", *(line.replace("(x,", "(q,") for line in gelu), **numbers)
    assert not run_pass(model, NAME).record.rewrites
    swish = (
        "a = Add(x, t)",
        "b = Clip(a, o, s)",
        "e = Mul(x, b)",
        "f = Div(e, s)",
        "y = Mul(f, k)",
    )
    numbers = {"t": np.array(3.0), "o": np.array(0.0), "s": np.array(6.0)}
    model = chain(*swish, **numbers)
    assert not run_pass(model, NAME).record.rewrites
    optimized = bnfold.optimize(model, check=False).to_proto()
    assert operators(optimized) == ["HardSwish", "Mul"]


def test_each_is_certified() -> None:
    model = chain("a = Mul(x, c)", "b = Div(a, d)", "e = Add(b, c)", "y = Sub(e, m)")
    record = bnfold.optimize(model, only=NAME, certify="always").record
    verdicts = [r.certificate.verdict for r in record.rewrites if r.certificate is not None]
    assert verdicts == ["certified", "certified"]


@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Mul", "Add", "Div", "Sub"]),
            st.sampled_from(["k", "m", "d"]),
            st.booleans(),
        ),
        min_size=2,
        max_size=5,
    ),
    st.sampled_from(["float", "double"]),
)
def test_random_rows(steps: list[tuple[str, str, bool]], kind: str) -> None:
    lines, last = [], "x"
    for place, (op_type, weight, swapped) in enumerate(steps):
        operands = f"{weight}, {last}" if swapped and op_type != "Div" else f"{last}, {weight}"
        lines.append(f"v{place} = {op_type}({operands})")
        last = f"v{place}"
    model = chain(*lines, f"y = Tanh({last})", kind=kind)
    optimized = run_pass(model, NAME).to_proto()
    assert_equivalent(model, optimized, draw_feeds(model), rtol=1e-4, atol=1e-4)
    assert not run_pass(optimized, NAME).record.rewrites
