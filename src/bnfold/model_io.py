"""Reads models, checks that they hold together, and turns them back into protobuf."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import onnx
import onnx.checker
import onnx_ir as ir
from google.protobuf.message import DecodeError

from bnfold.editor import all_graphs
from bnfold.errors import ModelError
from bnfold.normalize import normalize
from bnfold.protos import count_operators, graphs_of, node_lists_of
from bnfold.record import ModelRecord

_LARGEST_INLINE = 2**31 - 2**24
"""Protobuf messages end at 2 GiB; some room is left for all that is not weights."""


@dataclass(frozen=True)
class LoadedModel:
    """A model and what is known of the file that it came from."""

    ir: ir.Model
    record: ModelRecord
    path: Path | None
    content: bytes = field(repr=False)
    """The model as it was given, where that was not a path; else empty."""
    described: frozenset[str] = field(repr=False)
    """The names of values whose type and shape the file gives (its value_info)."""
    inputs: Sequence[onnx.ValueInfoProto] = field(repr=False)
    """The inputs of the main graph, as the file declares them."""
    outputs: Sequence[onnx.ValueInfoProto] = field(repr=False)
    """Its outputs likewise."""

    @property
    def has_external_data(self) -> bool:
        """Whether any weight lies outside the model file."""
        return any(isinstance(tensor, ir.ExternalTensor) for tensor in _weights(self.ir))

    @property
    def fits_one_message(self) -> bool:
        """Whether one protobuf message can hold the model in its present state."""
        return sum(tensor.nbytes for tensor in _weights(self.ir)) <= _LARGEST_INLINE

    def count_operators(self) -> dict[str, int]:
        """Return how many nodes of each operator the model has by now, most first."""
        nodes = (node for graph in all_graphs(self.ir) for node in graph)
        return count_operators((node.domain, node.op_type) for node in nodes)

    def to_proto(self) -> onnx.ModelProto:
        """Return the model in its present state, with nothing that the file did not have either.

        Raises:
            ModelError: if it is too large for one protobuf message.
        """
        if not self.fits_one_message:
            raise ModelError("the model is larger than 2 GiB: write it to a file instead")
        return serialize(self)


ModelSource: TypeAlias = str | os.PathLike[str] | onnx.ModelProto


def load(source: ModelSource) -> LoadedModel:
    """Read a model from a path, or take a ModelProto, which is left untouched.

    Raises:
        ModelError: if it cannot be read, is no valid model, or holds what bnfold cannot keep.
    """
    read = _Source.of(source)
    _require_supported(read.proto, read.name)
    try:
        model = ir.from_proto(read.proto)
    except Exception as error:  # onnx_ir reports invalid models by exceptions of many types
        raise ModelError(f"{read.name} is not a valid ONNX model: {_root_cause(error)}") from error
    _settle_external_data(model, read.path, read.name)
    normalize(model, read.proto, read.name)
    described = frozenset(v.name for graph in graphs_of(read.proto) for v in graph.value_info)
    graph = read.proto.graph
    interface = tuple(graph.input), tuple(graph.output)
    return LoadedModel(model, read.describe(), read.path, read.content, described, *interface)


def require_valid(loaded: LoadedModel) -> None:
    """Let onnx's own checker look at the model as it was given.

    Raises:
        ModelError: with what the checker found, if it is invalid.
    """
    try:
        onnx.checker.check_model(str(loaded.path) if loaded.path else loaded.content)
    except (onnx.checker.ValidationError, ValueError) as error:
        name = loaded.path or "the model"
        raise ModelError(f"{name} is not a valid ONNX model: {error}") from error


def describe(source: ModelSource) -> ModelRecord:
    """Say what a model is, without preparing it to be rewritten.

    Raises:
        ModelError: if it cannot be read.
    """
    return _Source.of(source).describe()


@dataclass(frozen=True)
class _Source:
    """A model just read: its protobuf, and either its path or its bytes."""

    proto: onnx.ModelProto
    path: Path | None
    content: bytes

    @staticmethod
    def of(source: ModelSource) -> _Source:
        if isinstance(source, onnx.ModelProto):
            content = source.SerializeToString(deterministic=True)
            read = _Source(onnx.ModelProto.FromString(content), None, content)
        else:
            read = _Source(_read(Path(source)), Path(source), b"")
        if not read.proto.HasField("graph") or not read.proto.graph.output:
            raise ModelError(
                f"{read.name} is not an ONNX model: it is empty, or has no graph with outputs"
            )
        return read

    @property
    def name(self) -> str:
        return str(self.path) if self.path is not None else "the model"

    def describe(self) -> ModelRecord:
        ops = count_operators(
            (node.domain, node.op_type) for nodes in node_lists_of(self.proto) for node in nodes
        )
        return ModelRecord(
            path=str(self.path) if self.path is not None else None,
            sha256=sha256_of(self.path) if self.path else hashlib.sha256(self.content).hexdigest(),
            bytes=self.path.stat().st_size if self.path else len(self.content),
            ir_version=self.proto.ir_version,
            opset={each.domain or "ai.onnx": each.version for each in self.proto.opset_import},
            nodes=sum(ops.values()),
            ops=ops,
        )


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, format="protobuf", load_external_data=False)
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise ModelError(f"{path} is a directory; name the .onnx file in it") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except DecodeError:
        raise ModelError(f"{path} is not an ONNX model, or is truncated") from None


def _require_supported(proto: onnx.ModelProto, name: str) -> None:
    if proto.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{name} has IR version {proto.ir_version}, and the installed onnx knows up to "
            f"{onnx.IR_VERSION}; upgrade onnx"
        )
    if not proto.opset_import and proto.ir_version >= 3:
        raise ModelError(f"{name} is not a valid ONNX model: it imports no operator set")
    for graph in graphs_of(proto):
        if graph.sparse_initializer:
            raise ModelError(f"{name} has sparse initializers, which bnfold does not support")
        if graph.quantization_annotation:
            raise ModelError(f"{name} has quantization annotations, which bnfold does not support")
        for tensor in graph.initializer:
            _require_complete(tensor, name)
    for nodes in node_lists_of(proto):
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("sparse_tensor"):
                    raise ModelError(f"{name} has sparse constants, which bnfold does not support")
                if attribute.HasField("t"):
                    _require_complete(attribute.t, name)
    functions = [(each.domain, each.name, each.overload) for each in proto.functions]
    if len(set(functions)) < len(functions):
        raise ModelError(f"{name} is not a valid ONNX model: it defines a function twice")
    if proto.training_info:
        raise ModelError(f"{name} has training information, which bnfold does not support")


def _require_complete(tensor: onnx.TensorProto, name: str) -> None:
    """Require that a tensor with raw data has as many bytes as its type and shape tell."""
    if not tensor.HasField("raw_data"):
        return
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (TypeError, ValueError):
        return  # strings, and types that onnx_ir refuses by itself
    if len(tensor.raw_data) != -(-math.prod(tensor.dims) * bits // 8):
        raise ModelError(f"{name} is truncated or invalid: the tensor {tensor.name!r} lacks bytes")


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


# --- External data ------------------------------------------------------------------------------


def _settle_external_data(model: ir.Model, path: Path | None, name: str) -> None:
    """Tell external tensors where they lie, and refuse those that are not there."""
    folder = path.resolve().parent if path is not None else None
    for tensor in _weights(model):
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        if folder is None:
            raise ModelError("the ModelProto has external data; give the path of its file instead")
        tensor.base_dir = folder
        where = (folder / tensor.location).resolve()
        if not where.is_relative_to(folder):
            raise ModelError(f"{name} has data outside its folder, at {str(tensor.location)!r}")
        if not where.is_file():
            raise ModelError(f"{name} has data at {str(tensor.location)!r}, which does not exist")
        end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
        if end > where.stat().st_size or (tensor.length or tensor.nbytes) != tensor.nbytes:
            raise ModelError(f"{name}: the data of {tensor.name!r} at {where.name!r} is truncated")


def _weights(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    yield attribute.as_tensor()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# --- Back to protobuf -----------------------------------------------------------------------------


def serialize(loaded: LoadedModel) -> onnx.ModelProto:
    """Turn the model into a protobuf that has nothing which the file did not have either.

    Weights in external files stay there.
    """
    proto = ir.to_proto(loaded.ir)
    for graph in graphs_of(proto):
        kept = [info for info in graph.value_info if info.name in loaded.described]
        del graph.value_info[:]
        graph.value_info.extend(kept)
        for tensor in graph.initializer:
            properties = {each.key: each.value for each in tensor.metadata_props}
            del tensor.metadata_props[:]  # onnx_ir writes the value's and the tensor's: the same
            for key, content in properties.items():
                tensor.metadata_props.add(key=key, value=content)
    _restore_interface(proto, loaded)
    return proto


def _restore_interface(proto: onnx.ModelProto, loaded: LoadedModel) -> None:
    """Declare inputs and outputs in the very words of the file.

    An IR version before 4 comes back if every initializer is among the inputs there, as it must.
    """
    graph = proto.graph
    del graph.output[:]
    graph.output.extend(loaded.outputs)
    inputs = {each.name for each in graph.input}
    initializers = {tensor.name for tensor in graph.initializer}
    if loaded.record.ir_version < 4 and initializers <= {each.name for each in loaded.inputs}:
        proto.ir_version = loaded.record.ir_version
        inputs |= initializers
    del graph.input[:]
    graph.input.extend(each for each in loaded.inputs if each.name in inputs)
