"""Quantized networks: evaluated in float64, right folds pass and wrong weights fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.record.data import ProviderEquivalence
from tests.support.checks import compared_on_cpu
from tests.support.evaluate import run_plain
from tests.support.graphs import Parameters, batch_norm, build, normal
from tests.support.networks import folded_elsewhere, with_weights
from tests.support.slow import few

LAYERS = 4


SEEDS = few(range(6), [0, 1])


def each_seed(cases: list[tuple[str, float]]) -> list[Any]:
    """Return each case with six seeds, of which one is quick: 0 and 1 in turn."""
    quick = [(*case, number % 2) for number, case in enumerate(cases)]
    return few([(*case, seed) for case in cases for seed in range(6)], quick)


def network(seed: int, *, opset: int = 13, layers: int = LAYERS) -> onnx.ModelProto:
    """Return Convs with BatchNormalization and Relu, and a quantized value after each.

    A rounding error decides now and then to which step a value is rounded, in the middle.
    """
    generator = np.random.default_rng([11, seed])
    weights: Parameters = {"zero": np.array(0, np.int8), "step": np.array(0.05, np.float32)}
    lines, value, inputs = [], "x", 3
    for layer in range(layers):
        w = generator.standard_normal((8, inputs, 3, 3)) * np.sqrt(2 / (9 * inputs))
        weights[f"w{layer}"] = w.astype(np.float32)
        weights |= {f"{n}{layer}": v for n, v in batch_norm(8, seed=seed + layer).items()}
        parameters = ", ".join(f"{name}{layer}" for name in "sbmv")
        lines.append(
            f"c{layer} = Conv<pads=[1,1,1,1]>({value}, w{layer}) "
            f"n{layer} = BatchNormalization(c{layer}, {parameters}) r{layer} = Relu(n{layer}) "
            f"q{layer} = QuantizeLinear(r{layer}, step, zero) "
            f"h{layer} = DequantizeLinear(q{layer}, step, zero)"
        )
        value, inputs = f"h{layer}", 8
    weights["v"] = generator.standard_normal((8, 8, 1, 1)).astype(np.float32)
    text = (
        f"(float[N,3,12,12] x) => (float[N,8,12,12] y) {{ {' '.join(lines)} y = Conv({value}, v) }}"
    )
    return build(text, opset=opset, **weights)


def check(original: onnx.ModelProto, other: onnx.ModelProto) -> ProviderEquivalence:
    return compared_on_cpu(original, other, certify="off", figures=False)


@pytest.mark.parametrize("opset", [13, 19, 21])
def test_there_is_a_float64_evaluation(opset: int) -> None:
    model = network(0, opset=opset, layers=1)
    found = check(model, bnfold.optimize(model, check=False).to_proto())
    assert found.truth is not None
    assert [output.name for output in found.truth.outputs] == ["y"]
    assert found.truth.outputs[0].ratio is not None


@pytest.mark.parametrize("seed", SEEDS[:5])
def test_right_folds_pass(seed: int) -> None:
    """By onnxruntime, too, unless each step that is taken otherwise pushes others over theirs."""
    shallow, deep = network(seed, layers=1), network(seed)
    for model, other in (
        (shallow, folded(shallow)),
        (shallow, folded_elsewhere(shallow)),
        (deep, folded(deep)),
    ):
        found = check(model, other)
        assert (found.verdict, found.reason) == ("pass", "")
    assert check(deep, folded_elsewhere(deep)).verdict != "fail"


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    result = bnfold.optimize(model, check=False)
    assert len(result.record.rewrites) >= 1
    return result.to_proto()


def with_channel(model: onnx.ModelProto, name: str, factor: float) -> onnx.ModelProto:
    """Return the model with one channel scaled, of those that matter most to the output."""
    (w,) = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name]
    feeds = {"x": normal(2, 3, 12, 12, seed=5)}
    truth = run_plain(model, feeds)[0]
    others = []
    for channel in range(len(w)):
        wrong = w.copy()
        wrong[channel] *= np.float32(factor)
        other = with_weights(model, {name: wrong})
        error = float(np.abs(run_plain(other, feeds)[0] - truth).mean())
        others.append((error, channel, other))
    error, _, worst = max(others)
    assert error > 0
    return worst


@pytest.mark.parametrize(
    ("name", "factor", "seed"), each_seed([("w0", 1.01), ("w0", -1.0), ("v", 1.0003)])
)
def test_a_wrong_channel_fails(seed: int, name: str, factor: float) -> None:
    model = network(seed, layers=1)
    assert check(model, with_channel(model, name, factor)).verdict == "fail"


@pytest.mark.parametrize(
    ("name", "factor", "seed"), each_seed([("w0", 1.05), ("w2", 1.3), ("w3", -1.0), ("v", 1.3)])
)
def test_a_wrong_channel_between_many_steps_does_not_pass(
    seed: int, name: str, factor: float
) -> None:
    """The original's own output changes by several percent with the last bit of its weights."""
    model = network(seed)
    assert check(model, with_channel(model, name, factor)).verdict != "pass"
