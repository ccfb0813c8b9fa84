"""merge-reshapes: two operators that only reshape become one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.evaluate import assert_equal_outputs
from tests.support.graphs import Parameters, build, operators
from tests.support.passes import certificates, run_pass

NAME = "merge-reshapes"

WEIGHTS: Parameters = {
    "rows": np.array([-1, 24]),
    "kept": np.array([0, 24]),
    "open": np.array([0, -1]),
    "flat": np.array([-1]),
    "split": np.array([0, 2, 12]),
    "back": np.array([0, 6, 4]),
    "turned": np.array([4, 6, -1]),
    "ones": np.array([1, 3]),
    "first": np.array([0]),
    "last": np.array([-1]),
}


def chain(lines: str, x: str = "N,6,4") -> onnx.ModelProto:
    """Return a model of these lines, from y to z, between two other operators."""
    read = {n: c for n, c in WEIGHTS.items() if f", {n})" in lines}
    model = build(f"(float[{x}] x) => (float r) {{ y = Neg(x) {lines} r = Abs(z) }}", **read)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def merged(model: onnx.ModelProto, *shapes: tuple[int, ...]) -> list[str]:
    """Return what is left; assert equal values and shapes, and a fixpoint."""
    optimized = run_pass(model, NAME).to_proto()
    for shape in shapes:
        feeds = {"x": np.arange(np.prod(shape), dtype=np.float32).reshape(shape)}
        assert_equal_outputs(model, optimized, feeds)
    assert not run_pass(optimized, NAME).record.rewrites
    return operators(optimized)[1:-1]


@pytest.mark.parametrize(
    "lines",
    [
        "a = Reshape(y, rows) z = Reshape(a, split)",
        "a = Reshape(y, flat) z = Reshape(a, rows)",
        "a = Unsqueeze(y, ones) z = Reshape(a, rows)",
        "a = Reshape(y, kept) z = Unsqueeze(a, ones)",
        "a = Reshape(y, kept) b = Reshape(a, split) z = Reshape(b, rows)",
    ],
)
def test_two_become_one(lines: str) -> None:
    model = chain(lines)
    assert merged(model, (3, 6, 4), (1, 6, 4), (0, 6, 4)) == ["Reshape"]
    assert {each.verdict for each in certificates(model, NAME)} == {"certified"}


@pytest.mark.parametrize(
    ("lines", "x", "shapes"),
    [
        ("a = Transpose<perm=[0,2,1,3]>(y) z = Reshape(a, kept)", "N,6,1,4", [(3, 6, 1, 4)]),
        ("a = Transpose<perm=[2,0,1,3]>(y) z = Reshape(a, rows)", "1,1,6,4", [(1, 1, 6, 4)]),
        ("a = Transpose<perm=[0,2,1]>(y) z = Unsqueeze(a, ones)", "N,24,1", [(3, 24, 1)]),
        ("a = Transpose<perm=[1,0,2]>(y) z = Squeeze(a, first)", "N,1,4", [(3, 1, 4), (0, 1, 4)]),
        ("a = Transpose(y) z = Flatten<axis=2>(a)", "1,24,1", [(1, 24, 1)]),
        ("a = Unsqueeze(y, first) z = Transpose<perm=[1,0,2]>(a)", "N,4", [(3, 4), (0, 4)]),
        ("a = Unsqueeze(y, last) z = Transpose<perm=[0,2,1]>(a)", "N,4", [(3, 4), (1, 4)]),
    ],
)
def test_a_transpose_that_moves_axes_of_size_1(
    lines: str, x: str, shapes: list[tuple[int, ...]]
) -> None:
    model = chain(lines, x)
    assert merged(model, *shapes) == ["Reshape"]
    if "Reshape" in lines or "Unsqueeze(y, first)" in lines:
        (proven,) = certificates(model, NAME)
        assert proven.verdict == "certified"


@pytest.mark.parametrize(
    ("lines", "x"),
    [
        ("a = Transpose<perm=[0,2,1,3]>(y) z = Reshape(a, kept)", "N,6,M,4"),
        ("a = Transpose<perm=[0,2,3,1]>(y) z = Reshape(a, kept)", "N,6,1,4"),
        ("a = Transpose(y) z = Reshape(a, rows)", "N,1,24"),
        ("a = Unsqueeze(y, first) z = Transpose<perm=[2,0,1]>(a)", "N,4"),
        ("a = Transpose<perm=[1,0,2]>(y) z = Transpose<perm=[0,2,1]>(a)", "1,1,4"),
    ],
)
def test_transposes_that_stay(lines: str, x: str) -> None:
    assert not run_pass(chain(lines, x), NAME).record.rewrites


@pytest.mark.parametrize(
    ("lines", "x", "expected"),
    [
        ("a = Reshape(y, rows) b = Reshape(a, split) c = Reshape(a, back) d = Flatten(c) "
         "e = Flatten(b) z = Add(d, e)", "N,6,4", ["Flatten", "Reshape", "Add"]),
        ("a = Reshape(y, rows) b = Reshape(a, split) c = Unsqueeze(a, last) d = Exp(b) e = Exp(c) "
         "f = Flatten(d) g = Flatten(e) z = Add(f, g)", "N,6,4",
         ["Reshape", "Reshape", "Exp", "Exp", "Flatten", "Flatten", "Add"]),
        ("a = Flatten(y) z = Reshape(a, back)", "N,6,4", []),
        ("a = Unsqueeze(y, first) z = Squeeze(a, first)", "N,6,4", []),
        ("a = ReduceMean<axes=[1], keepdims=0>(y) z = Unsqueeze(a, first)", "N,1,4", ["Reshape"]),
        ("a = Squeeze(y, last) b = ReduceMean<axes=[1], keepdims=0>(a) z = Unsqueeze(b, last)",
         "N,1,1", ["Reshape"]),
        ("a = Unsqueeze(y, first) b = Exp(a) c = Squeeze(a, first) z = Add(b, c)", "N,M",
         ["Unsqueeze", "Exp", "Add"]),
        ("a = Squeeze(y, first) b = Exp(a) c = Unsqueeze(a, first) z = Add(b, c)", "1,M,4",
         ["Squeeze", "Exp", "Add"]),
    ],
)  # fmt: skip
def test_several_readers_and_means_of_one(lines: str, x: str, expected: list[str]) -> None:
    model = chain(lines, x)
    shapes = [
        tuple(int(size.replace("N", n).replace("M", "2")) for size in x.split(",")) for n in "301"
    ]
    assert merged(model, *shapes) == expected
    if "Add(d, e)" in lines or "ReduceMean" in lines:
        proven = certificates(model, NAME)
        assert {each.verdict for each in proven} == {"certified"}


def test_a_size_that_a_shape_leaves_open() -> None:
    model = chain("a = Reshape(y, open) z = Unsqueeze(a, last)")
    assert merged(model, (3, 6, 4)) == ["Reshape"]


@pytest.mark.parametrize(
    ("lines", "x"),
    [
        ("a = Unsqueeze(y, first) z = Unsqueeze(a, last)", "N,M"),
        ("a = Reshape(y, rows) b = Exp(a) z = Reshape(b, split)", "N,6,4"),
        ("a = Reshape(y, rows) b = Reshape(a, split) c = Exp(a) d = Reshape(c, split) "
         "z = Add(b, d)", "N,6,4"),
        ("a = Unsqueeze(y, first) b = Unsqueeze(a, first) c = Unsqueeze(a, last) d = Add(b, c) "
         "z = Exp(d)", "N,M"),
        ("a = ReduceMean<axes=[1], keepdims=0>(y) z = Unsqueeze(a, first)", "N,M,4"),
        ("a = ReduceMean<axes=[1], keepdims=0>(y) z = Unsqueeze(a, first)", "N,6,4"),
        ("a = ReduceMean<axes=[0], keepdims=0>(y) z = Unsqueeze(a, first)", "2,2,4"),
        ("a = ReduceMax<axes=[1], keepdims=0>(y) z = Unsqueeze(a, first)", "N,1,4"),
    ],
)  # fmt: skip
def test_others_stay(lines: str, x: str) -> None:
    assert not run_pass(chain(lines, x), NAME).record.rewrites


def test_an_intermediate_result_that_is_an_output_stays() -> None:
    model = build(
        "(float[N,6,4] x) => (float[a,b] y, float[c,d,e] z) "
        "{ y = Reshape(x, rows) z = Reshape(y, split) }",
        rows=WEIGHTS["rows"],
        split=WEIGHTS["split"],
    )
    assert not run_pass(model, NAME).record.rewrites


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_random_chains(data: st.DataObject) -> None:
    """Chains over axes of any size, free or fixed, forth and back."""
    own = data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3))
    free = data.draw(st.lists(st.booleans(), min_size=3, max_size=3))
    x = ",".join("NML"[axis] if free[axis] else str(size) for axis, size in enumerate(own))
    weights: Parameters = {}
    shape, lines, last = list(own), [], "y"
    for number in range(data.draw(st.integers(2, 3))):
        kind = data.draw(st.sampled_from(["Reshape", "Unsqueeze", "Flatten", "Transpose"]))
        if kind == "Reshape":
            shape = list(data.draw(st.permutations(shape)))
            target = list(shape)
            is_open: bool = data.draw(st.booleans())
            if target and is_open:
                target[data.draw(st.integers(0, len(target) - 1))] = -1
            weights[f"w{number}"] = np.array(target, np.int64)
            lines.append(f"v{number} = Reshape({last}, w{number})")
        elif kind == "Unsqueeze":
            axis = data.draw(st.integers(0, len(shape)))
            shape.insert(axis, 1)
            weights[f"w{number}"] = np.array([axis])
            lines.append(f"v{number} = Unsqueeze({last}, w{number})")
        elif kind == "Transpose":
            order = data.draw(st.permutations(range(len(shape))))
            shape = [shape[axis] for axis in order]
            lines.append(f"v{number} = Transpose<perm={list(order)}>({last})")
        else:
            axis = data.draw(st.integers(0, len(shape)))
            shape = [int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))]
            lines.append(f"v{number} = Flatten<axis={axis}>({last})")
        last = f"v{number}"
    model = build(
        f"(float[{x}] x) => (float r) {{ y = Neg(x) {' '.join(lines)} r = Abs({last}) }}", **weights
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    merged(model, tuple(own))
