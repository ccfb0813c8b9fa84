"""Evaluates small models, whose results become constants of the model that is rewritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from bnfold.arrays import Array
from bnfold.errors import ProviderError, SessionError
from bnfold.running.runtime import Level, Session


def evaluate(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> Sequence[Array] | None:
    """Compute the outputs with onnxruntime on the CPU; None if it cannot, or is not installed."""
    try:
        session = Session(model.SerializeToString(), "cpu", Level.DISABLED, threads=1)
        results = session.run(feeds)
    except (ProviderError, SessionError):
        return None
    return [results[value.name] for value in model.graph.output]
