"""What recurrent operators compute of their input is proven apart from the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.normal_forms.projections import with_projections
from bnfold.proof.certificates.windows import Window
from tests.support.evaluate import run_plain
from tests.support.graphs import Array, batch_norm, build, draw_feeds, normal, operators
from tests.support.slow import few
from tests.support.windows import window

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
INTERFACE = "(float[T,N,5] x) => (float[T,D,N,H] y, float[D,N,H] z)"


def weights(kind: str, directions: int) -> dict[str, Any]:
    gates = GATES[kind] * 3
    return {
        "w": normal(directions, gates, 5, seed=1),
        "r": normal(directions, gates, 3, seed=2),
        "bias": normal(directions, 2 * gates, seed=3),
    }


def line(kind: str, directions: int, inputs: str = "w, r, bias", of: str = "x") -> str:
    direction = "bidirectional" if directions == 2 else "forward"
    more = ", linear_before_reset=1" if kind == "GRU" else ""
    return f'y, z = {kind}<hidden_size=3, direction="{direction}"{more}>({of}, {inputs})'


@pytest.mark.parametrize(
    "inputs",
    ["w, r, bias", "w, r", "w, r, bias, , h", "w, r, , , h", "w, r, bias, lens", "w, r, , lens"],
)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", list(GATES))
def test_they_compute_the_same_with_their_projection_apart(
    kind: str, directions: int, inputs: str
) -> None:
    given = weights(kind, directions)
    interface = INTERFACE
    if "h" in inputs:
        interface = interface.replace("x)", f"x, float[{directions},N,3] h)")
    if "lens" in inputs:
        interface = interface.replace("x)", "x, int32[N] lens)")
    if "bias" not in inputs:
        del given["bias"]
    model = build(f"{interface} {{ {line(kind, directions, inputs)} }}", **given)
    apart = with_projections(Window(model, model)).before
    assert operators(apart) == ["MatMul", "Add", kind]
    feeds = draw_feeds(model, sizes={"T": 6, "N": 2})
    feeds = {**feeds, "lens": np.array([6, 4], np.int32)} if "lens" in inputs else feeds
    for one, other in zip(run_plain(model, feeds), run_plain(apart, feeds), strict=True):
        np.testing.assert_allclose(other, one, 1e-4, 1e-6)


def test_weights_that_are_computed_or_large_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    given = weights("RNN", 1)
    del given["bias"]
    model = build(f"{INTERFACE} {{ u = Relu(w) {line('RNN', 1, 'u, r')} }}", **given)
    assert operators(with_projections(Window(model, model)).before) == ["Relu", "RNN"]
    monkeypatch.setattr("bnfold.proof.certificates.normal_forms.projections._LARGEST", 8)
    model = build(f"{INTERFACE} {{ {line('RNN', 1, 'w, r')} }}", **given)
    assert operators(with_projections(Window(model, model)).before) == ["RNN"]


def folded(kind: str, directions: int) -> dict[str, Array]:
    given, norm = weights(kind, directions), batch_norm(5)
    scale = norm["s"] / np.sqrt(norm["v"].astype(np.float64) + 1e-5)
    shift = norm["b"] - norm["m"] * scale
    gates = GATES[kind] * 3
    moved = given["bias"].astype(np.float64)
    moved[:, :gates] += given["w"].astype(np.float64) @ shift
    return {
        "w": np.asarray(given["w"] * scale, np.float32),
        "r": given["r"],
        "bias": moved.astype(np.float32),
    }


def swapped(parameters: dict[str, Array]) -> None:
    """Add Wb where Rb is, and Rb where Wb is."""
    halves = np.split(parameters["bias"], 2, axis=1)
    parameters["bias"] = np.concatenate(halves[::-1], axis=1)


def one_weight(parameters: dict[str, Array]) -> None:
    parameters["w"][-1, 2, 3] *= 1.001


def one_recurrent(parameters: dict[str, Array]) -> None:
    parameters["r"][0, 1, 1] += 1e-2


FOLDS = [(1, None), (2, None), (2, swapped), (2, one_weight), (2, one_recurrent)]
QUICK = [("LSTM", 1, None), ("GRU", 2, None), ("RNN", 2, swapped), ("GRU", 2, swapped)]
QUICK += [("LSTM", 2, one_weight), ("RNN", 2, one_recurrent), ("GRU", 2, one_recurrent)]


@pytest.mark.parametrize(
    ("kind", "directions", "change"),
    few([(kind, *fold) for kind in GATES for fold in FOLDS], QUICK),
)
def test_a_fold_is_proven_and_a_wrong_one_is_not(kind: str, directions: int, change: Any) -> None:
    new = folded(kind, directions)
    if change is not None:
        change(new)
    last = line(kind, directions, of="p")
    norm = "n = BatchNormalization(q, s, b, m, v)"
    before = f"{norm} p = Transpose<perm=[2,0,1]>(n) {last}"
    after = f"p = Transpose<perm=[2,0,1]>(q) {last}"
    interface = INTERFACE.replace("float[T,N,5] x", "float[N,5,T] q")
    pair = window(interface, before, after, weights(kind, directions) | batch_norm(5), new)
    certificate = certify(Window(*map(onnx.shape_inference.infer_shapes, pair.models)))
    if change is None:
        assert (certificate.verdict, certificate.kind) == ("certified", "linear")
    elif change is swapped and kind != "GRU":
        assert certificate.verdict == "sampled"  # only their sum counts
    else:
        assert certificate.verdict == "differs"


@pytest.mark.parametrize("kind", list(GATES))
def test_only_a_state_of_zeros_is_the_default(kind: str) -> None:
    row = INTERFACE.replace("[T,N,5]", "[3,2,5]")
    plain, given = line(kind, 1), line(kind, 1, "w, r, bias, , h")
    for state, expected in ((0.0, "certified"), (0.5, "differs")):
        before = {**weights(kind, 1), "h": np.full((1, 2, 3), state, np.float32)}
        found = certify(window(row, given, plain, before, weights(kind, 1)))
        assert found.verdict == expected
