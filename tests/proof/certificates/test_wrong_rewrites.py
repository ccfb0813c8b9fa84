"""Wrong rewrites are found, however little they are off."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from tests.support.graphs import Array, Parameters, batch_norm, normal, scalar
from tests.support.windows import (
    BIAS,
    KERNEL,
    MAP,
    POOL,
    ROW,
    W33,
    affine_of,
    differs,
    folded,
    replaced,
    scaled,
    window,
)

pytestmark = pytest.mark.usefixtures("without_weights")


def _swapped(array: Array, axis: int, one: int, other: int) -> Array:
    order = list(range(array.shape[axis]))
    order[one], order[other] = order[other], order[one]
    return np.take(array, order, axis)


def _other_epsilon(epsilon: float) -> dict[str, Array]:
    old = {"k": normal(8, 4, 3, 3), **batch_norm(8)}
    scale, shift = affine_of(old, epsilon)
    return {"k2": scaled(old["k"], scale), "d": shift.astype(np.float32)}


WRONG_WEIGHTS: dict[str, Parameters] = {
    "all signs": {"k2": -KERNEL},
    "the sign of a channel": {"k2": replaced(KERNEL, 3, -KERNEL[3])},
    "the sign of a tap": {"k2": replaced(KERNEL, np.s_[:, :, 1, 1], -KERNEL[:, :, 1, 1])},
    "one weight is zero": {"k2": replaced(KERNEL, (2, 1, 0, 2), 0)},
    "one weight by 0.1 %": {"k2": replaced(KERNEL, (2, 1, 0, 2), KERNEL[2, 1, 0, 2] + 1e-3)},
    "all weights by 1e-5": {"k2": KERNEL * np.float32(1 + 1e-5)},
    "one channel by 1e-5": {"k2": replaced(KERNEL, 5, KERNEL[5] * np.float32(1 + 1e-5))},
    "a channel is not scaled": {"k2": replaced(KERNEL, 5, normal(8, 4, 3, 3)[5])},
    "inputs swapped": {"k2": _swapped(KERNEL, 1, 0, 2)},
    "outputs swapped": {"k2": _swapped(KERNEL, 0, 0, 7)},
    "rows swapped": {"k2": _swapped(KERNEL, 2, 0, 2)},
    "columns swapped": {"k2": _swapped(KERNEL, 3, 0, 1)},
    "flipped": {"k2": np.ascontiguousarray(KERNEL[:, :, ::-1, ::-1])},
    "transposed": {"k2": np.ascontiguousarray(KERNEL.swapaxes(2, 3))},
    "no bias": {"d": np.zeros_like(BIAS)},
    "the bias of a channel": {"d": replaced(BIAS, 6, 0)},
    "bias by 1e-5": {"d": (BIAS + np.float32(1e-4)).astype(np.float32)},
    "biases swapped": {"d": _swapped(BIAS, 0, 1, 2)},
    "the sign of the bias": {"d": -BIAS},
    "epsilon 1e-3": _other_epsilon(1e-3),
    "epsilon 0": _other_epsilon(0.0),
}


@pytest.mark.parametrize("case", WRONG_WEIGHTS)
@pytest.mark.parametrize("attributes", ["", "pads=[1,1,1,1]"])
def test_wrong_weights_are_found(case: str, attributes: str) -> None:
    certificate = differs(certify(folded(attributes=attributes, **WRONG_WEIGHTS[case])))
    assert certificate.worst is not None
    assert (certificate.worst.output, len(certificate.worst.index)) == ("y", 3)
    assert certificate.worst.before != certificate.worst.after


def test_the_channel_and_both_values_are_named() -> None:
    certificate = differs(certify(folded(d=replaced(BIAS, 6, 0))))
    assert certificate.worst is not None
    assert certificate.worst.index[0] == 6
    assert certificate.worst.before == pytest.approx(float(BIAS[6]), rel=1e-6)
    assert certificate.worst.after == 0


G = normal(4, 1, 1)
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
        {"a": scalar(0), "b": scalar(6), "c": scalar(6.001)},
    ),
    "a huge bound of Clip": (
        ROW,
        "y = Clip(x, a, b)",
        "y = Relu(x)",
        {"a": scalar(0), "b": scalar(1e20)},
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
        {"b": scalar(500), "d": scalar(400), "z": scalar(0), "o": scalar(1)},
    ),
    "a function that decreases far away": (
        MAP,
        f"a = Add(x, k) b = Abs(a) y = {POOL}(b)",
        f"p = {POOL}(x) a = Add(p, k) y = Abs(a)",
        {"k": scalar(10)},
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
        {"t": scalar(1e-12)},
    ),
}


assert len(WRONG) + len(WRONG_WEIGHTS) > 40


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rewrites_are_found(case: str) -> None:
    certificate = differs(certify(window(*WRONG[case])))
    assert certificate.worst is not None
    assert certificate.worst.mismatch or certificate.worst.before != certificate.worst.after


def test_weights_of_one_name_are_told_apart() -> None:
    old, new = {"w": W33}, {"w": replaced(W33, (0, 0, 0, 0), 9)}
    differs(certify(window(MAP, "y = Conv(x, w)", "y = Conv(x, w)", old, new)))
    scale = batch_norm(4)["s"]
    old = {**batch_norm(4), "s": -np.abs(scale)}
    before = f"n = BatchNormalization(x, s, b, m, v) y = {POOL}(n)"
    after = f"n = {POOL}(x) y = BatchNormalization(n, s, b, m, v)"
    differs(certify(window(MAP, before, after, old, {**old, "s": np.abs(scale)})))
