"""What the graph tells of inputs and outputs: positions in tables, shapes that hang on data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.proof.traits import Traits
from tests.support.graphs import build, normal


def traits(folder: Path, graph: str) -> Traits:
    onnx.save(build(graph, table=normal(50, 4), small=normal(7, 4)), folder / "m.onnx")
    return Traits.of(folder / "m.onnx")


@pytest.mark.parametrize(
    ("body", "largest"),
    [
        ("{ y = Gather(table, i) }", 49),
        ("{ y = Gather<axis=1>(table, i) }", 3),
        ("{ c = Cast<to=7>(i) u = Unsqueeze(c, one) y = Gather(table, u) }", 49),
        ("{ a = Gather(table, i) b = Gather(small, i) y = Add(a, b) }", 6),
        ("{ r = Expand(i, two) y = GatherElements(table, r) }", 49),
        ("{ y = Cast<to=1>(i) }", None),
        ("{ n = Neg(i) y = Gather(table, n) }", None),
    ],
)
def test_positions_stay_inside_the_table(tmp_path: Path, body: str, largest: int | None) -> None:
    graph = f"(int64[N] i, int64[1] one, int64[2] two) => (float[?] y) {body}"
    found = traits(tmp_path, graph).hints.largest
    assert found.get("i") == largest


def test_a_model_of_words_is_verified_over_its_whole_vocabulary() -> None:
    model = build(
        "(int64[N,L] words) => (float[N,L,4] y) { t = Gather(table, words) y = Tanh(t) }",
        table=normal(5000, 4),
    )
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.doc_string = "another"
    record = bnfold.check(model, other)
    assert record.equivalence is not None
    assert record.equivalence.verdict == "pass"
    assert record.equivalence.inputs is not None
    assert record.equivalence.inputs.ranges == {"words": 4999}


def test_shapes_that_hang_on_data(tmp_path: Path) -> None:
    graph = (
        "(float[N,4] x) => (int64[2,K] where, float[N,4] y, float[M] z) "
        "{ where = NonZero(x) y = Neg(x) w = Transpose(where) z = GatherND(x, w) }"
    )
    assert traits(tmp_path, graph).data_dependent == {"where", "z"}


def test_a_model_that_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    found = Traits.of(tmp_path / "m.onnx")
    assert (found.hints.largest, found.data_dependent) == ({}, frozenset())


def test_how_much_is_found_may_hang_on_the_last_bit() -> None:
    """Then the verdict is open; where as much is found, it is not."""
    text = "(float[N,64] x) => (int64[2,K] y) { p = Relu(x) q = Sub(p, k) y = NonZero(q) }"
    reference = build(text, k=np.zeros(1, np.float32))
    same = build(text.replace("Relu(x)", "Max(x, k)"), k=np.zeros(1, np.float32))
    other = build(text, k=np.full(1, 1e-7, np.float32))
    passed, undecided = (bnfold.check(reference, each).equivalence for each in (same, other))
    assert passed is not None
    assert undecided is not None
    assert passed.verdict == "pass"
    assert undecided.verdict == "not-verified"
    assert "depends on the data" in undecided.reason
