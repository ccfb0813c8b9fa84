"""Operators that ONNX defines alike are one."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from tests.support.windows import window

FLOATS = "(float[N,M] x, float[N,M] z) => (float[N,M] y)"
SIZES = "s = Shape(x) a = Gather(s, i0) b = Gather(s, i1)"
CHOSEN = "y = Where(g, x, z)"


@pytest.mark.parametrize("operands", ["x, z", "z, x"])
@pytest.mark.parametrize(
    ("equal", "opset"), [("", 9), ("", 12), ("OrEqual", 12), ("", 17), ("OrEqual", 17)]
)
def test_what_is_greater_comes_second(operands: str, equal: str, opset: int) -> None:
    turned = ", ".join(operands.split(", ")[::-1])
    before = f"g = Greater{equal}({operands}) {CHOSEN}"
    right = window(FLOATS, before, f"g = Less{equal}({turned}) {CHOSEN}", {}, {}, opset=opset)
    assert certify(right).verdict == "certified"
    others = {
        f"g = Less{equal}({operands}) {CHOSEN}",
        f"g = Greater{equal}({turned}) {CHOSEN}",
        f"l = Less{equal}({operands}) g = Not(l) {CHOSEN}",  # another one for NaN
        f"g = Less{equal}({turned}) y = Where(g, z, x)",
    }
    if opset >= 12:
        other_one = "" if equal else "OrEqual"
        others.add(f"g = Less{other_one}({turned}) {CHOSEN}")
    for other in others:
        wrong = window(FLOATS, before, other, {}, {}, opset=opset)
        assert certify(wrong).verdict != "certified", other


def test_what_is_greater_comes_second_of_sizes_too() -> None:
    places = {"i0": np.array(0), "i1": np.array(1)}
    before = f"{SIZES} g = Greater(a, b) {CHOSEN}"
    right, wrong = (
        window(FLOATS, before, f"{SIZES} g = Less({operands}) {CHOSEN}", places, places)
        for operands in ("b, a", "a, b")
    )
    assert certify(right).verdict == "certified"
    assert certify(wrong).verdict != "certified"
