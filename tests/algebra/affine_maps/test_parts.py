"""Maps of parts of the channels: through Concat, Split, Slice and Gather."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bnfold.algebra.affine_maps import parts, reach
from bnfold.algebra.affine_maps.carrying import NotCarried
from bnfold.algebra.affine_maps.linear import NotAbsorbed
from bnfold.algebra.affine_maps.reach import NotReached
from bnfold.graph.shapes import record_shape, shape_of
from bnfold.rewriting.contract import Common, Op, Output, Refusal, Replace
from bnfold.rewriting.editor import Editor
from tests.support.evaluate import assert_equivalent
from tests.support.graphs import (
    Array,
    Parameters,
    batch_norm,
    build,
    draw_feeds,
    named_in,
    normal,
    only_node,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, run_pass
from tests.support.slow import in_turn

NAME = "fold-batchnorm"
FREE = {"H": 5, "W": 3}


def assert_refused_after(model: onnx.ModelProto, reason: Refusal, subject: str) -> None:
    """Assert that nothing changes, and what keeps the map from the operators after it."""
    record = run_pass(model, NAME).record
    assert record.output is not None
    assert record.output.same
    refusals = [(refusal.also_reason, refusal.also_in_the_way) for refusal in record.refusals]
    assert refusals == [(reason.name, subject)]


# --- Concat, downstream -------------------------------------------------------------------------


def concat(lines: str, axis: int = 1, rank: int = 4, **weights: Any) -> onnx.ModelProto:
    """Return a BatchNormalization n of 3 channels beside a Sigmoid p of x, and lines after them."""
    shape = ",".join(["N", "3", "H", "W"][:rank])
    return build(
        f"(float[{shape}] x) => (float[{','.join('ahbwcd'[: 2 if 'Gemm' in lines else rank])}] y) "
        f"{{ r = Relu(x) n = BatchNormalization(r, s, b, m, v) p = Sigmoid(x) "
        f"{lines.replace('AXIS', str(axis))} }}",
        **batch_norm(3),
        **weights,
    )


@pytest.mark.parametrize("branches", ["n, p", "p, n", "p, n, r", "n, n, p"])
@pytest.mark.parametrize(("rank", "axis"), [(2, 1), (3, 1), (4, -3)])
def test_one_branch_of_a_concat_folds_into_the_weights_that_read_it(
    branches: str, rank: int, axis: int
) -> None:
    channels = 3 * len(branches.split(", "))
    weight = normal(channels, 2) if rank == 2 else normal(2, channels, *[1] * (rank - 2))
    reader = "Gemm" if rank == 2 else "Conv"
    model = concat(f"c = Concat<axis=AXIS>({branches}) y = {reader}(c, w)", axis, rank, w=weight)
    expected = ["Relu", "Sigmoid", "Concat", reader]
    assert_rewritten(model, NAME, expected, sizes=FREE, certified=True)


@pytest.mark.parametrize(
    ("lines", "channels"),
    [
        ("q = AveragePool<kernel_shape=[1,1]>(n) c = Concat<axis=1>(q, n, p)", 9),
        ("q = Concat<axis=1>(n, p) c = Concat<axis=1>(q, n)", 9),
        ("q = Concat<axis=1>(n, p) c = Concat<axis=1>(n, q)", 9),
        ("q = AveragePool<kernel_shape=[1,1]>(n) c = Concat<axis=1>(q, n)", 6),
        ("q = AveragePool<kernel_shape=[1,1]>(n) t = AveragePool<kernel_shape=[1,1]>(q) "
         "c = Concat<axis=1>(t, n)", 6),
        ("q = AveragePool<kernel_shape=[1,1]>(n) c = Concat<axis=2>(q, n)", 3),
        ("q = Transpose<perm=[0,2,3,1]>(n) t = Transpose<perm=[0,2,3,1]>(p) "
         "u = Concat<axis=-1>(t, q) c = Transpose<perm=[0,3,1,2]>(u)", 6),
    ],
)  # fmt: skip
def test_a_map_that_comes_in_on_several_ways_is_joined(lines: str, channels: int) -> None:
    model = concat(f"{lines} y = Conv(c, w)", w=normal(2, channels, 1, 1))
    if "p)" not in lines and "(p" not in lines:
        model.graph.node.remove(only_node(model, "Sigmoid"))
    expected = [op for op in operators(model) if op != "BatchNormalization"]
    assert_rewritten(model, NAME, expected, sizes=FREE, certified=True)


def test_each_branch_has_a_map_of_its_own() -> None:
    others = {f"{name}2": array for name, array in batch_norm(3, seed=1).items()}
    model = concat(
        "o = BatchNormalization(p, s2, b2, m2, v2) c = Concat<axis=1>(n, o) y = Conv(c, w)",
        w=normal(2, 6, 1, 1),
        **others,
    )
    expected = ["Relu", "Sigmoid", "Concat", "Conv"]
    assert_rewritten(model, NAME, expected, sizes=FREE, certified=True)


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("branches", ["n, p", "n, n"])
def test_one_scale_for_all_elements_beside_another_branch(branches: str, axis: int) -> None:
    """Along another axis than the channels', it would be no map of the channels any more."""
    model = build(
        "(float[N,3,4,4] x) => (float[N,2,h,v] y) "
        f"{{ r = Relu(x) n = Mul(r, k) p = Abs(x) c = Concat<axis={axis}>({branches}) "
        "y = Conv<pads=[1,1,1,1]>(c, w) }",
        k=np.array(2, np.float32),
        w=normal(2, 3 if axis > 1 else 6, 3, 3),
    )
    if branches == "n, n":
        model.graph.node.remove(only_node(model, "Abs"))
    expected = operators(model)
    if axis == 1 or branches == "n, n":
        expected.remove("Mul")
    certified = len(expected) < len(model.graph.node)
    assert_rewritten(model, "fold-scale-shift", expected, certified=certified)


@pytest.mark.parametrize(("kind", "dtype"), [("float16", np.float16), ("double", np.float64)])
def test_other_types(kind: str, dtype: type[np.generic]) -> None:
    model = build(
        f"({kind}[N,3] x) => ({kind}[N,2] y) {{ r = Relu(x) n = BatchNormalization(r, s, b, m, v) "
        "p = Abs(x) c = Concat<axis=1>(p, n) y = Gemm(c, w, d) }",
        w=normal(6, 2, dtype=dtype),
        d=normal(2, dtype=dtype),
        **batch_norm(3, dtype=dtype),
    )
    close = 1e-2 if kind == "float16" else 1e-12
    expected = ["Relu", "Abs", "Concat", "Gemm"]
    assert_rewritten(model, NAME, expected, rtol=close, atol=close, certified=True)


def test_two_scales_of_one_value_do_not_join_along_another_axis() -> None:
    model = build(
        "(float[N,3,4] x) => (float[N,2,h] y) "
        "{ r = Relu(x) n = Mul(r, k) q = Mul(n, l) c = Concat<axis=2>(n, q) y = Conv(c, w) }",
        k=normal(3, 1),
        l=np.full((3, 1), 2, np.float32),
        w=normal(2, 3, 1),
    )
    assert operators(run_pass(model, "fold-scale-shift").to_proto()) == operators(model)


REFUSED_CONCATS: list[tuple[str, Refusal, str]] = [
    ("c = Concat<axis=1>(n, p) y = Conv<pads=[1,1,1,1]>(c, w)", NotAbsorbed.PADDED_SHIFT, "Conv y"),
    ("c = Concat<axis=2>(n, p) y = Conv(c, w)", NotCarried.PARTS_DIFFER, "Concat c"),
    ("q = Neg(n) c = Concat<axis=2>(n, q) y = Conv(c, w)", NotCarried.PARTS_DIFFER, "Concat c"),
    ("q = Slice(n, zero, three, two) i = Slice(q, zero, three, three) "
     "t = Transpose<perm=[0,2,1,3]>(i) c = Concat<axis=3>(i, t) y = Conv(c, w)",
     NotCarried.PARTS_DIFFER, "Concat c"),
    ("q = Reshape(p, free) c = Concat<axis=1>(n, q) y = Conv(c, w)", Common.SHAPE_UNKNOWN,
     "Concat c"),
    ("c = Concat<axis=1>(n, p) e = Exp(c) y = Conv(e, w)", NotReached.READER_NOT_LINEAR, "Exp e"),
    ("c = Concat<axis=1>(n, p) y = Conv(c, w) e = Concat<axis=0>(c, c) z = Conv(e, w) i = Sin(c)",
     NotReached.READER_NOT_LINEAR, "Sin i"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "reason", "subject"), REFUSED_CONCATS)
def test_refuses_a_concat(lines: str, reason: Refusal, subject: str) -> None:
    channels = 6 if "axis=1" in lines else 3
    weights: Parameters = {"w": normal(2, channels, 3 if "pads" in lines else 1, 1)}
    if "three" in lines:
        weights |= {"zero": np.array([0]), "two": np.array([2]), "three": np.array([3])}
    model = concat(lines, **weights)
    if "free" in lines:
        model.graph.input.append(helper.make_tensor_value_info("free", TensorProto.INT64, [4]))
    assert_refused_after(model, reason, subject)


def test_refuses_more_channels_than_it_follows_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MOST_CHANNELS", 5)
    model = concat("c = Concat<axis=1>(n, p) y = Conv(c, w)", w=normal(2, 6, 1, 1))
    assert_refused_after(model, NotCarried.TOO_MANY_CHANNELS, "Concat c")


def test_refuses_more_parts_than_it_makes_anew_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    model = concat("c = Concat<axis=1>(n, p) y = Conv(c, w)", w=normal(2, 6, 1, 1))
    divided = cut(
        "p, z = Split<axis=1>(c) y = BatchNormalization(p, s, b, m, v)", YZ, **batch_norm(3)
    )
    monkeypatch.setattr(parts, "MOST_PARTS", 1)
    assert_refused_after(model, NotCarried.TOO_MANY_PARTS, "Concat c")
    assert_refused(divided, NAME, NotCarried.TOO_MANY_PARTS)


def test_a_concat_whose_size_is_read_keeps_it() -> None:
    model = concat("c = Concat<axis=1>(p, n) z = Shape(c) y = Conv(c, w)", w=normal(2, 6, 1, 1))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.INT64, [4]))
    expected = ["Relu", "Sigmoid", "Concat", "Shape", "Conv"]
    assert_rewritten(model, NAME, expected, sizes=FREE)


# --- Split, Slice and Gather, upstream ----------------------------------------------------------


def cut(lines: str, outputs: str, channels: int = 6, **others: Any) -> onnx.ModelProto:
    """Return a Conv c of x, and lines after it."""
    return build(
        f"(float[N,4,W] x) => ({outputs}) {{ c = Conv(x, w) {lines} }}",
        w=normal(channels, 4, 1),
        **others,
    )


YZ = "float[N,a,W] y, float[N,e,W] z"
SPLITS: list[tuple[str, int, list[int], Parameters]] = [
    ("Split<axis=1>(c)", 11, [3, 3], {}),
    ("Split<axis=-2, split=[2,4]>(c)", 11, [2, 4], {}),
    ("Split<axis=1>(c)", 17, [3, 3], {}),
    ("Split<axis=1>(c, l)", 13, [5, 1], {"l": np.array([5, 1])}),
    ("Split<axis=1, num_outputs=2>(c)", 18, [4, 3], {}),
]


@pytest.mark.parametrize(("number", "part"), in_turn(range(len(SPLITS)), [0, 1]))
def test_a_part_of_a_split_folds_into_its_channels(number: int, part: int) -> None:
    split, opset, sizes, weights = SPLITS[number]
    mine, other = ("p", "q") if part == 0 else ("q", "p")
    model = cut(
        f"p, q = {split} y = BatchNormalization({mine}, s, b, m, v) z = Sigmoid({other})",
        YZ,
        channels=sum(sizes),
        opset=opset,
        **batch_norm(sizes[part]),
        **weights,
    )
    assert_rewritten(model, NAME, ["Conv", "Split", "Sigmoid"], sizes=FREE, certified=True)


def test_both_parts_of_a_split_fold() -> None:
    others = {f"{name}2": array for name, array in batch_norm(3, seed=1).items()}
    model = cut(
        "p, q = Split<axis=1>(c) y = BatchNormalization(p, s, b, m, v) "
        "z = BatchNormalization(q, s2, b2, m2, v2)",
        YZ,
        **batch_norm(3),
        **others,
    )
    assert_rewritten(model, NAME, ["Conv", "Split"], sizes=FREE, certified=True)


def bounds(*numbers: int) -> Parameters:
    return {f"i{number}": np.array([number]) for number in numbers}


@pytest.mark.parametrize(
    "lines",
    [
        "p = Slice(c, i0, i3, i1) q = Slice(c, i3, i6, i1)",
        "p = Slice(c, i1, i6, i1, i2) q = Slice(c, i0, i6, i1, i2)",
        "q = Gather<axis=1>(c, first) p = Slice(c, i3, i6, i1)",
        "p = Gather<axis=1>(c, first) q = Gather<axis=1>(c, last)",
    ],
)
def test_what_picks_other_channels_does_not_block(lines: str) -> None:
    weights: Parameters = {"first": np.array([2, 0, 1]), "last": np.array(-1)} | bounds(
        0, 1, 2, 3, 6
    )
    model = cut(
        f"{lines} y = BatchNormalization(p, s, b, m, v) z = Sigmoid(q)",
        YZ,
        **batch_norm(3),
        **named_in(lines, weights),
    )
    if "last" in lines:
        del model.graph.output[1].type.tensor_type.shape.dim[1]
    expected = [op for op in operators(model) if op != "BatchNormalization"]
    assert_rewritten(model, NAME, expected, sizes=FREE, certified=True)


REFUSED_CUTS: list[tuple[str, Refusal]] = [
    ("p = Slice(c, i0, i3, i1) q = Slice(c, i2, i6, i1)", Common.SHARED),
    ("p = Slice(c, i0, i3, i1) q = Slice(c, i0, i1, i2)", Common.SHARED),
    ("p = Slice(c, i0, i3, i1) q = Neg(c)", Common.SHARED),
    ("p = Slice(c, i0, i3, i1) q = Gather<axis=1>(c, i2)", Common.SHARED),
    ("p = Slice(c, i0, i3, i1) q, r = Split<axis=1>(c)", Common.SHARED),
    ("p = Slice(c, i0, i3, i1) q = Gather<axis=1>(c, free)", Common.PARAMETER_NOT_CONSTANT),
    ("i, r = Split<axis=1>(c) u = Concat<axis=1>(r, i) p = Slice(u, i1, i6, i1, i2) q = Neg(x)",
     Common.SHARED),
    ("i, r = Split<axis=1>(c) p = Add(i, r) q = Neg(x)", Common.SHARED),
    ("i = Slice(c, i0, i3, i1) r = Slice(c, i3, i6, i1) p = Add(i, r) q = Neg(x)", Common.SHARED),
    ("t, q = Split<axis=2>(c) p = Slice(t, i0, i3, i1)", NotCarried.PARTS_DIFFER),
    ("p, q = Split<axis=1>(c, free)", Common.PARAMETER_NOT_CONSTANT),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "reason"), REFUSED_CUTS)
def test_refuses_where_more_than_its_part_would_change(lines: str, reason: Refusal) -> None:
    model = cut(
        f"{lines} y = BatchNormalization(p, s, b, m, v) z = Sigmoid(q)",
        "float[N,a,h] y, float[N,e,i] z",
        **batch_norm(3),
        **{name: array for name, array in bounds(0, 1, 2, 3, 6).items() if name in lines},
    )
    if "free" in lines:
        model.graph.input.append(helper.make_tensor_value_info("free", TensorProto.INT64, [2]))
    result = run_pass(model, NAME)
    assert [refusal.reason for refusal in result.record.refusals] == [reason.name]
    assert operators(result.to_proto()) == operators(model)


@pytest.mark.parametrize("other", ["z = Slice(c, i1, i3, i2)", "z = Identity(c)", "z = If"])
def test_refuses_what_others_read_of_all_channels_or_in_another_graph(other: str) -> None:
    one, two = (f"b{n} () => (float[N,3,W] o{n}) {{ o{n} = Slice(c, i3, i6, i1) }}" for n in (1, 2))
    other = other.replace("If", f"If(t) <then_branch = {one}, else_branch = {two}>")
    model = cut(
        f"p = Slice(c, i0, i3, i1) y = BatchNormalization(p, s, b, m, v) {other}",
        YZ,
        **batch_norm(3),
        **bounds(0, 1, 2, 3, 6),
    )
    if "If" in other:
        model.graph.input.append(helper.make_tensor_value_info("t", TensorProto.BOOL, []))
    if "Identity" in other:
        del model.graph.node[-1]
        model.graph.output[1].name = "c"
    assert_refused(model, NAME, Common.SHARED)


def test_refuses_positions_of_all_channels_beside_other_positions() -> None:
    model = cut(
        "p = Slice(c, i0, i1, i2) q = Slice(c, i1, i3, i2) y = BatchNormalization(p, s, b, m, v) "
        "z = Sigmoid(q)",
        YZ,
        channels=3,
        **batch_norm(3),
        **bounds(0, 1, 2, 3),
    )
    assert_refused(model, NAME, Common.SHARED)


@pytest.mark.parametrize("operator", ["Mul", "Add"])
@pytest.mark.parametrize("start", [2, 3])
def test_a_scale_or_a_shift_alone_changes_what_it_reads(operator: str, start: int) -> None:
    model = cut(
        f"p = Slice(c, i0, i3, i1) y = {operator}(p, k) q = Slice(c, i{start}, i6, i1) "
        "z = Sigmoid(q)",
        YZ,
        k=normal(3, 1),
        **bounds(0, 1, start, 3, 6),
    )
    result = operators(run_pass(model, "fold-scale-shift").to_proto())
    assert (operator in result) == (start == 2)


def test_a_map_after_another_in_a_part_folds_once() -> None:
    model = cut(
        "p, q = Split<axis=1>(c) i = Add(p, k) y = BatchNormalization(i, s, b, m, v) "
        "z = Sigmoid(q)",
        YZ,
        k=normal(3, 1),
        **batch_norm(3),
    )
    assert_rewritten(model, NAME, ["Conv", "Split", "Sigmoid"], sizes=FREE, certified=True)


def test_a_part_that_is_read_within_the_rewrite_has_its_type_and_shape() -> None:
    """The rewrites that follow in the same sweep may need it."""
    proto = cut("p, q = Split<axis=1>(c) y = Neg(q) z = Abs(p)", YZ)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    split, negation = model.graph[1], model.graph[2]
    old = split.outputs[1]
    record_shape(old, old.shape)
    new = Op("Split", split.inputs, tuple(split.attributes.values()), outputs=2)
    result = Op("Neg", [Output(new, 1, old)])
    Editor(model).apply(Replace([negation], {negation.outputs[0]: result}))
    (made,) = [node for node in model.graph if node.op_type == "Neg"]
    assert made.inputs[0] is not None
    assert made.inputs[0].type == old.type
    assert shape_of(made.inputs[0]) == old.shape


def test_many_readers_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "FARTHEST", 1)
    lines = "p = Slice(c, i0, i3, i1) q = Slice(c, i3, i6, i1)"
    model = cut(
        f"{lines} y = BatchNormalization(p, s, b, m, v) z = Sigmoid(q)",
        YZ,
        **batch_norm(3),
        **bounds(0, 1, 3, 6),
    )
    assert_refused(model, NAME, Common.SHARED)


def test_a_part_that_is_an_output_keeps_its_name_and_values() -> None:
    lines = "p, z = Split<axis=1>(c) y = BatchNormalization(p, s, b, m, v) t = Shape(p)"
    model = cut(lines, f"{YZ}, int64[3] t", **batch_norm(3))
    assert_rewritten(model, NAME, ["Conv", "Split", "Shape"], sizes=FREE, certified=True)


@pytest.mark.parametrize("way", ["Gather", "Split", "Slice"])
def test_the_scale_of_a_query_folds_into_its_part_of_one_projection(way: str) -> None:
    """One MatMul for query, key and value, of which the query is scaled, as in vision models."""
    lines = {
        "Gather": "q = Gather(t, first) k = Gather(t, second) v = Gather(t, third)",
        "Split": "q1, k1, v1 = Split(t) "
        + " ".join(f"{name} = Squeeze({name}1, i0)" for name in "qkv"),
        "Slice": "k1 = Slice(t, i1, i2) v1 = Slice(t, i2, i3) k = Squeeze(k1, i0) "
        "v = Squeeze(v1, i0) q1 = Slice(t, i0, i1) q = Squeeze(q1, i0)",
    }[way]
    weights: Parameters = {name: np.array(i) for i, name in enumerate(("first", "second", "third"))}
    weights |= bounds(0, 1, 2, 3) | {"r": np.array([0, 0, 3, 2, 2])}
    model = build(
        "(float[N,L,5] x) => (float[N,2,L,2] y, float[N,2,L,2] k, float[N,2,L,2] v) "
        "{ l = MatMul(x, w) c = Add(l, b) g = Reshape(c, r) "
        f"t = Transpose<perm=[2,0,3,1,4]>(g) {lines} y = Mul(q, a) }}",
        w=normal(5, 12),
        b=normal(12),
        a=np.array(0.5, np.float32),
        **{name: array for name, array in weights.items() if f" {name})" in lines or
           f" {name}," in lines or name == "r"},
    )  # fmt: skip
    expected = [op for op in operators(model) if op != "Mul"]
    assert_rewritten(model, "fold-scale-shift", expected, sizes={"L": 3}, certified=True)


# --- Split, downstream --------------------------------------------------------------------------


def before_split(lines: str, outputs: str, channels: int = 6, **others: Any) -> onnx.ModelProto:
    """Return a BatchNormalization n of a Relu of x, and lines after it."""
    return build(
        f"(float[N,{channels},W] x) => ({outputs}) "
        f"{{ r = Relu(x) n = BatchNormalization(r, s, b, m, v) {lines} }}",
        **batch_norm(channels),
        **others,
    )


@pytest.mark.parametrize(("split", "opset", "sizes", "weights"), SPLITS)
def test_each_reader_of_a_split_absorbs_its_part(
    split: str, opset: int, sizes: list[int], weights: Parameters
) -> None:
    model = before_split(
        f"p, q = {split.replace('(c', '(n')} y = Conv(p, k) z = Conv(q, w)",
        YZ,
        channels=sum(sizes),
        opset=opset,
        k=normal(2, sizes[0], 1),
        w=normal(3, sizes[1], 1),
        **weights,
    )
    expected = ["Relu", "Split", "Conv", "Conv"]
    assert_rewritten(model, NAME, expected, sizes=FREE, certified=True)


@pytest.mark.parametrize(
    ("lines", "channels"),
    [
        ("p, q = Split<axis=2>(n) y = Conv(p, k) z = Conv(q, k)", 6),
        ("p, q = Split<axis=1>(n) z = Conv(q, k) y = Sqrt(z)", 3),
        ("p, q = Split<axis=1>(n) i = Concat<axis=1>(q, p) y = Conv(i, k) z = Sqrt(y)", 6),
        ("p, q = Split<axis=1>(n) t = Shape(q) y = Conv(q, k) z = Conv(p, k)", 3),
    ],
)
def test_what_a_split_leads_to(lines: str, channels: int) -> None:
    model = before_split(lines, "float[N,2,h] y, float[N,2,i] z", k=normal(2, channels, 1))
    if "Shape" in lines:
        model.graph.output.append(helper.make_tensor_value_info("t", TensorProto.INT64, [3]))
    expected = [op for op in operators(model) if op != "BatchNormalization"]
    assert_rewritten(model, NAME, expected, sizes={"W": 4}, certified=True)


@pytest.mark.parametrize(
    ("lines", "reason", "subject"),
    [
        ("p, q = Split<axis=1>(n) y = Conv(p, k) z = Exp(q)",
         NotReached.READER_NOT_LINEAR, "Exp z"),
        ("p, z = Split<axis=1>(n) y = Conv(p, k)", NotReached.GRAPH_OUTPUT, ""),
        ("p, q = Split<axis=1>(n, free) y = Conv(p, k) z = Conv(q, k)",
         Common.PARAMETER_NOT_CONSTANT, "Split p"),
    ],
)  # fmt: skip
def test_refuses_a_split(lines: str, reason: Refusal, subject: str) -> None:
    model = before_split(lines, YZ, k=normal(2, 3, 1))
    if "free" in lines:
        model.graph.input.append(helper.make_tensor_value_info("free", TensorProto.INT64, [2]))
    assert_refused_after(model, reason, subject)


# --- All of them --------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Return a model of rank 2 that divides, joins, scales and multiplies; what is left is read."""
    values, read = {"x": 4}, set[str]()
    lines = list[str]()
    weights: Parameters = {}

    def some() -> str:
        name = draw(st.sampled_from(sorted(values)))
        read.add(name)
        return name

    def weight(array: Array) -> str:
        weights[f"w{len(weights)}"] = array
        return f"w{len(weights) - 1}"

    def add(line: str, *sizes: int) -> None:
        names = [f"v{len(values) + index}" for index in range(len(sizes))]
        values.update(zip(names, sizes, strict=True))
        lines.append(f"{', '.join(names)} = {line}")

    add(f"MatMul({some()}, {weight(normal(4, 6))})", 6)
    kinds = st.sampled_from(["Split", "Slice", "Gather", "Concat", "Mul", "Mul", "MatMul", "Abs"])
    for drawn in draw(st.lists(kinds, min_size=2, max_size=9)):
        value = some()
        size = values[value]
        kind = "Abs" if size == 1 and drawn in ("Split", "Slice") else drawn
        if kind == "Split":
            first = draw(st.integers(1, size - 1))
            parts = (first, size - first)
            add(f"Split<axis=1>({value}, {weight(np.array(parts))})", *parts)
        elif kind == "Slice":
            start = draw(st.integers(0, size - 2))
            bound = [weight(np.array([each])) for each in (start, size, 1)]
            add(f"Slice({value}, {', '.join(bound)})", size - start)
        elif kind == "Gather":
            indices = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))
            add(f"Gather<axis=1>({value}, {weight(np.array(indices))})", len(indices))
        elif kind == "Concat":
            other = some()
            add(f"Concat<axis=1>({value}, {other})", size + values[other])
        elif kind == "Mul":
            shape = (size,) if draw(st.booleans()) else ()
            add(f"Mul({value}, {weight(normal(*shape, seed=len(lines)))})", size)
        elif kind == "MatMul":
            add(f"MatMul({value}, {weight(normal(size, 3, seed=len(lines)))})", 3)
        elif kind == "Abs":
            add(f"Abs({value})", size)
    left = [name for name in values if name not in read]
    outputs = ", ".join(f"float[N,{values[name]}] {name}" for name in left)
    return build(f"(float[N,4] x) => ({outputs}) {{ {' '.join(lines)} }}", **weights)


@settings(max_examples=25, deadline=None)
@given(graphs())
def test_what_is_rewritten_computes_the_same(model: onnx.ModelProto) -> None:
    optimized = run_pass(model, "fold-scale-shift").to_proto()
    if operators(optimized) != operators(model):
        assert_equivalent(model, optimized, draw_feeds(model), rtol=1e-4, atol=1e-4)
        assert operators(optimized).count("MatMul") <= operators(model).count("MatMul")
        assert not run_pass(optimized, "fold-scale-shift").record.rewrites
