"""Small models for tests: written as text, with their weights as arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
Parameters: TypeAlias = dict[str, Any]
"""Arrays by name. Any, because they are passed along with other keyword arguments."""


def build(
    graph: str, *, opset: int = 17, ir_version: int = 8, **initializers: Array
) -> onnx.ModelProto:
    """Make a model from ``(float[N,3,8,8] x) => (float[N,4,8,8] y) { y = Conv(x, w) }``.

    The arrays become initializers. Up to IR version 3 they are listed as inputs, too.
    """
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>'
    model = onnx.parser.parse_model(f"{header} graph {graph}")
    for name, content in initializers.items():
        tensor = numpy_helper.from_array(content, name)
        model.graph.initializer.append(tensor)
        if ir_version < 4:
            model.graph.input.append(
                helper.make_tensor_value_info(name, tensor.data_type, content.shape)
            )
    return model


def named_in(text: str, arrays: Mapping[str, Any]) -> Parameters:
    """Return the arrays whose names are words of a graph's text."""
    words = set(re.findall(r"\w+", text))
    return {name: array for name, array in arrays.items() if name in words}


def normal(*shape: int, seed: int = 0, dtype: npt.DTypeLike = np.float32) -> Array:
    """Return seeded normal values."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def scalar(value: float, dtype: npt.DTypeLike = np.float32) -> Array:
    """Return a tensor without axes."""
    return np.array(value, dtype)


def ints(*numbers: int) -> Array:
    """Return a vector of these numbers, as operators take sizes, axes and indices."""
    return np.array(numbers, np.int64)


def batch_norm(channels: int, *, seed: int = 0, dtype: npt.DTypeLike = np.float32) -> Parameters:
    """Return the parameters of a BatchNormalization, by the names s, b, m and v.

    Some scales are negative, and all parameters are far from those of the identity.
    """
    generator = np.random.default_rng([seed, channels])
    return {
        "s": (generator.uniform(0.5, 2, channels) * generator.choice([-1, 1], channels)).astype(
            dtype
        ),
        "b": generator.normal(0, 1, channels).astype(dtype),
        "m": generator.normal(0, 1, channels).astype(dtype),
        "v": generator.uniform(0.1, 4, channels).astype(dtype),
    }


def make_overridable(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """List initializers as inputs, so that a caller may override them (IR version 4 and later)."""
    for tensor in model.graph.initializer:
        if tensor.name in names:
            model.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return model


def operators(model: onnx.ModelProto) -> list[str]:
    """Return the operators of the main graph, in order."""
    return [node.op_type for node in model.graph.node]


def initializer(model: onnx.ModelProto, name: str) -> Array:
    """Return the content of an initializer."""
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    return numpy_helper.to_array(tensor)


def only_node(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    """Return the one node of this type."""
    nodes: list[onnx.NodeProto] = [node for node in model.graph.node if node.op_type == op_type]
    (node,) = nodes
    return node


def draw_feeds(
    model: onnx.ModelProto, seed: int = 0, sizes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Return signed values for each input; free dimensions are 2 unless `sizes` has them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for index, value in enumerate(model.graph.input):
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        shape = [
            (sizes or {}).get(dim.dim_param, 2) if dim.dim_param else dim.dim_value
            for dim in tensor.shape.dim
        ]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        generator = np.random.default_rng([seed, index])
        if dtype.kind == "f":
            feeds[value.name] = (generator.standard_normal(shape) * 3).astype(dtype)
        else:
            feeds[value.name] = generator.integers(0, 2, shape).astype(dtype)
    return feeds
