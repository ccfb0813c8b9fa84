"""How shapes are inferred and constants evaluated: safely, and as the runtime does it."""

from __future__ import annotations

import contextlib

import onnx

from bnfold.graph.facts import Tools
from bnfold.graph.shapes import infer_here
from bnfold.running.evaluation import evaluate
from bnfold.running.isolation import CrashedError, Limits, isolated

_MAY_HARM = frozenset(
    {"ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Slice", "Split", "Tile", "Unsqueeze"}
)
"""Operators at which onnx's inference aborts (a Slice of a negative size), or writes down the
content of what they compute, however large."""

_LIMITS = Limits(seconds=10, more_bytes=2**31)


def _infer(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Let onnx infer shapes, in a process of its own where that may crash or never end."""
    if not any(node.op_type in _MAY_HARM for node in model.graph.node):
        return infer_here(model)
    with contextlib.suppress(CrashedError):
        return _inferred(model, contents=True)
    with contextlib.suppress(CrashedError):
        return _inferred(model, contents=False)
    return None


def _inferred(model: onnx.ModelProto, *, contents: bool) -> onnx.ModelProto | None:
    def work(_: object) -> bytes | None:
        found = infer_here(model, contents=contents)
        return None if found is None else found.SerializeToString()

    found = isolated(work, lambda _: None, _LIMITS)
    return None if found is None else onnx.ModelProto.FromString(found)


TOOLS = Tools(_infer, evaluate)
