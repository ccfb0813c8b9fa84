"""strip-slice: a Slice that keeps everything is removed, and no other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.evaluate import run_plain
from tests.support.graphs import Array, build, draw_feeds, operators
from tests.support.passes import run_pass

NAME = "strip-slice"
LAST = 2**63 - 1


def sliced(size: str, *parameters: list[int] | None, opset: int = 17) -> onnx.ModelProto:
    """Slice x, of this size, by starts, ends, axes and steps; None omits one."""
    names = [
        name if content is not None else ""
        for name, content in zip(("starts", "ends", "axes", "steps"), parameters, strict=False)
    ]
    weights: dict[str, Array] = {
        name: np.array(content, np.int64)
        for name, content in zip(names, parameters, strict=True)
        if content is not None
    }
    model = build(
        f"(float[{size}] x) => (float[a,b,c] z) {{ y = Neg(x) s = Slice(y) z = Abs(s) }}",
        opset=opset,
    )
    model.graph.node[1].input.extend(names)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(content, name) for name, content in weights.items()
    )
    return model


def is_stripped(model: onnx.ModelProto) -> bool:
    """Return whether the pass removes the Slice; assert equal bits and a fixpoint."""
    optimized = run_pass(model, NAME).to_proto()
    stripped = operators(optimized) == ["Neg", "Abs"]
    assert stripped or operators(optimized) == operators(model)
    feeds = draw_feeds(model)
    for one, other in zip(run_plain(model, feeds), run_plain(optimized, feeds), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not run_pass(optimized, NAME).record.rewrites
    return stripped


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("2,3,4", ([0], [3], [1], [1])),
        ("2,3,4", ([0], [3], [1])),
        ("2,3,4", ([0], [99], [-2], None)),
        ("2,3,4", ([0, 0], [2, 3])),
        ("2,3,4", ([0, -4], [LAST, 4], [0, 2], [1, 1])),
        ("2,3,4", ([-99], [4], [2])),
        ("N,3,W", ([0, 0], [LAST, 3], [2, 1])),
        ("N,3,W", ([0], [2**31 - 1], [0])),
    ],
)
def test_a_slice_that_keeps_everything_is_removed(
    size: str, parameters: tuple[list[int] | None, ...]
) -> None:
    assert is_stripped(sliced(size, *parameters))


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("2,3,4", ([0], [2], [1], [1])),
        ("2,3,4", ([1], [3], [1], [1])),
        ("2,3,4", ([0], [3], [1], [2])),
        ("2,3,4", ([0], [-1], [1])),
        ("2,3,4", ([-1], [-99], [1], [-1])),
        ("2,3,4", ([0, 0], [3, 3], [1, 2])),
        ("N,3,W", ([0], [64], [2])),
        ("N,3,W", ([-99], [LAST], [2])),
    ],
)
def test_any_other_slice_stays(size: str, parameters: tuple[list[int] | None, ...]) -> None:
    assert not is_stripped(sliced(size, *parameters))


@pytest.mark.parametrize(("ends", "stripped"), [("[9,3]", True), ("[9,2]", False)])
def test_before_opset_10_the_parameters_are_attributes(ends: str, stripped: bool) -> None:
    graph = f"y = Neg(x) s = Slice<starts=[0,0], ends={ends}, axes=[2,1]>(y) z = Abs(s)"
    model = build(f"(float[2,3,4] x) => (float[a,b,c] z) {{ {graph} }}", opset=9)
    assert is_stripped(model) == stripped


def test_parameters_may_be_computed_from_constants() -> None:
    model = build(
        "(float[N,3,4] x) => (float[a,b,c] z) "
        "{ y = Neg(x) e = Add(one, two) s = Slice(y, o, e, one) z = Abs(s) }",
        o=np.array([0]),
        one=np.array([1]),
        two=np.array([2]),
    )
    assert is_stripped(model)


def test_parameters_at_run_time_stay() -> None:
    model = build(
        "(float[2,3,4] x, int64[1] e) => (float[a,b,c] z) "
        "{ y = Neg(x) s = Slice(y, o, e, one) z = Abs(s) }",
        o=np.array([0]),
        one=np.array([1]),
    )
    assert not run_pass(model, NAME).record.rewrites


@given(
    st.lists(
        st.tuples(st.integers(-6, 6), st.integers(-6, 6), st.sampled_from([1, 1, 1, 2, -1])),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_exactly_those_by_which_numpy_keeps_everything(
    taken: list[tuple[int, int, int]], free: bool
) -> None:
    starts, ends, steps = (list(values) for values in zip(*taken, strict=True))
    model = sliced("N,3,W" if free else "2,3,4", starts, ends, list(range(len(taken))), steps)
    x = np.arange(24).reshape(2, 3, 4)
    result = x[
        tuple(slice(start, end, step) if step > 0 else slice(0, 0) for start, end, step in taken)
    ]
    takes_all = result.shape == x.shape and all(step == 1 for step in steps)
    stripped = is_stripped(model)
    assert not stripped or takes_all
    assert stripped or free or not takes_all
