"""What is proven by moving operators past each other holds for floats, and not for integers."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from tests.support.graphs import Array
from tests.support.windows import window

WRAPPING = ["int8", "uint8"]
WHOLE = [*WRAPPING, "int32", "int64"]


def verdict(interface: str, before: str, after: str, **weights: Array) -> str:
    return certify(window(interface, before, after, weights, weights)).verdict


@pytest.mark.parametrize("kind", [*WHOLE, "float", "double"])
def test_a_division_moves_past_a_product_of_floats_alone(kind: str) -> None:
    """3 // 2 · 2 is 2, and 3 · 2 // 2 is 3."""
    two = np.array([2], {"float": "float32", "double": "float64"}.get(kind, kind))
    found = verdict(
        f"({kind}[N] x, {kind}[N] z) => ({kind}[N] y)",
        "h = Div(x, two) y = Mul(h, z)",
        "p = Mul(x, z) y = Div(p, two)",
        two=two,
    )
    assert (found == "certified") == (kind in ("float", "double"))


@pytest.mark.parametrize("kind", [*WRAPPING, "float"])
@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize(
    "largest", ["MaxPool<kernel_shape=[2,2]>({})", "ReduceMax<axes=[2,3]>({})"]
)
def test_the_largest_moves_past_an_operator_on_floats_alone(
    kind: str, operator: str, largest: str
) -> None:
    """10 − 20 is 246 in eight bits, and then the smaller one is the larger."""
    twenty = np.array(20, {"float": "float32"}.get(kind, kind))
    found = verdict(
        f"({kind}[N,3,6,6] x) => ({kind}[N,3,k,l] y)",
        f"h = {operator}(x, twenty) y = {largest.format('h')}",
        f"h = {largest.format('x')} y = {operator}(h, twenty)",
        twenty=twenty,
    )
    assert (found == "certified") == (kind == "float")


@pytest.mark.parametrize("kind", range(17, 21))
def test_what_saturates_is_not_what_overflows(kind: int) -> None:
    """The types of eight bits have no infinity, but for one."""
    lines = "h = Mul(x, six) c = Cast<to={}, saturate={}>(h) y = Cast<to=1>(c)"
    six = np.array(6, np.float32)
    interface, weights = "(float[N,5] x) => (float[N,5] y)", {"six": six}
    saturating, other = lines.format(kind, 1), lines.format(kind, 0)
    pair = window(interface, saturating, other, weights, weights, opset=19)
    assert certify(pair).verdict != "certified"
    same = window(interface, saturating, f"{other.replace('=0', '=1')}", weights, weights, opset=19)
    assert certify(same).verdict == "certified"
