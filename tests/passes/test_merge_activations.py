"""merge-activations: clamps compose, at every opset and type that has them."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.rewriting.contract import Common
from tests.support.evaluate import assert_equal_outputs
from tests.support.graphs import (
    Array,
    Parameters,
    build,
    make_overridable,
    normal,
    only_node,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, parameters, run_pass

NAME = "merge-activations"
INF = np.inf


def chain(
    first: str, second: str, *, opset: int = 17, kind: str = "float", **weights: Array
) -> onnx.ModelProto:
    """Return a model of two functions in a row: the first reads x, the second a."""
    return build(
        f"({kind}[N,3,5] x) => ({kind}[N,3,5] y) {{ a = {first} y = {second} }}",
        opset=opset,
        ir_version=8 if opset < 19 else 10,
        **{
            name: array
            for name, array in weights.items()
            if name in f"{first},{second}".replace("(", ",").replace(")", ",").split(",")
        },
    )


NUMBERS: Parameters = {
    name: np.array(n, np.float32) for name, n in zip("mtzpi", (-2, -1, 0, 2, INF), strict=True)
}
"""Minus two, minus one, zero, plus two and infinity."""


def bounds(model: onnx.ModelProto) -> list[float | None]:
    """Return the lower and upper bound of the one Clip; None for one that it lacks."""
    node = only_node(model, "Clip")
    content = {t.name: float(onnx.numpy_helper.to_array(t)) for t in model.graph.initializer}
    given = [*node.input[1:], "", ""][:2]
    return [content[name] if name else None for name in given]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("Relu(x)", "Clip(a,m,p)", [0, 2]),
        ("Relu(x)", "Clip(a,,p)", [0, 2]),
        ("Clip(x,,p)", "Relu(a)", [0, 2]),
        ("Clip(x,m,p)", "Relu(a)", [0, 2]),
        ("Clip(x,m,)", "Clip(a,,p)", [-2, 2]),
        ("Clip(x,m,p)", "Clip(a,t,z)", [-1, 0]),
        ("Clip(x,m,t)", "Clip(a,z,p)", [0, 0]),
        ("Clip(x,z,p)", "Clip(a,m,t)", [-1, -1]),
        ("Clip(x,p,m)", "Clip(a,t,)", [-1, -1]),
        ("Clip(x,,t)", "Clip(a,,m)", [None, -2]),
        ("Max(x,m)", "Clip(a,,p)", [-2, 2]),
        ("Clip(x,m,p)", "Min(t,a)", [-2, -1]),
        ("Clip(x,m,)", "Max(a,t)", [-1, None]),
        ("Clip(x,m,)", "Relu(a)", [0, None]),
        ("Relu(x)", "Clip(a,m,)", [0, None]),
        ("Clip(x,,)", "Min(p,a)", [None, 2]),
        ("Max(x,i)", "Clip(a,,p)", [2, 2]),
        ("Min(x,i)", "Clip(a,m,)", [-2, None]),
        ("Max(x,m)", "Min(a,p)", [-2, 2]),
        ("Min(p,x)", "Max(m,a)", [-2, 2]),
        ("Max(x,p)", "Min(a,m)", [-2, -2]),
        ("Relu(x)", "Min(a,p)", [0, 2]),
        ("Min(x,p)", "Relu(a)", [0, 2]),
    ],
)
def test_two_become_one(first: str, second: str, expected: list[float | None]) -> None:
    model = chain(first, second, **NUMBERS)
    optimized = assert_rewritten(model, NAME, ["Clip"], rtol=0, atol=0, certified=True)
    assert bounds(optimized) == expected
    (rewrite,) = run_pass(model, NAME).record.rewrites
    assert rewrite.exactness == "bitwise"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Max(x,m)", "Relu(a)"),
        ("Relu(x)", "Max(z,a)"),
        ("Max(x,t)", "Relu(a)"),
    ],
)
def test_two_become_a_relu(first: str, second: str) -> None:
    assert_rewritten(chain(first, second, **NUMBERS), NAME, ["Relu"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("first", "second", "expected", "bound"),
    [
        ("Max(x,m)", "Max(a,z)", "Max", 0),
        ("Min(x,p)", "Min(t,a)", "Min", -1),
        ("Relu(x)", "Max(p,a)", "Max", 2),
    ],
)
def test_two_become_a_max_or_min(first: str, second: str, expected: str, bound: float) -> None:
    optimized = assert_rewritten(
        chain(first, second, **NUMBERS), NAME, [expected], rtol=0, atol=0, certified=True
    )
    assert [float(array) for array in parameters(optimized).values()] == [bound]


@pytest.mark.parametrize(
    ("opset", "kind", "is_merged"),
    [
        (8, "float", True),
        (8, "double", False),
        (11, "float", True),
        (11, "double", False),
        *((12, kind, True) for kind in ("float", "double", "float16", "int64", "uint64")),
        (13, "int32", False),
        (13, "uint32", False),
    ],
)
def test_a_clip_is_new_only_of_a_type_that_has_one(opset: int, kind: str, is_merged: bool) -> None:
    dtype = {"float": np.float32, "double": np.float64}.get(kind) or np.dtype(kind)
    low, high = (np.array(n, dtype) for n in (3, 90))
    model = chain("Max(x,low)", "Min(a,high)", opset=opset, kind=kind, low=low, high=high)
    result = run_pass(model, NAME)
    assert operators(result.to_proto()) == (["Clip"] if is_merged else ["Max", "Min"])
    feeds = np.random.default_rng(0).integers(0, 127, (2, 3, 5)).astype(dtype)
    assert_equal_outputs(model, result.to_proto(), {"x": feeds})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Relu(x)", "Relu(a)"),
        ("Relu(x)", "Max(t,a)"),
        ("Clip(x,z,p)", "Relu(a)"),
        ("Clip(x,t,z)", "Clip(a,m,p)"),
        ("Max(x,z)", "Relu(a)"),
        ("Min(x,m)", "Min(a,p)"),
        ("Max(x,z)", "Max(a,t)"),
        ("Clip(x,,)", "Clip(a,,)"),
    ],
)
def test_the_second_goes_where_it_does_nothing_though_others_read_the_first(
    first: str, second: str
) -> None:
    model = chain(first, second, **NUMBERS)
    model.graph.node.append(onnx.helper.make_node("Neg", ["a"], ["n"]))
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("n", onnx.TensorProto.FLOAT, ["N", 3, 5])
    )
    kind = first.partition("(")[0]
    assert_rewritten(model, NAME, [kind, "Neg"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Relu(x)", "Abs(a)"),
        ("Neg(x)", "Relu(a)"),
        ("Relu(x)", "Clip(a,,x)"),
        ("Relu(x)", "Max(a,x)"),
        ("Relu(x)", "Max(a,a)"),
        ("Relu(x)", "Max(a,v)"),
        ("Relu(x)", "Min(a,w)"),
        ("Clip(x,,p)", "Max(a,w)"),
        ("Relu(x)", "Clip(a,n,)"),
        ("Relu(x)", "Max(a,n)"),
        ("Relu(x)", "Max(a,t,m)"),
        ("Relu(x)", "LeakyRelu(a)"),
    ],
)
def test_is_silent_about_what_is_no_clamp(first: str, second: str) -> None:
    others: Parameters = {
        "v": normal(5),
        "w": normal(1, 1, 1, 1),
        "n": np.array(np.nan, np.float32),
    }
    model = chain(first, second, **NUMBERS, **others)
    record = run_pass(model, NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_bounds_that_a_caller_may_override_are_not_read() -> None:
    model = make_overridable(chain("Relu(x)", "Clip(a,z,p)", **NUMBERS), "p")
    assert not run_pass(model, NAME).record.rewrites


def test_refuses_a_first_one_that_something_else_reads() -> None:
    model = chain("Relu(x)", "Clip(a,,p)", **NUMBERS)
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["N", 3, 5])
    )
    assert_refused(model, NAME, Common.SHARED, in_the_way="Relu a")


def test_a_chain_becomes_one() -> None:
    model = build(
        "(float[N,3] x) => (float[N,3] y) { a = Relu(x) b = Clip(a,m,p) c = Min(b, one) "
        "d = Relu(c) y = Max(d, m) }",
        m=NUMBERS["m"],
        p=NUMBERS["p"],
        one=np.array([1], np.float32),
    )
    optimized = assert_rewritten(model, NAME, ["Clip"], rtol=0, atol=0)
    assert bounds(optimized) == [0, 1]


@pytest.mark.parametrize("second", ["Clip(a,,p)", "Relu(a)"])
def test_one_outside_a_body_is_not_merged_into_it(second: str) -> None:
    body = f"() => (float[N,3] o) {{ n = {second} o = Neg(n) }}"
    model = build(
        "(float[N,3] x, bool c) => (float[N,3] y) { a = Relu(x) y = If(c) "
        f"<then_branch = t {body}, else_branch = e () => (float[N,3] q) {{ q = Neg(x) }}> }}",
        **({"p": NUMBERS["p"]} if "p" in second else {}),
    )
    assert not run_pass(model, NAME).record.rewrites


# --- Opsets and types -----------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [6, 7, 10])
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("Relu(x)", "Clip<max=6.0>(a)", (0, 6)),
        ("Clip<min=-3.0, max=2.0>(x)", "Relu(a)", (0, 2)),
        ("Clip<min=-3.0>(x)", "Clip<max=1.5>(a)", (-3, 1.5)),
        ("Clip<min=1.0>(x)", "Relu(a)", None),
    ],
)
def test_early_opsets_have_bounds_as_attributes(
    first: str, second: str, expected: tuple[float, float] | None, opset: int
) -> None:
    model = chain(first, second, opset=opset)
    optimized = assert_rewritten(model, NAME, ["Clip"], rtol=0, atol=0)
    if expected is not None:
        found = {a.name: a.f for a in only_node(optimized, "Clip").attribute}
        assert (found["min"], found["max"]) == expected
    for extreme in (-INF, INF):
        assert_equal_outputs(model, optimized, {"x": np.full((1, 3, 5), extreme, np.float32)})


def test_a_bound_that_no_attribute_holds() -> None:
    model = chain(
        "Max(x,low)", "Clip<max=3.0>(a)", opset=10, kind="double", low=np.array(0.1, np.float64)
    )
    assert not run_pass(model, NAME).record.rewrites


@pytest.mark.parametrize("opset", [12, 13, 14, 22])
@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "int64", "double", "float16"])
def test_types(kind: str, opset: int) -> None:
    low, high, mid = (np.array(n, kind if kind != "double" else "f8") for n in (3, 90, 40))
    if kind == "float16":
        low, high, mid = (each.astype(np.float16) for each in (low, high, mid))
    model = chain(
        "Clip(x,low,)", "Clip(a,mid,high)", opset=opset, kind=kind, low=low, mid=mid, high=high
    )
    result = run_pass(model, NAME)
    assert operators(result.to_proto()) == ["Clip"]
    feeds = np.random.default_rng(0).integers(0, 127, (2, 3, 5)).astype(low.dtype)
    assert_equal_outputs(model, result.to_proto(), {"x": feeds})
    assert not run_pass(result.to_proto(), NAME).record.rewrites


@pytest.mark.parametrize(("opset", "count"), [(13, 1), (14, 1)])
def test_large_integers_keep_their_digits(opset: int, count: int) -> None:
    largest = np.array(2**62 + 1, np.int64)
    model = chain(
        "Clip(x,,high)", "Clip(a,low,)", opset=opset, kind="int64", high=largest, low=-largest
    )
    optimized = run_pass(model, NAME).to_proto()
    assert len(optimized.graph.node) == count
    assert_equal_outputs(model, optimized, {"x": np.full((1, 3, 5), 2**63 - 1, np.int64)})


def test_integers_that_no_relu_takes_stay_a_clip() -> None:
    zero, low = np.array(0, np.int8), np.array(-5, np.int8)
    model = chain("Clip(x,low,)", "Max(a,zero)", opset=13, kind="int8", zero=zero, low=low)
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized) == ["Clip"]
    assert_equal_outputs(model, optimized, {"x": np.arange(-7, 8, dtype=np.int8).reshape(1, 3, 5)})


@pytest.mark.parametrize("kind", ["bool", "string"])
def test_types_that_no_clip_has(kind: str) -> None:
    """onnxruntime would not run this; a pass must not fail on it."""
    model = chain("Clip(x,,)", "Clip(a,,)", kind=kind)
    assert not run_pass(model, NAME).record.rewrites


# --- Any ------------------------------------------------------------------------------------------

SOME = st.sampled_from([-INF, -3.0, -1.0, 0.0, 1.0, 3.0, INF])


@st.composite
def clamps(draw: st.DrawFn) -> tuple[str, Parameters]:
    name = draw(st.sampled_from(["Relu", "Clip", "Max", "Min"]))
    place = draw(st.integers(0, 10**6))
    if name == "Relu":
        return "Relu({})", {}
    weights: Parameters = {}
    operands: list[str] = []
    for side in ("l", "h")[: 2 if name == "Clip" else 1]:
        if name == "Clip" and draw(st.booleans()):
            operands.append("")
            continue
        operands.append(f"{side}{place}")
        shape = draw(st.sampled_from([(), (1,)])) if name != "Clip" else ()
        weights[operands[-1]] = np.full(shape, draw(SOME), np.float32)
    if name != "Clip" and draw(st.booleans()):
        return f"{name}({operands[0]},{{}})", weights
    return f"{name}({{}},{','.join(operands)})", weights


@settings(max_examples=12, deadline=None)
@given(st.lists(clamps(), min_size=2, max_size=4))
def test_random_chains(functions: list[tuple[str, Parameters]]) -> None:
    lines: list[str] = []
    weights: Parameters = {}
    for number, (function, constants) in enumerate(functions):
        source = "x" if number == 0 else f"v{number - 1}"
        lines.append(f"v{number} = {function.format(source)}")
        weights |= constants
    model = build(
        f"(float[N,15] x) => (float[N,15] y) {{ {' '.join(lines)} y = Neg(v{len(lines) - 1}) }}",
        **weights,
    )
    result = run_pass(model, NAME)
    optimized = result.to_proto()
    values = [-INF, -1e38, -5, -3, -2, -1, -0.5, 0, 0.5, 1, 2, 3, 4, 1e38, INF]
    assert_equal_outputs(model, optimized, {"x": np.array([values], np.float32)})
    assert not run_pass(optimized, NAME).record.rewrites
    kinds = operators(optimized)
    clamps = {"Clip", "Max", "Min", "Relu"}
    assert not any({one, other} <= clamps for one, other in itertools.pairwise(kinds))
