"""cancel-transposes: elementwise operators between Transposes do without them."""

from __future__ import annotations

import itertools
import re

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.evaluate import run_plain
from tests.support.graphs import Parameters, build, draw_feeds, normal, operators
from tests.support.passes import assert_rewritten, run_pass

NAME = "cancel-transposes"

CONSTANTS: Parameters = {
    "k": normal(3),
    "wide": normal(4, 5, 1),
    "full": normal(1, 4, 5, 3),
    "one": np.array([[2]], np.float32),
    "low": np.array(0, np.float32),
    "high": np.array(6, np.float32),
}

FORTH = "t = Transpose<perm=[0,2,3,1]>(y)"
LONG = " ".join(f"a{n + 1} = Neg(a{n})" for n in range(16))
BACK = "z = Transpose<perm=[0,3,1,2]>(a)"


def model_of(lines: str, *, x: str = "N,3,4,5", opset: int = 17) -> onnx.ModelProto:
    """Return a model of these lines, from y to z, between two other operators."""
    used = {name: array for name, array in CONSTANTS.items() if re.search(rf"\b{name}\b", lines)}
    rank = ",".join("abcdef"[: x.count(",") + 1])
    text = f"(float[{x}] x, float[3] v) => (float[{rank}] r) {{ y = Neg(x) {lines} r = Abs(z) }}"
    return build(text, opset=opset, **used)


@pytest.mark.parametrize("line", ["Gelu(t)", "Mish(t)", "PRelu(t, k)", "PRelu(t, one)"])
def test_activations_of_later_operator_sets_are_certified(line: str) -> None:
    model = model_of(f"{FORTH} a = {line} {BACK}", opset=20)
    name = line.partition("(")[0]
    assert_rewritten(model, NAME, ["Neg", name, "Abs"], rtol=0, atol=0, certified=True)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("a = Relu(t)", ["Relu"]),
        ("a = Clip(t, low, high)", ["Clip"]),
        ("h = HardSigmoid(t) a = Mul(t, h)", ["HardSigmoid", "Mul"]),
        ("h = Sigmoid(t) a = Mul(h, t)", ["Sigmoid", "Mul"]),
        ("a = Add(t, k)", ["Add"]),
        ("a = Sub(k, t)", ["Sub"]),
        ("a = PRelu(t, k)", ["PRelu"]),
        ("a = Mul(t, wide)", ["Mul"]),
        ("a = Add(full, t)", ["Add"]),
        ("a = Div(t, one)", ["Div"]),
        ("e = Exp(x) u = Transpose<perm=[0,2,3,1]>(e) a = Add(t, u)", ["Exp", "Add"]),
        ("b = Add(t, k) c = Relu(b) d = Mul(b, c) a = Add(d, t)", ["Add", "Relu", "Mul", "Add"]),
    ],
)
def test_they_cancel(lines: str, expected: list[str]) -> None:
    is_old = "h = " in lines
    model = model_of(f"{FORTH} {lines} {BACK}", opset=13 if is_old else 20)
    whole = ["Neg", *expected, "Abs"]
    is_certified = "PRelu" in lines or "d = " in lines
    assert_rewritten(model, NAME, whole, rtol=0, atol=0, certified=is_certified)


def test_one_that_others_read_stays() -> None:
    model = model_of(f"{FORTH} a = Relu(t) b = Transpose<perm=[0,3,1,2]>(a) s = Exp(t) "
                     "c = Transpose<perm=[0,3,1,2]>(s) z = Add(b, c)")  # fmt: skip
    assert_rewritten(model, NAME, ["Neg", "Relu", "Exp", "Add", "Abs"], rtol=0, atol=0)
    model = model_of(f"{FORTH} a = Relu(t) b = Transpose<perm=[0,3,1,2]>(a) "
                     "s = ReduceMax(t) z = Add(b, s)")  # fmt: skip
    expected = ["Neg", "Transpose", "ReduceMax", "Relu", "Add", "Abs"]
    assert sorted(operators(run_pass(model, NAME).to_proto())) == sorted(expected)


@pytest.mark.parametrize(
    "lines",
    [
        f"{FORTH} a = Relu(t) z = Transpose<perm=[0,2,3,1]>(a)",
        f"{FORTH} a = Softmax<axis=1>(t) {BACK}",
        f"a = Relu(y) {BACK}",
        f"a = Add(full, k) {BACK}",
        f"{FORTH} a = Add(t, y) {BACK}",
        f"{FORTH} a = Add(t, v) {BACK}",
        f"{FORTH} a = Relu(t) b = Exp(a) c = Transpose<perm=[0,3,1,2]>(b) s = ReduceMax(a) "
        "z = Add(c, s)",
        f"u = Transpose<perm=[0,3,2,1]>(y) {FORTH} a = Add(t, u) {BACK}",
        f"t = Transpose(y) a = Relu(t) {BACK}",
        f"{FORTH} a0 = Neg(t) {LONG} z = Transpose<perm=[0,3,1,2]>(a16)",
    ],
)
def test_others_stay(lines: str) -> None:
    assert not run_pass(model_of(lines, x="3,3,3,3"), NAME).record.rewrites


def test_they_cancel_around_sixteen_operators() -> None:
    sixteen = LONG.replace("(a0)", "(t)").replace("a16", "a")
    model = model_of(f"{FORTH} {sixteen} {BACK}")
    assert "Transpose" not in operators(run_pass(model, NAME).to_proto())


def test_before_opset_7_an_axis_says_where_an_operand_goes() -> None:
    model = model_of(f"{FORTH} a = Add<broadcast=1, axis=3>(t, k) {BACK}", opset=6)
    assert not run_pass(model, NAME).record.rewrites


def test_operators_that_are_outputs_or_that_a_body_reads_stay() -> None:
    model = build(
        "(float[N,3,4] x) => (float[a,b,c] a, float[d,e,f] z) { t = Transpose<perm=[0,2,1]>(x) "
        "a = Relu(t) z = Transpose<perm=[0,2,1]>(a) }"
    )
    assert not run_pass(model, NAME).record.rewrites
    model = build(
        "(float[N,3,4] x, bool p) => (float[a,b,c] y, float[d,e,f] z) { "
        "t = Transpose<perm=[0,2,1]>(x) a = Relu(t) z = Transpose<perm=[0,2,1]>(a) "
        "y = If (p) <then_branch = g () => (float[a,b,c] m) { m = Neg(a) }, "
        "else_branch = h () => (float[a,b,c] n) { n = Exp(a) }> }"
    )
    assert not run_pass(model, NAME).record.rewrites
    model = build(
        "(float[N,3,4] x, bool p) => (float[a,b,c] y) { "
        "t = Transpose<perm=[0,2,1]>(x) a = Relu(t) "
        "y = If (p) <then_branch = g () => (float[a,b,c] m) { m = Transpose<perm=[0,2,1]>(a) }, "
        "else_branch = h () => (float[a,b,c] n) { n = Exp(x) }> }"
    )
    assert not run_pass(model, NAME).record.rewrites


def test_a_constant_that_a_caller_may_override_stays() -> None:
    model = build(
        "(float[N,3,4] x, float[3] k) => (float[a,b,c] z) { t = Transpose<perm=[0,2,1]>(x) "
        "a = Add(t, k) z = Transpose<perm=[0,2,1]>(a) }",
        k=normal(3),
    )
    assert not run_pass(model, NAME).record.rewrites


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_random_operators_between(data: st.DataObject) -> None:
    """Any order of axes, any constants: equal bits, fewer operators, and twice is once."""
    rank = data.draw(st.integers(2, 4))
    order = data.draw(st.permutations(range(rank)))
    back = data.draw(st.sampled_from([list(np.argsort(order)), list(order)]))
    sizes = [2, 3, 4, 5][:rank]
    turned = [sizes[axis] for axis in order]
    weights: Parameters = {}
    lines, names = [f"t = Transpose<perm={list(order)}>(y)"], ["t"]
    for number in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["Relu", "Add", "Mul", "Sub"]))
        one = data.draw(st.sampled_from(names))
        if kind == "Relu":
            lines.append(f"a{number} = Relu({one})")
        elif data.draw(st.booleans()):
            lines.append(f"a{number} = {kind}({one}, {data.draw(st.sampled_from(names))})")
        else:
            start = data.draw(st.integers(0, rank))
            kept = data.draw(st.lists(st.booleans(), min_size=rank, max_size=rank))
            shape = [n if keep else 1 for n, keep in zip(turned, kept, strict=True)][start:]
            weights[f"k{number}"] = normal(*shape)
            operands = data.draw(st.permutations([one, f"k{number}"]))
            lines.append(f"a{number} = {kind}({', '.join(operands)})")
        names.append(f"a{number}")
    lines.append(f"z = Transpose<perm={[int(axis) for axis in back]}>({names[-1]})")
    x = ",".join(["N", *map(str, sizes[1:])])
    result = ",".join("abcd"[:rank])
    text = f"(float[{x}] x) => (float[{result}] r) {{ y = Neg(x) {' '.join(lines)} r = Abs(z) }}"
    model = build(text, **weights)
    optimized = run_pass(model, NAME).to_proto()
    feeds = draw_feeds(model)
    for pair in zip(run_plain(model, feeds), run_plain(optimized, feeds), strict=True):
        np.testing.assert_array_equal(*pair)
    assert len(optimized.graph.node) <= len(model.graph.node)
    assert not run_pass(optimized, NAME).record.rewrites


def test_all_orders_of_three_axes() -> None:
    for order in list(itertools.permutations(range(3)))[1:]:
        for back in (order, tuple(order.index(axis) for axis in range(3))):
            first, last = (f"Transpose<perm={list(perm)}>" for perm in (order, back))
            model = model_of(f"t = {first}(y) a = Relu(t) z = {last}(a)", x="2,3,4")
            is_undone = [order[axis] for axis in back] == [0, 1, 2]
            assert bool(run_pass(model, NAME).record.rewrites) == is_undone
