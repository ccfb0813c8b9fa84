"""Says what kinds of functions the models of a window are, by their operators."""

from __future__ import annotations

from collections.abc import Container, Iterator

import numpy as np
import onnx
import onnx.helper

from bnfold.graph.schemas import opsets_of
from bnfold.proof.certificates.normal_forms.congruence import signature
from bnfold.proof.certificates.probing import Differs
from bnfold.proof.certificates.submodels import Constants, rebuilt
from bnfold.proof.certificates.windows import (
    AFFINE,
    COPYING,
    Window,
    dtype_of,
    ints,
    is_float,
    is_random,
    is_training,
)
from bnfold.record.data import Difference
from bnfold.running.learning import infer_small

_FACTORS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Mul"}
"""Operators that multiply their first two operands."""

_ADDENDS = {"Add", "Concat", "SequenceConstruct", "SequenceInsert", "Sub", "Sum"}
"""Operators that are linear in all of their operands together."""

_SELECTING = COPYING | {"GlobalMaxPool", "MaxPool", "Neg", "Pad", "ReduceMax", "ReduceMin", "Relu"}
"""Operators whose results are what they read, or its negative, or nothing of it."""


def is_multilinear(model: onnx.ModelProto) -> bool:
    """Say whether no operator multiplies what varies, nor does more with it than add and move it.

    Then operators that may be affine are, by their definition.
    """
    varying = {value.name for value in model.graph.input}
    constants = Constants(model)
    for node in model.graph.node:
        at = {index for index, name in enumerate(node.input) if name in varying}
        if at:
            varying.update(node.output)
        if at and not (_is_linear_at(node, at) and not is_random(node, constants)):
            return False
    return True


def is_copying(window: Window) -> bool:
    """Say whether it only moves elements, as far as they can be told apart."""
    is_wide = all(dtype_of(value).name != "bfloat16" for value in window.inputs)
    return window.operators <= COPYING and is_wide and all(map(is_multilinear, window.models))


def functions_of(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the operators that do more with what varies than `is_multilinear` allows, in order."""
    varying = {value.name for value in model.graph.input}
    constants = Constants(model)
    functions = []
    for node in model.graph.node:
        at = {index for index, name in enumerate(node.input) if name in varying}
        if at:
            varying.update(node.output)
            is_affine = node.op_type in AFFINE and _is_linear_at(node, at)
            if not is_affine or is_random(node, constants):
                functions.append(node)
    return functions


def _is_linear_at(node: onnx.NodeProto, at: set[int]) -> bool:
    """Say whether an operator is affine in the operands at some places together."""
    if node.op_type in _FACTORS:
        return not {0, 1} <= at
    if node.op_type == "Einsum":
        return len(at) == 1
    if node.op_type == "Pad":
        return at <= {0, 2}
    if node.op_type == "Where":
        return 0 not in at
    if node.op_type == "BatchNormalization" and is_training(node):
        return False
    if node.op_type == "Cast" and not is_float(target_of(node)):
        return False
    return node.op_type in _ADDENDS or at == {0}


def require_same_types(window: Window) -> None:
    """Raise `Differs` if results are of other element types, which float64 does not show."""
    if not _has_several_types(window):
        return
    (one, types), (_, others) = (_output_types(model) for model in window.models)
    for name, kind, other in zip(one, types, others, strict=True):
        if kind and other and kind != other:
            names = map(onnx.TensorProto.DataType.Name, (kind, other))
            mismatch = " becomes ".join(name.lower() for name in names)
            raise Differs(Difference(name, [], None, None, mismatch))


def _has_several_types(window: Window) -> bool:
    """Say whether a result may have another type than what is read."""
    read = {value.type.tensor_type.elem_type for value in window.inputs}
    read |= {tensor.data_type for model in window.models for tensor in model.graph.initializer}
    names = {attribute.name for node in window.nodes() for attribute in node.attribute}
    is_named = bool(names & {"dtype", "output_dtype", "to", "value"})
    return is_named or len(read - {onnx.TensorProto.INT64}) > 1


def _output_types(model: onnx.ModelProto) -> tuple[list[str], list[int]]:
    names = [output.name for output in model.graph.output]
    bare = rebuilt(model, model.graph.node, model.graph.input, names)
    del bare.graph.value_info[:]  # these are what is to be seen
    outputs = (infer_small(bare) or bare).graph.output
    given = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    given |= {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    types = [output.type.tensor_type.elem_type for output in outputs]
    return names, [kind or given.get(name, 0) for name, kind in zip(names, types, strict=True)]


def rounding_casts(window: Window) -> set[str]:
    """Return the float types to which either side casts, where another float of it is wider.

    What such a Cast rounds, and from where on it makes an infinity of it, shows in no float64. But
    where the results are of this type, and all that the side after does with what it casts to it is
    to move it or to choose from it, both are rounded alike, and what is too large there is so in
    the results.
    """
    rounding = rounding_types(window)
    is_alike = rounding == types_of_results(window) and _selects(window.after, rounding)
    return set() if is_alike else {target.name for target in rounding}


def rounding_types(window: Window) -> set[np.dtype[np.generic]]:
    """Return the float types to which either side casts, where another float of it is wider."""
    targets = {
        target_of(node)
        for node in window.nodes()
        if node.op_type == "Cast" and is_float(target_of(node))
    }
    read = {dtype_of(value) for value in window.inputs}
    read |= {content.dtype for content in window.constants.values()}
    floats = {each for each in targets | read if is_float(each)}
    # Of the two types of two bytes, each rounds the other.
    return {
        target
        for target in targets
        if any(target != each and target.itemsize <= each.itemsize for each in floats)
    }


def types_of_results(window: Window) -> set[np.dtype[np.generic]]:
    """Return the types of the results, as far as they are described."""
    names = {output.name for model in window.models for output in model.graph.output}
    return {
        dtype_of(value)
        for model in window.models
        for value in (*model.graph.value_info, *model.graph.output)
        if value.name in names and value.type.tensor_type.elem_type
    }


def _selects(model: onnx.ModelProto, types: Container[np.dtype[np.generic]]) -> bool:
    """Say whether all that a model does with what it casts to some types is to move or choose."""
    return all(
        node.op_type in _SELECTING
        or (node.op_type in ("Resize", "Upsample") and _takes_nearest(node))
        for node in after_casts(model, types)
    )


def after_casts(
    model: onnx.ModelProto, types: Container[np.dtype[np.generic]]
) -> Iterator[onnx.NodeProto]:
    """Yield the operators that something depends on which is cast to one of some types."""
    cast: set[str] = set()
    for node in model.graph.node:
        is_after = not cast.isdisjoint(node.input)
        if is_after:
            yield node
        if is_after or (node.op_type == "Cast" and target_of(node) in types):
            cast.update(node.output)


def _takes_nearest(node: onnx.NodeProto) -> bool:
    """Say whether a Resize makes no new numbers."""
    return all(
        attribute.s == b"nearest" for attribute in node.attribute if attribute.name == "mode"
    )


def target_of(node: onnx.NodeProto) -> np.dtype[np.generic]:
    """Return the type to which a Cast casts."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(ints(node, "to")[0]))


def is_chain(model: onnx.ModelProto) -> bool:
    """Say whether each operator has one operand that varies."""
    constants = {tensor.name for tensor in model.graph.initializer} | {""}
    return all(sum(name not in constants for name in node.input) == 1 for node in model.graph.node)


def is_same_but_pools(window: Window) -> bool:
    """Say whether both sides are chains of the same operators, MaxPools and Pads aside."""
    chains = []
    for model in window.models:
        constants = Constants(model)
        chains.append(
            [
                (
                    signature(node, opsets_of(model)),
                    [
                        (
                            constants[name].dtype.name,
                            constants[name].shape,
                            constants[name].tobytes(),
                        )
                        for name in node.input
                        if name in constants
                    ],
                )
                for node in model.graph.node
                if node.op_type not in ("Identity", "MaxPool", "Pad")
            ]
        )
    return chains[0] == chains[1] and all(map(is_chain, window.models))
