"""One element of each window in place of the largest."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfold.proof.certificates.taps import tapped, with_pools_first
from bnfold.proof.float64.evaluation import Truth64
from tests.support.graphs import Parameters, batch_norm, build, normal, operators
from tests.support.windows import window

MAP = "(float[N,4,H,W] x) => (float[N,c,h,w] y)"
POOL = "MaxPool<kernel_shape=[3,2], pads=[1,0,1,1], strides=[2,1], ceil_mode=1>"


def test_the_largest_tap_is_the_maximum() -> None:
    pair = window(MAP, f"y = {POOL}(x)", f"y = {POOL}(x)")
    windows = tapped(pair)
    assert windows is not None
    feeds = {"x": normal(2, 4, 5, 6)}
    taps = [Truth64(each.before).outputs(feeds)["y"] for each in windows]
    assert len(taps) == 6
    assert np.array_equal(np.nanmax(taps, axis=0), Truth64(pair.before).outputs(feeds)["y"])


@pytest.mark.parametrize(
    ("after", "is_right"),
    [
        ("y = Mul(p, g)", True),
        ("y = Mul(p, n)", False),
        ("a = Mul(p, g) y = Mul(a, n)", False),
        ("a = Mul(p, g) y = Add(a, n)", True),
        ("y = Sub(p, n)", True),
        ("y = Sub(n, p)", False),
        ("y = Div(p, g)", True),
        ("y = Div(g, p)", False),
        ("y = Div(p, o)", False),
        ("y = Add(p, p)", False),
        ("y = Conv(p, w)", False),
        ("y = MaxPool<kernel_shape=[2,2]>(p)", False),
        ("y = Dropout(p, r, t)", False),
        ("y = BatchNormalization(p, s, b, m, v)", False),
        ("y = BatchNormalization<training_mode=1>(p, z, b, m, v)", False),
    ],
)
def test_what_comes_after_a_pool_must_increase(after: str, is_right: bool) -> None:
    positive = np.abs(normal(4, 1, 1)) + np.float32(0.1)
    weights = {"g": positive, "n": -positive, "w": normal(4, 4, 1, 1), **batch_norm(4)}
    weights["o"] = positive * np.array([1, 0, 1, 1], np.float32).reshape(4, 1, 1)
    weights |= {"z": positive.reshape(-1), "r": np.array(0.5, np.float32), "t": np.array(True)}
    pair = window(MAP, f"p = {POOL}(x) {after}", f"p = {POOL}(x) {after}", weights)
    assert (tapped(pair) is not None) == is_right


def test_other_kernels_and_indices_have_no_taps() -> None:
    other = POOL.replace("3,2", "2,3")
    assert tapped(window(MAP, f"y = {POOL}(x)", f"y = {other}(x)")) is None
    assert tapped(window(MAP, "y = Relu(x)", "y = Relu(x)")) is None
    assert tapped(window(MAP, f"y, i = {POOL}(x)", f"y, i = {POOL}(x)")) is None


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("mode", [0, 1])
def test_a_pool_moves_before_what_increases(sign: int, mode: int) -> None:
    weights = batch_norm(4)
    weights["s"] = sign * np.abs(weights["s"])
    norm = f"BatchNormalization<training_mode={mode}>(x, s, b, m, v)"
    pair = window(MAP, f"n = {norm} y = {POOL}(n)", "y = Relu(x)", weights)
    moved = with_pools_first(pair)
    is_moved = operators(moved.before) == ["MaxPool", "BatchNormalization"]
    assert is_moved == (sign > 0 and not mode)
    if is_moved:
        feeds = {"x": normal(2, 4, 5, 6)}
        old, new = (Truth64(model).outputs(feeds)["y"] for model in (pair.before, moved.before))
        assert np.array_equal(old, new)


def test_a_pool_stays_behind_what_varies_over_the_map_or_is_read_elsewhere() -> None:
    weights: Parameters = {"g": np.abs(normal(5, 6)), "k": np.array(2, np.float32)}
    for text in (f"n = Mul(x, g) y = {POOL}(n)", f"n = Mul(x, k) p = {POOL}(n) y = Add(n, p)"):
        model = build(f"(float[N,4,5,6] x) => (float[N,c,h,w] y) {{ {text} }}", **weights)
        pair = window("(float[N,4,5,6] x) => (float[N,c,h,w] y)", text, text, weights)
        assert operators(with_pools_first(pair).before) == operators(model)


SAME = "MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>"


def test_many_pools_move_before_many_maps() -> None:
    """Their names stay short, and so do the node list and the descriptions of values."""
    text = " ".join(
        f"m{n} = Mul({f'p{n - 1}' if n else 'x'}, k) p{n} = {SAME}(m{n})" for n in range(40)
    )
    pair = window(MAP, f"{text} y = Relu(p39)", "y = Relu(x)", {"k": np.array([1.01], np.float32)})
    moved = with_pools_first(pair).before
    assert operators(moved) == [*["MaxPool"] * 40, *["Mul"] * 40, "Relu"]
    assert max(len(name) for node in moved.graph.node for name in node.output) < 20
    assert len(moved.graph.value_info) == len(pair.before.graph.value_info)
    onnx.checker.check_model(moved)


@pytest.mark.parametrize(
    ("pool", "is_moved"),
    [
        ("MaxPool<kernel_shape=[2,2], pads=[1,1,1,1], dilations=[3,3]>", False),
        ("MaxPool<kernel_shape=[2,2], dilations=[2,2]>", True),
        ("MaxPool<kernel_shape=[2,2], pads=[1,1,1,1]>", True),
    ],
)
def test_a_dilated_pool_may_read_padding_alone(pool: str, is_moved: bool) -> None:
    """Then it gives the least number, and half of that if it is scaled first."""
    weights: Parameters = {"k": np.array([0.5], np.float32)}
    text = f"m = Mul(x, k) y = {pool}(m)"
    moved = with_pools_first(window(MAP, text, "y = Relu(x)", weights))
    assert (operators(moved.before) == ["MaxPool", "Mul"]) == is_moved
