"""Windows of sequences: what takes the place of one is certified, or said to differ."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from tests.support.graphs import Parameters
from tests.support.windows import window

PARTS = "s = SplitToSequence(x, n) y = SequenceAt(s, one)"
LIST = "e = SequenceEmpty() s = SequenceInsert(e, x) t = SequenceInsert(s, r) "


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (PARTS, "a, y = Split<axis=0>(x, n)", "certified"),
        (PARTS, "y, b = Split<axis=0>(x, n)", "differs"),
        (PARTS, "y = Slice(x, two, five)", "certified"),
        (PARTS, "y = Slice(x, two, four)", "differs"),
        (PARTS, "y = Slice(x, one_, four)", "differs"),
        (LIST + "y = ConcatFromSequence<axis=0>(t)", "y = Concat<axis=0>(x, r)",
         "certified"),
        (LIST + "y = ConcatFromSequence<axis=0>(t)", "y = Concat<axis=0>(r, x)",
         "differs"),
        (LIST + "y = SequenceAt(t, one)", "y = Identity(r)", "certified"),
        (LIST + "y = SequenceAt(t, one)", "y = Identity(x)", "differs"),
    ],
)  # fmt: skip
def test_sequences(before: str, after: str, expected: str) -> None:
    known = {"n": [2, 3], "one": 1, "one_": [1], "two": [2], "four": [4], "five": [5]}
    weights: Parameters = {name: np.array(content) for name, content in known.items()}
    others = ", float[N,2] r" if before.startswith(LIST) else ""
    interface = f"(float[N,2] x{others}) => (float[M,K] y)"
    assert certify(window(interface, before, after, weights)).verdict == expected
