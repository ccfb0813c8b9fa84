"""Reads models and validates them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.checker
import onnx_ir as ir
from onnx.defs import onnx_opset_version

from bnfold.errors import ModelError
from bnfold.modelfile.external import data_folders, find_data
from bnfold.modelfile.model import LoadedModel
from bnfold.modelfile.normalize import normalize
from bnfold.modelfile.places import weights_of
from bnfold.modelfile.protos import graphs_of, node_lists_of
from bnfold.modelfile.reading import attach
from bnfold.modelfile.source import ModelSource as ModelSource
from bnfold.modelfile.source import Source


def load(source: ModelSource) -> LoadedModel:
    """Read a model from a path, or take a ModelProto, which is not modified.

    Raises:
        ModelError: if it cannot be read, is invalid, or contains anything bnfold cannot preserve.
    """
    given = Source.of(source)
    loaded = _load(given) or _load(given.whole())
    assert loaded is not None
    return loaded


def _load(given: Source) -> LoadedModel | None:
    """Load a model; return None if markers for large weights were lost."""
    proto, name = given.read.proto, given.name
    contents = _Contents.of(proto)
    _require_supported(given, contents)
    _require_well_formed(given, contents)
    try:
        model = ir.from_proto(_without_maps(proto))
    except Exception as error:  # onnx_ir raises many types for invalid models
        raise ModelError(f"{name} is not a valid ONNX model: {_root_cause(error)}") from error
    if not attach(model, given.read.markers):
        return None
    external = [tensor for tensor in weights_of(model) if isinstance(tensor, ir.ExternalTensor)]
    data_files = _settle_external_data(external, given.path, name)
    normalize(model, proto, name)
    described = frozenset(v.name for graph in graphs_of(proto) for v in graph.value_info)
    return LoadedModel(model, given, described, data_files)


def _without_maps(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without types that onnx_ir lacks; the file's interface is restored later."""
    values = [
        value
        for graph in graphs_of(proto)
        for value in (*graph.input, *graph.output, *graph.value_info)
    ]
    if not any(_is_map(value.type) for value in values):
        return proto
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for graph in graphs_of(changed):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if _is_map(value.type):
                value.ClearField("type")
    return changed


def _is_map(described: onnx.TypeProto) -> bool:
    """Say whether a type is a map, or a sequence or optional of maps."""
    for kind in ("sequence_type", "optional_type"):
        if described.HasField(kind):
            return _is_map(getattr(described, kind).elem_type)
    return bool(described.HasField("map_type"))


def require_valid(loaded: LoadedModel) -> None:
    """Check the model as it was given with onnx's own checker, and infer its shapes strictly.

    onnx may crash on it: call this in a process of its own.

    Raises:
        ModelError: if it is invalid, with the checker's message.
    """
    model = str(loaded.path) if loaded.path else loaded.source.content
    try:
        onnx.checker.check_model(model)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # onnx raises many types for invalid models
        name = loaded.path or "the model"
        raise ModelError(f"{name} is not a valid ONNX model: {error}") from error


@dataclass(frozen=True)
class _Contents:
    """All graphs, nodes and weights of a model, including those of bodies and functions."""

    graphs: list[onnx.GraphProto]
    nodes: list[onnx.NodeProto]
    tensors: list[onnx.TensorProto]

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> _Contents:
        """Walk through the model once, for all that is required of it."""
        graphs = graphs_of(proto)
        nodes = [node for nodes in node_lists_of(proto) for node in nodes]
        tensors = [tensor for graph in graphs for tensor in graph.initializer]
        for node in nodes:
            tensors += [attribute.t for attribute in node.attribute if attribute.HasField("t")]
        return cls(graphs, nodes, tensors)


def _require_supported(given: Source, contents: _Contents) -> None:
    """Require that the model has nothing that bnfold or the installed onnx does not support."""
    proto, name = given.read.proto, given.name
    if proto.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{name} has IR version {proto.ir_version}, but the installed onnx supports only up to "
            f"{onnx.IR_VERSION}; upgrade onnx"
        )
    for operators in proto.opset_import:
        if operators.domain in ("", "ai.onnx") and operators.version > onnx_opset_version():
            raise ModelError(
                f"{name} has operator set {operators.version}, but the installed onnx knows them "
                f"only up to {onnx_opset_version()}; upgrade onnx"
            )
    for graph in contents.graphs:
        if graph.sparse_initializer:
            raise ModelError(f"{name} has sparse initializers, which bnfold does not support")
        if graph.quantization_annotation:
            raise ModelError(f"{name} has quantization annotations, which bnfold does not support")
    for node in contents.nodes:
        if any(attribute.HasField("sparse_tensor") for attribute in node.attribute):
            raise ModelError(f"{name} has sparse constants, which bnfold does not support")
    for tensor in contents.tensors:
        if tensor.data_type == onnx.TensorProto.UNDEFINED:
            raise ModelError(
                f"{name} has a tensor of the type UNDEFINED, {tensor.name!r}, which bnfold does "
                "not support"
            )
    if proto.training_info:
        raise ModelError(f"{name} has training information, which bnfold does not support")


def _require_well_formed(given: Source, contents: _Contents) -> None:
    """Require what onnx_ir relies on: names that are text, unique definitions, complete weights."""
    proto, name = given.read.proto, given.name
    if not proto.opset_import and proto.ir_version >= 3:
        raise ModelError(f"{name} is not a valid ONNX model: it imports no operator set")
    for graph in contents.graphs:
        _require_text(name, graph.name, *(tensor.name for tensor in graph.initializer))
        for values in (graph.input, graph.output, graph.value_info):
            _require_text(name, *(value.name for value in values))
    for node in contents.nodes:
        _require_text(name, node.domain, node.op_type, node.name, *node.input, *node.output)
        _require_distinct_attributes(node, name)
    for tensor in contents.tensors:
        _require_complete(tensor, given)
    functions = [
        (function.domain, function.name, function.overload) for function in proto.functions
    ]
    if len(set(functions)) < len(functions):
        raise ModelError(f"{name} is not a valid ONNX model: it defines a function twice")


def _require_text(name: str, *texts: str | bytes) -> None:
    """Require that names are UTF-8: protobuf returns others as bytes."""
    for text in texts:
        if isinstance(text, bytes):
            raise ModelError(f"{name} is not a valid ONNX model: the name {text!r} is not UTF-8")


def _require_distinct_attributes(node: onnx.NodeProto, name: str) -> None:
    """Require that each attribute has a type and a unique name."""
    names = [attribute.name for attribute in node.attribute]
    is_typed = all(attribute.type or attribute.ref_attr_name for attribute in node.attribute)
    if len(set(names)) < len(names) or not is_typed:
        raise ModelError(
            f"{name} is not a valid ONNX model: {node.op_type} {node.name} has a duplicate or "
            "untyped attribute"
        )


def _require_complete(tensor: onnx.TensorProto, given: Source) -> None:
    """Require that the size of a tensor's raw data matches, and places of external data."""
    for entry in tensor.external_data:
        if entry.key in ("offset", "length") and not entry.value.isdecimal():
            raise ModelError(
                f"{given.name} is not a valid ONNX model: the {entry.key} of the external data of "
                f"{tensor.name!r} is {entry.value!r}"
            )
    if not tensor.HasField("raw_data"):
        return
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (TypeError, ValueError):
        return  # strings, and types that onnx_ir itself rejects
    if given.read.raw_size(tensor) != -(-math.prod(tensor.dims) * bits // 8):
        raise ModelError(
            f"{given.name} is truncated or invalid: the data of {tensor.name!r} has the wrong size"
        )


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _settle_external_data(
    tensors: Iterable[ir.ExternalTensor], path: Path | None, name: str
) -> frozenset[Path]:
    """Set the folder of external tensors, require that their data exists, and return its files."""
    folders = data_folders(path) if path is not None else []
    files: set[Path] = set()
    for tensor in tensors:
        if path is None:
            raise ModelError("the ModelProto has external data; give the path of its file instead")
        where, status = find_data(folders, str(tensor.location), name)
        end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
        if end > status.st_size or (tensor.length or tensor.nbytes) != tensor.nbytes:
            raise ModelError(f"{name}: the data of {tensor.name!r} at {where.name!r} is truncated")
        folder = next(folder for folder in folders if where.is_relative_to(folder))
        tensor.base_dir = folder
        if where != folder / tensor.location:  # a link, which onnx_ir does not open
            tensor._location = str(where.relative_to(folder))
        files.add(where)
    return frozenset(files)
