"""Finds the interpolations that do the same at each position, whatever the size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array
from bnfold.proof.certificates.submodels import Constants
from bnfold.proof.certificates.windows import Window, ints

RESIZING = ("Resize", "Upsample")

_REGARDLESS_OF_SIZE = ("asymmetric", "half_pixel", "pytorch_half_pixel")
"""Ways to find the positions to interpolate between that depend on no size."""


def whole_scales(node: onnx.NodeProto, constants: Mapping[str, Array]) -> list[int]:
    """Return by how much each axis grows, if by whole numbers and alike everywhere; else nothing.

    Batch and channels must stay.
    """
    if node.op_type not in RESIZING or ints(node, "antialias", [0]) != [0]:
        return []
    if _has_axes(node) or any(node.input[3:4]):
        return []
    if text(node, "coordinate_transformation_mode", "half_pixel") not in _REGARDLESS_OF_SIZE:
        return []
    named = node.input[2 if len(node.input) > 2 else 1 :][:1]
    scales = [float(scale) for name in named for scale in constants.get(name, np.zeros(0))]
    scales = scales or [each for at in node.attribute if at.name == "scales" for each in at.floats]
    is_whole = all(scale >= 1 and scale == int(scale) for scale in scales)
    return [int(scale) for scale in scales] if is_whole and scales[:2] == [1, 1] else []


def _has_axes(node: onnx.NodeProto) -> bool:
    """Say whether scales or sizes are those of some axes only, or in another order."""
    return any(attribute.name == "axes" for attribute in node.attribute)


def text(node: onnx.NodeProto, name: str, default: str) -> str:
    """Return an attribute that is a word."""
    found = [attribute.s.decode() for attribute in node.attribute if attribute.name == name]
    return found[0] if found else default


def with_scales(window: Window) -> Window:
    """Resize by scales instead of to sizes, where these are whole at the size that is known."""
    return Window(*map(_with_scales, window.models, ("before", "after")))


def _with_scales(model: onnx.ModelProto, side: str) -> onnx.ModelProto:
    to_sizes = [
        at
        for at, node in enumerate(model.graph.node)
        if node.op_type == "Resize" and any(node.input[3:4])
    ]
    if not to_sizes:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = Constants(copy)
    known = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*copy.graph.input, *copy.graph.value_info)
    }
    for at in to_sizes:
        node = copy.graph.node[at]
        sizes = constants.get(node.input[3], np.zeros(0, np.int64)).tolist()
        old = known.get(node.input[0], [])
        has_policy = text(node, "keep_aspect_ratio_policy", "stretch") != "stretch"
        if len(old) != len(sizes) or 0 in old or has_policy or _has_axes(node):
            continue
        if any(new % size for new, size in zip(sizes, old, strict=True)):
            continue
        scales = np.array([new / size for new, size in zip(sizes, old, strict=True)], np.float32)
        name = f"{node.output[0]} scales {side}"
        copy.graph.initializer.append(onnx.numpy_helper.from_array(scales, name))
        del node.input[2:]
        node.input.append(name)
    return copy
