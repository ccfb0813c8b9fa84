"""Where shapes are inferred: in this process only what is small, and only in one that may die."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfold.running import isolation, learning
from bnfold.running.learning import infer_small
from tests.support.graphs import build

TILED = "(float[3] x) => (float[n] y) { y = Tile(x, k) }"
SLICED = "(float[3] x) => (float[n] y) { y = Slice(x, k, e) }"


@pytest.fixture
def shapes_are_inferred_here() -> None:
    """Infer them where the command does."""


def where(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return where shapes are inferred: here or apart."""
    seen = []
    monkeypatch.setattr(learning, "infer_here", lambda _: seen.append("here"))
    monkeypatch.setattr(learning, "isolated", lambda *_: seen.append("apart"))
    infer_small(model)
    (place,) = seen
    return place


@pytest.mark.parametrize(
    ("count", "expected"), [(7, "here"), (2**24, "here"), (2**27, "apart"), (-(2**40), "apart")]
)
def test_large_numbers_are_dangerous(
    count: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(TILED, k=np.array([count]))
    assert where(model, monkeypatch) == "apart", "this process must not die"
    monkeypatch.setattr(isolation, "_forked", [1])
    assert where(model, monkeypatch) == expected


def test_an_end_beyond_all_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_forked", [1])
    model = build(SLICED, k=np.array([1]), e=np.array([2**63 - 1]))
    assert where(model, monkeypatch) == "here"
