"""Writes a Conv, ConvTranspose or average as a linear operator with taps."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bnfold.arrays import Array
from bnfold.proof.certificates.sums.linear_sums import NoSumError, Operator
from bnfold.proof.float64.sliding_windows import halves

_DEFAULTS = {"strides": 1, "dilations": 1, "pads": 0, "output_padding": 0}
"""What each number of an attribute is if an operator does not have it."""


def convolution(
    op_type: str, weights: Array, groups: int, attributes: Mapping[str, Any]
) -> Operator:
    """Return the operator that has weights as they are stored.

    Position p of a Conv's result reads p·s + d·j − a at tap j of a kernel, of dilation d and padded
    by a before and b after. There are ⌊(n + g − 1)/s⌋ + 1 positions for a size n, where
    g = a + b − d·(k − 1): kernels of other sizes are alike in their steps s and g.

    Raises:
        NoSumError: for pads that runtimes may refuse.
    """
    if op_type == "ConvTranspose":
        stored = weights.reshape(groups, -1, *weights.shape[1:]).swapaxes(1, 2)
        weights = stored.reshape(-1, *stored.shape[2:])
    kernel = weights.shape[2:]
    flat = weights.reshape(*weights.shape[:2], -1)
    places = list(itertools.product(*map(range, kernel)))
    strides, dilations = (
        attributes.get(name, [1] * len(kernel)) for name in ("strides", "dilations")
    )
    spans = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    is_dilated = set(dilations) != {1}
    pads = _pads(attributes, strides, spans, is_dilated=is_dilated)
    if op_type == "ConvTranspose" or pads is None:
        geometry = (op_type, kernel, *_settings(attributes))
        return Operator(geometry, tuple(places), flat, groups, is_padded=True)
    before, after = pads
    taps = [
        tuple(d * j - a for d, j, a in zip(dilations, place, before, strict=True))
        for place in places
    ]
    gains = [a + b - span for a, b, span in zip(before, after, spans, strict=True)]
    is_same_size = set(strides) == {1} and set(gains) == {0}
    return Operator(
        () if is_same_size else ("Conv", tuple(strides), tuple(gains)),
        tuple(tap if any(tap) else () for tap in taps),
        flat,
        groups,
        is_padded=any(before) or any(after),
    )


def average(channels: int, attributes: Mapping[str, Any]) -> Operator:
    """Return an AveragePool: each channel by itself, with all that it does in its geometry.

    The mean of one number is that number, unless zeros are counted at borders.
    """
    is_counted = bool(attributes.get("count_include_pad", 0))
    is_padded = any(name in attributes for name in ("auto_pad", "ceil_mode", "pads"))
    geometry = ("AveragePool", *_settings(attributes, kept=("kernel_shape",)))
    ones = np.ones((channels, 1, 1))
    return Operator(geometry, ((),), ones, channels, is_padded=is_counted and is_padded)


def global_average(channels: int) -> Operator:
    """Return the mean of each channel."""
    return Operator(("GlobalAveragePool",), ((),), np.ones((channels, 1, 1)), channels)


def _pads(
    attributes: Mapping[str, Any],
    strides: Sequence[int],
    spans: Sequence[int],
    *,
    is_dilated: bool,
) -> tuple[Sequence[int], Sequence[int]] | None:
    """Return by how much each axis is padded before and after; None if that depends on sizes.

    Raises:
        NoSumError: for what runtimes may refuse.
    """
    zeros = [0] * len(spans)
    kind = attributes.get("auto_pad", b"NOTSET")
    pads = attributes.get("pads", [*zeros, *zeros])
    if len(pads) != 2 * len(spans) or min(pads) < 0:
        raise NoSumError
    if kind == b"NOTSET":
        return pads[: len(spans)], pads[len(spans) :]
    if "pads" in attributes or kind not in (b"VALID", b"SAME_UPPER", b"SAME_LOWER"):
        raise NoSumError
    if kind == b"VALID":
        return zeros, zeros
    if is_dilated:
        raise NoSumError
    if set(strides) != {1}:
        return None
    pads = halves(spans, kind.decode())
    return pads[: len(spans)], pads[len(spans) :]


def _settings(
    attributes: Mapping[str, Any], kept: Container[str] = ()
) -> Iterator[tuple[str, object]]:
    """Yield the attributes that matter beside a kernel and its groups, and some that are kept."""
    for name, value in sorted(attributes.items()):
        default = _DEFAULTS.get(name)
        is_default = default is not None and all(number == default for number in value)
        is_known = name in ("group", "kernel_shape") and name not in kept
        if not (is_default or is_known or value == b"NOTSET"):
            yield name, tuple(value) if isinstance(value, list) else value
