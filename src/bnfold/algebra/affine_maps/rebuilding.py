"""The expressions that take the place of operators which a map passes."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import Affine
from bnfold.algebra.weights import stored
from bnfold.rewriting.contract import Common, Op, Operand, Output, Refused, Weight
from bnfold.rewriting.query import is_op, rank_of, shape_of

Made: TypeAlias = Op | Output | Weight
Outputs: TypeAlias = dict[ir.Value, ir.Value | Made]


def typed(op: Op, node: ir.Node) -> Op:
    """Return an operator that computes the output of a node, or all those of a Split."""
    output, count = node.outputs[0], len(node.outputs) if is_op(node, "Split") else op.outputs
    return dataclasses.replace(op, shape=shape_of(output), type_of=output, outputs=count)


def replacements(node: ir.Node, made: Op) -> dict[ir.Value, Op | Output]:
    """Return what takes the place of each output of a node, of which `made` is the new one."""
    outputs = node.outputs[: made.outputs]
    return {old: Output(made, i, old) if i else made for i, old in enumerate(outputs)}


def plus_shift(data: Operand, affine: Affine, output: ir.Value, subject: ir.Node) -> Op:
    """Return data + t for the shift t of a map, of the shape and type of `output`.

    Raises:
        Refused: SHAPE_UNKNOWN, if these are not known, or as `stored`.
    """
    rank, dtype = rank_of(output), output.dtype
    if rank is None or dtype is None:
        raise Refused(Common.SHAPE_UNKNOWN, subject)
    along = [] if affine.is_uniform else [-1, *[1] * (rank - 1 - affine.axis)]
    shift = affine.spread().shift.reshape(along)
    weight = stored(shift, dtype, f"{output.name}.shift", subject)
    return Op("Add", [data, weight], shape=shape_of(output), type_of=output)
