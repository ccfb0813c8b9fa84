"""Two independent evaluations of a model: onnxruntime as written, and float64 by onnx itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from bnfold.model_io import _proto_graphs, _proto_node_lists

Array = npt.NDArray[Any]

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def run_plain(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Run on onnxruntime's CPU provider, without its optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results: list[Array] = session.run(None, dict(feeds))
    return results


def run_float64(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Evaluate in float64: every float input, weight, constant and Cast is widened."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for graph in _proto_graphs(wide):
        del graph.value_info[:]
        for value in [*graph.input, *graph.output]:
            if value.type.tensor_type.elem_type in _FLOATS:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
        for tensor in graph.initializer:
            _widen(tensor)
    for nodes in _proto_node_lists(wide):
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    _widen(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
                    attribute.i = TensorProto.DOUBLE
    wide_feeds = {
        name: each.astype(np.float64) if each.dtype.kind == "f" else each
        for name, each in feeds.items()
    }
    with np.errstate(all="ignore"):
        return [np.asarray(each) for each in ReferenceEvaluator(wide).run(None, wide_feeds)]


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        content = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(content, tensor.name))


def assert_equivalent(
    original: onnx.ModelProto,
    optimized: onnx.ModelProto,
    feeds: Mapping[str, Array],
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> None:
    """Assert equal interfaces, and equal values in onnxruntime and in float64.

    In float64 what is left of the difference is the rounding of the new weights to their type.
    """
    assert [each.SerializeToString() for each in original.graph.output] == [
        each.SerializeToString() for each in optimized.graph.output
    ]
    onnx.checker.check_model(optimized, full_check=True)
    for run in (run_plain, run_float64):
        for expected, found in zip(run(original, feeds), run(optimized, feeds), strict=True):
            assert expected.dtype == found.dtype
            assert expected.shape == found.shape
            np.testing.assert_allclose(
                found, expected, rtol=rtol, atol=atol * max(1.0, _largest(expected))
            )


def _largest(values: Array) -> float:
    return float(np.abs(values).max()) if values.size and values.dtype.kind == "f" else 0.0
