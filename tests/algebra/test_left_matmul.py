"""MatMuls whose constant is on the left, A·x: the channels are the rows of the other operand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfold.algebra.linear import NotAbsorbed
from bnfold.rewriting.contract import Common
from tests.support.graphs import (
    Parameters,
    batch_norm,
    build,
    make_overridable,
    normal,
    only_node,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, parameters, run_pass

NAME, SCALE = "fold-batchnorm", "fold-scale-shift"


def before_map(lines: str = "p = MatMul(a, x)", **weights: np.ndarray) -> onnx.ModelProto:
    """Return a product p of 3 rows from 4, and a BatchNormalization of it."""
    return build(
        f"(float[N,4,L] x) => (float[N,3,h] y) {{ {lines} y = BatchNormalization(p, s, b, m, v) }}",
        **{"a": normal(3, 4), **weights, **batch_norm(3)},
    )


def after_map(lines: str = "y = MatMul(a, n)", **weights: np.ndarray) -> onnx.ModelProto:
    """Return a BatchNormalization n of 4 channels, and a product with it."""
    return build(
        "(float[N,4,L] x) => (float[u,h,w] y) "
        f"{{ r = Relu(x) n = BatchNormalization(r, s, b, m, v) {lines} }}",
        **{"a": normal(3, 4), **weights, **batch_norm(4)},
    )


@pytest.mark.parametrize("length", [1, 5])
def test_the_rows_of_the_weight_take_the_map(length: int) -> None:
    assert_rewritten(before_map(), NAME, ["MatMul", "Add"], sizes={"L": length}, certified=True)


def test_a_bias_takes_the_shift() -> None:
    model = before_map("i = MatMul(a, x) p = Add(i, c)", c=normal(3, 1))
    assert_rewritten(model, NAME, ["MatMul", "Add"], sizes={"L": 5}, certified=True)


def test_each_matrix_of_a_batch_takes_the_map() -> None:
    model = before_map(a=normal(2, 3, 4))
    assert_rewritten(model, NAME, ["MatMul", "Add"], sizes={"L": 5}, certified=True)


@pytest.mark.parametrize("length", [1, 5])
def test_the_columns_of_the_weight_take_the_map(length: int) -> None:
    model = after_map()
    expected = ["Relu", "MatMul", "Add"]
    assert_rewritten(model, NAME, expected, sizes={"L": length}, certified=True)


def test_a_bias_after_it_is_not_needed_twice() -> None:
    model = after_map("i = MatMul(a, n) y = Add(i, c)", c=normal(3, 1))
    result = operators(run_pass(model, NAME, SCALE, "merge-constants").to_proto())
    assert result == ["Relu", "MatMul", "Add"]


@pytest.mark.parametrize(("kind", "dtype"), [("float16", np.float16), ("double", np.float64)])
@pytest.mark.parametrize("is_after", [True, False])
def test_other_types_and_ranks(kind: str, dtype: type[np.generic], is_after: bool) -> None:
    lines = (
        "r = Relu(x) n = Mul(r, k) y = MatMul(a, n)"
        if is_after
        else "p = MatMul(a, x) y = Mul(p, k)"
    )
    for rank in (2, 4):
        before, after = ("4,L", "3,L") if rank == 2 else ("N,2,4,L", "N,2,3,L")
        model = build(
            f"({kind}[{before}] x) => ({kind}[{after}] y) {{ {lines} }}",
            a=normal(3, 4, dtype=dtype),
            k=normal(4 if is_after else 3, 1, dtype=dtype),
        )
        close = 1e-2 if kind == "float16" else 1e-12
        expected = [op for op in operators(model) if op != "Mul"]
        assert_rewritten(model, SCALE, expected, rtol=close, atol=close, certified=rank == 2)


@pytest.mark.parametrize(
    "lines", ["p = MatMul(a, x) y = Mul(p, k)", "n = Mul(x, k) y = MatMul(a, n)"]
)
def test_a_vector_has_no_columns(lines: str) -> None:
    model = build(
        f"(float[4] x) => (float[3] y) {{ {lines} }}", a=normal(3, 4), k=np.array(2, np.float32)
    )
    assert operators(run_pass(model, SCALE).to_proto()) == operators(model)


def test_channels_on_another_axis_refuse() -> None:
    weights: Parameters = {"a": normal(3, 4), **batch_norm(2)}
    shapes = "(float[N,2,4,L] x) => (float[N,2,3,L] y)"
    before = f"{shapes} {{ p = MatMul(a, x) y = BatchNormalization(p, s, b, m, v) }}"
    assert_refused(build(before, **weights), NAME, NotAbsorbed.OTHER_AXIS)
    after = f"{shapes} {{ r = Relu(x) n = BatchNormalization(r, s, b, m, v) y = MatMul(a, n) }}"
    (refusal,) = run_pass(build(after, **weights), NAME).record.refusals
    assert refusal.also_reason == NotAbsorbed.OTHER_AXIS.name


def test_each_matrix_of_a_batch_after_it_takes_the_map() -> None:
    model, sizes = after_map(a=normal(2, 3, 4)), {"N": 2, "L": 5}
    assert_rewritten(model, NAME, ["Relu", "MatMul", "Add"], sizes=sizes, certified=True)


def test_a_weight_that_may_be_overridden_is_named() -> None:
    model = make_overridable(before_map(), "a")
    assert_refused(model, NAME, Common.WEIGHT_OVERRIDABLE)
    both = build(
        "(float[N,4,L] x, float[3,4] a) => (float[N,3,L] y) "
        "{ p = MatMul(a, x) y = BatchNormalization(p, s, b, m, v) }",
        **batch_norm(3),
    )
    assert_refused(both, NAME, Common.WEIGHT_NOT_CONSTANT)


def test_a_left_operand_that_may_be_overridden_is_data() -> None:
    model = build(
        "(float[2,4] x) => (float[2,3] y) { p = MatMul(x, w) "
        "y = BatchNormalization(p, s, b, m, v) }",
        x=normal(2, 4),
        w=normal(4, 3),
        **batch_norm(3),
    )
    assert operators(run_pass(model, NAME).to_proto()) == ["Gemm"]


def test_weights_are_named_after_the_old_one() -> None:
    optimized = run_pass(before_map(), NAME).to_proto()
    assert set(parameters(optimized)) == {"a.folded", "a.bias.folded"}


def test_opset_6_adds_along_an_axis() -> None:
    model = build(
        "(float[2,4,5] x) => (float[2,3,5] y) "
        "{ p = MatMul(a, x) y = BatchNormalization<is_test=1>(p, s, b, m, v) }",
        opset=6,
        ir_version=3,
        a=normal(3, 4),
        **batch_norm(3),
    )
    optimized = run_pass(model, NAME).to_proto()
    attributes = {each.name: each.i for each in only_node(optimized, "Add").attribute}
    assert attributes == {"broadcast": 1, "axis": 1}
    assert parameters(optimized)["a.bias.folded"].shape == (3,)
