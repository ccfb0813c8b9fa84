"""A MaxPool that pads is proven equal to one behind a Pad with −∞, whatever comes before them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.normal_forms.padded_pools import with_pads_in_pools
from bnfold.proof.certificates.windows import Window
from bnfold.proof.float64.evaluation import Truth64
from tests.support.graphs import Parameters, batch_norm, named_in, normal, operators
from tests.support.windows import window

MAP = "(float[2,3,7,9] x) => (float[a,b,c,d] y)"
NUMBERS: Parameters = {
    "around": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "after": np.array([0, 0, 0, 0, 0, 0, 1, 1]),
    "less": np.array([0, 0, -1, 0, 0, 0, 1, 0]),
    "channel": np.array([0, 1, 1, 1, 0, 0, 1, 1]),
    "two": np.array([1, 1, 0, 1]),
    "axes": np.array([-2, 3]),
    "least": np.array(-np.inf, np.float32),
    "zero": np.array(0, np.float32),
    "lowest": np.array(np.finfo(np.float32).min, np.float32),
    "w": normal(4, 3, 3, 3),
    **{"bn_" + name: array for name, array in batch_norm(4).items()},
}
SOME = "MaxPool<kernel_shape=[3,3], strides=[2,2]>"


def moved(text: str) -> Window:
    return with_pads_in_pools(window(MAP, text, text, named_in(text, NUMBERS)))


@pytest.mark.parametrize(
    ("text", "pads"),
    [
        (f"p = Pad(x, around, least) y = {SOME}(p)", [1, 1, 1, 1]),
        (f"p = Pad(x, after, least) y = {SOME}(p)", [0, 0, 1, 1]),
        (f'p = Pad<mode="constant">(x, two, least, axes) y = {SOME}(p)', [1, 1, 0, 1]),
        ("p = Pad(x, after, least) y = MaxPool<kernel_shape=[3,3], pads=[0,1,1,0]>(p)",
         [0, 1, 2, 1]),
        (f"p = Pad(x, around, zero) y = {SOME}(p)", None),
        (f"p = Pad(x, around, lowest) y = {SOME}(p)", None),
        (f"p = Pad(x, around) y = {SOME}(p)", None),
        (f'p = Pad<mode="edge">(x, around, least) y = {SOME}(p)', None),
        (f"p = Pad(x, less, least) y = {SOME}(p)", None),
        ("p = Pad(x, less, least) y = MaxPool<kernel_shape=[3,3], pads=[1,0,0,0]>(p)", None),
        (f"p = Pad(x, channel, least) y = {SOME}(p)", None),
        ("p = Pad(x, around, least) y = MaxPool<kernel_shape=[1,3]>(p)", None),
        ("p = Pad(x, around, least) y = MaxPool<kernel_shape=[3,3], pads=[0,2,0,0]>(p)", None),
        ("p = Pad(x, around, least) y = MaxPool<kernel_shape=[3,3], ceil_mode=1>(p)", None),
        ("p = Pad(x, around, least) y = MaxPool<kernel_shape=[3,3], dilations=[1,2]>(p)", None),
        ('p = Pad(x, around, least) y = MaxPool<kernel_shape=[3,3], auto_pad="SAME_UPPER">(p)',
         None),
        ("p = Pad(x, around, least) y, i = MaxPool<kernel_shape=[3,3]>(p)", None),
        (f"p = Pad(x, around, least) m = {SOME}(p) a = MaxPool<kernel_shape=[9,11]>(p) "
         "y = Add(m, a)", None),
        ("p = Pad(x, around, least) y = AveragePool<kernel_shape=[3,3]>(p)", None),
    ],
)  # fmt: skip
def test_pads_that_a_pool_takes_in(text: str, pads: list[int] | None) -> None:
    changed = moved(text)
    if pads is None:
        assert "Pad" in changed.operators
        return
    assert operators(changed.before) == ["MaxPool"]
    (node,) = changed.before.graph.node
    assert [list(each.ints) for each in node.attribute if each.name == "pads"] == [pads]
    feeds = {"x": normal(2, 3, 7, 9) - 5}
    before = window(MAP, text, text, named_in(text, NUMBERS)).before
    old, new = (Truth64(model).outputs(feeds)["y"] for model in (before, changed.before))
    assert np.array_equal(old, new)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=2),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
    st.lists(st.integers(0, 1), min_size=4, max_size=4),
)
def test_random_pads(kernel: list[int], added: list[int], own: list[int]) -> None:
    size = ",".join(map(str, kernel))
    pads = [min(pad, side - 1) for pad, side in zip(own, kernel * 2, strict=True)]
    text = ("p = Pad(x, pads, least) y = MaxPool<kernel_shape=[{}], pads=[{}]>(p)").format(
        size, ",".join(map(str, pads))
    )
    weights = {"pads": np.array([0, 0, *added[:2], 0, 0, *added[2:]]), "least": NUMBERS["least"]}
    pair = window(MAP, text, text, weights)
    changed = with_pads_in_pools(pair)
    fits = all(a + b < side for a, b, side in zip(added, pads, kernel * 2, strict=True))
    assert ("Pad" not in changed.operators) == fits
    feeds = {"x": normal(2, 3, 7, 9) - 5}
    old, new = (Truth64(model).outputs(feeds)["y"] for model in (pair.before, changed.before))
    assert np.array_equal(old, new)


def test_a_conv_and_a_batch_normalization_before_them_are_folded() -> None:
    norm = "BatchNormalization(c, bn_s, bn_b, bn_m, bn_v)"
    text = f"c = Conv(x, w) n = {norm} p = Pad(n, around, least) y = {SOME}(p)"
    scale = NUMBERS["bn_s"] / np.sqrt(NUMBERS["bn_v"] + np.float32(1e-5))
    weights: Parameters = {
        "w": NUMBERS["w"] * scale.reshape(4, 1, 1, 1),
        "b": NUMBERS["bn_b"] - NUMBERS["bn_m"] * scale,
    }
    pool = SOME.replace("strides", "pads=[1,1,1,1], strides")
    pair = window(MAP, text, f"c = Conv(x, w, b) y = {pool}(c)", named_in(text, NUMBERS), weights)
    assert certify(pair).verdict == "certified"
    weights["b"][2] += 0.1
    wrong = window(MAP, text, f"c = Conv(x, w, b) y = {pool}(c)", named_in(text, NUMBERS), weights)
    assert certify(wrong).verdict != "certified"
