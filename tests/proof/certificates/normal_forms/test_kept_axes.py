"""Reductions that keep their axes or drop them: what differs is said to differ."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from tests.support.graphs import Array
from tests.support.windows import window

INTERFACE = "(float[N,3,3] x) => (float[a,b,c] y)"
DROPPED = "a = ReduceMax<axes=[1], keepdims=0>(x) y = Unsqueeze(a, s)"
KEPT = "a = ReduceMax<axes=[1], keepdims=1>(x) y = Squeeze(a, s)"


def verdict(before: str, after: str, *axes: int, opset: int = 17) -> str:
    weights: dict[str, Array] = {"s": np.array(axes)}
    return certify(window(INTERFACE, before, after, weights, opset=opset)).verdict


@pytest.mark.parametrize(
    ("before", "after", "axes"),
    [
        (DROPPED, "y = ReduceMax<axes=[1]>(x)", [1]),
        (DROPPED, "y = ReduceMax<axes=[1]>(x)", [-2]),
        (KEPT, "y = ReduceMax<axes=[1], keepdims=0>(x)", [1]),
        (KEPT, "y = ReduceMax<axes=[1], keepdims=0>(x)", [-2]),
    ],
)
def test_the_same_axes_are_certified(before: str, after: str, axes: list[int]) -> None:
    assert verdict(before, after, *axes) == "certified"


@pytest.mark.parametrize(
    ("before", "after", "axes"),
    [
        (DROPPED, "y = ReduceMax<axes=[1]>(x)", [2]),
        (DROPPED, "y = ReduceMax<axes=[2]>(x)", [1]),
        (DROPPED, "y = ReduceMin<axes=[1]>(x)", [1]),
        (DROPPED, "y = ReduceMax<axes=[1]>(x)", [1, 2]),
        (DROPPED, "y = ReduceMax<axes=[1], keepdims=0>(x)", [1]),
        (KEPT, "y = ReduceMax<axes=[2], keepdims=0>(x)", [1]),
        (KEPT, "y = ReduceMax<axes=[1], keepdims=1>(x)", [1]),
    ],
)
def test_others_differ(before: str, after: str, axes: list[int]) -> None:
    assert verdict(before, after, *axes) == "differs"


def test_no_axes_may_mean_no_reduction() -> None:
    noop = "ReduceMax<noop_with_empty_axes=1, keepdims=KEPT>(x)"
    before = f"a = {noop} y = Unsqueeze(a, s)".replace("KEPT", "0")
    assert verdict(before, f"y = {noop}".replace("KEPT", "1"), 0, 1, 2, opset=18) == "differs"


def test_what_onnxruntime_takes_for_dropped_is_not_kept() -> None:
    """The standard knows 0 and 1."""
    window_of_two = verdict("y = ReduceMax<axes=[1], keepdims=2>(x)", "y = ReduceMax<axes=[1]>(x)")
    assert window_of_two != "certified"
