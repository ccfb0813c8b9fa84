"""fold-squeeze: a reduction keeps its axes, or drops them, without an operator after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.rewriting.contract import Common
from tests.support.evaluate import run_plain
from tests.support.graphs import Parameters, build, operators
from tests.support.passes import assert_refused, assert_rewritten, certificates, run_pass

NAME = "fold-squeeze"

REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "ArgMax", "ArgMin"),
)


def model_of(
    reduction: str,
    axes: list[int],
    keepdims: int | None,
    after: str,
    *,
    x: str = "N,3,4",
    opset: int = 17,
    more: str = "",
    **weights: Any,
) -> onnx.ModelProto:
    """Return a model of a reduction of x to a, and of `after`, which reads it and makes y."""
    is_arg = reduction.startswith("Arg")
    named = [f"axis={axes[0]}"] if is_arg else [f"axes={axes}"] if axes else []
    operands = "x"
    if not is_arg and axes and opset >= (13 if reduction == "ReduceSum" else 18):
        named, operands = [], "x, axes"
        weights["axes"] = np.array(axes)
    if opset < 13 and "s)" in after:
        after = after.replace("(", f"<axes={weights.pop('s').tolist()}>(").replace(", s)", ")")
    named += [] if keepdims is None else [f"keepdims={keepdims}"]
    kind = "int64" if is_arg else "float"
    attributes = ", ".join([*named, *more.split()])
    made = f"{reduction}<{attributes}>" if attributes else reduction
    text = f"a = {made}({operands}) y = {after}"
    model = build(f"(float[{x}] x) => ({kind} y) {{ {text} }}", opset=opset, **weights)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def folded(model: onnx.ModelProto, *shapes: tuple[int, ...]) -> onnx.NodeProto:
    """Return the one operator that is left; assert equal bits and shapes, and a certificate."""
    optimized = run_pass(model, NAME).to_proto()
    node: onnx.NodeProto
    (node,) = optimized.graph.node
    for shape in shapes:
        feeds = {"x": np.random.default_rng(0).uniform(0.5, 2, shape).astype(np.float32)}
        (one,), (other,) = run_plain(model, feeds), run_plain(optimized, feeds)
        np.testing.assert_array_equal(one, other)
        assert one.shape == other.shape
    (proven,) = certificates(model, NAME)
    assert proven.verdict == "certified"
    return node


def keepdims(node: onnx.NodeProto) -> int:
    (found,) = [each.i for each in node.attribute if each.name == "keepdims"]
    return int(found)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_reduction_keeps_its_axes_or_drops_them(reduction: str) -> None:
    first = REDUCTIONS.index(reduction) % 2
    for opset, kept in ((11, first), (13 + 5 * first, 1 - first)):
        after = "Squeeze(a, s)" if kept else "Unsqueeze(a, s)"
        given = None if kept else 0  # kept by default
        model = model_of(reduction, [1], given, after, opset=opset, s=np.array([1]))
        node = folded(model, (2, 3, 4))
        assert (node.op_type, keepdims(node)) == (reduction, 1 - kept)


@pytest.mark.parametrize(
    ("axes", "kept", "after", "weight"),
    [
        ([1, 2], 0, "Unsqueeze(a, s)", [1, 2]),
        ([2, 1], 0, "Unsqueeze(a, s)", [1, -1]),
        ([-1], 0, "Unsqueeze(a, s)", [2]),
        ([2], 1, "Squeeze(a, s)", [-1]),
        ([-2, 2], 1, "Squeeze(a, s)", [2, 1]),
        ([], 0, "Unsqueeze(a, s)", [0, 1, 2]),
        ([], 1, "Squeeze(a, s)", [1, -1, 0]),
        ([1, 2], 1, "Flatten(a)", None),
        ([1, 2], 1, "Reshape(a, s)", [-1]),
        ([2], 1, "Reshape(a, s)", [0, 3]),
        ([2], 1, "Reshape(a, s)", [-1, 3]),
        ([2], 0, "Reshape(a, s)", [0, 3, 1]),
        ([1], 0, "Reshape(a, s)", [0, 1, 4]),
        ([0, 2], 1, "Squeeze(a)", None),
    ],
)
def test_axes_and_shapes(axes: list[int], kept: int, after: str, weight: list[int] | None) -> None:
    weights: Parameters = {} if weight is None else {"s": np.array(weight)}
    if after == "Flatten(a)":
        model = model_of("ReduceMax", axes, kept, after, x="N,3,4")
        # N rows of one column are no row of N
        assert operators(run_pass(model, NAME).to_proto()) == ["ReduceMax", "Flatten"]
        node = folded(model_of("ReduceMax", [2], kept, after, x="N,3,4"), (2, 3, 4), (0, 3, 4))
    else:
        shapes = [(2, 3, 4), (1, 3, 4), (0, 3, 4)] if axes not in ([], [0, 2]) else [(2, 3, 4)]
        node = folded(model_of("ReduceMax", axes, kept, after, **weights), *shapes)
    assert keepdims(node) == 1 - kept


@pytest.mark.parametrize("x", ["", "A", "2,N,M", "N,1,1"])
def test_a_reduction_of_axes_by_the_same_names_needs_no_rank(x: str) -> None:
    for kept, after in ((0, "Unsqueeze(a, s)"), (1, "Squeeze(a, s)")):
        model = model_of("ReduceMax", [-1], kept, after, x=x or "1", s=np.array([-1]))
        if not x:
            model.graph.input[0].type.tensor_type.ClearField("shape")
        shape = {"": (2, 3), "A": (4,), "2,N,M": (2, 3, 4), "N,1,1": (2, 1, 1)}[x]
        assert keepdims(folded(model, shape)) == 1 - kept


@pytest.mark.parametrize(
    ("axes", "kept", "after", "weight"),
    [
        ([1], 0, "Unsqueeze(a, s)", [2]),
        ([1], 0, "Unsqueeze(a, s)", [0]),
        ([1], 0, "Unsqueeze(a, s)", [1, 2]),
        ([1, 2], 0, "Unsqueeze(a, s)", [1]),
        ([1, 2], 1, "Squeeze(a, s)", [1]),
        ([0], 1, "Unsqueeze(a, s)", [0]),
        ([1], 0, "Reshape(a, s)", [0, 4, 1]),
        ([1], 1, "Reshape(a, s)", [4, -1]),
        ([1, 2], 1, "Squeeze(a)", None),  # of N, too, if that is 1
    ],
)
def test_other_axes_stay(axes: list[int], kept: int, after: str, weight: list[int] | None) -> None:
    weights: Parameters = {} if weight is None else {"s": np.array(weight)}
    result = run_pass(model_of("ReduceMean", axes, kept, after, **weights), NAME)
    assert not result.record.rewrites
    assert not result.record.refusals


def test_axes_that_may_be_the_same_one_stay() -> None:
    """Of two axes, 1 and −1 are one, which a reduction takes once and an Unsqueeze adds twice."""
    for x in ("N,4", None):
        model = model_of(
            "ReduceMax", [1, -1], 0, "Unsqueeze(a, s)", x=x or "1", s=np.array([1, -1])
        )
        if x is None:
            model.graph.input[0].type.tensor_type.ClearField("shape")
        assert not run_pass(model, NAME).record.rewrites


def test_axes_of_other_names_need_the_rank() -> None:
    model = model_of("ReduceMax", [-1], 0, "Unsqueeze(a, s)", x="1", s=np.array([2]))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert not run_pass(model, NAME).record.rewrites
    model = model_of("ReduceMax", [], 0, "Unsqueeze(a, s)", x="1", s=np.array([0]))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert not run_pass(model, NAME).record.rewrites


def test_by_sizes_that_are_not_known() -> None:
    for axes, own in (([-2], [0]), ([0], [-2])):
        text = (
            f"(float[N,3] x) => (int64[a,b] y) {{ n = NonZero(x) "
            f"a = ReduceMax<axes={axes}, keepdims=0>(n) y = Unsqueeze(a, s) }}"
        )
        model = build(text, s=np.array(own))
        assert operators(run_pass(model, NAME).to_proto()) == ["NonZero", "ReduceMax"]
        assert certificates(model, NAME)[0].verdict == "certified"


def test_no_axes_may_mean_no_reduction() -> None:
    model = model_of("ReduceMax", [], 0, "Unsqueeze(a, s)", opset=18, x="1,1",
                     more="noop_with_empty_axes=1", s=np.array([0, 1]))  # fmt: skip
    assert not run_pass(model, NAME).record.rewrites


def test_other_attributes_stay() -> None:
    model = model_of("ArgMax", [1], 0, "Unsqueeze(a, s)", more="select_last_index=1",
                     s=np.array([1]))  # fmt: skip
    node = folded(model, (2, 3, 4))
    assert {each.name: each.i for each in node.attribute} == {
        "axis": 1, "keepdims": 1, "select_last_index": 1,
    }  # fmt: skip


def test_of_a_number_there_is_no_axis() -> None:
    text = (
        "(float x) => (int64[1] y) { n = Squeeze(x) a = ArgMax<keepdims=0>(n) y = Reshape(a, s) }"
    )
    assert not run_pass(build(text, s=np.array([1])), NAME).record.rewrites


def test_the_axis_of_an_argmax_is_the_first_by_default() -> None:
    text = "(float[2,3] x) => (int64[1,3] y) { a = ArgMax<keepdims=0>(x) y = Unsqueeze(a, s) }"
    assert_rewritten(build(text, s=np.array([0])), NAME, ["ArgMax"], certified=True)


def test_refusal_shared() -> None:
    text = (
        "(float[2,3] x) => (float[2,1] y, float[2] z) "
        "{ a = ReduceMax<axes=[1], keepdims=0>(x) y = Unsqueeze(a, s) z = Neg(a) }"
    )
    model = build(text, s=np.array([1]))
    assert_refused(model, NAME, Common.SHARED, in_the_way="ReduceMax a")
    text = (
        "(float[2,3] x) => (float[2,1] y, float[2] a) "
        "{ a = ReduceMax<axes=[1], keepdims=0>(x) y = Unsqueeze(a, s) }"
    )
    assert_refused(build(text, s=np.array([1])), NAME, Common.SHARED)


def test_refusal_parameter_not_constant() -> None:
    text = (
        "(float[2,3] x, int64[1] s) => (float[a,b] y) "
        "{ a = ReduceMax<axes=[1], keepdims=0>(x) y = Unsqueeze(a, s) }"
    )
    assert_refused(build(text), NAME, Common.PARAMETER_NOT_CONSTANT)
    text = (
        "(float[2,3] x, int64[1] s) => (float[a,b] y) "
        "{ a = ReduceSum<keepdims=0>(x, s) y = Unsqueeze(a, t) }"
    )
    assert_refused(build(text, t=np.array([1])), NAME, Common.PARAMETER_NOT_CONSTANT)
    text = text.replace("keepdims=0", "keepdims=1").replace("Unsqueeze", "Reshape")
    assert not run_pass(build(text, t=np.array([6])), NAME).record.refusals


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_random_axes(data: st.DataObject) -> None:
    """Any axes of any rank by any names, before an operator of any other axes."""
    rank = data.draw(st.integers(1, 4))
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=rank, max_size=rank))
    free = data.draw(st.lists(st.booleans(), min_size=rank, max_size=rank))
    x = ",".join("NMKL"[axis] if free[axis] else str(size) for axis, size in enumerate(sizes))

    def named(axes: list[int]) -> list[int]:
        return [axis - rank if data.draw(st.booleans()) else axis for axis in axes]

    places = st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True)
    axes = data.draw(places)
    own = axes if data.draw(st.booleans()) else data.draw(places)
    reduction = data.draw(st.sampled_from(["ReduceSum", "ReduceMax", "ReduceL2"]))
    kept = data.draw(st.integers(0, 1))
    after = "Squeeze(a, s)" if kept else "Unsqueeze(a, s)"
    opset = data.draw(st.sampled_from([11, 13, 18]))
    weight = np.array(named(own))
    model = model_of(reduction, named(axes), kept, after, x=x, opset=opset, s=weight)
    result = run_pass(model, NAME)
    if sorted(own) == sorted(axes):
        assert keepdims(folded(model, tuple(sizes))) == 1 - kept
    elif result.record.rewrites:  # by sizes: an axis of size 1 is as good as another
        folded(model, tuple(sizes))
