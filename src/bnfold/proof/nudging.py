"""Rounds the constants of a model in other ways: how far it moves is how exact it is."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper

from bnfold.proof.windows import is_float

NUDGES = 3
"""Ways to round the constants of a function."""


def with_nudged_constants(model: onnx.ModelProto, unit: float, seed: int) -> onnx.ModelProto:
    """Return the model with each float constant off by one rounding, up or down; no scale is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    generator = np.random.default_rng(seed)
    resizing = [node for node in copy.graph.node if node.op_type in ("Resize", "Upsample")]
    scales = {name for node in resizing for name in node.input[1:]}
    for tensor in copy.graph.initializer:
        content = onnx.numpy_helper.to_array(tensor)
        if is_float(content.dtype) and tensor.name not in scales:
            signs = generator.choice([-1.0, 1.0], content.shape)
            moved = content.astype(np.float64) * (1 + unit * signs)
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    return copy
