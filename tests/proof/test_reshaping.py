"""Free sizes are chosen such that Reshapes to known sizes can run."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from bnfold.proof.certificate import certify
from bnfold.proof.reshaping import fitting
from bnfold.proof.sizing import sizings
from bnfold.proof.windows import Window
from bnfold.record.data import Certificate
from tests.support.windows import window


def pair(interface: str, before: str, after: str, **constants: Any) -> Window:
    arrays = {name: np.array(content) for name, content in constants.items()}
    found = window(interface, before, after, arrays)
    return Window(*map(onnx.shape_inference.infer_shapes, found.models))


FLATTENED = {
    "a product": ("float[N,L,6] x", "", [-1, 120], [-1, 4, 5, 6]),
    "one of two": ("float[N,L,M] x", "", [-1, 576], [-1, 9, 8, 8]),
    "behind a Transpose": ("float[N,L,6] x", "m = Transpose<perm=[0,2,1]>(x)", [-1, 120],
                           [-1, 6, 4, 5]),
    "of the second alone": ("float[N,L,6] x", "", [-1, 7, 6], [-1, 11, 7, 6]),
}  # fmt: skip
"""The input, what comes before two Reshapes, and their targets: elements must be multiples."""


@pytest.mark.parametrize("case", list(FLATTENED))
def test_a_size_may_have_to_be_a_multiple(case: str) -> None:
    given, moved, first, last = FLATTENED[case]
    of = "m" if moved else "x"

    def of_target(target: list[int]) -> Certificate:
        return certify(
            pair(
                f"({given}) => (float[A,B,C,D] y)",
                f"{moved} t = Reshape({of}, a) y = Reshape(t, b)",
                f"{moved} y = Reshape({of}, c)",
                a=first,
                b=last,
                c=target,
            )
        )

    found = of_target(last)
    assert (found.verdict, found.kind) == ("certified", "copying")
    assert of_target([last[0], *last[:0:-1]]).verdict == "differs"


OF_SIZES = (
    "s = Shape(z) n = Gather(s, zero) u = Unsqueeze(n, zero) t = Concat<axis=0>(u, rest) "
    "y = Reshape(x, t)"
)


@pytest.mark.parametrize("more", ["", ", float[N,2] z"])
def test_a_size_may_be_the_product_of_others(more: str) -> None:
    lines = OF_SIZES if more else OF_SIZES.replace("Shape(z)", "Shape(x)")
    constants = {"zero": 0, "rest": [4, 5, 6]}
    lines = lines.replace("Unsqueeze(n, zero)", "Reshape(n, single)")
    found = pair(
        f"(float[N,L,6] x{more}) => (float[A,B,C,D] y)",
        lines,
        "y = Reshape(x, c)",
        **constants,
        single=[1],
        c=[-1, 4, 5, 6],
    )
    assert certify(found).verdict == "certified"


def test_what_runs_or_cannot_run_at_all_stays() -> None:
    runs = pair("(float[N,L,6] x) => (float[A,B] y)", "y = Reshape(x, a)", "y = Reshape(x, a)",
                a=[-1, 6])  # fmt: skip
    assert [fitting(runs, each) for each in sizings(runs)] == [None] * len(sizings(runs))
    never = pair("(float[4,3] x) => (float[A,B] y)", "y = Reshape(x, a)", "y = Reshape(x, a)",
                 a=[7, 2])  # fmt: skip
    assert [fitting(never, each) for each in sizings(never)] == [None] * len(sizings(never))
    huge = pair("(float[N,3] x) => (float[A,B] y)", "y = Reshape(x, a)", "y = Reshape(x, a)",
                a=[2**20, 2**20])  # fmt: skip
    assert [fitting(huge, each) for each in sizings(huge)] == [None] * len(sizings(huge))
