"""Makes the graphs for `growth.py`: each kind in any size.

The functions in `KINDS` take the size n and return a model with about n nodes, or a small multiple
of n. Weights are small, so that time goes into the search for rewrites, not into arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 4


class _Graph:
    """Nodes and initializers, with fresh names."""

    def __init__(self, shape: Sequence[int] = (1, CHANNELS, 8, 8)) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.x = "x"
        self._inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        self._numbers: Iterator[int] = count()
        self._generator = np.random.default_rng(0)

    def input(self, shape: Sequence[int] = (), kind: int = TensorProto.FLOAT) -> str:
        name = f"input_{next(self._numbers)}"
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op_type}_{next(self._numbers)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        return self.array(self._generator.uniform(0.5, 1.5, shape).astype(np.float32))

    def array(self, content: np.ndarray[Any, Any]) -> str:
        name = f"weight_{next(self._numbers)}"
        self.weights.append(numpy_helper.from_array(content, name))
        return name

    def filters(self, dead: Sequence[int]) -> str:
        content = self._generator.uniform(0.5, 1.5, (6, 6, 1, 1)).astype(np.float32)
        content[list(dead)] = 0
        return self.array(content)

    def constant(self, *shape: int) -> str:
        content = self._generator.uniform(0.5, 1.5, shape).astype(np.float32)
        return self.node("Constant", value=numpy_helper.from_array(content))

    def conv(self, value: str, weight: str = "") -> str:
        return self.node("Conv", value, weight or self.weight(CHANNELS, CHANNELS, 1, 1))

    def norm(self, value: str, channels: int = CHANNELS) -> str:
        return self.node("BatchNormalization", value, *(self.weight(channels) for _ in range(4)))

    def body(self, result: str, start: int) -> onnx.GraphProto:
        """Take the nodes from `start` on as the graph of a branch."""
        inner = self.nodes[start:]
        del self.nodes[start:]
        output = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        return helper.make_graph(inner, f"body_{next(self._numbers)}", [], [output])

    def finish(self, *results: str) -> onnx.ModelProto:
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results]
        graph = helper.make_graph(self.nodes, "growth", self._inputs, outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def conv_bn_relu(n: int) -> onnx.ModelProto:
    """A chain of Conv, BatchNormalization and Relu."""
    graph = _Graph()
    value = graph.x
    for _ in range(n):
        value = graph.node("Relu", graph.norm(graph.conv(value)))
    return graph.finish(value)


def adds(n: int) -> onnx.ModelProto:
    """A chain of Adds of constants that nothing absorbs."""
    graph = _Graph()
    value, term = graph.x, graph.weight(CHANNELS, 1, 1)
    for _ in range(n):
        value = graph.node("Add", value, term)
    return graph.finish(graph.node("Neg", value))


def adds_absorbed(n: int) -> onnx.ModelProto:
    """A chain of Adds of constants after a Conv, and as long a one before a Conv."""
    graph = _Graph()
    value, term = graph.conv(graph.x), graph.weight(CHANNELS, 1, 1)
    for _ in range(n // 2):
        value = graph.node("Add", value, term)
    value = graph.node("Sin", value)
    for _ in range(n // 2):
        value = graph.node("Add", value, term)
    return graph.finish(graph.conv(value))


def scales_and_shifts(n: int) -> onnx.ModelProto:
    """A chain of scales and shifts before an activation, which absorbs none of them."""
    graph = _Graph()
    value, constant = graph.x, graph.weight()
    for _ in range(n):
        value = graph.node("Add", graph.node("Mul", value, constant), constant)
    return graph.finish(graph.node("Relu", value))


def residual(n: int) -> onnx.ModelProto:
    """A chain of residual blocks, x + Relu(BN(Conv(x)))."""
    graph = _Graph()
    value = graph.x
    for _ in range(n):
        value = graph.node("Add", value, graph.node("Relu", graph.norm(graph.conv(value))))
    return graph.finish(value)


def doubled(n: int) -> onnx.ModelProto:
    """A chain of x + x and x · x, which has 2ⁿ paths, scaled on the way and at the end."""
    graph = _Graph()
    value, factor = graph.x, graph.weight()
    for index in range(n):
        value = graph.node("Add" if index % 2 else "Mul", value, value)
        if index % 8 == 7:
            value = graph.node("Mul", value, factor)
    return graph.finish(graph.norm(value))


def newton(n: int) -> onnx.ModelProto:
    """Steps of x · (2 − d · x), which have more than 2ⁿ paths, from an input."""
    graph = _Graph()
    value, two = graph.input(), graph.weight()
    divisor = graph.input()
    for _ in range(n):
        value = graph.node("Mul", value, graph.node("Sub", two, graph.node("Mul", divisor, value)))
    return graph.finish(graph.node("Mul", graph.x, value))


def newton_of_constants(n: int) -> onnx.ModelProto:
    """The same steps of constants."""
    graph = _Graph()
    value, two, divisor = (graph.weight() for _ in range(3))
    for _ in range(n):
        value = graph.node("Mul", value, graph.node("Sub", two, graph.node("Mul", divisor, value)))
    return graph.finish(graph.node("Mul", graph.x, value))


def scaled_readers(n: int) -> onnx.ModelProto:
    """A Conv that n Muls of a constant read."""
    graph = _Graph()
    value, factor = graph.conv(graph.x), graph.weight(CHANNELS, 1, 1)
    return graph.finish(*(graph.node("Mul", value, factor) for _ in range(n)))


def absorbing_readers(n: int) -> onnx.ModelProto:
    """A BatchNormalization that n Convs read."""
    graph = _Graph()
    value = graph.norm(graph.x)
    return graph.finish(*(graph.conv(value) for _ in range(n)))


def concat(n: int) -> onnx.ModelProto:
    """A Concat of n Convs with BatchNormalizations, and a BatchNormalization of all of them."""
    graph = _Graph()
    value = graph.node("Concat", *(graph.norm(graph.conv(graph.x)) for _ in range(n)), axis=1)
    wide = [graph.weight(n * CHANNELS) for _ in range(4)]
    return graph.finish(graph.node("BatchNormalization", value, *wide))


def add_tree(n: int) -> onnx.ModelProto:
    """A balanced tree of Adds over n Relus, each scaled by a constant."""
    graph = _Graph()
    values = [graph.node("Relu", graph.x) for _ in range(n)]
    factor = graph.weight(CHANNELS, 1, 1)
    while len(values) > 1:
        sums = [graph.node("Add", *pair) for pair in zip(values[::2], values[1::2], strict=False)]
        values = [graph.node("Mul", value, factor) for value in sums] + values[2 * len(sums) :]
    return graph.finish(*values)


def nested_if(n: int) -> onnx.ModelProto:
    """Ifs in each other's branches, each with a Dropout and a scaled sum."""
    graph = _Graph()
    choice = graph.input(kind=TensorProto.BOOL)

    def level(depth: int) -> str:
        value = graph.node("Add", graph.node("Dropout", graph.norm(graph.conv(graph.x))), graph.x)
        if depth == 0:
            return value
        start = len(graph.nodes)
        then_branch = graph.body(level(depth - 1), start)
        else_branch = graph.body(graph.node("Identity", value), start)
        return graph.node("If", choice, then_branch=then_branch, else_branch=else_branch)

    return graph.finish(level(n))


def captures(n: int) -> onnx.ModelProto:
    """A value that n bodies read, among them each a Conv with BatchNormalization."""
    graph = _Graph()
    choice = graph.input(kind=TensorProto.BOOL)
    value = graph.norm(graph.conv(graph.x))
    results = []
    for _ in range(n):
        start = len(graph.nodes)
        then_branch = graph.body(graph.norm(graph.conv(value)), start)
        else_branch = graph.body(graph.node("Mul", value, graph.constant(CHANNELS, 1, 1)), start)
        results.append(graph.node("If", choice, then_branch=then_branch, else_branch=else_branch))
    return graph.finish(*results)


def constant_nodes(n: int) -> onnx.ModelProto:
    """Scales and shifts by Constant nodes, some computed from others."""
    graph = _Graph()
    value = graph.x
    for _ in range(n):
        scale = graph.node("Sqrt", graph.constant(CHANNELS, 1, 1))
        shift = graph.constant(CHANNELS, 1, 1)
        value = graph.node("Relu", graph.node("Add", graph.node("Mul", value, scale), shift))
    return graph.finish(value)


def parallel_pools(n: int) -> onnx.ModelProto:
    """MaxPools of one value over ever larger windows, as in a spatial pyramid."""
    graph = _Graph((1, CHANNELS, 2 * n + 9, 2 * n + 9))
    value = graph.node("Relu", graph.x)
    pools = []
    for size in range(3, 2 * n + 3, 2):
        shape = {"kernel_shape": [size, size], "pads": [size // 2] * 4}
        pools.append(graph.node("MaxPool", value, **shape))
    return graph.finish(*pools)


def pool_chain(n: int) -> onnx.ModelProto:
    """A chain of MaxPools after Elus, where the last ones are large."""
    graph = _Graph((1, CHANNELS, 64, 64))
    value = graph.x
    for _ in range(n):
        value = graph.node("MaxPool", graph.node("Elu", value), kernel_shape=[9, 9], pads=[4] * 4)
    return graph.finish(value)


def wide_pool(n: int) -> onnx.ModelProto:
    """A BatchNormalization after a MaxPool whose window and map are n·10⁶ wide."""
    graph = _Graph((1, CHANNELS, 1, n * 10**6))
    window = {"kernel_shape": [1, n * 10**3], "strides": [1, 2], "pads": [0, 7, 0, 7]}
    pooled = graph.node("MaxPool", graph.conv(graph.x), dilations=[1, 3], **window)
    return graph.finish(graph.node("Mul", pooled, graph.weight(CHANNELS, 1, 1)))


def nested_sums(n: int) -> onnx.ModelProto:
    """The sum of n parallel Convs, added one by one."""
    graph = _Graph()
    value = graph.conv(graph.x)
    for _ in range(n):
        value = graph.node("Add", value, graph.conv(graph.x))
    return graph.finish(value)


def wide_sum(n: int) -> onnx.ModelProto:
    """One Sum of n Convs of two values, which do not merge."""
    graph = _Graph()
    other = graph.node("Relu", graph.x)
    values = [graph.conv(graph.x) for _ in range(n // 2)]
    return graph.finish(graph.node("Sum", *values, *(graph.conv(other) for _ in range(n // 2))))


def dead_filters(n: int) -> onnx.ModelProto:
    """Residual blocks with filters without weights, of which a graph output needs some."""
    graph = _Graph((1, 6, 8, 8))
    value = graph.conv(graph.x, graph.filters([0]))
    for _ in range(n // 2):
        inner = graph.node("Relu", graph.conv(value, graph.filters([1, 2])))
        value = graph.node("Add", value, graph.norm(graph.conv(inner, graph.filters([0])), 6))
    return graph.finish(value)


def dead_branches(n: int) -> onnx.ModelProto:
    """A Concat and a Sum of n Convs each, with filters without weights."""
    graph = _Graph((1, 6, 8, 8))
    joined, added = (
        [graph.conv(graph.x, graph.filters([index % 6, 2])) for index in range(n)] for _ in range(2)
    )
    value = graph.node("Concat", *joined, axis=1)
    result = graph.conv(value, graph.weight(6, 6 * n, 1, 1))
    return graph.finish(result, graph.conv(graph.node("Sum", *added), graph.filters([])))


def dense_block(n: int) -> onnx.ModelProto:
    """A Concat of all that comes before, again and again, with filters without weights."""
    graph = _Graph((1, 6, 8, 8))
    value = graph.conv(graph.x, graph.filters([1]))
    for index in range(n):
        layer = graph.conv(graph.node("Relu", value), graph.weight(6, 6 * (index + 1), 1, 1))
        value = graph.node("Concat", value, graph.conv(layer, graph.filters([0])), axis=1)
    return graph.finish(graph.conv(value, graph.weight(6, 6 * (n + 1), 1, 1)))


def moved(n: int) -> onnx.ModelProto:
    """Reshapes, Transposes, Slices and Pads between BatchNormalizations."""
    graph = _Graph()
    value = graph.x
    flat = graph.array(np.array([1, CHANNELS, 64]))
    full = graph.array(np.array([1, CHANNELS, 8, 8]))
    zeros, ends, axes = (graph.array(np.array([at])) for at in (0, 8, 2))
    pads = graph.array(np.zeros(8, np.int64))
    for index in range(n):
        if index % 5 == 4:
            value = graph.norm(value)
        value = graph.node("Reshape", graph.node("Reshape", value, flat), full)
        value = graph.node("Transpose", value, perm=[0, 1, 3, 2])
        value = graph.node("Pad", graph.node("Slice", value, zeros, ends, axes), pads)
    return graph.finish(value)


def wide_reshape(n: int) -> onnx.ModelProto:
    """Affine maps of maps of n·10³ positions, before and after Reshapes to as many channels."""
    graph = _Graph((1, CHANNELS, n, 1000))
    value, size = graph.conv(graph.x), n * 1000
    for shape in ([1, CHANNELS, 10 * n, 100], [1, CHANNELS * size], [1, CHANNELS, n, 1000]):
        value = graph.node("Reshape", value, graph.array(np.array(shape)))
    value = graph.norm(graph.node("Sin", graph.norm(value)))
    value = graph.node("Relu", graph.node("Flatten", value))
    value = graph.node("Reshape", value, graph.array(np.array([1, CHANNELS, n, 1000])))
    return graph.finish(graph.conv(value))


def identities(n: int) -> onnx.ModelProto:
    """A chain of Identities and Dropouts, and an Add now and then."""
    graph = _Graph()
    value, term = graph.x, graph.weight(CHANNELS, 1, 1)
    for index in range(n):
        value = graph.node("Dropout", graph.node("Identity", value))
        if index % 10 == 9:
            value = graph.node("Add", value, term)
    return graph.finish(value)


def shared_weight(n: int) -> onnx.ModelProto:
    """Convs with one weight for all of them, and a BatchNormalization each."""
    graph = _Graph()
    value, weight = graph.x, graph.weight(CHANNELS, CHANNELS, 1, 1)
    for _ in range(n):
        value = graph.node("Relu", graph.norm(graph.conv(value, weight)))
    return graph.finish(value)


def outputs(n: int) -> onnx.ModelProto:
    """Outputs that Dropouts and BatchNormalizations of one value compute."""
    graph = _Graph()
    values = [graph.node("Relu", graph.x) for _ in range(n)]
    return graph.finish(*(graph.node("Dropout", graph.norm(graph.conv(value))) for value in values))


def clamps(n: int) -> onnx.ModelProto:
    """A chain of Clips between growing bounds, one of which n Relus read, too."""
    graph = _Graph()
    value = graph.x
    for index in range(n):
        bounds = [graph.array(np.array(sign * index, np.float32)) for sign in (-1, 1)]
        value = graph.node("Clip", value, *bounds)
    value = graph.node("Max", value, graph.weight())
    return graph.finish(*(graph.node("Relu", value) for _ in range(n)))


def hard_swishes(n: int) -> onnx.ModelProto:
    """A chain of x · Clip(x + 3; 0, 6) / 6."""
    graph = _Graph()
    value = graph.x
    zero, three, six = (graph.array(np.array(number, np.float32)) for number in (0, 3, 6))
    for _ in range(n):
        gate = graph.node("Clip", graph.node("Add", value, three), zero, six)
        value = graph.node("Div", graph.node("Mul", value, gate), six)
    return graph.finish(value)


def padded_readers(n: int) -> onnx.ModelProto:
    """A chain of Pads and Convs, and a Pad that n Convs read."""
    graph = _Graph()
    value, pads = graph.x, graph.array(np.array([0, 0, 1, 1, 0, 0, 0, 0]))
    kernel = graph.weight(CHANNELS, CHANNELS, 2, 2)
    for _ in range(n):
        value = graph.conv(graph.node("Pad", value, pads), kernel)
    value = graph.node("Pad", value, pads)
    return graph.finish(*(graph.conv(value, kernel) for _ in range(n)))


def nested_concats(n: int) -> onnx.ModelProto:
    """A chain of Concats, and a chain of Concats that read each one before twice."""
    graph = _Graph()
    value = twice = graph.x
    for _ in range(n):
        value = graph.node("Concat", value, graph.x, axis=1)
        twice = graph.node("Concat", twice, twice, axis=1)
    return graph.finish(value, twice)


KINDS: Mapping[str, tuple[Callable[[int], onnx.ModelProto], int]] = {
    "conv_bn_relu": (conv_bn_relu, 800),
    "adds": (adds, 500),
    "adds_absorbed": (adds_absorbed, 500),
    "scales_and_shifts": (scales_and_shifts, 250),
    "residual": (residual, 400),
    "doubled": (doubled, 500),
    "newton": (newton, 250),
    "newton_of_constants": (newton_of_constants, 100),
    "scaled_readers": (scaled_readers, 800),
    "absorbing_readers": (absorbing_readers, 800),
    "concat": (concat, 400),
    "add_tree": (add_tree, 800),
    "nested_if": (nested_if, 4),
    "captures": (captures, 200),
    "constant_nodes": (constant_nodes, 250),
    "parallel_pools": (parallel_pools, 200),
    "pool_chain": (pool_chain, 400),
    "wide_pool": (wide_pool, 125),
    "nested_sums": (nested_sums, 400),
    "wide_sum": (wide_sum, 800),
    "dead_filters": (dead_filters, 400),
    "dead_branches": (dead_branches, 200),
    "dense_block": (dense_block, 100),
    "moved": (moved, 200),
    "wide_reshape": (wide_reshape, 270),
    "identities": (identities, 800),
    "shared_weight": (shared_weight, 800),
    "outputs": (outputs, 400),
    "clamps": (clamps, 400),
    "hard_swishes": (hard_swishes, 400),
    "padded_readers": (padded_readers, 400),
    "nested_concats": (nested_concats, 400),
}
"""The function that makes each kind of graph, and the smallest size that is measured."""
