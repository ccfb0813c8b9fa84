"""An elementwise operator that reads what was expanded, and one that broadcasts, are the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.windows import Window
from tests.support.windows import window

FREE = "(float[N,1] x, float[N,5] y) => (float[N,5] z)"
FIXED = "(float[3,1] x, float[3,5] y) => (float[3,5] z)"
OUTER = "(float[3,1] x, float[1,5] y) => (float[3,5] z)"
TWO = "s = Shape(y) e = Expand(x, s)"


def verdict(interface: str, before: str, after: str) -> str:
    """Return what is proven of a window whose shapes are inferred, as those of rewrites are."""
    pair = window(interface, before, after, {"row": np.array([3, 5]), "five": np.array([1, 5])})
    return certify(Window(*map(onnx.shape_inference.infer_shapes, pair.models))).verdict


@pytest.mark.parametrize("interface", [FREE, FIXED])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{TWO} z = Div(y, e)", "z = Div(y, x)"),
        (f"{TWO} a = Expand(e, s) z = Pow(a, y)", "z = Pow(x, y)"),
        ("e = Tile(x, five) z = Mul(e, y)", "z = Mul(x, y)"),
        (f"{TWO} a = Mul(e, y) z = Div(a, e)", "a = Mul(x, y) z = Div(a, x)"),
    ],
)
def test_what_is_broadcast_is_proven(interface: str, before: str, after: str) -> None:
    assert verdict(interface, before, after) == "certified"


def test_an_operand_that_has_to_be_expanded() -> None:
    assert verdict(OUTER, "e = Expand(x, row) z = Div(e, y)", "z = Div(x, y)") == "certified"


@pytest.mark.parametrize("interface", [FREE, FIXED])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{TWO} z = Div(y, e)", "z = Div(x, y)"),
        (f"{TWO} z = Div(y, e)", "z = Mul(y, x)"),
        (f"{TWO} z = Sub(e, y)", "z = Sub(y, x)"),
        (f"{TWO} a = Mul(e, y) z = Div(a, e)", "a = Mul(x, y) z = Div(a, a)"),
        (f"{TWO} z = Div(y, e)", "a = Neg(x) z = Div(y, a)"),
    ],
)
def test_what_differs_is_not(interface: str, before: str, after: str) -> None:
    assert verdict(interface, before, after) == "differs"


@pytest.mark.parametrize(
    ("before", "after", "shape"),
    [
        ("e = Expand(y, row) z = Div(e, e)", "z = Div(y, y)", "1,5"),
        ("e = Tile(x, row) z = Mul(e, e)", "z = Mul(x, x)", "1,1"),
    ],
)
def test_another_shape_is_not_proven(before: str, after: str, shape: str) -> None:
    interface = f"(float[{shape}] x, float[{shape}] y) => (z)"
    assert verdict(interface, before, after) != "certified"


@pytest.mark.parametrize("interface", [FREE, FIXED])
@pytest.mark.parametrize("operator", ["Max({0}, y)", "Pow(y, {0})", "Where(b, {0}, y)"])
@pytest.mark.parametrize(("other", "is_same"), [("k", True), ("l", False)])
def test_a_constant_that_was_expanded(
    interface: str, operator: str, other: str, is_same: bool
) -> None:
    """It is computed at each size, and then a constant, too."""
    k = np.linspace(0.5, 2, 5, dtype=np.float32)
    weights = {"k": k, "l": np.flip(k).copy()}
    less = "b = Less(y, x) "
    before = f"{less} s = Shape(y) e = Expand(k, s) z = {operator.format('e')}"
    after = f"{less} z = {operator.format(other)}"
    pair = window(interface, before, after, weights)
    found = certify(Window(*map(onnx.shape_inference.infer_shapes, pair.models))).verdict
    assert (found == "certified") == is_same
