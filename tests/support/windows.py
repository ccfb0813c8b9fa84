"""Windows for tests: two small models, written as text, that should compute the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bnfold.proof.certificates.sizes.sizing import Sizing, sizings
from bnfold.proof.certificates.windows import Window
from tests.support.graphs import Array, Parameters, build


def window(
    interface: str,
    before: str,
    after: str,
    weights: Mapping[str, Array] | None = None,
    others: Mapping[str, Array] | None = None,
    *,
    opset: int = 17,
) -> Window:
    """Make a window of two bodies over one interface; `others` are the weights after, if others."""
    old: Parameters = dict(weights or {})
    new: Parameters = old if others is None else dict(others)
    return Window(
        build(f"{interface} {{ {before} }}", opset=opset, **old),
        build(f"{interface} {{ {after} }}", opset=opset, **new),
    )


def usual(pair: Window) -> list[Sizing]:
    """Return the sizes at which a window is proven, without the small ones."""
    return [sizing for sizing in sizings(pair) if not sizing.is_small]


def scaled(weight: Array, scale: Array, axis: int = 0) -> Array:
    """Multiply along an axis in float64, and round once."""
    shape = [-1 if each == axis else 1 for each in range(weight.ndim)]
    return (weight.astype(np.float64) * scale.astype(np.float64).reshape(shape)).astype(
        weight.dtype
    )


def affine_of(
    parameters: Mapping[str, Array], epsilon: float = float(np.float32(1e-5))
) -> tuple[Array, Array]:
    """Return the scale and shift of a BatchNormalization in float64."""
    s, b, m, v = (parameters[name].astype(np.float64) for name in "sbmv")
    scale = s / np.sqrt(v + epsilon)
    return scale, b - m * scale
