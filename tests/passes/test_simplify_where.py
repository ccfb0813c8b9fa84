"""simplify-where: what a Where chooses for every input takes its place."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.evaluate import assert_equal_outputs
from tests.support.graphs import Array, Parameters, build, draw_feeds, operators
from tests.support.passes import assert_rewritten, certificates, run_pass

NAME = "simplify-where"

CONSTANTS: Parameters = {
    "true": np.array(True),
    "false": np.array([False, False, False]),
    "mixed": np.array([True, False, True]),
    "wide": np.zeros((2, 1, 1, 1), np.bool_),
    "k": np.array([7, 8, 9], np.float32),
    "large": np.ones((4, 1, 1), np.float32),
}


def model_of(lines: str, *, opset: int = 17) -> onnx.ModelProto:
    used = {
        name: array for name, array in CONSTANTS.items() if f"{name}," in lines.replace(")", ",")
    }
    rank = "o,p,q,r" if "wide" in lines else "p,q,r"
    text = f"(float[N,2,3] x, bool[N,2,3] c) => (float[{rank}] z) {{ {lines} }}"
    return build(text, opset=opset, **used)


@pytest.mark.parametrize(
    ("lines", "expected", "opset"),
    [
        ("y = Neg(x) w = Where(true, y, k) z = Abs(w)", ["Neg", "Abs"], 9),
        ("y = Neg(x) w = Where(false, k, y) z = Abs(w)", ["Neg", "Abs"], 16),
        ("y = Neg(x) e = Exp(x) w = Where(false, e, y) z = Abs(w)", ["Neg", "Abs"], 20),
        ("y = Neg(x) w = Where(mixed, y, y) z = Abs(w)", ["Neg", "Abs"], 17),
        ("n = Not(c) y = Neg(x) z = Where(n, y, k)", ["Neg", "Where"], 9),
        ("n = Not(c) z = Where(n, k, x)", ["Where"], 20),
    ],
)
def test_it_is_decided(lines: str, expected: list[str], opset: int) -> None:
    model = model_of(lines, opset=opset)
    assert_rewritten(model, NAME, expected, rtol=0, atol=0, certified="z = Where" in lines)


@pytest.mark.parametrize(
    "lines",
    [
        "y = Neg(x) w = Where(mixed, y, k) z = Abs(w)",
        "y = Neg(x) w = Where(c, y, y) z = Abs(w)",
        "y = Neg(x) w = Where(wide, k, y) z = Abs(w)",
        "y = ReduceMax<axes=[0], keepdims=1>(x) w = Where(false, x, y) z = Abs(w)",
        "z = Where(true, x, k)",
        "n = Not(c) f = Cast<to=1>(n) w = Where(n, x, k) z = Add(w, f)",
    ],
)
def test_others_stay(lines: str) -> None:
    assert not run_pass(model_of(lines), NAME).record.rewrites


def test_an_overridable_condition_stays() -> None:
    model = build(
        "(float[N,3] x, bool t) => (float[N,3] z) { y = Neg(x) w = Where(t, y, x) z = Abs(w) }",
        t=np.array(True),
    )
    assert not run_pass(model, NAME).record.rewrites


def joined(
    mask: Array, numbers: Array, *, swapped: bool = False, parts: str = "a, k, b"
) -> onnx.ModelProto:
    """Choose between numbers and a Concat of vectors of 2, 1 and 3."""
    choices = "join, numbers" if swapped else "numbers, join"
    return build(
        f"(int64[2] a, int64[3] b, int64[N] free) => (int64[M] z) "
        f"{{ join = Concat<axis=0>({parts}) w = Where(mask, {choices}) z = Neg(w) }}",
        mask=~mask if swapped else mask, numbers=numbers, k=np.array([-1]),
    )  # fmt: skip


def parts_of(model: onnx.ModelProto) -> list[list[int] | str]:
    """Return what the Concat reads after the pass: names, or the content of constants."""
    optimized = run_pass(model, NAME).to_proto()
    contents = {t.name: onnx.numpy_helper.to_array(t) for t in optimized.graph.initializer}
    assert operators(optimized) == ["Concat", "Neg"]
    return [
        contents[name].tolist() if name in contents else name
        for name in optimized.graph.node[0].input
    ]


T, F = True, False


@pytest.mark.parametrize(
    ("mask", "numbers", "expected", "swapped"),
    [
        ([F, F, T, F, F, F], [1], ["a", [1], "b"], False),
        ([F, F, T, F, F, F], [1, 2, 3, 4, 5, 6], ["a", [3], "b"], True),
        ([T, T, F, F, F, F], [1, 2, 3, 4, 5, 6], [[1, 2], [-1], "b"], False),
        ([F, F, F, T, T, T], [1, 2, 3, 4, 5, 6], ["a", [-1], [4, 5, 6]], True),
        ([T, T, T, F, F, F], 4, [[4, 4], [4], "b"], True),
    ],
)
def test_parts_of_a_concat(
    mask: list[bool], numbers: list[int] | int, expected: list[list[int] | str], swapped: bool
) -> None:
    model = joined(np.array(mask), np.array(numbers), swapped=swapped)
    assert parts_of(model) == expected
    if numbers == 4:
        assert_rewritten(model, NAME, ["Concat", "Neg"], rtol=0, atol=0, certified=True)


def test_a_constant_part_is_mixed() -> None:
    model = joined(np.array([F, F, F, F, T, F, F]), np.array(9), parts="a, k, k, k, a")
    assert parts_of(model) == ["a", [-1], [-1], [9], "a"]
    model = build(
        "(int64[2] a) => (int64[M] z) "
        "{ join = Concat<axis=0>(a, k) w = Where(m, n, join) z = Neg(w) }",
        k=np.array([4, 5]), m=np.array([F, F, T, F]), n=np.array([1]),
    )  # fmt: skip
    assert parts_of(model) == ["a", [1, 5]]


@pytest.mark.parametrize(
    "model",
    [
        joined(np.array([F, T, F, F, F, F]), np.array([1])),
        joined(np.array([[F, F, T, F, F, F]]), np.array([1])),
        joined(np.array([F, F, T, F, F, F]), np.array([[1], [2]])),
        joined(np.array([T]), np.array([1]), parts="a, free"),
        joined(np.array([F, F, F]), np.array([1, 2, 3]), parts="k"),
        build(
            "(int64[2] a, int64[4] n) => (int64[M] z) "
            "{ j = Concat<axis=0>(a, a) z = Where(m, n, j) }",
            m=np.array([F, F, T, T]),
        ),
        build(
            "(int64[2,1] a) => (int64[2,M] z) { j = Concat<axis=1>(a, a) z = Where(m, n, j) }",
            m=np.array([F, T]), n=np.array([1]),
        ),
        build(
            "(int64[2,1] a) => (int64[2,M] z) { j = Concat<axis=1>(a, a) z = Where(m, n, j) }",
            m=np.array([T, T]), n=np.array([1]),
        ),
    ],
)  # fmt: skip
def test_parts_that_are_mixed_stay(model: onnx.ModelProto) -> None:
    assert not run_pass(model, NAME).record.rewrites


def test_the_sizes_of_an_expand() -> None:
    """As torch's TorchScript exporter writes ``x.expand(n, -1)``."""
    model = build(
        "(float[1,3] x, float[N,5] like) => (float[n,m] y) { s = Shape(like) g = Gather(s, zero) "
        "c = Concat<axis=0>(g, k) e = Equal(c, minus) w = Where(e, ones, c) y = Expand(x, w) }",
        zero=np.array([0]), k=np.array([-1]), minus=np.array([-1, -1]), ones=np.array([1, 1]),
    )  # fmt: skip
    names = ("evaluate-constants", NAME)
    optimized = run_pass(model, *names).to_proto()
    assert operators(optimized) == ["Shape", "Gather", "Concat", "Expand"]
    for size in (0, 1, 4):
        feeds = draw_feeds(model, sizes={"N": size})
        assert_equal_outputs(model, optimized, feeds)
    proven = certificates(model, *names)
    assert [each.verdict for each in proven] == ["certified"] * 2


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_random_choices(data: st.DataObject) -> None:
    """Equal bits whatever the parts, the mask and the numbers are; and twice is once."""
    names = data.draw(st.lists(st.sampled_from(["a", "k", "b"]), min_size=1, max_size=4))
    count = sum({"a": 2, "k": 1, "b": 3}[name] for name in names)
    whole = data.draw(st.booleans())
    mask = data.draw(st.lists(st.booleans(), min_size=1 if whole else count, max_size=count))
    mask = mask if len(mask) == count else mask[:1]
    shape = data.draw(st.sampled_from([(), (1,), (count,)]))
    model = joined(
        np.array(mask),
        np.arange(np.prod(shape, dtype=int)).reshape(shape) + 10,
        swapped=data.draw(st.booleans()),
        parts=", ".join(names),
    )
    optimized = run_pass(model, NAME).to_proto()
    feeds = draw_feeds(model)
    assert_equal_outputs(model, optimized, feeds)
    assert len(optimized.graph.node) <= len(model.graph.node)
    assert not run_pass(optimized, NAME).record.rewrites
