"""merge-slices: Slices in a row become one, along one axis or several."""

from __future__ import annotations

import itertools
from typing import TypeAlias

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold_passes.merge_slices import _Bounds, _composed
from tests.support.evaluate import assert_equal_outputs, run_plain
from tests.support.graphs import Parameters, build, named_in, operators
from tests.support.passes import certificates, run_pass
from tests.support.slow import few

NAME = "merge-slices"
END = 2**63 - 1

Cut: TypeAlias = "tuple[list[int], list[int], list[int] | None, list[int] | None]"


def sliced(
    x: str, *cuts: Cut, opset: int = 17, lines: str = "", dtype: str = "float"
) -> onnx.ModelProto:
    """Return a model of Slices of x in a row, each with its starts, ends, axes and steps."""
    weights: Parameters = {}
    text, last = "", "v"
    for number, cut in enumerate(cuts):
        given = dict(zip(("starts", "ends", "axes", "steps"), cut, strict=True))
        named = {name: numbers for name, numbers in given.items() if numbers is not None}
        if opset < 10:
            attributes = ", ".join(f"{name} = {numbers}" for name, numbers in named.items())
            text += f"s{number} = Slice<{attributes}>({last}) "
        else:
            read = ", ".join(f"{name}{number}" if name in named else "" for name in given)
            text += f"s{number} = Slice({last}, {read.rstrip(', ')}) "
            weights |= {
                f"{name}{number}": np.array(numbers, np.int64) for name, numbers in named.items()
            }
        last = f"s{number}"
    rank = x.count(",") + 1
    result = ",".join("abcd"[:rank])
    return build(
        f"({dtype}[{x}] x) => ({dtype}[{result}] y) "
        f"{{ v = Identity(x) {text}{lines} y = Identity({last}) }}",
        opset=opset,
        **weights,
    )


def merged(model: onnx.ModelProto, *shapes: tuple[int, ...]) -> list[onnx.NodeProto]:
    """Return the Slices that are left; assert equal bits and shapes, and a fixpoint."""
    optimized = run_pass(model, NAME).to_proto()
    onnx.checker.check_model(optimized)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    for shape in shapes:
        feeds = {"x": np.arange(np.prod(shape)).reshape(shape).astype(dtype)}
        for one, other in zip(run_plain(model, feeds), run_plain(optimized, feeds), strict=True):
            assert one.shape == other.shape
            np.testing.assert_array_equal(one, other)
    assert not run_pass(optimized, NAME).record.rewrites
    return [node for node in optimized.graph.node if node.op_type == "Slice"]


APPLIED: list[tuple[str, list[Cut]]] = [
    ("N,6,8", [([0], [4], [1], None), ([1], [END], [2], None)]),
    ("N,6,8", [([0], [4], [-2], None), ([1], [END], [-1], None)]),
    ("6,8", [([1, 2], [5, END], None, None), ([0, 1], [3, 4], None, [2, 1])]),
    ("N,M", [([1], [END], [1], [1]), ([0], [-1], [1], [1])]),
    ("N,M", [([0], [-1], [1], None), ([1], [END], [1], [2])]),
    ("N,M", [([0], [-1], [1], None), ([1], [-2], [1], [3])]),
    ("N,M", [([1], [7], [1], [2]), ([1], [3], [1], None)]),
    ("N,M", [([-4], [END], [1], [2]), ([0], [-1], [0], None)]),
    ("N,M", [([0], [-1], [1], None), ([1], [END], [0], None), ([0], [-2], [1], None)]),
    ("4,9", [([-2], [-9], [1], [-2]), ([1], [END], [1], [1])]),
    ("4,9", [([2], [END], [1], [1]), ([-1], [-99], [1], [-3])]),
    ("4,9", [([8], [-99], [1], [-1]), ([8], [-99], [1], [-1])]),
    ("4,9", [([7], [-99], [1], [-1]), ([0], [END], [1], [7])]),
    ("4,9", [([-3], [END], [1], None), ([0], [2], [1], None)]),
    ("4,9", [([3], [5], [1], None), ([2], [END], [1], None)]),
    ("4,9", [([3], [99], [1], None), ([-2], [-1], [1], None)]),
    # beyond 64 bits
    ("N,M", [([5], [END], [1], [1]), ([END], [END], [1], [1])]),
    ("N,M", [([0], [END], [1], [2**40]), ([0], [END], [1], [2**40])]),
    ("N,M", [([0], [-(2**63)], [1], [1]), ([0], [-1], [1], [1])]),
]


@pytest.mark.parametrize(("x", "cuts"), few(APPLIED, APPLIED[::2]))
def test_one_remains(x: str, cuts: list[Cut]) -> None:
    shape = tuple(
        int(size) if size.isdigit() else 5 + place for place, size in enumerate(x.split(","))
    )
    small = tuple(int(size) if size.isdigit() else 1 for size in x.split(","))
    model = sliced(x, *cuts)
    assert len(merged(model, shape, small)) == 1


@pytest.mark.parametrize("x", ["N,M", "4,9"])
def test_it_is_certified(x: str) -> None:
    model = sliced(x, ([1], [8], [1], [2]), ([0], [2], [1], None), ([1], [END], [0], None))
    assert [each.verdict for each in certificates(model, NAME)] == ["certified"] * 2


@pytest.mark.parametrize(
    ("x", "cuts"),
    [
        ("N,M", [([-3], [END], [1], None), ([1], [END], [1], None)]),
        ("N,M", [([1], [END], [1], None), ([-3], [END], [1], None)]),
        ("N,M", [([0], [6], [1], None), ([0], [-1], [1], None)]),
        ("N,M", [([0], [-1], [1], None), ([0], [2], [1], None)]),
        ("N,M", [([0], [END], [1], [2]), ([0], [-1], [1], None)]),
        ("N,M", [([3], [-99], [1], [-1]), ([0], [2], [1], None)]),
        ("N,M", [([0], [2], [1], None), ([1], [-99], [1], [-1])]),
    ],
)
def test_what_depends_on_a_size_stays(x: str, cuts: list[Cut]) -> None:
    assert not run_pass(sliced(x, *cuts), NAME).record.rewrites


@pytest.mark.parametrize(
    "text",
    [
        "v = Slice(x, one, two) w = Neg(v) y = Slice(v, nil, one) z = Neg(w)",
        "v = Slice(x, one, two) w = Neg(v) y = Slice(w, nil, one) z = Neg(w)",
        "v = Slice(x, p, two) y = Slice(v, nil, one) z = Neg(x)",
        "v = Slice(x, one, two) y = Slice(v, nil, two, p) z = Neg(x)",
        "v = Slice(x, one, two) y = Slice(v, nil, two, nil, p) z = Neg(x)",
    ],
)
def test_others_stay(text: str) -> None:
    model = build(
        f"(float[6] x, int64[1] p) => (float[a] y, float[b] z) {{ {text} }}",
        nil=np.array([0]),
        one=np.array([1]),
        two=np.array([4]),
    )
    assert not run_pass(model, NAME).record.rewrites


def test_one_between_that_is_an_output_stays() -> None:
    model = build(
        "(float[6] x) => (float[a] v, float[b] y) "
        "{ v = Slice(x, one, two) y = Slice(v, nil, one) }",
        nil=np.array([0]),
        one=np.array([1]),
        two=np.array([4]),
    )
    assert not run_pass(model, NAME).record.rewrites


@pytest.mark.parametrize("axes", [[0, 0], [0, -2], [0]])
def test_a_malformed_one_stays(axes: list[int]) -> None:
    model = sliced("N,M", ([1, 1], [4, 4], axes, None), ([1], [3], [0], None))
    assert not run_pass(model, NAME).record.rewrites


def test_axes_of_a_value_of_unknown_rank_are_those_that_count_from_the_first() -> None:
    for axis, count in ((1, 1), (-1, 2)):
        model = build(
            "(float[N] x, int64[R] s) => (float[a,b] y) "
            "{ v = Reshape(x, s) w = Slice(v, one, two, axis) y = Slice(w, nil, one, nil) }",
            nil=np.array([0]),
            one=np.array([1]),
            two=np.array([4]),
            axis=np.array([axis]),
        )
        assert operators(run_pass(model, NAME).to_proto()).count("Slice") == count


@pytest.mark.parametrize("opset", [1, 9, 10, 13])
def test_operator_sets(opset: int) -> None:
    model = sliced("5,9", ([1], [-1], [1], None), ([0, 1], [4, 5], [1, 0], None), opset=opset)
    (left,) = merged(model, (5, 9))
    assert len(left.attribute) == (3 if opset < 10 else 0)


@pytest.mark.parametrize("dtype", ["int64", "double", "bool", "float16"])
def test_types(dtype: str) -> None:
    model = sliced("5,9", ([1], [-1], [1], [2]), ([0], [4], [0], None), dtype=dtype)
    assert len(merged(model, (5, 9))) == 1


def test_a_step_to_the_end_stays_one() -> None:
    """So that a Conv may take it as its stride."""
    model = sliced("1,2,8,8", ([0], [END], [2], [2]), ([0], [END], [3], [2]))
    optimized = run_pass(model, NAME).to_proto()
    contents = {
        tensor.name: onnx.numpy_helper.to_array(tensor).tolist()
        for tensor in optimized.graph.initializer
    }
    (node,) = [node for node in optimized.graph.node if node.op_type == "Slice"]
    assert [contents[name] for name in node.input[1:]] == [[0, 0], [END, END], [2, 3], [2, 2]]


BOUNDS = st.builds(
    _Bounds,
    st.integers(-8, 8),
    st.one_of(st.integers(-8, 8), st.just(END)),
    st.sampled_from([-3, -2, -1, 1, 1, 2, 3]),
)


def kept(bounds: _Bounds, numbers: list[int]) -> list[int]:
    """Return what Python keeps; an end below all stands for none when it goes backwards."""
    start, end, step = bounds.start, bounds.end, bounds.step
    size = len(numbers)
    start = start + size if start < 0 else start
    end = end + size if end < 0 else end
    if step > 0:
        return numbers[max(start, 0) : max(end, 0) : step]
    places = range(min(max(start, 0), size - 1), max(end, -1), step)
    return [numbers[place] for place in places]


@settings(max_examples=200, deadline=None)
@given(inner=BOUNDS, outer=BOUNDS, size=st.integers(0, 7))
def test_bounds_of_both(inner: _Bounds, outer: _Bounds, size: int) -> None:
    numbers = list(range(size))
    for told in (None, size):
        both = _composed(inner, outer, told)
        if both is not None:
            assert kept(both, numbers) == kept(outer, kept(inner, numbers))
        elif told is not None:
            backwards = [each for each in (inner, outer) if each.step < 0]
            assert any(each.end == END for each in backwards)


def test_bounds_that_are_composed_for_any_size() -> None:
    """Forwards, from a number on: those that do not depend on the size, and no others."""
    ends = (-2, 0, 3, END)
    for end, then, step in itertools.product(ends, ends, (1, 2)):
        both = _composed(_Bounds(1, end, step), _Bounds(1, then), None)
        is_clear = then == END or (end >= 0 if then >= 0 else step == 1 and end in (-2, END))
        assert (both is not None) == is_clear


@pytest.mark.parametrize(
    ("x", "third", "are_merged"),
    [
        ("N,9", "Slice(s, one, end, one)", True),
        ("N,9", "Exp(s)", False),
        ("N,M", "Slice(s, one, end, one)", True),
        ("N,M", "Slice(s, last, end, one)", False),
        ("N,9", "Slice(s, one, given, one)", False),
        ("N,9", "Gather<axis=1>(s, one)", False),
    ],
)
def test_one_that_only_slices_read_is_merged_into_each(
    x: str, third: str, are_merged: bool
) -> None:
    """As blocks that take parts of a part, each of which the others could not read without it."""
    lines = (
        "s = Slice(x, one, six, one) a = Slice(s, zero, two, one) b = Slice(s, two, end, one) "
        f"c = {third} d = Neg(a) e = Neg(b) f = Neg(c)"
    )
    weights: Parameters = {
        name: np.array([number])
        for name, number in
        {"zero": 0, "one": 1, "two": 2, "six": 7, "end": END, "last": -2}.items()
    }  # fmt: skip
    used = named_in(lines, weights)
    model = build(
        f"(float[{x}] x, int64[1] given) => (float[p,q] d, float[r,s] e, float[t,u] f) "
        f"{{ {lines} }}",
        **used,
    )
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized) == operators(model)[1 if are_merged else 0 :]
    if not are_merged:
        return
    feeds = {"x": np.arange(18, dtype=np.float32).reshape(2, 9), "given": np.array([3])}
    assert_equal_outputs(model, optimized, feeds)
    assert not run_pass(optimized, NAME).record.rewrites
    if x == "N,9":
        assert [each.verdict for each in certificates(model, NAME)] == ["certified"] * 3
