"""Normalizes a newly read model to the form that the passes rely on.

Afterwards: every value that is read is defined; nodes are in topological order and have their names
from the file or none; no name in a body shadows one outside; each body has its opset imports; an
initializer that no caller can override is not a graph input. What the model computes and its
interface do not change.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

import onnx
import onnx_ir as ir

from bnfold.errors import ModelError
from bnfold.graph.walk import all_graphs, bodies_in, outermost_graphs, sort


def normalize(model: ir.Model, proto: onnx.ModelProto, name: str) -> None:
    """Normalize `model`, just created from `proto`, in place.

    Raises:
        ModelError: if the graph is inconsistent; `name` is what the message calls the model.
    """
    unnamed = list(_unnamed_nodes(proto.graph, model.graph))
    for function_proto, function in zip(proto.functions, model.functions.values(), strict=True):
        unnamed += _unnamed_nodes(function_proto, function.graph)
    for node in unnamed:
        node.name = None
    _free_negative_sizes(model)
    prepare(model, name)


def prepare(model: ir.Model, name: str) -> None:
    """Normalize a model that has no protobuf.

    Raises:
        ModelError: if the graph is inconsistent; `name` is what the message calls the model.
    """
    _require_computed(model, name)
    for graph in outermost_graphs(model):
        try:
            sort(graph)
        except ValueError:
            raise ModelError(f"{name} is not a valid ONNX model: its graph has a cycle") from None
        for body in graph.subgraphs():
            body.opset_imports.update(graph.opset_imports)
        _rename_shadowing(graph)
    if model.ir_version < 4:
        _take_constants_off_inputs(model)


def _unnamed_nodes(
    proto: onnx.GraphProto | onnx.FunctionProto, graph: ir.Graph
) -> Iterator[ir.Node]:
    """Yield the nodes that are unnamed in the file; onnx_ir gave them names."""
    for node_proto, node in zip(proto.node, graph, strict=True):
        if not node_proto.name:
            yield node
        for attribute in node_proto.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _unnamed_nodes(attribute.g, node.attributes[attribute.name].as_graph())
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                bodies = node.attributes[attribute.name].as_graphs()
                for body_proto, body in zip(attribute.graphs, bodies, strict=True):
                    yield from _unnamed_nodes(body_proto, body)


def _require_computed(model: ir.Model, name: str) -> None:
    for graph in all_graphs(model):
        read: list[tuple[ir.Value, ir.Node | None]] = [(value, None) for value in graph.outputs]
        read += [(value, node) for node in graph for value in node.inputs if value is not None]
        for value, node in read:
            is_defined = value.producer() is not None or (
                value.is_graph_input() or value.is_initializer()
            )
            if not is_defined:
                reader = f"{node.op_type} {node.name or ''}" if node is not None else "an output"
                raise ModelError(
                    f"{name} is truncated or invalid: {reader.strip()} reads {value.name!r}, "
                    "which nothing computes"
                )


def _rename_shadowing(
    graph: ir.Graph, outer: tuple[Collection[str], ...] = (), *, is_foreign: bool = False
) -> None:
    """Rename values in bodies that shadow a value outside.

    Names inside a body are not part of the interface. If they shadowed outer names, a node in a
    body that is rewired to an outer value could read the body's own value instead. But operators of
    other domains may demand names: BeamSearch, the `input_ids` of its decoder.
    """
    values = [*graph.inputs, *graph.initializers.values()]
    values += [output for node in graph for output in node.outputs if output.name]
    own = {value.name for value in values if value.name}
    demanded = {*graph.inputs, *graph.outputs} if is_foreign else set()
    for value in values:
        if value not in demanded and any(value.name in names for names in outer):
            candidates = (f"{value.name}_{n}" for n in itertools.count(1))
            taken = (own, *outer)
            value.name = next(c for c in candidates if not any(c in names for names in taken))
            own.add(value.name)
    for node in graph:
        for attribute in node.attributes.values():
            for body in bodies_in(attribute):
                _rename_shadowing(body, (*outer, own), is_foreign=node.domain != "")


def _take_constants_off_inputs(model: ir.Model) -> None:
    """Upgrade to IR version 4, in which initializers need not be graph inputs.

    Up to version 3, all of them must be inputs, but are still constants. From version 4 on, callers
    may override those that are inputs, so remove them from the inputs to keep the meaning.
    """
    model.ir_version = 4
    inputs = model.graph.inputs
    kept = [value for value in inputs if not value.is_initializer()]
    inputs.clear()
    inputs.extend(kept)


def _free_negative_sizes(model: ir.Model) -> None:
    """Let negative sizes, which old exporters write for free ones, be unknown."""
    for graph in all_graphs(model):
        values = [*graph.inputs, *graph.outputs]
        values += [output for node in graph for output in node.outputs]
        for value in values:
            if value.shape is not None and not value.shape.frozen:
                for axis, size in enumerate(value.shape):
                    if isinstance(size, int) and size < 0:
                        value.shape[axis] = None
