"""Ways through two graphs: which values of both should be the same, in the order to prove them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import onnx_ir as ir

from bnfold.workflow.structure import pairs_by_structure

Pairs: TypeAlias = Sequence[tuple[ir.Value, ir.Value]]
"""Values of a reference and of a candidate."""


def ways(reference: ir.Graph, candidate: ir.Graph, outputs: Pairs) -> Iterator[Pairs]:
    """Yield the pairs to try, in the reference's order: by names, by structure, and so once more.

    Names that another exporter has given mean nothing: unless most stand for the same operator
    in both, structure comes first.
    """
    values, others = map(_values, (reference, candidate))
    by_name = {value: others[name] for name, value in values.items() if name in others}
    by_name |= outputs
    kept = sum(_operator(value) == _operator(twin) for value, twin in by_name.items())
    are_names_kept = 2 * kept >= min(len(values), len(others))
    first = _in_order(by_name, values.values())
    if are_names_kept:
        yield first
    second = _in_order(pairs_by_structure(reference, outputs), values.values())
    yield second
    yield first
    if not are_names_kept:
        yield second


def _in_order(
    pairs: Mapping[ir.Value, ir.Value], values: Iterable[ir.Value]
) -> list[tuple[ir.Value, ir.Value]]:
    """Return the pairs of values of one type and shape, in this order."""
    return [
        (value, pairs[value])
        for value in values
        if value in pairs and value.dtype == pairs[value].dtype and _may_fit(value, pairs[value])
    ]


def _may_fit(value: ir.Value, twin: ir.Value) -> bool:
    """Say whether two values may be of one shape, as far as their sizes are known."""
    if value.shape is None or twin.shape is None:
        return True
    sizes = [list(each.shape) for each in (value, twin) if each.shape is not None]
    return len(sizes[0]) == len(sizes[1]) and all(
        one == other or not isinstance(one, int) or not isinstance(other, int)
        for one, other in zip(*sizes, strict=True)
    )


def _operator(value: ir.Value) -> object:
    """Return which operator computes a value, and as which of its results."""
    node = value.producer()
    return None if node is None else (node.op_identifier(), value.index())


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Return what the nodes of a graph compute, by name, in order; then its outputs."""
    computed = (value for node in graph for value in node.outputs)
    return {value.name: value for value in (*computed, *graph.outputs) if value.name}
