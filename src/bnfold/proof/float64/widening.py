"""Widens models to float64: weights, constants, and the types that operators are given.

Contents are read from where they are: in the protobuf, in the model file, or in a data file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx_ir as ir

from bnfold.arrays import Array
from bnfold.modelfile.external import bring_in
from bnfold.modelfile.markers import Markers

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_TYPE_ATTRIBUTES = ("to", "dtype")


def widened_content(tensor: ir.TensorProtocol) -> Array:
    """Return a tensor's content, widened; an external file does not stay mapped into memory."""
    if not isinstance(tensor, ir.ExternalTensor):
        return np.asarray(widened(tensor.numpy()))
    content = np.array(widened(tensor.numpy()))
    tensor.release()
    return content


def widened(content: Any) -> Any:
    """Return floats as float64, also within a sequence, and anything else unchanged."""
    if isinstance(content, list):
        return [widened(element) for element in content]
    if isinstance(content, np.ndarray | np.generic):
        kind = content.dtype
        if kind in (np.float32, np.float16) or kind == ml_dtypes.bfloat16:
            return content.astype(np.float64)
    return content


@dataclass(frozen=True)
class Contents:
    """Where to find the content of tensors that is not in their protobuf."""

    markers: Markers
    """Placeholders for constants that are still in the model file."""
    folders: Sequence[Path]
    """Paths of data files are relative to one of these folders."""

    def bring_into(self, tensor: onnx.TensorProto) -> None:
        """Load the content into the tensor, wherever it is."""
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            bring_in(tensor, self.folders)
        stored = self.markers.get(tensor.raw_data)
        if stored is not None:
            tensor.raw_data = b"".join(stored.blocks())


def widened_function(function: onnx.FunctionProto, contents: Contents) -> onnx.FunctionProto:
    """Widen the constants and types in the nodes of a function, in place."""
    for node in function.node:
        widened_node(node, contents)
    return function


def widened_node(node: onnx.NodeProto, contents: Contents) -> onnx.NodeProto:
    """Widen the constants and types in the node's attributes, in place."""
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            continue
        if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            content = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            wide = onnx.numpy_helper.from_array(np.array(content, np.float64))
            attribute.CopyFrom(onnx.helper.make_attribute("value", wide))
        if attribute.HasField("t"):
            _widen_tensor(attribute.t, contents)
        if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _FLOATS:
            attribute.i = onnx.TensorProto.DOUBLE
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            for tensor in graph.initializer:
                _widen_tensor(tensor, contents)
            for inner in graph.node:
                widened_node(inner, contents)
    return node


def _widen_tensor(tensor: onnx.TensorProto, contents: Contents) -> None:
    contents.bring_into(tensor)
    if tensor.data_type in _FLOATS:
        content = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(content, tensor.name))
