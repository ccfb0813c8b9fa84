"""Makes the model that onnx infers shapes from: a graph without its weights and its claims."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx.helper
import onnx_ir as ir

from bnfold.graph.carried import Carried, Link, Sizes, links
from bnfold.graph.constants import constant, is_constant, is_deferred
from bnfold.graph.shapes import free_names, shape_of
from bnfold.graph.sizes import Size
from bnfold.graph.walk import bodies_in, bodies_of

MOST_AXES = 64
"""numpy has no arrays with more, and inference takes a time that grows with their square."""

_UNKNOWN_DOMAIN = "bnfold.unknown"
"""Operators of this domain stand for those whose result onnx must not infer."""

_WIDE_INTEGERS = {onnx.TensorProto.INT32, onnx.TensorProto.INT64}
"""Integers that hold any size."""

_LARGEST_CONTENT = 128
"""Elements of the largest constant that inference reads, as it may be a shape or axes."""

_LARGEST_FLOATS = 16
"""Elements of the largest constant of floats that inference reads: scales of axes, a region."""

_FLOATS = frozenset(dtype.value for dtype in ir.DataType if dtype.is_floating_point())

_READ_BY_RESHAPE = 14
"""From this operator set on, onnx infers what a Reshape to computed sizes makes."""

_LIKE_IT = range(9, _READ_BY_RESHAPE)
"""Operator sets whose operators infer the same sizes in that one, with numbers as inputs."""

_INPUTS_LATER: Mapping[str, Sequence[str]] = {
    "Pad": ["pads"],
    "ReduceSum": ["axes"],
    "Slice": ["starts", "ends", "axes"],
    "Split": ["split"],
    "Squeeze": ["axes"],
    "TopK": ["k"],
    "Unsqueeze": ["axes"],
}
"""Operators that have inputs in place of attributes by that operator set."""

_PLACES = "bnfold.places"
"""An input of the model that stands for so many places along an axis, each time for others."""

Known = Mapping[ir.Node, tuple[Size, ...]]
"""The sizes, as onnxruntime computes them, of nodes where onnx infers others."""


def bare_model(graph: ir.Graph, known: Known, carried: Carried) -> onnx.ModelProto:
    """Return the graph without large weights, without claims and without functions.

    Through functions onnx infers its own sizes, and believes what is claimed in their bodies.
    """
    bare, is_raised = _without_nodes(graph)
    names = free_names()
    for value in graph.inputs:
        _add_input(bare.graph, value, names)
    _describe(bare.graph, _PLACES, onnx.TensorProto.INT64, [None])
    for value in graph.initializers.values():
        if not value.is_graph_input() and value.const_value is not None:
            _add_constant(bare.graph, value.name or "", value.const_value)
    for node in graph:
        if is_result_known(node):
            _add_result(bare.graph, node.outputs[0])
        else:
            _add_node(bare.graph, node, known, carried)
    if is_raised:
        _raise(bare.graph, bare.graph)
    return bare


def bare_expressions(graph: ir.Graph, nodes: Sequence[ir.Node]) -> onnx.ModelProto:
    """Return the same of nodes of a graph and its bodies that read constants and each other."""
    bare, is_raised = _without_nodes(graph)
    made = {value for node in nodes for value in node.outputs}
    read = dict.fromkeys(v for node in nodes for v in node.inputs if v is not None)
    for value in read:
        if value.is_initializer() and value.const_value is not None:
            _add_constant(bare.graph, value.name or "", value.const_value)
        elif value not in made:
            _add_result(bare.graph, value)
    for node in nodes:
        _add_node(bare.graph, node, {}, {})
    if is_raised:
        _raise(bare.graph, bare.graph)
    return bare


def _without_nodes(graph: ir.Graph) -> tuple[onnx.ModelProto, bool]:
    """Return an empty model for the nodes of a graph, and whether their operators are raised."""
    bare = onnx.ModelProto(ir_version=8)
    versions = {_UNKNOWN_DOMAIN: 1, **graph.opset_imports}
    is_raised = versions.get("") in _LIKE_IT
    versions |= {"": _READ_BY_RESHAPE} if is_raised else {}
    for domain, version in versions.items():
        bare.opset_import.add(domain=domain, version=version)
    return bare, is_raised


def _raise(graph: onnx.GraphProto, outermost: onnx.GraphProto) -> None:
    """Turn operators into those of operator set 14."""
    for node in graph.node:
        if node.domain == "":
            _turn_into_inputs(node, _INPUTS_LATER.get(node.op_type, ()), outermost)
            if node.op_type == "Resize" and len(node.input) == 2:
                node.input.insert(1, "")  # the region, before the scales
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _raise(body, outermost)


def _turn_into_inputs(
    node: onnx.NodeProto, names: Sequence[str], outermost: onnx.GraphProto
) -> None:
    """Turn attributes into inputs; onnx must not infer from one that a function is given."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    for attribute in [attributes[name] for name in names if name in attributes]:
        if attribute.ref_attr_name:
            node.domain = _UNKNOWN_DOMAIN
            return
        is_one = attribute.type == onnx.AttributeProto.INT
        numbers = [attribute.i] if is_one else list(attribute.ints)
        content = f"bnfold.{attribute.name}.{len(outermost.initializer)}"
        outermost.initializer.append(
            onnx.helper.make_tensor(content, onnx.TensorProto.INT64, [len(numbers)], numbers)
        )
        node.input.append(content)
        node.attribute.remove(attribute)


def is_result_known(node: ir.Node) -> bool:
    """Say whether what a node computes is constant: its operator need not be inferred then."""
    if len(node.outputs) != 1 or not node.outputs[0].name:
        return False
    return is_constant(node.outputs[0]) and node.outputs[0].dtype != ir.DataType.STRING


def bodies(node: ir.Node, proto: onnx.NodeProto) -> Iterator[tuple[ir.Graph, onnx.GraphProto]]:
    """Yield the bodies of a node, each with its protobuf."""
    for attribute in proto.attribute:
        if attribute.HasField("g") or attribute.graphs:
            protos = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            yield from zip(bodies_in(node.attributes[attribute.name]), protos, strict=True)


def _add_input(graph: onnx.GraphProto, value: ir.Value, names: Iterator[str]) -> None:
    described = ir.serde.serialize_value(value)
    _clear_shapes(described.type)
    if described.type.HasField("tensor_type") and value.shape is not None:
        sizes = described.type.tensor_type.shape
        sizes.SetInParent()
        for size in value.shape:
            if isinstance(size, int) and size > 0:
                sizes.dim.add(dim_value=size)
            else:
                sizes.dim.add(dim_param=next(names))
    graph.input.append(described)


def _add_result(graph: onnx.GraphProto, value: ir.Value) -> None:
    """Add what a node computes as a constant; one that is not computed yet, by its shape alone."""
    if is_deferred(value):
        shape, dtype = shape_of(value), value.dtype
        assert shape is not None
        assert dtype is not None
        _describe(graph, value.name or "", dtype.value, shape.numpy())
    else:
        content = constant(value)
        assert content is not None
        dtype = ir.DataType.from_numpy(content.dtype)
        _add_constant(graph, value.name or "", ir.Tensor(content, dtype=dtype))


def _add_constant(graph: onnx.GraphProto, name: str, content: ir.TensorProtocol) -> None:
    """Add an initializer, or for a large one, or one of strings, an input of its shape."""
    # Most constants of a newly read model are protobufs, which are quick to read and to copy.
    is_raw = isinstance(content, ir.serde.TensorProtoTensor)
    dtype = content.raw.data_type if is_raw else content.dtype.value
    shape = content.raw.dims if is_raw else content.shape.numpy()
    most = _LARGEST_FLOATS if dtype in _FLOATS else _LARGEST_CONTENT
    if math.prod(shape) > most or dtype == onnx.TensorProto.STRING:
        _describe(graph, name, dtype, shape)
        return
    graph.initializer.append(content.raw if is_raw else ir.serde.serialize_tensor(content))
    graph.initializer[-1].name = name


def _describe(graph: onnx.GraphProto, name: str, dtype: int, shape: Sequence[Size]) -> None:
    described = onnx.helper.make_tensor_value_info(name, dtype, shape)
    graph.input.append(described)


def _add_node(graph: onnx.GraphProto, node: ir.Node, known: Known, carried: Carried) -> None:
    proto = ir.serde.serialize_node(node)
    _prepare(graph, node, proto, known, carried)
    graph.node.extend(_inferred(node, proto))


def _prepare(
    graph: onnx.GraphProto, node: ir.Node, proto: onnx.NodeProto, known: Known, carried: Carried
) -> None:
    """Hide a node that onnx must not infer from, and take the claims out of its bodies."""
    is_misread = _has_too_many_axes(node) or _squeezes_all_ones(node) or _carries_sequences(node)
    if node in known or is_misread:
        proto.domain = _UNKNOWN_DOMAIN
        sizes, dtype = known.get(node), node.outputs[0].dtype
        if sizes is not None and dtype is not None:
            described = onnx.helper.make_tensor_value_info(
                node.outputs[0].name or "", dtype.value, sizes
            )
            graph.value_info.append(described)
    if not bodies_of(node):
        return
    for body, body_proto in bodies(node, proto):
        del body_proto.value_info[:]
        for value in (*body_proto.input, *body_proto.output):
            _clear_shapes(value.type)
        for link in links(node):
            _assume(graph, body_proto, link, carried.get(link.within))
        nodes = []
        for inner, inner_proto in zip(body, body_proto.node, strict=True):
            _prepare(body_proto, inner, inner_proto, known, carried)
            copy = onnx.NodeProto.FromString(inner_proto.SerializeToString())
            nodes += _inferred(inner, copy)
        del body_proto.node[:]
        body_proto.node.extend(nodes)


def _assume(graph: onnx.GraphProto, body: onnx.GraphProto, link: Link, sizes: Sizes | None) -> None:
    """Describe a value that a Loop carries, in its body and as its result."""
    dtype = link.within.dtype
    if sizes is None or dtype is None:
        return
    for places, name in ((body.input, link.within.name), (graph.output, link.result.name)):
        described = onnx.helper.make_tensor_value_info(name or "", dtype.value, sizes)
        found = [value for value in places if value.name == name] if name else []
        for value in found:
            value.CopyFrom(described)
        if name and not found:
            graph.value_info.append(described)


def _inferred(node: ir.Node, proto: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the nodes from which onnx infers what a node makes."""
    axes = _axes_cut_anywhere(node) if proto.domain != _UNKNOWN_DOMAIN else ()
    if axes:
        return _gathers(proto, axes)
    return [proto, _stop(proto)] if _changes_numbers(node) else [proto]


def _axes_cut_anywhere(node: ir.Node) -> Sequence[int]:
    """Return the axes of a Slice with computed bounds, if onnx can learn from them."""
    if node.op_type != "Slice" or node.domain or len(node.inputs) < 4 or not node.outputs[0].name:
        return ()
    axes = constant(node.inputs[3])
    if axes is None or all(map(is_constant, node.inputs[1:3])):
        return ()
    return [int(axis) for axis in axes.reshape(-1)]


def _gathers(cut: onnx.NodeProto, axes: Sequence[int]) -> list[onnx.NodeProto]:
    """Return Gathers in place of a Slice: onnx then keeps the sizes of the other axes."""
    names = [cut.input[0], *(f"{cut.output[0]}.bnfold.{axis}" for axis in axes[1:]), cut.output[0]]
    return [
        onnx.helper.make_node("Gather", [names[place], _PLACES], [names[place + 1]], axis=axis)
        for place, axis in enumerate(axes)
    ]


def _changes_numbers(node: ir.Node) -> bool:
    """Say whether a node is a Cast to a type that does not hold any size."""
    if node.op_type != "Cast" or not node.outputs or node.domain:
        return False
    return node.attributes.get_int("to", 0) not in _WIDE_INTEGERS


def _stop(cast: onnx.NodeProto) -> onnx.NodeProto:
    """Return a Relu that takes the place of a Cast's result.

    onnx passes the content of shapes on through any Cast, unchanged, and none through Relu.
    """
    name = cast.output[0]
    cast.output[0] += ".bnfold.cast"
    return onnx.helper.make_node("Relu", [cast.output[0]], [name])


def _has_too_many_axes(node: ir.Node) -> bool:
    """Say whether an Unsqueeze makes more axes than any runtime supports, as a bomb does."""
    if node.op_type != "Unsqueeze":
        return False
    content = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = node.attributes.get_ints("axes", ()) or ()
    return len(axes) > MOST_AXES or (content is not None and content.size > MOST_AXES)


def _squeezes_all_ones(node: ir.Node) -> bool:
    """Say whether a Squeeze has an empty list of axes: onnxruntime then takes all of size 1."""
    axes = constant(node.inputs[1]) if node.op_type == "Squeeze" and len(node.inputs) > 1 else None
    return axes is not None and axes.size == 0


def _carries_sequences(node: ir.Node) -> bool:
    """Say whether a Loop carries anything but tensors: onnx takes the shapes at its start."""
    return node.op_type == "Loop" and any(
        not isinstance(value.type, ir.TensorType)
        for body in bodies_of(node)
        for value in body.inputs[2:]
    )


def _clear_shapes(described: onnx.TypeProto) -> None:
    """Take the shape out of a type; of a sequence, map or optional, that of its elements."""
    for kind in ("tensor_type", "sparse_tensor_type"):
        if described.HasField(kind):
            getattr(described, kind).ClearField("shape")
    for kind, inner in (
        ("sequence_type", "elem_type"),
        ("optional_type", "elem_type"),
        ("map_type", "value_type"),
    ):
        if described.HasField(kind):
            _clear_shapes(getattr(getattr(described, kind), inner))
