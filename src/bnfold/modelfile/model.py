"""A model in memory, and what is known of the file that it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx.checker
import onnx_ir as ir

from bnfold.errors import ModelError
from bnfold.graph.walk import all_graphs
from bnfold.modelfile.markers import Markers
from bnfold.modelfile.places import weights_of
from bnfold.modelfile.protos import count_operators, graphs_of
from bnfold.modelfile.reading import restore
from bnfold.modelfile.source import ModelSource as ModelSource
from bnfold.modelfile.source import Source

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
