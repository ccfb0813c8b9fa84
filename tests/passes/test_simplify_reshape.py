"""simplify-reshape: a shape of which one size is computed becomes constant."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from tests.support.evaluate import assert_equal_outputs, assert_equivalent
from tests.support.graphs import Parameters, build, draw_feeds, normal, operators
from tests.support.passes import run_pass

NAME = "simplify-reshape"


def reshaped(
    x: str, sizes: list[int | str], opset: int = 17, allowzero: int = 0
) -> onnx.ModelProto:
    """Reshape x, of these sizes, as exporters do: a text ``x1`` is the size of x on axis 1."""
    lines, parts = ["s = Shape(x)"], []
    weights: Parameters = {"first": np.array([0])}
    for place, size in enumerate(sizes):
        if isinstance(size, str):
            weights[f"i{size[1:]}"] = np.array(int(size[1:]))
            lines.append(f"g{place} = Gather(s, i{size[1:]}) p{place} = Unsqueeze(g{place}, first)")
        else:
            weights[f"p{place}"] = np.array([size])
        parts.append(f"p{place}")
    attribute = f"<allowzero={allowzero}>" if allowzero else ""
    result = ",".join("abcdef"[: len(sizes)])
    text = f"{' '.join(lines)} t = Concat<axis=0>({', '.join(parts)}) y = Reshape{attribute}(x, t)"
    return build(f"(float[{x}] x) => (float[{result}] z) {{ {text} z = Neg(y) }}", **weights)


def simplified(model: onnx.ModelProto, *shapes: tuple[int, ...]) -> list[int] | None:
    """Return the constant shape, if there is one; assert equal bits and a fixpoint."""
    result = run_pass(model, NAME)
    optimized = result.to_proto()
    for shape in shapes:
        feeds = {"x": np.arange(np.prod(shape), dtype=np.float32).reshape(shape)}
        assert_equal_outputs(model, optimized, feeds)
    assert not run_pass(optimized, NAME).record.rewrites
    if "Shape" in operators(optimized):
        assert result.record.output is not None
        assert result.record.output.same
        return None
    assert operators(optimized) == ["Reshape", "Neg"]
    (target,) = optimized.graph.initializer
    return [int(size) for size in onnx.numpy_helper.to_array(target)]


@pytest.mark.parametrize(
    ("x", "sizes", "expected", "shapes"),
    [
        ("N,6,4", ["x0", 24], [0, 24], [(3, 6, 4), (0, 6, 4), (1, 6, 4)]),
        ("N,6,4", ["x0", "x2", "x1"], [0, 4, 6], [(3, 6, 4), (0, 6, 4)]),
        ("N,6,4", ["x0", 2, 3, -1], [0, 2, 3, 4], [(3, 6, 4)]),
        ("N,6,4", ["x0", -1], [0, 24], [(3, 6, 4)]),
        ("4,N,6", [2, 2, "x1", 6], [2, 2, -1, 6], [(4, 5, 6)]),
        ("N,M,6", ["x0", "x1", 2, 3], [0, 0, 2, 3], [(4, 5, 6), (0, 5, 6), (4, 0, 6)]),
        ("N,M,6", ["x0", "x1", 3, -1], [0, 0, 3, 2], [(4, 5, 6)]),
        ("N,M,L", ["x0", "x1", -1], [0, 0, 0], [(4, 5, 6), (4, 5, 0)]),
        ("N,M,L", ["x0", -1, "x2"], [0, 0, 0], [(4, 5, 6), (4, 0, 6)]),
        ("N,M,6", ["x0", -1], [0, -1], [(4, 5, 6), (4, 0, 6)]),
        ("N,6,H,W", ["x0", 6, -1], [0, 6, -1], [(2, 6, 4, 3), (2, 6, 0, 3)]),
        ("N,6,H,W", ["x0", 2, 3, -1], [0, 2, 3, -1], [(2, 6, 4, 3), (1, 6, 1, 1)]),
        ("N,6,H,W", ["x0", "x1", -1], [0, 6, -1], [(2, 6, 4, 3)]),
        ("N,M,H,W", ["x0", "x1", -1], [0, 0, -1], [(2, 6, 4, 3), (2, 6, 4, 0)]),
        ("N,M,H,W", [-1, "x1", 0], [-1, 0, 0], [(2, 6, 4, 3)]),
    ],
)
def test_a_shape_that_follows(
    x: str, sizes: list[int | str], expected: list[int], shapes: list[tuple[int, ...]]
) -> None:
    assert simplified(reshaped(x, sizes), *shapes) == expected


@pytest.mark.parametrize(
    ("x", "sizes", "shape"),
    [
        ("N,M,6", ["x1", "x0", 6], (4, 5, 6)),
        ("N,M,6", ["x0", 6, "x1"], (4, 5, 6)),
        ("N,M,6", ["x1", -1], (4, 5, 6)),
        ("N,M,6", [-1, "x0"], (4, 5, 6)),
        ("N,0,6", ["x0", "x1", 3, 2], (4, 0, 6)),
    ],
)
def test_a_shape_that_depends_on_more_stays(
    x: str, sizes: list[int | str], shape: tuple[int, ...]
) -> None:
    assert simplified(reshaped(x, sizes), shape) in (None, [0, 0, 3, 2])


def test_where_0_means_0_no_size_is_copied() -> None:
    assert simplified(reshaped("N,M,6", ["x0", -1], allowzero=1), (4, 5, 6)) is None
    model = reshaped("N,M,6", ["x0", "x1", 2, 3], allowzero=1)
    assert simplified(model, (4, 5, 6)) is None
    assert simplified(reshaped("N,5,6", ["x0", 30], allowzero=1), (4, 5, 6)) == [-1, 30]


def test_a_shape_that_others_read_stays_for_them() -> None:
    model = build(
        "(float[N,6] x) => (float[a,b,c] y, int64[n] t) "
        "{ s = Shape(x) n = Slice(s, i0, i1) t = Concat<axis=0>(n, i2, i3) y = Reshape(x, t) }",
        i0=np.array([0]),
        i1=np.array([1]),
        i2=np.array([2]),
        i3=np.array([3]),
    )
    optimized = run_pass(model, NAME).to_proto()
    assert "Concat" in operators(optimized)
    assert optimized.graph.node[-1].input[1] != "t"


def test_it_is_certified() -> None:
    cases: list[tuple[str, list[int | str]]] = [
        ("N,6,4", ["x0", 24]),
        ("N,M,6", ["x0", "x1", 3, 2]),
        ("N,6,4", ["x0", -1]),
        ("N,6,H,W", ["x0", 2, 3, -1]),
    ]
    for x, sizes in cases:
        model = reshaped(x, sizes)
        record = bnfold.optimize(model, passes=bnfold.PassOptions(only=[NAME])).record
        (rewrite,) = record.rewrites
        assert rewrite.certificate is not None
        assert rewrite.certificate.verdict == "certified", rewrite.certificate


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_random_shapes(data: st.DataObject) -> None:
    """Whatever is free and whatever is computed: the same values, and the same shape."""
    own = data.draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=3))
    free = [data.draw(st.booleans()) for _ in own]
    x = ",".join("NMLK"[axis] if free[axis] else str(size) for axis, size in enumerate(own))
    sizes: list[int | str] = [
        f"x{axis}" if data.draw(st.booleans()) else size for axis, size in enumerate(own)
    ]
    sizes = data.draw(st.permutations(sizes))
    if data.draw(st.booleans()):
        sizes = [*sizes, 1]
    if data.draw(st.booleans()):
        sizes[data.draw(st.integers(0, len(sizes) - 1))] = -1
    simplified(reshaped(x, sizes), tuple(own))


@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13, 14, 21])
@pytest.mark.parametrize("split", [False, True])
def test_what_older_operator_sets_compute_of_sizes_is_known_too(opset: int, split: bool) -> None:
    """onnx infers what a Reshape makes of computed sizes from operator set 14 on."""
    is_old = opset < 13
    unsqueeze = "Unsqueeze<axes=[0]>(n)" if is_old else "Unsqueeze(n, first)"
    parts = "Split<axis=1, split=[8,8]>(h)" if is_old else "Split<axis=1>(h, halves)"
    total = "ReduceSum<axes=[1], keepdims=0>(r)" if is_old else "ReduceSum<keepdims=0>(r, second)"
    more: Parameters = {} if is_old else {"first": np.array([0])}
    parameters: Parameters = {} if split else {"v": normal(16, 8)}
    if split and not is_old:
        more |= {"halves": np.array([8, 8]), "second": np.array([1])}
    lines = f"p, q = {parts} a = Add(p, q)" if split else "a = MatMul(h, v)"
    end = f"y = {total}" if split else "y = Identity(r)"
    shape = "N,c" if split else "N,b,c"
    model = build(
        f"(float[N,5] x) => (float[{shape}] y) {{ h = MatMul(x, w) "
        f"{lines} s = Shape(x) n = Gather(s, zero) u = {unsqueeze} "
        f"t = Concat<axis=0>(u, rest) r = Reshape(a, t) {end} }}",
        opset=opset,
        w=normal(5, 16),
        zero=np.array(0),
        rest=np.array([2, 4]),
        **more,
        **parameters,
    )
    result = run_pass(model, "simplify-reshape").to_proto()
    assert not {"Shape", "Gather", "Unsqueeze"} & {*operators(result)}
    assert_equivalent(model, result, draw_feeds(model, sizes={"N": 3}))


@pytest.mark.parametrize("rest", [1, 5])
def test_rows_of_a_multiple_of_a_free_size_are_certified(rest: int) -> None:
    """There are that many at each size of the batch, and nothing else is to be compared."""
    model = build(
        f"(float[N,{rest},3] x) => (float[a,b,c] y) {{ r = Reshape(x, flat) m = MatMul(r, w) "
        "s = Shape(x) n = Gather(s, zero) t = Concat<axis=0>(n, open, three) y = Reshape(m, t) }",
        flat=np.array([-1, 3]),
        zero=np.array([0]),
        open=np.array([-1]),
        three=np.array([3]),
        w=np.ones((3, 3), np.float32),
    )
    record = bnfold.optimize(model, only=[NAME]).record
    found = [rewrite.certificate for rewrite in record.rewrites]
    assert {each.verdict for each in found if each is not None} == {"certified"}
