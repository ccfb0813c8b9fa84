"""Takes the largest or smallest of some elements after an increasing map of each, or before it.

    Extreme(f(x)) = f(Extreme(x))

where f is the same for all elements of which one is taken. Where nothing else comes after them, the
extremes go last on both sides, so that what they are taken of is left to prove; else they go first.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx.numpy_helper

from bnfold.arrays import Array
from bnfold.proof.certificates.submodels import Constants
from bnfold.proof.certificates.taps import increases
from bnfold.proof.certificates.windows import Window, ints

_EXTREMES = frozenset({"GlobalMaxPool", "ReduceMax", "ReduceMin"})

_MAPS = frozenset({"Add", "BatchNormalization", "Div", "Mul", "Sub"})


def with_extremes_apart(window: Window) -> Window:
    """Move each extreme past the increasing maps next to it."""
    if not window.operators & _EXTREMES:
        return window
    models = []
    for model in window.models:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for place in range(len(copy.graph.node)):
            _move(copy, place)
        models.append(copy)
    return Window(*models)


def _move(model: onnx.ModelProto, place: int) -> None:
    """Move the extreme at a place, if there is one, as far as it goes."""
    nodes = model.graph.node
    if nodes[place].op_type not in _EXTREMES or len(nodes[place].output) > 1:
        return
    reduced = _reduced(model, nodes[place])
    if reduced is None:
        return
    outputs = {output.name for output in model.graph.output}
    while nodes[place].output[0] not in outputs:
        readers = [at for at, node in enumerate(nodes) if nodes[place].output[0] in node.input]
        if len(readers) != 1 or not _swap(model, place, readers[0], reduced, is_next=True):
            break
        place = readers[0]
    while nodes[place].output[0] not in outputs:
        makers = [at for at, node in enumerate(nodes) if nodes[place].input[0] in node.output]
        reads = Counter(name for node in nodes for name in node.input)
        is_sole = reads[nodes[place].input[0]] == 1 and nodes[place].input[0] not in outputs
        if not (makers and is_sole):
            break
        if not _swap(model, makers[0], place, reduced, is_next=False):
            break
        place = makers[0]


def _reduced(model: onnx.ModelProto, node: onnx.NodeProto) -> tuple[int, set[int], bool] | None:
    """Return the number of axes of what is read, those of which one is taken, and if they stay."""
    described = (*model.graph.input, *model.graph.value_info)
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in described
        if value.type.tensor_type.HasField("shape")
    }
    rank = ranks.get(node.input[0])
    if rank is None:
        return None
    if node.op_type == "GlobalMaxPool":
        return rank, set(range(2, rank)), True
    axes = ints(node, "axes")
    if len(node.input) > 1 and node.input[1]:
        content = Constants(model).get(node.input[1])
        if content is None:
            return None
        axes = content.reshape(-1).tolist()
    if not axes:
        return None
    return rank, {axis % rank for axis in axes}, ints(node, "keepdims", [1]) == [1]


def _swap(
    model: onnx.ModelProto,
    first: int,
    second: int,
    reduced: tuple[int, set[int], bool],
    *,
    is_next: bool,
) -> bool:
    """Exchange an extreme and the map that is next, or the one before, in place, if that is exact.

    The two keep their places in the list of nodes, and exchange what they are.
    """
    nodes = model.graph.node
    extreme, operator = (nodes[first], nodes[second]) if is_next else (nodes[second], nodes[first])
    constants = Constants(model)
    data = [name for name in operator.input if name not in constants]
    is_map = operator.op_type in _MAPS and len(operator.output) == 1
    if not is_map or len(data) != 1 or not increases(operator, set(data), constants):
        return False
    rank, axes, stays = reduced
    changed: dict[int, Array] = {}
    for index, name in enumerate(operator.input):
        if name in constants and operator.op_type != "BatchNormalization":
            content = _elsewhere(constants[name], rank, axes, stays=stays, is_next=is_next)
            if content is None:
                return False
            changed[index] = content
    if operator.op_type == "BatchNormalization" and axes & {0, 1}:
        return False
    source, result = nodes[first].input[list(nodes[first].input).index(
        extreme.input[0] if is_next else data[0])], nodes[second].output[0]  # fmt: skip
    before, after = onnx.NodeProto(), onnx.NodeProto()
    before.CopyFrom(operator if is_next else extreme)
    after.CopyFrom(extreme if is_next else operator)
    moved = before if is_next else after
    for index, content in changed.items():
        name = f"{moved.input[index]} at {result}"
        model.graph.initializer.append(onnx.numpy_helper.from_array(content, name))
        moved.input[index] = name
    between = f"{result} {'mapped' if is_next else 'taken'}"
    _reconnect(before, data[0] if is_next else extreme.input[0], source, between)
    _reconnect(after, extreme.input[0] if is_next else data[0], between, result)
    nodes[first].CopyFrom(before)
    nodes[second].CopyFrom(after)
    return True


def _reconnect(node: onnx.NodeProto, read: str, source: str, result: str) -> None:
    """Let a node read a source in place of what it has read, and compute a result."""
    node.input[list(node.input).index(read)] = source
    node.output[0] = result


def _elsewhere(
    content: Array, rank: int, axes: set[int], *, stays: bool, is_next: bool
) -> Array | None:
    """Return a constant as it broadcasts on the other side of an extreme; None if it cannot."""
    kept = [axis for axis in range(rank) if axis not in axes]
    here = list(range(rank)) if stays or not is_next else kept
    if content.ndim > len(here):
        return None
    sizes = dict(zip(here, (1,) * (len(here) - content.ndim) + content.shape, strict=True))
    if any(sizes.get(axis, 1) != 1 for axis in axes):
        return None
    there = list(range(rank)) if stays or is_next else kept
    return np.reshape(content, [sizes.get(axis, 1) for axis in there])
