"""Reshape to a constant shape where only one size is computed from the input's.

    Reshape(x; n(x), m(x), c) = Reshape(x; 0, 0, c)    n and m the sizes of x on the same axes
    Reshape(x; n(x), c, −1) = Reshape(x; 0, c, −1)     likewise, where −1 is given
    Reshape(x; c, n(x), d) = Reshape(x; c, −1, d)      c and d the same for every input, not 0

Here 0 stands for the size of the data on the same axis; and a Reshape keeps the number of elements,
so that one size follows from the others.

Conditions: the sizes of the result follow from the graph, also that of a −1 where the sizes that
vary are the data's own; the shape is not constant yet.
With a −1 that is new, no other size may be 0, also not for an empty batch, so that both forms are
not mixed.
What −1 stands for is known for data with elements: of others, a Reshape may copy sizes, and the
result, which is empty, too, may have other ones.

Profit: an operator or more less for each size. Exporters compute the sizes of a batch anew for each
Reshape, by a Shape, a Gather, an Unsqueeze and a Concat.

BITWISE.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.algebra.reshapes import constant_target, target_that_copies
from bnfold.graph.constants import constant, is_constant
from bnfold.rewriting.contract import Exactness, Replace, Weight, rewrite, same_op
from bnfold.rewriting.query import input_of, int_attribute, is_op


@rewrite("simplify-reshape", roots=["Reshape"], exactness=Exactness.BITWISE, refusals=[])
def simplify_reshape(node: ir.Node) -> Replace | None:
    """Replace the shape by a constant; return None if more of it depends on the input."""
    data, shape = input_of(node, 0), input_of(node, 1)
    if data is None or shape is None or is_constant(shape):
        return None
    copies_sizes = int_attribute(node, "allowzero", 0) == 0
    sizes = constant_target(
        data,
        node.outputs[0],
        leaves_one_open=_leaves_one_open(shape),
        copies_sizes=copies_sizes,
    )
    if sizes is None and copies_sizes:
        sizes = target_that_copies(data, shape)
    if sizes is None:
        return None
    target = Weight.of_integers(sizes, f"{node.outputs[0].name}.shape")
    return Replace([node], {node.outputs[0]: same_op(node, [data, target])})


def _leaves_one_open(shape: ir.Value) -> bool:
    """Say whether a computed shape leaves a size open by a −1 among those that it joins."""
    join = shape.producer()
    if join is None or not is_op(join, "Concat"):
        return False
    contents = [constant(part) for part in join.inputs]
    return any(content is not None and -1 in content for content in contents)
