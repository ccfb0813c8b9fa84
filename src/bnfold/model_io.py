"""Reads models, checks that they hold together, and writes them whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import onnx
import onnx.checker
import onnx_ir as ir
from google.protobuf.message import DecodeError

from bnfold.editor import all_graphs
from bnfold.errors import ModelError, UsageError
from bnfold.normalize import normalize
from bnfold.record import ModelRecord

EXTERNAL_THRESHOLD = 1024
"""Tensors of at least so many bytes go to the data file, where there is one."""

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

    def to_proto(self) -> onnx.ModelProto:
        """Return the model in its present state, describing the values that the file described.

        Raises:
            ModelError: if it is too large for one protobuf message.
        """
        if _weight_bytes(self.ir) > _LARGEST_INLINE:
            raise ModelError("the model is larger than 2 GiB: write it to a file instead")
        return _serialize(self)


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
    described = frozenset(v.name for graph in _proto_graphs(read.proto) for v in graph.value_info)
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
        ops = _count(
            (node.domain, node.op_type) for nodes in _proto_node_lists(self.proto) for node in nodes
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
    for graph in _proto_graphs(proto):
        if graph.sparse_initializer:
            raise ModelError(f"{name} has sparse initializers, which bnfold does not support")
        if graph.quantization_annotation:
            raise ModelError(f"{name} has quantization annotations, which bnfold does not support")
        for tensor in graph.initializer:
            _require_complete(tensor, name)
    for nodes in _proto_node_lists(proto):
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


def _weight_bytes(model: ir.Model) -> int:
    return sum(tensor.nbytes for tensor in _weights(model))


# --- Writing ------------------------------------------------------------------------------------


class StagedFile:
    """A file that appears whole or not at all: written beside its place, then renamed into it.

    Use as a context manager; whatever `commit` has not been called for is removed at the end.

    Raises:
        UsageError: if the place is not one for a file, or writing fails.
    """

    def __init__(self, place: Path) -> None:
        self._committed = False
        self._data: Path | None = None
        with _as_usage_error(place):
            self.place = place.resolve()  # a link stays a link: what it points to is replaced
            if self.place.exists() and not self.place.is_file():
                raise UsageError(f"{place} is not a regular file; name a file to write to")
            descriptor, path = tempfile.mkstemp(
                dir=self.place.parent, prefix=f".{self.place.name[:100]}.", suffix=".tmp"
            )
            os.close(descriptor)
            self.path = Path(path)
            self.path.chmod(_mode_for(self.place))

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._committed:
            self.path.unlink(missing_ok=True)
            if self._data is not None:
                self._data.unlink(missing_ok=True)

    def write(self, content: bytes) -> None:
        """Write all of the content, to the disk itself."""
        with _as_usage_error(self.place), open(self.path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def copy(self, source: Path) -> None:
        """Write what `source` holds, byte for byte."""
        with _as_usage_error(self.place), open(source, "rb") as old, open(self.path, "wb") as new:
            shutil.copyfileobj(old, new, 1 << 20)
            new.flush()
            os.fsync(new.fileno())

    def write_model(self, loaded: LoadedModel) -> None:
        """Write the model; its large weights to a file beside it where they were, or must be.

        The data file is named after its content, so that it never replaces the data of a model
        that is still in use, not even of the one at the same place.
        """
        if not loaded.has_external_data and _weight_bytes(loaded.ir) <= _LARGEST_INLINE:
            proto = _serialize(loaded)
            self.write(proto.SerializeToString(deterministic=True))
            return
        initializers = [v for g in all_graphs(loaded.ir) for v in g.initializers.values()]
        tensors = [value.const_value for value in initializers]
        temporary = self.path.with_suffix(".data")
        try:
            with _as_usage_error(self.place):
                ir.external_data.unload_from_model(
                    loaded.ir,
                    self.path.parent,
                    temporary.name,
                    size_threshold_bytes=EXTERNAL_THRESHOLD,
                    alignment=4096,
                )
            proto = _serialize(loaded)
            data = self.place.with_name(f"{self.place.name}.{sha256_of(temporary)[:16]}.data")
            if not data.exists():
                self._data = data
            temporary.chmod(_mode_for(data))
            os.replace(temporary, data)
        finally:
            temporary.unlink(missing_ok=True)
            for value, tensor in zip(initializers, tensors, strict=True):
                value.const_value = tensor
        _relocate(proto, temporary.name, data.name)
        self.write(proto.SerializeToString(deterministic=True))

    def commit(self) -> None:
        """Let the file appear in its place."""
        with _as_usage_error(self.place):
            os.replace(self.path, self.place)
        self._committed = True


def write_text(place: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        UsageError: if it cannot be written.
    """
    with StagedFile(place) as staged:
        staged.write(text.encode())
        staged.commit()


@contextlib.contextmanager
def _as_usage_error(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{place} cannot be written: {error.strerror or error}") from error


def _mode_for(place: Path) -> int:
    """Return the permissions of the file that is replaced, or those of any new file."""
    if place.exists():
        return place.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _relocate(proto: onnx.ModelProto, old: str, new: str) -> None:
    for graph in _proto_graphs(proto):
        for tensor in graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location" and entry.value == old:
                    entry.value = new


def _serialize(loaded: LoadedModel) -> onnx.ModelProto:
    """Turn the model into a protobuf that has nothing which the file did not have either."""
    proto = ir.to_proto(loaded.ir)
    for graph in _proto_graphs(proto):
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


# --- Facts about models -------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def count_operators(model: ir.Model) -> dict[str, int]:
    """Return how many nodes of each operator the model has, most first; bodies included."""
    return _count((node.domain, node.op_type) for graph in all_graphs(model) for node in graph)


def _count(operators: Iterable[tuple[str, str]]) -> dict[str, int]:
    counter = Counter(f"{domain}.{name}" if domain else name for domain, name in operators)
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def _proto_graphs(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    """Return the main graph and all bodies of If, Loop and Scan, in functions too."""
    graphs = [proto.graph]
    for nodes in _proto_node_lists(proto):
        for node in nodes:
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs
    return graphs


def _proto_node_lists(proto: onnx.ModelProto) -> Iterator[Sequence[onnx.NodeProto]]:
    """Yield the nodes of each graph, function and body."""
    pending = [proto.graph.node, *(function.node for function in proto.functions)]
    while pending:
        nodes = pending.pop()
        yield nodes
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g.node)
                pending += [graph.node for graph in attribute.graphs]
