"""Fold upsampling into the Conv that reads it: a few small Convs on the small map.

    Conv(Upsample(x; s); W)[s·i + a] = Conv(x; W_a)[i]        0 ≤ a < s along each axis
    W_a[t] = Σ W[j] over all j with ⌊(a + d·j − p)/s⌋ = t

because Upsample repeats each element, so that its position v is x[⌊v/s⌋], also beyond the border,
where both are zero. The taps of W that read copies of one element add up: of a 3×3 kernel after
s = 2, each phase a has 2×2 left, 16 multiplications instead of 36. An activation of the result
that onnxruntime fuses into a Conv is applied to each phase.

Conditions: the Resize is nearest and repeats each element of the spatial axes a whole number of
times, also to sizes that are computed as multiples of its input's (up to 2²⁴); nothing else reads
its result; weights are constant; along the axes that grow, the Conv has stride 1 and a result that
the factor divides; and no affine map that folds into the Conv reads it.

Profit: each element of the result takes at least 240 multiplications less. To interleave the phases
takes as long as about 200: measured for s = 2 and 3×3 kernels, the Conv is 1.1 to 1.4 times as fast
with 48 or 64 channels of x, 1.6 to 1.8 times with 128 or 256, but 0.8 to 1.0 times with 32. No more
than 16 phases, as for s = 4: weights and operators grow with their number. On CUDA, where so many
operators take longer than they save, decoders were 0.44 to 0.55 times as fast: left out there.

ROUNDED: equal in the reals. The sums are computed in float64 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from bnfold.algebra.affine_maps.affine import AFFINE_OPERATORS, affine_map
from bnfold.algebra.fusions import fused_by_runtime
from bnfold.algebra.spatial.convolution import Convolution
from bnfold.algebra.spatial.operators import convolution_of
from bnfold.algebra.spatial.phases import interleaved, phase_ops, phases
from bnfold.algebra.spatial.repetition import NOT_REPEATED, repeats
from bnfold.algebra.weights import NotStorable, folded_name, stored
from bnfold.rewriting.contract import (
    Common,
    Exactness,
    Op,
    Operand,
    Refusal,
    Refused,
    Replace,
    require,
    rewrite,
    same_op,
)
from bnfold.rewriting.query import (
    int_attribute,
    is_op,
    producer,
    rank_of,
    shape_of,
    size_of,
    sole_use,
)


class Why(Refusal):
    """Reasons to leave upsampling before a Conv."""

    AFFINE_NEXT = "an affine map reads the Conv's result, and folds into the Conv first"
    GROUPED_INPUT = "the Conv reads the upsampled channels in groups with others"
    STRIDED = "the Conv skips positions of the larger map"
    UNEVEN = "the factor does not divide the size of the Conv's result"


_LEAST_SAVED = 240
"""Multiplications that each element of the result must take less."""

_MOST_PHASES = 16


@rewrite(
    "fold-upsampling",
    roots=["Conv"],
    exactness=Exactness.ROUNDED,
    slower_on=["cuda"],
    refusals=[
        *Why,
        *NOT_REPEATED,
        *NotStorable,
        Common.NO_GAIN,
        Common.PADDED_BY_SIZE,
        Common.SHARED,
        Common.WEIGHT_NOT_CONSTANT,
        Common.WEIGHT_OVERRIDABLE,
    ],
)
def fold_upsampling(conv: ir.Node) -> Replace | None:
    """Replace ``Conv ∘ Resize`` by a Conv for each phase, where it is exact and pays off."""
    resize = producer(conv, 0, "Resize", "Upsample")
    if resize is not None:
        return _alone(conv, resize)
    concat = producer(conv, 0, "Concat")
    operands = range(len(concat.inputs)) if concat is not None else ()
    if concat is None or not any(_upsampling(concat, index) for index in operands):
        return None
    return _beside_others(conv, concat)


def _alone(conv: ir.Node, resize: ir.Node) -> Replace | None:
    """Fold upsampling that a Conv reads alone."""
    convolution = convolution_of(conv)
    if convolution.is_pointwise:
        return None
    factors = repeats(resize)[2:]
    parts = _phases(conv, convolution, resize, factors)
    data, activation = resize.inputs[0], _activation(conv)
    assert data is not None
    last = conv if activation is None else activation
    result = last.outputs[0]
    ops = phase_ops(parts, data, conv, factors, result, named=True)
    if activation is not None:
        ops = [_applied(activation, op, like=op.like and activation) for op in ops]
    nodes = [resize, *dict.fromkeys([conv, last])]
    detail = f"{resize.op_type} into {len(parts)} Convs"
    return Replace(nodes, {result: interleaved(ops, factors, result)}, detail)


def _beside_others(conv: ir.Node, concat: ir.Node) -> Replace | None:
    """Fold upsampling that a Conv reads as some of its channels: split these off first."""
    result, rank = conv.outputs[0], rank_of(concat.outputs[0])
    convolution = convolution_of(conv)
    if rank is None or int_attribute(concat, "axis", 1) % rank != 1 or convolution.is_pointwise:
        return None
    require(convolution.groups == 1, Why.GROUPED_INPUT, conv)
    require(sole_use(concat.outputs[0]), Common.SHARED, concat)
    places = range(len(concat.inputs))
    at, resize = next((i, r) for i in places if (r := _upsampling(concat, i)) is not None)
    factors = repeats(resize)[2:]
    sizes = [size_of(value, 1) for value in concat.inputs]
    start = sum(_known(size, concat) for size in sizes[:at])
    own = slice(start, start + _known(sizes[at], concat))
    alone = replace(
        convolution, kernel=convolution.kernel[:, own], bias=np.zeros_like(convolution.bias)
    )
    parts = _phases(conv, alone, resize, factors)
    data = resize.inputs[0]
    assert data is not None
    upsampled = interleaved(
        phase_ops(parts, data, conv, factors, result, named=False), factors, result
    )
    kernel = np.delete(convolution.kernel, own, axis=1)
    weight = stored(kernel, convolution.dtype, folded_name(conv, 1), conv)
    others: list[Operand] = [value for value in concat.inputs if value is not resize.outputs[0]]
    rest = others[0] if len(others) == 1 else same_op(concat, others, type_of=concat.outputs[0])
    skipped = same_op(
        conv, [rest, weight, *conv.inputs[2:]], shape=shape_of(result), type_of=result
    )
    detail = f"{resize.op_type} into {len(parts)} Convs, beside {len(others)} other values"
    return Replace([resize, concat, conv], {result: Op("Add", [skipped, upsampled])}, detail)


def _upsampling(node: ir.Node, index: int) -> ir.Node | None:
    return producer(node, index, "Resize", "Upsample")


def _known(size: int | None, subject: ir.Node) -> int:
    if size is None:
        raise Refused(Common.SHAPE_UNKNOWN, subject)
    return size


def _phases(
    conv: ir.Node, convolution: Convolution, resize: ir.Node, factors: Sequence[int]
) -> list[Convolution]:
    """Return the Conv of each phase, if all is as it must be."""
    require(sole_use(resize.outputs[0]), Common.SHARED, resize)
    is_dense = all(s == 1 or f == 1 for s, f in zip(convolution.strides, factors, strict=True))
    require(is_dense, Why.STRIDED, conv)
    require(math.prod(factors) <= _MOST_PHASES, Common.NO_GAIN, conv)
    parts = phases(convolution, factors)
    if not parts:
        raise Refused(Why.UNEVEN, conv)
    before = convolution.kernel[0].size
    after = sum(part.kernel[0].size for part in parts) / len(parts)
    sizes = shape_of(conv.outputs[0])
    is_empty = sizes is not None and 0 in sizes.dims
    require(before - after >= _LEAST_SAVED and not is_empty, Common.NO_GAIN, conv)
    reader = next(iter(conv.outputs[0].consumers()), None)
    folds = reader is not None and sole_use(conv.outputs[0]) and _folds(reader)
    require(not folds, Why.AFFINE_NEXT, reader)
    return parts


def _folds(node: ir.Node) -> bool:
    """Say whether a node is an affine map, which another pass folds into the Conv before it."""
    if not is_op(node, *AFFINE_OPERATORS):
        return False
    try:
        affine_map(node)
    except Refused:
        return False
    return True


def _activation(conv: ir.Node) -> ir.Node | None:
    """Return the activation that onnxruntime fuses into the Conv, if nothing else reads it."""
    readers = conv.outputs[0].consumers()
    is_fused = sole_use(conv.outputs[0]) and fused_by_runtime(readers[0])
    return readers[0] if is_fused and readers[0].inputs[0] is conv.outputs[0] else None


def _applied(activation: ir.Node, op: Op, like: ir.Node | None) -> Op:
    attributes = tuple(activation.attributes.values())
    inputs = [op, *activation.inputs[1:]]
    return Op(activation.op_type, inputs, attributes, like, op.shape, op.type_of)
