"""What an affine map passes through, upstream and downstream, and each refusal by name.

Upstream, a Conv absorbs it: ``Conv → g → A``. Downstream, a Gemm or Conv does: ``A → g → L``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from bnfold.algebra.affine_maps.affine import Affine
from bnfold.algebra.affine_maps.carry import CARRIERS, carry
from bnfold.algebra.affine_maps.carrying import Direction, NotCarried
from bnfold.graph.shapes import record_shape
from bnfold.rewriting.contract import Common, Refusal, Refused
from tests.support.evaluate import assert_equivalent, run_plain
from tests.support.graphs import (
    Array,
    Parameters,
    batch_norm,
    build,
    draw_feeds,
    ints,
    named_in,
    normal,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, run_pass
from tests.support.slow import few

SCALE: Parameters = {"k": np.array([0.5, 2, 1.5, 3], np.float32).reshape(4, 1, 1)}
POSITIVE = batch_norm(4) | {"s": np.array([0.5, 2, 0, 3], np.float32)}


def after_conv(
    lines: str, *, opset: int = 17, size: str = "8,8", bn: Parameters = POSITIVE, **weights: Any
) -> onnx.ModelProto:
    """Return ``Conv → lines → BatchNormalization``; the lines go from c to g."""
    return build(
        f"(float[N,3,{size}] x) => (float[n,4,h,w] y) "
        f"{{ c = Conv(x, w) {lines} y = BatchNormalization(g, s, b, m, v) }}",
        opset=opset,
        w=normal(4, 3, 3, 3),
        **bn,
        **weights,
    )


UPSTREAM = [
    ("g = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)", 17),
    ("g = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)", 17),
    ("g, i = MaxPool<kernel_shape=[2,2]>(c)", 17),
    ("g = GlobalMaxPool(c)", 17),
    ("g = AveragePool<kernel_shape=[2,2], strides=[2,2]>(c)", 17),
    ("g = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)", 17),
    ("g = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(c)", 17),
    ("g = AveragePool<kernel_shape=[2,2], count_include_pad=1>(c)", 17),
    ("g = GlobalAveragePool(c)", 17),
    ("g = ReduceMean<axes=[2,3]>(c)", 17),
    ("g = ReduceMean<axes=[-1], keepdims=1>(c)", 17),
    ("g = ReduceMax<axes=[2,3]>(c)", 17),
    ("g = ReduceMin<axes=[-1]>(c)", 17),
    ("g = ReduceMax(c, last_two)", 18),
    ("g = ReduceSum(c, last_two)", 17),
    ("g = ReduceSum<axes=[2,-1]>(c)", 11),
    ("g = Identity(c)", 17),
    ("g = Cast<to=1>(c)", 17),
    ("g = CastLike(c, x)", 17),
    ("g = Neg(c)", 17),
    ('g = Resize<mode="nearest">(c, , scales)', 17),
    ('g = Resize<mode="linear">(c, , scales)', 17),
    ('g = Upsample<mode="nearest">(c, scales)', 9),
    ('g = Pad<mode="edge">(c, pads)', 17),
    ('g = Pad<mode="reflect">(c, pads)', 17),
    ('g = Pad<mode="wrap">(c, pads)', 19),
    ("g = Pad(c, no_pads)", 17),
    ("g = Slice(c, from, to, last_two)", 17),
    ("g = Gather<axis=2>(c, backward)", 17),
    ("g = Gather<axis=-1>(c, backward)", 17),
    ("g = Gather(c, backward)", 17),
    ("g = Gather<axis=1>(c, permuted)", 17),
    ("g = Tile(c, thrice)", 17),
    ("g = Slice<starts=[1,0], ends=[3,-1], axes=[2,-1]>(c)", 9),
    ('g = Resize<mode="linear">(c, , , sizes)', 17),
    ('g = Resize<mode="linear", axes=[3]>(c, , half)', 18),
]
EXTRA: Parameters = {
    "scales": np.array([1, 1, 2, 2], np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 0], np.int64),
    "no_pads": np.zeros(8, np.int64),
    "from": np.array([1, -4], np.int64),
    "to": np.array([2**62, 5], np.int64),
    "last_two": np.array([2, -1], np.int64),
    "sizes": np.array([2, 4, 9, 5], np.int64),
    "half": np.array([0.5], np.float32),
    "channels": np.array([1, 0], np.int64),
    "zero_steps": np.zeros(2, np.int64),
    "steps_back": np.full(2, -1, np.int64),
    "backward": np.array([1, 0, -1], np.int64),
    "permuted": np.array([2, -1, 1, 0], np.int64),
    "thrice": np.array([2, 1, 3, 1], np.int64),
    "twice": np.array([2, 1, -2, 3], np.int64),
    "square": np.array([[0, 1], [1, 1]], np.int64),
    "mixing": np.array([1, 1.2, 2, 2], np.float32),
}


@pytest.mark.parametrize(("lines", "opset"), UPSTREAM)
def test_carried_upstream(lines: str, opset: int) -> None:
    extra = {name: array for name, array in EXTRA.items() if re.search(rf"\b{name}\b", lines)}
    model = after_conv(lines, opset=opset, **extra)
    if "sizes" in lines:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    operator = lines.partition("= ")[2].partition("(")[0].partition("<")[0]
    assert_rewritten(model, "fold-batchnorm", ["Conv", operator])


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("g, i = MaxPool<kernel_shape=[2,2]>(c) j = Neg(i)", Common.INDICES_USED),
        (
            "g = MaxPool<kernel_shape=[2,2], dilations=[2,2], pads=[1,1,1,1]>(c)",
            Common.PADDING_ONLY_WINDOW,
        ),
        (
            "g = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(c)",
            NotCarried.PADDED_AVERAGE,
        ),
        ("g = Relu(c)", NotCarried.ACTIVATION_SHIFT),
        ("g = LeakyRelu(c)", NotCarried.ACTIVATION_SHIFT),
        ("g = Pad(c, pads)", NotCarried.PADDED_BORDER),
        ("g = ReduceMean<axes=[1]>(c)", NotCarried.AXIS_POOLED),
        ("g = ReduceSum(c, last_two)", Common.SHAPE_UNKNOWN),
        ("g = ReduceSum(c, channels)", NotCarried.AXIS_POOLED),
        ("g = ReduceMax<axes=[1]>(c)", NotCarried.AXIS_POOLED),
        ("g = ReduceMin(c)", NotCarried.AXIS_POOLED),
        ("g = Reshape(c, free)", Common.SHAPE_UNKNOWN),
        ("g = Slice(c, from, free, channels)", Common.PARAMETER_NOT_CONSTANT),
        ("g = Slice(c, from, to, channels, zero_steps)", Common.SHAPE_UNKNOWN),
        ("g = Slice(c, from, to, channels, steps_back)", Common.SHAPE_UNKNOWN),
        ("g = Slice(c, from, to, free)", Common.PARAMETER_NOT_CONSTANT),
        ("g = Gather<axis=1>(c, twice)", NotCarried.CHANNELS_MERGED),
        ("g = Tile(c, free)", Common.PARAMETER_NOT_CONSTANT),
        ("g = Gather<axis=1>(c, free)", Common.PARAMETER_NOT_CONSTANT),
        ("g = Gather<axis=1>(c, square)", NotCarried.AXIS_LOST),
        ('g = Resize<mode="nearest">(c, , mixing)', NotCarried.AXIS_POOLED),
        ('g = Resize<mode="linear">(c, , , free)', NotCarried.AXIS_POOLED),
        ('g = Resize<mode="cubic">(c, , scales)', NotCarried.AXIS_POOLED),
        (
            'g = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize">'
            "(c, roi, scales)",
            Common.CROPPED,
        ),
    ],
)
def test_refused_upstream(lines: str, reason: NotCarried) -> None:
    extra = EXTRA | {"roi": np.array([0, 0, 0.1, 0.1, 1, 1, 0.9, 0.9], np.float32)}
    extra = {name: array for name, array in extra.items() if re.search(rf"\b{name}\b", lines)}
    model = after_conv(lines, size="H,W", **extra)
    if "free" in lines:
        model.graph.input.add().CopyFrom(
            onnx.helper.make_tensor_value_info("free", onnx.TensorProto.INT64, [4])
        )
    result = run_pass(model, "fold-batchnorm")
    assert [refusal.reason for refusal in result.record.refusals] == [reason.name]


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ("kernel_shape=[2], strides=[2], dilations=[4], pads=[1,0], ceil_mode=1", 3),
        ("kernel_shape=[2], dilations=[4], pads=[1,1]", 3),
        ("kernel_shape=[3], strides=[3], count_include_pad=1", 2),
        ('kernel_shape=[3], strides=[3], auto_pad="VALID"', 2),
    ],
)
def test_refuses_a_shift_across_an_average_of_padding_alone(attributes: str, size: int) -> None:
    """For a window without any real element, onnxruntime returns zero, whatever the shift."""
    model = build(
        f"(float[N,3,{size}] x) => (float[N,4,l] y) {{ c = Conv(x, w) "
        f"g = AveragePool<{attributes}>(c) y = BatchNormalization(g, s, b, m, v) }}",
        opset=19,
        w=normal(4, 3, 1),
        **batch_norm(4),
    )
    record = run_pass(model, "fold-batchnorm").record
    assert [refusal.reason for refusal in record.refusals] == [Common.PADDING_ONLY_WINDOW.name]


def test_axes_may_be_a_single_number() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,1,6,6] y) "
        "{ c = Conv(x, w) g = Unsqueeze(c, two) y = Mul(g, k) }",
        w=normal(4, 3, 3, 3),
        two=np.array(2, np.int64),
        k=normal(4, 1, 1, 1),
    )
    assert operators(run_pass(model, "fold-scale-shift").to_proto()) == ["Conv", "Unsqueeze"]


def test_two_maps_after_one_transpose_fold_in_one_run() -> None:
    model = build(
        "(float[N,3,4,4] x) => (float[N,2,2,4] y) { c = Conv(x, w) "
        "t = Transpose<perm=[0,2,3,1]>(c) q = Mul(t, k) y = Add(q, k) }",
        w=normal(4, 3, 3, 3),
        k=normal(4),
    )
    assert_rewritten(model, "fold-scale-shift", ["Conv", "Transpose"])


def test_refuses_channels_that_a_reshape_scatters() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,8,18] y) "
        "{ c = Conv(x, w) g = Reshape(c, mixed) y = BatchNormalization(g, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        mixed=SHAPES["mixed"],
        **batch_norm(8),
    )
    assert_refused(model, "fold-batchnorm", NotCarried.AXIS_LOST, in_the_way="Reshape g")


def test_refuses_a_negative_scale_across_a_max_pool() -> None:
    for lines in (
        "g = MaxPool<kernel_shape=[2,2]>(c)",
        "g = GlobalMaxPool(c)",
        "g = ReduceMax<axes=[2]>(c)",
        "g = ReduceMin<axes=[2]>(c)",
    ):
        model = after_conv(lines, bn=batch_norm(4))
        assert_refused(model, "fold-batchnorm", NotCarried.NEGATIVE_SCALE)


# --- Scales alone -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        "g = Relu(c)",
        "g = LeakyRelu<alpha=-0.3>(c)",
        "g = PRelu(c, slope)",
        "g = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(c)",
        "g = Pad(c, pads)",
        "g = Pad(c, pads, zero)",
    ],
)
def test_a_scale_without_shift_passes_more(lines: str) -> None:
    extra: Parameters = EXTRA | {"slope": normal(4, 1, 1), "zero": np.array(0, np.float32)}
    extra = named_in(lines, extra)
    model = build(
        f"(float[N,3,8,8] x) => (float[n,4,h,w] y) {{ c = Conv(x, w) {lines} y = Mul(g, k) }}",
        w=normal(4, 3, 3, 3),
        **SCALE,
        **extra,
    )
    operator = lines.partition("= ")[2].partition("(")[0].partition("<")[0]
    assert_rewritten(model, "fold-scale-shift", ["Conv", operator])


@pytest.mark.parametrize(
    ("lines", "factor"),
    [
        ("g = Relu(c)", -1.0),
        ("g = Relu(c)", 0.0),
        ("g = Pad(c, pads, one)", 2.0),
    ],
)
def test_a_scale_without_shift_does_not_pass_everything(lines: str, factor: float) -> None:
    extra: Parameters = EXTRA | {"one": np.array(1, np.float32)}
    extra = named_in(lines, extra)
    model = build(
        f"(float[N,3,8,8] x) => (float[n,4,h,w] y) {{ c = Conv(x, w) {lines} y = Mul(g, k) }}",
        opset=19,
        w=normal(4, 3, 3, 3),
        k=np.full((4, 1, 1), factor, np.float32),
        **extra,
    )
    assert not run_pass(model, "fold-scale-shift").record.rewrites


# --- Axes followed ------------------------------------------------------------------------------

FACTORS = np.array([0.5, 2, 1.5, 3], np.float32)

# Operators on a value (N,4,6,6), the rank of the result, and a constant along the former axis 1.
LAYOUTS = [
    ("g = Transpose<perm=[0,2,3,1]>(c)", 4, FACTORS),
    ("g = Transpose<perm=[1,0,2,3]>(c)", 4, FACTORS.reshape(4, 1, 1, 1)),
    ("g = Transpose(c)", 4, FACTORS.reshape(4, 1)),
    ("g = Unsqueeze(c, first)", 5, FACTORS.reshape(4, 1, 1)),
    ("g = Unsqueeze(c, last)", 5, FACTORS.reshape(4, 1, 1, 1)),
    ("u = Unsqueeze(c, last) g = Squeeze(u, last)", 4, FACTORS.reshape(4, 1, 1)),
    ("g = Reshape(c, flat)", 3, FACTORS.reshape(4, 1)),
    ("g = Reshape(c, split)", 5, FACTORS.reshape(4, 1, 1, 1)),
    ("g = Reshape(c, halves)", 4, FACTORS[:2].reshape(2, 1, 1)),
    ("g = Flatten(c)", 2, np.repeat(FACTORS, 36)),
    ("g = ReduceMean<axes=[2,3], keepdims=0>(c)", 2, FACTORS),
    ("g = ReduceMean<axes=[0], keepdims=0>(c)", 3, FACTORS.reshape(4, 1, 1)),
    ("g = ReduceMax<axes=[0,3], keepdims=0>(c)", 2, FACTORS.reshape(4, 1)),
    ("g = Gather<axis=2>(c, one)", 3, FACTORS.reshape(4, 1)),
    ("g = Gather(c, one)", 3, FACTORS.reshape(4, 1, 1)),
    ("g = Gather<axis=1>(c, one)", 3, FACTORS[:1].reshape(1, 1, 1)),
    ("g = Gather<axis=1>(c, repeated)", 4, FACTORS[[0, 1, 0]].reshape(3, 1, 1)),
    ("m = GlobalAveragePool(c) g = Expand(m, wide)", 4, FACTORS.reshape(4, 1, 1)),
    ("m = GlobalAveragePool(c) g = Expand(m, low)", 4, FACTORS.reshape(4, 1, 1)),
    ("m = GlobalAveragePool(c) g = Expand(m, higher)", 5, FACTORS.reshape(4, 1, 1)),
]
SHAPES: Parameters = {
    "first": np.array([0], np.int64),
    "last": np.array([-1], np.int64),
    "flat": np.array([0, 4, 36], np.int64),
    "split": np.array([0, 4, 2, 3, 6], np.int64),
    "halves": np.array([0, 2, 2, 36], np.int64),
    "mixed": np.array([0, 8, 18], np.int64),
    "one": np.array(1, np.int64),
    "repeated": np.array([3, 1, -1], np.int64),
    "wide": np.array([1, 4, 3, 2], np.int64),
    "low": np.array([3, 2], np.int64),
    "higher": np.array([2, 1, 1, 3, 2], np.int64),
    "rows": np.array([-1, 6], np.int64),
}


def scaled_layout(lines: str, rank: int, factors: Array) -> onnx.ModelProto:
    shapes = {name: array for name, array in SHAPES.items() if f" {name})" in lines}
    output = ",".join(f"o{axis}" for axis in range(rank))
    return build(
        f"(float[N,3,8,8] x) => (float[{output}] y) {{ c = Conv(x, w) {lines} y = Mul(g, k) }}",
        w=normal(4, 3, 3, 3),
        k=factors,
        **shapes,
    )


@pytest.mark.parametrize(("lines", "rank", "factors"), LAYOUTS)
def test_channels_are_followed_through_other_shapes(lines: str, rank: int, factors: Array) -> None:
    model = scaled_layout(lines, rank, factors)
    assert_rewritten(model, "fold-scale-shift", operators(model)[:-1])


@pytest.mark.parametrize(
    ("lines", "rank", "factors"),
    [
        ("g = Reshape(c, mixed)", 3, np.arange(1, 9, dtype=np.float32).reshape(8, 1)),
        ("g = Flatten(c)", 2, np.arange(1, 145, dtype=np.float32)),
        ("g = Reshape(c, rows)", 2, np.arange(1, 7, dtype=np.float32)),
        ("g = Gather<axis=1>(c, one)", 3, np.arange(1, 7, dtype=np.float32)),
        ("m = ReduceMean<axes=[1,2,3]>(c) g = Expand(m, wide)", 4, FACTORS.reshape(4, 1, 1)),
        (
            "m = GlobalAveragePool(c) g = Expand(m, higher)",
            5,
            np.array([2, 3], np.float32).reshape(2, 1, 1, 1, 1),
        ),
    ],
)
def test_a_constant_across_channels_is_left(lines: str, rank: int, factors: Array) -> None:
    model = scaled_layout(lines, rank, factors)
    assert not run_pass(model, "fold-scale-shift").record.rewrites


# --- Channels followed --------------------------------------------------------------------------


SLICES = [(0, 2, 1), (1, 2**62, 1), (-3, -1, 1), (0, 9, 2), (3, -9, -1), (2, -9, -2), (-1, 0, -3)]


@pytest.mark.parametrize(("start", "end", "step"), SLICES)
@pytest.mark.parametrize(
    ("axis", "free"), few(product([1, -3], [False, True]), [(1, False), (-3, True)])
)
def test_a_slice_of_channels_upstream(
    start: int, end: int, step: int, axis: int, free: bool
) -> None:
    channels = len(range(6)[start:end:step])
    bounds: Parameters = {
        "from": ints(1, start),
        "to": ints(5, end),
        "axes": ints(3, axis),
        "by": ints(1, step),
    }
    model = build(
        f"(float[N,3,{'H,W' if free else '8,8'}] x) => (float[N,{channels},h,w] y) {{ "
        "c = Conv(x, w) g = Slice(c, from, to, axes, by) y = BatchNormalization(g, s, b, m, v) }",
        w=normal(6, 3, 3, 3),
        **bounds,
        **batch_norm(channels),
    )
    assert_rewritten(model, "fold-batchnorm", ["Conv", "Slice"], sizes={"H": 7, "W": 6})


@pytest.mark.parametrize(("start", "end", "step"), SLICES)
def test_a_slice_of_channels_downstream(start: int, end: int, step: int) -> None:
    channels = len(range(6)[start:end:step])
    bounds: Parameters = {"from": ints(start), "to": ints(end), "axes": ints(1), "by": ints(step)}
    model = build(
        "(float[N,6,H,W] x) => (float[N,5,h,w] y) { q = Sigmoid(x) "
        "a = BatchNormalization(q, s, b, m, v) g = Slice(a, from, to, axes, by) y = Conv(g, w) }",
        w=normal(5, channels, 2, 2),
        **bounds,
        **batch_norm(6),
    )
    assert_rewritten(model, "fold-batchnorm", ["Sigmoid", "Slice", "Conv"])


@pytest.mark.parametrize("shape", [(1, 4, 5, 6), (5, 6), (3, 1, 5, 6)])
def test_channels_that_are_not_repeated_downstream(shape: tuple[int, ...]) -> None:
    model = build(
        "(float[1,4,1,1] x) => (float[N,5,4,5] y) { q = Sigmoid(x) "
        "a = BatchNormalization(q, s, b, m, v) g = Expand(a, shape) y = Conv(g, w) }",
        w=normal(5, 4, 2, 2),
        shape=np.array(shape),
        **batch_norm(4),
    )
    assert_rewritten(model, "fold-batchnorm", ["Sigmoid", "Expand", "Conv"])


def test_channels_are_followed_to_a_value_of_more_axes_downstream() -> None:
    model = build(
        "(float[4,1,1] x) => (float[N,5,4,5] y) { q = Sigmoid(x) a = Mul(q, k) "
        "g = Expand(a, shape) y = Conv(g, w) }",
        w=normal(5, 4, 2, 2),
        k=FACTORS.reshape(4, 1, 1),
        shape=ints(1, 4, 5, 6),
    )
    assert_rewritten(model, "fold-scale-shift", ["Sigmoid", "Expand", "Conv"])


@pytest.mark.parametrize(
    ("filters", "shape"),
    [
        (1, (1, 4, 6, 6)),  # the one channel is repeated
        (4, (1, 6, 4, 6, 6)),  # the one sample is
        (4, (1, 6, 1, 4, 6, 6)),  # copies of everything, as many as there are columns
    ],
)
def test_channels_that_are_copies_are_lost(filters: int, shape: tuple[int, ...]) -> None:
    model = build(
        f"(float[1,3,8,8] x) => (float[{','.join(map(str, shape))}] y) {{ "
        "c = Conv(x, w) g = Expand(c, shape) y = BatchNormalization(g, s, b, m, v) }",
        w=normal(filters, 3, 3, 3),
        shape=ints(*shape),
        **batch_norm(shape[1]),
    )
    assert_refused(model, "fold-batchnorm", NotCarried.AXIS_LOST, in_the_way="Expand g")


def test_two_slices_of_one_value_take_their_own_channels_downstream() -> None:
    model = build(
        "(float[N,4,8,8] x) => (float[N,5,6,6] y, float[N,5,6,6] z) { q = Sigmoid(x) "
        "a = BatchNormalization(q, s, b, m, v) g = Slice<axes=[1], starts=[0], ends=[1]>(a) "
        "y = Conv(g, w) h = Slice<axes=[1], starts=[1], ends=[4]>(a) z = Conv(h, u) }",
        opset=9,
        w=normal(5, 1, 3, 3),
        u=normal(5, 3, 3, 3),
        **batch_norm(4),
    )
    assert_rewritten(model, "fold-batchnorm", ["Sigmoid", "Slice", "Conv", "Slice", "Conv"])


@pytest.mark.parametrize("single", [False, True])
def test_a_gather_along_the_channels_downstream(single: bool) -> None:
    """A single index leaves one channel, along no axis."""
    weights: Parameters = batch_norm(4) | ({} if single else {"one": ints(1)})
    model = build(
        "(float[N,4,H,5] x) => (float[o,p,7] y) { q = Sigmoid(x) "
        "a = BatchNormalization(q, s, b, m, v) "
        f"{'g' if single else 'h'} = Gather<axis=1>(a, i) "
        f"{'' if single else 'g = Squeeze(h, one)'} y = MatMul(g, w) }}",
        i=np.array(2 if single else [2], np.int64),
        w=normal(5, 7),
        **weights,
    )
    kinds = ["Gather"] if single else ["Gather", "Squeeze"]
    assert_rewritten(model, "fold-batchnorm", ["Sigmoid", *kinds, "MatMul", "Add"])


def test_indices_may_be_computed_along_other_axes() -> None:
    model = build(
        "(float[N,3,8,8] x, int64[K] i) => (float[N,4,6,K] y) "
        "{ c = Conv(x, w) g = Gather<axis=3>(c, i) y = BatchNormalization(g, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    assert_rewritten(model, "fold-batchnorm", ["Conv", "Gather"])


def test_channels_that_a_slice_drops_must_not_be_read_elsewhere() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,2,6,6] y, float[N,4,6,6] z) { c = Conv(x, w) z = Abs(c) "
        "g = Slice<axes=[1], starts=[1], ends=[3]>(c) y = BatchNormalization(g, s, b, m, v) }",
        opset=9,
        w=normal(4, 3, 3, 3),
        **batch_norm(2),
    )
    assert_refused(model, "fold-batchnorm", Common.SHARED)


BLOCKS = ["DepthToSpace<blocksize=2>"] + [
    f'DepthToSpace<blocksize=2, mode="{mode}">' for mode in ("DCR", "CRD")
]


@pytest.mark.parametrize("block", BLOCKS)
def test_depth_to_space_upstream(block: str) -> None:
    model = build(
        f"(float[N,3,H,W] x) => (float[N,3,h,w] y) "
        f"{{ c = Conv(x, w) g = {block}(c) y = BatchNormalization(g, s, b, m, v) }}",
        w=normal(12, 3, 1, 1),
        **batch_norm(3),
    )
    assert_rewritten(
        model, "fold-batchnorm", ["Conv", "DepthToSpace"], sizes={"N": 1, "H": 3, "W": 5}
    )


def test_space_to_depth_downstream() -> None:
    model = build(
        "(float[N,3,H,9] x) => (float[N,5,h,3] y) { q = Sigmoid(x) "
        "a = BatchNormalization(q, s, b, m, v) g = SpaceToDepth<blocksize=3>(a) y = Conv(g, w) }",
        w=normal(5, 27, 1, 1),
        **batch_norm(3),
    )
    sizes = {"N": 3, "H": 6}
    assert_rewritten(model, "fold-batchnorm", ["Sigmoid", "SpaceToDepth", "Conv"], sizes=sizes)


def blocked(block: str, parameters: Parameters, *, upstream: bool) -> onnx.ModelProto:
    """Return a map of 12 channels on the side of the operator that has 12 for 3 on the other."""
    if upstream:
        text = f"c = Conv(x, w) g = {block}(c) y = BatchNormalization(g, s, b, m, v)"
        return build(
            f"(float[N,3,4,4] x) => (float[N,12,2,2] y) {{ {text} }}",
            w=normal(3, 3, 1, 1),
            **parameters,
        )
    text = f"q = Sigmoid(x) a = BatchNormalization(q, s, b, m, v) g = {block}(a) y = Conv(g, w)"
    return build(
        f"(float[N,12,2,2] x) => (float[N,5,4,4] y) {{ {text} }}",
        w=normal(5, 3, 1, 1),
        **parameters,
    )


@pytest.mark.parametrize("block", [*BLOCKS, "SpaceToDepth<blocksize=2>"])
def test_channels_that_become_one_need_one_scale_and_shift(block: str) -> None:
    upstream = block.startswith("Space")
    in_row = "CRD" in block
    few = batch_norm(3)
    fitting, other = (
        {name: np.repeat(each, 4) if rows else np.tile(each, 4) for name, each in few.items()}
        for rows in (in_row, not in_row)
    )
    op_type = block.partition("<")[0]
    expected = ["Conv", op_type] if upstream else ["Sigmoid", op_type, "Conv"]
    assert_rewritten(blocked(block, fitting, upstream=upstream), "fold-batchnorm", expected)
    for name in ("s", "b"):
        one_differs = {**fitting, name: fitting[name] + (np.arange(12) == 7).astype(np.float32)}
        for wrong in (other, one_differs):
            record = run_pass(blocked(block, wrong, upstream=upstream), "fold-batchnorm").record
            (refusal,) = record.refusals
            reasons = (refusal.reason, refusal.also_reason)
            assert reasons[not upstream] == NotCarried.CHANNELS_MERGED.name


# --- Elements moved ------------------------------------------------------------------------------


@st.composite
def moves(draw: st.DrawFn) -> tuple[str, Parameters, list[int]]:
    """Return a line from x to y that moves elements, its constants, and the shape of x."""
    shape = [draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 4, 8])), 4, 2]
    axis = draw(st.integers(0, 3))
    size = shape[axis]
    kind = draw(st.sampled_from(["Slice", "Gather", "DepthToSpace", "SpaceToDepth", "Tile"]))
    if kind == "Slice":
        bound = st.integers(-size - 2, size + 2)
        start, end, step = draw(bound), draw(bound), draw(st.sampled_from([1, 2, 3, -1, -2]))
        line = "y = Slice(x, from, to, axis, by)"
        weights = {"from": ints(start), "to": ints(end), "axis": ints(axis), "by": ints(step)}
        return line, weights, shape
    if kind == "Gather":
        index = st.integers(-size, size - 1)
        single = draw(st.booleans())
        indices = draw(index if single else st.lists(index, min_size=1, max_size=5))
        array = np.array(indices, np.int64)
        if not single and draw(st.booleans()):
            array = array[None] if draw(st.booleans()) else array[:, None]
        return f"y = Gather<axis={axis}>(x, i)", {"i": array}, shape
    if kind == "Tile":
        repeats = draw(st.lists(st.sampled_from([1, 1, 2, 3]), min_size=4, max_size=4))
        return "y = Tile(x, r)", {"r": ints(*repeats)}, shape
    if kind == "SpaceToDepth":
        return "y = SpaceToDepth<blocksize=2>(x)", {}, shape
    shape[1] = draw(st.sampled_from([4, 8]))
    mode = draw(st.sampled_from(["DCR", "CRD"]))
    return f'y = DepthToSpace<blocksize=2, mode="{mode}">(x)', {}, shape


@settings(max_examples=150, deadline=None)
@given(moves(), st.sampled_from(Direction), st.data())
def test_a_map_moves_as_the_elements_do(
    move: tuple[str, Parameters, list[int]], direction: Direction, data: st.DataObject
) -> None:
    """A scale per element, moved like the elements, is the scale of the moved map."""
    line, weights, before = move
    sizes = ",".join(map(str, before))
    model = build(f"(float[{sizes}] x) => (float[y0] y) {{ {line} }}", **weights)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")

    def moved(elements: Array) -> Array:
        (result,) = run_plain(model, {"x": elements.astype(np.float32)})
        return result

    after = list(moved(np.zeros(before)).shape)
    node = ir.from_proto(model).graph[0]
    assert node.inputs[0] is not None
    record_shape(node.inputs[0], ir.Shape(before))
    record_shape(node.outputs[0], ir.Shape(after))
    here = before if direction is Direction.TO_OUTPUT else after
    axis = data.draw(st.integers(0, len(here) - 1))
    period = data.draw(st.sampled_from([1, 2, 4, 8]))
    run = data.draw(st.sampled_from([1, 2, 4]))
    scales = np.arange(here[axis]) // run % period + 2.0
    affine = Affine(scales, -scales, axis)
    carried = carry_or_reason(affine, node, direction)
    if isinstance(carried, Refusal):
        if carried is NotCarried.CHANNELS_MERGED:
            assert not has_one_scale_each(affine, before, after, direction, moved)
        elif carried is NotCarried.AXIS_LOST:
            assert not math.prod(after) or np.ndim(weights["i"]) > 1
        else:
            assert carried is NotCarried.AXIS_POOLED
            assert "Depth" in line or np.ndim(weights["i"]) == 0
        return
    given, expected = (carried, affine) if direction is Direction.TO_INPUT else (affine, carried)
    np.testing.assert_array_equal(moved(over(given, before)), over(expected, after))
    spread = carried.spread()
    np.testing.assert_array_equal(spread.shift, np.where(spread.scale == 1, 0, -spread.scale))


def carry_or_reason(affine: Affine, node: ir.Node, direction: Direction) -> Affine | Refusal:
    """Return the carried map, or why there is none."""
    try:
        return carry(affine, node, direction)
    except Refused as refused:
        return refused.reason


def has_one_scale_each(
    affine: Affine,
    before: list[int],
    after: list[int],
    direction: Direction,
    moved: Callable[[Array], Array],
) -> bool:
    """Say whether all elements of a channel on the other side have one scale on this side."""
    here, there = (before, after) if direction is Direction.TO_OUTPUT else (after, before)
    along = [-1 if axis == affine.axis else 1 for axis in range(len(there))]
    channels = np.broadcast_to(np.arange(there[affine.axis]).reshape(along), there).reshape(-1)
    scales = over(affine, here).reshape(-1)
    source = moved(np.arange(math.prod(before)).reshape(before)).astype(int).reshape(-1)
    if direction is Direction.TO_OUTPUT:
        scales = scales[source]
    else:
        channels = channels[source]
    pairs = set(zip(channels.tolist(), scales.tolist(), strict=True))
    return len({channel for channel, _ in pairs}) == len(pairs)


# --- Downstream ---------------------------------------------------------------------------------

DOWNSTREAM = [
    "g = MaxPool<kernel_shape=[2,2]>(a)",
    "g = AveragePool<kernel_shape=[2,2]>(a)",
    "g = Identity(a)",
    "g = Neg(a)",
    "r = ReduceMin<axes=[0], keepdims=0>(a) g = Unsqueeze(r, first)",
    "t = Transpose<perm=[0,2,3,1]>(a) g = Transpose<perm=[0,3,1,2]>(t)",
    "r = Reshape(a, flat) g = Reshape(r, back)",
    'g = Pad<mode="reflect">(a, pads)',
    "g = Gather<axis=1>(a, four)",
    "g = Gather<axis=2>(a, four)",
]


@pytest.mark.parametrize("lines", DOWNSTREAM)
def test_carried_downstream(lines: str) -> None:
    shapes = {
        "flat": np.array([0, 4, 64], np.int64),
        "back": np.array([0, 4, 8, 8], np.int64),
        "pads": EXTRA["pads"],
        "first": np.array([0], np.int64),
        "four": np.array([3, 0, -1, 1], np.int64),
    }
    extra: Parameters = {name: array for name, array in shapes.items() if f" {name})" in lines}
    model = build(
        "(float[N,4,8,8] x) => (float[N,5,h,w] y) "
        f"{{ q = Neg(x) a = BatchNormalization(q, s, b, m, v) {lines} y = Conv(g, w) }}",
        w=normal(5, 4, 3, 3),
        **POSITIVE,
        **extra,
    )
    expected = [op_type for op_type in operators(model) if op_type != "BatchNormalization"]
    assert_rewritten(model, "fold-batchnorm", expected)


@pytest.mark.parametrize("lines", ["g = Flatten(a)", "p = GlobalAveragePool(a) g = Flatten(p)"])
def test_through_flatten_into_a_dense_layer(lines: str) -> None:
    features = 4 if "Pool" in lines else 4 * 6 * 5
    model = build(
        "(float[N,4,6,5] x) => (float[N,7] y) "
        f"{{ q = Neg(x) a = BatchNormalization(q, s, b, m, v) {lines} y = Gemm(g, w, d) }}",
        w=normal(features, 7),
        d=normal(7),
        **batch_norm(4),
    )
    expected = [op_type for op_type in operators(model) if op_type != "BatchNormalization"]
    assert_rewritten(model, "fold-batchnorm", expected)


@pytest.mark.parametrize(
    ("attributes", "axes", "shape", "is_folded"),
    [
        ("keepdims=0", [2], "N,4,5", True),
        ("keepdims=1", [-1, 0], "2,4,5", True),
        ("keepdims=0", [0, -1], "2,4,5", True),
        ("keepdims=0", [2], "N,4,L", False),
        ("keepdims=0", [2], "N,4,0", False),
        ("keepdims=1", [], "2,4,5", False),
    ],
)
def test_a_sum_takes_the_shift_once_for_each_element(
    attributes: str, axes: list[int], shape: str, is_folded: bool
) -> None:
    reduction = f"g = ReduceSum<{attributes}>(a, axes)"
    rank = 3 - len({axis % 3 for axis in axes}) * ("=0" in attributes)
    flat = "h = Reshape(g, rows) " + "y = Gemm(h, w, d)" if rank != 2 else "y = Gemm(g, w, d)"
    weights: Parameters = {"rows": ints(-1, 4)} if rank != 2 else {}
    model = build(
        f"(float[{shape}] x) => (float[u,3] y) "
        f"{{ r = Sigmoid(x) a = BatchNormalization(r, s, b, m, v) {reduction} {flat} }}",
        axes=np.array(axes, np.int64),
        w=normal(4, 3),
        d=normal(3),
        **batch_norm(4),
        **weights,
    )
    expected = operators(model)
    if not is_folded:
        assert operators(run_pass(model, "fold-batchnorm").to_proto()) == expected
        return
    expected.remove("BatchNormalization")
    assert_rewritten(model, "fold-batchnorm", expected, certified=True)


@pytest.mark.parametrize(
    ("attributes", "axes", "shape"),
    [("noop_with_empty_axes=1", [], "N,5"), ("keepdims=1", [], "2,5"), ("keepdims=1", [1], "N,5")],
)
@pytest.mark.parametrize("upstream", [True, False])
def test_one_shift_for_all_elements_of_a_sum(
    attributes: str, axes: list[int], shape: str, upstream: bool
) -> None:
    reduction, is_kept = f"ReduceSum<{attributes}>", "noop" in attributes
    bias: Parameters = {"e": normal(5)}
    lines = (
        f"c = MatMul(x, w) d = Add(c, e) g = {reduction}(d, axes) y = Add(g, k)"
        if upstream
        else f"r = Sigmoid(x) n = Add(r, k) g = {reduction}(n, axes) y = MatMul(g, w)"
    )
    model = build(
        f"(float[{shape}] x) => (float[u,q] y) {{ {lines} }}",
        axes=np.array(axes, np.int64),
        w=normal(5 if upstream or is_kept else 1, 5),
        k=np.array(0.7, np.float32),
        **(bias if upstream else {}),
    )
    optimized = run_pass(model, "fold-scale-shift").to_proto()
    assert_equivalent(model, optimized, draw_feeds(model))
    assert len(optimized.graph.node) < len(model.graph.node)


def test_a_scale_needs_no_count() -> None:
    model = build(
        "(float[N,4,L] x) => (float[N,3] y) "
        "{ r = Sigmoid(x) a = Mul(r, k) g = ReduceSum<keepdims=0>(a, axes) y = MatMul(g, w) }",
        axes=ints(2),
        k=normal(4, 1),
        w=normal(4, 3),
    )
    expected = ["Sigmoid", "ReduceSum", "MatMul"]
    assert_rewritten(model, "fold-scale-shift", expected, certified=True)


def test_every_operator_of_the_table_is_tested_here() -> None:
    text = Path(__file__).read_text()
    assert not [name for name in CARRIERS if not re.search(rf"(= |\"){name}[(<]", text)]


def test_a_scale_that_keeps_the_number_of_channels_but_mixes_them_is_no_identity() -> None:
    model = after_conv('g = Resize<mode="nearest">(c, , mixing)', mixing=EXTRA["mixing"])
    (value,) = run_plain(model, draw_feeds(model))
    assert value.shape[1] == 4
    assert_refused(model, "fold-batchnorm", NotCarried.AXIS_POOLED)


# --- Certificates -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        "g = Neg(a)",
        "g = Slice(a, one, nine, one)",
        "g = Gather<axis=1>(a, one)",
        "g = SpaceToDepth<blocksize=2>(a)",
        "g = DepthToSpace<blocksize=2>(a)",
        'g = DepthToSpace<blocksize=2, mode="CRD">(a)',
        "g = Tile(a, repeats)",
    ],
)
def test_a_rewrite_across_moved_elements_is_certified(lines: str) -> None:
    op_type = lines.rpartition("= ")[2].partition("(")[0].partition("<")[0]
    channels = {"Slice": 3, "Gather": 1, "SpaceToDepth": 16, "DepthToSpace": 1, "Tile": 8}
    scale = 2.0 if op_type == "DepthToSpace" else FACTORS.reshape(4, 1, 1)
    weights: Parameters = {
        "one": ints(1),
        "nine": ints(9),
        "repeats": ints(1, 2, 1, 1),
    }
    model = build(
        "(float[N,4,8,8] x) => (float[N,5,h,v] y) "
        f"{{ r = Sigmoid(x) a = Mul(r, k) {lines} y = Conv(g, w) }}",
        k=np.broadcast_to(scale, (4, 1, 1)).astype(np.float32),
        w=normal(5, channels.get(op_type, 4), 1, 1),
        **{name: array for name, array in weights.items() if re.search(rf"\b{name}\b", lines)},
    )
    result = bnfold.optimize(model, only=["fold-scale-shift"], certify="always")
    (rewrite,) = result.record.rewrites
    assert rewrite.certificate is not None
    assert rewrite.certificate.verdict == "certified", rewrite.certificate


# --- Reshapes by arithmetic ---------------------------------------------------------------------


def reshape_node(before: list[int], after: list[int]) -> ir.Node:
    data = ir.Value(name="x")
    node = ir.Node("", "Reshape", [data])
    record_shape(data, ir.Shape(before))
    record_shape(node.outputs[0], ir.Shape(after))
    return node


def over(affine: Affine, shape: list[int]) -> Array:
    """Return the scale of each element of a tensor."""
    spread = affine.spread()
    along = [-1 if axis == spread.axis else 1 for axis in range(len(shape))]
    return np.broadcast_to(spread.scale.reshape(along if spread.channels > 1 else -1), shape)


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[list[int], list[int], Affine]:
    """Return two shapes of as many elements, and a map of the first with repeating scales."""
    factors = draw(st.lists(st.sampled_from([1, 2, 2, 3, 4]), min_size=1, max_size=6))

    def grouped() -> list[int]:
        groups = draw(st.lists(st.integers(0, 3), min_size=len(factors), max_size=len(factors)))
        return [
            math.prod(f for f, g in zip(factors, sorted(groups), strict=True) if g == group)
            for group in range(4)
        ]

    before, after = grouped(), grouped()
    axis = draw(st.integers(0, 3))
    scales = draw(st.lists(st.sampled_from([1.0, 2.0]), min_size=1, max_size=before[axis]))
    scale = np.resize(np.array(scales), before[axis])
    return before, after, Affine(scale, np.zeros_like(scale), axis)


@settings(max_examples=150, deadline=None)
@given(reshapes())
def test_a_reshape_carries_a_map_where_it_varies_along_one_axis(
    case: tuple[list[int], list[int], Affine],
) -> None:
    before, after, affine = case
    elements = over(affine, before).reshape(after)
    lines = [
        tuple(slice(None) if at == axis else slice(0, 1) for at in range(4)) for axis in range(4)
    ]
    varies_along_one = any((elements == elements[line]).all() for line in lines)
    node = reshape_node(before, after)
    if not varies_along_one:
        with pytest.raises(Refused, match=NotCarried.AXIS_LOST.message):
            carry(affine, node, Direction.TO_OUTPUT)
        return
    carried = carry(affine, node, Direction.TO_OUTPUT)
    np.testing.assert_array_equal(over(carried, after), elements)
    back = carry(carried, node, Direction.TO_INPUT)
    np.testing.assert_array_equal(over(back, before), over(affine, before))


def test_a_map_spread_over_a_tensor_stays_as_short_as_its_channels() -> None:
    affine = Affine(np.arange(1.0, 4), np.zeros(3), 1)
    for after in ([1, 3 * 1080 * 1920], [1, 3, 1080 * 1920], [3, 1080, 1920], [1, 3, 1920, 1080]):
        carried = carry(affine, reshape_node([1, 3, 1080, 1920], after), Direction.TO_OUTPUT)
        assert carried.scale.size == carried.shift.size == 3
        assert carried.channels == after[carried.axis]


@pytest.mark.parametrize(("start", "length"), [(0, 4), (4, 8), (2, 2), (12, 12), (3, 7), (0, 24)])
def test_a_piece_of_a_spread_map(start: int, length: int) -> None:
    affine = Affine(np.arange(3.0), np.arange(3.0) + 5, 1, run=4, periods=2)
    piece = affine.piece(start, length)
    assert piece.channels == length
    part = slice(start, start + length)
    np.testing.assert_array_equal(piece.spread().scale, affine.spread().scale[part])
    np.testing.assert_array_equal(piece.spread().shift, affine.spread().shift[part])


def test_spread_maps_compose_channel_by_channel() -> None:
    spread = Affine(np.arange(1.0, 4), np.arange(3.0), 1, run=4, periods=2)
    other = Affine(np.arange(24.0), np.ones(24), 1)
    for first, second in ((spread, other), (other, spread), (spread, spread)):
        both, plain = second.after(first).spread(), second.spread().after(first.spread())
        np.testing.assert_array_equal(both.scale, plain.scale)
        np.testing.assert_array_equal(both.shift, plain.shift)
    assert spread.after(spread).scale.size == 3
