"""Interpolation by whole scales."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.sizes.resizing import whole_scales, with_scales
from tests.support.graphs import Array, Parameters, build, normal
from tests.support.windows import window

MAP = "(float[1,4,{0},{0}] x) => (float[1,c,h,w] y)"
SCALES = np.array([1, 1, 2, 2], np.float32)


def scales_of(text: str, *, opset: int = 17, **constants: Array) -> list[int]:
    weights: Parameters = dict(constants)
    model = build(f"{MAP.format(9)} {{ y = {text} }}", opset=opset, **weights)
    return whole_scales(model.graph.node[0], constants)


def test_whole_scales() -> None:
    assert scales_of("Resize(x, , s)", s=SCALES) == [1, 1, 2, 2]
    assert scales_of("Resize(x, s)", opset=10, s=SCALES) == [1, 1, 2, 2]
    assert scales_of("Upsample(x, s)", opset=9, s=SCALES) == [1, 1, 2, 2]
    assert scales_of("Upsample<scales=[1.0,1.0,2.0,3.0]>(x)", opset=7) == [1, 1, 2, 3]


@pytest.mark.parametrize(
    "attributes",
    [
        'coordinate_transformation_mode="align_corners"',
        'coordinate_transformation_mode="tf_crop_and_resize"',
        'coordinate_transformation_mode="half_pixel_symmetric"',
        "antialias=1",
        "axes=[0,1,2,3]",
    ],
)
def test_what_depends_on_the_size_has_none(attributes: str) -> None:
    assert scales_of(f"Resize<{attributes}>(x, , s)", opset=19, s=SCALES) == []


@pytest.mark.parametrize(
    "scales", [[1, 1, 1.5, 2], [1, 2, 2, 2], [2, 1, 2, 2], [1, 1, 0.5, 0.5], [1, 1, 0, 2]]
)
def test_other_scales_are_none(scales: list[float]) -> None:
    assert scales_of("Resize(x, , s)", s=np.array(scales, np.float32)) == []
    assert scales_of("Resize(x, , s)") == []


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("to", ["(x, , s)", "(x, , , z)"])
def test_a_conv_before_a_large_resize_is_proven_at_a_small_size(mode: str, to: str) -> None:
    weights = {
        "w": normal(4, 4, 1, 1),
        "b": normal(4),
        "s": SCALES,
        "z": np.array([1, 4, 224, 224]),
    }
    before = f'a = Resize<mode="{mode}">{to} y = Conv(a, w, b)'
    after = f'a = Conv(x, w, b) y = Resize<mode="{mode}">{to.replace("x", "a")}'
    pair = window(MAP.format(112), before, after, weights)
    pair.after.graph.value_info.add().CopyFrom(pair.after.graph.input[0])
    pair.after.graph.value_info[0].name = "a"
    found = certify(pair)
    assert (found.verdict, found.kind) == ("certified", "linear")
    assert found.shapes[0]["x"][2] < 8


def test_a_large_resize_by_other_scales_is_found() -> None:
    weights = {"s": SCALES, "t": np.array([1, 1, 2, 3], np.float32), "w": normal(4, 4, 1, 1)}
    before, after = "a = Resize(x, , s) y = Conv(a, w)", "a = Conv(x, w) y = Resize(a, , t)"
    assert certify(window(MAP.format(112), before, after, weights)).verdict == "differs"
    after = 'a = Conv(x, w) y = Resize<mode="linear">(a, , s)'
    assert certify(window(MAP.format(112), before, after, weights)).verdict == "differs"
    after = 'a = Conv(x, w) y = Resize<nearest_mode="ceil">(a, , s)'
    assert certify(window(MAP.format(112), before, after, weights)).verdict == "differs"


@pytest.mark.parametrize("size", [112, 100])
def test_sizes_become_scales_where_these_are_whole(size: int) -> None:
    sizes = {"z": np.array([1, 4, 224, 224])}
    pair = window(MAP.format(size), "y = Resize(x, , , z)", "y = Relu(x)", sizes)
    (node,) = with_scales(pair).before.graph.node
    assert len(node.input) == (3 if size == 112 else 4)


def test_sizes_that_keep_proportions_stay() -> None:
    resize = 'Resize<keep_aspect_ratio_policy="not_larger">(x, , , z)'
    sizes = {"z": np.array([1, 4, 224, 448])}
    pair = window(MAP.format(112), f"y = {resize}", "y = Relu(x)", sizes, opset=19)
    (node,) = with_scales(pair).before.graph.node
    assert len(node.input) == 4
