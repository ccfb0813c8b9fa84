"""How often operators that expand and reshape repeat the elements along each axis.

An axis of a result is made of runs: of axes of the data, and of repetitions, which stay in place.
Where each is the same axis of the data, with the repetitions after it, every element of it is
repeated one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from bnfold.graph.size_terms import Term, product_of, sizes_of, terms
from bnfold.rewriting.query import int_attribute, is_op

RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
EXPANSIONS = ("Expand", "Tile")


@dataclass(frozen=True)
class _Run:
    """A whole number of steps along an axis of the data, or, without one, that stay in place."""

    size: Term
    axis: int | None = None


_ONE, _COPIED, _OPEN = Term(1), Term(0), Term(-1)


def times_repeated(chain: Sequence[ir.Node]) -> tuple[int, ...] | None:
    """Return how often each element is repeated along each axis; None if more is done to them."""
    sizes = sizes_of(chain[0].inputs[0])
    if sizes is None:
        return None
    axes = [[] if size == _ONE else [_Run(size, axis)] for axis, size in enumerate(sizes)]
    given = list(axes)
    for node in chain:
        told = _asked(node, axes) or sizes_of(node.outputs[0])
        if told is None:
            return None
        found = (_expanded if is_op(node, *EXPANSIONS) else _grouped)(axes, told)
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
    return tuple(factors)


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


def _product(runs: Iterable[_Run]) -> Term | None:
    return product_of(run.size for run in runs)


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
