"""Windows that put phases together are proven at small sizes, and wrong orders are found."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.windows import Window
from bnfold.record.data import Certificate
from tests.support.graphs import Array, Parameters, normal
from tests.support.windows import window

SIZE = 64
INTERFACE = f"(float[1,2,{SIZE},{SIZE}] x) => (float[n,c,h,w] y)"
PARTS = "a = Conv(x, k) b = Conv(x, l) c = Conv(x, m) d = Conv(x, o) "
FUNCTIONS = "e = Relu(a) f = Relu(b) g = Relu(c) i = Relu(d) "
DEPTH = "z = Concat<axis=1>({}) t = DepthToSpace<blocksize=2>(z) y = {}(t)"
MOVES = (
    "p = Concat<axis=3>({0}, {2}) q = Concat<axis=3>({1}, {3}) j = Concat<axis=0>(p, q) "
    "s = Reshape(j, flat) t = Transpose<perm=[1,0]>(s) y = Reshape(t, whole)"
)


def numbers() -> Parameters:
    weights: dict[str, Array] = {name: normal(3, 2, 1, 1, seed=i) for i, name in enumerate("klmo")}
    return {
        **weights,
        "two": np.array([1, 1, 2, 2], np.float32),
        "flat": np.array([2, -1], np.int64),
        "whole": np.array([1, 3, 2 * SIZE, 2 * SIZE], np.int64),
    }


def test_phases_with_an_activation_each_are_those_of_the_whole() -> None:
    before = PARTS + DEPTH.format("a, b, c, d", "Relu")
    after = PARTS + FUNCTIONS + MOVES.format("e", "f", "g", "i")
    found = certified_with_shapes(before, after)
    assert (found.verdict, found.kind) == ("certified", "constant"), found


def test_phases_of_a_larger_map_are_proven_at_a_small_size() -> None:
    before = (
        'r = Resize<coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , two) '
        "t = Conv(r, k) y = Relu(t)"
    )
    after = PARTS.replace("l)", "k)").replace("m)", "k)").replace("o)", "k)")
    found = certified_with_shapes(before, after + FUNCTIONS + MOVES.format("e", "f", "g", "i"))
    assert (found.verdict, found.kind) == ("certified", "linear"), found
    assert max(found.shapes[0]["x"]) < SIZE


def certified_with_shapes(before: str, after: str) -> Certificate:
    models = window(INTERFACE, before, after, numbers()).models
    return certify(Window(*map(onnx.shape_inference.infer_shapes, models)))


@pytest.mark.parametrize("order", ["egfi", "feig", "eegi"])
def test_phases_in_another_order_differ(order: str) -> None:
    before = PARTS + DEPTH.format("a, b, c, d", "Relu")
    after = PARTS + FUNCTIONS + MOVES.format(*order)
    assert certify(window(INTERFACE, before, after, numbers())).verdict == "differs"


def test_another_activation_of_one_phase_is_not_certified() -> None:
    before = PARTS + DEPTH.format("a, b, c, d", "Relu")
    after = PARTS + FUNCTIONS.replace("i = Relu", "i = LeakyRelu")
    after += MOVES.format("e", "f", "g", "i")
    assert certify(window(INTERFACE, before, after, numbers())).verdict == "differs"
