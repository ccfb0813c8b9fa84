"""Reads the values of a model back as sums of linear operators on its inputs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.helper

from bnfold.arrays import Array, FloatArray
from bnfold.graph.schemas import opsets_of
from bnfold.proof.certificates.submodels import Constants
from bnfold.proof.certificates.sums.convolutions import average, convolution, global_average
from bnfold.proof.certificates.sums.linear_sums import (
    Frame,
    Indices,
    LinearSum,
    NoSumError,
    Operator,
    applied,
    whole,
)
from bnfold.proof.certificates.windows import is_training

_Attributes: TypeAlias = Mapping[str, Any]

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_AVERAGES = ("AveragePool", "GlobalAveragePool")
_ELEMENTWISE = frozenset({"Add", "Div", "Identity", "Mul", "Neg", "Sub", "Sum"})
_FLATTENING = frozenset({"Flatten", "Reshape"})
_PICKING = frozenset({"Gather", "Slice", "Split"})
SUMMED = (
    _ELEMENTWISE
    | _FLATTENING
    | _PICKING
    | {*_CONVOLUTIONS, *_AVERAGES, "BatchNormalization", "Concat", "Gemm", "MatMul"}
)
"""Operators that such sums are computed by."""

_MOST_VALUES = 100
"""That are read back, one from another."""

_OF_NORMALIZATION = {"epsilon", "momentum", "training_mode"}
_OF_GEMM = {"alpha", "beta", "transB"}


@dataclass
class Demands:
    """What the sizes of inputs must be for a model to run, beside what its terms ask of them.

    Terms that are added broadcast together, wherever they are.
    """

    equal: set[frozenset[Frame]] = field(default_factory=set)
    """Sets of values that must have the same frame."""
    channels: set[tuple[str, int]] = field(default_factory=set)
    """How many channels an input must have, where the graph does not say so."""

    def include(self, other: Demands) -> bool:
        """Say whether all that the others are is asked here, too."""
        has_equal = all(any(each <= frames for frames in self.equal) for each in other.equal)
        return has_equal and other.channels <= self.channels


class SumReader:
    """Reads values of a model back as sums, with channels along one axis of all of them."""

    def __init__(self, model: onnx.ModelProto, axis: int) -> None:
        self._axis = axis
        self._constants = Constants(model)
        self._producers = {name: node for node in model.graph.node for name in node.output}
        self._inputs = {value.name: value.type.tensor_type for value in model.graph.input}
        self._opset = opsets_of(model).get("", 0)
        self._known: dict[str, LinearSum | None] = {}
        self.demands = Demands()

    def sum_of(self, name: str) -> LinearSum:
        """Return the sum that a value is.

        Raises:
            NoSumError: if it is none.
        """
        if name not in self._known:
            if len(self._known) > _MOST_VALUES:
                raise NoSumError
            self._known[name] = None
            self._known[name] = self._input(name) if name in self._inputs else self._made(name)
        found = self._known[name]
        if found is None:
            raise NoSumError
        return found

    def _made(self, name: str) -> LinearSum:
        node = self._producers.get(name)
        if node is None:
            raise NoSumError
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if node.op_type in _CONVOLUTIONS:
            return self._convolution(node, attributes)
        if node.op_type in ("Gemm", "MatMul"):
            return self._product(node, attributes)
        if node.op_type in _AVERAGES:
            return self._averaged(node, attributes)
        if node.op_type == "BatchNormalization":
            return self._normalized(node, attributes)
        if node.op_type == "Concat":
            return self._joined(node, attributes)
        if node.op_type in _FLATTENING:
            return self._flattened(node, attributes)
        if node.op_type in _PICKING:
            read = self.sum_of(node.input[0])
            return read.picked(self._channels(node, attributes, read, name))
        if self._opset < 8:  # they broadcast along an axis that an attribute names, or not at all
            raise NoSumError
        return self._elementwise(node)

    # --- Inputs -----------------------------------------------------------------------------------

    def _input(self, name: str) -> LinearSum:
        """Return an input by itself."""
        rank, channels = self._rank(name), self._declared(name)
        if rank is None or not channels:  # 1 may spread over the channels of a constant
            raise NoSumError
        every, zeros = whole(name, channels), np.zeros(channels)
        return LinearSum(rank, self._axis % rank, frozenset([name]), (every,), zeros)

    def _rank(self, name: str) -> int | None:
        """Return the rank of an input, or None."""
        described = self._inputs[name]
        return len(described.shape.dim) if described.HasField("shape") else None

    def _declared(self, name: str) -> int:
        """Return how many channels an input has, or 0 if the graph does not say so."""
        rank = self._rank(name)
        if rank is None or not -rank <= self._axis < rank:
            return 0
        return int(self._inputs[name].shape.dim[self._axis].dim_value)

    # --- Linear operators -------------------------------------------------------------------------

    def _read(self, name: str, channels: int, rank: int) -> LinearSum:
        """Return what a linear operator reads, of a rank that is 0 if any will do."""
        if name not in self._inputs or self._declared(name):
            read = self.sum_of(name)
        else:
            self.demands.channels.add((name, channels))
            known = rank if self._rank(name) is None else self._rank(name)
            every = (whole(name, channels),)
            read = LinearSum(known or 0, 0, frozenset([name]), every, np.zeros(channels))
        if len(read.shift) != channels or read.rank != (rank or read.rank):
            raise NoSumError
        return read

    def _convolution(self, node: onnx.NodeProto, attributes: _Attributes) -> LinearSum:
        data, filters, bias = (*node.input, "")[:3]
        weights, groups = self._constant(filters), attributes.get("group", 1)
        rank = weights.ndim
        if rank < 3 or 0 in weights.shape or groups < 1 or len(weights) % groups:
            raise NoSumError
        if self._axis % rank != 1:
            raise NoSumError
        operator = convolution(node.op_type, weights, groups, attributes)
        read = self._read(data, groups * operator.weights.shape[1], rank)
        channels = len(operator.weights)
        shift = self._numbers(bias, channels) if bias else 0.0
        return applied(operator, read, 1).shifted(shift)

    def _product(self, node: onnx.NodeProto, attributes: _Attributes) -> LinearSum:
        data, matrix, addend = (*node.input, "")[:3]
        weights = self._constant(matrix)
        if weights.ndim != 2 or 0 in weights.shape or not attributes.keys() <= _OF_GEMM:
            raise NoSumError
        weights = weights if attributes.get("transB") else weights.T
        read = self._read(data, weights.shape[1], 2 if node.op_type == "Gemm" else 0)
        if read.rank < 2 or self._axis % read.rank != read.rank - 1:
            raise NoSumError
        computed = applied(Operator((), ((),), weights[:, :, None]), read, read.rank - 1)
        shift = self._vector(addend, 2, 1, len(weights)) if addend else np.zeros(len(weights))
        return computed.scaled(attributes.get("alpha", 1.0)).shifted(
            attributes.get("beta", 1.0) * shift
        )

    def _averaged(self, node: onnx.NodeProto, attributes: _Attributes) -> LinearSum:
        read = self.sum_of(node.input[0])
        if read.axis != 1 or read.rank < 3:
            raise NoSumError
        channels, is_pool = len(read.shift), node.op_type == "AveragePool"
        operator = average(channels, attributes) if is_pool else global_average(channels)
        return applied(operator, read, 1)

    def _flattened(self, node: onnx.NodeProto, attributes: _Attributes) -> LinearSum:
        """Return a value with all axes but that of its channels, the last one, merged.

        Not a sum of two, which may spread over one another only before.
        """
        read = self.sum_of(node.input[0])
        merges = read.rank > 2
        if read.rank < 2 or read.axis != read.rank - 1 or (merges and len(read.frame) > 1):
            raise NoSumError
        if node.op_type == "Flatten":
            is_flat = attributes.get("axis", 1) in (-1, read.rank - 1)
        else:
            is_flat = self._shape(node, attributes) == [-1, len(read.shift)]
        if not is_flat:
            raise NoSumError
        frame: Frame = frozenset([("flat", read.frame)]) if merges else read.frame
        return replace(read, rank=2, axis=1, frame=frame)

    # --- Scales and shifts ------------------------------------------------------------------------

    def _normalized(self, node: onnx.NodeProto, attributes: _Attributes) -> LinearSum:
        if self._opset < 7 or is_training(node) or not attributes.keys() <= _OF_NORMALIZATION:
            raise NoSumError
        data = self.sum_of(node.input[0])
        if data.axis != 1 or len(node.input) != 5:
            raise NoSumError
        parameters = (self._numbers(name, len(data.shift)) for name in node.input[1:])
        gamma, beta, mean, variance = parameters
        scale = gamma / np.sqrt(variance + attributes.get("epsilon", float(np.float32(1e-5))))
        return data.scaled(scale).shifted(beta - mean * scale)

    def _elementwise(self, node: onnx.NodeProto) -> LinearSum:
        varying = [name not in self._constants or name in self._inputs for name in node.input]
        if node.op_type in ("Mul", "Div"):
            return self._scaled(node, varying)
        signs = [1.0, *([-1.0 if node.op_type == "Sub" else 1.0] * (len(varying) - 1))]
        signs = [-1.0] if node.op_type == "Neg" else signs
        addends = list(zip(node.input, signs, varying, strict=True))
        sums = [self.sum_of(name).scaled(sign) for name, sign, varies in addends if varies]
        if not sums:
            raise NoSumError
        total = functools.reduce(LinearSum.plus, sums)
        for name, sign, varies in addends:
            if not varies:
                total = total.shifted(sign * self._along(name, total))
        return total

    def _scaled(self, node: onnx.NodeProto, varying: Sequence[bool]) -> LinearSum:
        if node.op_type == "Mul" and varying[1]:
            factor, data = node.input
        else:
            data, factor = node.input
        read = self.sum_of(data)
        scale = self._along(factor, read)
        return read.scaled(1 / scale if node.op_type == "Div" else scale)

    # --- Channels ---------------------------------------------------------------------------------

    def _joined(self, node: onnx.NodeProto, attributes: _Attributes) -> LinearSum:
        sums = [self.sum_of(name) for name in node.input]
        whole = functools.reduce(LinearSum.beside, sums)
        self._require_along(attributes.get("axis", 1), whole)
        frames = frozenset(each.frame for each in sums)
        if len(frames) > 1:
            self.demands.equal.add(frames)
        return whole

    def _channels(
        self, node: onnx.NodeProto, attributes: _Attributes, whole: LinearSum, name: str
    ) -> Indices:
        """Return which channels of a value one of the results of an operator is."""
        every = np.arange(len(whole.shift))
        if node.op_type == "Slice":
            chosen = self._slice(node, attributes, whole)
            return self._some(every[chosen])
        self._require_along(attributes.get("axis", 0), whole)
        if node.op_type == "Gather":
            indices = self._constant(node.input[1])
            if (
                indices.ndim != 1
                or indices.dtype.kind != "i"
                or not np.isin(indices, [*every, *(every - len(every))]).all()
            ):
                raise NoSumError
            return self._some(every[indices])
        sizes = self._sizes(node, attributes, len(every))
        if len(sizes) != len(node.output) or sum(sizes) != len(every) or min(sizes) < 1:
            raise NoSumError
        at = list(node.output).index(name)
        return every[sum(sizes[:at]) :][: sizes[at]]

    def _some(self, channels: Indices) -> Indices:
        if not channels.size:
            raise NoSumError
        return channels

    def _sizes(self, node: onnx.NodeProto, attributes: _Attributes, channels: int) -> list[int]:
        """Return the sizes of what a Split makes."""
        if self._opset >= 13 and len(node.input) > 1 and node.input[1]:
            return [int(size) for size in self._constant(node.input[1])]
        if self._opset < 13 and len(node.input) == 1 and "split" in attributes:
            return list(attributes["split"])
        parts = len(node.output)
        is_even = channels % parts == 0
        if len(node.input) > 1 or "split" in attributes or not (is_even or self._opset >= 18):
            raise NoSumError
        most = -(-channels // parts)
        return [most] * (parts - 1) + [channels - most * (parts - 1)]

    def _shape(self, node: onnx.NodeProto, attributes: _Attributes) -> list[int]:
        """Return the shape that a Reshape asks for."""
        if len(node.input) > 1:
            return [int(size) for size in self._constant(node.input[1])]
        return list(attributes.get("shape", []))

    def _slice(self, node: onnx.NodeProto, attributes: _Attributes, whole: LinearSum) -> slice:
        """Return which channels a Slice takes, if it takes all along other axes."""
        if len(node.input) > 1:
            names = (*node.input[1:], "", "")[:4]
            given = [self._constant(name).tolist() if name else [] for name in names]
        else:
            given = [attributes.get(name, []) for name in ("starts", "ends", "axes")] + [[1]]
        starts, ends, axes, steps = given
        if not all(isinstance(each, list) and len(each) == 1 for each in (starts, ends, axes)):
            raise NoSumError
        self._require_along(axes[0], whole)
        step = steps[0] if steps else 1
        if step == 0:
            raise NoSumError
        return slice(starts[0], ends[0], step)

    def _require_along(self, axis: int, value: LinearSum) -> None:
        """Raise `NoSumError` unless an axis is that of a value's channels."""
        if axis not in (value.axis, value.axis - value.rank):
            raise NoSumError

    # --- Constants --------------------------------------------------------------------------------

    def _along(self, name: str, value: LinearSum) -> FloatArray:
        """Return a constant that varies along the channels of a value alone."""
        return self._vector(name, value.rank, value.axis, len(value.shift))

    def _numbers(self, name: str, channels: int) -> FloatArray:
        """Return a constant of one number for each channel."""
        content = self._constant(name)
        if content.shape != (channels,):
            raise NoSumError
        return content.astype(np.float64)

    def _vector(self, name: str, rank: int, axis: int, channels: int) -> FloatArray:
        """Return a constant of a rank at most, by channels along an axis."""
        content = self._constant(name)
        shape = (1,) * (rank - content.ndim) + content.shape
        others = (*shape[:axis], *shape[axis + 1 :])
        if len(shape) != rank or not set(others) <= {1} or shape[axis] not in (1, channels):
            raise NoSumError
        return np.broadcast_to(content.reshape(-1).astype(np.float64), channels)

    def _constant(self, name: str) -> Array:
        if name not in self._constants or name in self._inputs:
            raise NoSumError
        return self._constants[name]
