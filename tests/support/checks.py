"""What the check says of two models, for tests that look at one part of it."""

from __future__ import annotations

from typing import Any

import onnx

import bnfold
from bnfold.record.data import Equivalence, ProviderEquivalence


def compared(one: onnx.ModelProto, other: onnx.ModelProto, **options: Any) -> Equivalence:
    """Return the comparison of the second model with the first."""
    equivalence = bnfold.check(one, other, **options).equivalence
    assert equivalence is not None
    return equivalence


def compared_on_cpu(
    one: onnx.ModelProto, other: onnx.ModelProto, **options: Any
) -> ProviderEquivalence:
    """Return the comparison on the CPU, which is what is compared on by default."""
    return compared(one, other, **options).providers[0]


def verdict(one: onnx.ModelProto, other: onnx.ModelProto, **options: Any) -> str:
    """Return the verdict alone."""
    return compared(one, other, **options).verdict


def verdict_and_reason(
    one: onnx.ModelProto, other: onnx.ModelProto, **options: Any
) -> tuple[str, str]:
    """Return the verdict, and why it is not a pass."""
    equivalence = compared(one, other, **options)
    return equivalence.verdict, equivalence.reason
