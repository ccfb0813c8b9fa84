"""How shapes are inferred and constants evaluated: safely, and as the runtime does it."""

from __future__ import annotations

import onnx

from bnfold.graph.facts import Tools
from bnfold.graph.shapes import infer_here
from bnfold.running.evaluation import evaluate
from bnfold.running.isolation import CrashedError, isolated


def _infer(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Let onnx infer shapes, in a process of its own if that may crash.

    onnx aborts at a Slice of a negative size, which an operator before it may have.
    """
    if not any(node.op_type == "Slice" for node in model.graph.node):
        return infer_here(model)
    try:
        content = isolated(lambda _: _serialized(infer_here(model)), lambda _: None, quiet=True)
    except CrashedError:
        return None
    return None if content is None else onnx.ModelProto.FromString(content)


def _serialized(model: onnx.ModelProto | None) -> bytes | None:
    return None if model is None else model.SerializeToString()


TOOLS = Tools(_infer, evaluate)
