"""Writes what LSTM, GRU and RNN compute of their input as a MatMul and an Add before them.

    f(W·x_t + Wb, R·h + Rb) = f(I·p_t + 0, R·h + Rb)        p_t = W·x_t + Wb

by ONNX's equations of these operators, for all gates and both directions at once: p is as wide as
all of them together, and each direction takes its part. So only p depends on W and x, and it is
linear; the rest is the same operator on both sides. An initial state of zeros is the default.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array
from bnfold.proof.submodels import Constants, rebuilt
from bnfold.proof.windows import Window

_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})

_STATES = (5, 6)
"""The places of what the hidden state is at first, and of the LSTM's cell."""

_LARGEST = 2**24
"""Elements of an identity that are written out."""


def with_projections(window: Window) -> Window:
    """Write recurrent operators of constant weights as projections and what comes after these."""
    if window.operators.isdisjoint(_RECURRENT):
        return window
    return Window(*map(_with_projections, window.models))


def _with_projections(model: onnx.ModelProto) -> onnx.ModelProto:
    constants = Constants(model)
    tensors: dict[str, Array] = {}
    whole = [_without_zero_states(node, constants) for node in model.graph.node]
    nodes = [each for node in whole for each in _parts(node, constants, tensors)]
    outputs = [output.name for output in model.graph.output]
    return rebuilt(model, nodes, model.graph.input, outputs, tensors)


def _without_zero_states(node: onnx.NodeProto, constants: Constants) -> onnx.NodeProto:
    """Return a recurrent node without initial states that are constants of zeros."""
    if node.op_type not in _RECURRENT:
        return node
    inputs = [
        "" if place in _STATES and name in constants and not constants[name].any() else name
        for place, name in enumerate(node.input)
    ]
    while not inputs[-1]:
        inputs.pop()
    return _reading(node, inputs)


def _parts(
    node: onnx.NodeProto, constants: Constants, tensors: dict[str, Array]
) -> Iterator[onnx.NodeProto]:
    """Yield the projection and the rest of a node; new constants go to `tensors`."""
    names = [*node.input, ""][:4]
    parameters = [constants[name] for name in names[1:] if name in constants]
    if node.op_type not in _RECURRENT or len(parameters) < sum(map(bool, names[1:])):
        yield node
        return
    weight = parameters[0]
    directions, gates, _ = weight.shape
    if directions * (directions * gates) * gates > _LARGEST:
        yield node
        return
    bias = parameters[2] if len(parameters) > 2 else np.zeros((directions, 2 * gates), weight.dtype)
    stem = f"{next(filter(None, node.output))} projection"
    made = {
        f"{stem} weight": weight.reshape(directions * gates, -1).T,
        f"{stem} bias": bias[:, :gates].reshape(-1),
        f"{stem} identity": np.eye(directions * gates, dtype=weight.dtype).reshape(
            directions, gates, -1
        ),
        f"{stem} rest": np.concatenate([np.zeros_like(bias[:, :gates]), bias[:, gates:]], axis=1),
    }
    tensors |= made
    matrix, vector, identity, rest = made
    yield onnx.helper.make_node("MatMul", [node.input[0], matrix], [f"{stem} product"])
    yield onnx.helper.make_node("Add", [f"{stem} product", vector], [stem])
    yield _reading(node, [stem, identity, names[2], rest, *node.input[4:]])


def _reading(node: onnx.NodeProto, inputs: Sequence[str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.input[:]
    copy.input.extend(inputs)
    return copy
