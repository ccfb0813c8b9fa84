"""The geometry of pools: which input positions a window covers."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bnfold.contract import int_attribute, ints_attribute, string_attribute


@dataclass(frozen=True)
class Pool:
    """The attributes of a MaxPool or AveragePool, defaults filled in, one entry a spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    """(before, after) an axis. Zero where `auto_pad` decides instead."""
    auto_pad: str
    ceil_mode: bool

    @staticmethod
    def of(node: ir.Node) -> Pool:
        """Read the attributes of a MaxPool or AveragePool node."""
        kernel = ints_attribute(node, "kernel_shape")
        ones = [1] * len(kernel)
        flat = ints_attribute(node, "pads", [0] * 2 * len(kernel))
        return Pool(
            kernel=kernel,
            strides=ints_attribute(node, "strides", ones),
            dilations=ints_attribute(node, "dilations", ones),
            pads=tuple(zip(flat[: len(kernel)], flat[len(kernel) :], strict=True)),
            auto_pad=string_attribute(node, "auto_pad", "NOTSET"),
            ceil_mode=int_attribute(node, "ceil_mode", 0) != 0,
        )

    @property
    def spatial_rank(self) -> int:
        """The number of axes that the windows span: the last ones of the input."""
        return len(self.kernel)

    @property
    def may_pad(self) -> bool:
        """Whether a window may reach over the border of the input."""
        return any(map(any, self.pads)) or self.ceil_mode or self.auto_pad.startswith("SAME")

    def every_window_is_real(self, data: ir.Value) -> bool:
        """Say whether each window is known to cover an element of `data`, not padding alone."""
        sizes: list[int | None] = [None] * self.spatial_rank
        if data.shape is not None and data.shape.rank() == self.spatial_rank + 2:
            sizes = [size if isinstance(size, int) else None for size in data.shape.dims[2:]]
        return all(self._real_along(axis, size) for axis, size in enumerate(sizes))

    def _real_along(self, axis: int, size: int | None) -> bool:
        kernel, stride, dilation = self.kernel[axis], self.strides[axis], self.dilations[axis]
        reach = dilation * (kernel - 1)
        if self.auto_pad == "VALID":
            return size is None or size > reach
        if self.auto_pad != "NOTSET":
            # SAME pads less than one dilated kernel in all, so a window without gaps meets the
            # input; with gaps it may straddle a small one.
            return dilation == 1
        before, after = self.pads[axis]
        if size is None:
            return self._real_for_any_size(kernel, stride, dilation, before, after)
        last = size + before + after - reach - 1
        if last < 0:
            return False  # not one window fits, and runtimes do not agree on what that means
        count = (-(-last // stride) if self.ceil_mode else last // stride) + 1
        starts = (index * stride - before for index in range(count))
        return all(any(0 <= s + k * dilation < size for k in range(kernel)) for s in starts)

    def _real_for_any_size(
        self, kernel: int, stride: int, dilation: int, before: int, after: int
    ) -> bool:
        """Judge without the size: the last window starts at most at size + after − kernel.

        With `ceil_mode` it may start up to stride − 1 later. A window with gaps is safe only
        where there is no padding.
        """
        if dilation > 1:
            return before == after == 0 and not self.ceil_mode
        overhang = after + (stride if self.ceil_mode else 0)
        return before < kernel and (overhang <= kernel if self.ceil_mode else overhang < kernel)
