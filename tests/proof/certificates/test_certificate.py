"""Certificates: right windows are proven, wrong ones found, and the bounds hold as stated."""

from __future__ import annotations

import itertools
import os
import re
import signal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.errors import BnfoldError
from bnfold.proof.certificates import certificate as module
from bnfold.proof.certificates import linear
from bnfold.proof.certificates.certificate import certify, certify_any
from bnfold.proof.certificates.in_turn import certify_all
from bnfold.proof.certificates.linear import bound_factor, norm_factor
from bnfold.proof.certificates.windows import NotShown, Window
from bnfold.proof.float64.evaluation import NoTruth
from bnfold.record.data import Certificate
from tests.support.graphs import Array, Parameters, batch_norm, build, normal
from tests.support.windows import affine_of, scaled, window

pytestmark = pytest.mark.usefixtures("without_weights")

MAP = "(float[N,4,H,W] x) => (float[N,c,h,w] y)"
ROW = "(float[N,4] x) => (float[N,m] y)"
POOL = "MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>"


def certified(found: Certificate, kind: str) -> Certificate:
    assert (found.verdict, found.kind) == ("certified", kind), found
    return found


def differs(found: Certificate) -> Certificate:
    assert found.verdict == "differs", found
    assert found.worst is not None
    return found


def one(value: float, dtype: Any = np.float32) -> Array:
    return np.array(value, dtype)


# --- Linear ---------------------------------------------------------------------------------------


def folded(
    rank: int = 2,
    *,
    group: int = 1,
    attributes: str = "",
    dtype: Any = np.float32,
    name: str = "float",
    size: str = "",
    seed: int = 0,
    **changed: Array,
) -> Window:
    """Return a Conv with a BatchNormalization, and the Conv that it folds to, changed."""
    old = {"k": normal(8, 4 // group, *[3] * rank, seed=seed, dtype=dtype)}
    old |= batch_norm(8, seed=seed, dtype=dtype)
    scale, shift = affine_of(old)
    new = {"k2": scaled(old["k"], scale), "d": shift.astype(dtype)} | changed
    sizes = ",".join(size or f"S{axis}" for axis in range(rank))
    conv = f"Conv<group={group}{', ' if attributes else ''}{attributes}>"
    return window(
        f"({name}[N,4,{sizes}] x) => ({name}[N,8,{','.join('t' * rank)}] y)",
        f"c = {conv}(x, k) y = BatchNormalization(c, s, b, m, v)",
        f"y = {conv}(x, k2, d)",
        old,
        new,
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("size", ["", "9"])
def test_a_fold_into_conv(rank: int, group: int, size: str) -> None:
    found = certified(certify(folded(rank, group=group, size=size)), "linear")
    assert found.bound is not None
    assert 1e-8 < found.bound < 2e-6
    assert found.doubt is not None
    assert found.doubt <= 1e-8


@pytest.mark.parametrize(
    "attributes",
    [
        "strides=[2,3]",
        "dilations=[2,1]",
        "pads=[1,0,2,1]",
        'auto_pad="SAME_UPPER", strides=[2,2]',
        'auto_pad="SAME_LOWER"',
        "strides=[8,8], pads=[1,1,1,1]",
    ],
)
@pytest.mark.parametrize("size", ["", "40"])
def test_attributes_of_conv(attributes: str, size: str) -> None:
    found = certified(certify(folded(attributes=attributes, size=size)), "linear")
    assert bool(found.note) == bool(size)


@pytest.mark.parametrize(
    ("dtype", "name", "most"),
    [
        (np.float16, "float16", 2e-2),
        (ml_dtypes.bfloat16, "bfloat16", 2e-1),
        (np.float64, "double", 1e-14),
    ],
)
def test_types(dtype: Any, name: str, most: float) -> None:
    found = certified(certify(folded(dtype=dtype, name=name)), "linear")
    assert found.bound is not None
    assert found.bound < most


@pytest.mark.parametrize("opset", [9, 11, 13, 15, 18, 21])
def test_opsets(opset: int) -> None:
    weights = {"g": normal(4, 1, 1), "w": normal(3, 4, 1, 1)}
    others = {"w2": scaled(weights["w"], weights["g"].reshape(-1), 1)}
    found = certify(
        window(MAP, "a = Mul(x, g) y = Conv(a, w)", "y = Conv(x, w2)", weights, others, opset=opset)
    )
    certified(found, "linear")


@pytest.mark.parametrize(
    "attributes",
    [
        "output_padding=[1,1]",
        'auto_pad="SAME_UPPER"',
        'auto_pad="SAME_LOWER"',
        "output_shape=[4,5]",
    ],
)
def test_conv_transpose(attributes: str) -> None:
    old = {"k": normal(4, 3, 3, 3), **batch_norm(6)}
    scale, shift = affine_of(old)
    new = np.concatenate([scaled(old["k"][:2], scale[:3], 1), scaled(old["k"][2:], scale[3:], 1)])
    conv = f"ConvTranspose<group=2, strides=[2,2], {attributes}>"
    after = f"y = {conv}(x, k2, d)"
    before = f"c = {conv}(x, k) y = BatchNormalization(c, s, b, m, v)"
    others = {"k2": new, "d": shift.astype(np.float32)}
    certified(certify(window(MAP, before, after, old, others)), "linear")
    others["k2"] = scaled(old["k"], scale[:3], 1)  # of the wrong group
    differs(certify(window(MAP, before, after, old, others)))


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(transposed: int) -> None:
    w, g = normal(4, 3), normal(3)
    new = scaled(w, g, 1)
    if transposed:
        w, new = w.T.copy(), new.T.copy()
    gemm = f"Gemm<transB={transposed}>"
    weights, others = {"w": w, "g": g, "d": normal(3)}, {"w2": new, "d2": scaled(normal(3), g)}
    before, after = f"h = {gemm}(x, w, d) y = Mul(h, g)", f"y = {gemm}(x, w2, d2)"
    certified(certify(window(ROW, before, after, weights, others)), "linear")


@pytest.mark.parametrize("sizes", ["N,4", "N,T,4", "N,7,4", "2,3,5,4", "4"])
def test_matmul(sizes: str) -> None:
    w, g = normal(4, 3), normal(3)
    text = f"(float[{sizes}] x) => (float[{','.join('m' * (sizes.count(',') + 1))}] y)"
    before, after = "h = MatMul(x, w) y = Mul(h, g)", "y = MatMul(x, w2)"
    others = {"w2": scaled(w, g, 1)}
    certified(certify(window(text, before, after, {"w": w, "g": g}, others)), "linear")


@pytest.mark.parametrize("scale", [1e-8, 1e8, 1e-30])
@pytest.mark.parametrize("seed", range(3))
def test_extreme_scales_are_no_difference(scale: float, seed: int) -> None:
    old = {"k": normal(8, 4, 3, 3, seed=seed) * np.float32(scale), **batch_norm(8, seed=seed)}
    factor, shift = affine_of(old)
    new = {"k2": scaled(old["k"], factor), "d": shift.astype(np.float32)}
    before = "c = Conv(x, k) y = BatchNormalization(c, s, b, m, v)"
    certified(certify(window(MAP, before, "y = Conv(x, k2, d)", old, new)), "linear")


@pytest.mark.parametrize("inputs", [5, 480])
def test_weights_that_become_too_small_are_set_to_zero(inputs: int) -> None:
    """There are as many of them as inputs, of which there may be many more than outputs."""
    weights = np.full((inputs, 2), 1.9 * 2.0**-126, np.float32)
    weights[:, 1] = 1
    half = np.full(1, 0.5, np.float32)
    new = weights / 2
    new[:, 0] = 0
    text = f"(float[N,{inputs}] x) => (float[N,m] y)"
    before, after = "h = Mul(x, half) y = MatMul(h, w)", "y = MatMul(x, w2)"
    found = window(text, before, after, {"w": weights, "half": half}, {"w2": new})
    certified(certify(found), "linear")
    wrong = window(text, before, after, {"w": weights * 1000, "half": half}, {"w2": new * 1000})
    differs(certify(wrong))


def test_zero_rows_subnormal_weights_and_cancelling_biases_are_no_difference() -> None:
    old = {"k": normal(8, 4, 3, 3), **batch_norm(8)}
    old["k"][0], old["k"][1] = 0, old["k"][1] * np.float32(1e-40)
    old["b"][:4] = (old["m"] * affine_of(old)[0])[:4].astype(np.float32)
    factor, shift = affine_of(old)
    new = {"k2": scaled(old["k"], factor), "d": shift.astype(np.float32)}
    before = "c = Conv(x, k) y = BatchNormalization(c, s, b, m, v)"
    certified(certify(window(MAP, before, "y = Conv(x, k2, d)", old, new)), "linear")


def test_where_large_addends_cancel_their_rounding_is_no_difference() -> None:
    """As a chain of rewrites leaves it, which round a sum each."""
    old = {"v": normal(4, 1, 1, 1), "w": normal(4, 1, 1, 1, seed=1)}
    total = old["v"] + old["w"]
    old["g"] = (-total * np.float32(1 + 3e-5)).reshape(4, 1, 1)
    conv = "Conv<group=4>"
    before = f"a = {conv}(x, v) b = {conv}(x, w) c = Add(a, b) d = Mul(x, g) y = Add(c, d)"
    new = {"k": total + old["g"].reshape(total.shape)}
    found = certified(certify(window(MAP, before, f"y = {conv}(x, k)", old, new)), "linear")
    assert found.bound is not None
    assert found.bound > 1e-4  # it says so
    new["k"] = new["k"] * np.float32(1.5)
    differs(certify(window(MAP, before, f"y = {conv}(x, k)", old, new)))


# --- Other kinds ----------------------------------------------------------------------------------


def test_constants() -> None:
    weights = {"p": normal(4), "q": normal(4)}
    others = {"r": weights["p"] + weights["q"]}
    right = window(ROW, "k = Add(p, q) y = Mul(x, k)", "y = Mul(x, r)", weights, others)
    certified(certify(right), "constant")
    others["r"][2] = np.nextafter(others["r"][2], np.float32(9))
    wrong = window(ROW, "k = Add(p, q) y = Mul(x, k)", "y = Mul(x, r)", weights, others)
    assert certify(wrong).kind == "linear"  # one rounding


COPIES = [
    ("y = Dropout(x)", "y = Identity(x)", "copying"),
    (
        "y = Transpose<perm=[0,1,3,2]>(x)",
        "a = Transpose<perm=[0,3,2,1]>(x) y = Transpose<perm=[0,3,1,2]>(a)",
        "constant",
    ),
    ("y = Concat<axis=1>(x, x)", "y = Tile(x, r)", "copying"),
    ("a = Flatten(x) y = Identity(a)", "y = Reshape(x, f)", "copying"),
]


@pytest.mark.parametrize(("before", "after", "kind"), COPIES)
@pytest.mark.parametrize("name", ["float", "float16", "double"])
def test_copies(before: str, after: str, kind: str, name: str) -> None:
    weights = {"r": np.array([1, 2, 1, 1]), "f": np.array([0, -1])}
    text = f"({name}[N,4,H,W] x) => ({name}[n] y)"
    certified(certify(window(text, before, after, weights)), kind)


MONOTONE = ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "HardSigmoid", "Softplus", "Softsign"]
MONOTONE += ["Erf", "Selu", "Celu", "Floor", "Round", "Sign", "Ceil", "Atan", "Exp"]


@pytest.mark.parametrize("function", MONOTONE)
def test_a_monotone_function_commutes_with_a_pool(function: str) -> None:
    before, after = f"a = {function}(x) y = {POOL}(a)", f"a = {POOL}(x) y = {function}(a)"
    text = "(float[N,1,L,W] x) => (float[N,c,l,w] y)"
    certified(certify(window(text, before, after)), "selection")


@pytest.mark.parametrize("name", ["float", "double", "float16"])
@pytest.mark.parametrize(
    ("before", "low", "high"),
    [("a = Max(x, l) y = Min(h, a)", -1, 2), ("a = Min(x, l) y = Max(a, h)", 2, 2)],
)
def test_the_larger_of_a_value_and_a_number_is_a_clip(
    before: str, low: float, high: float, name: str
) -> None:
    dtype = np.dtype({"float": "f4", "double": "f8", "float16": "f2"}[name])
    text = MAP.replace("float", name)
    old = {"l": np.array(-1, dtype), "h": np.array(2, dtype)}
    for wrong in (0, 0.125):
        new = {"p": np.array(low, dtype), "q": np.array(high + wrong, dtype)}
        found = certify(window(text, before, "y = Clip(x, p, q)", old, new))
        _ = differs(found) if wrong else certified(found, "selection")


def test_what_is_larger_than_other_numbers_for_other_elements_is_no_clip() -> None:
    weights = {"l": np.arange(4, dtype=np.float32).reshape(4, 1, 1), "p": np.array(0, np.float32)}
    differs(certify(window(MAP, "y = Max(x, l)", "y = Clip(x, p)", weights, weights)))
    wide = {**weights, "l": np.zeros((1,) * 5, np.float32)}
    text = "(float[N,4,H,W] x) => (float y)"
    assert certify(window(text, "y = Max(x, l)", "y = Clip(x, p)", wide, wide)).verdict == "differs"


@pytest.mark.parametrize("name", ["float16", "bfloat16", "double"])
def test_selection_in_other_types(name: str) -> None:
    before, after = f"a = Elu(x) y = {POOL}(a)", f"a = {POOL}(x) y = Elu(a)"
    certified(certify(window(MAP.replace("float", name), before, after)), "selection")


@pytest.mark.parametrize("name", ["int32", "int8", "bool", "int64"])
def test_copies_of_other_types(name: str) -> None:
    text = f"({name}[N,3,300] x) => ({name}[n] y)"
    before, after = "y = Concat<axis=1>(x, x)", "y = Tile(x, r)"
    weights = {"r": np.array([1, 2, 1])}
    certified(certify(window(text, before, after, weights)), "copying")
    differs(certify(window(text, before.replace("axis=1", "axis=2"), after, weights)))


def test_cascades_of_pools() -> None:
    small = "MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>"
    large = "MaxPool<kernel_shape=[5,5], pads=[2,2,2,2]>"
    before = f"a = {small}(x) y = {small}(a)"
    certified(certify(window(MAP, before, f"y = {large}(x)")), "selection")
    fixed = MAP.replace("H,W", "80,80")
    assert certify(window(fixed, before, f"y = {large}(x)")).note.startswith("at smaller sizes")
    wrong = large.replace("5,5", "5,4").replace("2,2,2,2", "2,2,2,1")
    differs(certify(window(MAP, before, f"y = {wrong}(x)")))


PADDED_POOL = "MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[{}]>"
BORDER = np.array([0, 0, 1, 0, 0, 0, 0, 2])


@pytest.mark.parametrize(
    ("function", "number", "ok", "pads"),
    [
        ("Identity(x)", -np.inf, True, "1,0,0,2"),
        ("Identity(x)", float(np.finfo(np.float32).min), True, "1,0,0,2"),
        ("Relu(x)", 0.0, True, "1,0,0,2"),
        ("Relu(x)", -3.0, True, "1,0,0,2"),
        ("Identity(x)", 0.0, False, "1,0,0,2"),
        ("Identity(x)", -1e30, False, "1,0,0,2"),
        ("Relu(x)", 1e-3, False, "1,0,0,2"),
        ("Identity(x)", -np.inf, False, "0,1,0,2"),
        ("Relu(x)", 0.0, False, "1,0,1,2"),
        ("Relu(x)", 0.0, False, "1,0,0,1"),
    ],
)
@pytest.mark.parametrize("text", [MAP, MAP.replace("H,W", "31,31")])
def test_pads_before_a_pool(function: str, number: float, ok: bool, pads: str, text: str) -> None:
    pool = PADDED_POOL.format("0,0,0,0")
    before = f"a = {function} p = Pad(a, border, number) y = {pool}(p)"
    after = f"a = {function} y = {PADDED_POOL.format(pads)}(a)"
    weights: Parameters = {"border": BORDER, "number": np.array(number, np.float32)}
    found = certify(window(text, before, after, weights))
    if ok:
        certified(found, "selection")
    else:
        differs(found)


@pytest.mark.parametrize(
    ("border", "kind"),
    [([0, 1, 1, 0, 0, -1, 0, 2], ""), ([0, 0, -1, 1, 0, 0, 0, 2], ""), (BORDER, "edge")],
)
def test_pads_of_another_kind_are_no_selection(border: list[int], kind: str) -> None:
    """A one-hot image is the same in all channels: it does not show a shift of channels."""
    pad = 'Pad<mode="edge">(a, border)' if kind else "Pad(a, border)"
    before = f"a = Relu(x) p = {pad} y = {PADDED_POOL.format('0,0,0,0')}(p)"
    after = f"a = Relu(x) y = {PADDED_POOL.format('1,0,0,2')}(a)"
    found = certify(window(MAP, before, after, {"border": np.array(border)}))
    assert found.verdict != "certified"


@pytest.mark.parametrize(("pads", "ok"), [("2,1,1,3", True), ("1,1,1,3", False)])
@pytest.mark.parametrize("size", ["H,W", "40,41"])
def test_pads_before_a_conv(pads: str, ok: bool, size: str) -> None:
    before = "p = Pad(x, border) y = Conv<strides=[2,1], pads=[1,1,1,1]>(p, w)"
    after = f"y = Conv<strides=[2,1], pads=[{pads}]>(x, w)"
    weights: Parameters = {"border": BORDER, "w": W33}
    found = certify(window(MAP.replace("H,W", size), before, after, weights))
    if ok:
        certified(found, "linear")
    else:
        differs(found)


def test_ceil_mode_counts() -> None:
    ceil = POOL.replace(">", ", ceil_mode=1>")
    before, after = f"a = Elu(x) y = {ceil}(a)", f"a = {ceil}(x) y = Elu(a)"
    certified(certify(window(MAP, before, after)), "selection")
    differs(certify(window(MAP, before, f"a = {POOL}(x) y = Elu(a)")))


def maximum(scale: Array, **changed: Array) -> Window:
    """Return a BatchNormalization after a pool, and its fold into the Conv before."""
    old = {"k": normal(4, 4, 3, 3), **batch_norm(4), "s": scale}
    factor, shift = affine_of(old)
    new = {"k2": scaled(old["k"], factor), "d": shift.astype(np.float32)} | changed
    before = f"c = Conv(x, k) p = {POOL}(c) y = BatchNormalization(p, s, b, m, v)"
    return window(MAP, before, f"c = Conv(x, k2, d) y = {POOL}(c)", old, new)


def test_a_fold_across_a_pool() -> None:
    scale = np.abs(batch_norm(4)["s"])
    certified(certify(maximum(scale)), "maximum")
    differs(certify(maximum(-scale)))
    scale[2] *= -1
    differs(certify(maximum(scale)))
    differs(certify(maximum(np.abs(scale), d=np.zeros(4, np.float32))))


# --- Wrong rewrites -------------------------------------------------------------------------------


def _right() -> dict[str, Array]:
    old = {"k": normal(8, 4, 3, 3), **batch_norm(8)}
    scale, shift = affine_of(old)
    return {"k2": scaled(old["k"], scale), "d": shift.astype(np.float32)}


def _swapped(array: Array, axis: int, one: int, other: int) -> Array:
    order = list(range(array.shape[axis]))
    order[one], order[other] = order[other], order[one]
    return np.take(array, order, axis)


def _put(array: Array, index: Any, value: Any) -> Array:
    copy = array.copy()
    copy[index] = value
    return copy


def _other_epsilon(epsilon: float) -> dict[str, Array]:
    old = {"k": normal(8, 4, 3, 3), **batch_norm(8)}
    scale, shift = affine_of(old, epsilon)
    return {"k2": scaled(old["k"], scale), "d": shift.astype(np.float32)}


K, D = _right()["k2"], _right()["d"]
WRONG_WEIGHTS: dict[str, Parameters] = {
    "all signs": {"k2": -K},
    "the sign of a channel": {"k2": _put(K, 3, -K[3])},
    "the sign of a tap": {"k2": _put(K, np.s_[:, :, 1, 1], -K[:, :, 1, 1])},
    "one weight is zero": {"k2": _put(K, (2, 1, 0, 2), 0)},
    "one weight by 0.1 %": {"k2": _put(K, (2, 1, 0, 2), K[2, 1, 0, 2] + 1e-3)},
    "all weights by 1e-5": {"k2": K * np.float32(1 + 1e-5)},
    "one channel by 1e-5": {"k2": _put(K, 5, K[5] * np.float32(1 + 1e-5))},
    "a channel is not scaled": {"k2": _put(K, 5, normal(8, 4, 3, 3)[5])},
    "inputs swapped": {"k2": _swapped(K, 1, 0, 2)},
    "outputs swapped": {"k2": _swapped(K, 0, 0, 7)},
    "rows swapped": {"k2": _swapped(K, 2, 0, 2)},
    "columns swapped": {"k2": _swapped(K, 3, 0, 1)},
    "flipped": {"k2": np.ascontiguousarray(K[:, :, ::-1, ::-1])},
    "transposed": {"k2": np.ascontiguousarray(K.swapaxes(2, 3))},
    "no bias": {"d": np.zeros_like(D)},
    "the bias of a channel": {"d": _put(D, 6, 0)},
    "bias by 1e-5": {"d": (D + np.float32(1e-4)).astype(np.float32)},
    "biases swapped": {"d": _swapped(D, 0, 1, 2)},
    "the sign of the bias": {"d": -D},
    "epsilon 1e-3": _other_epsilon(1e-3),
    "epsilon 0": _other_epsilon(0.0),
}


@pytest.mark.parametrize("case", WRONG_WEIGHTS)
@pytest.mark.parametrize("attributes", ["", "pads=[1,1,1,1]"])
def test_wrong_weights_are_found(case: str, attributes: str) -> None:
    found = differs(certify(folded(attributes=attributes, **WRONG_WEIGHTS[case])))
    assert found.worst is not None
    assert (found.worst.output, len(found.worst.index)) == ("y", 3)
    assert found.worst.before != found.worst.after


def test_the_channel_and_both_values_are_named() -> None:
    found = differs(certify(folded(d=_put(D, 6, 0))))
    assert found.worst is not None
    assert found.worst.index[0] == 6
    assert found.worst.before == pytest.approx(float(D[6]), rel=1e-6)
    assert found.worst.after == 0


W33, W11, G = normal(4, 4, 3, 3), normal(4, 4, 1, 1), normal(4, 1, 1)
WRONG: dict[str, tuple[str, str, str, dict[str, Array]]] = {
    "a border": (
        MAP,
        "y = Conv<pads=[1,1,1,1]>(x, w)",
        "y = Conv<pads=[1,1,2,0]>(x, w)",
        {"w": W33},
    ),
    "pads": (MAP, "y = Conv<pads=[1,1,1,1]>(x, w)", "y = Conv(x, w)", {"w": W33}),
    "SAME": (
        MAP,
        'y = Conv<auto_pad="SAME_UPPER",strides=[2,2]>(x, w)',
        'y = Conv<auto_pad="SAME_LOWER",strides=[2,2]>(x, w)',
        {"w": W33},
    ),
    "strides": (MAP, "y = Conv<strides=[2,1]>(x, w)", "y = Conv<strides=[1,2]>(x, w)", {"w": W33}),
    "dilations": (
        MAP,
        "y = Conv<pads=[2,2,2,2],dilations=[2,2]>(x, w)",
        "y = Conv<pads=[1,1,1,1]>(x, w)",
        {"w": W33},
    ),
    "groups": (
        MAP,
        "y = Conv<group=2>(x, w)",
        "y = Conv<group=4>(x, v)",
        {"w": normal(4, 2, 1, 1), "v": normal(4, 1, 1, 1)},
    ),
    "a shift before padding": (
        MAP,
        "a = Add(x, g) y = Conv<pads=[1,1,1,1]>(a, w)",
        "y = Conv<pads=[1,1,1,1]>(x, w, d)",
        {"g": np.ones((4, 1, 1), np.float32), "w": W33, "d": W33.sum((1, 2, 3))},
    ),
    "a negative scale before Relu": (
        MAP,
        "a = Relu(x) y = Mul(a, g)",
        "a = Mul(x, g) y = Relu(a)",
        {"g": G},
    ),
    "Abs before a pool": (MAP, f"a = {POOL}(x) y = Abs(a)", f"a = Abs(x) y = {POOL}(a)", {}),
    "Neg before a pool": (MAP, f"a = {POOL}(x) y = Neg(a)", f"a = Neg(x) y = {POOL}(a)", {}),
    "HardSwish before a pool": (
        MAP,
        f"a = {POOL}(x) y = HardSwish(a)",
        f"a = HardSwish(x) y = {POOL}(a)",
        {},
    ),
    "the kernel of a pool": (
        MAP,
        "y = MaxPool<kernel_shape=[3,3]>(x)",
        "y = MaxPool<kernel_shape=[3,3],dilations=[1,2],pads=[0,1,0,1]>(x)",
        {},
    ),
    "the mean of a border": (
        MAP,
        "y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(x)",
        "y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1],count_include_pad=1>(x)",
        {},
    ),
    "a mean for a maximum": (
        MAP,
        "y = MaxPool<kernel_shape=[2,2]>(x)",
        "y = AveragePool<kernel_shape=[2,2]>(x)",
        {},
    ),
    "the end of a slice": (
        MAP,
        "y = Slice(x, a, b, c)",
        "y = Slice(x, a, d, c)",
        {"a": np.array([0]), "b": np.array([3]), "c": np.array([2]), "d": np.array([4])},
    ),
    "halves that change places": (
        "(float[1,2000] x) => (float[1,2000] y)",
        "y = Identity(x)",
        "s, t = Split<axis=1>(x) y = Concat<axis=1>(t, s)",
        {},
    ),
    "the axis of a slice": (
        MAP,
        "y = Slice(x, a, b, c)",
        "y = Slice(x, a, b, d)",
        {"a": np.array([1]), "b": np.array([2**40]), "c": np.array([2]), "d": np.array([3])},
    ),
    "a slice from the end": (
        MAP,
        "y = Slice(x, a, b, c)",
        "y = Identity(x)",
        {"a": np.array([-30]), "b": np.array([2**40]), "c": np.array([2])},
    ),
    "a slice of the batch": (
        MAP,
        "y = Slice(x, a, b, c)",
        "y = Identity(x)",
        {"a": np.array([0]), "b": np.array([3]), "c": np.array([0])},
    ),
    "a transposition": (MAP, "y = Transpose<perm=[0,1,3,2]>(x)", "y = Identity(x)", {}),
    "two transpositions": (
        MAP,
        "y = Transpose<perm=[0,2,3,1]>(x)",
        "y = Transpose<perm=[0,3,2,1]>(x)",
        {},
    ),
    "the order of a Concat": (
        MAP,
        "a = Neg(x) y = Concat<axis=1>(a, x)",
        "a = Neg(x) y = Concat<axis=1>(x, a)",
        {},
    ),
    "an axis of a mean": (MAP, "y = ReduceMean<axes=[2]>(x)", "y = ReduceMean<axes=[3]>(x)", {}),
    "the order of a Split": (MAP, "y, z = Split<axis=1>(x)", "z, y = Split<axis=1>(x)", {}),
    "another constant": (
        ROW,
        "y = Add(x, g)",
        "y = Add(x, h)",
        {"g": normal(4), "h": normal(4) + np.float32(1e-4)},
    ),
    "a first element for a constant": (
        "(float[1,4] x) => (float[1,4] y)",
        "y = Identity(x)",
        "t = Slice(x, a, b, a) y = Concat<axis=1>(z, t)",
        {"a": np.array([1]), "b": np.array([4]), "z": np.zeros((1, 1), np.float32)},
    ),
    "a Reshape at a batch of two": (
        "(float[N,4] x) => (float[n,m] y)",
        "y = Reshape(x, a)",
        "y = Reshape(x, b)",
        {"a": np.array([2, -1]), "b": np.array([-1, 4])},
    ),
    "a bound of Clip": (
        ROW,
        "y = Clip(x, a, b)",
        "y = Clip(x, a, c)",
        {"a": one(0), "b": one(6), "c": one(6.001)},
    ),
    "a huge bound of Clip": (
        ROW,
        "y = Clip(x, a, b)",
        "y = Relu(x)",
        {"a": one(0), "b": one(1e20)},
    ),
    "a far threshold": (
        ROW,
        "y = ThresholdedRelu<alpha=500.0>(x)",
        "y = ThresholdedRelu<alpha=400.0>(x)",
        {},
    ),
    "a far slope": (
        ROW,
        "a = Sub(x, b) c = Relu(a) y = Clip(c, z, o)",
        "a = Sub(x, d) c = Relu(a) y = Clip(c, z, o)",
        {"b": one(500), "d": one(400), "z": one(0), "o": one(1)},
    ),
    "a function that decreases far away": (
        MAP,
        f"a = Add(x, k) b = Abs(a) y = {POOL}(b)",
        f"p = {POOL}(x) a = Add(p, k) y = Abs(a)",
        {"k": one(10)},
    ),
    "a sum of two pools": (
        MAP,
        "a = MaxPool<kernel_shape=[2,1],pads=[1,0,0,0]>(x) "
        "b = MaxPool<kernel_shape=[2,1],pads=[0,0,1,0]>(x) y = Add(a, b)",
        "a = MaxPool<kernel_shape=[3,1],pads=[1,0,1,0]>(x) y = Add(a, x)",
        {},
    ),
    "a square": (
        ROW,
        "a = Mul(x, x) b = Mul(a, t) y = Add(x, b)",
        "y = Identity(x)",
        {"t": one(1e-12)},
    ),
}
assert len(WRONG) + len(WRONG_WEIGHTS) > 40


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rewrites_are_found(case: str) -> None:
    found = differs(certify(window(*WRONG[case])))
    assert found.worst is not None
    assert found.worst.mismatch or found.worst.before != found.worst.after


def test_weights_of_one_name_are_told_apart() -> None:
    old, new = {"w": W33}, {"w": _put(W33, (0, 0, 0, 0), 9)}
    differs(certify(window(MAP, "y = Conv(x, w)", "y = Conv(x, w)", old, new)))
    scale = batch_norm(4)["s"]
    old = {**batch_norm(4), "s": -np.abs(scale)}
    before = f"n = BatchNormalization(x, s, b, m, v) y = {POOL}(n)"
    after = f"n = {POOL}(x) y = BatchNormalization(n, s, b, m, v)"
    differs(certify(window(MAP, before, after, old, {**old, "s": np.abs(scale)})))


# --- What is not proven ---------------------------------------------------------------------------

TRAINING = {name: np.ones(4, np.float32) for name in "sbmv"}
HALF = {"r": one(0.5), "t": np.array(True)}
OPEN: dict[str, tuple[str, str, str, dict[str, Array]]] = {
    "Dropout draws": (
        ROW,
        "a = Dropout(x, r, t) b = Dropout(x, r, t) y = Sub(a, b)",
        "a = Dropout(x, r, t) y = Sub(a, a)",
        HALF,
    ),
    "Dropout may draw": (ROW, "y = Dropout(x, r, t)", "y = Identity(x)", HALF),
    "random numbers": (
        ROW,
        "a = RandomNormalLike(x) y = Add(a, x)",
        "a = RandomNormalLike(x) y = Sub(a, x)",
        {},
    ),
    "a narrower type": (ROW, "y = Identity(x)", "a = Cast<to=10>(x) y = Cast<to=1>(a)", {}),
    "integers that wrap": (
        "(int32[N,4] x, int32[N,4] z) => (float[N,4] y)",
        "a = Add(x, z) c = Cast<to=1>(a) y = Mul(c, t)",
        "a = Cast<to=1>(x) b = Cast<to=1>(z) c = Add(a, b) y = Mul(c, t)",
        {"t": one(2)},
    ),
    "indices that are read": (
        "(int64[3] i, float[8] x) => (float[3] y)",
        "y = Gather(x, i)",
        "y = Slice(x, a, b)",
        {"a": np.array([0]), "b": np.array([3])},
    ),
    "a slice too far": (
        ROW.replace("4", "M"),
        "y = Slice(x, a, b, c)",
        "y = Identity(x)",
        {"a": np.array([0]), "b": np.array([5000]), "c": np.array([1])},
    ),
    "unknown rank": ("(float x) => (float y)", "a = Foo(x) y = Relu(a)", "y = Relu(x)", {}),
    "indices of a pool": (
        MAP,
        "y, i = MaxPool<kernel_shape=[2,2]>(x)",
        "y, i = MaxPool<kernel_shape=[2,1]>(x)",
        {},
    ),
}


@pytest.mark.parametrize("case", OPEN)
def test_what_cannot_be_decided_says_why(case: str) -> None:
    found = certify(window(*OPEN[case]))
    assert found.verdict == "open"
    assert found.note


@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("mask", ["", ", k"])
def test_a_dropout_in_training_draws_unless_its_ratio_is_0(ratio: float, mask: str) -> None:
    weights = {"r": one(ratio), "t": np.array(True)}
    found = certify(window(ROW, f"y{mask} = Dropout(x, r, t)", "y = Identity(x)", weights))
    if ratio:
        assert (found.verdict, found.note) == ("open", "it draws random numbers")
    else:
        certified(found, "copying")
        differs(certify(window(ROW, "y = Dropout(x, r, t)", "y = Neg(x)", weights)))
    masks = "(float[N,4] x) => (bool[N,4] y)", "a, y = Dropout(x, r, t)"
    right = "s = Shape(x) y = ConstantOfShape<value=bool[1] {1}>(s)"
    found = certify(window(*masks, right, weights))
    assert (found.verdict == "certified") == (ratio == 0)
    assert certify(window(*masks, right.replace("{1}", "{0}"), weights)).verdict != "certified"


@pytest.mark.parametrize("opset", [1, 6])
def test_a_dropout_of_an_old_operator_set_says_whether_it_draws(opset: int) -> None:
    """onnxruntime has no such operators: a proof must do without."""
    for before, after, verdict in (
        ("a = Dropout<is_test=1>(x) y = Relu(a)", "y = Relu(x)", "certified"),
        ("a, m = Dropout<is_test=1>(x) y = Relu(a)", "y = Relu(x)", "certified"),
        ("a, m = Dropout<is_test=1>(x) y = Relu(m)", "y = Relu(x)", "open"),
        ("a = Dropout<is_test=1>(x) y = Relu(a)", "y = Neg(x)", "differs"),
        ("a = Dropout<is_test=0>(x) y = Relu(a)", "y = Relu(x)", "open"),
        ("a = Dropout(x) y = Relu(a)", "a = Dropout(x) y = Relu(a)", "open"),
    ):
        found = certify(window(ROW, before, after, opset=opset))
        assert found.verdict == verdict, (before, after, found)
        assert "failed" not in found.note


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_a_dropout_that_cannot_say_does_not_draw(domain: str) -> None:
    pair = window(ROW, "a = Dropout(x) y = Relu(a)", "y = Relu(x)")
    for model in pair.models:
        model.opset_import[0].domain = domain
    assert certify(pair).verdict == "certified"


@pytest.mark.parametrize("axis", [0, 1, 2, -2])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_old_operators_spread_along_an_axis(op: str, axis: int) -> None:
    """Which onnx's reference evaluator leaves out: all of the axes have one size here."""
    interface = "(float[3,3,3] x) => (float[3,3,3] y)"
    k = normal(3) + 3
    old = f"y = {op}<broadcast=1, axis={axis}>(x, k)"
    for spread, verdict in ((axis % 3, "certified"), ((axis + 1) % 3, "differs")):
        others = {"k": k.reshape([3 if at == spread else 1 for at in range(3)])}
        new = f"y = {op}<broadcast=1>(x, k)"
        assert certify(window(interface, old, new, {"k": k}, others, opset=6)).verdict == verdict
    pair = window(
        "(float[N,3,3] x, float[3] z) => (float[A,3,3] y)",
        f"y = {op}<broadcast=1, axis=1>(x, z)",
        f"y = {op}<broadcast=1>(x, z)",
        opset=6,
    )
    assert certify(pair).verdict == "open"


def test_statistics_of_a_batch_differ_from_those_of_its_maxima() -> None:
    found = certify(
        window(
            MAP,
            f"n = BatchNormalization<training_mode=1>(x, s, b, m, v) y = {POOL}(n)",
            f"n = {POOL}(x) y = BatchNormalization<training_mode=1>(n, s, b, m, v)",
            TRAINING,
        )
    )
    assert found.verdict == "differs"


def test_weights_that_are_not_finite_prove_nothing() -> None:
    old = {"w": np.array([[np.inf], [np.inf], [1], [1]], np.float32)}
    new = {"v": np.array([[np.inf], [-np.inf], [1], [5]], np.float32)}
    wrong = window(ROW, "y = MatMul(x, w)", "y = MatMul(x, v)", old, new)
    assert certify(wrong).verdict != "certified"


UNSEEN: dict[str, tuple[str, str, str, dict[str, Array]]] = {
    "where a step is": (
        ROW,
        "a = Add(x, k) y = Floor(a)",
        "a = Add(x, l) y = Floor(a)",
        {"k": one(0.3), "l": one(0.300001)},
    ),
    "a maximum of what stays the same": (
        MAP,
        "y = Clip(x, a, b)",
        "c = Clip(x, a, b) y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)",
        {"a": one(50), "b": one(60)},
    ),
    "the order of a pool's elements": (
        "(float[1,4,8] x) => (float[1,4,l] y)",
        "a = Conv(x, w) y = MaxPool<kernel_shape=[2]>(a)",
        "r = Slice(x, f, t, c, d) k = Conv(r, w) p = MaxPool<kernel_shape=[2]>(k) "
        "y = Slice(p, f, t, c, d)",
        {
            "w": normal(4, 4, 1),
            "f": np.array([-1]),
            "t": np.array([-(2**40)]),
            "c": np.array([2]),
            "d": np.array([-1]),
        },
    ),
}


@pytest.mark.parametrize("case", UNSEEN)
def test_what_probes_do_not_see_is_not_proven(case: str) -> None:
    assert certify(window(*UNSEEN[case])).verdict == "sampled"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_division_by_zero_is_not_linear() -> None:
    found = certify(window(ROW, "y = Div(x, k)", "y = Div(x, l)", {"k": one(0)}, {"l": one(-0.0)}))
    assert found.verdict != "certified"


def test_a_function_that_is_not_a_number_somewhere_is_sampled() -> None:
    text = "(float[N,4] x, float[N,4] z) => (float[N,4] y)"
    before = "a = Mul(x, z) b = Sqrt(a) y = Mul(b, k)"
    after = "a = Mul(x, z) b = Sqrt(a) c = Mul(b, l) y = Mul(c, l)"
    found = certify(window(text, before, after, {"k": one(4)}, {"l": one(2)}))
    assert found.verdict == "sampled"


def test_sizes_within_a_window_are_inferred() -> None:
    before = (
        "c = Conv<strides=[2,2]>(x, w) s = Shape(c) g = Gather(s, i) u = Unsqueeze(g, o) "
        "t = Concat<axis=0>(u, m) r = Reshape(c, t) q = Shape(r) p = Slice(q, o, e, o) "
        "f = Cast<to=1>(p) h = Relu(r) y = Mul(h, f)"
    )
    weights = {"w": normal(4, 4, 1, 1), "i": np.array(1), "o": np.array([0]), "m": np.array([-1])}
    weights["e"] = np.array([1])
    after = "c = Conv<strides=[2,2]>(x, w) r = Reshape(c, z) h = Relu(r) y = Mul(h, k)"
    others = {"w": weights["w"], "z": np.array([4, -1]), "k": np.array([4], np.float32)}
    text = "(float[1,4,9,9] x) => (float[n,m] y)"
    certified(certify(window(text, before, after, weights, others)), "constant")
    others["k"] = np.array([5], np.float32)
    differs(certify(window(text, before, after, weights, others)))


def test_what_is_the_same_at_any_sizes_is_tried_at_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators that ask for sizes twice are merged by the dozen, as in torch's exports."""
    monkeypatch.setattr(module, "sizings", Mock(side_effect=AssertionError))
    sizes = "s{0} = Shape(x) g{0} = Gather(s{0}, k) c{0} = Concat<axis=0>(g{0}, rest) "
    before = sizes.format(0) + sizes.format(1) + "r = Reshape(x, c0) a = Reshape(x, c1) "
    weights = {"k": np.array([0]), "rest": np.array([-1]), "other": np.array([1])}
    interface, after = "(float[N,4] x) => (float[A,B] y)", sizes.format(0) + "r = Reshape(x, c0) "
    right = window(interface, before + "y = Add(r, a)", after + "y = Add(r, r)", weights)
    certified(certify(right), "constant")
    wrong = window(interface, before + "y = Add(r, a)", after + "y = Sub(r, r)", weights)
    assert certify(wrong).verdict == "open"


def test_a_constant_proof_needs_no_small_inputs() -> None:
    text = "(float[1,64,1024,1024] x) => (float[n] y)"
    before = "s = Shape(x) a = Mul(s, d) y = Reshape(x, a)"
    weights = {"d": np.array([1, 1, 1, 1])}
    after, others = "y = Reshape(x, e)", {"e": np.array([1, 64, 1024, 1024])}
    certified(certify(window(text, before, after, weights, others)), "constant")
    others["e"][0] = 2
    assert certify(window(text, before, after, weights, others)).verdict == "open"


def test_a_window_is_as_certain_as_its_least_certain_output() -> None:
    text = "(float[N,4] x, float[N,4] z) => (float[N,3] y, float[N,4] q)"
    before = "y = MatMul(x, w) a = Mul(x, z) b = Sqrt(a) q = Mul(b, k)"
    after = "y = MatMul(x, v) a = Mul(x, z) b = Sqrt(a) c = Mul(b, l) q = Mul(c, l)"
    w = normal(4, 3)
    weights, others = {"w": w, "k": one(4)}, {"v": np.nextafter(w, one(9)), "l": one(2)}
    assert certify(window(text, before, after, weights, others)).verdict == "sampled"


def test_a_window_is_as_certain_as_its_least_certain_size(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Certificate("certified", "constant"), Certificate("open", note="why")] * 9)
    text = "(float[N,M] x) => (float[n] y)"
    body = "s = Shape(x) f = Cast<to=1>(s) y = Mul(f, k)"
    pair = window(text, body, body, {"k": one(2)})
    monkeypatch.setattr(module, "_certify", lambda _: next(answers))
    assert module._at_sizes(pair).verdict == "open"


ACTIVATIONS = ("Relu", "LeakyRelu<alpha=0.2>", "PRelu", "Elu")
SCALES = itertools.cycle(["m = Mul(r, k)", "m = Mul(k, r)", "m = Div(r, k)"])


@pytest.mark.parametrize(
    ("activation", "scale", "sign", "error"),
    [
        (activation, next(SCALES), sign, error)
        for activation, sign, error in itertools.product(ACTIVATIONS, (1.0, -1.0), (0.0, 1e-3))
    ],
)
def test_a_positive_scale_after_a_relu_is_one_before_it(
    activation: str, scale: str, sign: float, error: float
) -> None:
    w, k = normal(4, 8), np.abs(normal(8, seed=1)) + np.float32(0.1)
    k[3] *= sign
    factor = (1 / k if "Div" in scale else k) * np.float32(1 + error)
    function, slope = (
        f"{activation}(a{', slope' if activation == 'PRelu' else ''})",
        normal(8, seed=2),
    )
    pair = window(
        "(float[N,4] x) => (float[N,8] y)",
        f"a = MatMul(x, w) r = {function} {scale} y = Tanh(m)",
        f"a = MatMul(x, w2) r = {function} y = Tanh(r)",
        {"w": w, "k": k, "slope": slope},
        {"w2": (w.astype(np.float64) * factor).astype(np.float32), "slope": slope},
    )
    is_right = activation != "Elu" and sign > 0 and not error
    assert (certify(pair).verdict == "certified") == is_right


def test_a_scale_after_a_relu_that_others_read_stays() -> None:
    k = np.abs(normal(8, seed=1))
    body = "a = MatMul(x, w) r = Relu(a) m = Mul(r, k) y = Add(m, r)"
    pair = window(
        "(float[N,4] x) => (float[N,8] y)",
        body,
        "a = MatMul(x, w2) r = Relu(a) y = Add(r, r)",
        {"w": normal(4, 8), "k": k},
        {"w2": normal(4, 8) * k},
    )
    assert certify(pair).verdict != "certified"


@pytest.mark.parametrize(
    ("dtype", "body", "constant", "is_shown"),
    [
        ("int64", "y = Mul(x, k)", np.array(1), True),
        ("int64", "y = Mul(k, x)", np.array([1]), True),
        ("int32", "y = Add(k, x)", np.array(0, np.int32), True),
        ("int64", "y = Sub(x, k)", np.array([[0]]), True),
        ("int64", "y = Div(x, k)", np.array(1), True),
        ("float", "y = Div(x, k)", np.array(1, np.float32), True),
        ("int64", "y = Sub(k, x)", np.array(0), False),
        ("int64", "y = Div(k, x)", np.array(1), False),
        ("int64", "y = Mul(x, k)", np.array(2), False),
        ("int64", "y = Add(x, k)", np.array([0, 0]), False),
        ("int64", "y = Mul(x, k)", np.array([[[1]]]), False),
    ],
)
def test_integers_that_arithmetic_leaves_as_they_are(
    dtype: str, body: str, constant: Array, is_shown: bool
) -> None:
    pair = window(
        f"({dtype}[N,M] x) => ({dtype}[n] y)", body, "y = Identity(x)", {"k": constant}, {}
    )
    assert (certify(pair).verdict == "certified") == is_shown
    assert (certify(pair).kind == "constant") == is_shown


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("turned", [0, 1])
def test_what_a_gemm_adds_may_say_how_many_rows_there_are(turned: int, columns: int) -> None:
    weights = {"w": normal(4, 3), "c": normal(7, columns), "two": one(2)}
    others = {"w": weights["w"] * 2, "c": weights["c"] * 2}
    interface = f"(float[{'4,N' if turned else 'N,4'}] x) => (float[N,m] y)"
    gemm = f"Gemm<transA={turned}>(x, w, c)"
    certified(
        certify(window(interface, f"p = {gemm} y = Mul(p, two)", f"y = {gemm}", weights, others)),
        "linear",
    )
    others["c"] = weights["c"]
    differs(
        certify(window(interface, f"p = {gemm} y = Mul(p, two)", f"y = {gemm}", weights, others))
    )


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize(
    ("body", "weight", "axis"),
    [
        ("Conv(x, w)", normal(3, 4, 2), 0),
        ("Conv(x, w)", normal(3, 4, 2, 2), 0),
        ("ConvTranspose(x, w)", normal(4, 3, 2), 1),
        ("Gemm(x, w)", normal(4, 3), 1),
        ("Gemm<transA=1, transB=1>(x, w)", normal(3, 4), 0),
    ],
)
def test_what_reads_an_input_says_its_rank(
    body: str, weight: Array, axis: int, wrong: bool
) -> None:
    factors = np.array([2, 3, 5], np.float32)
    new = scaled(weight, factors, axis)
    if wrong:
        new.flat[-1] *= -1
    pair = window(
        "(float[N] x) => (float[n] y)",
        f"c = {body} y = Mul(c, k)",
        f"y = {body}",
        {"w": weight, "k": factors.reshape(3, *[1] * (weight.ndim - 2))},
        {"w": new},
    )
    for model in pair.models:
        model.graph.input[0].type.tensor_type.ClearField("shape")
    assert certify(pair).verdict == ("differs" if wrong else "certified")


def test_without_a_rank_only_a_scalar_leaves_integers_as_they_are() -> None:
    for constant, verdict in ((np.array(1), "certified"), (np.array([1]), "open")):
        text = "(int64[N] x) => (int64[n] y)"
        pair = window(text, "y = Mul(x, k)", "y = Identity(x)", {"k": constant}, {})
        for model in pair.models:
            model.graph.input[0].type.tensor_type.ClearField("shape")
        assert certify(pair).verdict == verdict


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (StopIteration(), "StopIteration"),
        (KeyError("x"), "KeyError: 'x'"),
        (AssertionError(), "AssertionError"),
        (MemoryError(), "MemoryError"),
    ],
)
@pytest.mark.parametrize("step", ["with_definitions", "with_scales", "sizings", "prove_linear"])
def test_any_error_is_a_reason(
    step: str, error: Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, step, Mock(side_effect=error))
    found = certify(folded())
    assert (found.verdict, found.note) == ("open", f"its proof failed with {told}")


@pytest.mark.parametrize("error", [NotShown(), NoTruth(), BnfoldError("")])
def test_no_reason_is_empty(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "sizings", Mock(side_effect=error))
    assert certify(folded()).note == f"its proof failed with {type(error).__name__}"


def test_all_windows_are_proven_in_turn() -> None:
    def none() -> list[Window]:
        raise NotShown("there is none")

    def broken() -> list[Window]:
        raise StopIteration

    def right() -> list[Window]:
        return [folded()]

    found = certify_all([right, none, broken, lambda: [folded(d=-D)]], 60)
    assert [each.verdict for each in found] == ["certified", "open", "open", "differs"]
    assert found[1].note == "there is none"
    assert found[2].note == "its proof failed with StopIteration"
    assert [each.verdict for each in certify_all([right, right], -1)] == ["open", "open"]


def test_what_crashes_leaves_the_others_proven() -> None:
    def right() -> list[Window]:
        return [folded()]

    def crash() -> list[Window]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    found = certify_all([right, crash, right], 60)
    assert [each.verdict for each in found] == ["certified", "open", "certified"]
    assert "was killed" in found[1].note
    found = certify_all([crash, right], 1e-9)
    assert [each.verdict for each in found] == ["open", "open"]


@pytest.mark.parametrize("processes", [1, 2, 3, 100])
def test_windows_are_proven_side_by_side(processes: int, tmp_path: Path) -> None:
    """Each process proves a share; one that crashes takes nothing of the others with it."""

    def right() -> list[Window]:
        (tmp_path / str(os.getpid())).touch()
        return [folded()]

    def crash() -> list[Window]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    told: list[str] = []
    windows = [right] * 13
    windows[4], windows[7] = crash, lambda: [folded(d=-D)]
    found = certify_all(windows, 60, lambda doing: told.append(str(doing)), processes=processes)
    wanted = ["certified"] * 13
    wanted[4], wanted[7] = "open", "differs"
    assert [each.verdict for each in found] == wanted
    assert "was killed" in found[4].note
    if processes > 1:
        assert "certifying rewrite 13 of 13" in told
    shares = min(processes, 3)
    again = [number for number in range(4 % shares, 13, shares) if number not in (4, 7)]
    assert len(list(tmp_path.iterdir())) == shares + len(again)


def test_of_several_windows_of_a_rewrite_one_is_enough() -> None:
    right, wrong, body = folded(), folded(d=-D), "a = RandomNormalLike(x) y = Mul(a, k)"
    unknown = window(
        "(float[N] x) => (float[N] y)", body, body.replace("a, k", "k, a"), {"k": one(2)}
    )
    for windows, verdict in (
        ([wrong, right], "certified"),
        ([unknown, right], "certified"),
        ([wrong, wrong], "differs"),
        ([wrong, unknown], "open"),
        ([unknown, wrong], "open"),
        ([wrong], "differs"),
    ):
        assert certify_any(windows).verdict == verdict


# --- Random windows, and the rate at which bounds hold --------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 2),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_random_folds_are_certified(seed: int, group: int, stride: int, pads: list[int]) -> None:
    attributes = f"pads={pads}, strides=[{stride},1]"
    certified(certify(folded(group=group, attributes=attributes, seed=seed)), "linear")


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(*[st.integers(0, size - 1) for size in (8, 4, 3, 3)]), st.floats(-4, 0), st.booleans()
)
def test_a_weight_off_by_a_ten_thousandth_of_its_row_is_found(
    index: tuple[int, ...], exponent: float, up: bool
) -> None:
    change = np.linalg.norm(K[index[0]]) * 10**exponent * (1 if up else -1)
    found = differs(certify(folded(k2=_put(K, index, K[index] + change))))
    assert found.worst is not None
    assert found.worst.index[0] == index[0]


@pytest.mark.parametrize("doubt", [0.05, 0.4])
def test_the_bounds_hold_at_the_stated_rate(doubt: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doubt of a probability is one half for the norm of the difference, one for the row's."""
    monkeypatch.setattr(linear, "DOUBT", doubt)
    generator = np.random.default_rng(0)
    probes, trials = 8, 40_000
    products = generator.standard_normal((trials, probes))  # d·x, where ‖d‖ is 1
    beyond = np.mean(np.abs(products).max(axis=1) * bound_factor(probes, 1) < 1)
    assert 0.2 * doubt / 2 < beyond <= doubt / 2 + 4 * np.sqrt(doubt / trials)
    norms = np.sqrt(np.mean(generator.standard_normal((trials, probes)) ** 2, axis=1))
    assert np.mean(norms > norm_factor(probes, 1)) <= doubt / 2 + 4 * np.sqrt(doubt / trials)


def test_the_bound_of_a_window_holds_at_the_stated_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of planted differences of a known norm, the bound is too small no more often than stated."""
    monkeypatch.setattr(linear, "DOUBT", 0.2)
    monkeypatch.setattr(linear, "PROBES", 4)
    missed = 0
    for seed in range(60):
        row, change = normal(4, 1, seed=seed), normal(4, 1, seed=seed + 1000)
        size = 2e-7 * float(np.linalg.norm(row))
        new = (row + change / np.linalg.norm(change) * size).astype(np.float32)
        true = np.linalg.norm(new.astype(np.float64) - row) / np.linalg.norm(row.astype(np.float64))
        found = certify(window(ROW, "y = MatMul(x, w)", "y = MatMul(x, v)", {"w": row}, {"v": new}))
        missed += int(found.bound is not None and found.bound < true)
    assert missed <= 60 * 0.2 + 3 * np.sqrt(60 * 0.2)


@pytest.mark.parametrize("off", [0.0, 1e-3])
def test_a_size_at_which_nothing_runs_is_left_out(off: float) -> None:
    """Every second position and those between are as many only where their number is even."""
    kernel = normal(2, 2, 3)
    spread = np.zeros((2, 1, 6), np.float32)
    spread[:, 0, 0::2], spread[:, 0, 1::2] = kernel[:, 0], kernel[:, 1] + np.float32(off)
    steps: Parameters = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "far": np.array([2**40]),
    }
    certificate = certify(
        window(
            "(float[N,1,L] x) => (float[N,2,l] y)",
            "a = Slice(x, zero, far, two, two) b = Slice(x, one, far, two, two) "
            "c = Concat<axis=1>(a, b) y = Conv<pads=[1,1]>(c, w)",
            "y = Conv<pads=[2,2], strides=[2]>(x, w)",
            {"w": kernel, **steps},
            {"w": spread},
        )
    )
    assert certificate.verdict == ("differs" if off else "certified")


def test_a_squeeze_of_a_size_does_not_keep_free_ones_from_being_tried() -> None:
    sizes = "s = Shape<start=1, end=2>(x) q = Squeeze(s) t = Unsqueeze(q, zero)"
    weights: Parameters = {"zero": np.array([0]), "last": np.array([-1])}
    interface = "(float[N,M,2] x) => (float[y] y)"
    body = f"{sizes} u = Concat<axis=0>(last, t) y = Reshape(x, u)"
    other = "t = Shape<start=1, end=2>(x) u = Concat<axis=0>(last, t) y = Reshape(x, u)"
    assert certify(window(interface, body, other, weights)).verdict == "certified"


@pytest.mark.parametrize("operator", ["Max", "Mean", "Min", "Prod", "Sum"])
@pytest.mark.parametrize(
    ("axis", "keepdims", "is_same"), [(1, 1, True), (-1, 1, True), (0, 1, False), (1, 0, False)]
)
def test_a_reduction_of_one_element_is_that_element(
    operator: str, axis: int, keepdims: int, is_same: bool
) -> None:
    pair = window(
        "(float[N,1] x) => (float[N,1] y)",
        f"a = Reduce{operator}<keepdims={keepdims}>(x, axes) y = Exp(a)",
        "y = Exp(x)",
        {"axes": np.array([axis])},
        opset=18,
    )
    assert (certify(pair).kind == "constant") == is_same


@pytest.mark.parametrize(("sizes", "is_same"), [("1", True), ("1,1", True), ("1,2", False)])
def test_a_reduction_over_all_axes_of_one_element_is_that_element(
    sizes: str, is_same: bool
) -> None:
    pair = window(
        f"(float[{sizes}] x) => (float[{sizes}] y)",
        "a = ReduceMax(x) y = Exp(a)",
        "y = Exp(x)",
        opset=18,
    )
    assert (certify(pair).verdict == "certified") == is_same


@pytest.mark.parametrize(
    ("sizes", "lines"),
    [
        ("N,256,M", "s = Shape(x) g = Gather(s, one)"),
        ("N,256,M", "s = Shape<start=1>(x) g = Gather(s, zero)"),
        ("N,256,M", "s = Shape<start=0, end=2>(x) g = Gather(s, last)"),
        ("N,256,M", "s = Shape(x) g = Slice(s, one, two)"),
        ("N,M,256", "s = Shape(x) g = Gather(s, last)"),
        ("N,M,256", "s = Shape(x) g = Slice(s, last, many, zero, one)"),
        ("N,M,256", "s = Shape(x) g = Slice(s, last, one, zero, last)"),
    ],
)
@pytest.mark.parametrize("is_right", [True, False])
def test_a_known_size_is_one_though_others_are_free(sizes: str, lines: str, is_right: bool) -> None:
    """A free size that is divided by 64 has more rests than are tried."""
    before = f"{lines} d = Div(g, by) y = Add(d, zeros)"
    numbers = {"zero": 0, "one": 1, "two": 2, "many": 9, "last": -1, "by": 64, "zeros": 0}
    weights = {name: np.array([n]) for name, n in numbers.items() if f" {name}" in before}
    after = {"c": np.array([4 if is_right else 5])}
    text = f"(float[{sizes}] x) => (int64[a] y)"
    found = certify(window(text, before, "y = Identity(c)", weights, after))
    assert (found.verdict == "certified") == is_right


@pytest.mark.parametrize("chosen", ["Gather(s, zero)", "Gather(s, many)", "Slice(s, zero, two)"])
def test_a_size_that_is_not_known_is_none(chosen: str) -> None:
    numbers = {"zero": [0], "many": [7], "two": [2], "by": [64]}
    weights = {name: np.array(n) for name, n in numbers.items() if f" {name}" in f"{chosen} by"}
    before = f"s = Shape(x) g = {chosen} y = Div(g, by)"
    text = "(float[N,256] x) => (int64[a] y)"
    after = {"c": np.array([0, 4] if "two" in chosen else [4])}
    assert certify(window(text, before, "y = Identity(c)", weights, after)).verdict != "certified"


@pytest.mark.parametrize("seed", range(16))
def test_what_cancels_somewhere_is_no_difference(seed: int) -> None:
    """Near a zero of s·x + b, constants that are rounded alike would move nothing."""
    generator = np.random.default_rng(seed)
    act = ("Relu(a)", "LeakyRelu<alpha=0.1>(a)", "Abs(a)")[seed % 3]
    scale = np.exp(generator.normal(0, 0.5, (1, 4, 1, 1))).astype(np.float32)
    shift = generator.standard_normal((1, 4, 1, 1)).astype(np.float32)
    moved = (shift.astype(np.float64) / scale).astype(np.float32)
    text = "(float[1,4,2,5] x) => (float[1,4,2,5] y)"
    before = build(f"{text} {{ m = Mul(x, s) a = Add(m, b) y = {act} }}", s=scale, b=shift)
    after, wrong = (
        build(f"{text} {{ a = Add(x, b) n = {act} y = Mul(n, s) }}", s=scale, b=moved * error)
        for error in (np.float32(1), np.float32(1 + 4e-6))
    )
    assert certify(Window(before, after)).verdict == "certified"
    assert certify(Window(before, wrong)).verdict == "differs"


# --- Maps of which nothing would be left ----------------------------------------------------------

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
