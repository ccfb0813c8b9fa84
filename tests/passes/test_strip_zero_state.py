"""strip-zero-state: initial states that are zero for every input are left out."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import bnfold
from tests.support.evaluate import assert_equal_outputs, assert_equivalent
from tests.support.graphs import Parameters, build, draw_feeds, make_overridable, normal
from tests.support.passes import run_pass

NAME = "strip-zero-state"
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}

SIZES = "s = Shape(x) b = Slice(s, at, then) t = Concat<axis=0>(first, b, last) "
WEIGHTS: Parameters = {
    "at": np.array([1]),
    "then": np.array([2]),
    "last": np.array([3]),
    "nil": np.zeros((), np.float32),
    "number": np.full((), 0.5, np.float32),
    "row": np.zeros((1, 2, 3), np.float32),
    "other": normal(1, 2, 3),
    "turned": np.zeros((3, 2, 1), np.float32),
    "half": np.zeros((1, 1, 3), np.float32),
}


def recurrent(
    lines: str,
    states: str,
    kind: str = "LSTM",
    x: str = "T,N,2",
    results: str = "y, h, c",
    opset: int = 17,
    both: bool = False,
) -> onnx.ModelProto:
    """Return a model of one recurrent operator that begins with these states."""
    directions = 2 if both else 1
    weights: Parameters = {
        "W": normal(directions, GATES[kind] * 3, 2),
        "R": normal(directions, GATES[kind] * 3, 3),
        "first": np.array([directions]),
        **WEIGHTS,
    }
    names = [name for name in results.split(", ") if name]
    direction = 'direction = "bidirectional", ' if both else ""
    given = {name: c for name, c in weights.items() if f"{name}" in f"{lines} {states} W R"}
    outputs = ", ".join(
        f"float[{','.join('abcd' if name == 'y' else 'abc')}] {name}" for name in names
    )
    return build(
        f"(float[{x}] x) => ({outputs}) "
        f"{{ {lines} {results} = {kind}<{direction}hidden_size = 3>(x, W, R, , , {states}) }}",
        opset=opset,
        **given,
    )


def stripped(model: onnx.ModelProto, *, certified: bool = False) -> list[str]:
    """Return what the operator reads; assert equal results, and a fixpoint."""
    optimized = run_pass(model, NAME).to_proto()
    feeds = draw_feeds(model, sizes={"T": 4, "N": 2})
    assert_equal_outputs(model, optimized, feeds)
    assert_equivalent(model, optimized, feeds)
    assert not run_pass(optimized, NAME).record.rewrites
    if certified:
        record = bnfold.optimize(model, passes=bnfold.PassOptions(only=[NAME])).record
        verdicts = [each.certificate.verdict for each in record.rewrites if each.certificate]
        assert verdicts == ["certified"]
    (node,) = [node for node in optimized.graph.node if node.op_type in GATES]
    return list(node.input)


@pytest.mark.parametrize(
    ("lines", "states"),
    [
        (f"{SIZES} z = ConstantOfShape(t)", "z, z"),
        (f"{SIZES} z = ConstantOfShape<value = float[1] {{0.0}}>(t)", "z, z"),
        (f"{SIZES} z = Expand(nil, t)", "z, z"),
        (f"{SIZES} z = Expand(half, t) v = Identity(z) w = Cast<to=1>(v)", "z, w"),
        ("z = Concat<axis=1>(half, half) v = Transpose<perm=[2,1,0]>(turned)", "z, v"),
        ("", "row, row"),
    ],
)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_states_of_zeros(kind: str, lines: str, states: str) -> None:
    is_lstm = kind == "LSTM"
    model = recurrent(
        lines,
        states if is_lstm else states.split(", ")[0],
        kind,
        "T,2,2" if "Shape" not in lines else "T,N,2",
        "y, h, c" if is_lstm else "y, h",
    )
    assert stripped(model, certified=is_lstm) == ["x", "W", "R"]


@pytest.mark.parametrize("results", ["y", ", h", ", , c", "y, , c"])
def test_some_results(results: str) -> None:
    model = recurrent(f"{SIZES} z = ConstantOfShape(t)", "z, z", results=results)
    assert stripped(model, certified=results == ", h") == ["x", "W", "R"]


@pytest.mark.parametrize("opset", [9, 14, 21])
def test_both_directions(opset: int) -> None:
    lines = SIZES.replace("Slice(s, at, then)", "Gather(s, at)") + "z = ConstantOfShape(t)"
    assert stripped(recurrent(lines, "z, z", opset=opset, both=True)) == ["x", "W", "R"]


def test_one_state_of_two() -> None:
    lines = f"{SIZES} z = ConstantOfShape(t)"
    assert stripped(recurrent(lines, "other, z", x="T,2,2")) == ["x", "W", "R", "", "", "other"]
    expected = ["x", "W", "R", "", "", "", "other"]
    assert stripped(recurrent(lines, "z, other", x="T,2,2"), certified=True) == expected


@pytest.mark.parametrize(
    ("lines", "states"),
    [
        (f"{SIZES} z = ConstantOfShape<value = float[1] {{0.5}}>(t)", "z, z"),
        (f"{SIZES} z = Expand(number, t)", "z, z"),
        (f"{SIZES} v = ConstantOfShape(t) z = Exp(v)", "z, z"),
        (f"{SIZES} v = ConstantOfShape(t) w = Expand(number, t) u = Concat<axis=1>(v, w) "
         "z = Slice(u, at, then, at)", "z, z"),
        ("", "other, other"),
        ("v = Reshape(x, first) z = Expand(v, first)", "z, z"),
    ],
)  # fmt: skip
def test_other_states_stay(lines: str, states: str) -> None:
    x = "T,N,2" if lines else "T,2,2"
    assert not run_pass(recurrent(lines, states, x=x), NAME).record.rewrites


def test_a_state_that_a_caller_may_override_stays() -> None:
    model = make_overridable(recurrent("", "row, row", x="T,2,2"), "row")
    assert not run_pass(model, NAME).record.rewrites


@pytest.mark.parametrize(
    "fill",
    ["ConstantOfShape(t)", "Expand(nil, t)", "Expand(nil, t) v = Transpose(z) z0 = Transpose(v)"],
)
def test_a_state_of_sizes_that_a_caller_may_override_is_no_difference(fill: str) -> None:
    """Whatever its sizes are computed from, it is zero: the window knows that, if not the sizes."""
    lines = f"t = Concat<axis=0>(first, then, last) z = {fill}"
    state = "z0" if "z0" in fill else "z"
    model = make_overridable(recurrent(lines, state, "RNN", "T,2,2", "y"), "then")
    (found,) = bnfold.optimize(model, only=[NAME]).record.rewrites
    assert found.certificate is not None
    assert (found.certificate.verdict, found.certificate.note) == (
        "open",
        "its input 't' is of integers",
    )


def test_a_long_way_to_a_state_is_not_followed() -> None:
    for steps, rewrites in ((20, 1), (40, 0)):
        chain = " ".join(f"v{n + 1} = Identity(v{n})" for n in range(steps))
        lines = f"{SIZES} v0 = ConstantOfShape(t) {chain}"
        model = recurrent(lines, f"v{steps}", "GRU", results="y")
        assert len(run_pass(model, NAME).record.rewrites) == rewrites
