"""Puts a freshly read model into the one form that the passes rely on.

Afterwards: every input is computed by something; nodes stand in topological order, with the names
of the file or none; no name in a body hides one outside; each body knows its opsets; an
initializer that no caller can override is not among the graph's inputs; shapes that can be
inferred are known. What the model computes, and what a caller sees of it, is the same as before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator

import onnx
import onnx.helper
import onnx.shape_inference
import onnx_ir as ir

from bnfold.errors import ModelError
from bnfold.graph.walk import all_graphs, outermost_graphs, sort


def normalize(model: ir.Model, proto: onnx.ModelProto, name: str) -> None:
    """Normalize `model`, just made from `proto`, in place.

    Raises:
        ModelError: if the graph does not hold together; `name` is what to call it.
    """
    unnamed = list(_unnamed_nodes(proto.graph, model.graph))
    for function_proto, function in zip(proto.functions, model.functions.values(), strict=True):
        unnamed += _unnamed_nodes(function_proto, function.graph)
    for node in unnamed:
        node.name = None
    _infer_shapes(proto, model.graph)
    prepare(model, name)


def prepare(model: ir.Model, name: str) -> None:
    """Do as `normalize` does, with a model of which there is no protobuf, and shapes as they are.

    Raises:
        ModelError: if the graph does not hold together; `name` is what to call it.
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
    """Yield the nodes that have no name in the file, for which onnx_ir has invented one."""
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


def _rename_shadowing(graph: ir.Graph, outer: tuple[Collection[str], ...] = ()) -> None:
    """Rename values in bodies whose name also means a value outside.

    Names inside a body are no interface. Without this, making a body's node read another value
    from outside could make it read its own by accident.
    """
    values = [*graph.inputs, *graph.initializers.values()]
    values += [output for node in graph for output in node.outputs if output.name]
    own = {value.name for value in values if value.name}
    for value in values:
        if any(value.name in names for names in outer):
            candidates = (f"{value.name}_{n}" for n in itertools.count(1))
            taken = (own, *outer)
            value.name = next(c for c in candidates if not any(c in names for names in taken))
            own.add(value.name)
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.GRAPH:
                _rename_shadowing(attribute.as_graph(), (*outer, own))
            elif attribute.type == ir.AttributeType.GRAPHS:
                for body in attribute.as_graphs():
                    _rename_shadowing(body, (*outer, own))


def _take_constants_off_inputs(model: ir.Model) -> None:
    """Go to IR version 4, where a graph's initializers need not be among its inputs.

    Up to version 3 they must be, and are constants all the same. From 4 on, one among the inputs
    may be overridden by a caller. So for the same meaning they leave the inputs.
    """
    model.ir_version = 4
    inputs = model.graph.inputs
    kept = [value for value in inputs if not value.is_initializer()]
    inputs.clear()
    inputs.extend(kept)


_LARGEST_SHAPE = 128
"""Elements up to which a weight may be a shape, axes or the like, which inference has to read."""


def _infer_shapes(proto: onnx.ModelProto, graph: ir.Graph) -> None:
    """Fill in the types and shapes of values that have none, as far as onnx's inference gets.

    It works on a copy of `proto`, from which `graph` has just been made, without large weights.
    """
    light = onnx.ModelProto(ir_version=max(proto.ir_version, 4))
    light.opset_import.extend(proto.opset_import)
    light.functions.extend(proto.functions)
    light.graph.node.extend(proto.graph.node)
    light.graph.output.extend(proto.graph.output)
    light.graph.value_info.extend(proto.graph.value_info)
    light.graph.input.extend(proto.graph.input)
    declared = {each.name for each in proto.graph.input}
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) <= _LARGEST_SHAPE:
            light.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            described = onnx.helper.make_tensor_value_info(
                tensor.name, tensor.data_type, tensor.dims
            )
            light.graph.input.append(described)
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except Exception:  # inference is a help, not a need; passes refuse where a shape is missing
        return
    _fill_in(inferred.graph, graph)


def _fill_in(proto: onnx.GraphProto, graph: ir.Graph) -> None:
    known = {info.name: info.type for info in proto.value_info}
    for node_proto, node in zip(proto.node, graph, strict=True):
        for value in node.outputs:
            # What an output declares is the interface, and stays as it is.
            if value.name in known and not value.is_graph_output():
                if value.type is None:
                    value.type = ir.serde.deserialize_type_proto_for_type(known[value.name])
                if value.shape is None:
                    value.shape = ir.serde.deserialize_type_proto_for_shape(known[value.name])
        for attribute in node_proto.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _fill_in(attribute.g, node.attributes[attribute.name].as_graph())
