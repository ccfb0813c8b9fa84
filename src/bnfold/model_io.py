"""Reads models, checks that they hold together, and turns them back into protobuf."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx.checker
import onnx_ir as ir

from bnfold.editor import all_graphs
from bnfold.errors import ModelError
from bnfold.markers import Markers
from bnfold.normalize import normalize
from bnfold.protos import count_operators, graphs_of, node_lists_of
from bnfold.reading import attach, restore
from bnfold.record import ModelRecord
from bnfold.source import ModelSource as ModelSource
from bnfold.source import Source
from bnfold.weight_places import weights_of

_LARGEST_INLINE = 2**31 - 2**24
"""Protobuf messages end at 2 GiB; some room is left for all that is not weights."""


@dataclass(frozen=True)
class LoadedModel:
    """A model and what is known of the file that it came from."""

    ir: ir.Model
    source: Source = field(repr=False)
    described: frozenset[str] = field(repr=False)
    """The names of values whose type and shape the file gives (its value_info)."""
    data_files: frozenset[Path] = field(repr=False)
    """Where weights of the file lie that are outside it, links resolved."""

    @property
    def path(self) -> Path | None:
        """Where it was read from, if it was not given as a ModelProto."""
        return self.source.path

    @property
    def markers(self) -> Markers:
        """What stands in the protobuf for weights that are still in the file."""
        return self.source.read.markers

    @property
    def has_external_data(self) -> bool:
        """Whether any weight of the file lies outside it."""
        return bool(self.data_files)

    @property
    def fits_one_message(self) -> bool:
        """Whether one protobuf message can hold the model in its present state."""
        return sum(tensor.nbytes for tensor in weights_of(self.ir)) <= _LARGEST_INLINE

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
        proto = serialize(self)
        restore(proto, self.markers)
        return proto


def load(source: ModelSource) -> LoadedModel:
    """Read a model from a path, or take a ModelProto, which is left untouched.

    Raises:
        ModelError: if it cannot be read, is no valid model, or holds what bnfold cannot keep.
    """
    given = Source.of(source)
    loaded = _load(given) or _load(given.whole())
    assert loaded is not None
    return loaded


def _load(given: Source) -> LoadedModel | None:
    """Load a model; None if what stands for large weights in its protobuf has got lost."""
    proto, name = given.read.proto, given.name
    _require_supported(given)
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # onnx_ir reports invalid models by exceptions of many types
        raise ModelError(f"{name} is not a valid ONNX model: {_root_cause(error)}") from error
    if not attach(model, given.read.markers):
        return None
    external = [each for each in weights_of(model) if isinstance(each, ir.ExternalTensor)]
    data_files = _settle_external_data(external, given.path, name)
    normalize(model, proto, name)
    described = frozenset(v.name for graph in graphs_of(proto) for v in graph.value_info)
    return LoadedModel(model, given, described, data_files)


def require_valid(loaded: LoadedModel) -> None:
    """Let onnx's own checker look at the model as it was given.

    Raises:
        ModelError: with what the checker found, if it is invalid.
    """
    try:
        onnx.checker.check_model(str(loaded.path) if loaded.path else loaded.source.content)
    except (onnx.checker.ValidationError, ValueError) as error:
        name = loaded.path or "the model"
        raise ModelError(f"{name} is not a valid ONNX model: {error}") from error


def describe(source: ModelSource) -> ModelRecord:
    """Say what a model is, without preparing it to be rewritten.

    Raises:
        ModelError: if it cannot be read.
    """
    return Source.of(source).describe()


def _require_supported(given: Source) -> None:
    proto, name = given.read.proto, given.name
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
            _require_complete(tensor, given)
    for nodes in node_lists_of(proto):
        for node in nodes:
            _require_distinct_attributes(node, name)
            for attribute in node.attribute:
                if attribute.HasField("sparse_tensor"):
                    raise ModelError(f"{name} has sparse constants, which bnfold does not support")
                if attribute.HasField("t"):
                    _require_complete(attribute.t, given)
    functions = [(each.domain, each.name, each.overload) for each in proto.functions]
    if len(set(functions)) < len(functions):
        raise ModelError(f"{name} is not a valid ONNX model: it defines a function twice")
    if proto.training_info:
        raise ModelError(f"{name} has training information, which bnfold does not support")


def _require_distinct_attributes(node: onnx.NodeProto, name: str) -> None:
    """Require what onnx_ir goes by: each attribute has a type, and a name of its own."""
    names = [attribute.name for attribute in node.attribute]
    is_typed = all(each.type or each.ref_attr_name for each in node.attribute)
    if len(set(names)) < len(names) or not is_typed:
        raise ModelError(
            f"{name} is not a valid ONNX model: {node.op_type} {node.name} has an attribute "
            "twice, or without a type"
        )


def _require_complete(tensor: onnx.TensorProto, given: Source) -> None:
    """Require that a tensor with raw data has as many bytes as its type and shape tell."""
    if not tensor.HasField("raw_data"):
        return
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (TypeError, ValueError):
        return  # strings, and types that onnx_ir refuses by itself
    if given.read.raw_size(tensor) != -(-math.prod(tensor.dims) * bits // 8):
        raise ModelError(
            f"{given.name} is truncated or invalid: the tensor {tensor.name!r} lacks bytes"
        )


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


# --- External data ------------------------------------------------------------------------------


def _settle_external_data(
    tensors: Iterable[ir.ExternalTensor], path: Path | None, name: str
) -> frozenset[Path]:
    """Tell external tensors where they lie, refuse those that are not there, return their files."""
    folder = path.resolve().parent if path is not None else None
    files: set[Path] = set()
    for tensor in tensors:
        if folder is None:
            raise ModelError("the ModelProto has external data; give the path of its file instead")
        tensor.base_dir = folder
        where = (folder / tensor.location).resolve()
        if not where.is_relative_to(folder):
            raise ModelError(f"{name} has data outside its folder, at {str(tensor.location)!r}")
        if not where.is_file():
            raise ModelError(f"{name} has data at {str(tensor.location)!r}, which does not exist")
        if where.stat().st_nlink > 1:
            raise ModelError(
                f"{name} has data at {str(tensor.location)!r}, which has several hard links: it "
                "may be another's file, and onnx refuses it, too; copy it"
            )
        end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
        if end > where.stat().st_size or (tensor.length or tensor.nbytes) != tensor.nbytes:
            raise ModelError(f"{name}: the data of {tensor.name!r} at {where.name!r} is truncated")
        files.add(where)
    return frozenset(files)


# --- Back to protobuf -----------------------------------------------------------------------------


def _forget_inferred(loaded: LoadedModel) -> None:
    """Leave types and shapes to those values alone that have them in the file, and to outputs."""
    main = loaded.ir.graph
    for graph in (main, *main.subgraphs()):
        for node in graph:
            for value in node.outputs:
                if value.name not in loaded.described and not value.is_graph_output():
                    value.type = value.shape = None


def serialize(loaded: LoadedModel) -> onnx.ModelProto:
    """Turn the model into a protobuf that has nothing which the file did not have either.

    Weights in external files stay there, and markers stand for those in the model file. What
    inference had found out of types and shapes is forgotten.
    """
    _forget_inferred(loaded)
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
    original = loaded.source.read.proto
    graph, given = proto.graph, original.graph
    del graph.output[:]
    graph.output.extend(given.output)
    inputs = {each.name for each in graph.input}
    initializers = {tensor.name for tensor in graph.initializer}
    if original.ir_version < 4 and initializers <= {each.name for each in given.input}:
        proto.ir_version = original.ir_version
        inputs |= initializers
    del graph.input[:]
    graph.input.extend(each for each in given.input if each.name in inputs)
