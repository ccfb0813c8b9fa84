"""Seeded networks of several kinds, right and wrong variants of them, and how wrong those are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from tests.support.evaluate import run_float64, run_plain
from tests.support.graphs import Array, Parameters, batch_norm, build

Network = Callable[[int, float], onnx.ModelProto]


def _scaled(generator: np.random.Generator, *shape: int, gain: float) -> Array:
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    return np.asarray(generator.standard_normal(shape) * gain / np.sqrt(fan_in), np.float32)


def deep(seed: int, gain: float) -> onnx.ModelProto:
    """Return ten Convs with BatchNormalization and Relu, two of them residual."""
    generator = np.random.default_rng([1, seed])
    weights: Parameters = {"w0": _scaled(generator, 8, 3, 3, 3, gain=gain)}
    lines = ["h0 = Conv<pads=[1,1,1,1]>(x, w0)"]
    for layer in range(1, 10):
        weights[f"w{layer}"] = _scaled(generator, 8, 8, 3, 3, gain=1.4)
        for name, value in batch_norm(8, seed=seed + layer).items():
            weights[f"{name}{layer}"] = value
        parameters = ", ".join(f"{name}{layer}" for name in "sbmv")
        lines.append(
            f"c{layer} = Conv<pads=[1,1,1,1]>(h{layer - 1}, w{layer}) "
            f"n{layer} = BatchNormalization(c{layer}, {parameters}) r{layer} = Relu(n{layer}) "
            f"h{layer} = Add(r{layer}, h{layer - 1})"
        )
    text = f"(float[N,3,H,W] x) => (float[N,8,h,w] y) {{ {' '.join(lines)} y = Identity(h9) }}"
    return build(text, **weights)


def normalised(seed: int, gain: float) -> onnx.ModelProto:
    """Return dense layers with LayerNormalization between."""
    generator = np.random.default_rng([2, seed])
    weights: Parameters = {"g": generator.uniform(0.5, 1.5, 32).astype(np.float32)}
    weights["z"] = generator.normal(0, 0.1, 32).astype(np.float32)
    lines, value = [], "x"
    for layer in range(5):
        weights[f"w{layer}"] = _scaled(generator, 32, 32, gain=gain)
        weights |= {f"{n}{layer}": v for n, v in batch_norm(32, seed=seed + layer).items()}
        parameters = ", ".join(f"{name}{layer}" for name in "sbmv")
        lines.append(
            f"c{layer} = MatMul({value}, w{layer}) "
            f"t{layer} = BatchNormalization(c{layer}, {parameters}) "
            f"l{layer} = LayerNormalization(t{layer}, g, z)"
        )
        value = f"l{layer}"
    text = f"(float[N,32] x) => (float[N,32] y) {{ {' '.join(lines)} y = Tanh({value}) }}"
    return build(text, **weights)


def gated(seed: int, gain: float) -> onnx.ModelProto:
    """Return Convs whose channels are gated by a Sigmoid of their averages."""
    generator = np.random.default_rng([3, seed])
    weights: Parameters = {"w0": _scaled(generator, 8, 3, 3, 3, gain=gain)}
    lines, value = ["h0 = Conv<pads=[1,1,1,1]>(x, w0)"], "h0"
    for layer in range(1, 5):
        weights[f"w{layer}"] = _scaled(generator, 8, 8, 3, 3, gain=1.5)
        weights[f"u{layer}"] = _scaled(generator, 8, 8, 1, 1, gain=1.0)
        weights |= {f"{n}{layer}": v for n, v in batch_norm(8, seed=seed + layer).items()}
        parameters = ", ".join(f"{name}{layer}" for name in "sbmv")
        lines.append(
            f"c{layer} = Conv<pads=[1,1,1,1]>({value}, w{layer}) "
            f"n{layer} = BatchNormalization(c{layer}, {parameters}) "
            f"a{layer} = GlobalAveragePool(n{layer}) e{layer} = Conv(a{layer}, u{layer}) "
            f"q{layer} = Sigmoid(e{layer}) h{layer} = Mul(n{layer}, q{layer})"
        )
        value = f"h{layer}"
    text = f"(float[N,3,H,W] x) => (float[N,8,h,w] y) {{ {' '.join(lines)} y = Elu({value}) }}"
    return build(text, **weights)


def recurrent(seed: int, gain: float) -> onnx.ModelProto:
    """Return a BatchNormalization between a Gemm and an LSTM."""
    generator = np.random.default_rng([4, seed])
    weights: Parameters = {
        "w0": _scaled(generator, 16, 16, gain=gain),
        "w1": _scaled(generator, 1, 64, 16, gain=1.0),
        "w2": _scaled(generator, 1, 64, 16, gain=1.0),
    }
    weights |= batch_norm(16, seed=seed)
    text = (
        "(float[N,16] x) => (float[N,1,1,16] y) { m = MatMul(x, w0) "
        "n = BatchNormalization(m, s, b, m0, v) u = Unsqueeze(n, one) "
        "y, h, c = LSTM<hidden_size=16>(u, w1, w2) }"
    )
    weights["m0"], weights["one"] = weights.pop("m"), np.array([1])
    return build(text, **weights)


def attention(seed: int, gain: float) -> onnx.ModelProto:
    """Return one head of attention over 12 positions, after a BatchNormalization."""
    generator = np.random.default_rng([5, seed])
    weights: Parameters = {
        name: _scaled(generator, 16, 16, gain=gain if name == "wq" else 1.0)
        for name in ("wq", "wk", "wv", "w0")
    }
    weights |= batch_norm(16, seed=seed)
    text = (
        "(float[N,16,12] x) => (float[N,12,16] y) { n = BatchNormalization(x, s, b, m, v) "
        "t = Transpose<perm=[0,2,1]>(n) q = MatMul(t, wq) k = MatMul(t, wk) z = MatMul(t, wv) "
        "kt = Transpose<perm=[0,2,1]>(k) l = MatMul(q, kt) p = Softmax(l) o = MatMul(p, z) "
        "y = MatMul(o, w0) }"
    )
    return build(text, **weights)


NETWORKS: Mapping[str, Network] = {
    "deep": deep,
    "normalised": normalised,
    "gated": gated,
    "recurrent": recurrent,
    "attention": attention,
}
GAINS = (0.1, 1.0, 10.0)


# --- Variants -------------------------------------------------------------------------------------


def with_weights(model: onnx.ModelProto, changed: Mapping[str, Array]) -> onnx.ModelProto:
    """Return the model with other content in some weights."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        if tensor.name in changed:
            content = changed[tensor.name].astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(content, tensor.name))
    return other


def floats(model: onnx.ModelProto) -> dict[str, Array]:
    """Return the float weights by name, in float64."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {n: v.astype(np.float64) for n, v in tensors.items() if v.dtype == np.float32}


def off_by_a_unit(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Return the model with each weight moved to an adjacent number: as right as rounding gets."""
    generator = np.random.default_rng([6, seed])
    moved = {}
    for name, content in floats(model).items():
        single = content.astype(np.float32)
        up = generator.random(content.shape) < 0.5
        moved[name] = np.nextafter(single, np.where(up, np.inf, -np.inf).astype(np.float32))
    return with_weights(model, moved)


def folded_elsewhere(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return what onnxruntime itself folds the model to, in float32: right, and rounded more."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return onnx.load(path)


def with_border(model: onnx.ModelProto, value: float) -> onnx.ModelProto:
    """Return the model with another value than zero around the map of its third Conv."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    padding = [node for node in other.graph.node if node.op_type == "Conv" and node.attribute]
    conv = padding[min(2, len(padding) - 1)]
    at = list(other.graph.node).index(conv)
    del conv.attribute[:]
    pad = helper.make_node("Pad", [conv.input[0], "pads", "border"], ["bordered"])
    conv.input[0] = "bordered"
    other.graph.node.insert(at, pad)
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    other.graph.initializer.append(numpy_helper.from_array(pads, "pads"))
    constant = np.array(value, np.float32)
    other.graph.initializer.append(numpy_helper.from_array(constant, "border"))
    return other


def direction(model: onnx.ModelProto, kind: str, seed: int) -> tuple[str, Array]:
    """Return a weight and what to change of it: a weight, a channel, or a tap of a kernel."""
    generator = np.random.default_rng([7, seed])
    names = sorted(name for name in floats(model) if name.startswith("w"))
    name = names[int(generator.integers(len(names)))]
    content = floats(model)[name]
    change = np.zeros_like(content)
    index = tuple(int(generator.integers(size)) for size in content.shape)
    if kind == "weight":
        change[index] = 1.0
    elif kind == "channel":
        channel = index[1] if content.ndim == 3 else index[0]
        if content.ndim == 3:
            change[:, channel] = content[:, channel]
        else:
            change[channel] = content[channel]
    elif kind == "tap":
        at: tuple[Any, ...] = (slice(None), *([slice(None)] if content.ndim > 2 else []))
        change[at + index[len(at) :]] = 1.0
    return name, change


def severity(
    original: onnx.ModelProto, other: onnx.ModelProto, feeds: Mapping[str, Array], seed: int
) -> float:
    """Return by how many times its own rounding noise an output is off, in the worst channel.

    Both in root mean square: the difference in float64, and what the original's output moves by, in
    float32, when its inputs and weights move by their last bit, or its error if that is more.
    """
    truth, changed = (run_float64(model, feeds)[0] for model in (original, other))
    single = run_plain(original, feeds)[0].astype(np.float64)
    nudged = {
        name: np.nextafter(value, np.float32(np.inf)).astype(np.float32)
        for name, value in feeds.items()
    }
    moved = run_plain(off_by_a_unit(original, seed), nudged)[0].astype(np.float64)
    axes = tuple(
        axis for axis in range(truth.ndim) if axis != (1 if truth.ndim == 4 else -1 % truth.ndim)
    )
    noise = np.maximum(_rms(moved - single, axes), _rms(single - truth, axes))
    return float(np.max(_rms(changed - truth, axes) / np.maximum(noise, 1e-30)))


def _rms(values: Array, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.sqrt(np.mean(values**2, axis=axes)))


def wrong_by(
    model: onnx.ModelProto, kind: str, times: float, feeds: Mapping[str, Array], seed: int
) -> onnx.ModelProto | None:
    """Return the model with a change that puts its output off by so many times its own noise.

    None if there is no such change: a weight that no input reaches.
    """
    name, change = direction(model, kind, seed)
    base, step = floats(model)[name], 1e-4
    for _ in range(12):
        other = (
            with_border(model, step)
            if kind == "border"
            else with_weights(model, {name: base + step * change})
        )
        found = severity(model, other, feeds, seed)
        if times <= found <= 1.5 * times:
            return other
        if not np.isfinite(found) or step > 1e6:
            return None
        step *= 1.2 * times / found if found > 1e-3 else 30.0
    return None
