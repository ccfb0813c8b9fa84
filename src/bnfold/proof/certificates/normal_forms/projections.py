"""Writes what LSTM, GRU and RNN compute of their input as a MatMul and an Add before them.

    f(W·x_t + Wb, R·h + Rb) = f(I·p_t + 0, R·h + Rb)        p_t = W·x_t + Wb

by ONNX's equations of these operators, for all gates and both directions at once: p is as wide as
all of them together, and each direction takes its part. So only p depends on W and x, and it is
linear; the rest is the same operator on both sides. An initial state of zeros is the default.

And what a DeformConv computes as a Conv of what it reads, each tap of each channel by itself:

    D(x, offsets, mask; W, b) = W·u + b                     u = D(x, offsets, mask; I, 0)

And a normalization as one without parameters, which come after it:

    N(x; γ, β) = γ·N(x; 1, 0) + β
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array
from bnfold.proof.certificates.normal_forms.congruence import without_shared
from bnfold.proof.certificates.submodels import Constants, rebuilt
from bnfold.proof.certificates.windows import Window, ints

_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})

_NORMALIZATIONS = frozenset({"InstanceNormalization", "LayerNormalization"})

_READING = _NORMALIZATIONS | {"DeformConv"}
"""Operators of which what they read is one value, to which their parameters are applied."""

_STATES = (5, 6)
"""The places of what the hidden state is at first, and of the LSTM's cell."""

_LARGEST = 2**24
"""Elements of an identity that are written out."""


def with_projections(window: Window) -> Window:
    """Write operators of constant weights as projections, and what comes after or before these."""
    if window.operators.isdisjoint(_RECURRENT | _READING):
        return window
    projected = Window(*map(_with_projections, window.models))
    return projected if window.operators.isdisjoint(_READING) else without_shared(projected)


def _with_projections(model: onnx.ModelProto) -> onnx.ModelProto:
    constants = Constants(model)
    tensors: dict[str, Array] = {}
    whole = [_without_zero_states(node, constants) for node in model.graph.node]
    described = {
        value.name: value
        for value in (*model.graph.value_info, *model.graph.input)
        if value.type.tensor_type.HasField("shape")
    }
    plain: list[onnx.ValueInfoProto] = []
    nodes: list[onnx.NodeProto] = []
    for node in whole:
        if node.op_type in _NORMALIZATIONS and node.input[0] in described:
            nodes += _parts_of_normalized(node, constants, tensors)
            if nodes[-1].input != node.input:  # it is of the shape of what is normalized
                plain.append(onnx.ValueInfoProto())
                plain[-1].CopyFrom(described[node.input[0]])
                plain[-1].name = _normalized(node)
        else:
            nodes += _parts(node, constants, tensors)
    outputs = [output.name for output in model.graph.output]
    made = rebuilt(model, nodes, model.graph.input, outputs, tensors)
    deformed = [node for node in nodes if node.op_type == "DeformConv" and node.input[1] in tensors]
    made.graph.value_info.extend(_what_is_read(node, tensors) for node in deformed)
    made.graph.value_info.extend(plain)
    return made


def _what_is_read(node: onnx.NodeProto, tensors: Mapping[str, Array]) -> onnx.ValueInfoProto:
    identity = tensors[node.input[1]]
    kind = onnx.helper.np_dtype_to_tensor_dtype(identity.dtype)
    sizes = [None, len(identity), *[None] * (identity.ndim - 2)]
    return onnx.helper.make_tensor_value_info(node.output[0], kind, sizes)


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
    if node.op_type == "DeformConv":
        yield from _parts_of_deformed(node, constants, tensors)
        return
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


def _normalized(node: onnx.NodeProto) -> str:
    """Return the name of what a normalization computes without parameters."""
    return f"{node.output[0]} as normalized"


def _parts_of_normalized(
    node: onnx.NodeProto, constants: Constants, tensors: dict[str, Array]
) -> Iterator[onnx.NodeProto]:
    """Yield a normalization without parameters, and what applies these."""
    gamma, bias = constants.get(node.input[1]), [*node.input, ""][2]
    is_known = gamma is not None and gamma.ndim == 1 and (not bias or bias in constants)
    if gamma is None or not is_known or len(node.output) > 1:
        yield node
        return
    stem = _normalized(node)
    made = {
        f"{stem} scale": gamma,
        f"{stem} shift": constants[bias] if bias else np.zeros_like(gamma),
        f"{stem} zeros": np.zeros_like(gamma),
        f"{stem} ones": np.ones_like(gamma),
    }
    tensors |= made
    scale, shift, zeros, ones = made
    yield _reading(node, [node.input[0], ones, zeros], [stem])
    if node.op_type == "InstanceNormalization":
        parameters = [scale, shift, zeros, ones]
        yield onnx.helper.make_node(
            "BatchNormalization", [stem, *parameters], node.output, epsilon=0.0
        )
        return
    yield onnx.helper.make_node("Mul", [stem, scale], [f"{stem} scaled"])
    yield onnx.helper.make_node("Add", [f"{stem} scaled", shift], node.output)


def _parts_of_deformed(
    node: onnx.NodeProto, constants: Constants, tensors: dict[str, Array]
) -> Iterator[onnx.NodeProto]:
    """Yield a DeformConv that reads, and a Conv of what it has read."""
    data, filters, offsets, bias, *mask = (*node.input, "")[: max(4, len(node.input))]
    groups = next(iter(ints(node, "group", [1])))
    weight = constants.get(filters)
    is_known = weight is not None and weight.ndim >= 3 and (not bias or bias in constants)
    if weight is None or not is_known or len(weight) % groups:
        yield node
        return
    read = int(np.prod(weight.shape[1:]))
    if groups * read * read > _LARGEST:
        yield node
        return
    stem = f"{node.output[0]} as read"
    each = np.eye(read, dtype=weight.dtype).reshape(read, *weight.shape[1:])
    tensors[f"{stem} identity"] = np.concatenate([each] * groups)
    tensors[f"{stem} weight"] = weight.reshape(len(weight), read, *[1] * (weight.ndim - 2))
    yield _reading(node, [data, f"{stem} identity", offsets, "", *mask], [stem])
    inputs = [stem, f"{stem} weight", *([bias] if bias else [])]
    yield onnx.helper.make_node("Conv", inputs, node.output, group=groups)


def _reading(
    node: onnx.NodeProto, inputs: Sequence[str], outputs: Sequence[str] | None = None
) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.input[:]
    copy.input.extend(inputs)
    if outputs is not None:
        del copy.output[:]
        copy.output.extend(outputs)
    return copy
