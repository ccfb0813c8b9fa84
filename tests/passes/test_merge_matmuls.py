"""merge-matmuls: which branches are linear in one value, and which are not."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from bnfold.algebra.matrices.one_matrix import NotOneMatrix
from bnfold.algebra.weights import NotStorable
from bnfold.rewriting.contract import Common, Refusal
from tests.support.evaluate import assert_equivalent
from tests.support.graphs import (
    Parameters,
    build,
    draw_feeds,
    make_overridable,
    normal,
    only_node,
    operators,
)
from tests.support.linear import WEIGHTS, linear_model
from tests.support.passes import assert_refused, assert_rewritten, parameters, run_pass
from tests.support.slow import in_turn

NAME = "merge-matmuls"
LORA = "p = MatMul(x, w) q = MatMul(x, a) r = MatMul(q, c) t = Mul(r, s) y = Add(p, t)"


BRANCHES = [
    LORA,
    LORA.replace("Add(p, t)", "Add(t, p)"),
    LORA.replace("Add(p, t)", "Sub(p, t)"),
    LORA.replace("Add(p, t)", "Sub(t, p)"),
    LORA.replace("Mul(r, s)", "Div(r, s)"),
    LORA.replace("Mul(r, s)", "Mul(k, r)"),
    LORA.replace("q = MatMul(x, a)", "z = Div(x, k) q = MatMul(z, a)"),
    "p = MatMul(x, w) q = MatMul(x, v) y = Add(p, q)",
    "p = MatMul(x, w) y = Add(p, x)",
    "p = MatMul(x, w) y = Sub(x, p)",
    "p = MatMul(x, w) q = Mul(x, k) y = Sub(q, p)",
    "p = MatMul(x, w) q = Mul(x, s) y = Add(p, q)",
    "p = MatMul(x, w) q = MatMul(x, v) y = Sum(p, x, q)",
    "p = MatMul(x, w) q = MatMul(p, v) y = Add(p, q)",
    "p = MatMul(x, w) q = MatMul(x, v) t = Add(x, q) y = Sub(p, t)",
    "q = MatMul(x, a) r = MatMul(q, c) o = MatMul(x, a) u = MatMul(o, c) t = Add(r, u) "
    "p = MatMul(x, w) y = Sub(t, p)",
]


@pytest.mark.parametrize(("lines", "rank"), in_turn(BRANCHES, [1, 2, 3, 4]))
def test_branches_become_one_product(lines: str, rank: int) -> None:
    model = linear_model(lines, rank)
    optimized = run_pass(model, NAME, "compose-matmuls").to_proto()
    assert operators(optimized) == ["MatMul"]
    assert_equivalent(model, optimized, draw_feeds(model))
    last = "p = MatMul(x, w) q = MatMul(p, v)"
    expected = ["MatMul", "MatMul"] if lines.startswith(last) else ["MatMul"]
    assert_rewritten(model, NAME, expected)


SHIFTED = [
    LORA.replace("y = Add(p, t)", "z = Add(p, d) y = Add(z, t)"),
    LORA.replace("y = Add(p, t)", "z = Sub(d, p) y = Sub(t, z)"),
    LORA.replace("Mul(r, s)", "Add(s, r)"),
    "p = MatMul(x, w) q = Add(x, k) y = Sub(p, q)",
    "p = MatMul(x, w) q = Sub(k, x) y = Sub(q, p)",
    "z = Add(x, k) o = MatMul(x, w) p = MatMul(z, v) q = Mul(p, d) y = Sub(o, q)",
    "z = Add(x, s) o = MatMul(x, w) p = MatMul(z, v) y = Sub(o, p)",
]


@pytest.mark.parametrize(("lines", "rank"), in_turn(SHIFTED, [1, 2, 3, 4]))
def test_shifts_become_one(lines: str, rank: int) -> None:
    expected = ["Gemm"] if rank == 2 else ["MatMul", "Add"]
    optimized = assert_rewritten(linear_model(lines, rank), NAME, expected)
    assert {array.shape for array in parameters(optimized).values()} == {(6, 6), (6,)}


@pytest.mark.parametrize("shift", ["full", "rows"])
def test_a_shift_may_vary_along_other_axes(shift: str) -> None:
    lines = (
        f"p = MatMul(x, w) z = Add(p, {shift}) t = Sub(x, {shift}) q = MatMul(t, v) y = Add(z, q)"
    )
    assert_rewritten(linear_model(lines), NAME, ["MatMul", "Add"])
    assert_rewritten(linear_model(lines, 2, shape="3,6"), NAME, ["Gemm"])


TRANSPOSED = list(itertools.product([0, 1], [0, 1], [0.5, 0.0]))


@pytest.mark.parametrize(
    ("shape", "given"),
    in_turn([(6,), (1, 6), (3, 1), (3, 6), None, (), (1,)], TRANSPOSED),
)
def test_gemms(shape: tuple[int, ...] | None, given: tuple[int, int, float]) -> None:
    trans_a, trans_b, beta = given
    attributes = f"<alpha=0.7, beta={beta}, transA={trans_a}, transB={trans_b}>"
    bias: Parameters = {} if shape is None else {"m": np.asarray(normal(*shape))}
    more = ", m" if bias else ""
    model = linear_model(
        f"p = Gemm{attributes}(x, w{more}) q = Gemm<transA={trans_a}>(x, a, pair) "
        f"r = Gemm<transB=1, alpha=-2.0>(q, tall{more}) y = Sub(p, r)",
        2,
        shape="6,3" if trans_a else "3,6",
        pair=normal(2),
        tall=normal(6, 2),
        **bias,
    )
    assert_rewritten(model, NAME, ["Gemm"])


def test_only_one_of_two_gemms_reads_the_transpose() -> None:
    lines = "p = Gemm<transA=1>(x, w, d) q = Gemm(x, v, d) y = Add(p, q)"
    record = run_pass(linear_model(lines, 2, shape="6,6"), NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_a_matrix_in_a_batch_of_one() -> None:
    lines = "p = MatMul(x, one) y = Add(p, x)"
    optimized = assert_rewritten(linear_model(lines), NAME, ["MatMul"])
    assert {array.shape for array in parameters(optimized).values()} == {(6, 6)}
    assert not run_pass(linear_model(lines, 2, shape="3,6"), NAME).record.rewrites


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types(dtype: type[np.floating]) -> None:
    lines = LORA.replace("y = Add(p, t)", "z = Add(p, d) y = Add(z, t)")
    tolerance = 2e-2 if dtype is np.float16 else 1e-12
    model = linear_model(lines, dtype=dtype)
    optimized = assert_rewritten(model, NAME, ["MatMul", "Add"], rtol=tolerance, atol=tolerance)
    weights = {name: WEIGHTS[name].astype(dtype).astype(np.float64) for name in "wacs"}
    exact = weights["w"] + weights["a"] @ weights["c"] * weights["s"]
    (matrix,) = [each for each in parameters(optimized).values() if each.ndim == 2]
    np.testing.assert_array_equal(matrix, exact.astype(dtype))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            "p = MatMul(x, thin) q = MatMul(p, row) r = MatMul(x, a) o = MatMul(r, across) "
            "t = MatMul(o, row) y = Add(q, t)",
            NotOneMatrix.MORE_MULTIPLICATIONS,
        ),
        (f"{LORA} z = Neg(p)", Common.SHARED),
        (f"{LORA} z = Neg(r)", None),
        (f"{LORA} z = Neg(q)", None),
        (f"{LORA} z = Neg(t)", None),
        ("p = MatMul(x, w) y = Add(p, x) z = Neg(p)", Common.SHARED),
        ("z = MatMul(x, w) y = Add(z, x)", Common.SHARED),
        (LORA, Common.WEIGHT_OVERRIDABLE),
        ("p = MatMul(x, most) q = MatMul(x, most) y = Add(p, q)", NotStorable.NOT_REPRESENTABLE),
    ],
)
def test_refusals(lines: str, reason: Refusal | None) -> None:
    model = linear_model(lines, most=np.full((6, 6), 3e38, np.float32), across=normal(2, 1))
    if "z = " in lines:
        sizes = ["i", "j", None]
        model.graph.output.append(
            onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, sizes)
        )
    if reason is Common.WEIGHT_OVERRIDABLE:
        make_overridable(model, "c")
    if reason is None:  # more goes than one matrix costs
        optimized = run_pass(model, NAME).to_proto()
        assert len(optimized.graph.node) < len(model.graph.node)
        assert_equivalent(model, optimized, draw_feeds(model))
    else:
        assert_refused(model, NAME, reason)


@pytest.mark.parametrize(
    ("lines", "shape"),
    [
        ("p = MatMul(x, w) o = Sigmoid(x) y = Add(p, o)", ""),
        ("p = MatMul(x, w) o = Sigmoid(x) q = MatMul(o, w) y = Add(p, q)", ""),
        ("p = MatMul(x, w) y = Add(p, d)", ""),
        ("o = Mul(x, s) y = Add(x, o)", ""),
        ("p = MatMul(x, heads) y = Add(p, x)", "N,1,3,6"),
        ("p = MatMul(x, heads) y = Add(p, x)", "2,N,3,6"),
        ("p = MatMul(x, heads) y = Add(p, x)", "3,6"),
        ("p = MatMul(x, thin) y = Add(p, x)", ""),
        ("p = MatMul(x, thin) q = Mul(p, k) r = MatMul(x, thin) o = Mul(r, k) y = Add(q, o)", ""),
        ("p = MatMul(x, thin) q = MatMul(x, w) y = Add(p, q)", ""),
        ("p = MatMul(x, w) q = Mul(x, rows) y = Add(p, q)", ""),
        ("p = MatMul(x, w) q = Mul(x, full) y = Add(p, q)", ""),
        ("p = MatMul(x, w) q = Add(x, full) y = Add(p, q)", "N,M,6"),
        ("p = MatMul(x, w) q = Add(x, full) y = Add(p, q)", "N,1,6"),
        ("p = MatMul(x, w) q = Add(x, one) y = Add(p, q)", "6,6"),
        ("p = MatMul(x, w) q = Div(k, x) y = Add(p, q)", ""),
        ("p = MatMul(x, w) q = Add(x, huge) y = Add(p, q)", ""),
        ("p = MatMul(w, x) y = Add(p, x)", "6,6"),
        ("p = MatMul(x, x) y = Add(p, x)", "6,6"),
        ("p = Gemm(x, w, x) y = Add(p, x)", "6,6"),
    ],
)
def test_other_sums_stay_without_a_refusal(lines: str, shape: str) -> None:
    model = linear_model(lines, len(shape.split(",")) if shape else 3, shape=shape)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    record = run_pass(model, NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_integers_wrap_around_where_they_overflow() -> None:
    model = linear_model("p = MatMul(x, w) y = Add(p, x)", dtype=np.int32)
    assert not run_pass(model, NAME).record.rewrites


def test_the_name_of_the_largest_product_stays() -> None:
    model = linear_model(LORA)
    for node, name in zip(model.graph.node, ["base", "down", "up", "scale", "sum"], strict=True):
        node.name = name
    assert only_node(run_pass(model, NAME).to_proto(), "MatMul").name == "base"


def test_each_rewrite_is_certified() -> None:
    lines = LORA.replace("y = Add(p, t)", "z = Add(p, full) y = Add(z, t)")
    result = bnfold.optimize(linear_model(lines), only=[NAME], certify="always")
    (rewrite,) = result.record.rewrites
    assert rewrite.certificate is not None
    assert rewrite.certificate.verdict == "certified"


@pytest.mark.parametrize("outside", ["b = MatMul(x, w)", "b = Mul(x, k)"])
def test_a_branch_outside_the_body_is_out_of_reach(outside: str) -> None:
    model = linear_model(
        f"{outside} y = If (g) <"
        "then_branch = t () => (float[i,j,k2] o) { p = MatMul(x, v) o = Add(p, b) }, "
        "else_branch = f () => (float[i,j,k2] n) { n = Neg(b) }>",
        g=np.array(True),
    )
    model.graph.initializer[-1].CopyFrom(onnx.numpy_helper.from_array(np.array(True), "g"))
    assert not run_pass(model, NAME).record.rewrites


@st.composite
def sums(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw a tree of sums, products and scales of one value."""
    lines: list[str] = []
    weights: Parameters = {}

    def value(depth: int, size: int) -> str:
        kind = draw(st.sampled_from(["product", "sum", "scale", "shift"])) if depth else "product"
        if kind == "product":
            source, inner = "x", 6
            if depth and draw(st.booleans()):
                inner = draw(st.sampled_from([2, 6, 9]))
                source = value(depth - 1, inner)
            name = f"v{len(lines)}"
            weights[f"w_{name}"] = normal(inner, size, seed=len(lines))
            lines.append(f"{name} = MatMul({source}, w_{name})")
        elif kind == "sum":
            first, second = value(depth - 1, size), value(depth - 1, size)
            name = f"v{len(lines)}"
            lines.append(
                f"{name} = {draw(st.sampled_from(['Add', 'Sub', 'Sum']))}({first}, {second})"
            )
        else:
            source = value(depth - 1, size)
            name = f"v{len(lines)}"
            shape = draw(st.sampled_from([(), (1,), (size,), (1, size)]))
            weights[f"k_{name}"] = np.asarray(normal(*shape, seed=len(lines)))
            op = draw(st.sampled_from(["Mul", "Div"] if kind == "scale" else ["Add", "Sub"]))
            operands = [source, f"k_{name}"]
            if op != "Div" and draw(st.booleans()):
                operands.reverse()
            lines.append(f"{name} = {op}({', '.join(operands)})")
        return name

    last = value(draw(st.integers(1, 3)), 6)
    lines.append(f"y = Neg({last})")
    rank = draw(st.integers(2, 4))
    return linear_model(" ".join(lines), rank, **weights)


@settings(max_examples=15, deadline=None)
@given(sums())
def test_random_sums(model: onnx.ModelProto) -> None:
    result = run_pass(model, NAME, "compose-matmuls")
    optimized = result.to_proto()
    assert_equivalent(model, optimized, draw_feeds(model), rtol=1e-3, atol=1e-4)
    assert not run_pass(optimized, NAME, "compose-matmuls").record.rewrites
    assert len(optimized.graph.node) <= len(model.graph.node)


@pytest.mark.parametrize(("axis", "is_bias"), [(0, False), (1, True), (-1, True), (-2, False)])
def test_before_opset_7_the_axis_says_what_is_a_bias(axis: int, is_bias: bool) -> None:
    model = build(
        f"(float[4,4] x) => (float[4,4] y) {{ p = MatMul(x, w) a = Add<broadcast=1, axis={axis}>"
        "(p, k) q = MatMul(x, u) y = Add(a, q) }",
        opset=6,
        w=normal(4, 4),
        u=normal(4, 4, seed=1),
        k=normal(4),
    )
    found = operators(run_pass(model, NAME).to_proto())
    assert found == (["Gemm"] if is_bias else ["MatMul", "Add", "MatMul", "Add"])


FACTORS: Parameters = {
    "a": normal(8, 2),
    "b": normal(2, 7, seed=1),
    "c": normal(8, 1, seed=2),
    "d": normal(1, 7, seed=3),
    "e": normal(7, seed=4),
    "f": normal(2, seed=5),
    "g": normal(7, 2, seed=6),
}
TWO = "p = MatMul(x, a) q = MatMul(p, b) r = MatMul(x, c) s = MatMul(r, d)"


def low_rank(lines: str, shape: str = "N,3") -> onnx.ModelProto:
    """Return a sum y of products of two small matrices each."""
    read = {n: each for n, each in FACTORS.items() if f", {n})" in lines or f", {n}," in lines}
    text = f"(float[{shape},8] x) => (float[{shape},7] y) {{ {lines} }}"
    return build(text, **read)


@pytest.mark.parametrize(
    ("lines", "has_shift", "shape"),
    [
        (f"{TWO} y = Add(q, s)", False, "N"),
        (f"{TWO} y = Sub(q, s)", False, "2,3"),
        (f"{TWO} y = Sub(s, q)", False, "N,L,1"),
        (f"{TWO} y = Sum(q, s)", False, "N"),
        (f"{TWO.replace('MatMul(p,', 'MatMul(k,').replace(' q', ' k = Mul(p, f) q')} "
         "u = Mul(s, e) y = Sub(q, u)", False, "N,L,1"),
        (f"{TWO.replace('MatMul(p,', 'MatMul(k,').replace(' q', ' k = Add(p, f) q')} "
         "u = Add(s, e) y = Sub(q, u)", True, "2,3"),
        (f"{TWO} u = Add(q, e) y = Sub(s, u)", True, "N"),
        (f"{TWO} u = Add(q, e) y = Sub(s, u)", True, "N,L,1"),
    ],
)  # fmt: skip
def test_products_of_low_rank_stand_side_by_side(lines: str, has_shift: bool, shape: str) -> None:
    model = low_rank(lines, shape)
    last = ["Gemm"] if shape == "N" else ["MatMul", "Add"]
    expected = ["MatMul", *(last if has_shift else ["MatMul"])]
    is_certified = shape == "2,3"
    assert_rewritten(model, NAME, expected, sizes={"L": 2}, certified=is_certified)


def test_factors_may_be_gemms() -> None:
    lines = "p = Gemm(x, a, f) q = Gemm<transB=1, alpha=2.0>(p, g) r = MatMul(x, c) "
    model = low_rank(f"{lines} s = MatMul(r, d) y = Add(s, q)", "3")
    assert_rewritten(model, NAME, ["MatMul", "Gemm"], certified=True)


def test_what_is_computed_in_one_type_is_stored_in_it() -> None:
    optimized = run_pass(low_rank(f"{TWO} y = Sub(q, s)"), NAME).to_proto()
    assert [array.shape for array in parameters(optimized).values()] == [(8, 3), (3, 7)]
    columns, rows = parameters(optimized).values()
    np.testing.assert_array_equal(columns, np.concatenate([FACTORS["a"], FACTORS["c"]], 1))
    np.testing.assert_array_equal(rows, np.concatenate([FACTORS["b"], -FACTORS["d"]], 0))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (f"{TWO} z = Relu(p) w = MatMul(z, b) v = Add(q, s) y = Add(v, w)", Common.SHARED),
        (f"{TWO} z = Relu(q) v = Add(q, s) y = Add(v, z)", Common.SHARED),
    ],
)
def test_a_factor_that_is_read_elsewhere_stays(lines: str, reason: Refusal) -> None:
    assert_refused(low_rank(lines), NAME, reason)


def test_an_overridable_factor_stays() -> None:
    model = make_overridable(low_rank(f"{TWO} y = Add(q, s)"), "d")
    assert_refused(model, NAME, Common.WEIGHT_OVERRIDABLE)


@pytest.mark.parametrize(
    "lines",
    [
        "z = Relu(x) p = MatMul(x, a) q = MatMul(p, b) r = MatMul(z, c) s = MatMul(r, d) "
        "y = Add(q, s)",
        "p = MatMul(x, a) t = Relu(p) q = MatMul(t, b) r = MatMul(x, c) s = MatMul(r, d) "
        "y = Add(q, s)",
    ],
)
def test_factors_of_different_values_stay(lines: str) -> None:
    record = run_pass(low_rank(lines), NAME).record
    assert not record.rewrites
    assert not record.refusals
