"""Windows for tests: two small models, written as text, that should compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnfold.proof.certificates.sizes.sizing import Sizing, sizings
from bnfold.proof.certificates.windows import Window
from bnfold.record.data import Certificate
from tests.support.graphs import Array, Parameters, batch_norm, build, normal

MAP = "(float[N,4,H,W] x) => (float[N,c,h,w] y)"
ROW = "(float[N,4] x) => (float[N,m] y)"
POOL = "MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>"
BORDER = np.array([0, 0, 1, 0, 0, 0, 0, 2])
"""The pads of an image: one row above it, and two columns after it."""
W33 = normal(4, 4, 3, 3)


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
    shape = [-1 if at == axis else 1 for at in range(weight.ndim)]
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


def replaced(array: Array, index: Any, value: Any) -> Array:
    """Return a copy with other content at an index."""
    copy = array.copy()
    copy[index] = value
    return copy


def certified(certificate: Certificate, kind: str) -> Certificate:
    """Assert that a window is proven, and how; return its certificate."""
    assert (certificate.verdict, certificate.kind) == ("certified", kind), certificate
    return certificate


def differs(certificate: Certificate) -> Certificate:
    """Assert that a window is known to differ, and where; return its certificate."""
    assert certificate.verdict == "differs", certificate
    assert certificate.worst is not None
    return certificate


def folded(
    rank: int = 2,
    *,
    group: int = 1,
    attributes: str = "",
    dtype: Any = np.float32,
    name: str = "float",
    size: str = "",
    seed: int = 0,
    **changed: Array,
) -> Window:
    """Return a Conv with a BatchNormalization, and the Conv that it folds to, changed."""
    old = {"k": normal(8, 4 // group, *[3] * rank, seed=seed, dtype=dtype)}
    old |= batch_norm(8, seed=seed, dtype=dtype)
    scale, shift = affine_of(old)
    new = {"k2": scaled(old["k"], scale), "d": shift.astype(dtype)} | changed
    sizes = ",".join(size or f"S{axis}" for axis in range(rank))
    conv = f"Conv<group={group}{', ' if attributes else ''}{attributes}>"
    return window(
        f"({name}[N,4,{sizes}] x) => ({name}[N,8,{','.join('t' * rank)}] y)",
        f"c = {conv}(x, k) y = BatchNormalization(c, s, b, m, v)",
        f"y = {conv}(x, k2, d)",
        old,
        new,
    )


def _folded_weights() -> tuple[Array, Array]:
    old = {"k": normal(8, 4, 3, 3), **batch_norm(8)}
    scale, shift = affine_of(old)
    return scaled(old["k"], scale), shift.astype(np.float32)


KERNEL, BIAS = _folded_weights()
"""What `folded` has after the fold."""
