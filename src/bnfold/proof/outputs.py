"""The outputs of a model as arrays: sequences and maps taken apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from bnfold.arrays import Array

Results: TypeAlias = list[dict[str, Any]]
"""What a model gives, by output, sample by sample."""

STRUCTURE = (" length", " keys", " is absent")
"""What the names of the arrays end in that describe a sequence or map, not its content."""


def flat(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arrays of the outputs: those of sequences and maps by names of their own."""
    arrays: dict[str, Any] = {}
    pending = list(outputs.items())
    while pending:
        name, value = pending.pop(0)
        if isinstance(value, list):
            arrays[f"{name} length"] = np.array(len(value))
            pending = [(f"{name}[{place}]", each) for place, each in enumerate(value)] + pending
        elif isinstance(value, dict):
            arrays[f"{name} keys"] = np.array(list(value))
            arrays[f"{name} values"] = _numbers(np.array(list(value.values())))
        elif value is None:
            arrays[f"{name} is absent"] = np.array(True)
        else:
            arrays[name] = np.asarray(value)
    return arrays


def _numbers(values: Array) -> Array:
    """Return floats of a map in the type that they have in the model: Python widens float32."""
    if values.dtype != np.float64:
        return values
    single = values.astype(np.float32)
    return single if np.array_equal(single, values, equal_nan=True) else values


def fill(results: list[dict[str, Any]], like: Mapping[str, Array]) -> None:
    """Give each sample all of the outputs: those of longer sequences are empty in shorter ones."""
    for outputs in results:
        for name, array in like.items():
            outputs.setdefault(name, np.zeros((0, *array.shape[1:]), array.dtype))
