"""Tells where a model's interface alone keeps its weights from being constants.

An initializer that is also a graph input is a default that a caller may override, so no runtime may
fold it, fuse it or pack it in advance. torch up to 1.3 listed all weights so, from IR version 4 on.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.graph.constants import is_overridable
from bnfold.graph.walk import all_graphs
from bnfold.record.data import RefusalRecord
from bnfold.rewriting.contract import FREEZE, Refusal

NAME = "freeze-initializers"

_WITH_WEIGHTS = frozenset(
    {"BatchNormalization", "Conv", "ConvTranspose", "GRU", "Gemm", "InstanceNormalization"}
    | {"LayerNormalization", "LSTM", "MatMul", "PRelu", "RNN"}
)
"""Operators that runtimes prepare when they load a model, if their weights are constant."""


class Why(Refusal):
    """The reason to name the option."""

    OVERRIDABLE = (
        "a caller may override it, so neither bnfold nor onnxruntime can prepare the operators "
        "that read it",
        FREEZE,
    )


def overridable_weights(model: ir.Model) -> list[RefusalRecord]:
    """Return a record of each weight that would be constant if it were no input."""
    read = {
        value: None
        for graph in all_graphs(model)
        for node in graph
        if node.domain == "" and node.op_type in _WITH_WEIGHTS
        for value in node.inputs[1:]
        if value is not None and is_overridable(value)
    }
    return [
        RefusalRecord(
            pass_name=NAME,
            site=value.name or "",
            op_type="initializer",
            reason=Why.OVERRIDABLE.name,
            message=Why.OVERRIDABLE.message,
            remedy=Why.OVERRIDABLE.remedy,
            in_the_way="",
        )
        for value in read
    ]
