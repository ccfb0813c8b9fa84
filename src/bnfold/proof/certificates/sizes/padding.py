"""Reads the Pads of a window that do the same at each position, borders aside."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from bnfold.arrays import Array
from bnfold.proof.certificates.sizes.resizing import text
from bnfold.proof.certificates.windows import ints


def spatial_widths(
    node: onnx.NodeProto, constants: Mapping[str, Array]
) -> list[tuple[int, int]] | None:
    """Return what a Pad adds before and after each spatial axis, filled with one number.

    None if it does anything else: it cuts off, repeats the border, or adds to batch or channels.
    """
    if text(node, "mode", "constant") != "constant" or any(node.input[3:]):
        return None
    amounts = ints(node, "pads")
    if len(node.input) > 1:
        content = constants.get(node.input[1])
        amounts = [] if content is None else [int(amount) for amount in content.reshape(-1)]
    half = len(amounts) // 2
    widths = list(zip(amounts[:half], amounts[half:], strict=True)) if amounts else []
    if half < 3 or min(amounts) < 0 or any(map(any, widths[:2])):
        return None
    return widths[2:]
