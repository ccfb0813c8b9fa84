"""Scales what is rearranged, instead of what comes of it.

    k·T(x) = T(k'·x)                        of a Reshape, Squeeze or Transpose T
    k·A(x), B(x) = A(k'·x), B(k'·x)         of parts A and B of x that share no element

k' is k at the elements that k scales, and 1 at all others, which changes no bit. So the scale of a
query that one product computes together with keys and values is a scale of some of its channels.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array
from bnfold.graph.schemas import NUMPY_BROADCASTING_SINCE, opsets_of
from bnfold.proof.certificates.submodels import Constants
from bnfold.proof.certificates.sums.linear_sums import Indices
from bnfold.proof.certificates.windows import Window, ints
from bnfold.proof.cutting import bodies

_PICKING = frozenset({"Gather", "Slice", "Split"})
_MOVING = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def with_scales_first(window: Window) -> Window:
    """Scale before what is rearranged; return the window itself if no part of it is scaled."""
    operators, versions = window.operators, [opsets_of(each).get("", 0) for each in window.models]
    if "Mul" not in operators or not operators & _PICKING:
        return window
    has_bodies = any(True for node in window.nodes() for _ in bodies(node))  # may read any value
    if min(versions) < NUMPY_BROADCASTING_SINCE or has_bodies:
        return window
    scaled = [_Scaling(model) for model in window.models]
    return Window(*(each.model for each in scaled)) if any(s.moved for s in scaled) else window


@dataclass(frozen=True)
class _Part:
    """What a node takes of a value along an axis; `drops` says whether the result lacks it."""

    axis: int
    indices: Indices
    drops: bool


class _Scaling:
    """A model whose Muls by constants stand as early as they may."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.moved = False
        """Whether any has passed what takes a part."""
        self._constants = Constants(model)
        self._outputs = {value.name for value in model.graph.output}
        described = (*model.graph.input, *model.graph.value_info, *model.graph.output)
        self._shapes = {
            value.name: _sizes(value)
            for value in described
            if value.type.tensor_type.HasField("shape")
        }
        self._uses = Counter(name for node in model.graph.node for name in node.input)
        self._made = {
            node.output[0] for node in model.graph.node if sum(map(bool, node.output)) == 1
        }
        """What nodes compute that compute nothing else."""
        self._parts: dict[str, dict[str, _Part]] = {}
        """Of values that nothing but disjoint parts are read of: these, by their results."""
        self._find_parts()
        self._factors: dict[str, Array] = {}
        """What values are to be multiplied by, of their rank, or single numbers."""
        nodes: list[onnx.NodeProto] = []
        for node in reversed(self.model.graph.node):
            nodes.extend(reversed([*self._in_place_of(node)]))
        del self.model.graph.node[:]
        self.model.graph.node.extend(reversed(nodes))

    def _find_parts(self) -> None:
        for node in self.model.graph.node:
            if node.op_type in _PICKING:
                for name, part in self._parts_of(node):
                    self._parts.setdefault(node.input[0], {})[name] = part
        for value, parts in list(self._parts.items()):
            taken = np.concatenate([part.indices for part in parts.values()])
            readers = [node for node in self.model.graph.node if value in node.input]
            is_whole = all(set(node.output) <= parts.keys() for node in readers)
            is_one_axis = len({part.axis for part in parts.values()}) == 1
            is_disjoint = len(np.unique(taken)) == len(taken)
            may_be_scaled = value in self._made and value not in self._outputs
            if not (is_whole and is_one_axis and is_disjoint and may_be_scaled):
                del self._parts[value]
        self._made.update(name for parts in self._parts.values() for name in parts)

    def _in_place_of(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """Yield what computes the results of a node times what they are to be multiplied by."""
        source = node.input[0] if node.input else ""
        if source in self._parts:
            self._combine(source, node)
            yield node
            return
        result = node.output[0] if node.output else ""
        factor = self._factors.pop(result, None)
        if factor is None:
            factor, data = self._scale(node)
            if factor is None or not self._may_pass(data):
                yield node
            else:
                self._factors[data] = factor
                yield onnx.helper.make_node("Identity", [data], [result])
            return
        earlier = self._before(node, factor) if self._may_pass(source) else None
        if earlier is not None:
            self._factors[source] = earlier
            yield node
            return
        plain, constant = f"{result} unscaled", f"scale of {result}"
        node.output[0] = plain
        tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(factor), constant)
        self.model.graph.initializer.append(tensor)
        yield node
        yield onnx.helper.make_node("Mul", [plain, constant], [result])

    def _may_pass(self, name: str) -> bool:
        """Say whether a value may be scaled: nothing reads it but one node, or disjoint parts."""
        is_read_once = self._uses[name] == 1 or name in self._parts
        return name in self._made and name not in self._outputs and is_read_once

    # --- Scales -----------------------------------------------------------------------------------

    def _scale(self, node: onnx.NodeProto) -> tuple[Array | None, str]:
        """Return the constant that a Mul multiplies by, if it spreads nothing; and the other."""
        if node.op_type != "Mul":
            return None, ""
        for constant, data in itertools.permutations(node.input):
            if constant not in self._constants or data in self._constants:
                continue
            factor, sizes = self._constants[constant], self._shapes.get(data)
            if factor.ndim == 0:
                return factor, data
            if sizes is None or factor.ndim > len(sizes):
                continue
            factor = factor.reshape((1,) * (len(sizes) - factor.ndim) + factor.shape)
            if all(own in (1, size) for own, size in zip(factor.shape, sizes, strict=True)):
                return factor, data
        return None, ""

    def _combine(self, value: str, node: onnx.NodeProto) -> None:
        """Note what a value is to be multiplied by for its parts to be scaled as they are to be."""
        factor = self._factors.get(value)
        for name in node.output:
            own = self._factors.pop(name, None)
            if own is None:
                continue
            self.moved = True
            part = self._parts[value][name]
            sizes = self._shapes[value]
            whole = np.ones((), own.dtype) if factor is None else factor
            factor = _within(whole, own, part, len(sizes), sizes[part.axis])
        if factor is not None:
            self._factors[value] = factor

    def _before(self, node: onnx.NodeProto, factor: Array) -> Array | None:
        """Return what a node's operand is to be multiplied by, for its result to be; or None."""
        source, result = node.input[0], node.output[0]
        if node.op_type not in _MOVING:
            return None
        if factor.size == 1:
            return factor.reshape(())
        if node.op_type == "Identity":
            return factor
        if node.op_type == "Transpose":
            order = ints(node, "perm") or [*range(factor.ndim)][::-1]
            return np.transpose(factor, np.argsort(order)) if len(order) == factor.ndim else None
        one, other = self._shapes.get(source), self._shapes.get(result)
        if one is None or other is None or len(other) != factor.ndim:
            return None
        return _reshaped(factor, one, other)

    # --- Parts ------------------------------------------------------------------------------------

    def _parts_of(self, node: onnx.NodeProto) -> Iterator[tuple[str, _Part]]:
        """Yield what each result of a node takes of its operand, as far as it is known."""
        sizes = self._shapes.get(node.input[0])
        if sizes is None:
            return
        if node.op_type == "Slice":
            starts, ends, axes, steps = (
                self._numbers(node, place, name)
                for place, name in enumerate(("starts", "ends", "axes", "steps"), 1)
            )
            if starts is None or ends is None or axes is None or len(axes) != 1:
                return
            (axis,), step = axes, (steps or [1])[0]
        else:
            (axis,), step = ints(node, "axis", [0]), 1
        size = sizes[axis] if -len(sizes) <= axis < len(sizes) else None
        if not isinstance(size, int) or not step:
            return
        axis, every = axis % len(sizes), np.arange(size)
        if node.op_type == "Slice":
            assert starts is not None
            assert ends is not None
            yield node.output[0], _Part(axis, every[starts[0] : ends[0] : step], drops=False)
        elif node.op_type == "Gather":
            indices = self._constants.get(node.input[1])
            if indices is not None and indices.ndim < 2:
                is_within = (indices >= -size).all() and (indices < size).all()
                if is_within:
                    taken = np.atleast_1d(every[indices])
                    yield node.output[0], _Part(axis, taken, drops=indices.ndim == 0)
        else:
            parts = self._numbers(node, 1, "split")
            count = len(node.output)
            if parts is None and not size % count:
                parts = [size // count] * count
            if parts is not None and sum(parts) == size and len(parts) == count:
                for name, taken in zip(
                    node.output, np.split(every, np.cumsum(parts)[:-1]), strict=True
                ):
                    yield name, _Part(axis, taken, drops=False)

    def _numbers(self, node: onnx.NodeProto, place: int, name: str) -> list[int] | None:
        """Return integers that an operator reads, or has as an attribute; None if not known."""
        if len(node.input) > place and node.input[place]:
            content = self._constants.get(node.input[place])
            return None if content is None else [int(each) for each in content.reshape(-1)]
        return ints(node, name) or None


def _sizes(value: onnx.ValueInfoProto) -> list[int | None]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def _within(whole: Array, own: Array, part: _Part, rank: int, size: int | None) -> Array:
    """Return a factor with that of a part in its place."""
    assert isinstance(size, int)
    if own.ndim and part.drops:
        own = np.expand_dims(own, part.axis)
    own = own.reshape(own.shape or (1,) * rank)
    whole = whole.reshape(whole.shape or (1,) * rank)
    shape = list(np.broadcast_shapes(whole.shape[: part.axis], own.shape[: part.axis]))
    rest = np.broadcast_shapes(whole.shape[part.axis + 1 :], own.shape[part.axis + 1 :])
    shape += [size, *rest]
    result = np.broadcast_to(whole, shape).copy()
    np.moveaxis(result, part.axis, 0)[part.indices] = np.moveaxis(
        np.broadcast_to(own, [*shape[: part.axis], len(part.indices), *rest]), part.axis, 0
    )
    return result


def _reshaped(
    factor: Array, one: Sequence[int | None], other: Sequence[int | None]
) -> Array | None:
    """Return a factor of shape `other` as one of the shape that was reshaped to it.

    It varies along some axes in a row alone; elements of these must be those of some axes there.
    """
    varying = [axis for axis, size in enumerate(factor.shape) if size != 1]
    for start, end in _ranges(len(other), varying[0], varying[-1]):
        group = _known(other[start:end])
        for first, last in itertools.combinations(range(len(one) + 1), 2):
            its = _known(one[first:last])
            if group is None or its is None or math.prod(group) != math.prod(its):
                continue
            if _is_same(one[:first], other[:start]) or _is_same(one[last:], other[end:]):
                spread = np.broadcast_to(factor.reshape(factor.shape[start:end]), group)
                return spread.reshape((*[1] * first, *its, *[1] * (len(one) - last)))
    return None


def _ranges(rank: int, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of axes with these two in them, short ones first."""
    every = [(start, end) for start in range(first + 1) for end in range(last + 1, rank + 1)]
    yield from sorted(every, key=lambda each: each[1] - each[0])


def _known(sizes: Sequence[int | None]) -> list[int] | None:
    """Return sizes if all of them are known."""
    known = [size for size in sizes if size is not None]
    return known if len(known) == len(sizes) else None


def _is_same(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Say whether it is known that these sizes make the same number of elements."""
    known = _known(one), _known(other)
    return None not in known and math.prod(known[0] or []) == math.prod(known[1] or [])
