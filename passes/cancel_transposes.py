"""Leave out Transposes around elementwise operators that cancel.

    Transpose(f(Transpose(x; p), k); q) = f(x, Transpose(k; q))        p∘q = 1

where f may be several elementwise operators, of several values that are all transposed by p, and of
constants.

Conditions: only operators of f read what f computes, but the Transpose after it; an operand that
is not constant has all axes.

Profit: at least one copy less. Networks converted from TensorFlow transpose before and after each
Conv, with activations and sums between.

BITWISE.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.algebra.broadcasting import ELEMENTWISE
from bnfold.graph.constants import constant, is_constant
from bnfold.graph.schemas import NUMPY_BROADCASTING_SINCE
from bnfold.rewriting.contract import Exactness, Op, Operand, Replace, Weight, rewrite, same_op
from bnfold.rewriting.query import ints_attribute, is_op, opset, rank_of, shape_of

_MOST_OPERATORS = 16


@rewrite("cancel-transposes", roots=["Transpose"], exactness=Exactness.BITWISE, refusals=[])
def cancel_transposes(node: ir.Node) -> Replace | None:
    """Let elementwise operators before a Transpose read what is transposed before them."""
    order = ints_attribute(node, "perm")
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if source is None or not order or opset(node) < NUMPY_BROADCASTING_SINCE:
        return None
    region = _region(node, source, order)
    if region is None:
        return None
    inner, transposes = region
    made: dict[ir.Value, Operand] = {each.outputs[0]: each.inputs[0] for each in transposes}
    for each in inner:
        result = each.outputs[0]
        operands = [made[v] if v in made else _transposed(v, order) for v in each.inputs]
        shape = shape_of(result)
        turned = None if shape is None else ir.Shape([shape[axis] for axis in order])
        made[result] = same_op(each, operands, shape=turned, type_of=result)
    whole = made[source.outputs[0]]
    assert isinstance(whole, Op)
    return Replace([*transposes, *inner, node], {node.outputs[0]: whole})


def _region(
    root: ir.Node, last: ir.Node, order: tuple[int, ...]
) -> tuple[list[ir.Node], list[ir.Node]] | None:
    """Return elementwise operators, in order, and the Transposes before them; None if others are.

    Each comes after what it reads.
    """
    inner: dict[ir.Node, None] = {}
    transposes: dict[ir.Node, None] = {}
    pending = [(last, False)]
    seen: set[ir.Node] = set()
    while pending:
        node, is_done = pending.pop()
        if is_done:
            inner[node] = None
            continue
        if node in seen:
            continue
        seen.add(node)
        if len(seen) > _MOST_OPERATORS or not _is_elementwise(node, len(order)):
            return None
        pending.append((node, True))
        for value in node.inputs:
            if value is None or is_constant(value):
                continue
            source = value.producer()
            if source is None or source.graph is not root.graph:
                return None
            if is_op(source, "Transpose"):
                perm = ints_attribute(source, "perm")
                if len(perm) != len(order) or [perm[axis] for axis in order] != sorted(order):
                    return None
                transposes[source] = None
            else:
                pending.append((source, False))
    whole = {*inner, root}
    for node in inner:
        value = node.outputs[0]
        if value.is_graph_output() or not {use.node for use in value.uses()} <= whole:
            return None
    return (list(inner), list(transposes)) if transposes else None


def _is_elementwise(node: ir.Node, rank: int) -> bool:
    return is_op(node, *ELEMENTWISE) and rank_of(node.outputs[0]) == rank


def _transposed(value: ir.Value | None, order: tuple[int, ...]) -> Operand:
    """Return a constant for operands that are transposed."""
    content = constant(value)
    if value is None or content is None or content.size == 1:
        return value
    wide = content.reshape((1,) * (len(order) - content.ndim) + content.shape)
    dtype = ir.DataType.from_numpy(content.dtype)
    return Weight(wide.transpose(order), dtype, f"{value.name}.transposed")
