"""What onnxruntime fuses. A rewrite that breaks a fusion can cost more than it saves.

Fusions match exact patterns: if a constant inside one is folded away, all of the pattern's
operators run one by one. Measured on FastViT-T8: folding a factor 0.5 out of each GELU made the
model 1.19 times slower.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.rewriting.query import is_op, producer, sole_use

_FUSED_ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "HardSigmoid")
_FUSING_OPERATORS = ("Conv", "ConvTranspose", "Gemm")


def fused_by_runtime(activation: ir.Node) -> bool:
    """Say whether onnxruntime fuses the activation into an operator before it.

    That is a Conv, ConvTranspose or Gemm; also across a BatchNormalization that it folds first,
    and across the Add of a residual branch.
    """
    if not is_op(activation, *_FUSED_ACTIVATIONS):
        return False
    source = producer(activation, 0, *_FUSING_OPERATORS, "BatchNormalization", "Add")
    if source is None or not sole_use(source.outputs[0]):
        return False
    if is_op(source, "BatchNormalization"):
        source = producer(source, 0, *_FUSING_OPERATORS)
        return source is not None and sole_use(source.outputs[0])
    if is_op(source, "Add"):
        return any(producer(source, index, "Conv") is not None for index in (0, 1))
    return True


def within_fused_pattern(node: ir.Node) -> bool:
    """Say whether a Mul, Div, Add or Sub of a constant belongs to a GELU or a LayerNormalization.

    Both decomposed, as exporters wrote them before ONNX had operators for them:

        x · (1 + erf(x / √2)) · 0.5        also with tanh, and with 0.5 multiplied in first
        (x − mean) / √(variance + ε) · γ + β
    """
    return _within_gelu(node) or _within_layer_normalization(node)


_CURVES = ("Erf", "Tanh")


def _within_gelu(node: ir.Node) -> bool:
    readers = node.outputs[0].consumers()
    touches_curve = any(is_op(reader, *_CURVES) for reader in readers)
    touches_curve |= bool(_producers(node, *_CURVES))
    if touches_curve or not is_op(node, "Mul"):
        return touches_curve
    products = [*_producers(node, "Mul"), *(reader for reader in readers if is_op(reader, "Mul"))]
    sums = [addition for product in products for addition in _producers(product, "Add")]
    return any(_producers(addition, *_CURVES) for addition in sums)


def _within_layer_normalization(node: ir.Node) -> bool:
    if is_op(node, "Add"):
        return any(_within_layer_normalization(product) for product in _producers(node, "Mul"))
    quotients = _producers(node, "Div") if is_op(node, "Mul") else []
    return any(producer(quotient, 1, "Sqrt") is not None for quotient in quotients)


def _producers(node: ir.Node, *op_types: str) -> list[ir.Node]:
    sources = (producer(node, index, *op_types) for index in range(len(node.inputs)))
    return [source for source in sources if source is not None]
