"""Models that say less, or other, than is true: nothing follows from it that is not so.

Each was refused, rewritten wrongly or left alone by an earlier version, and stands for a kind.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import helper

import bnfold
from tests.support.evaluate import assert_equivalent, run_plain
from tests.support.graphs import Parameters, batch_norm, build, ints, normal, operators


def passed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Optimize with the check and all certificates, and return the result."""
    result = bnfold.optimize(model, check=True)
    assert result.record.equivalence is not None
    assert result.record.equivalence.verdict in ("pass", "identical")
    return result.to_proto()


def describe(model: onnx.ModelProto, **shapes: Sequence[int]) -> onnx.ModelProto:
    """Add what an exporter wrote of the sizes of one trace."""
    for name, sizes in shapes.items():
        model.graph.value_info.append(helper.make_tensor_value_info(name, 1, sizes))
    return model


def with_sizes(model: onnx.ModelProto, *sizes: int) -> onnx.ModelProto:
    """Write the sizes of the input as old exporters do, with -1 for a free one."""
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, sizes, strict=True):
        dim.dim_value = size
    return model


def test_a_crop_to_the_size_of_the_trace_stays() -> None:
    model = describe(
        build(
            "(float[N,3,H,W] x) => (float[1,4,300,300] y) "
            "{ c = Conv<pads=[1,1,1,1]>(x, w) n = BatchNormalization(c, s, b, m, v) r = Relu(n) "
            "k = Slice(r, begin, until, axes) y = Conv(k, u) }",
            w=normal(8, 3, 3, 3),
            u=normal(4, 8, 1, 1),
            begin=ints(0, 0),
            until=ints(300, 300),
            axes=ints(2, 3),
            **batch_norm(8),
        ),
        **dict.fromkeys("cnrk", (1, 8, 300, 300)),
    )
    optimized = passed(model)
    assert operators(optimized) == ["Conv", "Relu", "Slice", "Conv"]
    for height in (300, 320):
        assert_equivalent(model, optimized, {"x": normal(1, 3, height, 300)}, rtol=1e-4, atol=1e-4)


def test_a_slice_of_the_batch_of_the_trace_stays() -> None:
    model = describe(
        build(
            "(float[N,3,8,8] x) => (float[a,6,8,8] y) "
            "{ c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) k = Slice(r, begin, until, axes) "
            "y = Identity(k) }",
            w=normal(6, 3, 3, 3),
            begin=ints(0),
            until=ints(1),
            axes=ints(0),
        ),
        c=(1, 6, 8, 8),
        r=(1, 6, 8, 8),
    )
    assert "Slice" in operators(passed(model))


CROP: Parameters = {"begin": ints(0), "until": ints(640), "axes": ints(2)}
FOCUS: Parameters = {
    "begin": ints(0),
    "next": ints(1),
    "until": ints(2**31 - 1),
    "axes": ints(2),
    "by": ints(2),
    "u": normal(4, 6, 1, 1),
}


@pytest.mark.parametrize(
    ("lines", "weights", "kept"),
    [
        ("r = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w) y = Slice(r, begin, until, axes)", CROP, 2),
        (
            "a = Slice(x, begin, until, axes, by) b = Slice(x, next, until, axes, by) "
            "c = Concat<axis=1>(a, b) y = Conv(c, u)",
            FOCUS,
            1,
        ),
        (
            "r = Conv(x, w) s = Shape(r) n = Slice(s, zero, one) t = Concat<axis=0>(n, rest) "
            "y = Reshape(r, t)",
            {"zero": ints(0), "one": ints(1), "rest": ints(-1)},
            2,  # the batch is copied
        ),
    ],
    ids=["crop", "focus", "batch"],
)
def test_minus_one_is_a_free_size(lines: str, weights: Parameters, kept: int) -> None:
    kernel: Parameters = {"w": normal(4, 3, 3, 3)} if ", w)" in lines else {}
    result = "a,b" if "Reshape" in lines else "a,b,c,d"
    text = f"(float[1,3,1,1] x) => (float[{result}] y) {{ {lines} }}"
    model = with_sizes(build(text, opset=11, ir_version=7, **kernel, **weights), -1, 3, -1, -1)
    optimized = passed(model)
    assert len(operators(optimized)) == kept
    assert_equivalent(model, optimized, {"x": normal(2, 3, 6, 5)}, rtol=1e-4, atol=1e-4)


def test_a_fraction_is_resized_as_onnxruntime_does_it() -> None:
    """3 · 2.3333333 is 7 in float32 and 6.9999998 in float64: the Slice to 6 leaves one out."""
    model = build(
        "(float[1,3,3,3] x) => (float[1,4,h,l] y) "
        '{ c = Conv(x, w) r = Resize<mode="nearest">(c, , scales) k = Slice(r, begin, until, axes) '
        "y = Relu(k) }",
        w=normal(4, 3, 1, 1),
        scales=np.array([1, 1, 7 / 3, 7 / 3], np.float32),
        begin=ints(0, 0),
        until=ints(6, 6),
        axes=ints(2, 3),
    )
    assert operators(passed(model)) == ["Conv", "Resize", "Slice", "Relu"]


@pytest.mark.parametrize(("axes", "opset"), [("-2,-1", 11), ("3,2,0", 9)])
def test_axes_in_any_order_and_from_the_end(axes: str, opset: int) -> None:
    model = build(
        "(float[1,3,6,6] x) => (float[1,6,6,6] y) "
        f"{{ c = Conv<pads=[1,1,1,1]>(x, w) u = Unsqueeze<axes=[{axes}]>(k) p = Mul(c, u) "
        "y = Sigmoid(p) }",
        opset=opset,
        ir_version=4 if opset == 9 else 7,
        w=normal(6, 3, 3, 3),
        k=normal(6),
    )
    assert operators(passed(model)) == ["Conv", "Sigmoid"]


def test_a_shape_that_becomes_known_is_used_at_once() -> None:
    model = build(
        "(float[1,3,8,8] x) => (float[1,8,64] y) "
        "{ c = Conv(x, w) n = CastLike(count, two) t = Concat<axis=0>(two, n) r = Reshape(c, t) "
        "z = BatchNormalization(r, s, b, m, v) y = Relu(z) }",
        opset=18,
        w=normal(8, 3, 1, 1),
        two=ints(1, 8),
        count=np.array([64], np.float32),
        **batch_norm(8),
    )
    assert operators(passed(model)) == ["Conv", "Reshape", "Relu"]


def test_a_pad_of_no_width_and_a_crop_in_time_let_a_map_pass() -> None:
    model = build(
        "(float[N,4,20] x) => (float[N,6,20] y) "
        "{ c = Conv<dilations=[2], pads=[4,4]>(x, w) k = Slice(c, begin, until, axes) "
        "p = Pad(k, none) z = BatchNormalization(p, s, b, m, v) y = Relu(z) }",
        w=normal(6, 4, 3),
        none=np.zeros(6, np.int64),
        begin=ints(0),
        until=ints(-4),
        axes=ints(2),
        **batch_norm(6),
    )
    assert operators(passed(model)) == ["Conv", "Slice", "Relu"]


def test_a_mask_that_is_declared_with_another_rank() -> None:
    model = build(
        "(float[N,5] x) => (float y, bool m, float z) { y, m = Dropout(x) z = Dropout(y) }"
    )
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    assert "Dropout" not in operators(passed(model))


def test_a_squeeze_of_no_axes_is_one_of_all_axes_of_size_1_to_onnxruntime() -> None:
    model = build(
        "(float[N,4] x) => (float y) { t = Squeeze(x, e) u = Unsqueeze(t, e) y = Relu(u) }",
        e=np.zeros(0, np.int64),
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    optimized = bnfold.optimize(model, check=False).to_proto()
    for batch in (1, 3):
        x = normal(batch, 4)
        (one,), (other,) = run_plain(model, {"x": x}), run_plain(optimized, {"x": x})
        assert one.shape == other.shape
        np.testing.assert_array_equal(one, other)
