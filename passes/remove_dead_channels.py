"""Remove channels that are constant, or that nothing reads.

    W∗[f(x); f(c)] + b = W₁∗f(x) + (b + Σ W₂·f(c))      c: a filter without weights is its bias
    W∗[f(x); f(z)] + b = W₁∗f(x) + b                    where W₂ = 0, whatever z is

A channel starts in a filter of a Conv, ConvTranspose, Gemm or MatMul, and passes operators that
work on each channel by itself: activations, pools, depthwise Convs, BatchNormalization, sums and
products of values with the same channels (as in squeeze-and-excitation), Concat, Resize, Pad,
Flatten. A filter whose weights are all zero makes a constant; so does a filter of a depthwise Conv,
however its input varies. All that the channel passes loses it: a filter of each operator where it
starts, and a column of weights of each that reads it, whose bias takes the constant over.

Conditions: every operator that reads the channel has weights of zero for it, or reads a constant;
that constant is zero, or the operator does not pad, because padding is zeros, not c; each operator
where it starts can lose a filter, so it has no groups; and nothing counts or mixes the channels.
Data is finite: an infinity in a channel that is only read with weight zero would become NaN.
Subnormal weights count as zero, except those of float16.

Profit: all that is computed for these channels, in the operators that compute them and in those
that read them. onnxruntime computes Convs in a layout of blocks of 8 or 16 channels, and falls back
on another one unless their number is a multiple of 4. Measured with 48 to 64 channels (AVX-512, one
thread): with 61, a depthwise Conv between two pointwise ones takes 1.2 to 1.6 times as long as with
64, and 3×3 Convs 1.1 to 1.25 times; with 52, 56 and 60 channels all take as long as with 64, and
with 48 less. So of a Conv's channels, if their number is a multiple of 4, a multiple of 8 stays.

ROUNDED: equal in the reals. The sums are computed in float64 and rounded once.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnfold.algebra.channel_removal.channelwise import own_constants
from bnfold.algebra.channel_removal.lanes import Lanes, Numbers
from bnfold.algebra.channel_removal.narrowing import LINEAR_OPERATORS, Linear, Mask
from bnfold.algebra.channel_removal.spare_lanes import NOT_LEFT_OUT, SpareLanes
from bnfold.algebra.weights import NotStorable
from bnfold.graph.memory import memory
from bnfold.rewriting.contract import Common, Exactness, Refusal, Refused, Replace, require, rewrite
from bnfold.rewriting.query import is_op


class Why(Refusal):
    """Reasons to keep constant channels."""

    ONLY_CHANNEL = "a value would have no channel left"


_BLOCK = 8


@rewrite(
    "remove-dead-channels",
    roots=LINEAR_OPERATORS,
    exactness=Exactness.ROUNDED,
    refusals=[*Why, *NOT_LEFT_OUT, *NotStorable, Common.NO_GAIN],
)
def remove_dead_channels(root: ir.Node) -> Replace | None:
    """Remove what can go with the constant filters of the root, or with what the root ignores."""
    linear = Linear.of(root)
    constants = linear.constants() if linear is not None else own_constants(root)
    if constants is None:
        return None
    dead = np.isfinite(constants)
    after = before = None
    if dead.any():
        require(dead.size > 1, Why.ONLY_CHANNEL)
        after = _spare(root.outputs[0], linear.axis if linear is not None else 1, dead.size)
    if linear is not None and root.inputs[0] is not None and linear.ignored().any():
        before = _spare(root.inputs[0], linear.axis, linear.inputs)
    for found in (after, before):
        replacement = _without(*found) if found is not None else None
        if replacement is not None:
            return replacement
    if after is not None:
        spare, _ = after
        raise _refused(spare, spare.lanes.numbers[root.outputs[0]][dead])
    return None


def _spare(value: ir.Value, axis: int, channels: int) -> tuple[SpareLanes, Mask]:
    """Return the lanes of a value, and which stay.

    If none can go, they are remembered for all values that they pass.
    """
    known: dict[ir.Value, tuple[SpareLanes, Mask]] = memory().answers("lanes that stay")
    if value in known:
        return known[value]
    spare = SpareLanes(Lanes(value, axis, channels))
    kept = _kept(spare)
    if kept.all():
        known.update(dict.fromkeys(spare.lanes.numbers, (spare, kept)))
    return spare, kept


def _without(spare: SpareLanes, kept: Mask) -> Replace | None:
    """Return the replacement without the lanes that can go, if there are any."""
    gone = int((~kept).sum())
    nodes, outputs = spare.narrowed(kept) if gone else ([], {})
    return Replace(nodes, outputs, f"{gone} of {kept.size} channels") if outputs else None


def _kept(spare: SpareLanes) -> Mask:
    """Return the lanes that must stay, and more to make whole blocks in the Convs."""
    kept = spare.required.copy()
    numbers = [
        lanes
        for value, lanes in spare.lanes.numbers.items()
        if is_op(value.producer(), "Conv") and lanes.size % 4 == 0
    ]
    grows = True
    while grows:
        grows = False
        for lanes in numbers:
            missing = -int(kept[lanes].sum()) % _BLOCK
            if missing:
                spares = lanes[~kept[lanes]][:missing]
                kept[spares] = True
                grows |= spares.size > 0
    return kept


def _refused(spare: SpareLanes, dead: Numbers) -> Refused:
    """Return why lanes that are constant stay."""
    for kept in spare.kept:
        if np.isin(kept.lanes, dead).any():
            return Refused(kept.reason, kept.subject)
    return Refused(Why.ONLY_CHANNEL if spare.required[dead].all() else Common.NO_GAIN)
