"""fold-transpose: the matrix is permuted instead of what it reads, or of what it computes."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.rewriting.contract import Common, Refusal
from tests.support.graphs import Array, Parameters, build, make_overridable, normal
from tests.support.passes import assert_refused, assert_rewritten, parameters, run_pass

NAME = "fold-transpose"
WEIGHTS: Parameters = {
    "m": normal(60, 6),
    "mt": normal(6, 60),
    "v": normal(60),
    "stack": normal(2, 60, 6),
    "d": normal(6),
    "flat": np.array([0, -1]),
    "rows": np.array([-1, 60]),
    "single": np.array([2, 3]),
    "u": normal(6, 60),
    "ut": normal(60, 6),
    "c": normal(60),
    "c2": normal(1, 60),
    "one": normal(1),
    "none": np.array(0.5, np.float32),
    "deep": np.array([0, 3, 4, 5]),
    "open": np.array([-1, 3, 4, 5]),
    "other": np.array([0, 12, 5]),
}
LAST = "t = Transpose<perm=[0,2,3,1]>(x)"
BACK = "y = Transpose<perm=[0,3,1,2]>(r)"


def model_of(
    lines: str, *, x: str = "N,3,4,5", y: str = "N,k", opset: int = 17, **more: Array
) -> onnx.ModelProto:
    used = {name: array for name, array in (WEIGHTS | more).items() if name in _read(lines)}
    return build(f"(float[{x}] x) => (float[{y}] y) {{ {lines} }}", opset=opset, **used)


def _read(lines: str) -> list[str]:
    return re.findall(r"[(,] ?(\w+)(?=[,)])", lines)


@pytest.mark.parametrize("batch", ["N", "2"])
@pytest.mark.parametrize(
    ("lines", "product"),
    [
        ("f = Flatten(t) y = Gemm(f, m, d)", "Gemm"),
        ("f = Flatten<axis=-3>(t) y = Gemm<transB=1, alpha=0.5, beta=-2.0>(f, mt, d)", "Gemm"),
        ("f = Reshape(t, flat) y = MatMul(f, m)", "MatMul"),
        ("f = Reshape(t, rows) y = Gemm(f, m)", "Gemm"),
        ("f = Reshape(t, rows) y = Gemm(f, m, none)", "Gemm"),
    ],
)
def test_rows(lines: str, product: str, batch: str) -> None:
    model = model_of(f"{LAST} {lines}", x=f"{batch},3,4,5")
    optimized = assert_rewritten(model, NAME, ["Flatten", product], certified=True)
    old, new = (
        next(each for each in parameters(one).values() if each.size == 360)
        for one in (model, optimized)
    )
    np.testing.assert_array_equal(np.sort(old, axis=None), np.sort(new, axis=None))


def test_rows_of_a_vector() -> None:
    model = model_of(f"{LAST} f = Flatten(t) y = MatMul(f, v)", y="N")
    assert_rewritten(model, NAME, ["Flatten", "MatMul"], certified=True)


def test_rows_that_a_squeeze_flattens() -> None:
    lines = "t = Transpose<perm=[0,3,1,2]>(x) f = Squeeze(t, single) y = MatMul(f, m)"
    model = model_of(lines, x="N,1,1,60")
    assert_rewritten(model, NAME, ["Flatten", "MatMul"], certified=True)


@pytest.mark.parametrize("batch", ["N", "2"])
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("g = Gemm(x, u, c) r = Reshape(g, deep)", ["Gemm"]),
        ("g = Gemm<transB=1, alpha=0.5, beta=-2.0>(x, ut, c2) r = Reshape(g, open)", ["Gemm"]),
        ("g = Gemm(x, u) r = Reshape(g, deep)", ["Gemm"]),
        ("g = Gemm(x, u, one) r = Reshape(g, deep)", ["Gemm"]),
        ("g = MatMul(x, u) r = Reshape(g, deep)", ["MatMul"]),
        ("g = MatMul(x, u) a = Add(g, c) r = Reshape(a, deep)", ["MatMul", "Add"]),
        ("g = MatMul(x, u) a = Add(c2, g) r = Reshape(a, deep)", ["MatMul", "Add"]),
        ("g = MatMul(x, u) a = Add(none, g) r = Reshape(a, deep)", ["MatMul", "Reshape", "Add"]),
    ],
)
def test_columns(lines: str, expected: list[str], batch: str) -> None:
    model = model_of(f"{lines} {BACK}", x=f"{batch},6", y=f"{batch},5,3,4")
    whole = expected if "Reshape" in expected else [*expected, "Reshape"]
    assert_rewritten(model, NAME, whole, certified=True)


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        ("r = Relu(t)", ["Relu"]),
        ("r = Mul(t, last)", ["Mul"]),
        ("q = PRelu(t, last) r = Sub(none, q)", ["PRelu", "Sub"]),
        ("q = Cast<to=1>(t) r = LeakyRelu<alpha=0.2>(q)", ["Cast", "LeakyRelu"]),
    ],
)
def test_rows_with_elementwise_operators_between(between: str, expected: list[str]) -> None:
    model = model_of(f"{LAST} {between} f = Flatten(r) y = MatMul(f, m)", last=normal(3))
    assert_rewritten(model, NAME, [*expected, "Flatten", "MatMul"], certified=True)


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        ("r = Reshape(a, deep) s = Relu(r)", ["Relu"]),
        ("q = LeakyRelu<alpha=0.2>(a) s = Reshape(q, deep)", ["LeakyRelu"]),
        ("q = Mul(a, one) r = Reshape(q, deep) s = Mul(r, last)", ["Mul", "Mul"]),
        ("q = Sub(none, a) p = Tanh(q) r = Reshape(p, deep) s = PRelu(r, last)",
         ["Sub", "Tanh", "PRelu"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("product", ["a = Gemm(x, u, c)", "g = MatMul(x, u) a = Add(g, c)"])
def test_columns_with_elementwise_operators_between(
    product: str, between: str, expected: list[str]
) -> None:
    lines = f"{product} {between} y = Transpose<perm=[0,3,1,2]>(s)"
    model = model_of(lines, x="N,6", y="N,5,3,4", last=normal(5))
    whole = [*(["Gemm"] if "Gemm" in product else ["MatMul", "Add"]), "Reshape", *expected]
    assert_rewritten(model, NAME, whole, certified=True)


@pytest.mark.parametrize(("count", "is_rewritten"), [(8, True), (9, False)])
def test_at_most_eight_operators_between(count: int, is_rewritten: bool) -> None:
    names = [*(f"r{number}" for number in range(count)), "t"]
    chain = " ".join(f"{names[i - 1]} = Relu({names[i]})" for i in range(count, 0, -1))
    result = run_pass(model_of(f"{LAST} {chain} f = Flatten(r0) y = MatMul(f, m)"), NAME)
    assert bool(result.record.rewrites) == is_rewritten


def test_columns_that_are_cast() -> None:
    lines = f"g = MatMul(x, u) a = Cast<to=11>(g) r = Reshape(a, deep) {BACK}"
    model = build(f"(float[N,6] x) => (double[N,5,3,4] y) {{ {lines} }}",
                  u=WEIGHTS["u"], deep=WEIGHTS["deep"])  # fmt: skip
    assert_rewritten(model, NAME, ["MatMul", "Reshape", "Cast"], certified=True)


def test_columns_of_a_bias_by_rows() -> None:
    lines = f"g = Gemm(x, u, whole) r = Reshape(g, deep) {BACK}"
    model = model_of(lines, x="2,6", y="2,5,3,4", whole=normal(2, 60))
    assert_rewritten(model, NAME, ["Gemm", "Reshape"], certified=True)


@pytest.mark.parametrize("opset", [1, 4, 5, 9, 13, 18])
def test_opsets(opset: int) -> None:
    rows = f"{LAST} f = Flatten<axis=1>(t) y = MatMul(f, m)"
    assert_rewritten(model_of(rows, opset=opset), NAME, ["Flatten", "MatMul"])
    deep = "Reshape(g, deep)" if opset > 4 else "Reshape<shape=[0,3,4,5]>(g)"
    model = model_of(f"g = MatMul(x, u) r = {deep} {BACK}", x="N,6", y="N,5,3,4", opset=opset)
    if opset > 4:
        assert_rewritten(model, NAME, ["MatMul", "Reshape"])
    else:
        assert not run_pass(model, NAME).record.rewrites


@pytest.mark.parametrize(
    "lines",
    [
        "t = Transpose<perm=[1,0,2,3]>(x) f = Flatten(t) y = Gemm(f, n, d)",  # samples are mixed
        "t = Transpose(x) f = Flatten(t) y = Gemm(f, n, d)",
        f"{LAST} f = Flatten<axis=2>(t) y = MatMul(f, n)",  # places are samples, too
        f"{LAST} f = Flatten(t) y = Gemm<transA=1>(f, w)",
        f"{LAST} f = Flatten(t) y = MatMul(f, stack)",
        f"{LAST} y = MatMul(t, k)",
        f"{LAST} r = Relu(t) f = Flatten(r) q = Relu(f) y = MatMul(q, m)",
        f"{LAST} s = Abs(t) f = Add(t, s) g = Flatten(f) y = MatMul(g, m)",
        f"{LAST} f = Softmax(t) g = Flatten(f) y = MatMul(g, m)",
        f"{LAST} f = Reshape(t, column) y = MatMul(f, w)",
    ],
)
def test_other_rows_stay(lines: str) -> None:
    size = {"[1,0,2,3]": 40, "Transpose(x)": 24, "axis=2": 15}
    rows = next((size[each] for each in size if each in lines), 60)
    more: Parameters = {"n": normal(rows, 6), "k": normal(3, 6), "column": np.array([0, 60, 1])}
    more["w"] = normal(1 if "column" in lines else 2, 6)
    result = run_pass(model_of(lines, x="2,3,4,5", y="a,b", **more), NAME)
    assert not result.record.rewrites
    assert not result.record.refusals


@pytest.mark.parametrize(
    ("lines", "x"),
    [
        (f"g = MatMul(x, u) a = Add(g, stack) r = Reshape(a, two) {BACK}", "2,6"),
        ("g = MatMul(x, u) r = Reshape(g, deep) y = Transpose<perm=[1,0,2,3]>(r)", "2,6"),
        ("g = MatMul(x, u) r = Reshape(g, six) y = Transpose<perm=[0,2,1]>(r)", "2,6"),
        (f"g = MatMul(x, u) a = Mul(g, c) r = Reshape(a, deep) {BACK}", "2,6"),
        (f"g = MatMul(x, u) a = Softmax(g) r = Reshape(a, deep) {BACK}", "2,6"),
        (f"g = Relu(x) r = Reshape(g, deep) {BACK}", "2,60"),
        (f"g = MatMul(x, u) a = Sub(g, c) r = Reshape(a, deep) {BACK}", "2,6"),
        (f"g = MatMul(x, u) r = Reshape(g, two) {BACK}", "1,2,6"),
        (f"g = MatMul(x, nothing) r = Reshape(g, nought) {BACK}", "2,6"),
        (f"g = MatMul(x, row) a = Add(g, tall) r = Reshape(a, deep) {BACK}", "60,6"),
    ],
)
def test_other_columns_stay(lines: str, x: str) -> None:
    more: Parameters = {
        "stack": normal(1, 2, 60),
        "two": np.array([2, 3, 4, 5]),
        "six": np.array([6, 2, 10]),
        "nothing": normal(6, 0),
        "nought": np.array([0, 0, 4, 5]),
        "row": normal(6),
        "tall": normal(2, 60),
    }
    result = run_pass(model_of(lines, x=x, y="a,b", **more), NAME)
    assert not result.record.rewrites
    assert not result.record.refusals


COMPUTED = "k = ReduceMax<keepdims=0>(x) q"
ROWS = f"{LAST} f = Flatten(t) y = Gemm(f, m, d)"
COLUMNS = f"g = MatMul(x, u) a = Add(g, c) r = Reshape(a, deep) {BACK}"


@pytest.mark.parametrize(
    ("lines", "reason", "subject"),
    [
        (f"{ROWS} z = Neg(t)", Common.SHARED, "Transpose t"),
        (f"{ROWS} z = Neg(f)", Common.SHARED, "Flatten f"),
        (f"{LAST} r = Relu(t) f = Flatten(r) y = Gemm(f, m) z = Neg(r)", Common.SHARED, "Relu r"),
        (f"g = MatMul(x, u) a = Relu(g) r = Reshape(a, deep) {BACK} z = Neg(a)",
         Common.SHARED, "Relu a"),
        (f"g = MatMul(x, u) a = Reshape(g, deep) r = Relu(a) {BACK} z = Neg(r)",
         Common.SHARED, "Relu r"),
        (f"{COLUMNS} z = Neg(g)", Common.SHARED, "MatMul g"),
        (f"{COLUMNS} z = Neg(a)", Common.SHARED, "Add a"),
        (f"{COLUMNS} z = Neg(r)", Common.SHARED, "Reshape r"),
        (f"{LAST} f = Flatten(t) {COMPUTED} = Mul(m, k) y = MatMul(f, q)",
         Common.WEIGHT_NOT_CONSTANT, None),
        (f"{COMPUTED} = Mul(u, k) g = Gemm(x, q) r = Reshape(g, deep) {BACK}",
         Common.WEIGHT_NOT_CONSTANT, None),
        (f"{COMPUTED} = Mul(c, k) g = Gemm(x, u, q) r = Reshape(g, deep) {BACK}",
         Common.WEIGHT_NOT_CONSTANT, None),
        (f"{COMPUTED} = Mul(c, k) g = MatMul(x, u) a = Add(q, g) r = Reshape(a, deep) {BACK}",
         Common.WEIGHT_NOT_CONSTANT, None),
    ],
)  # fmt: skip
def test_refusals(lines: str, reason: Refusal, subject: str | None) -> None:
    x = "N,3,4,5" if "t =" in lines else "N,6"
    model = model_of(lines, x=x, y="a,b" if x == "N,3,4,5" else "a,b,c,d")
    if " z = " in lines:
        model.graph.output.add().name = "z"
    assert_refused(model, NAME, reason, in_the_way=subject)


def test_refuses_sizes_that_are_not_known() -> None:
    model = model_of(f"{LAST} f = Reshape(t, flat) y = Gemm(f, m, d)", x="N,3,H,W")
    assert_refused(model, NAME, Common.SHAPE_UNKNOWN, in_the_way="Transpose t")


@pytest.mark.parametrize(("lines", "name"), [(ROWS, "m"), (COLUMNS, "u"), (COLUMNS, "c")])
def test_refuses_what_a_caller_may_override(lines: str, name: str) -> None:
    model = make_overridable(model_of(lines, x="2,3,4,5" if lines == ROWS else "2,6"), name)
    assert_refused(model, NAME, Common.WEIGHT_OVERRIDABLE)


def test_samples_that_may_be_places_give_no_reason() -> None:
    model = model_of(f"{LAST} f = Reshape(t, rows) y = Gemm(f, m, d)", x="N,3,H,W")
    result = run_pass(model, NAME)
    assert not result.record.rewrites
    assert not result.record.refusals


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    order=st.permutations(range(4)),
    is_double=st.booleans(),
    is_row=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_orders(
    sizes: list[int], order: list[int], is_double: bool, is_row: bool, seed: int
) -> None:
    """Any order of any sizes; an element of the result that moved would be another one."""
    perm = [0, *(1 + axis for axis in order if axis < len(sizes))]
    kind, dtype = ("double", np.float64) if is_double else ("float", np.float32)
    count, turned = math.prod(sizes), [sizes[axis - 1] for axis in perm[1:]]
    weights: Parameters = {}
    if is_row:
        lines = f"t = Transpose<perm={perm}>(x) f = Flatten(t) y = MatMul(f, w)"
        shape, weights["w"] = sizes, normal(count, 3, seed=seed, dtype=dtype)
        expected, result = ["Flatten", "MatMul"], ["k"]
    else:
        lines = f"g = MatMul(x, w) r = Reshape(g, s) y = Transpose<perm={perm}>(r)"
        shape, weights["w"] = [3], normal(3, count, seed=seed, dtype=dtype)
        weights["s"] = np.array([0, *sizes])
        expected, result = ["MatMul", "Reshape"], list(map(str, turned))
    interface = (", ".join(map(str, ["N", *each])) for each in (shape, result))
    x, y = interface
    model = build(f"({kind}[{x}] x) => ({kind}[{y}] y) {{ {lines} }}", **weights)
    optimized = assert_rewritten(model, NAME, expected)
    (new,) = (each for each in parameters(optimized).values() if each.dtype == dtype)
    places = np.arange(count).reshape(turned if is_row else sizes)
    back = np.argsort(perm[1:]) if is_row else np.array(perm[1:]) - 1
    places = places.transpose(back).ravel()
    np.testing.assert_array_equal(new, np.take(weights["w"], places, 0 if is_row else 1))


def test_all_orders_of_three_axes_are_certified() -> None:
    for order in itertools.permutations((1, 2, 3)):
        lines = f"t = Transpose<perm={[0, *order]}>(x) f = Flatten(t) y = MatMul(f, m)"
        assert_rewritten(model_of(lines), NAME, ["Flatten", "MatMul"], certified=True)
