"""What is cropped is proven where something is left, and each tap counts after it."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.windows import Window
from tests.support.graphs import Parameters, build

pytestmark = pytest.mark.usefixtures("without_weights")

CROPPED = [
    "t = ConvTranspose<pads=[2,2]>(x, w) y = Conv<pads=[0,1]>(t, v)",
    "t = ConvTranspose<pads=[2,2]>(x, w) y = Pad(t, p)",
    "t = ConvTranspose<pads=[0,4]>(x, w) y = AveragePool<kernel_shape=[2], pads=[1,1]>(t)",
    "t = ConvTranspose<pads=[5,0], strides=[2]>(x, w) y = MaxPool<kernel_shape=[2], pads=[1,1]>(t)",
    "t = ConvTranspose<pads=[2,2]>(x, w) u = ConvTranspose<pads=[1,3]>(t, v) y = Pad(u, p)",
    "t = Conv(x, k) u = ConvTranspose<pads=[2,2]>(t, w) y = Conv<pads=[1,1]>(u, v)",
]


@pytest.mark.parametrize("size", ["L", "32"])
@pytest.mark.parametrize("body", CROPPED)
@pytest.mark.usefixtures("without_weights")
def test_what_is_cropped_is_proven_where_something_is_left(body: str, size: str) -> None:
    """Cropped to nothing, a map is padded to zeros by any weights."""

    def model(scale: float, after: float = 1.0) -> onnx.ModelProto:
        weights: Parameters = {
            "w": np.full((1, 1, 1), scale, np.float32),
            "v": np.full((1, 1, 1), after, np.float32),
            "k": np.arange(1, 8, dtype=np.float32).reshape(1, 1, 7),
            "p": np.array([0, 0, 1, 0, 0, 0]),
        }
        read = {name: content for name, content in weights.items() if f" {name})" in body}
        return build(f"(float[N,1,{size}] x) => (float[N,1,M] y) {{ {body} }}", **read)

    assert certify(Window(model(2), model(3))).verdict == "differs"
    if "v)" in body:
        assert certify(Window(model(2, 3), model(3, 2))).verdict == "certified"


@pytest.mark.parametrize("tap", range(3))
@pytest.mark.parametrize("pads", ["[1,0]", "[2,0]", "[2,1]", "[0,2]"])
@pytest.mark.parametrize(
    "crop",
    ["Slice(x, one, far, two)", "Slice(x, three, far, two)", "ConvTranspose<pads=[2,1]>(x, u)"],
)
@pytest.mark.usefixtures("without_weights")
def test_each_tap_counts_after_a_crop(crop: str, pads: str, tap: int) -> None:
    """What is padded where something has been cropped is beyond the border, though data were there.

    A size at which one tap reads nothing but padding does not show that tap.
    """
    taps = np.array([[[1, 2, 3]]], np.float32)
    changed = taps.copy()
    changed[..., tap] += 1
    constants: Parameters = {
        "u": np.ones((1, 1, 1), np.float32),
        "one": np.array([1]),
        "two": np.array([2]),
        "three": np.array([3]),
        "far": np.array([2**40]),
    }
    read = {
        name: content for name, content in constants.items() if name in re.findall(r"\w+", crop)
    }
    models = [
        build(
            f"(float[N,1,L] x) => (float[N,1,M] y) {{ t = {crop} y = Conv<pads={pads}>(t, w) }}",
            w=content,
            **read,
        )
        for content in (taps, changed)
    ]
    assert certify(Window(*models)).verdict == "differs"
    assert certify(Window(models[0], models[0])).verdict == "certified"
