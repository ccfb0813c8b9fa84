"""A window: two small models over the same inputs, which should compute the same for all of them.

What is known of their operators decides how they can be proven equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array
from bnfold.graph.constants import RANDOM

AFFINE = frozenset(
    {"Add", "AveragePool", "BatchNormalization", "Cast", "Concat", "Constant", "Conv", "Div"}
    | {"ConvTranspose", "DepthToSpace", "Dropout", "Einsum", "Expand", "Flatten", "Gather", "Gemm"}
    | {"GlobalAveragePool", "Identity", "MatMul", "Mul", "Neg", "Pad", "ReduceMean", "ReduceSum"}
    | {"Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Sub", "Sum", "Tile"}
    | {"Transpose", "Unsqueeze", "Upsample"}
)
"""Operators that may be affine; whether they are is tested."""

COPYING = frozenset(
    {"Concat", "ConcatFromSequence", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather"}
    | {"Identity", "Reshape", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceInsert"}
    | {"Slice", "SpaceToDepth", "Split", "SplitToSequence", "Squeeze", "Tile", "Transpose"}
    | {"Unsqueeze", "Where"}
)
"""Operators whose output's elements are elements of their input, whatever these are.

Of a Where, if its condition is constant.
"""

POINTWISE = frozenset(
    {"Abs", "Add", "Atan", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Div", "Dropout"}
    | {"Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log"}
    | {"Mul", "Neg", "PRelu", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign"}
    | {"Sqrt", "Sub", "Tanh", "ThresholdedRelu"}
)
"""Operators that compute each element from that of one operand at its place, and from constants."""

STEPS = frozenset({"Ceil", "Floor", "Round", "Sign"})
"""Operators that jump: no grid shows where."""


class NotShown(Exception):  # noqa: N818 - an answer, not an error
    """Neither equal nor different; the message is the reason."""


@dataclass(frozen=True)
class Window:
    """Two models with the same inputs, and outputs that correspond by their places."""

    before: onnx.ModelProto
    after: onnx.ModelProto

    @property
    def models(self) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        """Both."""
        return self.before, self.after

    @cached_property
    def operators(self) -> frozenset[str]:
        """The operators of either, with Constant left out; those of other domains have a dot."""
        return frozenset(
            f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            for model in self.models
            for node in model.graph.node
            if node.op_type != "Constant"
        )

    @cached_property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The inputs that either reads."""
        read = {name for node in self.nodes() for name in node.input}
        read |= {output.name for model in self.models for output in model.graph.output}
        return [value for value in self.before.graph.input if value.name in read]

    @cached_property
    def has_free_sizes(self) -> bool:
        """Whether a size of an input is free."""
        sizes = (size for value in self.inputs for size in value.type.tensor_type.shape.dim)
        return any(not size.HasField("dim_value") for size in sizes)

    @cached_property
    def constants(self) -> dict[str, Array]:
        """The constants of both by name."""
        return {
            tensor.name: onnx.numpy_helper.to_array(tensor)
            for model in self.models
            for tensor in model.graph.initializer
        }

    @cached_property
    def unit(self) -> str:
        """The coarsest float type of its inputs and constants, which rounds what is new."""
        types = {value.type.tensor_type.elem_type for value in self.inputs}
        types |= {tensor.data_type for model in self.models for tensor in model.graph.initializer}
        names = {onnx.TensorProto.DataType.Name(each).lower() for each in types}
        coarsest = ("bfloat16", "float16", "float", "double")
        return next((name for name in coarsest if name in names), "")

    @cached_property
    def is_of_floats(self) -> bool:
        """Whether all that it reads are floats, and its constants finite but for bounds.

        Those of a Clip may be infinite, and what a Pad fills in before a MaxPool.
        """
        bounding = ("Clip", "Pad")
        read = {output.name for model in self.models for output in model.graph.output} | {
            name
            for node in self.nodes()
            for name in (node.input[:1] if node.op_type in bounding else node.input)
        }
        return all(is_float(dtype_of(value)) for value in self.inputs) and all(
            name not in read or not is_float(content.dtype) or np.isfinite(content).all()
            for name, content in self.constants.items()
        )

    @cached_property
    def answers(self) -> dict[tuple[str, int], Any]:
        """What has been found out about it, by question: it is not computed again."""
        return {}

    def nodes(self) -> Iterator[onnx.NodeProto]:
        """Yield the nodes of both."""
        for model in self.models:
            yield from model.graph.node


def ints(node: onnx.NodeProto, name: str, default: Sequence[int] = ()) -> list[int]:
    """Return an attribute of one integer or several, as a list."""
    for found in node.attribute:
        if found.name == name:
            return [int(number) for number in found.ints] or [int(found.i)]
    return list(default)


def may_read_nothing(pool: onnx.NodeProto) -> bool:
    """Say whether a window of a pool may be padding alone: dilated, it may step over the map."""
    return any(step != 1 for step in ints(pool, "dilations", [1]))


def dtype_of(value: onnx.ValueInfoProto) -> np.dtype[np.generic]:
    """Return the numpy type of a window's input."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def is_float(dtype: np.dtype[np.generic]) -> bool:
    """Say whether a numpy type is a float of at least two bytes; bfloat16 is numpy's for none."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def is_random(node: onnx.NodeProto, constants: Mapping[str, Array]) -> bool:
    """Say whether an operator may draw random numbers, as a Dropout does of a ratio above 0."""
    if node.op_type != "Dropout":
        return node.op_type in RANDOM
    _, ratio, training = (*node.input, "", "")[:3]
    if not training or (ratio in constants and not np.any(constants[ratio])):
        return False
    return training not in constants or bool(np.any(constants[training]))


def is_training(node: onnx.NodeProto) -> bool:
    """Say whether a BatchNormalization computes its statistics from a batch."""
    return ints(node, "training_mode", [0]) != [0] or len(node.output) > 1
