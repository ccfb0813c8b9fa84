"""Which rewrite of many is shown, and what its drawing shows, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bnfold.record.data import NodeSketch, RewriteRecord
from bnfold.report.wording import shortened

MOST_NODES = 12
"""A neighbourhood of more nodes is too large to be drawn."""


def typical(rewrites: Sequence[RewriteRecord]) -> RewriteRecord | None:
    """Return a rewrite of the most frequent shape among those that are small enough to draw."""
    drawable = [
        each
        for each in rewrites
        if each.before and max(len(each.before), len(each.after)) <= MOST_NODES
    ]
    shapes = [repr((each.before, each.after)) for each in drawable]
    if not shapes:
        return None
    ((commonest, _),) = Counter(shapes).most_common(1)
    return drawable[shapes.index(commonest)]


def in_words(rewrite: RewriteRecord) -> str:
    """Say what a drawing of the rewrite shows."""
    before, after = _operators(rewrite.before), _operators(rewrite.after)
    return f"before: {before}; after: {after or 'nothing, the value passes'}"


def _operators(sketch: Sequence[NodeSketch]) -> str:
    return ", ".join(shortened(node.op_type, 40) for node in sketch)
