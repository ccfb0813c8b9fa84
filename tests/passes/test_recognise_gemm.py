"""recognise-gemm: a MatMul and a bias are one Gemm where x is a matrix."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfold.rewriting.contract import Common
from tests.support.graphs import Parameters, build, normal, operators
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "recognise-gemm"


def model_of(
    bias: tuple[int, ...] = (5,),
    *,
    x: str = "N,4",
    weight: tuple[int, ...] = (4, 5),
    add: str = "Add(p, b)",
    result: str = "float[M,K] y",
    lines: str = "",
    opset: int = 17,
    dtype: type[np.generic] = np.float32,
) -> onnx.ModelProto:
    kind = {"float64": "double"}.get(np.dtype(dtype).name, np.dtype(dtype).name)
    kind = "float" if kind == "float32" else kind
    text = f"(float[{x}] x) => ({result}) {{ p = MatMul(x, w) y = {add} {lines} }}"
    weights: Parameters = {"w": normal(*weight, dtype=dtype), "b": normal(*bias, dtype=dtype)}
    return build(text.replace("float[", f"{kind}["), opset=opset, **weights)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18])
@pytest.mark.parametrize("add", ["Add(p, b)", "Add(b, p)"])
def test_a_bias_of_any_operator_set(opset: int, add: str) -> None:
    assert_rewritten(model_of(opset=opset, add=add), NAME, ["Gemm"], certified=True)


@pytest.mark.parametrize(
    ("bias", "x"),
    [((), "N,4"), ((1,), "N,4"), ((1, 5), "N,4"), ((1, 1), "N,4"), ((3, 5), "3,4"), ((3, 1), "3,4"),
     ((5,), "1,4"), ((1, 5), "1,4")],
)  # fmt: skip
def test_a_bias_of_any_shape(bias: tuple[int, ...], x: str) -> None:
    assert_rewritten(model_of(bias, x=x), NAME, ["Gemm"], certified=True)


def test_rows_of_no_batch() -> None:
    assert_rewritten(model_of(), NAME, ["Gemm"], sizes={"N": 0})


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_of_other_types(dtype: type[np.generic]) -> None:
    assert_rewritten(model_of(dtype=dtype), NAME, ["Gemm"], rtol=1e-2, atol=1e-2, certified=True)


def test_a_row_of_two() -> None:
    text = (
        "(float[N,4] x) => (float[N,3] y) "
        "{ p = MatMul(x, w) q = Add(p, b) r = Relu(q) s = MatMul(r, v) y = Add(c, s) }"
    )
    model = build(text, w=normal(4, 5), b=normal(5), v=normal(5, 3), c=normal(3))
    assert_rewritten(model, NAME, ["Gemm", "Relu", "Gemm"], certified=True)


@pytest.mark.parametrize(
    ("bias", "x", "weight"),
    [
        ((5,), "N,2,4", (4, 5)),
        ((5,), "4", (4, 5)),
        ((5,), "N,4", (2, 4, 5)),
        ((1,), "N,4", (4,)),
        ((5,), "N,4", (4, 1)),
        ((3, 5), "N,4", (4, 5)),
        ((3, 5), "1,4", (4, 5)),
        ((3, 1), "N,4", (4, 5)),
        ((1, 1, 5), "N,4", (4, 5)),
        ((5,), "N,0", (0, 5)),
    ],
)
def test_others_stay(bias: tuple[int, ...], x: str, weight: tuple[int, ...]) -> None:
    result = run_pass(model_of(bias, x=x, weight=weight, result="float[M] y"), NAME)
    assert not result.record.rewrites


@pytest.mark.parametrize("add", ["Sub(p, b)", "Add(p, p)", "Mul(p, b)"])
def test_other_operators_stay(add: str) -> None:
    result = run_pass(model_of(add=add, weight=(4, 4), bias=(4,)), NAME)
    assert not result.record.rewrites


@pytest.mark.parametrize("x", ["N,4", "3,4", "1,4"])
@pytest.mark.parametrize("add", ["Add(p, x)", "Add(x, p)"])
def test_a_value_of_its_shape(x: str, add: str) -> None:
    model = model_of(add=add, x=x, weight=(4, 4))
    assert_rewritten(model, NAME, ["Gemm"], certified=True)


@pytest.mark.parametrize(
    ("other", "expected"),
    [("M,5", ["MatMul", "Add"]), ("N,1", ["MatMul", "Add"]), ("5", ["Gemm"]), ("1,1", ["Gemm"]),
     ("2,1,5", ["MatMul", "Add"])],
)  # fmt: skip
def test_a_value_of_another_shape(other: str, expected: list[str]) -> None:
    """Sizes of two inputs may differ, whatever their names are."""
    text = (
        f"(float[N,4] x, float[{other}] v) => (float[K,L] y) {{ p = MatMul(x, w) y = Add(p, v) }}"
    )
    model = build(text, w=normal(4, 5))
    assert operators(run_pass(model, NAME).to_proto()) == expected


def test_a_column_of_its_rows() -> None:
    text = (
        "(float[N,4] x) => (float[N,5] y) "
        "{ p = MatMul(x, w) m = ReduceMax<axes=[1]>(x) y = Add(p, m) }"
    )
    model = build(text, w=normal(4, 5))
    assert operators(run_pass(model, NAME).to_proto()) == ["ReduceMax", "Gemm"]
    assert_rewritten(model, NAME, ["ReduceMax", "Gemm"])


def test_of_two_products_one_is_the_gemm() -> None:
    text = "(float[N,4] x) => (float[N,5] y) { p = MatMul(x, w) q = MatMul(x, u) y = Add(p, q) }"
    model = build(text, w=normal(4, 5), u=normal(4, 5, seed=1))
    assert_rewritten(model, NAME, ["MatMul", "Gemm"], certified=True)
    merged = run_pass(model, NAME, "merge-matmuls").to_proto()
    assert operators(merged) == ["MatMul"]


def test_it_waits_for_all_other_passes() -> None:
    """A BatchNormalization folds into both products of a sum, and does not pass a Gemm with one."""
    text = (
        "(float[N,4] x) => (float[N,5] y) { p = MatMul(x, w) h = Tanh(x) q = MatMul(h, u) "
        "r = Add(p, q) y = BatchNormalization(r, a, b, m, v) }"
    )
    weights: Parameters = {name: normal(5) for name in "abm"}
    weights |= {"w": normal(4, 5), "u": normal(4, 5, seed=1), "v": np.abs(normal(5)) + 1}
    model = build(text, **weights)
    alone = run_pass(model, NAME).to_proto()
    assert operators(alone) == ["Tanh", "MatMul", "Gemm", "BatchNormalization"]
    assert not run_pass(alone, "fold-batchnorm").record.rewrites
    both = run_pass(model, NAME, "fold-batchnorm").to_proto()
    assert sorted(operators(both)) == ["Gemm", "Gemm", "Tanh"]


def test_integers_stay() -> None:
    assert not run_pass(model_of(dtype=np.int32), NAME).record.rewrites


def test_a_product_of_two_values_stays() -> None:
    text = "(float[N,4] x, float[4,5] v) => (float[N,5] y) { p = MatMul(x, v) y = Add(p, b) }"
    assert not run_pass(build(text, b=normal(5)), NAME).record.rewrites


def test_the_axis_of_old_operator_sets_stays() -> None:
    model = model_of(opset=6, add="Add<broadcast=1>(p, b)")
    assert operators(run_pass(model, NAME).to_proto()) == ["MatMul", "Add"]


def test_refusal_shared() -> None:
    model = model_of(result="float[M,K] y, float[M,K] z", lines="z = Neg(p)")
    assert_refused(model, NAME, Common.SHARED, in_the_way="MatMul p")
    assert_refused(model_of(result="float[M,K] y, float[M,K] p"), NAME, Common.SHARED)


def test_of_two_products_the_one_that_is_not_shared() -> None:
    text = (
        "(float[N,4] x) => (float[N,5] y, float[M,K] p) "
        "{ p = MatMul(x, w) q = MatMul(x, u) y = Add(p, q) }"
    )
    model = build(text, w=normal(4, 5), u=normal(4, 5, seed=1))
    assert_rewritten(model, NAME, ["MatMul", "Gemm"])


def test_a_matrix_of_no_known_rank_stays() -> None:
    model = model_of()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert not run_pass(model, NAME).record.rewrites


def test_a_batchnorm_folds_into_it_as_into_the_two() -> None:
    text = (
        "(float[N,4] x) => (float[N,5] y) "
        "{ p = MatMul(x, w) q = Add(p, b) y = BatchNormalization(q, s, t, m, v) }"
    )
    model = build(
        text,
        w=normal(4, 5),
        b=normal(5),
        s=normal(5),
        t=normal(5),
        m=normal(5),
        v=np.abs(normal(5)) + 1,
    )
    assert operators(run_pass(model, NAME, "fold-batchnorm").to_proto()) == ["Gemm"]
