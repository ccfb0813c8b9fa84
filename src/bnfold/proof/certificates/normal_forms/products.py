"""Scales a product of two values instead of one of them.

    (k·x)·y = k·(x·y)        of floats

Where the other side scales what comes later, both then have the product in common.
"""

from __future__ import annotations

from collections import Counter

import onnx

from bnfold.proof.certificates.submodels import Constants, needed_nodes, replace_nodes
from bnfold.proof.certificates.windows import Window, is_float


def with_scales_after_products(window: Window) -> Window:
    """Move each Mul or Div by a constant past the product of what it computes and another value."""
    if "Mul" not in window.operators:
        return window
    return Window(*map(_moved, window.models))


def _moved(model: onnx.ModelProto) -> onnx.ModelProto:
    moved, constants = onnx.ModelProto(), Constants(model)
    moved.CopyFrom(model)
    outputs = [output.name for output in model.graph.output]
    reads = Counter(name for node in model.graph.node for name in node.input)
    reads.update(outputs)
    nodes: list[onnx.NodeProto] = []
    scales: dict[str, onnx.NodeProto] = {}
    for node in moved.graph.node:
        product, is_product = node, not any(name in constants for name in node.input)
        passed = []
        if node.op_type == "Mul" and is_product:
            passed = [i for i, name in enumerate(node.input) if name in scales and reads[name] == 1]
        result = node.output[0]
        nodes.append(product)
        for index in passed:
            scale = onnx.NodeProto()
            scale.CopyFrom(scales[product.input[index]])
            operand = _scaled_operand(scale, constants)
            assert operand is not None
            nodes[-1].output[0] = f"{result} before {scale.output[0]}"
            product.input[index], scale.input[operand] = scale.input[operand], nodes[-1].output[0]
            scale.output[0] = result
            nodes.append(scale)
        if _scaled_operand(nodes[-1], constants) is not None:
            scales[result] = nodes[-1]
    replace_nodes(moved.graph, needed_nodes(nodes, outputs))
    return moved


def _scaled_operand(node: onnx.NodeProto, constants: Constants) -> int | None:
    """Return which operand a Mul or Div by a constant scales."""
    if node.op_type not in ("Mul", "Div") or node.attribute or len(node.input) != 2:
        return None
    found = [index for index, name in enumerate(node.input) if name in constants]
    if not all(is_float(constants[node.input[index]].dtype) for index in found):
        return None  # of integers, 3/2·2 is not 3·2/2
    if found == [1]:
        return 0
    return 1 if found == [0] and node.op_type == "Mul" else None
