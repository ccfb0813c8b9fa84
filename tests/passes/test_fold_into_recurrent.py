"""fold-batchnorm and fold-scale-shift, into the projections of LSTM, GRU and RNN."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from bnfold.algebra.affine_maps.linear import NotAbsorbed
from bnfold.algebra.affine_maps.reach import NotReached
from bnfold.algebra.weights import NotStorable
from bnfold.rewriting.contract import Common
from tests.support.evaluate import run_plain
from tests.support.graphs import (
    Array,
    batch_norm,
    build,
    draw_feeds,
    make_overridable,
    normal,
    only_node,
    operators,
)
from tests.support.passes import assert_rewritten, run_pass

NAME = "fold-batchnorm"
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
OUTPUTS = {
    "y": "y",
    "y, yh": "y, yh",
    ", yh": "yh",
    "y, , yc": "y, yc",
    "y, yh, yc": "y, yh, yc",
}
"""What is declared of a node, and the outputs of its graph."""


def recurrent(
    kind: str = "LSTM",
    *,
    directions: int = 1,
    hidden: int = 3,
    channels: int = 5,
    outputs: str = "y",
    inputs: str = "t, w, r",
    attributes: str = "",
    before: str = "n = BatchNormalization(x, s, b, m, v)",
    interface: str = "",
    opset: int = 17,
    **changes: Array,
) -> onnx.ModelProto:
    """Return a BatchNormalization of (N, C, T), transposed to what the operator reads."""
    gates = GATES[kind] * hidden
    weights: dict[str, Any] = {
        "w": normal(directions, gates, channels, seed=1),
        "r": normal(directions, gates, hidden, seed=2),
        **batch_norm(channels),
    }
    if "bias" in inputs:
        weights["bias"] = normal(directions, 2 * gates, seed=3)
    ranks = {"y": "T,D,N,H", "yh": "D,N,H", "yc": "D,N,H"}
    given = ", ".join(f"float[{ranks[each]}] {each}" for each in OUTPUTS[outputs].split(", "))
    direction = '"bidirectional"' if directions == 2 else '"reverse"'
    return build(
        f"(float[N,{channels},T] x{interface}) => ({given}) {{ {before} "
        f"t = Transpose<perm=[2,0,1]>(n) {outputs} = "
        f"{kind}<hidden_size={hidden}, direction={direction}{attributes}>({inputs}) }}",
        opset=opset,
        **weights | changes,
    )


@pytest.mark.parametrize("outputs", list(OUTPUTS))
@pytest.mark.parametrize("inputs", ["t, w, r", "t, w, r, bias"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", list(GATES))
def test_folds_into_the_projection(kind: str, directions: int, inputs: str, outputs: str) -> None:
    if kind != "LSTM" and "yc" in outputs:
        outputs = outputs.replace(", , yc", "").replace(", yc", "")
    model = recurrent(kind, directions=directions, inputs=inputs, outputs=outputs)
    folded = assert_rewritten(model, NAME, ["Transpose", kind])
    assert [o.name for o in folded.graph.output] == [o.name for o in model.graph.output]
    node, old = only_node(folded, kind), only_node(model, kind)
    assert [bool(name) for name in node.output] == [bool(name) for name in old.output]
    assert node.attribute == old.attribute


def test_the_recurrent_half_of_the_bias_stays() -> None:
    """GRU adds it within a gate, where it is multiplied by another."""
    model = recurrent("GRU", inputs="t, w, r, bias", attributes=", linear_before_reset=1")
    folded = assert_rewritten(model, NAME, ["Transpose", "GRU"])
    bias = only_node(folded, "GRU").input[3]
    (new,) = (t for t in folded.graph.initializer if t.name == bias)
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(new)[:, 9:], normal(1, 18, seed=3)[:, 9:]
    )
    without = assert_rewritten(recurrent("GRU"), NAME, ["Transpose", "GRU"])
    bias = only_node(without, "GRU").input[3]
    (new,) = (t for t in without.graph.initializer if t.name == bias)
    assert not onnx.numpy_helper.to_array(new)[:, 9:].any()


def test_lengths_states_and_peepholes_are_as_before() -> None:
    model = recurrent(
        directions=2,
        inputs="t, w, r, bias, lengths, h, c, p",
        outputs="y, yh, yc",
        interface=", int32[N] lengths, float[2,N,3] h, float[2,N,3] c",
        p=normal(2, 9, seed=4),
        attributes=", clip=0.5, input_forget=1",
    )
    folded = run_pass(model, NAME).to_proto()
    assert operators(folded) == ["Transpose", "LSTM"]
    assert list(only_node(folded, "LSTM").input)[4:] == ["lengths", "h", "c", "p"]
    feeds = draw_feeds(model, sizes={"N": 3, "T": 7}) | {"lengths": np.array([7, 3, 5], np.int32)}
    for one, other in zip(run_plain(model, feeds), run_plain(folded, feeds), strict=True):
        np.testing.assert_allclose(other, one, 1e-4, 1e-5)
    certificate = bnfold.optimize(model, inputs=feeds).record.rewrites[0].certificate
    assert certificate is not None
    assert (certificate.verdict, certificate.kind) == ("certified", "linear")


@pytest.mark.parametrize("opset", [7, 9, 13, 14, 21])
def test_operator_sets(opset: int) -> None:
    assert_rewritten(recurrent(opset=opset), NAME, ["Transpose", "LSTM"])


def test_a_scale_needs_no_bias() -> None:
    model = recurrent(before="n = Mul(x, k)", k=normal(5, 1))
    folded = assert_rewritten(model, "fold-scale-shift", ["Transpose", "LSTM"])
    assert len(only_node(folded, "LSTM").input) == 3


def test_each_of_several_readers_folds() -> None:
    model = recurrent(
        before="n = BatchNormalization(x, s, b, m, v) u = Transpose<perm=[2,0,1]>(n) "
        "z = LSTM<hidden_size=3>(u, w, r) ",
        outputs="y, yh",
    )
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, ["T", 1, "N", 3]))
    assert_rewritten(model, NAME, ["Transpose", "LSTM", "Transpose", "LSTM"])


REFUSED: dict[str, tuple[onnx.ModelProto, Any]] = {
    "another axis": (
        recurrent(before="q = Transpose<perm=[0,2,1]>(x) k = BatchNormalization(q, s5, b5, m5, v5) "
                  "n = Transpose<perm=[0,2,1]>(k)",
                  **{f"{k}5": a for k, a in batch_norm(6).items()}),
        NotAbsorbed.OTHER_AXIS,
    ),
    "a state": (
        recurrent(
            before="n = Identity(x) f = BatchNormalization(h, s3, b3, m3, v3)",
            inputs="t, w, r, bias, , f",
            interface=", float[1,3,N] h",
            **{f"{k}3": a for k, a in batch_norm(3).items()},
        ),
        NotReached.READER_NOT_LINEAR,
    ),
    "overridable": (make_overridable(recurrent(), "w"), Common.WEIGHT_OVERRIDABLE),
    "computed": (recurrent(inputs="t, u, r", interface=", float[1,12,5] u"),
                 Common.WEIGHT_NOT_CONSTANT),
    "too large": (recurrent(s=np.full(5, 3e38, np.float32)), NotStorable.NOT_REPRESENTABLE),
}  # fmt: skip


@pytest.mark.parametrize("case", list(REFUSED))
def test_refusals(case: str) -> None:
    model, reason = REFUSED[case]
    result = run_pass(model, NAME)
    (refusal,) = result.record.refusals
    assert reason.name in (refusal.reason, refusal.also_reason)
    assert result.record.output is not None
    assert result.record.output.same


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_random_operators(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(list(GATES)))
    outputs = data.draw(st.sampled_from(["y", "y, yh", ", yh"]))
    channels = data.draw(st.integers(1, 9))
    model = recurrent(
        kind,
        directions=data.draw(st.integers(1, 2)),
        hidden=data.draw(st.integers(1, 7)),
        channels=channels,
        inputs=data.draw(st.sampled_from(["t, w, r", "t, w, r, bias"])),
        outputs=outputs,
        **batch_norm(channels, seed=data.draw(st.integers(0, 9))),
    )
    assert_rewritten(model, NAME, ["Transpose", kind], sizes={"N": 3, "T": 5}, certified=True)


@pytest.mark.parametrize("kind", list(GATES))
def test_the_whole_passes_the_check(kind: str) -> None:
    result = bnfold.optimize(recurrent(kind, directions=2, inputs="t, w, r, bias"), figures=False)
    assert result.record.equivalence is not None
    assert result.record.equivalence.verdict == "pass"
