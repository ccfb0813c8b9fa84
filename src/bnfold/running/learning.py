"""How shapes are inferred and constants evaluated: safely, and as the runtime does it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

import numpy as np
import onnx
import onnx.numpy_helper

from bnfold.graph.facts import Tools
from bnfold.graph.inference import infer_here
from bnfold.running.evaluation import evaluate
from bnfold.running.isolation import CrashedError, Limits, is_forked, isolated

_log = logging.getLogger("bnfold")

_MAY_HARM = frozenset(
    {"ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Slice", "Split", "Tile", "Unsqueeze"}
)
"""Operators at which onnx's inference aborts (a Slice of a negative size), or writes down the
content of what they compute, however large."""

_LIMITS = Limits(seconds=5, more_bytes=2**30)


def infer(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Let onnx infer shapes, in a process of its own where that may crash or never end."""
    if not _may_harm(model):
        return infer_here(model)
    try:
        found = isolated(lambda _: _inferred(model), lambda _: None, _LIMITS)
    except CrashedError:
        if not is_forked():  # what runs there has an answer of its own
            _log.warning("onnx's shape inference crashes on this model, so some sizes stay unknown")
        return None
    return None if found is None else onnx.ModelProto.FromString(found)


_MOST_ELEMENTS = 2**26
"""Up to which nothing that a small model asks for is large."""


def infer_small(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Let onnx infer the shapes of a small model, in this process if no number in it is large.

    A fork takes a hundred times as long. If onnx crashes all the same, this process does: it is
    for one that has an answer to that.
    """
    return infer_here(model) if is_forked() and _asks_for_little(model) else infer(model)


def _asks_for_little(model: onnx.ModelProto) -> bool:
    """Say whether sizes of inputs, and counts that operators repeat something by, are small."""
    enlarging = [node for node in model.graph.node if node.op_type in _MAY_HARM - {"Slice"}]
    read = {name for node in enlarging for name in node.input}
    total = 1.0
    for value in model.graph.input:
        sizes = [size.dim_value for size in value.type.tensor_type.shape.dim]
        total = max(total, math.prod(float(size) for size in sizes))
    for tensor in model.graph.initializer:
        if tensor.name in read and tensor.data_type == onnx.TensorProto.INT64:
            numbers = np.abs(onnx.numpy_helper.to_array(tensor).astype(np.float64))
            total *= math.prod(numbers[numbers > 1].tolist())
    return total <= _MOST_ELEMENTS


def _may_harm(model: onnx.ModelProto) -> bool:
    return _has_harmful(model.graph.node)


def _has_harmful(nodes: Iterable[onnx.NodeProto]) -> bool:
    for node in nodes:
        if node.op_type in _MAY_HARM:
            return True
        for attribute in node.attribute:
            if attribute.HasField("g") and _has_harmful(attribute.g.node):
                return True
            if any(_has_harmful(graph.node) for graph in attribute.graphs):
                return True
    return False


def _inferred(model: onnx.ModelProto) -> bytes | None:
    found = infer_here(model)
    return None if found is None else found.SerializeToString()


TOOLS = Tools(infer, evaluate)
