"""Tells whether a model is valid where something else has failed, which may be why."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from bnfold.errors import ModelError
from bnfold.modelfile.loading import load, require_valid
from bnfold.modelfile.model import LoadedModel
from bnfold.modelfile.source import ModelSource
from bnfold.record.data import Equivalence
from bnfold.running.isolation import CrashedError, Limits, isolated

_LIMITS = Limits(seconds=20, more_bytes=2**32)
"""Of onnx's own checker, which crashes on some files."""


def require_valid_apart(loaded: LoadedModel) -> None:
    """Check the model with onnx's own checker, in a process of its own.

    Raises:
        ModelError: if it is invalid.
    """
    try:
        isolated(lambda _: require_valid(loaded), lambda _: None, _LIMITS)
    except CrashedError as crash:
        raise ModelError(
            f"{loaded.source.name} is not a valid ONNX model: onnx's own checker crashes on it"
        ) from crash


def require_valid_unless_loaded(original: ModelSource, equivalence: Equivalence) -> None:
    """Require that a model that onnxruntime could not load is valid: proofs say nothing of others.

    Raises:
        ModelError: if it is invalid.
    """
    if equivalence.verdict != "not-verified" or "cannot-load" not in equivalence.causes:
        return
    with contextlib.suppress(CrashedError):  # for want of memory, perhaps
        isolated(lambda _: require_valid(load(original)), lambda _: None, _LIMITS)


def with_validity(equivalence: Equivalence, optimized: Path) -> Equivalence:
    """Return the verdict, which proofs do not decide for a model that is invalid.

    onnxruntime could not load the original at some level, so that none of its answers counts.
    """
    if equivalence.verdict != "certified" or "cannot-load" not in equivalence.causes:
        return equivalence
    try:
        isolated(lambda _: require_valid(load(optimized)), lambda _: None, _LIMITS)
    except CrashedError:  # for want of memory, perhaps
        return equivalence
    except ModelError as error:
        reason = str(error).replace(str(optimized), "the optimized model")
        return replace(equivalence, verdict="not-verified", reason=reason)
    return equivalence
