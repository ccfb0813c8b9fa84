"""Reads the Slices of a window that do the same at each position: they take every nth."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from bnfold.arrays import Array
from bnfold.graph.sizes import ENDLESS


def spatial_steps(
    node: onnx.NodeProto, constants: Mapping[str, Array]
) -> dict[int, tuple[int, int]] | None:
    """Return start and step for each spatial axis, counted from the first, that a Slice cuts.

    None if it does anything else: it ends before the end, runs backwards, or cuts batch or
    channels.
    """
    given = [constants.get(name) for name in node.input[1:]]
    known = [content.reshape(-1).tolist() for content in given if content is not None]
    if len(known) < max(3, len(given)):
        return None
    starts, ends, axes, steps = (*known, [1] * len(known[0]))[:4]
    if min(axes, default=0) < 2 or min(starts, default=0) < 0 or min(steps, default=1) < 1:
        return None
    if min(ends, default=ENDLESS) < ENDLESS:
        return None
    return {axis - 2: (start, step) for start, axis, step in zip(starts, axes, steps, strict=True)}
