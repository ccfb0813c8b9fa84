"""Infers the shapes of all values: onnx does, except where it is known to be wrong.

Where it infers another size than onnxruntime computes, `bnfold.graph.sizes` decides, and onnx
infers again what is downstream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import onnx
import onnx.shape_inference
import onnx_ir as ir

from bnfold.graph.bare import (
    MOST_AXES,
    bare_expressions,
    bare_model,
    bodies,
    is_result_known,
)
from bnfold.graph.carried import Carried, revised
from bnfold.graph.constants import constant, is_constant, is_deferred
from bnfold.graph.kept_sizes import name_kept_sizes
from bnfold.graph.shapes import record_shape, shape_of
from bnfold.graph.sizes import DELICATE, Size, runtime_sizes
from bnfold.graph.walk import bodies_of, has_body, outermost_graphs

Infer: TypeAlias = Callable[[onnx.ModelProto], onnx.ModelProto | None]
"""Infers the shapes of all values of a model; None if it cannot."""

_ROUNDS = 6
"""Times that onnx infers again because a size was wrong; later ones are left unknown."""

_ROUNDS_ASSUMING = 3
"""Of these, those after which shapes of what Loops carry are assumed; later, they may be wrong."""


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

_OF_THE_FIRST = frozenset({"Cast", "Identity", "Slice", "Squeeze", "Unsqueeze"})
"""Those that read other inputs only to learn which elements, or axes, are meant."""

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
            lengths[node.output[0]] = MOST_AXES
    return True


def learn_shapes(model: ir.Model, infer: Infer = infer_here) -> None:
    """Infer all shapes, and missing types. The nodes of all graphs must be in order."""
    for graph in outermost_graphs(model):
        _infer(graph, infer)
        _infer_expressions(graph, infer)
        name_kept_sizes(graph)


def _infer(graph: ir.Graph, infer: Infer) -> None:
    """Infer the shapes of one graph and its bodies, again where onnx inferred a wrong one.

    And where what Loops carry becomes known.
    """
    known: dict[ir.Node, tuple[Size, ...]] = {}
    carried: Carried = {}
    for number in range(_ROUNDS):
        search = _infer_once(graph, infer, known, carried)
        assumed, carried = carried, revised(graph, carried, more=number < _ROUNDS_ASSUMING)
        if not search.found and carried == assumed:
            return
        known |= search.found
    search = _infer_once(graph, infer, known, {})
    for value in search.affected:
        shape = shape_of(value)
        record_shape(value, None if shape is None else ir.Shape([None] * shape.rank()))


def _infer_expressions(graph: ir.Graph, infer: Infer) -> None:
    """Infer the shapes of what bodies compute of constants alone.

    onnx gives up on a body whose other shapes it does not know, or that carries sequences, and
    reads no bounds and axes that are constants outside.
    """
    nodes: list[ir.Node] = []
    made: set[ir.Value] = set()
    for body in _bodies_within(graph):
        for node in body:
            read = [value for value in node.inputs if value is not None]
            shapes = [shape_of(value) for value in node.outputs]
            are_known = all(shape is not None and shape.is_static() for shape in shapes)
            if not read or are_known or node.domain != "" or has_body(node):
                continue
            if all(is_constant(value) or value in made for value in read):
                made.update(node.outputs)
                nodes.append(node)
    inferred = infer(bare_expressions(graph, nodes)) if nodes else None
    if inferred is None:
        return
    types = {info.name: info.type for info in inferred.graph.value_info}
    for node in nodes:
        for value in node.outputs:
            _take(value, types, {})
        if node.op_type in DELICATE and _wrong_sizes(node) is not None:
            for value in made:
                record_shape(value, None)
            return


def _bodies_within(graph: ir.Graph) -> list[ir.Graph]:
    """Return the bodies of a graph's nodes, each before those within it."""
    found: list[ir.Graph] = []
    for body in (body for node in graph if node.attributes for body in bodies_of(node)):
        found += [body, *_bodies_within(body)]
    return found


def _infer_once(
    graph: ir.Graph, infer: Infer, known: Mapping[ir.Node, tuple[Size, ...]], carried: Carried
) -> _WrongSizes:
    """Infer the shapes of a graph and its bodies; return where onnx inferred wrong ones."""
    bare = bare_model(graph, known, carried)
    _fill_in(graph, (infer(bare) or bare).graph)
    search = _WrongSizes(known)
    search.look_at(graph)
    return search


# --- What onnx inferred ---------------------------------------------------------------------------


def _fill_in(graph: ir.Graph, proto: onnx.GraphProto) -> None:
    described = (*proto.input, *proto.value_info, *proto.output)
    types = {info.name: info.type for info in described}
    shapes: _Shapes = {}
    nodes = {node.output[0]: node for node in proto.node if node.output}
    for value in graph.inputs:
        _take(value, types, shapes)
    for node in graph:
        if is_result_known(node):
            _take_constant(node.outputs[0])
            continue
        for value in node.outputs:
            _take(value, types, shapes)
        if bodies_of(node) and node.outputs and node.outputs[0].name in nodes:
            for body, body_proto in bodies(node, nodes[node.outputs[0].name]):
                _fill_in(body, body_proto)


def _take_constant(value: ir.Value) -> None:
    """Take over the shape of a constant, and its type, which files leave out."""
    if is_deferred(value):
        return  # its shape is known already
    content = constant(value)
    record_shape(value, None if content is None else ir.Shape(content.shape))
    if value.type is None and content is not None and content.dtype.kind not in "OSU":
        value.type = ir.TensorType(ir.DataType.from_numpy(content.dtype))


_Shapes: TypeAlias = dict[tuple[int | str | None, ...], ir.Shape]
"""One object for all equal shapes: they are many, take long to make, and never change."""


def _take(value: ir.Value, types: Mapping[str | None, onnx.TypeProto], shapes: _Shapes) -> None:
    """Take over what was inferred of a value; sizes below 0 come from no input that can be run."""
    record_shape(value, None)
    found = types.get(value.name)
    if found is None or not value.name or not found.HasField("tensor_type"):
        return
    if value.type is None:
        value.type = ir.serde.deserialize_type_proto_for_type(found)
    if found.tensor_type.HasField("shape"):
        sizes = tuple(map(_size, found.tensor_type.shape.dim))
        if sizes not in shapes:
            shapes[sizes] = ir.Shape(sizes)
        record_shape(value, shapes[sizes])


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None


# --- Where it is wrong ----------------------------------------------------------------------------


class _WrongSizes:
    """Finds the first nodes for which onnx inferred other sizes than onnxruntime computes.

    What is downstream of one was inferred from a wrong size, and has to be inferred again. So was
    what is downstream of shapes in several rows: onnx takes their contents to be one row.
    """

    def __init__(self, known: Mapping[ir.Node, tuple[Size, ...]]) -> None:
        self._known = known
        self.found: dict[ir.Node, tuple[Size, ...]] = {}
        """The right sizes of each."""
        self.affected: set[ir.Value] = set()
        """What they compute, and all that is downstream."""
        self._contents: set[ir.Value] = set()
        """Values whose content onnx may infer, as it depends on shapes."""

    def look_at(self, graph: ir.Graph) -> bool:
        """Go through a graph and its bodies; return whether anything in it is affected."""
        is_affected = False
        for node in graph:
            within = [self.look_at(body) for body in bodies_of(node)]
            is_downstream = any(value in self.affected for value in node.inputs)
            if not is_downstream and node not in self._known:
                sizes = _wrong_sizes(node) if node.op_type in DELICATE else None
                sizes = sizes or self._sizes_of_rows(node)
                if sizes is not None:
                    self.found[node] = sizes
            if is_downstream or node in self.found or any(within):
                self.affected.update(node.outputs)
                is_affected = True
        return is_affected

    def _sizes_of_rows(self, node: ir.Node) -> tuple[Size, ...] | None:
        """Return the sizes of a node's result, if onnx takes rows of sizes to be one row."""
        is_shape = node.op_type in ("Shape", "Size")
        if not (is_shape or self._passes_contents_on(node)) or not node.outputs:
            return None
        shape = shape_of(node.outputs[0])
        if shape is None or shape.rank() < 2:
            self._contents.add(node.outputs[0])
            return None
        return tuple(size if isinstance(size, int) else None for size in shape)

    def _passes_contents_on(self, node: ir.Node) -> bool:
        """Say whether onnx may infer what a node computes from the contents of what it reads."""
        if node.op_type not in _PROPAGATING:
            return False
        read = node.inputs[:1] if node.op_type in _OF_THE_FIRST else node.inputs
        contents = [value for value in read if value in self._contents]
        return bool(contents) and all(v in self._contents or is_constant(v) for v in read)


def _wrong_sizes(node: ir.Node) -> tuple[Size, ...] | None:
    """Return the sizes of a node's result, if onnx has inferred another one somewhere."""
    if not node.outputs or not node.inputs or node.domain not in ("", "ai.onnx"):
        return None
    inferred, data = shape_of(node.outputs[0]), shape_of(node.inputs[0])
    if inferred is None or data is None:
        return None
    sizes = runtime_sizes(node, [size if isinstance(size, int) else None for size in data])
    if sizes is None:
        return None
    if len(sizes) == inferred.rank() and all(
        not isinstance(was, int) or was == size for was, size in zip(inferred, sizes, strict=True)
    ):
        return None
    return tuple(sizes)
