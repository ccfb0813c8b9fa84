"""Remove a Dropout that does nothing at inference.

    Dropout(x) = x                       in inference mode
    Dropout(x) = x / (1 − 0) = x         in training mode, with ratio 0
    mask       = true, everywhere        in both

Conditions: the mode is inference, or the ratio is 0. The mode depends on the opset: 1 and 6 have
the attribute `is_test`; 7 and 10 have only inference; from 12 on, the third input, `training_mode`,
decides, and without it the mode is inference.

A mask that is used becomes ConstantOfShape(Shape(x)). Before opset 12 the standard does not define
an inference mask, and implementations differ (onnxruntime returns zeros, onnx's reference ones), so
the node stays.

Profit: an operator less. onnxruntime removes a Dropout itself when it loads a model; what the
Dropout has kept apart can be rewritten.

BITWISE.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnfold.graph.constants import constant
from bnfold.rewriting.contract import (
    Common,
    Exactness,
    Op,
    Refusal,
    Refused,
    Replace,
    require,
    rewrite,
)
from bnfold.rewriting.query import input_of, int_attribute, is_op, is_used, opset


class Why(Refusal):
    """Reasons to leave a Dropout in place."""

    MODE_NOT_CONSTANT = (
        "whether it runs in training mode is decided at run time",
        "export the model after model.eval(), or pass --force-inference",
    )
    MASK_UNDEFINED = "its mask is used, and the standard does not define it before opset 12"
    WRITTEN_OUT = (
        "it is part of a decomposed training-mode dropout: random numbers, comparison, product",
        "export the model after model.eval()",
    )


@rewrite(
    "strip-dropout",
    roots=["Dropout", "RandomUniformLike", "Bernoulli"],
    exactness=Exactness.BITWISE,
    refusals=[*Why, Common.TRAINING_MODE],
)
def strip_dropout(node: ir.Node) -> Replace | None:
    """Replace the result by the data; refuse if the Dropout has an effect."""
    if node.op_type != "Dropout":
        _refuse_if_written_out(node)
        return None
    _require_no_effect(node)
    data = node.inputs[0]
    assert data is not None
    outputs: dict[ir.Value, ir.Value | Op] = {node.outputs[0]: data}
    if len(node.outputs) > 1 and is_used(node.outputs[1]):
        require(opset(node) >= 12, Why.MASK_UNDEFINED)
        true = ir.AttrTensor("value", ir.tensor(np.array([True])))
        outputs[node.outputs[1]] = Op("ConstantOfShape", [Op("Shape", [data])], [true])
    return Replace([node], outputs)


def _require_no_effect(node: ir.Node) -> None:
    version = opset(node)
    if version < 7:
        require(int_attribute(node, "is_test", 0) != 0, Common.TRAINING_MODE)
    if version < 12:
        return
    ratio = constant(input_of(node, 1))
    if ratio is not None and not ratio.any():
        return
    mode = input_of(node, 2)
    if mode is None:
        return
    training = constant(mode)
    if training is None:
        raise Refused(Why.MODE_NOT_CONSTANT, detail=mode.name or "")
    require(not training.any(), Common.TRAINING_MODE)


def _refuse_if_written_out(random: ir.Node) -> None:
    """Refuse ``Mul(x, Cast(RandomUniformLike(x) < p))`` and similar; nothing else."""
    value = random.outputs[0]
    for _ in range(4):
        uses = value.uses()
        if len(uses) != 1:
            return
        (use,) = uses
        if is_op(use.node, "Mul", "Where") and value is not random.outputs[0]:
            raise Refused(Why.WRITTEN_OUT, use.node)
        if not is_op(use.node, "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Cast", "Not"):
            return
        value = use.node.outputs[0]
