"""Keeps the order of metadata, which onnx_ir sorts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx
import onnx_ir as ir

from bnfold.graph.walk import bodies_in


def keep_order(proto: onnx.ModelProto, model: ir.Model) -> None:
    """Put all metadata of a newly serialized model in the order in which the model has them.

    Each key is written once: onnx_ir writes those of an initializer twice, from value and tensor.
    """
    _arrange(proto.metadata_props, model.metadata_props)
    _keep_order_of_graph(proto.graph, model.graph)
    for function_proto, function in zip(proto.functions, model.functions.values(), strict=True):
        _arrange(function_proto.metadata_props, function.metadata_props)
        _keep_order_of_nodes(function_proto.node, function.graph)
        _keep_order_of_values(function_proto.value_info, function.graph)


def _keep_order_of_graph(proto: onnx.GraphProto, graph: ir.Graph) -> None:
    _arrange(proto.metadata_props, graph.metadata_props)
    _keep_order_of_nodes(proto.node, graph)
    for tensor in proto.initializer:
        value = graph.initializers[tensor.name]
        own = value.const_value.metadata_props if value.const_value is not None else {}
        _arrange(tensor.metadata_props, {**own, **value.metadata_props})
    _keep_order_of_values([*proto.value_info, *proto.input, *proto.output], graph)


def _keep_order_of_nodes(protos: Iterable[onnx.NodeProto], graph: ir.Graph) -> None:
    for proto, node in zip(protos, graph, strict=True):
        _arrange(proto.metadata_props, node.metadata_props)
        for attribute in proto.attribute:
            if attribute.ref_attr_name:
                continue
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensor = node.attributes[attribute.name].as_tensor()
                _arrange(attribute.t.metadata_props, tensor.metadata_props)
            elif attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                is_one = attribute.type == onnx.AttributeProto.GRAPH
                bodies = [attribute.g] if is_one else attribute.graphs
                for body, inner in zip(
                    bodies, bodies_in(node.attributes[attribute.name]), strict=True
                ):
                    _keep_order_of_graph(body, inner)


def _keep_order_of_values(protos: Iterable[onnx.ValueInfoProto], graph: ir.Graph) -> None:
    described = [proto for proto in protos if len(proto.metadata_props) > 1]
    if not described:
        return
    values = [*graph.inputs, *graph.initializers.values()]
    values += [output for node in graph for output in node.outputs]
    by_name = {value.name: value for value in values}
    for proto in described:
        if proto.name in by_name:  # else it is an output that is from outside
            _arrange(proto.metadata_props, by_name[proto.name].metadata_props)


def _arrange(properties: Any, order: Mapping[str, str]) -> None:
    """Bring the entries of a protobuf into an order."""
    if len(properties) < 2:
        return
    contents = {entry.key: entry.value for entry in properties}
    del properties[:]
    for key in (
        *(key for key in order if key in contents),
        *(k for k in contents if k not in order),
    ):
        properties.add(key=key, value=contents[key])
