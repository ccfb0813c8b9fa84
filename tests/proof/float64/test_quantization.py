"""Quantizing operators in the float64 evaluation, against onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from bnfold.proof.float64.evaluation import Truth64
from tests.support.evaluate import run_plain
from tests.support.graphs import Array, build, normal

SHAPE = (3, 4, 6)
TYPES = {"uint8": 10, "int8": 10, "uint16": 21, "int16": 21, "uint4": 21, "int4": 21}
"""The opset since which each may be quantized to."""


def dtype_of(name: str) -> Any:
    return np.dtype(getattr(ml_dtypes, name) if name.endswith("int4") else name)


def node_model(
    op_type: str, x: Array, parameters: dict[str, Array], opset: int, **attributes: Any
) -> onnx.ModelProto:
    """Return a node whose first input is the model's; a Cast follows, for types of four bits."""
    node = helper.make_node(op_type, ["x", *parameters], ["q"], **attributes)
    cast = helper.make_node("Cast", ["q"], ["y"], to=onnx.TensorProto.FLOAT)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [node, cast],
        "g",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(content, name) for name, content in parameters.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def both(folder: Path, model: onnx.ModelProto, x: Array) -> tuple[Array, Array]:
    path = folder / "m.onnx"
    onnx.save(model, path)
    return run_plain(model, {"x": x})[0], Truth64(path).outputs({"x": x})["y"]


@st.composite
def quantizations(draw: st.DrawFn) -> tuple[str, int, dict[str, Array], dict[str, int]]:
    """Draw a type, an opset, scale and zero (or none), and attributes."""
    name = draw(st.sampled_from(sorted(TYPES)))
    opsets = [opset for opset in (10, 13, 18, 19, 21, 23) if opset >= TYPES[name]]
    opset = draw(st.sampled_from(opsets))
    kinds = ["tensor"] + ["axis"] * (opset >= 13) + ["block"] * (opset >= 21)
    kind = draw(st.sampled_from(kinds))
    axis = draw(st.integers(-3, 2))
    shape: tuple[int, ...] = ()
    attributes = {}
    if kind == "axis":
        shape, attributes = (SHAPE[axis],), {"axis": axis}
    elif kind == "block":
        axis = draw(st.integers(0, 2))
        size = draw(st.sampled_from([1, 2, 3]))
        sizes = list(SHAPE)
        sizes[axis] = -(-SHAPE[axis] // size)
        shape, attributes = tuple(sizes), {"axis": axis, "block_size": size}
    seed = draw(st.integers(0, 99))
    parameters = {"scale": np.asarray(np.abs(normal(*shape, seed=seed)) + 0.05, np.float32)}
    if draw(st.booleans()) or name != "uint8":  # without a zero, bytes are meant
        low = 0 if name.startswith("u") else -5
        zero = np.random.default_rng(seed).integers(low, 8, shape)
        parameters["zero"] = np.asarray(zero).astype(dtype_of(name))
    return name, opset, parameters, attributes


@settings(max_examples=40, deadline=None)
@given(drawn=quantizations(), size=st.sampled_from([0.1, 3.0, 1e3, 1e12]), seed=st.integers(0, 99))
def test_quantize(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: tuple[str, int, dict[str, Array], dict[str, int]],
    size: float,
    seed: int,
) -> None:
    """Beyond the range of the type the limit is taken, also beyond 32 bits."""
    _, opset, parameters, attributes = drawn
    x = np.asarray(normal(*SHAPE, seed=seed) * size, np.float32)
    model = node_model("QuantizeLinear", x, parameters, opset, **attributes)
    expected, found = both(tmp_path_factory.mktemp("m"), model, x)
    # A quotient next to a half may be rounded to it in float32.
    assert np.count_nonzero(expected != found) <= 1
    np.testing.assert_allclose(found, expected, atol=1)


@settings(max_examples=40, deadline=None)
@given(drawn=quantizations(), seed=st.integers(0, 99))
def test_dequantize(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: tuple[str, int, dict[str, Array], dict[str, int]],
    seed: int,
) -> None:
    name, opset, parameters, attributes = drawn
    generator = np.random.default_rng(seed)
    low, high = (0, 8) if name.startswith("u") else (-8, 8)
    x = generator.integers(low, high, SHAPE).astype(dtype_of(name))
    model = node_model("DequantizeLinear", x, parameters, opset, **attributes)
    if name.endswith("int4"):  # onnxruntime takes no such input from numpy
        model.graph.initializer.append(numpy_helper.from_array(x, "x"))
        del model.graph.input[:]
    path = tmp_path_factory.mktemp("m") / "m.onnx"
    onnx.save(model, path)
    feeds = {} if name.endswith("int4") else {"x": x}
    expected, found = run_plain(model, feeds)[0], Truth64(path).outputs(feeds)["y"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_dequantized_integers_of_32_bits_are_exact(tmp_path: Path) -> None:
    """As a bias: onnx's own kernel rounds them to float32."""
    x = np.array([2**31 - 1, -(2**31), 16777217, 0], np.int32)
    scale = np.array(0.1, np.float32)
    model = node_model("DequantizeLinear", x, {"scale": scale}, 13)
    onnx.save(model, tmp_path / "m.onnx")
    found = Truth64(tmp_path / "m.onnx").outputs({"x": x})["y"]
    assert found.tolist() == (x.astype(np.float64) * float(scale)).tolist()


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_tiny_floats(tmp_path: Path, name: str, saturate: int) -> None:
    x = np.asarray(normal(40) * np.float32(10) ** np.linspace(-3, 6, 40), np.float32)
    parameters = {
        "scale": np.array(0.5, np.float32),
        "zero": np.zeros((), getattr(ml_dtypes, name)),
    }
    model = node_model("QuantizeLinear", x, parameters, 19, saturate=saturate)
    expected, found = both(tmp_path, model, x)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("values", ["signed", "positive", "negative", "zeros", "small"])
def test_quantize_by_the_range(tmp_path: Path, values: str) -> None:
    x = {
        "signed": normal(5, 7),
        "positive": np.abs(normal(5, 7)) + 1,
        "negative": -np.abs(normal(5, 7)) - 1,
        "zeros": np.zeros((5, 7), np.float32),
        "small": normal(5, 7) * np.float32(1e-20),
    }[values]
    model = build(
        "(float[5,7] x) => (uint8[5,7] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }"
    )
    onnx.save(model, tmp_path / "m.onnx")
    expected = run_plain(model, {"x": x})
    found = list(Truth64(tmp_path / "m.onnx").outputs({"x": x}).values())
    assert found[0].dtype == found[2].dtype == np.uint8
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
    assert found[2] == expected[2]
