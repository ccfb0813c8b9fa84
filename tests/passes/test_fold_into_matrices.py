"""fold-batchnorm and fold-scale-shift into a MatMul whose weight is a batch of matrices."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.algebra.affine_maps.linear import NotAbsorbed
from bnfold.algebra.affine_maps.reach import NotReached
from tests.support.evaluate import assert_equivalent
from tests.support.graphs import Array, Parameters, batch_norm, build, draw_feeds, normal
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "fold-scale-shift"


@pytest.mark.parametrize(
    ("product", "weight", "shape"),
    [
        ("MatMul(x, w)", (3, 4, 6), (6,)),
        ("MatMul(x, w)", (3, 4, 6), (1, 1, 6)),
        ("MatMul(x, w)", (3, 4, 6), (3, 1, 1)),
        ("MatMul(x, w)", (3, 4, 6), ()),
        ("MatMul(w, x)", (3, 6, 5), (6, 1)),
        ("MatMul(w, x)", (3, 6, 5), (3, 1, 1)),
        ("MatMul(w, x)", (3, 6, 5), ()),
    ],
)
def test_folds_what_follows(product: str, weight: tuple[int, ...], shape: tuple[int, ...]) -> None:
    model = build(
        f"(float[N,3,5,4] x) => (float[N,3,r,c] y) {{ t = {product} m = Mul(t, k) y = Add(m, d) }}",
        w=normal(*weight),
        k=np.asarray(normal(*shape, seed=1)),
        d=np.asarray(normal(*shape, seed=2)),
    )
    assert_rewritten(model, NAME, ["MatMul", "Add"], certified=True)


@pytest.mark.parametrize(
    ("product", "weight", "shape"),
    [
        ("MatMul(m, w)", (3, 4, 6), (4,)),
        ("MatMul(m, w)", (3, 4, 6), (3, 1, 1)),
        ("MatMul(m, w)", (2, 3, 4, 6), (2, 1, 1, 1)),
        ("MatMul(m, w)", (3, 4, 6), ()),
        ("MatMul(w, m)", (3, 6, 5), (5, 1)),
        ("MatMul(w, m)", (3, 6, 5), (3, 1, 1)),
        ("MatMul(w, m)", (3, 6, 5), ()),
    ],
)
def test_folds_what_comes_before(
    product: str, weight: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    k, d = np.asarray(normal(*shape, seed=1)), np.asarray(normal(*shape, seed=2))
    text = f"(float[2,3,5,4] x) => (float[2,3,r,c] y) {{ m = Mul(x, k) y = {product} }}"
    assert_rewritten(build(text, w=normal(*weight), k=k), NAME, ["MatMul"], certified=True)
    both = build(
        text.replace("m = Mul(x, k)", "a = Mul(x, k) m = Add(a, d)"), w=normal(*weight), k=k, d=d
    )
    result = run_pass(both, NAME, "merge-constants")
    assert_equivalent(both, result.to_proto(), draw_feeds(both))


@pytest.mark.parametrize(
    ("product", "weight", "shape"),
    [("MatMul(m, w)", (3, 4, 6), (4,)), ("MatMul(w, m)", (3, 6, 5), (5, 1))],
)
def test_folds_what_comes_before_where_the_batch_is_of_the_weight_alone(
    product: str, weight: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    model = build(
        f"(float[5,4] x) => (float[3,r,c] y) {{ m = Mul(x, k) y = {product} }}",
        w=normal(*weight),
        k=normal(*shape),
    )
    assert_rewritten(model, NAME, ["MatMul"], certified=True)


@pytest.mark.parametrize(
    ("product", "weight"), [("MatMul(n, w)", (3, 4, 6)), ("MatMul(w, n)", (3, 6, 5))]
)
def test_a_batchnorm_over_the_matrices_becomes_an_add(
    product: str, weight: tuple[int, ...]
) -> None:
    after = build(
        "(float[N,3,5,4] x) => (float[N,3,r,c] y) "
        f"{{ n = BatchNormalization(x, s, b, m, v) y = {product} }}",
        w=normal(*weight),
        **batch_norm(3),
    )
    assert_rewritten(after, "fold-batchnorm", ["MatMul", "Add"], certified=True)
    before = build(
        "(float[N,3,5,4] n) => (float[N,3,r,c] y) "
        f"{{ t = {product} y = BatchNormalization(t, s, b, m, v) }}",
        w=normal(*weight),
        **batch_norm(3),
    )
    assert_rewritten(before, "fold-batchnorm", ["MatMul", "Add"], certified=True)


@pytest.mark.parametrize(
    ("product", "weight", "reason"),
    [
        ("MatMul(n, w)", (4, 6), NotAbsorbed.OTHER_AXIS),  # one matrix for all
        ("MatMul(n, w)", (1, 4, 6), NotAbsorbed.CHANNELS_DIFFER),
        ("MatMul(w, n)", (1, 6, 5), NotAbsorbed.CHANNELS_DIFFER),
    ],
)
def test_refuses_fewer_matrices_than_channels(
    product: str, weight: tuple[int, ...], reason: NotAbsorbed
) -> None:
    model = build(
        "(float[N,3,5,4] x) => (float[N,3,r,c] z) "
        f"{{ n = BatchNormalization(x, s, b, m, v) y = {product} z = Relu(y) }}",
        w=normal(*weight),
        **batch_norm(3),
    )
    assert_refused_downstream(model, reason)


def test_refuses_a_shift_of_one_vector_for_a_batch() -> None:
    """The result has no axis for the rows of the data, so what it adds has none either."""
    model = build(
        "(float[4] x) => (float[3,6] y) { m = Add(x, d) y = MatMul(m, w) }",
        w=normal(3, 4, 6),
        d=normal(4),
    )
    assert not run_pass(model, NAME).record.rewrites


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_of_a_vector_the_result_has_no_rows(axis: int) -> None:
    """So the matrices are along other axes of the result than they are of the weight."""
    shape = [2 if at == axis else 1 for at in range(3)]
    model = build(
        "(float[4] x) => (float[2,2,2] y) { t = MatMul(x, w) y = Mul(t, k) }",
        w=normal(2, 2, 4, 2),
        k=normal(*shape),
    )
    optimized = run_pass(model, NAME).to_proto()
    assert len(optimized.graph.node) == (1 if axis == 2 else 2)
    assert_equivalent(model, optimized, draw_feeds(model))


def test_refuses_batches_before_operator_set_7() -> None:
    """There, what an Add broadcasts is aligned by an attribute, and has no axes of size 1."""
    after = build(
        "(float[2,3,5,4] x) => (float[2,3,5,6] y) "
        "{ c = MatMul(x, w) y = BatchNormalization<is_test=1>(c, s, b, m, v) }",
        opset=6,
        w=normal(3, 4, 6),
        **batch_norm(3),
    )
    assert_refused(after, "fold-batchnorm", NotAbsorbed.OTHER_AXIS)
    before = build(
        "(float[5,4] x) => (float[3,5,6] y) "
        "{ n = BatchNormalization<is_test=1>(x, s, b, m, v) y = MatMul(n, w) }",
        opset=6,
        w=normal(3, 4, 6),
        **batch_norm(4),
    )
    assert_refused_downstream(before, NotAbsorbed.OTHER_AXIS)
    left = build(
        "(float[2,5,4] x) => (float[2,6,4] y) "
        "{ n = BatchNormalization<is_test=1>(x, s, b, m, v) y = MatMul(w, n) }",
        opset=6,
        w=normal(2, 6, 5),
        **batch_norm(5),
    )
    assert_refused_downstream(left, NotAbsorbed.OTHER_AXIS)


def assert_refused_downstream(model: onnx.ModelProto, reason: NotAbsorbed) -> None:
    (refusal,) = run_pass(model, "fold-batchnorm").record.refusals
    assert refusal.also_reason == reason.name


@st.composite
def _cases(draw: st.DrawFn) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Draw a product with matrices on either side, and maps of any axis before and after it."""
    batch = [draw(st.integers(1, 3)) for _ in range(draw(st.integers(0, 2)))]
    rows, inner, columns = (draw(st.integers(1, 4)) for _ in range(3))
    is_left = draw(st.booleans())
    data = [rows, inner] if not is_left else [inner, columns]
    kernel = [inner, columns] if not is_left else [rows, inner]

    def batch_of(own: list[int]) -> list[int]:
        kept = batch[draw(st.integers(0, len(batch))) :]
        return [1 if draw(st.booleans()) and draw(st.booleans()) else n for n in kept] + own

    shapes = {"x": batch_of(data), "w": batch_of(kernel)}
    if shapes["x"][-2] == 1 and not is_left and draw(st.booleans()):
        shapes["x"] = shapes["x"][-1:]
    weights: Parameters = {"w": normal(*shapes["w"], seed=draw(st.integers(0, 9)))}
    of_result = np.matmul(*(np.zeros(shapes[name]) for name in ("wx" if is_left else "xw"))).shape

    def map_of(value: str, result: str, shape: tuple[int, ...] | list[int]) -> str:
        if not draw(st.booleans()):
            return f"{result} = Identity({value})"
        axis = draw(st.integers(0, max(len(shape) - 1, 0)))
        along = [n if at == axis else 1 for at, n in enumerate(shape)]
        for name in (f"k{value}", f"d{value}"):
            weights[name] = normal(*along, seed=len(weights)) + np.float32(0.5)
        return f"m{value} = Mul({value}, k{value}) {result} = Add(m{value}, d{value})"

    sizes = {name: ",".join(map(str, shape)) for name, shape in shapes.items()}
    product = "MatMul(w, a)" if is_left else "MatMul(a, w)"
    width = shapes["x"][-1]
    weights["v"] = normal(width, width, seed=7)
    text = (
        f"(float[{sizes['x']}] x) => (float[{','.join(map(str, of_result))}] y) "
        f"{{ p = MatMul(x, v) {map_of('p', 'a', shapes['x'])} b = {product} "
        f"{map_of('b', 'y', of_result)} }}"
    )
    model = build(text, **weights)
    return model, draw_feeds(model)


@settings(max_examples=400, deadline=None)
@given(_cases())
def test_equal_whatever_the_batches_are(case: tuple[onnx.ModelProto, dict[str, Array]]) -> None:
    model, feeds = case
    optimized = run_pass(model, NAME).to_proto()
    assert_equivalent(model, optimized, feeds)
    assert not run_pass(optimized, NAME).record.rewrites


def test_refuses_rows_of_what_nothing_linear_computes() -> None:
    model = build(
        "(float[N,3,4] x) => (float[N,3,6] y) "
        "{ h = Sigmoid(x) c = MatMul(h, w) y = BatchNormalization(c, s, b, m, v) }",
        w=normal(1, 4, 6),
        **batch_norm(3),
    )
    assert_refused(model, "fold-batchnorm", NotReached.NOT_LINEAR)
