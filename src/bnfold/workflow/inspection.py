"""What a model is, in figures; and in which nodes two models differ."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import onnx

from bnfold.errors import BnfoldError
from bnfold.graph.cost import Cost, cost_of
from bnfold.modelfile.loading import ModelSource
from bnfold.proof.learned import learned
from bnfold.record.data import ModelFigures, ModelRecord, NodeDifference, Record


@dataclass(frozen=True)
class Inspection:
    """The figures of one model."""

    model: ModelRecord
    data_bytes: int
    """The size of its external data."""
    inputs: dict[str, str]
    """The type and shape of each, as the file declares them."""
    outputs: dict[str, str]
    functions: int
    cost: Cost
    nodes: dict[str, tuple[str, str]]
    """By the first value that it computes: its operator, and all else that tells it from others."""

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain data, without the nodes."""
        described = dataclasses.asdict(self)
        del described["nodes"]
        return described

    def figures(self) -> ModelFigures:
        """Return what a record has of it."""
        return ModelFigures(
            inputs=self.inputs,
            outputs=self.outputs,
            **dataclasses.asdict(self.cost),
            bytes=self.model.bytes + self.data_bytes,
        )


def inspect(source: ModelSource) -> Inspection:
    """Read a model, and count.

    Raises:
        ModelError: if it cannot be read, is invalid or is not supported.
    """
    loaded = learned(source)
    proto = loaded.source.read.proto
    initializers = {tensor.name for tensor in proto.graph.initializer}
    given = [value for value in proto.graph.input if value.name not in initializers]
    return Inspection(
        model=loaded.source.describe(hashed=False),
        data_bytes=sum(file.stat().st_size for file in loaded.data_files),
        inputs={value.name: _described(value.type) for value in given},
        outputs={value.name: _described(value.type) for value in proto.graph.output},
        functions=len(proto.functions),
        cost=cost_of(loaded.ir),
        nodes={
            next(filter(None, node.output), node.name): (node.op_type, _signature(node))
            for node in proto.graph.node
        },
    )


def differing_nodes(one: Inspection, other: Inspection) -> NodeDifference:
    """Compare the nodes of two models that compute values of the same names."""
    return NodeDifference(
        gone={name: op for name, (op, _) in one.nodes.items() if name not in other.nodes},
        new={name: op for name, (op, _) in other.nodes.items() if name not in one.nodes},
        changed={
            name: [node[0], other.nodes[name][0]]
            for name, node in one.nodes.items()
            if name in other.nodes and node != other.nodes[name]
        },
    )


def with_figures(record: Record, *models: ModelSource) -> Record:
    """Return the record with the figures of one or two models, and in which nodes they differ.

    A model that only onnxruntime can read has no figures, so there are none then.
    """
    try:
        found = [inspect(model) for model in models]
    except BnfoldError:
        return record
    return replace(
        record,
        figures=[each.figures() for each in found],
        nodes=differing_nodes(*found) if len(found) == 2 else None,
    )


def _signature(node: onnx.NodeProto) -> str:
    """Return the inputs and attributes of a node as text."""
    attributes = sorted(
        (each.name, each.SerializeToString(deterministic=True).hex()) for each in node.attribute
    )
    return repr((node.domain, list(node.input), attributes))


def _described(kind: onnx.TypeProto) -> str:
    """Return a type as text, as in ``float32[N,3,224,224]``."""
    if kind.HasField("tensor_type"):
        tensor = kind.tensor_type
        name = str(onnx.TensorProto.DataType.Name(tensor.elem_type)).lower()
        name = {"float": "float32", "double": "float64"}.get(name, name)
        if not tensor.HasField("shape"):
            return name
        sizes = (
            str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?"
            for dim in tensor.shape.dim
        )
        return f"{name}[{','.join(sizes)}]"
    return str(kind.WhichOneof("value") or "unknown").removesuffix("_type")
