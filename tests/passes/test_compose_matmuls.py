"""compose-matmuls: products in a row, where one costs no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from bnfold.algebra.matrices.one_matrix import NotOneMatrix
from bnfold.rewriting.contract import Common
from tests.support.evaluate import assert_equivalent
from tests.support.graphs import (
    Parameters,
    build,
    draw_feeds,
    make_overridable,
    normal,
    operators,
)
from tests.support.linear import WEIGHTS, linear_model
from tests.support.passes import assert_refused, assert_rewritten, parameters, run_pass

NAME = "compose-matmuls"


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "lines",
    [
        "p = MatMul(x, w) y = MatMul(p, v)",
        "p = MatMul(x, wide) y = MatMul(p, back)",
        "p = MatMul(x, w) q = MatMul(p, wide) y = MatMul(q, back)",
        "p = MatMul(x, w) q = Mul(p, k) y = MatMul(q, v)",
        "p = MatMul(x, w) q = Mul(p, k) r = MatMul(x, a) t = MatMul(r, c) u = Sub(q, t) "
        "y = MatMul(u, v)",
    ],
)
def test_products_become_one(lines: str, rank: int) -> None:
    assert_rewritten(linear_model(lines, rank), NAME, ["MatMul"])


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
@pytest.mark.parametrize("lines", ["q = Add(p, e)", "q = Sub(e, p)", "z = Mul(p, e) q = Add(e, z)"])
def test_a_bias_between(lines: str, rank: int) -> None:
    model = linear_model(f"p = MatMul(x, wide) {lines} y = MatMul(q, back)", rank)
    assert_rewritten(model, NAME, ["Gemm"] if rank == 2 else ["MatMul", "Add"])


@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("shape", [None, (), (1,), (9,), (1, 9), (3, 1), (3, 9)])
def test_gemms(transposed: tuple[int, int], beta: float, shape: tuple[int, ...] | None) -> None:
    trans_a, trans_b = transposed
    bias: Parameters = {} if shape is None else {"m": np.asarray(normal(*shape))}
    model = linear_model(
        f"p = Gemm<alpha=0.7, beta={beta}, transA={trans_a}>(x, wide{', m' if bias else ''}) "
        f"y = Gemm<alpha=-2.0, beta={beta}, transB={trans_b}>(p, u, d)",
        2,
        shape="6,3" if trans_a else "3,6",
        u=normal(6, 9) if trans_b else normal(9, 6),
        **bias,
    )
    assert_rewritten(model, NAME, ["Gemm"])


def test_a_gemm_that_transposes_what_is_computed_stays() -> None:
    lines = "p = MatMul(x, w) y = Gemm<transA=1>(p, v, d)"
    record = run_pass(linear_model(lines, 2, shape="6,6"), NAME).record
    assert not record.rewrites
    assert not record.refusals


@pytest.mark.parametrize(("inner", "composes"), [(2, False), (3, True), (4, True)])
def test_as_many_multiplications_are_few_enough(inner: int, composes: bool) -> None:
    """36 for one matrix, and 12 for each row or column between the two."""
    weights: Parameters = {"f": normal(6, inner), "g": normal(inner, 6)}
    model = linear_model("p = MatMul(x, f) y = MatMul(p, g)", **weights)
    if composes:
        optimized = assert_rewritten(model, NAME, ["MatMul"])
        (matrix,) = parameters(optimized).values()
        exact = weights["f"].astype(np.float64) @ weights["g"].astype(np.float64)
        np.testing.assert_array_equal(matrix, exact.astype(np.float32))
    else:
        assert_refused(model, NAME, NotOneMatrix.MORE_MULTIPLICATIONS)


@pytest.mark.parametrize(
    ("lines", "first", "is_read"),
    [
        ("p = MatMul(x, wide) y = MatMul(p, back)", "wide", True),
        ("p = MatMul(x, w) y = MatMul(p, v)", "w", False),
    ],
)
def test_a_shared_product_stays(lines: str, first: str, is_read: bool) -> None:
    """x·(A·B) may still be cheaper than B alone, as it has fewer rows."""
    model = linear_model(f"{lines} z = Neg(p)")
    columns = WEIGHTS[first].shape[1]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["i", "j", columns])
    )
    if is_read:
        optimized = run_pass(model, NAME).to_proto()
        assert sorted(operators(optimized)) == ["MatMul", "MatMul", "Neg"]
        assert all("x" in node.input for node in optimized.graph.node if node.op_type == "MatMul")
        assert_equivalent(model, optimized, draw_feeds(model))
    else:
        assert_refused(model, NAME, Common.SHARED)


def test_the_name_of_a_product_that_stays_is_not_given_twice() -> None:
    """`wide` has more elements than `back`, but it stays; onnxruntime refuses equal names."""
    model = linear_model("p = MatMul(x, wide) y = MatMul(p, back) z = Neg(p)")
    for node in model.graph.node:
        node.name = f"computes {node.output[0]}"
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["i", "j", 9])
    )
    optimized = run_pass(model, NAME).to_proto()
    names = [node.name for node in optimized.graph.node]
    assert sorted(names) == ["computes p", "computes y", "computes z"]
    assert_equivalent(model, optimized, draw_feeds(model))


def test_a_shared_product_with_a_bias_stays() -> None:
    """An Add would be made for the one product that goes."""
    model = linear_model("p = MatMul(x, wide) q = Add(p, e) y = MatMul(q, back) z = Neg(q)")
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["i", "j", 9])
    )
    assert_refused(model, NAME, Common.SHARED)


@pytest.mark.parametrize("name", ["w", "v", "d"])
def test_an_overridable_weight(name: str) -> None:
    model = linear_model("p = Gemm(x, w, d) y = Gemm(p, v, k)", 2)
    assert_refused(make_overridable(model, name), NAME, Common.WEIGHT_OVERRIDABLE)


@pytest.mark.parametrize(
    "lines",
    [
        "p = MatMul(x, w) q = Relu(p) y = MatMul(q, v)",
        "p = MatMul(x, w) q = Mul(p, rows) y = MatMul(q, v)",
        "p = MatMul(x, w) q = Add(p, huge) y = MatMul(q, v)",
        "p = MatMul(x, w) q = Transpose<perm=[0,2,1]>(p) t = MatMul(p, q) y = MatMul(t, p)",
        "y = MatMul(x, w)",
        "q = Mul(x, k) y = MatMul(q, w)",
        "p = MatMul(x, thin) q = Mul(p, k) y = MatMul(q, w)",
        "p = MatMul(x, wide) y = MatMul(p, w)",  # no model that runs
    ],
)
def test_others_stay_without_a_refusal(lines: str) -> None:
    record = run_pass(linear_model(lines), NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_each_rewrite_is_certified() -> None:
    lines = "p = MatMul(x, wide) q = Add(p, e) y = MatMul(q, back)"
    result = bnfold.optimize(linear_model(lines), only=[NAME], certify="always")
    (rewrite,) = result.record.rewrites
    assert rewrite.certificate is not None
    assert rewrite.certificate.verdict == "certified"


@pytest.mark.parametrize("opset", [6, 9, 13, 21])
def test_all_opsets(opset: int) -> None:
    lines = "p = MatMul(x, wide) y = Gemm<broadcast=1>(p, back, d)"
    lines = lines if opset < 7 else lines.replace("<broadcast=1>", "")
    model = linear_model(lines, 2, opset=opset)
    assert operators(run_pass(model, NAME).to_proto()) == ["Gemm"]
    if opset >= 9:
        assert_rewritten(model, NAME, ["Gemm"])


def test_a_long_chain_becomes_one() -> None:
    lines = " ".join(f"v{i + 1} = MatMul(v{i}, {'wv'[i % 2]})" for i in range(100))
    weights = {name: WEIGHTS[name] / np.float32(3) for name in "wv"}
    model = linear_model(f"v0 = MatMul(x, w) {lines} y = MatMul(v100, w)", **weights)
    assert_rewritten(model, NAME, ["MatMul"], rtol=1e-3, atol=1e-4)


# --- Batches of matrices, and other shapes between ------------------------------------------------


@pytest.mark.parametrize("shape", ["N,2,3,6", "2,M,6", "2,3,6"])
@pytest.mark.parametrize(
    "lines",
    [
        "p = MatMul(x, heads) y = MatMul(p, v)",
        "p = MatMul(x, w) y = MatMul(p, heads)",
        "p = MatMul(x, heads) q = Mul(p, k) y = MatMul(q, heads)",
        "p = MatMul(x, one) y = MatMul(p, heads)",
        "p = MatMul(x, one) y = MatMul(p, v)",
    ],
)
def test_batches(lines: str, shape: str) -> None:
    model = linear_model(lines, len(shape.split(",")), shape=shape)
    assert_rewritten(model, NAME, ["MatMul"])


@pytest.mark.parametrize("shift", ["d", "full", "each"])
@pytest.mark.parametrize("second", ["heads", "v", "one"])
def test_a_bias_between_batches(second: str, shift: str) -> None:
    lines = f"p = MatMul(x, heads) q = Add(p, {shift}) y = MatMul(q, {second})"
    model = linear_model(lines, 4, each=normal(2, 3, 6))
    assert_rewritten(model, NAME, ["MatMul", "Add"])


def test_a_batch_is_not_made_where_it_takes_more_space() -> None:
    """As many multiplications for each row, but 3 · 36 elements instead of 36 + 3 · 12 + 24."""
    weights: Parameters = {"f": normal(6, 6), "g": normal(3, 6, 2), "h": normal(2, 6)}
    lines = "p = MatMul(x, f) q = MatMul(p, g) y = MatMul(q, h)"
    model = linear_model(lines, 3, shape="3,N,6", **weights)
    assert operators(run_pass(model, NAME).to_proto()) == ["MatMul", "MatMul"]
    model = linear_model("p = MatMul(x, a) y = MatMul(p, g)", 3, shape="3,N,6", g=normal(3, 2, 3))
    assert_refused(model, NAME, NotOneMatrix.MORE_MULTIPLICATIONS)


TARGETS: Parameters = {
    "flat": np.array([-1, 9], np.int64),
    "flat6": np.array([-1, 6], np.int64),
    "apart": np.array([-1, 2, 9], np.int64),
    "kept": np.array([0, 0, 9], np.int64),
    "front": np.array([0], np.int64),
    "none": np.array([4, 0, 9], np.int64),
    "turned": np.array([-1, 1, 6, 1], np.int64),
}


def with_targets(lines: str, rank: int, shape: str = "", **weights: Any) -> onnx.ModelProto:
    used = {name: array for name, array in TARGETS.items() if f" {name})" in lines}
    model = linear_model(lines, rank, shape=shape, **weights)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in used.items())
    return model


@pytest.mark.parametrize(
    ("lines", "rank"),
    [
        ("p = MatMul(x, wide) q = Reshape(p, flat) y = MatMul(q, back)", 2),
        ("p = MatMul(x, wide) q = Reshape(p, apart) y = MatMul(q, back)", 3),
        ("p = MatMul(x, wide) q = Unsqueeze(p, front) y = MatMul(q, back)", 4),
        ("p = MatMul(x, wide) q = Flatten<axis=-1>(p) y = MatMul(q, back)", 2),
    ],
)
def test_another_shape_between(lines: str, rank: int) -> None:
    assert_rewritten(with_targets(lines, rank, "N,4,6"), NAME, ["Reshape", "MatMul"])


@pytest.mark.parametrize("shift", ["Add(p, e)", "Sub(e, p)", "Add(p, deep)"])
def test_a_bias_before_another_shape(shift: str) -> None:
    lines = f"p = MatMul(x, wide) t = {shift} q = Reshape(t, flat) y = MatMul(q, back)"
    model = with_targets(lines, 2, "N,4,6", deep=normal(1, 1, 9))
    assert_rewritten(model, NAME, ["Reshape", "Gemm"])


@pytest.mark.parametrize("bias", [(), (9,), (1, 9)])
def test_a_gemm_before_another_shape(bias: tuple[int, ...]) -> None:
    lines = "p = Gemm(x, wide, m) q = Reshape(p, apart) y = MatMul(q, back)"
    model = with_targets(lines, 3, "8,6", m=np.asarray(normal(*bias)))
    assert_rewritten(model, NAME, ["Reshape", "MatMul", "Add"])


def test_dense_layers_of_keras() -> None:
    """Each product is one of a matrix of rows, and then has the shape again, of free sizes."""
    weights: Parameters = {name: WEIGHTS[name] for name in ("wide", "back", "e", "d")}
    integers = {"zero": [0], "two": [2], "nine": [9], "six": [6], "rows": [-1, 6], "wider": [-1, 9]}
    weights |= {name: np.array(numbers, np.int64) for name, numbers in integers.items()}
    model = build(
        "(float[B,T,6] x) => (float[B,T,6] y) { s = Shape(x) n = Slice(s, zero, two) "
        "x2 = Reshape(x, rows) p2 = MatMul(x2, wide) np = Concat<axis=0>(n, nine) "
        "p = Reshape(p2, np) t = Add(p, e) t2 = Reshape(t, wider) q2 = MatMul(t2, back) "
        "nq = Concat<axis=0>(n, six) q = Reshape(q2, nq) y = Add(q, d) }",
        **weights,
    )
    expected = ["Shape", "Slice", "Reshape", "Gemm", "Concat", "Reshape", "Add"]
    optimized = run_pass(model, NAME, "merge-reshapes", "strip-identity").to_proto()
    assert sorted(operators(optimized)) == sorted(expected)
    assert_equivalent(model, optimized, draw_feeds(model, sizes={"T": 5}))


def test_no_rows_at_all() -> None:
    """A 0 in the shape that a Reshape is given means the size of its input."""
    lines = "p = MatMul(x, wide) q = Reshape(p, flat) y = MatMul(q, back)"
    assert_rewritten(with_targets(lines, 2, "3,0,6"), NAME, ["Reshape", "MatMul"])
    lines = lines.replace("Reshape(p, flat)", "Reshape<allowzero=1>(p, none)")
    assert not run_pass(with_targets(lines, 3, "0,4,6"), NAME).record.rewrites


@pytest.mark.parametrize(
    ("lines", "rank"),
    [
        ("p = MatMul(x, wide) q = Reshape(p, odd) y = MatMul(q, third)", 2),
        ("p = MatMul(x, wide) t = Add(p, rows9) q = Reshape(t, flat) y = MatMul(q, back)", 2),
        ("p = MatMul(x, wide) t = Mul(p, rows1) q = Reshape(t, flat) y = MatMul(q, back)", 2),
        ("p = MatMul(x, heads) q = Reshape(p, flat6) y = MatMul(q, w)", 2),
    ],
)
def test_what_differs_by_rows_stays_before_another_shape(lines: str, rank: int) -> None:
    weights: Parameters = {
        "third": normal(3, 3),
        "rows9": normal(2, 9),
        "rows1": normal(2, 1),
    }
    model = with_targets(lines, rank, "2,2,6", **weights)
    if "odd" in lines:
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array([-1, 3], np.int64), "odd")
        )
    record = run_pass(model, NAME).record
    assert not record.rewrites
    assert not record.refusals


@st.composite
def chains(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw operators in a row over (2, 2, 3, 6), and what the shape is after each."""
    lines: list[str] = []
    weights: Parameters = {}
    leading, width, value = [2, 2, 3], 6, "x"
    for step in range(draw(st.integers(2, 7))):
        kind = draw(st.sampled_from(["product", "product", "scale", "shift", "reshape", "branch"]))
        name, w = f"v{step}", f"w{step}"
        rank = len(leading)
        if kind in ("product", "branch"):
            after = width if kind == "branch" else draw(st.sampled_from([2, 6, 9]))
            depth = draw(st.integers(0, rank - 1))
            batch = [draw(st.sampled_from([1, size])) for size in leading[:-1]][rank - 1 - depth :]
            weights[w] = normal(*batch, width, after, seed=step)
            if kind == "product":
                lines.append(f"{name} = MatMul({value}, {w})")
            else:
                lines.append(f"b{step} = MatMul({value}, {w}) {name} = Sub(b{step}, {value})")
            width = after
        elif kind == "reshape":
            leading = list(draw(st.sampled_from([(12,), (2, 6), (3, 4), (2, 3, 2), (2, 2, 3)])))
            is_open = draw(st.booleans())
            target = [-1 if is_open and at == 0 else size for at, size in enumerate(leading)]
            weights[w] = np.array([*target, width], np.int64)
            lines.append(f"{name} = Reshape({value}, {w})")
        else:
            axes = [draw(st.sampled_from([1, size])) for size in leading]
            used = axes[draw(st.integers(0, rank)) :] if kind == "shift" else [1] * rank
            weights[w] = normal(*used, width, seed=step)
            lines.append(f"{name} = {'Add' if kind == 'shift' else 'Mul'}({value}, {w})")
        value = name
    lines.append(f"y = Neg({value})")
    result = ",".join("ijkl"[: len(leading) + 1])
    batch_name = draw(st.sampled_from(["2", "N"]))
    return build(
        f"(float[{batch_name},2,3,6] x) => (float[{result}] y) {{ {' '.join(lines)} }}", **weights
    )


@settings(max_examples=20, deadline=None)
@given(chains())
def test_random_chains(model: onnx.ModelProto) -> None:
    result = run_pass(model, NAME, "merge-matmuls")
    optimized = result.to_proto()
    assert_equivalent(model, optimized, draw_feeds(model), rtol=1e-3, atol=1e-4)
    assert not run_pass(optimized, NAME, "merge-matmuls").record.rewrites
    assert len(optimized.graph.node) <= len(model.graph.node)
