"""What a model's graph says of the strings that it reads, and of numbers that are missing."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from bnfold.graph.constants import constant
from bnfold.proof.hints.integers import ARITHMETIC, uses_of_same_numbers
from bnfold.proof.hints.sizes import SAME_NUMBERS

_MOST_WORDS = 64

_VOCABULARIES = ("cats_strings", "keys_strings", "pool_strings", "stopwords", "string_vocabulary")
"""Attributes with strings that an operator looks for in what it reads."""

_WHOLE = SAME_NUMBERS - {"Concat", "Slice", "Split"}
"""Operators that pass on all numbers: of a part, a model may take others for missing."""

_ML = "ai.onnx.ml"


def words(value: ir.Value) -> list[str]:
    """Return strings that a value is looked up by, or compared with, in the order of the graph."""
    found: dict[str, None] = {}
    for node, position in uses_of_same_numbers(value, frozenset()):
        for name in _VOCABULARIES:
            if name in node.attributes:
                found.update(dict.fromkeys(node.attributes[name].as_strings()))
        for place, other in enumerate(node.inputs):
            content = constant(other) if node.op_type == "Equal" and place != position else None
            if content is not None and content.dtype.kind in "OSU":
                found.update(dict.fromkeys(map(_text, content.reshape(-1).tolist())))
    return list(found)[:_MOST_WORDS]


def _text(word: str | bytes) -> str:
    return word.decode("utf-8", "replace") if isinstance(word, bytes) else word


def missing(value: ir.Value) -> list[float]:
    """Return what a model takes for a missing number where it reads it: NaN, infinity, a number."""
    return sorted(set(_missing(value)), key=str)


def _missing(value: ir.Value) -> Iterator[float]:
    for node, _ in uses_of_same_numbers(value, ARITHMETIC, _WHOLE):
        is_itself = node.op_type in ("Equal", "LessOrEqual") and node.inputs[0] is node.inputs[1]
        if node.op_type == "IsNaN" or is_itself:
            yield math.nan
        elif node.op_type == "IsInf":
            signs = {"detect_positive": math.inf, "detect_negative": -math.inf}
            yield from (end for name, end in signs.items() if node.attributes.get_int(name, 1))
        elif node.op_type == "Imputer" and node.domain == _ML:
            yield float(np.float32(node.attributes.get_float("replaced_value_float", 0.0)))
