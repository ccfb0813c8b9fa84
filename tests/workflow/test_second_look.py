"""Where a proof leaves a doubt, models are compared once more, on larger inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest

from bnfold.options import CheckOptions, ExecutionOptions, InputOptions
from bnfold.proof.equivalence import compare_models
from bnfold.workflow import second_look
from tests.support.checks import compared
from tests.support.graphs import Parameters, build, named_in, normal

WEIGHTS: Parameters = {
    "nought": np.array(0, np.float32),
    "one": np.array(1, np.float32),
    "byte": np.array(255, np.float32),
    "low": np.array([0, 1, np.inf, 3, 4], np.float32),
    "lower": np.array([0, 1, 60, 3, 4], np.float32),
    "more": np.array(257, np.float32),
    "percent": np.array(0.01, np.float32),
    "seldom": np.array(2e4, np.float32),
    "rarely": np.array(4e5, np.float32),
    "tiny": np.array(1e-12, np.float32),
    "small": np.array(1e-3, np.float32),
    "minus": np.array(-np.inf, np.float32),
    "last": np.array([-100]),
    "end": np.array([2**62]),
    "axis": np.array([1]),
    "u": normal(5, 5),
    "v": normal(5, 5, seed=1),
    "far": np.array([0, 0, -150, 0, 0], np.float32),
    "never": np.array([0, 0, -1e9, 0, 0], np.float32),
}
FLOATS = "(float[N,5] x) => (float[N,5] y)"
MAPS = "(float[N,T,5] x) => (float[N,S,5] y)"
PAIRS = [
    (FLOATS, "y = Min(x, low)", "y = Min(x, lower)"),
    (FLOATS, "d = Softplus(x) y = Clip(d, nought, byte)", "y = Softplus(x)"),
    (FLOATS, "h = MatMul(x, u) b = Add(h, far) r = Relu(b) y = MatMul(r, v)",
     "h = MatMul(x, u) b = Add(h, never) r = Relu(b) y = MatMul(r, v)"),
    (MAPS, "y = Slice(x, last, end, axis)", "y = Identity(x)"),
]  # fmt: skip


def models(interface: str, *lines: str) -> list[onnx.ModelProto]:
    return [build(f"{interface} {{ {each} }}", **named_in(each, WEIGHTS)) for each in lines]


@pytest.mark.parametrize(("interface", "one", "other"), PAIRS)
def test_what_larger_inputs_show_fails(interface: str, one: str, other: str) -> None:
    pair = models(interface, one, other)
    found = compared(*pair)
    assert found.verdict == "fail"
    assert found.certificate is not None
    assert found.certificate.open
    assert found.inputs is not None
    assert found.inputs.samples >= 6
    assert "300.0" in found.inputs.source
    assert compared(*pair, certify="off").verdict == "pass"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("y = Softplus(x)", "e = Exp(x) p = Add(e, one) y = Log(p)"),
        ("y = Softmax<axis=1>(x)", "e = Exp(x) s = ReduceSum<keepdims=1>(e, axis) y = Div(e, s)"),
        ("s = Sigmoid(x) y = Log(s)", "n = Neg(x) s = Softplus(n) y = Neg(s)"),
        ("y = Tanh(x)", "y = Tanh(x)"),
        ("h = MatMul(x, u) s = Softmax(h) y = MatMul(s, v)",
         "h = MatMul(x, u) e = Exp(h) t = ReduceSum<keepdims=1>(e, axis) d = Div(e, t) "
         "y = MatMul(d, v)"),
    ],
)  # fmt: skip
def test_inputs_that_are_too_large_for_a_model_decide_nothing(one: str, other: str) -> None:
    assert compared(*models(FLOATS, one, other)).verdict in ("pass", "identical")


def looks(one: onnx.ModelProto, other: onnx.ModelProto, **options: Any) -> int:
    """Return how often two models are compared."""
    with mock.patch.object(second_look, "compare_models", wraps=compare_models) as comparison:
        compared(one, other, **options)
    return comparison.call_count


def test_there_is_none_where_inputs_are_asked_for_or_all_is_proven() -> None:
    pair = models(*PAIRS[0])
    assert looks(*pair) == 1
    assert looks(*pair, certify="off") == 0
    assert looks(*pair, shapes={"x": [3, 5]}) == 0
    assert looks(*pair, samples=2) == 0
    assert looks(*pair, samples=4) == 1
    scales = ExecutionOptions(inputs=InputOptions(scales=(1.0, 2.0)))
    assert looks(*pair, execution=scales) == 0
    assert looks(*models(FLOATS, "y = Add(x, x)", "h = Add(x, x) y = Identity(h)")) == 0


def test_large_models_are_compared_again_only_if_a_proof_shows_a_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_pair = models(FLOATS, "y = Softplus(x)", "e = Exp(x) p = Add(e, one) y = Log(p)")
    assert looks(*open_pair) == 3
    monkeypatch.setattr(second_look, "_SMALL", 0)
    monkeypatch.setattr(second_look, "_QUICK", 0)
    assert looks(*models(*PAIRS[1])) == 1
    inputs = compared(*models(*PAIRS[1])).inputs
    assert inputs is not None
    assert inputs.shapes[0]["x"][0] < 1024
    assert looks(*models(*PAIRS[0])) == 0
    found = compared(*open_pair).certificate
    assert found is not None
    assert looks(*open_pair) == 2 * any(window.differs for window in found.open)


def test_a_table_of_positions_is_used_nearly_in_full() -> None:
    """Of which the check itself does not know at which size that is."""
    table = normal(512, 5)
    changed = table.copy()
    changed[400] += 9
    lines = (
        "s = Shape<start=1, end=2>(x) d = Add(s, s) q = Slice(p, nought, d, nought) "
        "m = ReduceMax<axes=[0], keepdims=0>(q) y = Add(x, m)"
    )
    one, other = (
        build(f"{MAPS} {{ {lines} }}", p=each, nought=np.array([0])) for each in (table, changed)
    )
    assert compared(one, other).verdict == "fail"
    assert compared(one, other, certify="off").verdict == "pass"


@pytest.mark.parametrize("interface", ["float[N,16] x", "float[N,4,4] x", "float[N,16] x, float z"])
def test_labels_that_are_looked_up_by_a_winner_are_tried_in_many_rows(interface: str) -> None:
    labels = np.arange(100)
    changed = labels.copy()
    changed[[30, 24]] = changed[[24, 30]]  # the winners of a row in five hundred
    text = (
        f"({interface}) => (int64[N] y) {{ f = Flatten(x) h = Gemm(f, w, b) "
        "i = ArgMax<axis=1, keepdims=0>(h) y = Gather(labels, i) }"
    )
    one, other = (
        build(text, w=normal(16, 100), b=normal(100, seed=1), labels=each)
        for each in (labels, changed)
    )
    assert compared(one, one).verdict == "pass"
    found = compared(one, other)
    assert found.verdict == "fail"
    assert found.inputs is not None
    assert found.inputs.shapes[0]["x"][0] == 1024
    assert compared(one, other, certify="off").verdict == "pass"


@pytest.mark.parametrize(
    ("interface", "has_small_rows"),
    [
        ("float[N,2048] x", True),
        ("float[N,2049] x", False),
        ("float[N,64,64] x", False),
        ("float[N,T,5] x", False),
        ("float[N,4] x, float[N,T] z", False),
        ("float[N,4] x, int64[N] z", True),
        ("float x", True),
    ],
)
def test_the_rows_that_are_many(tmp_path: Path, interface: str, has_small_rows: bool) -> None:
    onnx.save(build(f"({interface}) => (float[a] y) {{ y = Abs(x) }}"), tmp_path / "m.onnx")
    assert second_look._has_small_rows(tmp_path / "m.onnx") is has_small_rows


@pytest.mark.parametrize(
    ("output", "line", "has_many"),
    [
        ("float[N,4] y", "y = Abs(x)", True),
        ("seq(float[N,4]) y", "y = SequenceConstruct(x)", False),
    ],
)
def test_sequences_are_not_compared_in_many_rows(
    tmp_path: Path, output: str, line: str, has_many: bool
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(build(f"(float[N,4] x) => ({output}) {{ {line} }}"), path)
    batches = [each.batch_sizes for each in second_look._others(InputOptions(), path, path)]
    assert [1024 in sizes for sizes in batches] == [has_many, False, has_many]


def test_the_inputs_that_are_saved_are_the_first_ones(tmp_path: Path) -> None:
    checking = CheckOptions(save_inputs=tmp_path / "inputs")
    assert compared(*models(*PAIRS[0]), checking=checking).verdict == "fail"
    assert len(list((tmp_path / "inputs").iterdir())) == InputOptions.samples


MAPS_AND_MASK = "(float[N,3,6,6] x, bool[N,6] keep) => (float[N,3,6,6] y)"
CENTRED = "m = ReduceMean<axes=[2,3]>(x) c = Sub(x, m) q = Mul(c, c) z = ReduceMean<axes=[2,3]>(q)"
MASKED = "k = Unsqueeze(keep, axis) b = Unsqueeze(k, axis) l = Where(b, x, minus)"
BLANK_PAIRS = [
    # a division by zero is caught in one of them
    ("n = ReduceL2<axes=[1]>(x) d = Max(n, tiny) y = Div(x, d)",
     "n = ReduceL2<axes=[1]>(x) y = Div(x, n)"),
    # what is added to a variance
    (f"{CENTRED} w = Add(z, small) s = Sqrt(w) y = Div(c, s)",
     f"{CENTRED} w = Add(z, tiny) s = Sqrt(w) y = Div(c, s)"),
    # a row of which everything is left out
    (f"{MASKED} s = Softmax<axis=3>(l) n = IsNaN(s) y = Where(n, nought, s)",
     f"{MASKED} y = Softmax<axis=3>(l)"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), BLANK_PAIRS)
def test_blank_inputs_are_tried(one: str, other: str) -> None:
    pair = models(MAPS_AND_MASK, one, other)
    assert compared(*pair).verdict == "fail"
    assert compared(pair[0], pair[0]).verdict == "pass"


@pytest.mark.parametrize(
    ("other", "verdicts"),
    [
        ("s = Greater(x, rarely) f = Cast<to=1>(s) y = Mul(f, x)", {"fail"}),
        ("s = Less(seldom, x) f = Cast<to=1>(s) y = Mul(x, f)", {"not-verified", "certified"}),
    ],
)
def test_an_output_that_is_stuck_may_move_where_inputs_are_huge(
    other: str, verdicts: set[str]
) -> None:
    """If they are the same there, too, it still shows nothing of the usual inputs."""
    one = "s = Greater(x, seldom) f = Cast<to=1>(s) y = Mul(f, x)"
    assert compared(*models(FLOATS, one, other)).verdict in verdicts


def test_a_limit_within_a_deep_model_may_need_huge_inputs() -> None:
    body = "h = MatMul(x, u) r = Relu(h) s = Mul(r, percent) l = Min(s, {}) y = MatMul(l, v)"
    pair = models(FLOATS, body.format("byte"), body.format("more"))
    assert compared(*pair).verdict == "fail"
