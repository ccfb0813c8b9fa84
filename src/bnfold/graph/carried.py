"""Shapes of what Loops carry from one iteration to the next: a body may keep them, or not.

onnx infers neither the shape that a body reads nor that of the Loop's result, which may grow. Both
are that of what goes in if, given this, the body makes the same again (by induction). So it is
assumed, and whatever the body does not keep is taken back, until nothing is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import onnx_ir as ir

from bnfold.graph.shapes import are_equal, is_free, shape_of
from bnfold.graph.walk import bodies_of

Sizes: TypeAlias = tuple[int | str | None, ...]

Carried: TypeAlias = Mapping[ir.Value, Sizes | None]
"""The shapes assumed of what bodies read; None where not even the number of axes stays."""


class Link(NamedTuple):
    """A value that a Loop carries: what goes in, what its body reads and makes, what comes out."""

    initial: ir.Value | None
    within: ir.Value
    after: ir.Value
    result: ir.Value


def links(node: ir.Node) -> Iterator[Link]:
    """Yield what a node carries; nothing unless it is a Loop."""
    if node.op_type != "Loop" or node.domain not in ("", "ai.onnx"):
        return
    for body in bodies_of(node):
        ends = zip(node.inputs[2:], body.inputs[2:], body.outputs[1:], node.outputs, strict=False)
        yield from (Link(*each) for each in ends)


def revised(graph: ir.Graph, carried: Carried, *, more: bool) -> Carried:
    """Assume the shapes of what has become known, if `more` may be; else take back what is not so.

    A body with a Loop of its own keeps a shape only if that one is assumed to.
    """
    every = [link for node in graph.all_nodes() for link in links(node)]
    if more:
        shapes = {link.within: shape_of(link.initial) for link in every}
        new = {
            value: shape
            for value, shape in shapes.items()
            if shape is not None and value not in carried
        }
        if new:
            return {**carried, **{value: tuple(map(_told, shape)) for value, shape in new.items()}}
    return {
        link.within: _kept(carried[link.within], link) for link in every if link.within in carried
    }


def _told(size: int | ir.SymbolicDim) -> int | str | None:
    """Return a size that means the same whenever onnx infers shapes: its own names do not."""
    if isinstance(size, int):
        return size
    return size.value if is_free(size) else None


def _kept(assumed: Sizes | None, link: Link) -> Sizes | None:
    """Return what holds of a shape before the first iteration, and after each if before it."""
    sizes: Sequence[int | str | None] | None = assumed
    for value in (link.initial, link.after):
        shape = shape_of(value)
        if shape is None or sizes is None or shape.rank() != len(sizes):
            return None
        sizes = [
            size if size is not None and are_equal(_dim(size), found) else None
            for size, found in zip(sizes, shape, strict=True)
        ]
    return None if sizes is None else tuple(sizes)


def _dim(size: int | str) -> int | ir.SymbolicDim:
    return size if isinstance(size, int) else ir.SymbolicDim(size)
