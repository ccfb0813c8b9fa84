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
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bnfold.graph.size_terms import Term, terms
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
from bnfold.rewriting.query import int_attribute, is_op, opset, shape_of

_RESIZE_SINCE = 11
_ROI_IS_OPTIONAL_SINCE = 13
_SUPPORTED = (ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT8, ir.DataType.UINT8)
_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_EXPANSIONS = ("Expand", "Tile")
_MOST_OPERATORS, _MOST_READERS = 16, 64


@rewrite(
    "recognise-upsampling",
    roots=[*_RESHAPES, *_EXPANSIONS],
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
        if not any(is_op(each, *_EXPANSIONS) for each in nodes):
            return None
        factors = _factors(nodes)
        if factors is None:
            continue
        for each in nodes[:-1]:
            require(_leads_only_to(each.outputs[0], nodes), Common.SHARED, each)
        return Replace(nodes, {result: _resize(nodes[0].inputs[0], factors, node)})
    return None


def _chain(last: ir.Node) -> list[ir.Node]:
    """Return the operators that lead to one, each after that whose result it reads."""
    chain: list[ir.Node] = []
    node: ir.Node | None = last
    while node is not None and is_op(node, *_RESHAPES, *_EXPANSIONS):
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


@dataclass(frozen=True)
class _Run:
    """A whole number of steps along an axis of the data, or, without one, that stay in place."""

    size: Term
    axis: int | None = None


_ONE, _COPIED, _OPEN = Term(1), Term(0), Term(-1)


def _factors(chain: Sequence[ir.Node]) -> tuple[int, ...] | None:
    """Return how often each element is repeated along each axis; None if more is done to them."""
    sizes = _sizes(chain[0].inputs[0])
    if sizes is None:
        return None
    axes = [[] if size == _ONE else [_Run(size, axis)] for axis, size in enumerate(sizes)]
    given = list(axes)
    for node in chain:
        told = _asked(node, axes) or _sizes(node.outputs[0])
        if told is None:
            return None
        found = (_expanded if is_op(node, *_EXPANSIONS) else _grouped)(axes, told)
        if found is None:
            return None
        axes = found
    if len(axes) != len(given):
        return None
    factors = []
    for before, after in zip(given, axes, strict=True):
        times = _product(after[len(before) :])
        if times is None or after[: len(before)] != before:
            return None
        factors.append(times.factor)
    count = sum(factor > 1 for factor, runs in zip(factors, given, strict=True) if runs)
    return tuple(factors) if count == len(factors) - 2 > 0 else None


def _asked(node: ir.Node, axes: Sequence[list[_Run]]) -> list[Term] | None:
    """Return the sizes that a Reshape is given, with those that it copies and the one left open."""
    asked = terms(node.inputs[1]) if is_op(node, "Reshape") else None
    if asked is None or int_attribute(node, "allowzero", 0):
        return None
    own = [*map(_product, axes), *(None for _ in asked)]
    told = [own[axis] if term == _COPIED else term for axis, term in enumerate(asked)]
    left = _product([run for runs in axes for run in runs])
    for term in told:
        if term != _OPEN:
            left = left.over(term) if left is not None and term is not None else None
    found = [left if term == _OPEN else term for term in told]
    known = [term for term in found if term is not None]
    return known if len(known) == len(found) else None


def _sizes(value: ir.Value | None) -> list[Term] | None:
    """Return the sizes of a value, if each is a number or has a name."""
    shape = shape_of(value)
    known = [] if shape is None else [Term.of(size) for size in shape]
    found = [term for term in known if term is not None]
    return None if shape is None or len(found) < len(known) else found


def _product(runs: Sequence[_Run]) -> Term | None:
    product: Term | None = _ONE
    for run in runs:
        product = None if product is None else product.times(run.size)
    return product


def _expanded(axes: Sequence[list[_Run]], told: Sequence[Term]) -> list[list[_Run]] | None:
    """Return the axes where each has grown to a size by whole repetitions of all of it."""
    wide = [*([] for _ in range(len(told) - len(axes))), *axes]
    found = []
    for runs, size in zip(wide, told, strict=True):
        before = _product(runs)
        times = None if before is None else size.over(before)
        if times is None or times.size is not None:
            return None
        found.append([*([] if times == _ONE else [_Run(times)]), *runs])
    return found


def _grouped(axes: Sequence[list[_Run]], told: Sequence[Term]) -> list[list[_Run]] | None:
    """Return the axes of other sizes, in the same order of elements, that cut none in parts."""
    pending = [run for runs in axes for run in runs]
    found = []
    for size in told:
        group: list[_Run] = []
        left: Term | None = size
        while left != _ONE:
            if left is None or not pending:
                return None
            group.append(pending.pop(0))
            left = left.over(group[-1].size)
        found.append(group)
    return found
