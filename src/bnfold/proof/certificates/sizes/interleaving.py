"""Finds the maps that are put together from phases, whatever their size.

Concats, Reshapes and Transposes that interleave four maps are tied to the sizes in their constants.
Where they do what a DepthToSpace does at these sizes, which is tried, it takes their place, and the
window can be proven at small sizes.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.helper

from bnfold.arrays import FloatArray
from bnfold.proof.certificates.submodels import needed_nodes, rebuilt
from bnfold.proof.certificates.windows import Window
from bnfold.proof.float64.evaluation import Truth64

_MOVES = frozenset({"Concat", "Reshape", "Transpose"})

_LARGEST = 2**25
"""Elements of a map that are followed one by one."""


def with_interleaving(window: Window) -> Window:
    """Write Concats, Reshapes and Transposes that interleave maps as DepthToSpace."""
    return Window(*map(_with_interleaving, window.models))


def _with_interleaving(model: onnx.ModelProto) -> onnx.ModelProto:
    shapes = {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in (*model.graph.input, *model.graph.value_info)
    }
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in reversed(model.graph.node):
        if node.op_type == "Reshape":
            moves, parts = _moved(node, makers)
            if order := _interleaved(model, node, moves, parts, shapes):
                return _replaced(model, node, order)
    return model


def _moved(
    last: onnx.NodeProto, makers: dict[str, onnx.NodeProto]
) -> tuple[list[onnx.NodeProto], list[str]]:
    """Return the moves that end in one, and what these put together."""
    moves, parts, pending = [last], [], [last]
    while pending:
        node = pending.pop()
        for name in node.input if node.op_type == "Concat" else node.input[:1]:
            source = makers.get(name)
            if source is None or source.op_type not in _MOVES:
                parts.append(name)
            elif source not in moves:
                moves.append(source)
                pending.append(source)
    return moves, list(dict.fromkeys(parts))


def _interleaved(
    model: onnx.ModelProto,
    last: onnx.NodeProto,
    moves: list[onnx.NodeProto],
    parts: list[str],
    shapes: dict[str, tuple[int, ...]],
) -> list[str]:
    """Return the parts in the order in which a DepthToSpace takes them; none if it differs."""
    size, (name,) = math.isqrt(len(parts)), last.output
    known = {shapes.get(part, ()) for part in parts}
    (shape,) = known if len(known) == 1 else [()]
    count = math.prod(shape)
    if size < 2 or size**2 != len(parts) or len(shape) != 4 or not 0 < count * size**2 < _LARGEST:
        return []
    inputs = [onnx.helper.make_tensor_value_info(part, 1, shape) for part in parts]
    nodes = [node for node in needed_nodes(model.graph.node, [name]) if node in moves]
    feeds: dict[str, FloatArray] = {
        part: np.arange(count, dtype=np.float64).reshape(shape) + count * place
        for place, part in enumerate(parts)
    }
    result = Truth64.of_part(rebuilt(model, nodes, inputs, [name])).outputs(feeds)[name]
    batch, channels, height, width = shape
    if result.shape != (batch, channels, height * size, width * size):
        return []
    corner = result[0, 0, :size, :size].reshape(-1)
    order = [parts[int(number // count)] for number in corner]
    blocks = np.stack([feeds[part] for part in order]).reshape(size, size, *shape)
    expected = blocks.transpose(2, 3, 4, 0, 5, 1).reshape(result.shape)
    return order if np.array_equal(result, expected) else []


def _replaced(model: onnx.ModelProto, last: onnx.NodeProto, order: list[str]) -> onnx.ModelProto:
    """Return the model with a DepthToSpace of the parts in place of a move."""
    deep = f"{last.output[0]} in depth"
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node is last or node == last:
            nodes.append(onnx.helper.make_node("Concat", order, [deep], axis=1))
            size = math.isqrt(len(order))
            nodes.append(onnx.helper.make_node("DepthToSpace", [deep], last.output, blocksize=size))
        else:
            nodes.append(node)
    outputs = [output.name for output in model.graph.output]
    return rebuilt(model, needed_nodes(nodes, outputs), model.graph.input, outputs)
