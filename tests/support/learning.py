"""What is learned of the graph of a model, for tests of what that is."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from bnfold.graph.facts import learn
from bnfold.modelfile.loading import load
from bnfold.running.learning import TOOLS


def learned(model: onnx.ModelProto) -> ir.Model:
    """Load a model, and learn its shapes and constants."""
    loaded = load(model).ir
    learn(loaded, TOOLS)
    return loaded
