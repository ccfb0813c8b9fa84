"""Read the whole shape of a value where it is put together from sizes.

    Concat(n(x), c(x), h(y), w(y)) = Shape(y), if n(x) = n(y) and c(x) = c(y) for every input

The parts may be computed in any way from sizes: by Shape, Gather, Slice, Unsqueeze, and multiples.
Exporters ask for each size by itself, for a Resize to the size of another map.

Conditions: the sizes follow from the graph, and are those of a value whose Shape the parts are
computed from.

Profit: a Concat less, with the operators that compute its parts.

BITWISE.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from bnfold.graph.size_terms import sizes_of, terms
from bnfold.rewriting.contract import Exactness, Replace, rewrite
from bnfold.rewriting.query import is_op, may_take_over

_MOST_OPERATORS = 64


@rewrite("simplify-shape", roots=["Concat"], exactness=Exactness.BITWISE, refusals=[])
def simplify_shape(node: ir.Node) -> Replace | None:
    """Replace a Concat of sizes by a Shape that has the same."""
    result = node.outputs[0]
    asked = terms(result) if result.dtype == ir.DataType.INT64 else None
    if asked is None:
        return None
    for whole in _shapes_read(node):
        if sizes_of(whole.inputs[0]) == list(asked) and may_take_over(whole.outputs[0], result):
            return Replace([node], {result: whole.outputs[0]}, "of a whole shape")
    return None


def _shapes_read(node: ir.Node) -> Iterator[ir.Node]:
    """Yield the operators before one that read a whole shape."""
    pending, seen = [node], {node}
    while pending and len(seen) <= _MOST_OPERATORS:
        current = pending.pop()
        if is_op(current, "Shape"):
            if not current.attributes:
                yield current
            continue
        sources = [value.producer() for value in current.inputs if value is not None]
        new = [source for source in sources if source is not None and source not in seen]
        seen.update(new)
        pending += new
