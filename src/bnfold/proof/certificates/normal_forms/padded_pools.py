"""Lets a MaxPool pad where a Pad before it does so with −∞, which is never the largest.

A pool pads less than its kernel, so that each window has an element of the map, unless it is
dilated. As some exporters write sizes that depend on the input.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx

from bnfold.proof.certificates.submodels import replace_nodes, set_attribute
from bnfold.proof.certificates.windows import Window, ints, may_read_nothing


def with_pads_in_pools(window: Window) -> Window:
    """Leave out each Pad with −∞ whose result MaxPools alone read, if these can pad as much."""
    if not {"MaxPool", "Pad"} <= window.operators:
        return window
    return Window(*(_padded(model, window) for model in window.models))


def _padded(model: onnx.ModelProto, window: Window) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    readers = Counter(name for node in copy.graph.node for name in node.input)
    readers.update(output.name for output in copy.graph.output)
    made = {node.output[0]: node for node in copy.graph.node if node.op_type == "Pad"}
    left_out = set()
    for pool in copy.graph.node:
        pad = made.get(pool.input[0]) if pool.op_type == "MaxPool" else None
        if pad is None or readers[pad.output[0]] > 1:
            continue
        pads = _of_both(pad, pool, window)
        if pads is not None:
            left_out.add(pad.output[0])
            pool.input[0] = pad.input[0]
            set_attribute(pool, "pads", pads)
    nodes = [node for node in copy.graph.node if node.output[0] not in left_out]
    replace_nodes(copy.graph, nodes)
    return copy


def _of_both(pad: onnx.NodeProto, pool: onnx.NodeProto, window: Window) -> list[int] | None:
    """Return what a pool pads in all if it takes a Pad in; None if it cannot."""
    kernel = ints(pool, "kernel_shape")
    is_automatic = any(
        each.name == "auto_pad" and each.s not in (b"", b"NOTSET") for each in pool.attribute
    )
    if is_automatic or any(ints(pool, "ceil_mode")) or len(pool.output) > 1:
        return None
    if may_read_nothing(pool):
        return None
    added = _spatial_pads(pad, len(kernel), window)
    if added is None:
        return None
    own = ints(pool, "pads", [0] * (2 * len(kernel)))
    pads = [one + more for one, more in zip(own, added, strict=True)]
    fits = all(0 <= each < size for each, size in zip(pads, kernel * 2, strict=True))
    return pads if fits and min(added) >= 0 else None


def _spatial_pads(pad: onnx.NodeProto, spatial: int, window: Window) -> list[int] | None:
    """Return how much a Pad adds before each spatial axis, then after; None if it is not −∞."""
    names = [*pad.input, "", "", ""][:4]
    is_constant = not any(each.name == "mode" and each.s != b"constant" for each in pad.attribute)
    if names[1] not in window.constants or names[2] not in window.constants or not is_constant:
        return None
    amounts, value = window.constants[names[1]].tolist(), window.constants[names[2]]
    rank, axes = spatial + 2, list(range(len(amounts) // 2))
    if names[3]:
        if names[3] not in window.constants:
            return None
        axes = [int(axis) % rank for axis in window.constants[names[3]]]
    is_least = value.dtype.kind == "f" and value.size == 1 and bool(np.isneginf(value).all())
    if not is_least or len(amounts) != 2 * len(axes) or max(axes, default=0) >= rank:
        return None
    every = np.zeros((2, rank), np.int64)
    every[:, axes] = np.array(amounts).reshape(2, len(axes))
    if every[:, :2].any():
        return None
    return [int(each) for each in every[:, 2:].reshape(-1)]
