"""compose-matmuls: products in a row, where one costs no more."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.algebra.one_matrix import NotOneMatrix
from bnfold.rewriting.contract import Common
from tests.support.evaluate import assert_equivalent
from tests.support.graphs import Parameters, draw_feeds, make_overridable, normal, operators
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
