"""Learns what passes rely on: which values are constant, and which sizes hold for every input."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bnfold.graph.expressions import Evaluate, by_reference, forget_contents, learn_constants
from bnfold.graph.inference import Infer, infer_here, learn_shapes
from bnfold.graph.shapes import forget_shapes, is_free, shape_of
from bnfold.graph.walk import all_graphs, outermost_graphs, sort

_ROUNDS = 4
"""Times that shapes are inferred again because a constant that may be one has become known."""


@dataclass(frozen=True)
class Tools:
    """What infers shapes, and what evaluates constants. By default both stay in this process."""

    infer: Infer = infer_here
    evaluate: Evaluate = by_reference


def learn(model: ir.Model, tools: Tools) -> None:
    """Sort the nodes, and find out all shapes and constants from the graph as it is.

    What is known from before stays known: a rewrite changes no value.

    Raises:
        ValueError: if a graph has a cycle.
    """
    for graph in outermost_graphs(model):
        sort(graph)
    for _ in range(_ROUNDS):
        is_known = _are_shapes_known(model)
        if not is_known:
            learn_shapes(model, tools.infer)
        if not learn_constants(model, tools.evaluate) or is_known:
            return


def forget(model: ir.Model) -> None:
    """Forget it all, because others may edit the model from now on."""
    forget_contents(model)
    for graph in all_graphs(model):
        forget_shapes(graph)


def _are_shapes_known(model: ir.Model) -> bool:
    shapes = [shape_of(value) for graph in all_graphs(model) for n in graph for value in n.outputs]
    return all(
        shape is not None and all(isinstance(size, int) or is_free(size) for size in shape)
        for shape in shapes
    )
