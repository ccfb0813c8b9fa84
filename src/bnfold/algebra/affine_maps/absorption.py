"""Moves a per-channel affine map through the graph until linear operators absorb it.

`absorb_into_producers` moves it upstream: through pools, reshapes and other maps, and into every
branch of a Concat or an Add, up to the operators whose output channels absorb it.
`absorb_into_consumers` moves it downstream, into every operator that reads the map's result;
`absorb_scale_into_consumers` only its scale.

Both only read the graph, and return expressions for the values to replace. They are all or nothing:
if one branch or reader cannot absorb its part, they refuse.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import NOT_AFFINE, Affine, affine_map
from bnfold.algebra.affine_maps.carry import NOT_CARRIED
from bnfold.algebra.affine_maps.carrying import NotCarried
from bnfold.algebra.affine_maps.casting import widening_before
from bnfold.algebra.affine_maps.downstream import IntoConsumers
from bnfold.algebra.affine_maps.linear import NOT_ABSORBED
from bnfold.algebra.affine_maps.reach import (
    NotReached,
    dead_end_after,
    dead_end_before,
    is_weight,
    mapped_input,
)
from bnfold.algebra.affine_maps.rebuilding import Made, Outputs, plus_shift, typed
from bnfold.algebra.affine_maps.upstream import IntoProducers
from bnfold.algebra.weights import NotStorable
from bnfold.rewriting.contract import (
    Common,
    Op,
    Operand,
    Refused,
    Replace,
    every_operand,
    require,
    same_op,
)
from bnfold.rewriting.query import opset, sole_use

NOT_REACHED = (*NotReached, Common.NO_GAIN, Common.SHAPE_UNKNOWN, Common.SHARED)
"""All reasons of the search itself."""

NOT_FOLDED = tuple(
    dict.fromkeys([*NOT_AFFINE, *NOT_REACHED, *NOT_CARRIED, *NOT_ABSORBED, *NotStorable])
)
"""All reasons of `absorb_into_producers` and `absorb_into_consumers`."""


def absorb_into_producers(root: ir.Node) -> Replace:
    """Return the replacement that folds an affine map into the operators before it.

    Raises:
        Refused: if `root` is not affine, or an upstream operator neither carries nor absorbs it.
    """
    affine, index = affine_map(root)
    data = root.inputs[index]
    require(data is None or not is_weight(data), Common.NO_GAIN)  # it can be evaluated
    dead_end = dead_end_before(root)
    if dead_end is not None:
        raise dead_end.refused()
    search = IntoProducers(root.outputs[0])
    expression = search.of(data, affine, root)
    pattern = [*search.nodes, root]
    search.outputs[root.outputs[0]] = expression
    return _profitable(pattern, search.outputs, f"into {', '.join(sorted(search.absorbers))}")


def absorb_into_consumers(root: ir.Node) -> Replace:
    """Return the replacement that folds an affine map into the operators after it.

    Raises:
        Refused: if `root` is not affine, or a downstream operator neither carries nor absorbs it.
    """
    affine, index = affine_map(root)
    dead_end = dead_end_after(root.outputs[0])
    if dead_end is not None:
        raise dead_end.refused()
    data = root.inputs[index]
    try:
        return _into_consumers(root, affine, data)
    except Refused as refused:
        widening = widening_before(data) if refused.reason is NotCarried.NARROWER_TYPE else None
        if widening is None or not sole_use(widening.outputs[0]):
            raise
    return _into_consumers(root, affine, data, widening)


def _into_consumers(
    root: ir.Node, affine: Affine, data: ir.Value | None, widening: ir.Node | None = None
) -> Replace:
    """Fold a map of `data`, which is within the pattern if a Cast has widened it."""
    operand: Operand = data
    dtype = data.dtype if data is not None else None
    pattern = [root]
    if widening is not None and widening.inputs[0] is not None:
        operand = typed(same_op(widening, widening.inputs), widening)
        dtype = widening.inputs[0].dtype
        pattern = [widening, root]
    search = IntoConsumers(root.outputs[0], dtype)
    search.readers_of(root.outputs[0], affine, operand)
    pattern += search.nodes
    absorbers = ", ".join(sorted(search.absorbers))
    return _profitable(pattern, search.outputs, f"into the following {absorbers}")


def absorb_scale_into_consumers(root: ir.Node) -> Replace:
    """Return the replacement that folds the scale of a chain of affine maps, and leaves one Add.

    W·(s·x + t) + b = (W·s)·(x + t/s) + b for s ≠ 0, also where a Conv pads with zeros: they come
    after the Add, as before.

    Raises:
        Refused: if `root` is not affine, the chain has no shift, or a scale so small that t/s is
            not finite, or a downstream operator neither carries nor absorbs the scale.
    """
    affine, index = affine_map(root)
    dead_end = dead_end_after(root.outputs[0])
    if dead_end is not None:
        raise dead_end.refused()
    pattern = [root]
    while (reader := _sole_map_after(pattern[-1])) is not None:
        affine = affine_map(reader)[0].after(affine)
        pattern.append(reader)
    output, data = pattern[-1].outputs[0], root.inputs[index]
    require(len(pattern) > 1 and affine.has_shift and opset(root) >= 7, Common.NO_GAIN)
    search = IntoConsumers(output, output.dtype)
    with np.errstate(all="ignore"):  # values that are not finite are refused when stored
        before = replace(affine, shift=affine.shift / affine.scale)
    search.readers_of(output, affine.without_shift(), plus_shift(data, before, output, root))
    pattern += search.nodes
    return _profitable(pattern, search.outputs, f"scale into {', '.join(sorted(search.absorbers))}")


def _sole_map_after(node: ir.Node) -> ir.Node | None:
    """Return the only reader of what a node computes, if it is an affine map of it."""
    value = node.outputs[0]
    if not sole_use(value):
        return None
    (use,) = value.uses()
    return use.node if use.idx == mapped_input(use.node) else None


def _profitable(pattern: list[ir.Node], outputs: Outputs, detail: str) -> Replace:
    """Require fewer operators, or as many with an Add in place of a BatchNormalization.

    An Add before another map is none: they become one.
    """
    before = [node.op_type for node in pattern]
    after = _operators(outputs)
    is_cheaper = after.count("BatchNormalization") < before.count("BatchNormalization")
    gain = len(before) - len(after) + sum(_is_merged(*each) for each in outputs.items())
    require(gain > 0 or (gain == 0 and is_cheaper), Common.NO_GAIN)
    return Replace(pattern, outputs, detail)


def _is_merged(value: ir.Value, operand: ir.Value | Made) -> bool:
    """Say whether an Add takes the place of a MatMul's result, and a map is all that reads it."""
    node = value.producer()
    if node is None or node.op_type != "MatMul" or _sole_map_after(node) is None:
        return False
    return isinstance(operand, Op) and operand.op_type == "Add"


def _operators(outputs: Outputs) -> list[str]:
    return [each.op_type for each in every_operand(outputs.values()) if isinstance(each, Op)]
