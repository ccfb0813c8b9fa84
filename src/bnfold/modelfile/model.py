"""A model in memory and the file it was read from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx.checker
import onnx_ir as ir

from bnfold.atomic import shared_permissions
from bnfold.errors import ModelError
from bnfold.graph.shapes import is_free, shape_of
from bnfold.graph.walk import all_graphs
from bnfold.modelfile.markers import Markers
from bnfold.modelfile.metadata import keep_order
from bnfold.modelfile.places import weights_of
from bnfold.modelfile.protos import count_operators, graphs_of
from bnfold.modelfile.reading import restore
from bnfold.modelfile.source import ModelSource as ModelSource
from bnfold.modelfile.source import Source

LARGEST_INLINE = 2**31 - 2**24
"""Protobuf messages are limited to 2 GiB; this leaves room for everything but weights."""


@dataclass(frozen=True)
class LoadedModel:
    """A model and the file it was read from."""

    ir: ir.Model
    source: Source = field(repr=False)
    described: frozenset[str] = field(repr=False)
    """The names of the values that the file's value_info describes."""
    data_files: frozenset[Path] = field(repr=False)
    """The files that hold its external weights, links resolved."""

    @property
    def path(self) -> Path | None:
        """The path it was read from; None for a ModelProto."""
        return self.source.path

    @property
    def markers(self) -> Markers:
        """The markers in the protobuf for weights that are still in the file."""
        return self.source.read.markers

    @property
    def permissions(self) -> int:
        """Those that a new file with its content may have: its own files let nobody else read."""
        own = [] if self.path is None else [self.path]
        return shared_permissions([*own, *self.data_files])

    @property
    def has_external_data(self) -> bool:
        """Whether the file has external weights."""
        return bool(self.data_files)

    @property
    def fits_one_message(self) -> bool:
        """Whether the model in its current state fits into one protobuf message."""
        return self.nbytes <= LARGEST_INLINE

    @property
    def nbytes(self) -> int:
        """The bytes of all weights."""
        return sum(tensor.nbytes for tensor in weights_of(self.ir))

    def count_operators(self) -> dict[str, int]:
        """Count the operators of the model in its current state; the most frequent come first."""
        nodes = (node for graph in all_graphs(self.ir) for node in graph)
        return count_operators((node.domain, node.op_type) for node in nodes)

    def to_proto(self) -> onnx.ModelProto:
        """Return the model in its current state, without anything that `load` added.

        Raises:
            ModelError: if it is too large for one protobuf message.
        """
        if not self.fits_one_message:
            raise ModelError("the model is larger than 2 GiB: write it to a file instead")
        proto = serialize(self)
        restore(proto, self.markers)
        return proto


def _forget_inferred(loaded: LoadedModel) -> None:
    """Drop types and shapes except those of outputs and of values that the file describes.

    Where the file describes a size that does not hold for every input, drop that, too.
    """
    main = loaded.ir.graph
    for graph in (main, *main.subgraphs()):
        for node in graph:
            for value in node.outputs:
                if value.name not in loaded.described and not value.is_graph_output():
                    value.type = value.shape = None
                elif value.shape is not None and not value.is_graph_output():
                    value.shape = _true_claim(value.shape, shape_of(value))


def _true_claim(claimed: ir.Shape, known: ir.Shape | None) -> ir.Shape | None:
    """Return the claimed shape without what is known to be otherwise."""
    if known is None:
        return claimed
    if claimed.rank() != known.rank():
        return known if known.is_static() else None
    return ir.Shape(_true_size(*sizes) for sizes in zip(claimed, known, strict=True))


def _true_size(
    claim: int | ir.SymbolicDim, known: int | ir.SymbolicDim
) -> int | ir.SymbolicDim | None:
    if not isinstance(claim, int) or claim == known:
        return claim
    if isinstance(known, int):
        return known
    return None if is_free(known) else claim


def serialize(loaded: LoadedModel) -> onnx.ModelProto:
    """Convert the model to a protobuf, without anything that `load` added.

    External weights stay in their files; markers replace those in the model file. Inferred types
    and shapes are dropped.
    """
    _forget_inferred(loaded)
    proto = ir.to_proto(loaded.ir)
    for graph in graphs_of(proto):
        kept = [info for info in graph.value_info if info.name in loaded.described]
        del graph.value_info[:]
        graph.value_info.extend(kept)
    keep_order(proto, loaded.ir)
    _restore_interface(proto, loaded)
    return proto


def _restore_interface(proto: onnx.ModelProto, loaded: LoadedModel) -> None:
    """Declare inputs, outputs and metadata exactly as in the file.

    Restore an IR version before 4 if every initializer is among its inputs, as required there.
    """
    original = loaded.source.read.proto
    graph, given = proto.graph, original.graph
    for ours, theirs in ((proto, original), (graph, given)):
        del ours.metadata_props[:]
        ours.metadata_props.extend(theirs.metadata_props)
    del graph.output[:]
    graph.output.extend(given.output)
    inputs = {value.name for value in graph.input}
    initializers = {tensor.name for tensor in graph.initializer}
    if original.ir_version < 4 and initializers <= {value.name for value in given.input}:
        proto.ir_version = original.ir_version
        inputs |= initializers
    del graph.input[:]
    graph.input.extend(value for value in given.input if value.name in inputs)
    declared = (*loaded.ir.graph.inputs, *loaded.ir.graph.outputs)
    shapes = {value.name: value.shape for value in declared}
    for described in (*graph.input, *graph.output):
        shape = shapes.get(described.name)
        if shape is not None and described.type.HasField("tensor_type"):
            _fix_sizes(described.type.tensor_type, shape)


def _fix_sizes(described: onnx.TypeProto.Tensor, shape: ir.Shape) -> None:
    """Declare the sizes that were set on request, where the file has none."""
    if not described.HasField("shape") or len(described.shape.dim) != shape.rank():
        return
    for declared, size in zip(described.shape.dim, shape, strict=True):
        if isinstance(size, int) and not declared.HasField("dim_value"):
            declared.dim_value = size
