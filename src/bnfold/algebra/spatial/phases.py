"""The kernels of a Conv after upsampling: one on the small map for each phase of the large one.

Upsampling by s repeats each element, so position v of the large map is x[⌊v/s⌋]. Result q = s·i + a
of a Conv with stride 1 reads, with tap j, position q + d·j − p, and so

    x[⌊(s·i + a + d·j − p)/s⌋] = x[i + t],    t = ⌊(a + d·j − p)/s⌋

which lies outside x where the other lies outside the large map. Phase a is a Conv of x whose tap t
is the sum of all taps j that read there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bnfold.algebra.spatial.convolution import Convolution
from bnfold.algebra.weights import folded_name, stored
from bnfold.arrays import FloatArray
from bnfold.rewriting.contract import Op, Operand, Weight
from bnfold.rewriting.query import rank_of, shape_of


@dataclass(frozen=True)
class _Taps:
    """Where the taps of a kernel lie along an axis of the small map, relative to the result."""

    places: tuple[int, ...]
    step: int
    """The largest number that divides the distances of all."""
    after: int
    """The padding at the end."""

    @property
    def count(self) -> int:
        """The length of the kernel that holds them."""
        return (max(self.places) - min(self.places)) // self.step + 1

    @property
    def indices(self) -> list[int]:
        """Their indices in this kernel."""
        return [(place - min(self.places)) // self.step for place in self.places]


def phases(convolution: Convolution, factors: Sequence[int]) -> list[Convolution] | None:
    """Return the Convs on the small map, in the order of their phases, the last axis fastest.

    None if the phases have results of different sizes. Strides along axes that grow must be 1, and
    the padding not negative.
    """
    along = [_along(convolution, axis, factor) for axis, factor in enumerate(factors)]
    if not all(along):
        return None
    return [_phase(convolution, taps) for taps in itertools.product(*along)]


def _along(convolution: Convolution, axis: int, factor: int) -> list[_Taps]:
    """Return the taps of each phase along an axis; none if their results differ in size."""
    dilation = convolution.dilations[axis]
    before, after = convolution.before[axis], convolution.after[axis]
    places = [dilation * tap - before for tap in range(convolution.size[axis])]
    if (before + after - dilation * (convolution.size[axis] - 1)) % factor:
        return []
    taps = []
    for phase in range(factor):
        floors = tuple((phase + place) // factor for place in places)
        step = math.gcd(*(place - floors[0] for place in floors)) or 1
        taps.append(_Taps(floors, step, (phase + after) // factor))
    return taps


def _phase(convolution: Convolution, taps: Sequence[_Taps]) -> Convolution:
    """Return the Conv whose taps are the sums of those that read the same position."""
    kernel: FloatArray = np.zeros((*convolution.kernel.shape[:2], *(each.count for each in taps)))
    every = (slice(None), slice(None))
    for source in np.ndindex(*convolution.size):
        place = tuple(each.indices[index] for each, index in zip(taps, source, strict=True))
        kernel[(*every, *place)] += convolution.kernel[(*every, *source)]
    return replace(
        convolution,
        kernel=kernel,
        dilations=tuple(each.step for each in taps),
        before=tuple(-min(each.places) for each in taps),
        after=tuple(each.after for each in taps),
    )


def phase_ops(
    convolutions: Sequence[Convolution],
    data: ir.Value,
    conv: ir.Node,
    factors: Sequence[int],
    result: ir.Value,
    *,
    named: bool,
) -> list[Op]:
    """Return the phases of `result`, as Convs of `data`.

    If `named`, the first of them has the name and metadata of `conv`: names must be unique.

    Raises:
        Refused: with a reason from `NotStorable`.
    """
    first = convolutions[0]
    name = folded_name(conv, 2)
    bias = stored(first.bias, first.dtype, name, conv) if first.bias.any() else None
    shape = _shape_of_part(factors, result)
    ops: list[Op] = []
    for convolution in convolutions:
        attributes = [
            ir.AttrInt64s("kernel_shape", convolution.size),
            ir.AttrInt64s("strides", convolution.strides),
            ir.AttrInt64s("dilations", convolution.dilations),
            ir.AttrInt64s("pads", (*convolution.before, *convolution.after)),
            ir.AttrInt64("group", convolution.groups),
        ]
        kernel = stored(convolution.kernel, first.dtype, folded_name(conv, 1), conv, channel_axis=0)
        inputs: list[Operand] = [data, kernel] if bias is None else [data, kernel, bias]
        like = conv if named and not ops else None
        ops.append(Op("Conv", inputs, attributes, like, shape, result))
    return ops


def _shape_of_part(factors: Sequence[int], result: ir.Value) -> ir.Shape:
    shape = shape_of(result)
    sizes = list(shape) if shape is not None else [None] * (len(factors) + 2)
    divisors = (1, 1, *factors)
    return ir.Shape(
        [
            size // divisor if isinstance(size, int) else None
            for size, divisor in zip(sizes, divisors, strict=True)
        ]
    )


def interleaved(parts: Sequence[Op], factors: Sequence[int], result: ir.Value) -> Op:
    """Return the map of which these are the phases, the last axis fastest.

    `result` has its shape. Along an axis that is not the last, a Concat along the next one does it,
    since the rows of the phases then follow each other in memory. Along the last, every element is
    moved between those of other phases, as the transpose of one large matrix: onnxruntime does that
    several times faster than a DepthToSpace, and with all of its threads.
    """
    joined, run = list(parts), factors[-1]
    for axis in reversed(range(len(factors) - 1)):
        length = run * factors[axis]
        if length > run:
            starts = [
                block + start for block in range(0, len(joined), length) for start in range(run)
            ]
            joined = [_concat(joined[at : at + length : run], axis + 3, result) for at in starts]
    whole = joined[0]
    if factors[-1] > 1:
        count, rest = factors[-1], ir.Shape([factors[-1], None])
        rows = Op("Concat", joined, [ir.AttrInt64("axis", 0)], type_of=result)
        flat = Op(
            "Reshape", [rows, Weight.of_integers([count, -1], "shape")], shape=rest, type_of=result
        )
        turned = [ir.AttrInt64s("perm", [1, 0])]
        whole = Op("Transpose", [flat], turned, shape=ir.Shape([None, count]), type_of=result)
    return Op(
        "Reshape",
        [whole, _target(parts[0], factors, result)],
        shape=shape_of(result),
        type_of=result,
    )


def _concat(maps: Sequence[Op], axis: int, result: ir.Value) -> Op:
    shape = ir.Shape([None] * (rank_of(result) or 0))
    return Op("Concat", list(maps), [ir.AttrInt64("axis", axis)], shape=shape, type_of=result)


def _target(part: Op, factors: Sequence[int], result: ir.Value) -> Operand:
    """Return the shape of the whole: a constant, if at most one size is not known."""
    shape = shape_of(result)
    sizes = [size if isinstance(size, int) else -1 for size in shape] if shape is not None else []
    if sizes and sizes.count(-1) <= 1:
        return Weight.of_integers(sizes, "shape")
    counts = ir.Value(type=ir.TensorType(ir.DataType.INT64))
    own = Op("Shape", [part], shape=ir.Shape([len(factors) + 2]), type_of=counts)
    return Op(
        "Mul", [own, Weight.of_integers([1, 1, *factors], "shape")], shape=own.shape, type_of=counts
    )
