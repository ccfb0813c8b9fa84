"""strip-sequence: what reads a sequence of known members reads these instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.rewriting.contract import Common, Refusal
from bnfold_passes.strip_sequence import Why
from tests.support.evaluate import assert_equal_outputs
from tests.support.graphs import Parameters, build, operators
from tests.support.passes import assert_refused, certificates, run_pass

NAME = "strip-sequence"


def split(
    parts: str,
    *positions: int,
    x: str = "N,6,4",
    opset: int = 17,
    dtype: str = "float",
    **weights: Any,
) -> onnx.ModelProto:
    """Return a model of a sequence of parts of x, of which those at positions are the outputs."""
    used: Parameters = {
        **{name: np.array(content) for name, content in weights.items()},
        **{f"p{number}": np.array(position) for number, position in enumerate(positions)},
    }
    reads = " ".join(f"y{n} = SequenceAt(s, p{n})" for n in range(len(positions)))
    outputs = ", ".join(f"{dtype} y{n}" for n in range(len(positions)))
    model = build(
        f"({dtype}[{x}] x) => ({outputs}) {{ s = SplitToSequence{parts} {reads} }}",
        opset=opset,
        **used,
    )
    return without_shapes(model)


def filled(lines: str, *, opset: int = 17, **weights: Any) -> onnx.ModelProto:
    """Return a model of a and b, which computes y."""
    used: Parameters = {name: np.array(content) for name, content in weights.items()}
    text = f"(float[N,2,3] a, float[N,2,3] b) => (float y) {{ {lines} }}"
    return without_shapes(build(text, opset=opset, **used))


def without_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return model


def stripped(model: onnx.ModelProto, *shapes: tuple[int, ...], certified: bool = True) -> list[str]:
    """Return the operators that are left; assert equal bits, a fixpoint and certificates."""
    optimized = run_pass(model, NAME).to_proto()
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    for shape in shapes:
        generator = np.random.default_rng(0)
        feeds = {
            name: generator.normal(0, 9, shape).astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
            for name, kind in kinds.items()
        }
        assert_equal_outputs(model, optimized, feeds)
    assert not run_pass(optimized, NAME).record.rewrites
    if certified:
        assert {each.verdict for each in certificates(model, NAME)} == {"certified"}
    return operators(optimized)


@pytest.mark.parametrize("opset", [11, 12, 13, 18])
def test_all_parts_are_those_of_a_split(opset: int) -> None:
    model = split("<axis=1>(x, n)", 1, 0, n=[2, 4], opset=opset)
    assert stripped(model, (2, 6, 4), (0, 6, 4)) == ["Split"]
    (node,) = run_pass(model, NAME).to_proto().graph.node
    assert list(node.output) == ["y1", "y0"]


@pytest.mark.parametrize(
    ("parts", "positions", "weights", "expected"),
    [
        ("<axis=1>(x, n)", [0, -1], {"n": 4}, ["Split"]),
        ("<axis=-2>(x, n)", [-2, 1], {"n": 3}, ["Split"]),
        ("<axis=1, keepdims=0>(x, n)", [0, 1], {"n": [3, 3]}, ["Split"]),
        ("<axis=1>(x, n)", [0], {"n": 6}, ["Split"]),
        ("<axis=1>(x, n)", [0], {"n": 9}, ["Split"]),
        ("<axis=1>(x, n)", [0, -1], {"n": [1, 2, 3]}, ["Slice"] * 2),
        ("<axis=1>(x, n)", [-1], {"n": 4}, ["Slice"]),
        ("<axis=-1>(x)", [1, -4], {}, ["Slice"] * 2),
        ("<axis=2>(x)", [3, 1, 0, 2], {}, ["Split"]),
        ("<axis=1, keepdims=1>(x)", [5], {}, ["Slice"]),
        ("<axis=1, keepdims=0>(x)", [5, -5], {}, ["Gather"] * 2),
        ("<axis=-1, keepdims=0>(x)", [0], {}, ["Gather"]),
    ],
)
def test_parts(
    parts: str, positions: list[int], weights: dict[str, Any], expected: list[str]
) -> None:
    assert stripped(split(parts, *positions, **weights), (2, 6, 4)) == expected


@pytest.mark.parametrize(
    ("parts", "positions", "weights", "expected"),
    [
        ("(x, n)", [1, 0], {"n": 2}, ["Slice"] * 2),
        ("(x, n)", [1, 0], {"n": 3}, ["Slice"] * 2),
        ("(x)", [3], {}, ["Slice"]),
        ("(x, n)", [1, -2], {"n": [1, 3]}, ["Split"]),
        ("(x, n)", [-1], {"n": [1, 3]}, ["Slice"]),
        ("<keepdims=0>(x)", [-1, 2], {}, ["Gather"] * 2),
    ],
)
def test_parts_of_an_axis_of_any_size(
    parts: str, positions: list[int], weights: dict[str, Any], expected: list[str]
) -> None:
    assert stripped(split(parts, *positions, **weights), (4, 6, 4)) == expected


@pytest.mark.parametrize("dtype", ["double", "int64", "int32"])
def test_of_other_types(dtype: str) -> None:
    for parts in ("<axis=1>(x, n)", "<axis=1, keepdims=0>(x)"):
        weights: Parameters = {"n": 3} if "n" in parts.partition("(")[2] else {}
        model = split(parts, 0, 1, dtype=dtype, **weights)
        assert stripped(model, (2, 6, 4), certified=False) in (["Split"], ["Gather", "Gather"])


@pytest.mark.parametrize(
    ("parts", "positions", "weights", "reason"),
    [
        ("<axis=1>(x, n)", [2], {"n": 3}, Why.OUT_OF_RANGE),
        ("<axis=1>(x, n)", [-3], {"n": 3}, Why.OUT_OF_RANGE),
        ("<axis=0>(x, n)", [2], {"n": [1, 2]}, Why.OUT_OF_RANGE),
        ("<axis=0>(x, n)", [-1], {"n": 3}, Common.SHAPE_UNKNOWN),
        ("<axis=0>(x)", [0, -1], {}, Common.SHAPE_UNKNOWN),
        ("<axis=1, keepdims=0>(x, n)", [0, 1], {"n": 3}, Why.AXIS_UNCLEAR),
        ("<axis=1, keepdims=0>(x, n)", [0, 1], {"n": 1}, Why.AXIS_UNCLEAR),
    ],
)
def test_refused_parts(
    parts: str, positions: list[int], weights: dict[str, Any], reason: Refusal
) -> None:
    assert_refused(split(parts, *positions, **weights), NAME, reason)


@pytest.mark.parametrize(
    ("interface", "lines", "reason"),
    [
        ("int64 n) => (float y", "s = SplitToSequence<axis=1>(x, n) y = SequenceAt(s, one)",
         Common.PARAMETER_NOT_CONSTANT),
        ("int64 n) => (float y", "s = SplitToSequence<axis=1>(x, one) y = SequenceAt(s, n)",
         Common.PARAMETER_NOT_CONSTANT),
        ("int64 n) => (float y", "s = SequenceConstruct(x, x) y = SequenceAt(s, n)",
         Common.PARAMETER_NOT_CONSTANT),
        ("int64 n) => (float y", "s = SequenceConstruct(x) t = SequenceInsert(s, x, n) "
         "y = SequenceAt(t, one)", Common.PARAMETER_NOT_CONSTANT),
        ("int64 n) => (float y, int64 z", "s = SplitToSequence<axis=1>(x, one) "
         "y = SequenceAt(s, one) z = SequenceLength(s)", Common.SHARED),
        ("int64 n) => (float y, seq(float) s", "s = SplitToSequence<axis=1>(x, one) "
         "y = SequenceAt(s, one)", Common.SHARED),
        ("bool n) => (float y, float z", "s = SplitToSequence<axis=1>(x, one) "
         "z = SequenceAt(s, one) "
         "y = If (n) <then_branch = f () => (float t) { t = SequenceAt(s, one) }, "
         "else_branch = g () => (float e) { e = Neg(x) }>", Common.SHARED),
        ("int64 n) => (float y", "s = SequenceConstruct(x) y = SequenceAt(s, one)",
         Why.OUT_OF_RANGE),
        ("int64 n) => (float y", "s = SequenceConstruct(x) t = SequenceInsert(s, x, three) "
         "y = SequenceAt(t, one)", Why.OUT_OF_RANGE),
    ],
)  # fmt: skip
def test_refusals(interface: str, lines: str, reason: Refusal) -> None:
    weights: Parameters = {
        name: np.array(number) for name, number in (("one", 1), ("three", 3)) if name in lines
    }
    text = f"(float[N,6,4] x, {interface}) {{ {lines} }}"
    assert_refused(without_shapes(build(text, **weights)), NAME, reason)


@pytest.mark.parametrize(
    ("lines", "weights", "expected"),
    [
        ("s = SequenceConstruct(a, b) m = SequenceAt(s, i) y = Neg(m)", {"i": 1}, ["Neg"]),
        ("s = SequenceConstruct(a, b) m = SequenceAt(s, i) y = Neg(m)", {"i": -2}, ["Neg"]),
        ("s = SequenceConstruct(a, b, a) y = ConcatFromSequence<axis=-1>(s)", {}, ["Concat"]),
        ("s = SequenceConstruct(a, b) y = ConcatFromSequence<axis=1, new_axis=0>(s)", {},
         ["Concat"]),
        ("s = SequenceConstruct(a, b) y = ConcatFromSequence<axis=1, new_axis=1>(s)", {},
         ["Unsqueeze", "Unsqueeze", "Concat"]),
        ("s = SequenceConstruct(a, b) y = ConcatFromSequence<axis=-1, new_axis=1>(s)", {},
         ["Unsqueeze", "Unsqueeze", "Concat"]),
        ("e = SequenceEmpty() s = SequenceInsert(e, a) t = SequenceInsert(s, b) "
         "y = ConcatFromSequence<axis=1>(t)", {}, ["Concat"]),
        ("e = SequenceEmpty() s = SequenceInsert(e, a) t = SequenceInsert(s, b, i) "
         "m = SequenceAt(t, i) y = Neg(m)", {"i": 0}, ["Neg"]),
        ("s = SequenceConstruct(a, a) t = SequenceInsert(s, b, i) m = SequenceAt(t, j) "
         "y = Neg(m)", {"i": -1, "j": 1}, ["Neg"]),
        ("s = SequenceConstruct(a, b) m = SequenceAt(s, i) k = ConcatFromSequence<axis=1>(s) "
         "y = Concat<axis=1>(m, k)", {"i": 1}, ["Concat", "Concat"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("opset", [11, 13])
def test_sequences_that_are_filled(
    lines: str, weights: dict[str, Any], expected: list[str], opset: int
) -> None:
    assert stripped(filled(lines, opset=opset, **weights), (3, 2, 3)) == expected


def test_a_member_that_is_an_input_may_be_an_output() -> None:
    model = filled("s = SequenceConstruct(a, b) y = SequenceAt(s, i)", i=1)
    assert stripped(model, (3, 2, 3), certified=False) == ["Identity"]


@pytest.mark.parametrize(
    "lines",
    [
        "s = SequenceEmpty() t = SequenceMap (s) <body = m (float[2] v) => (float[2] w) "
        "{ w = Neg(v) }> y = ConcatFromSequence<axis=0>(t)",
        "s = SequenceConstruct(a, b) t = SequenceErase(s) y = ConcatFromSequence<axis=0>(t)",
        "s = SequenceEmpty() y = ConcatFromSequence<axis=0>(s)",
        "s = SplitToSequence<axis=1>(a) y = ConcatFromSequence<axis=1>(s)",
        "s = SequenceConstruct(a, b) p = Constant<value = bool {1}>() "
        "y = If (p) <then_branch = f () => (float t) { t = ConcatFromSequence<axis=0>(s) }, "
        "else_branch = g () => (float e) { e = Neg(a) }>",
    ],
)
def test_others_stay(lines: str) -> None:
    result = run_pass(filled(lines), NAME)
    assert not result.record.rewrites
    assert not result.record.refusals


def test_two_that_read_one_part_are_left_to_merge_duplicates() -> None:
    model = split("<axis=1>(x, n)", 0, 0, 1, n=3)
    assert not run_pass(model, NAME).record.rewrites


@pytest.mark.parametrize("sizes", [0, [0, 6], [7, -1]])
def test_parts_of_nothing_stay(sizes: int | list[int]) -> None:
    assert not run_pass(split("<axis=1>(x, n)", 0, n=sizes), NAME).record.rewrites


def test_a_long_list_stays() -> None:
    inserts = " ".join(f"s{n + 1} = SequenceInsert(s{n}, a)" for n in range(300))
    lines = f"s0 = SequenceEmpty() {inserts} y = ConcatFromSequence<axis=1>(s300)"
    assert not run_pass(filled(lines), NAME).record.rewrites
    short = lines.replace("ConcatFromSequence<axis=1>(s300)", "ConcatFromSequence<axis=1>(s200)")
    assert len(run_pass(filled(short), NAME).to_proto().graph.node[-1].input) == 200


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_random_parts(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 5))
    kind = data.draw(st.sampled_from(["missing", "scalar", "sizes"]))
    weights: dict[str, Any] = {}
    if kind == "scalar":
        weights["n"] = data.draw(st.integers(1, 6))
        count = -(-size // int(str(weights["n"])))
    elif kind == "sizes":
        cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=3)))
        sizes = np.diff([0, *cuts, size]).tolist()
        weights["n"], count = sizes, len(sizes)
    else:
        count = size
    places = data.draw(st.permutations(range(count)))[: data.draw(st.integers(1, count))]
    positions = [place - count if data.draw(st.booleans()) else place for place in places]
    axis = data.draw(st.sampled_from([1, -2]))
    keepdims = 1 if kind == "scalar" else data.draw(st.integers(0, 1))
    attributes = f"<axis={axis}, keepdims={keepdims}>"
    parts = f"{attributes}(x, n)" if weights else f"{attributes}(x)"
    opset = data.draw(st.sampled_from([11, 13, 18]))
    model = split(parts, *positions, x=f"N,{size},2", opset=opset, **weights)
    before = operators(model)
    assert len(stripped(model, (2, size, 2), certified=False)) <= len(before)
