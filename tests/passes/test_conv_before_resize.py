"""conv-before-resize: exact for means of positions, and only for upsampling."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfold.rewriting.contract import Common
from bnfold_passes.conv_before_resize import Why
from tests.support.evaluate import run_plain
from tests.support.graphs import Array, Parameters, build, draw_feeds, named_in, normal, operators
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "conv-before-resize"
DOUBLE = np.array([1, 1, 2, 2], np.float32)


def after_resize(
    resize: str, *, conv: str = "Conv(r, w)", opset: int = 17, size: str = "5,6", **weights: Array
) -> onnx.ModelProto:
    used: Parameters = {"w": normal(3, 8, 1, 1), **weights}
    return build(
        f"(float[N,8,{size}] x) => (float[N,c,h,l] y) {{ r = {resize} y = {conv} }}",
        opset=opset,
        **used,
    )


@pytest.mark.parametrize("conv", ["Conv(r, w)", "Conv(r, w, d)"])
@pytest.mark.parametrize(
    ("resize", "opset"),
    [
        ("Resize(x, , double)", 17),
        ('Resize<mode="linear">(x, , double)', 13),
        ('Resize<coordinate_transformation_mode="asymmetric">(x, , double)', 19),
        ("Upsample(x, double)", 9),
    ],
)
def test_the_conv_moves_before(resize: str, opset: int, conv: str) -> None:
    weights: Parameters = {"d": normal(3)} if "d" in conv else {}
    model = after_resize(resize, conv=conv, opset=opset, double=DOUBLE, **weights)
    operator = resize.partition("(")[0].partition("<")[0]
    assert_rewritten(model, NAME, ["Conv", operator])


@pytest.mark.parametrize(
    ("resize", "opset"),
    [
        ("Resize(x, double)", 10),
        ("Upsample<scales=[1.0, 1.0, 2.0, 2.0]>(x)", 7),
        (
            'Resize<mode="linear", coordinate_transformation_mode="align_corners">'
            "(x, region, double)",
            11,
        ),
        ("Resize(x, , , sizes)", 17),
        ("Resize<axes=[2,3]>(x, , , space)", 18),
    ],
)
def test_variants_that_the_reference_evaluator_lacks(resize: str, opset: int) -> None:
    numbers = {
        "double": DOUBLE,
        "region": np.zeros(8, np.float32),
        "sizes": np.array([2, 8, 10, 12], np.int64),
        "space": np.array([10, 12], np.int64),
    }
    weights = named_in(resize, numbers)
    weights |= {"double": DOUBLE} if "double" in resize else {}
    model = after_resize(resize, opset=opset, **weights)
    dimension = model.graph.input[0].type.tensor_type.shape.dim[0]
    dimension.dim_value = 2
    result = run_pass(model, NAME)
    assert operators(result.to_proto()) == ["Conv", resize.partition("(")[0].partition("<")[0]]
    feeds = draw_feeds(model)
    (expected,), (actual,) = run_plain(model, feeds), run_plain(result.to_proto(), feeds)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_free_sizes_with_constant_scales() -> None:
    model = after_resize("Resize(x, , double)", size="H,W", double=DOUBLE)
    assert_rewritten(model, NAME, ["Conv", "Resize"])


@pytest.mark.parametrize(
    ("resize", "reason"),
    [
        ("Resize(x, , double) z = Neg(r)", Common.SHARED),
        ('Resize<mode="cubic">(x, , double)', Why.NOT_AVERAGING),
        (
            'Resize<coordinate_transformation_mode="tf_crop_and_resize">(x, region, double)',
            Common.CROPPED,
        ),
        ("Resize(x, , half)", Common.NO_GAIN),
        ("Resize(x, , deep)", Why.OTHER_AXES),
        ("Resize(x, , same)", Common.NO_GAIN),
    ],
)
def test_refusals(resize: str, reason: Why) -> None:
    numbers = {
        "double": DOUBLE,
        "half": np.array([1, 1, 0.5, 0.5], np.float32),
        "same": np.ones(4, np.float32),
        "deep": np.array([1, 2, 2, 2], np.float32),
        "region": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32),
    }
    weights = named_in(resize, numbers)
    if "deep" in resize:
        weights["w"] = normal(3, 16, 1, 1)
    assert_refused(after_resize(resize, **weights), NAME, reason)


def test_refuses_unknown_sizes() -> None:
    model = build(
        "(float[N,8,H,W] x, int64[4] sizes) => (float[N,3,h,l] y) "
        "{ r = Resize(x, , , sizes) y = Conv(r, w) }",
        w=normal(3, 8, 1, 1),
    )
    record = run_pass(model, NAME).record
    assert [refusal.reason for refusal in record.refusals] in (["SIZE_UNKNOWN"], ["OTHER_AXES"])


def test_refuses_to_upsample_many_more_channels() -> None:
    model = after_resize("Resize(x, , double)", double=DOUBLE, w=normal(64, 1, 1, 1), size="5,6")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    assert_refused(model, NAME, Common.NO_GAIN)


@pytest.mark.parametrize("conv", ["Conv<pads=[1,1,1,1]>(r, w)", "Conv<strides=[2,2]>(r, w)"])
def test_other_convs_stay_without_a_refusal(conv: str) -> None:
    record = run_pass(after_resize("Resize(x, , double)", conv=conv, double=DOUBLE), NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_a_global_pool_goes_before_the_conv_first() -> None:
    """Moved before the Resize, the Conv would be out of the pool's reach."""
    model = build(
        "(float[N,8,5,6] x) => (float[N,3,1,1] y) "
        "{ r = Resize(x, , double) c = Conv(r, w) y = GlobalAveragePool(c) }",
        w=normal(3, 8, 1, 1),
        double=DOUBLE,
    )
    assert_refused(model, NAME, Why.POOLED)
    result = run_pass(model, NAME, "pool-before-conv")
    assert operators(result.to_proto()) == ["Resize", "GlobalAveragePool", "Conv"]
