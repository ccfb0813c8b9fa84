"""Applies a function of single elements after elements are moved, instead of before.

    Move(f(x), f(y), …) = f(Move(x, y, …))

Where one side computes f of several parts and the other of the whole, both then end in the same f.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx

from bnfold.graph.schemas import opsets_of
from bnfold.proof.congruence import signature
from bnfold.proof.submodels import Constants, needed_nodes
from bnfold.proof.windows import Window

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


def with_scales_before_activations(window: Window) -> Window:
    """Scale by positive constants before a Relu or LeakyRelu, not after: k·f(x) = f(k·x) for k > 0.

    Where the other side scales what comes before, both then end in the same function. A window
    without such a scale is returned as it is.
    """
    models = [_scaled_before(model) for model in window.models]
    changed = any(one is not other for one, other in zip(models, window.models, strict=True))
    return Window(*models) if changed else window


def _scaled_before(model: onnx.ModelProto) -> onnx.ModelProto:
    constants = Constants(model)
    reads = Counter(name for node in model.graph.node for name in node.input)
    reads.update(output.name for output in model.graph.output)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    makers = {name: node for node in nodes for name in node.output}
    is_moved = False
    for scale in nodes:
        if scale.op_type not in ("Div", "Mul") or len(scale.input) != 2:
            continue
        at = next((i for i, name in enumerate(scale.input) if name not in constants), 0)
        function, factor = makers.get(scale.input[at]), constants.get(scale.input[1 - at])
        is_divisor_second = scale.op_type == "Mul" or at == 0
        if function is None or factor is None or not is_divisor_second:
            continue
        if function.op_type not in ("LeakyRelu", "PRelu", "Relu") or reads[scale.input[at]] != 1:
            continue
        if not (factor > 0).all():
            continue
        # The two nodes exchange what they are, and keep what they read and make.
        first, last = onnx.NodeProto(), onnx.NodeProto()
        first.CopyFrom(scale)
        last.CopyFrom(function)
        first.input[at], first.output[0] = function.input[0], function.output[0]
        last.input[0], last.output[0] = function.output[0], scale.output[0]
        function.CopyFrom(first)
        scale.CopyFrom(last)
        is_moved = True
    if not is_moved:
        return model
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    del moved.graph.node[:]
    moved.graph.node.extend(nodes)
    del moved.graph.value_info[:]  # what has a known shape may have another one
    return moved


def _is_same(one: onnx.NodeProto, other: onnx.NodeProto, opsets: Mapping[str, int]) -> bool:
    """Say whether two functions are the same, of whatever element."""
    is_same_function = signature(one, opsets) == signature(other, opsets)
    return is_same_function and one.input[1:] == other.input[1:]
