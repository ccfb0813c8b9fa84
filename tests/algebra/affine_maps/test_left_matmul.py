"""MatMuls whose constant is on the left, A·x: the channels are the rows of the other operand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfold.algebra.affine_maps.linear import NotAbsorbed
from bnfold.algebra.affine_maps.reach import NotReached
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
    assert_refused(build(before, **weights), NAME, NotReached.GRAPH_INPUT)
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


# --- Channels of what is multiplied ---------------------------------------------------------------

GRAPH = (
    "(float[N,5,4] x) => (float[N,3,6] y) {{ l = MatMul(x, w) {more}a = MatMul(g, {read}) "
    "t = Transpose<perm=[0,2,1]>(a) n = BatchNormalization(t, s, b, m, v) "
    "y = Transpose<perm=[0,2,1]>(n) }}"
)


def graph_convolution(more: str = "", read: str = "l", **weights: np.ndarray) -> onnx.ModelProto:
    """Return G·(x·W), with 3 nodes from 5, and a BatchNormalization of its 6 features."""
    given: Parameters = {"w": normal(4, 6), "g": normal(3, 5), **weights, **batch_norm(6)}
    return build(GRAPH.format(more=more, read=read), **given)


def test_columns_of_what_is_multiplied_take_the_scale() -> None:
    expected = ["MatMul", "MatMul", "Add", "Transpose", "Transpose"]
    optimized = assert_rewritten(graph_convolution(), NAME, expected, certified=True)
    assert parameters(optimized)["w.folded"].shape == (4, 6)
    batch = graph_convolution(g=normal(2, 3, 5))
    assert_rewritten(batch, NAME, expected, sizes={"N": 2}, certified=True)


def test_a_bias_before_it_takes_its_scale() -> None:
    model = graph_convolution("p = Add(l, c) ", "p", c=normal(6))
    expected = ["MatMul", "Add", "MatMul", "Add", "Transpose", "Transpose"]
    assert_rewritten(model, NAME, expected, certified=True)


@pytest.mark.parametrize("product", ["MatMul(c, g)", "MatMul(g, c)"])
def test_channels_of_what_is_multiplied_position_by_position(product: str) -> None:
    """As in a network of a skeleton's joints over time: a Conv, then what adds up neighbours."""
    model = build(
        "(float[N,3,5,5] x) => (float[N,4,5,5] y) "
        f"{{ c = Conv(x, w) p = {product} y = BatchNormalization(p, s, b, m, v) }}",
        w=normal(4, 3, 1, 1),
        g=normal(5, 5),
        **batch_norm(4),
    )
    assert_rewritten(model, NAME, ["Conv", "MatMul", "Add"], certified=True)


@pytest.mark.parametrize("size", [4, 5])
def test_a_vector_takes_the_axis_of_its_columns_away(size: int) -> None:
    """The channels of the result are another axis of what is multiplied, also if as large."""
    model = build(
        f"(float[N,4,5,3] x) => (float[N,4,{size}] y) "
        "{ c = MatMul(h, x) p = MatMul(c, g) y = BatchNormalization(p, s, b, m, v) }",
        h=normal(size, 5),
        g=normal(3),
        **batch_norm(4),
    )
    assert operators(run_pass(model, NAME).to_proto()) == operators(model)


@pytest.mark.parametrize("shift", [True, False])
def test_rows_of_what_is_multiplied_take_the_scale(shift: bool) -> None:
    """As a BatchNormalization of the nodes that a projection of the features follows."""
    last = "y = Add(k, d)" if shift else "y = Identity(k)"
    more: Parameters = {"d": normal(3, 1)} if shift else {}
    model = build(
        "(float[N,4,5] x) => (float[N,3,6] y) "
        f"{{ l = MatMul(a, x) p = MatMul(l, w) k = Mul(p, c) {last} }}",
        a=normal(3, 4),
        w=normal(5, 6),
        c=normal(3, 1),
        **more,
    )
    expected = ["MatMul", "MatMul", "Add" if shift else "Identity"]
    optimized = assert_rewritten(model, SCALE, expected, certified=True)
    assert parameters(optimized)["a.folded"].shape == (3, 4)


def test_what_is_multiplied_must_be_linear() -> None:
    model = build(
        "(float[5,6] x) => (float[3,6] y) { l = Sigmoid(x) a = MatMul(g, l) "
        "y = BatchNormalization(a, s, b, m, v) }",
        g=normal(3, 5),
        **batch_norm(6),
    )
    assert_refused(model, NAME, NotReached.NOT_LINEAR)


def test_what_is_multiplied_must_not_be_read_elsewhere() -> None:
    model = build(
        "(float[5,4] x) => (float[5,6] y, float[3,6] z) { l = MatMul(x, w) y = Sigmoid(l) "
        "a = MatMul(g, l) z = BatchNormalization(a, s, b, m, v) }",
        w=normal(4, 6),
        g=normal(3, 5),
        **batch_norm(6),
    )
    assert_refused(model, NAME, Common.SHARED)


def test_columns_before_operator_set_7_stay() -> None:
    model = build(
        "(float[5,4] x) => (float[3,6] y) { l = MatMul(x, w) a = MatMul(g, l) "
        "y = BatchNormalization<is_test=1>(a, s, b, m, v) }",
        opset=6,
        w=normal(4, 6),
        g=normal(3, 5),
        **batch_norm(6),
    )
    assert_refused(model, NAME, NotAbsorbed.OTHER_AXIS)
