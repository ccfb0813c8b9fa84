"""What is known of the shape of a value, for every input that the model accepts.

A size is an integer only if it follows from the inputs that the model declares with a fixed size,
and from constants. onnx infers it, from the graph alone: what a file says of the values between
(``value_info``, shapes of outputs and of the inputs of bodies) is a claim. An exporter that traced
the model with one input may have written the sizes of that input, and a later tool may have set an
input free. Where onnx is known to infer another size than onnxruntime computes,
`bnfold.graph.sizes` decides.

Negative sizes and 0, which old exporters write for free ones, are free, and so are all named ones.
Each gets a name of its own, because two inputs that share a name such as ``?`` may differ.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeAlias

import onnx
import onnx.helper
import onnx.shape_inference
import onnx_ir as ir

from bnfold.graph.constants import constant
from bnfold.graph.sizes import DELICATE, Size, runtime_sizes
from bnfold.graph.walk import bodies_in, has_body, outermost_graphs

Infer: TypeAlias = Callable[[onnx.ModelProto], onnx.ModelProto | None]
"""Infers the shapes of all values of a model; None if it cannot."""

_SHAPE = "bnfold.shape"

_FREE = "bnfold.free."
"""Begins the name of a size that a caller chooses; onnx names those that it does not know unk__."""

_UNKNOWN_DOMAIN = "bnfold.unknown"
"""Operators of this domain stand for those whose result onnx must not infer."""

_WIDE_INTEGERS = {onnx.TensorProto.INT32, onnx.TensorProto.INT64}
"""Integers that hold any size."""

_LARGEST_CONTENT = 128
"""Elements of the largest constant that inference reads, as it may be a shape or axes."""

_MOST_AXES = 64
"""numpy has no arrays with more, and inference takes a time that grows with their square."""

_ROUNDS = 6
"""Times that onnx infers again because a size was wrong; later ones are left unknown."""


def shape_of(value: ir.Value | None) -> ir.Shape | None:
    """Return the shape of a value as far as it is the same for every input; None if unknown.

    A size that is not known is a name or None. Two sizes with one name are equal.
    """
    if value is None:
        return None
    if value.is_initializer() and not value.is_graph_input():
        return None if value.const_value is None else ir.Shape(value.const_value.shape.numpy())
    shape: ir.Shape | None = value.meta.get(_SHAPE)
    return shape


def size_of(value: ir.Value | None, axis: int) -> int | None:
    """Return the size along an axis, which may be negative, if it is known for every input."""
    shape = shape_of(value)
    if shape is None or not -shape.rank() <= axis < shape.rank():
        return None
    size = shape[axis]
    return size if isinstance(size, int) else None


def rank_of(value: ir.Value | None) -> int | None:
    """Return the number of axes, if it is known for every input."""
    shape = shape_of(value)
    return None if shape is None else shape.rank()


def is_free(size: int | ir.SymbolicDim) -> bool:
    """Say whether a size of a known shape is one that a caller chooses."""
    return isinstance(size, ir.SymbolicDim) and (size.value or "").startswith(_FREE)


def record_shape(value: ir.Value, shape: ir.Shape | None) -> None:
    """Record what is known of the shape of a value that a rewrite has created."""
    if shape is None:
        value.meta.pop(_SHAPE, None)
    else:
        value.meta[_SHAPE] = shape


def forget_shapes(graph: ir.Graph) -> None:
    """Forget what `learn_shapes` found of a graph, bodies aside."""
    for value in itertools.chain(graph.inputs, *(node.outputs for node in graph)):
        value.meta.pop(_SHAPE, None)


def infer_here(model: onnx.ModelProto, *, contents: bool = True) -> onnx.ModelProto | None:
    """Let onnx infer shapes, in this process; also from the contents of shapes, if it may."""
    contents = contents and _propagates_little(model.graph)
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=contents)
    except MemoryError:
        return infer_here(model, contents=False) if contents else None  # they may have been huge
    except Exception:  # inference is optional; passes refuse where a shape is missing
        return None


_PROPAGATING = frozenset(
    {"Add", "Cast", "Concat", "Gather", "Identity", "Mul", "Slice", "Squeeze", "Sub", "Unsqueeze"}
)
"""Operators through which onnx passes the content of shapes, element by element."""

_MOST_PROPAGATED = 2**16
"""Elements of a vector up to which it may do so."""


def _propagates_little(graph: onnx.GraphProto) -> bool:
    """Say whether onnx can pass contents through this graph: a few Concats may make them huge."""
    lengths = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        lengths[value.name] = dims[0].dim_value if len(dims) == 1 else 0
    for node in graph.node:
        if node.op_type in _PROPAGATING and node.input and node.output:
            read = [lengths.get(name, 0) for name in node.input]
            length = sum(read) if node.op_type == "Concat" else max(read)
            if length > _MOST_PROPAGATED:
                return False
            lengths[node.output[0]] = length
        elif node.op_type == "Shape" and node.output:
            lengths[node.output[0]] = _MOST_AXES
    return True


def learn_shapes(model: ir.Model, infer: Infer = infer_here) -> None:
    """Infer all shapes, and missing types. The nodes of all graphs must be in order."""
    for graph in outermost_graphs(model):
        _Learning(model, graph, infer).run()


class _Learning:
    """Infers the shapes of one graph and its bodies, again where onnx inferred a wrong one."""

    def __init__(self, model: ir.Model, graph: ir.Graph, infer: Infer) -> None:
        self._model, self._graph, self._infer = model, graph, infer
        self._names = (f"{_FREE}{number}" for number in itertools.count())
        self._known: dict[ir.Node, tuple[Size, ...] | None] = {}
        """The sizes, as onnxruntime computes them, of nodes where onnx infers others."""
        self._wrong: set[ir.Value] = set()
        """Values whose shape was inferred from a wrong one, so far."""

    def run(self) -> None:
        for attempt in itertools.count():
            proto = self._proto()
            inferred = self._infer(proto)
            self._fill_in(self._graph, inferred.graph if inferred is not None else proto.graph)
            self._wrong.clear()
            if not self._find_wrong(self._graph, correct=attempt < _ROUNDS):
                return
            if attempt == _ROUNDS:
                for value in self._wrong:
                    record_shape(value, _without_sizes(shape_of(value)))
                return

    # --- What onnx infers from -------------------------------------------------------------------

    def _proto(self) -> onnx.ModelProto:
        """Return the graph without large weights, without claims and without functions.

        Through functions onnx infers its own sizes, and believes what is claimed in their bodies.
        """
        proto = onnx.ModelProto(ir_version=max(self._model.ir_version, 8))
        imports = self._graph.opset_imports
        for domain, version in {_UNKNOWN_DOMAIN: 1, **imports}.items():
            proto.opset_import.add(domain=domain, version=version)
        for value in self._graph.inputs:
            self._add_input(proto.graph, value)
        for value in self._graph.initializers.values():
            if not value.is_graph_input() and value.const_value is not None:
                _add_constant(proto.graph, value.name or "", value.const_value)
        for node in self._graph:
            self._add_node(proto.graph, node)
        _stop_at_casts(proto.graph)
        return proto

    def _add_input(self, graph: onnx.GraphProto, value: ir.Value) -> None:
        described = ir.serde.serialize_value(value)
        _clear_shapes(described.type)
        shape = value.shape
        if described.type.HasField("tensor_type") and shape is not None:
            sizes = described.type.tensor_type.shape
            sizes.SetInParent()
            for size in shape:
                is_fixed = isinstance(size, int) and size > 0
                sizes.dim.add(
                    **({"dim_value": size} if is_fixed else {"dim_param": next(self._names)})
                )
        graph.input.append(described)

    def _add_node(self, graph: onnx.GraphProto, node: ir.Node) -> None:
        content = _content(node)
        if content is not None:
            _add_constant(graph, node.outputs[0].name or "", content)
            return
        proto = ir.serde.serialize_node(node)
        self._prepare(graph, node, proto)
        graph.node.append(proto)

    def _prepare(self, graph: onnx.GraphProto, node: ir.Node, proto: onnx.NodeProto) -> None:
        """Hide a node that onnx must not infer from, and take the claims out of its bodies."""
        if node in self._known or _has_too_many_axes(node) or _carries_sequences(node):
            proto.domain = _UNKNOWN_DOMAIN
            sizes = self._known.get(node)
            if sizes is not None and node.outputs[0].dtype is not None:
                graph.value_info.append(
                    onnx.helper.make_tensor_value_info(
                        node.outputs[0].name or "", node.outputs[0].dtype.value, sizes
                    )
                )
        for attribute in proto.attribute:
            if not has_body(node):
                break
            for body, body_proto in _bodies(node, attribute):
                del body_proto.value_info[:]
                for value in (*body_proto.input, *body_proto.output):
                    _clear_shapes(value.type)
                for inner, inner_proto in zip(body, body_proto.node, strict=True):
                    self._prepare(body_proto, inner, inner_proto)

    # --- What it infers --------------------------------------------------------------------------

    def _fill_in(self, graph: ir.Graph, proto: onnx.GraphProto) -> None:
        described = (*proto.input, *proto.value_info, *proto.output)
        types = {info.name: info.type for info in described}
        nodes = {node.output[0]: node for node in proto.node if node.output}
        for value in graph.inputs:
            _take(value, types)
        for node in graph:
            content = _content(node)
            for value in node.outputs:
                if content is None:
                    _take(value, types)
                else:
                    record_shape(value, ir.Shape(content.shape.numpy()))
            if has_body(node) and node.outputs and node.outputs[0].name in nodes:
                for attribute in nodes[node.outputs[0].name].attribute:
                    for body, body_proto in _bodies(node, attribute):
                        self._fill_in(body, body_proto)

    def _find_wrong(self, graph: ir.Graph, *, correct: bool) -> bool:
        """Find nodes for which onnx inferred other sizes than onnxruntime computes.

        What is downstream of one has to be inferred again. Return whether there are any.
        """
        found = False
        for node in graph:
            is_downstream = any(value in self._wrong for value in node.inputs)
            sizes = None
            if not is_downstream and node not in self._known and node.op_type in DELICATE:
                sizes = _wrong_sizes(node)
            if sizes is not None and correct:
                self._known[node] = sizes
            found |= sizes is not None
            inside = [
                self._find_wrong(body, correct=correct)
                for attribute in node.attributes.values()
                if has_body(node)
                for body in bodies_in(attribute)
            ]
            found |= any(inside)
            if is_downstream or sizes is not None or any(inside):
                self._wrong.update(node.outputs)
        return found


def _wrong_sizes(node: ir.Node) -> tuple[Size, ...] | None:
    """Return the sizes of a node's result, if onnx has inferred another one somewhere."""
    if not node.outputs or not node.inputs:
        return None
    inferred, data = shape_of(node.outputs[0]), shape_of(node.inputs[0])
    if inferred is None or data is None or node.domain not in ("", "ai.onnx"):
        return None
    sizes = runtime_sizes(node, [size if isinstance(size, int) else None for size in data])
    if sizes is None:
        return None
    if len(sizes) == inferred.rank() and all(
        not isinstance(was, int) or was == size for was, size in zip(inferred, sizes, strict=True)
    ):
        return None
    return tuple(sizes)


def _take(value: ir.Value, types: Mapping[str | None, onnx.TypeProto]) -> None:
    """Take over what was inferred of a value; sizes below 0 come from no input that can be run."""
    record_shape(value, None)
    found = types.get(value.name)
    if found is None or not value.name or not found.HasField("tensor_type"):
        return
    if value.type is None:
        value.type = ir.serde.deserialize_type_proto_for_type(found)
    if found.tensor_type.HasField("shape"):
        record_shape(value, ir.Shape(map(_size, found.tensor_type.shape.dim)))


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None


def _without_sizes(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else ir.Shape([None] * shape.rank())


def _content(node: ir.Node) -> ir.TensorProtocol | None:
    """Return what a node computes, if that is constant: its operator need not be inferred then."""
    if len(node.outputs) != 1 or not node.outputs[0].name:
        return None
    content = constant(node.outputs[0])
    if content is None or content.dtype.kind in "OSU":
        return None
    return ir.Tensor(content, dtype=ir.DataType.from_numpy(content.dtype))


def _add_constant(graph: onnx.GraphProto, name: str, content: ir.TensorProtocol) -> None:
    """Add an initializer, or for a large one an input of its shape."""
    if math.prod(content.shape.numpy()) <= _LARGEST_CONTENT:
        tensor = ir.serde.serialize_tensor(content)
        tensor.name = name
        del tensor.metadata_props[:]
        graph.initializer.append(tensor)
    else:
        graph.input.append(
            onnx.helper.make_tensor_value_info(name, content.dtype.value, content.shape.numpy())
        )


def _has_too_many_axes(node: ir.Node) -> bool:
    """Say whether an Unsqueeze makes more axes than any runtime supports, as a bomb does."""
    if node.op_type != "Unsqueeze":
        return False
    content = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes: Collection[object] = node.attributes.get_ints("axes", ()) or ()
    return len(axes) > _MOST_AXES or (content is not None and content.size > _MOST_AXES)


def _stop_at_casts(graph: onnx.GraphProto) -> None:
    """Put a Relu after each Cast to a type that does not hold any size.

    onnx passes the content of shapes on through any Cast, unchanged, and none through Relu.
    """
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _stop_at_casts(body)
        targets = [attribute.i for attribute in node.attribute if attribute.name == "to"]
        if node.op_type == "Cast" and node.output and not set(targets) & _WIDE_INTEGERS:
            name = node.output[0]
            node.output[0] += ".bnfold.cast"
            nodes.append(onnx.helper.make_node("Relu", [node.output[0]], [name]))
    if len(nodes) > len(graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _carries_sequences(node: ir.Node) -> bool:
    """Say whether a Loop carries anything but tensors: onnx takes the shapes at its start."""
    return node.op_type == "Loop" and any(
        not isinstance(value.type, ir.TensorType)
        for attribute in node.attributes.values()
        for body in bodies_in(attribute)
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


def _bodies(
    node: ir.Node, proto: onnx.AttributeProto
) -> Iterator[tuple[ir.Graph, onnx.GraphProto]]:
    """Yield the bodies in an attribute of a node, each with its protobuf."""
    if proto.ref_attr_name or not (proto.HasField("g") or proto.graphs):
        return
    protos = [proto.g] if proto.HasField("g") else list(proto.graphs)
    yield from zip(bodies_in(node.attributes[proto.name]), protos, strict=True)
