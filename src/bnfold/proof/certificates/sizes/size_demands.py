"""What the operators of a window ask of the sizes of its inputs."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import onnx

from bnfold.graph.sizes import ENDLESS
from bnfold.proof.certificates.sizes.size_functions import demands
from bnfold.proof.certificates.windows import POINTWISE, NotShown, Window, ints

_SPLITTING = frozenset({"Split", "SplitToSequence"})

_CUTTING = _SPLITTING | {"Gather", "Pad", "Slice"}
"""Operators that go by positions along an axis."""

_MOVING = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that may make another axis of the first."""

_MOST_CUTS = 16
"""Of a window, around which sizes are tried."""

_LARGEST_CUT = 4096
"""Free sizes go beyond the positions that a window cuts at, up to this one."""


def common_step(window: Window) -> int:
    """Return after how many sizes of an axis all rests have come that its strides may leave."""
    steps = {
        number
        for node in window.nodes()
        for name in ("blocksize", "steps", "strides")
        for number in ints(node, name)
    }
    for node in window.nodes():
        if node.op_type == "Slice":
            steps.update(_integers(window, node.input[4:]))
    return math.lcm(*map(abs, steps - {0}))


def rests_of_sizes(window: Window, strided: int) -> int:
    """Return after how many sizes all rests have come, of strides and of divisions of sizes.

    What a stride leaves is divided again, where sizes of what is computed are asked for.

    Raises:
        NotShown: if what is computed from sizes may do something else at any size.
    """
    found = demands(window)
    if found.asks_within:
        return strided * found.period
    return math.lcm(strided, found.period)


def compares_sizes(window: Window) -> bool:
    """Say whether it compares sizes with constants."""
    return demands(window).compared > 0


def require_one_comparison(window: Window, free: int) -> None:
    """Raise `NotShown` if it compares sizes more than once, and so many are free.

    What happens at two sizes together is not tried.
    """
    if demands(window).compared > 1 and free > 1:
        raise NotShown("it compares sizes more than once, and several are free")


def _integers(window: Window, names: Iterable[str]) -> Iterator[int]:
    """Yield the elements of those that are constants of integers."""
    for name in names:
        content = window.constants.get(name)
        if content is not None and content.dtype.kind in "iu":
            yield from content.reshape(-1).tolist()


def normalized_channels(window: Window, name: str) -> int:
    """Return how many channels a BatchNormalization of an input has; 0 without one."""
    for node in window.nodes():
        if node.op_type == "BatchNormalization" and node.input[0] == name:
            scale = window.constants.get(node.input[1])
            return scale.size if scale is not None else 0
    return 0


def readers_before(window: Window, name: str) -> Sequence[onnx.NodeProto]:
    """Return the operators of what is replaced that read a value."""
    if ("readers", 0) not in window.answers:
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in window.before.graph.node:
            for read in dict.fromkeys(node.input):
                found.setdefault(read, []).append(node)
        window.answers["readers", 0] = found
    readers: Mapping[str, Sequence[onnx.NodeProto]] = window.answers["readers", 0]
    return readers.get(name, ())


def ranks_beside(window: Window, node: onnx.NodeProto, name: str) -> list[int] | None:
    """Return the ranks of the constants that an operator of single elements reads beside a value.

    None if it is no such operator, or reads something else.
    """
    others = [window.constants.get(read) for read in node.input if read not in ("", name)]
    known = [content.ndim for content in others if content is not None]
    return known if node.op_type in POINTWISE and len(known) == len(others) else None


def rank_read(window: Window, name: str) -> int:
    """Return the number of axes of an input, if what is replaced can read no other one.

    A Conv, Gemm or Transpose that reads it says so, or what elementwise operators make of it.

    Raises:
        NotShown: if none does.
    """
    pending, seen = [(name, 0)], {name}
    while pending:
        value, least = pending.pop()
        for node in readers_before(window, value):
            rank = _rank_read(window, node)
            if rank > least:  # of fewer axes, constants may have made more
                return rank
            ranks = ranks_beside(window, node, value)
            if ranks is not None and node.output[0] not in seen:
                seen.add(node.output[0])
                pending.append((node.output[0], max([least, *ranks])))
    raise NotShown(f"the number of axes of {name!r} is not known")


def _rank_read(window: Window, node: onnx.NodeProto) -> int:
    """Return the number of axes that an operator asks of what it moves or weighs; 0 if none."""
    if node.op_type in ("Conv", "ConvTranspose"):
        weight = window.constants.get(node.input[1])
        return 0 if weight is None else weight.ndim
    if node.op_type == "Gemm":
        return 2
    return len(ints(node, "perm")) if node.op_type == "Transpose" else 0


def required_size(window: Window, name: str, axis: int, rank: int) -> int:
    """Return the size that a constant asks of an input that it meets; 0 if none does."""
    for node in window.nodes():
        for place, other in enumerate(node.input) if name in node.input else ():
            content = window.constants.get(other)
            if content is not None and content.ndim and other != name:
                is_first = node.input[0] == name
                if node.op_type in _SPLITTING:
                    if ints(node, "axis", [0])[0] % rank == axis:
                        return int(content.sum())
                    continue
                size = _asked(node, place, is_first, content.shape, axis - rank)
                if size > 1:
                    return size
    return 0


def _asked(
    node: onnx.NodeProto, place: int, is_first: bool, shape: Sequence[int], axis: int
) -> int:
    """Return the size that a constant asks of an axis, counted from the last; 0 if none.

    By its place among the operands, its shape, and whether the input is the first of them.
    """
    if node.op_type == "Conv" and is_first and len(shape) > 2:
        return shape[1] * ints(node, "group", [1])[0] if axis == 1 - len(shape) else 0
    if node.op_type == "ConvTranspose" and is_first and len(shape) > 2:
        return shape[0] if axis == 1 - len(shape) else 0
    if node.op_type == "Gemm" and is_first and len(shape) == 2:
        is_turned = ints(node, "transA", [0])[0]
        if place == 2:
            return shape[0] if axis == is_turned - 2 else 0
        is_asked = axis == -1 - is_turned
        return shape[ints(node, "transB", [0])[0]] if is_asked else 0
    if node.op_type == "MatMul" and len(shape) > 1:
        is_asked = axis == (-1 if is_first else -2)
        return shape[-2 if is_first else -1] if is_asked else 0
    if node.op_type in POINTWISE | {"Sum"} and node.op_type != "BatchNormalization":
        return shape[axis] if axis >= -len(shape) else 0
    return 0


def largest_cut(window: Window) -> int:
    """Return how far from the ends of an axis its operators cut, from both together.

    Raises:
        NotShown: if that is too far for a small example.
    """
    cuts = _cuts(window)
    largest = max([0, *cuts]) + max([0, *(-cut for cut in cuts)])
    if largest > _LARGEST_CUT:
        raise NotShown(f"it cuts at {largest} along an axis of a free size")
    return largest


def sizes_at_cuts(window: Window) -> set[int]:
    """Return the sizes at which a cut, or one of two together, is just beyond the end or before."""
    cuts = sorted({abs(cut) for cut in _cuts(window)})[:_MOST_CUTS]
    ends = {*cuts, *(one + sign * other for one in cuts for other in cuts for sign in (1, -1))}
    return {end + step for end in ends for step in (-1, 0, 1) if end + step > 0}


def _cuts(window: Window) -> set[int]:
    """Return the positions at which its operators cut an axis, from its end if below 0."""
    of_operators = {
        number
        for node in _cutting(window)
        for number in _positions(node, window)
        if abs(number) < ENDLESS
    }
    return of_operators | demands(window).cuts


def _cutting(window: Window) -> Iterator[onnx.NodeProto]:
    """Yield the operators that go by positions, but for those that pick out sizes."""
    for node in window.nodes():
        if node.op_type in _CUTTING and node.input[0] not in sizes_computed(window):
            yield node


def sizes_computed(window: Window) -> Container[str]:
    """Return the constants, and what is computed from sizes and constants alone."""
    question = "sizes computed", 0
    if question not in window.answers:
        found = set(window.constants)
        for node in window.nodes():
            if node.op_type == "Shape" or found.issuperset(filter(None, node.input)):
                found.update(node.output)
        window.answers[question] = found
    computed: set[str] = window.answers[question]
    return computed


def _positions(node: onnx.NodeProto, window: Window) -> Iterator[int]:
    """Yield the integers that an operator goes by, attributes and constants."""
    for attribute in node.attribute:
        yield from attribute.ints
    yield from _integers(window, node.input)


def cuts_first(window: Window) -> bool:
    """Say whether an operator may cut along the first axis."""
    if demands(window).cuts:
        return True
    cutting = list(_cutting(window))
    if cutting and window.operators & _MOVING:
        return True
    return any(_may_cut_first(node, window) for node in cutting)


def _may_cut_first(node: onnx.NodeProto, window: Window) -> bool:
    if node.op_type in _SPLITTING | {"Gather"}:
        return ints(node, "axis", [0])[0] <= 0
    if node.op_type == "Pad":
        return False
    named = window.constants.get(node.input[3]) if len(node.input) > 3 else None
    axes = ints(node, "axes") if named is None else named.reshape(-1).tolist()
    return not axes or min(axes) <= 0
