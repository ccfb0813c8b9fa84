"""Two independent evaluations of a model: onnxruntime as written, and float64 by onnx itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException as OnnxRuntimeException

from bnfold.modelfile.protos import graphs_of, node_lists_of

Array = npt.NDArray[Any]

RuntimeException = (InvalidArgument, Fail, OnnxRuntimeException)
"""What onnxruntime raises if a model does not run on its inputs."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def run_plain(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Run on onnxruntime's CPU provider, without its optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # threads take longer to start than such models to run
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results: list[Array] = session.run(None, dict(feeds))
    return results


def run_float64(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Evaluate in float64: every float input, weight, constant and Cast is widened."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for graph in graphs_of(wide):
        del graph.value_info[:]
        for value in [*graph.input, *graph.output]:
            if value.type.tensor_type.elem_type in _FLOATS:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
        for tensor in graph.initializer:
            _widen(tensor)
    for nodes in node_lists_of(wide):
        for node in nodes:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                    attribute.CopyFrom(_tensor_of(attribute))
                if attribute.HasField("t"):
                    _widen(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
                    attribute.i = TensorProto.DOUBLE
    wide_feeds = {
        name: content.astype(np.float64) if content.dtype.kind == "f" else content
        for name, content in feeds.items()
    }
    with np.errstate(all="ignore"):
        evaluator = ReferenceEvaluator(wide, new_ops=[BatchNormalization, ConvTranspose])
        return [np.asarray(output) for output in evaluator.run(None, wide_feeds)]


def _tensor_of(attribute: onnx.AttributeProto) -> onnx.AttributeProto:
    content = np.array(onnx.helper.get_attribute_value(attribute), np.float32)
    return onnx.helper.make_attribute("value", numpy_helper.from_array(content))


class BatchNormalization(OpRun):
    """Inference at every opset. onnx's own fails before opset 9 and trains from 9 to 13."""

    def _run(
        self, x: Array, s: Array, b: Array, m: Array, v: Array, epsilon: float, **_: object
    ) -> tuple[Array]:
        s, b, m, v = (array.reshape(-1, *[1] * (x.ndim - 2)) for array in (s, b, m, v))
        return (s * (x - m) / np.sqrt(v + epsilon) + b,)


class ConvTranspose(OpRun):
    """Any number of groups. onnx's own is wrong for more than one."""

    def _run(
        self,
        x: Array,
        w: Array,
        bias: Array | None = None,
        *,
        dilations: Sequence[int] | None = None,
        group: int = 1,
        output_padding: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        **_: object,
    ) -> tuple[Array]:
        rank = x.ndim - 2
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        pads, extra = pads or [0] * 2 * rank, output_padding or [0] * rank
        kernel, size = w.shape[2:], x.shape[2:]
        full = [
            (size[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + extra[i]
            for i in range(rank)
        ]
        per_group = x.shape[1] // group
        y = np.zeros((x.shape[0], group * w.shape[1], *full))
        for g in range(group):
            inputs = slice(g * per_group, (g + 1) * per_group)
            outputs = slice(g * w.shape[1], (g + 1) * w.shape[1])
            for tap in np.ndindex(*kernel):
                starts = [tap[i] * dilations[i] for i in range(rank)]
                where = [
                    slice(starts[i], starts[i] + (size[i] - 1) * strides[i] + 1, strides[i])
                    for i in range(rank)
                ]
                y[(slice(None), outputs, *where)] += np.einsum(
                    "ni...,io->no...", x[:, inputs], w[(inputs, slice(None), *tap)]
                )
        cropped = [slice(pads[i], full[i] - pads[rank + i]) for i in range(rank)]
        y = y[(slice(None), slice(None), *cropped)]
        return (y if bias is None else y + bias.reshape(-1, *[1] * rank),)


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        content = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(content, tensor.name))


def assert_equal_outputs(
    original: onnx.ModelProto, optimized: onnx.ModelProto, feeds: Mapping[str, Array]
) -> None:
    """Assert equal types, shapes and values in onnxruntime, without a tolerance."""
    expected, actual = run_plain(original, feeds), run_plain(optimized, feeds)
    for one, other in zip(expected, actual, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(other, one)


def assert_equivalent(
    original: onnx.ModelProto,
    optimized: onnx.ModelProto,
    feeds: Mapping[str, Array],
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> None:
    """Assert equal interfaces, and equal values in onnxruntime and in float64.

    In float64, only the rounding of the new weights to their type is left as a difference.
    """
    assert [output.SerializeToString() for output in original.graph.output] == [
        output.SerializeToString() for output in optimized.graph.output
    ]
    onnx.checker.check_model(optimized, full_check=True)
    for run in (run_plain, run_float64):
        for expected, actual in zip(run(original, feeds), run(optimized, feeds), strict=True):
            assert expected.dtype == actual.dtype
            assert expected.shape == actual.shape
            np.testing.assert_allclose(
                actual, expected, rtol=rtol, atol=atol * max(1.0, _largest(expected))
            )


def _largest(values: Array) -> float:
    return float(np.abs(values).max()) if values.size and values.dtype.kind == "f" else 0.0
