"""Windows that move elements are proven to move each to the same place."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from tests.support.windows import certified, differs, window

pytestmark = pytest.mark.usefixtures("without_weights")

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


@pytest.mark.parametrize("name", ["int32", "int8", "bool", "int64"])
def test_copies_of_other_types(name: str) -> None:
    text = f"({name}[N,3,300] x) => ({name}[n] y)"
    before, after = "y = Concat<axis=1>(x, x)", "y = Tile(x, r)"
    weights = {"r": np.array([1, 2, 1])}
    certified(certify(window(text, before, after, weights)), "copying")
    differs(certify(window(text, before.replace("axis=1", "axis=2"), after, weights)))
