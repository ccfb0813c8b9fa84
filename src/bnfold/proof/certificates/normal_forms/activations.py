"""Applies a function of single elements after elements are moved, instead of before.

    Move(f(x), f(y), …) = f(Move(x, y, …))

Where one side computes f of several parts and the other of the whole, both then end in the same f.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from bnfold.graph.schemas import opsets_of
from bnfold.proof.certificates.normal_forms.congruence import signature
from bnfold.proof.certificates.submodels import needed_nodes
from bnfold.proof.certificates.windows import Window

_FUNCTIONS = frozenset({"Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})
"""Functions of single elements of their first operand; others are of one number."""

_MOVES = frozenset({"Concat", "Reshape", "Transpose"})
"""Operators whose result's elements are all elements of their operands, each once."""


def with_activations_last(window: Window) -> Window:
    """Move functions that each operand of a move has gone through to its result."""
    return Window(*map(_with_activations_last, window.models))


def _with_activations_last(model: onnx.ModelProto) -> onnx.ModelProto:
    if not any(node.op_type in _MOVES for node in model.graph.node):
        return model
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    makers: dict[str, onnx.NodeProto] = {}
    opsets = opsets_of(model)
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        operands = copy.input if copy.op_type == "Concat" else copy.input[:1]
        functions = [makers.get(name) for name in operands]
        function = functions[0] if copy.op_type in _MOVES and functions else None
        nodes.append(copy)
        if function is not None and all(
            each and _is_same(each, function, opsets) for each in functions
        ):
            for place, each in enumerate(functions):
                copy.input[place] = each.input[0] if each is not None else ""
            last = onnx.NodeProto()
            last.CopyFrom(function)
            last.name = ""
            last.output[0] = copy.output[0]
            copy.output[0] = last.input[0] = f"{copy.output[0]} before {function.op_type}"
            nodes.append(last)
        if nodes[-1].op_type in _FUNCTIONS:
            makers[nodes[-1].output[0]] = nodes[-1]
    del moved.graph.node[:]
    moved.graph.node.extend(needed_nodes(nodes, [output.name for output in model.graph.output]))
    return moved


def _is_same(one: onnx.NodeProto, other: onnx.NodeProto, opsets: Mapping[str, int]) -> bool:
    """Say whether two functions are the same, of whatever element."""
    is_same_function = signature(one, opsets) == signature(other, opsets)
    return is_same_function and one.input[1:] == other.input[1:]
