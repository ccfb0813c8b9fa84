"""Models of a value and what is linear in it, for passes that merge and compose products."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import onnx

from tests.support.graphs import Array, Parameters, build, normal

_SHAPES = {1: "6", 2: "N,6", 3: "N,3,6", 4: "N,2,3,6"}

WEIGHTS: Parameters = {
    "w": normal(6, 6),
    "v": normal(6, 6, seed=1),
    "a": normal(6, 2),
    "c": normal(2, 6),
    "wide": normal(6, 9),
    "back": normal(9, 6),
    "thin": normal(6, 1),
    "row": normal(1, 6),
    "one": normal(1, 6, 6),
    "heads": normal(2, 6, 6),
    "d": normal(6),
    "e": normal(9),
    "k": normal(6, seed=1),
    "s": np.array(1.7, np.float32),
    "rows": normal(3, 1),
    "full": normal(3, 6),
    "even": np.full(6, 0.5, np.float32),
    "huge": np.array(2.0**24, np.float32),
}
"""What a line may name; all sizes differ where they can."""


def linear_model(
    lines: str,
    rank: int = 3,
    *,
    opset: int = 17,
    dtype: npt.DTypeLike = np.float32,
    shape: str = "",
    **weights: Array,
) -> onnx.ModelProto:
    """Make a model of x, whose last axis has size 6, with the weights that its lines name."""
    names = set(re.findall(r"\w+", lines))
    kind = {"float32": "float"}.get(np.dtype(dtype).name, np.dtype(dtype).name).replace(
        "float64", "double"
    )
    used = {n: each.astype(dtype) for n, each in {**WEIGHTS, **weights}.items() if n in names}
    result = ",".join("ijklm"[:rank])
    return build(
        f"({kind}[{shape or _SHAPES[rank]}] x) => ({kind}[{result}] y) {{ {lines} }}",
        opset=opset,
        **used,
    )
