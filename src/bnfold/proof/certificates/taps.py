"""Takes one element of each window of a MaxPool, in place of the largest.

So a maximum of affine functions becomes one of them, and each can be compared by itself.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx.helper

from bnfold.arrays import Array
from bnfold.proof.certificates.submodels import replace_nodes
from bnfold.proof.certificates.windows import (
    COPYING,
    Window,
    ints,
    is_float,
    is_random,
    is_training,
    may_read_nothing,
)
from bnfold.proof.float64.max_pool_tap import DOMAIN

_MOST = 49
"""Elements of a window of the pool that are compared one by one."""


def tapped(window: Window) -> Iterator[Window] | None:
    """Return the windows of each element, if equality of all of them is enough; else None.

    It is where both sides have MaxPools of the same kernels, none after another, and what comes
    after them is increasing in each element by itself: f(max(x₁ … xₙ)) = max(f(x₁) … f(xₙ)). It is
    affine, so that with several pools one may vary at a time.
    """
    if any(len(pool.output) > 1 for model in window.models for pool in _pools(model)):
        return None
    before, after = ([ints(pool, "kernel_shape") for pool in _pools(m)] for m in window.models)
    counts = [math.prod(kernel) for kernel in before]
    if before != after or not counts or sum(counts) > _MOST:
        return None
    if not all(_increases_after(model, window) for model in window.models):
        return None
    choices = [(0,) * len(counts)]
    for pool, count in enumerate(counts):
        zeros = list(choices[0])
        choices += [(*zeros[:pool], tap, *zeros[pool + 1 :]) for tap in range(1, count)]
    return (Window(*(_tapped(model, taps) for model in window.models)) for taps in choices)


def _pools(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "MaxPool"]


def _tapped(model: onnx.ModelProto, taps: Sequence[int]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node, tap in zip(_pools(copy), taps, strict=True):
        node.op_type, node.domain = "MaxPoolTap", DOMAIN
        node.attribute.append(onnx.helper.make_attribute("tap", tap))
    copy.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    return copy


def _increases_after(model: onnx.ModelProto, window: Window) -> bool:
    """Say whether all that comes after a MaxPool is increasing, and no MaxPool."""
    reached: set[str] = set()
    for node in model.graph.node:
        is_after = not reached.isdisjoint(node.input)
        if is_after and not increases(node, reached, window.constants):
            return False
        if is_after or node.op_type == "MaxPool":
            reached.update(node.output)
    return True


def with_pools_first(window: Window) -> Window:
    """Move each MaxPool before an increasing affine map of each element: the same values.

    MaxPool(f(x)) = f(MaxPool(x)), where f is the same all over a channel and only the pool reads
    it. onnxruntime takes no pool that pads as much as its kernel, so each window of one that is not
    dilated has an element.
    """
    models = []
    for model in window.models:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        _move_pools(copy, window)
        models.append(copy)
    return Window(*models)


def _move_pools(model: onnx.ModelProto, window: Window) -> None:
    """Move each pool before the maps that it reads, in place: both take each other's place."""
    graph = model.graph
    nodes = list(graph.node)
    places = {name: place for place, node in enumerate(nodes) for name in node.output}
    readers = Counter(name for node in nodes for name in node.input)
    readers.update(output.name for output in graph.output)
    described = {value.name: value for value in graph.value_info}
    names = (f"pooled {number}" for number in itertools.count())
    for pool in _pools(model):
        while True:
            at_node, at_pool = places.get(pool.input[0], -1), places[pool.output[0]]
            node = nodes[at_node]
            if at_node < 0 or readers[node.output[0]] > 1 or len(pool.output) > 1:
                break
            if any(ints(pool, "pads")) and may_read_nothing(pool):
                break
            data = _mapped(node, pool, window)
            if data is None:
                break
            mapped, result = node.output[0], pool.output[0]
            between = next(name for name in names if name not in places)
            pool.input[0], pool.output[0] = data, between
            node.input[list(node.input).index(data)] = between
            node.output[0] = result
            nodes[at_node], nodes[at_pool] = pool, node
            places[between], places[result] = at_node, at_pool
            del places[mapped], readers[mapped]
            if mapped in described and result in described:
                described[between] = described.pop(mapped)
                described[between].CopyFrom(described[result])
                described[between].name = between
    replace_nodes(graph, nodes)


def _mapped(node: onnx.NodeProto, pool: onnx.NodeProto, window: Window) -> str | None:
    """Return what an increasing map reads that is the same all over a channel; None of others."""
    data: list[str] = [name for name in node.input if name not in window.constants]
    is_map = node.op_type in ("Add", "BatchNormalization", "Div", "Mul", "Sub")
    if len(data) != 1 or not is_map or not increases(node, set(data), window.constants):
        return None
    if node.op_type != "BatchNormalization" and not _is_per_channel(node, pool, window):
        return None
    return data[0]


def _is_per_channel(node: onnx.NodeProto, pool: onnx.NodeProto, window: Window) -> bool:
    """Say whether the constant of an operator is of one value over the axes of a pool."""
    spatial = len(ints(pool, "kernel_shape"))
    (constant,) = (window.constants[name] for name in node.input if name in window.constants)
    return all(size == 1 for size in constant.shape[-spatial:]) and constant.ndim <= spatial + 2


def increases(node: onnx.NodeProto, reached: set[str], constants: Mapping[str, Array]) -> bool:
    """Say whether an operator is increasing and affine in the one operand that was reached."""
    if node.op_type == "Where" and node.input[0] in reached:
        return False
    if node.op_type in COPYING:
        return not is_random(node, constants)
    if node.op_type == "BatchNormalization":
        if is_training(node):
            return False
        scale = constants.get(node.input[1])
        return scale is not None and bool((scale >= 0).all())
    others = [name for name in node.input if name not in reached]
    if len(others) != 1 or others[0] not in constants:
        return False
    constant = constants[others[0]]
    if not is_float(constant.dtype):  # integers wrap around
        return False
    if node.op_type == "Add":
        return True
    if node.op_type == "Sub":
        return bool(node.input[1] == others[0])
    if node.op_type == "Mul":
        return bool((constant >= 0).all())
    is_divisor = bool(node.input[1] == others[0])
    return node.op_type == "Div" and is_divisor and bool((constant > 0).all())
