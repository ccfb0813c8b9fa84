"""Rounds the constants of a model in other ways: how far it moves is how exact it is."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper

from bnfold.proof.certificates.windows import is_float

NUDGES = 4
"""Ways to round the constants of a function: pairs, of which each turns some constants over."""


def with_nudged_constants(model: onnx.ModelProto, unit: float, seed: int) -> onnx.ModelProto:
    """Return the model with each float constant off by half to one rounding; no scale is.

    Where terms cancel, as those of s·x + b near its zero, constants that move alike move nothing.
    So the second of each pair of seeds moves every other constant the other way, counted by ones in
    the first pair and by twos in the second: any two of four move apart somewhere.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    pair, is_second = divmod(seed, 2)
    generator = np.random.default_rng(pair)
    resizing = [node for node in copy.graph.node if node.op_type in ("Resize", "Upsample")]
    scales = {name for node in resizing for name in node.input[1:]}
    for number, tensor in enumerate(copy.graph.initializer):
        content = onnx.numpy_helper.to_array(tensor)
        if is_float(content.dtype) and tensor.name not in scales:
            signs = generator.choice([-1.0, 1.0], content.shape)
            shares = signs * generator.uniform(0.5, 1, content.shape)
            is_turned = is_second and number >> pair & 1
            moved = content.astype(np.float64) * (1 + unit * (-shares if is_turned else shares))
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    return copy
