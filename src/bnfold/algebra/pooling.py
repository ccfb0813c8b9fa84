"""The geometry of pools: which input positions a window covers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from bnfold.algebra.padding import padding_of
from bnfold.graph.memory import memory
from bnfold.rewriting.query import (
    int_attribute,
    ints_attribute,
    is_op,
    is_used,
    rank_of,
    size_of,
    string_attribute,
)


@dataclass(frozen=True)
class Pool:
    """The attributes of a MaxPool or AveragePool, defaults filled in, one entry per axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    """(before, after) per axis."""
    auto_pad: str
    """SAME_UPPER or SAME_LOWER where the padding is not known, so that `pads` are zero."""
    ceil_mode: bool

    @staticmethod
    def of(node: ir.Node) -> Pool:
        """Read the attributes of a MaxPool or AveragePool node."""
        kernel = ints_attribute(node, "kernel_shape")
        ones = [1] * len(kernel)
        strides, dilations = (ints_attribute(node, name, ones) for name in ("strides", "dilations"))
        auto_pad = string_attribute(node, "auto_pad", "NOTSET")
        pads = padding_of(node, kernel, strides, dilations)
        return Pool(
            kernel=kernel,
            strides=strides,
            dilations=dilations,
            pads=((0, 0),) * len(kernel) if pads is None else pads,
            auto_pad=auto_pad if pads is None else "NOTSET",
            ceil_mode=int_attribute(node, "ceil_mode", 0) != 0,
        )

    @property
    def spatial_rank(self) -> int:
        """The number of axes that the windows span: the last ones of the input."""
        return len(self.kernel)

    @property
    def may_pad(self) -> bool:
        """Whether a window may reach over the border of the input."""
        return any(map(any, self.pads)) or self.ceil_mode or self.auto_pad != "NOTSET"

    def after(self, first: Pool) -> Pool | None:
        """Return the MaxPool that computes this one's result from that of `first`.

        None if there is none, or `first` is not smaller.
        """
        mine, others = self._unrounded_pads(), first._unrounded_pads()
        steps_or_gaps = [*first.strides, *first.dilations, *self.dilations]
        if mine is None or others is None or any(length != 1 for length in steps_or_gaps):
            return None
        if self.kernel == first.kernel or len(self.kernel) != len(first.kernel):
            return None
        kernel = tuple(k - q + 1 for k, q in zip(self.kernel, first.kernel, strict=True))
        pads = tuple((m[0] - o[0], m[1] - o[1]) for m, o in zip(mine, others, strict=True))
        for size, widths in ((self.kernel, mine), (first.kernel, others), (kernel, pads)):
            if not all(
                0 <= width < k for k, pair in zip(size, widths, strict=True) for width in pair
            ):
                return None
        return Pool(kernel, self.strides, self.dilations, pads, "NOTSET", ceil_mode=False)

    def _unrounded_pads(self) -> tuple[tuple[int, int], ...] | None:
        """Return the padding; None if it, or the number of windows, depends on the input size."""
        if self.ceil_mode or self.auto_pad != "NOTSET":
            return None
        return self.pads

    def ends_with(self, data: ir.Value) -> bool:
        """Say whether the last windows are known to end where the padded data end."""
        sizes = [size_of(data, axis + 2) for axis in range(self.spatial_rank)]
        return all(
            stride == 1
            or (size is not None and (size + sum(pads) - dilation * (kernel - 1) - 1) % stride == 0)
            for size, kernel, stride, dilation, pads in zip(
                sizes, self.kernel, self.strides, self.dilations, self.pads, strict=True
            )
        )

    def every_window_is_real(self, data: ir.Value) -> bool:
        """Say whether each window is known to cover an element of `data`, not only padding."""
        sizes: list[int | None] = [None] * self.spatial_rank
        if rank_of(data) == self.spatial_rank + 2:
            sizes = [size_of(data, axis + 2) for axis in range(self.spatial_rank)]
        return all(self._real_along(axis, size) for axis, size in enumerate(sizes))

    def _real_along(self, axis: int, size: int | None) -> bool:
        kernel, stride, dilation = self.kernel[axis], self.strides[axis], self.dilations[axis]
        reach = dilation * (kernel - 1)
        if self.auto_pad != "NOTSET":
            # SAME pads less than one dilated kernel in all, so a window without gaps overlaps the
            # input; with gaps it may straddle a small one.
            return dilation == 1
        before, after = self.pads[axis]
        if size is None:
            return self._real_for_any_size(kernel, stride, dilation, before, after)
        last = size + before + after - reach - 1
        if last < 0:
            return False  # no window fits, and runtimes do not agree on what that means
        count = (-(-last // stride) if self.ceil_mode else last // stride) + 1
        if (count - 1) * stride - before >= size:
            return False  # the last window starts after the input
        if -(-before // dilation) > kernel - 1:
            return False  # the first window ends before the input
        # Between them, windows that start before the input may straddle it: their first tap that
        # is not before it lies at (start mod dilation).
        early = min(count, -(-before // stride))
        return reached(early, stride, -before, dilation, size) == 0

    def _real_for_any_size(
        self, kernel: int, stride: int, dilation: int, before: int, after: int
    ) -> bool:
        """Decide without the size: the last window starts at most at size + after − kernel.

        With `ceil_mode` it may start up to stride − 1 later. A window with gaps is safe only
        without padding.
        """
        if dilation > 1:
            return before == after == 0 and not self.ceil_mode
        overhang = after + (stride if self.ceil_mode else 0)
        return before < kernel and (overhang <= kernel if self.ceil_mode else overhang < kernel)


def reached(count: int, step: int, start: int, modulus: int, least: int) -> int:
    """Count the i in [0, count) with ``(start + i·step) mod modulus >= least``; least >= 0."""
    if least >= modulus or count <= 0:
        return 0
    step, start = step % modulus, start % modulus
    above = _sum_of_quotients(count, modulus, step, start + modulus - least)
    return above - _sum_of_quotients(count, modulus, step, start)


def _sum_of_quotients(count: int, divisor: int, step: int, start: int) -> int:
    """Return Σ ⌊(start + i·step) / divisor⌋ over i in [0, count), as Euclid computes a gcd.

    It counts the lattice points under a line. Exchanging the axes makes the line flatter.
    """
    total = 0
    while True:
        total += count * (count - 1) // 2 * (step // divisor) + count * (start // divisor)
        step, start = step % divisor, start % divisor
        end = start + count * step
        if end < divisor:
            return total
        (count, start), divisor, step = divmod(end, divisor), step, divisor


def next_smaller_pool(node: ir.Node) -> ir.Node | None:
    """Return the largest MaxPool of the same value and graph that `node` can be computed from."""
    pool, (family, place) = _pool(node), _family(node)
    smaller = (other for other in reversed(family[:place]) if _is_sibling(other, node))
    return next((other for other in smaller if pool.after(_pool(other)) is not None), None)


def feeds_larger_pool(node: ir.Node) -> bool:
    """Say whether a larger MaxPool of the same value can be computed from `node`."""
    pool, (family, place) = _pool(node), _family(node)
    return any(
        _pool(other).after(pool) is not None and not any(map(is_used, other.outputs[1:]))
        for other in family[place + 1 :]
        if _is_sibling(other, node)
    )


def _family(node: ir.Node) -> tuple[list[ir.Node], int]:
    """Return the MaxPools of the same value, the smallest first, and the place of `node`.

    Some of them may read another value by now.
    """
    data = node.inputs[0]
    assert data is not None
    known: dict[ir.Value, tuple[list[ir.Node], dict[ir.Node, int]]]
    known = memory().answers("pools of a value")
    if data not in known or node not in known[data][1]:
        pools = [reader for reader in data.consumers() if is_op(reader, "MaxPool")]
        pools.reverse()  # of several of one size, next_smaller_pool meets the first one first
        pools.sort(key=lambda pool: math.prod(_pool(pool).kernel))
        known[data] = pools, {pool: place for place, pool in enumerate(pools)}
    pools, places = known[data]
    return pools, places[node]


def _is_sibling(other: ir.Node, node: ir.Node) -> bool:
    return other.graph is node.graph and other.inputs[:1] == node.inputs[:1]


def _pool(node: ir.Node) -> Pool:
    known: dict[ir.Node, Pool] = memory().answers("pool")
    if node not in known:
        known[node] = Pool.of(node)
    return known[node]
