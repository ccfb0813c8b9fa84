"""Recognize upsampling where it is written out by operators that expand and reshape.

    Reshape(Expand(Reshape(x; n, c, h, 1, w, 1); n, c, h, s, w, t); n, c, s·h, t·w)
        = Resize(x; 1, 1, s, t)

where the Resize is nearest: element q along an axis is element ⌊q/s⌋ of x. Any chain of Expands,
Reshapes, Flattens, Squeezes, Unsqueezes and Tiles is followed that has the same result: each axis
of it is the same axis of x, with the repetitions after it. Axes may have any places, and free sizes
if their names tell that they are the same.

Conditions: all axes but two are repeated, as those of a map are (attention repeats one of four); an
operator set from 11 on; a type for which onnxruntime has a Resize; nothing else reads the values
between, or their sizes.

Profit: onnxruntime runs a Resize that doubles two axes more than 10 times as fast as the three (32
to 128 channels on 13² to 64², one thread), and passes know it: a Conv may go before it. PyTorch
exports `repeat_interleave`, and upsampling written by `view` and `expand`, so.

BITWISE.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from bnfold.algebra.spatial.repeated_axes import EXPANSIONS, RESHAPES, times_repeated
from bnfold.rewriting.contract import (
    Common,
    Exactness,
    Op,
    Operand,
    Replace,
    Weight,
    require,
    rewrite,
)
from bnfold.rewriting.query import is_op, opset, size_of

_RESIZE_SINCE = 11
_ROI_IS_OPTIONAL_SINCE = 13
_SUPPORTED = (ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT8, ir.DataType.UINT8)
_MOST_OPERATORS, _MOST_READERS = 16, 64


@rewrite(
    "recognise-upsampling",
    roots=[*RESHAPES, *EXPANSIONS],
    exactness=Exactness.BITWISE,
    refusals=[Common.SHARED],
)
def recognise_upsampling(node: ir.Node) -> Replace | None:
    """Replace a chain of operators that repeats each element by a nearest Resize."""
    result = node.outputs[0]
    if opset(node) < _RESIZE_SINCE or result.dtype not in _SUPPORTED:
        return None
    chain = _chain(node)
    for start in range(len(chain)):
        nodes = chain[start:]
        if not any(is_op(each, *EXPANSIONS) for each in nodes):
            return None
        factors = times_repeated(nodes)
        if factors is None or not _is_of_a_map(factors, nodes[0].inputs[0]):
            continue
        for each in nodes[:-1]:
            require(_leads_only_to(each.outputs[0], nodes), Common.SHARED, each)
        return Replace(nodes, {result: _resize(nodes[0].inputs[0], factors, node)})
    return None


def _is_of_a_map(factors: Sequence[int], data: ir.Value | None) -> bool:
    """Say whether all axes but two are repeated, of those that have more than one element."""
    repeated = [
        axis for axis, times in enumerate(factors) if times > 1 and size_of(data, axis) != 1
    ]
    return len(repeated) == len(factors) - 2 > 0


def _chain(last: ir.Node) -> list[ir.Node]:
    """Return the operators that lead to one, each after that whose result it reads."""
    chain: list[ir.Node] = []
    node: ir.Node | None = last
    while node is not None and is_op(node, *RESHAPES, *EXPANSIONS):
        chain.append(node)
        value = node.inputs[0]
        node = value.producer() if value is not None and len(chain) < _MOST_OPERATORS else None
    return chain[::-1]


def _leads_only_to(value: ir.Value, nodes: Collection[ir.Node]) -> bool:
    """Say whether a value, or its sizes, serve nothing but these nodes."""
    pending, seen = [value], set[ir.Value]()
    while pending:
        value = pending.pop()
        if value.is_graph_output() or len(seen) > _MOST_READERS:
            return False
        seen.add(value)
        others = [use.node for use in value.uses() if use.node not in nodes]
        pending += [output for node in others for output in node.outputs if output not in seen]
    return True


def _resize(data: ir.Value | None, factors: Sequence[int], like: ir.Node) -> Op:
    attributes = [
        ir.AttrString("mode", "nearest"),
        ir.AttrString("coordinate_transformation_mode", "asymmetric"),
        ir.AttrString("nearest_mode", "floor"),
    ]
    name = like.name or like.outputs[0].name
    region: Operand = None
    if opset(like) < _ROI_IS_OPTIONAL_SINCE:
        region = Weight(np.zeros(0, np.float32), ir.DataType.FLOAT, f"{name}.region")
    scales = Weight(np.array(factors, np.float32), ir.DataType.FLOAT, f"{name}.scales")
    return Op("Resize", [data, region, scales], attributes, like)
