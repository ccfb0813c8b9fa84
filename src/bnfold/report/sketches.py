"""Picks the rewrite of a group to draw, and describes the drawing in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bnfold.record.data import NodeSketch, RewriteRecord
from bnfold.report.wording import shortened

MOST_NODES = 12
"""A neighbourhood of more nodes is not drawn."""


def typical(rewrites: Sequence[RewriteRecord]) -> RewriteRecord | None:
    """Return a rewrite of the most common shape among those small enough to draw."""
    drawable = [
        rewrite
        for rewrite in rewrites
        if rewrite.before and max(len(rewrite.before), len(rewrite.after)) <= MOST_NODES
    ]
    shapes = [repr((rewrite.before, rewrite.after)) for rewrite in drawable]
    if not shapes:
        return None
    ((most_common, _),) = Counter(shapes).most_common(1)
    return drawable[shapes.index(most_common)]


def in_words(rewrite: RewriteRecord) -> str:
    """Describe the drawing of a rewrite."""
    before, after = _operators(rewrite.before), _operators(rewrite.after)
    return f"before: {before}; after: {after or 'nothing, the value passes through'}"


def _operators(sketch: Sequence[NodeSketch]) -> str:
    return ", ".join(shortened(node.op_type, 40) for node in sketch)
