"""Pool before the activation: the same values, from an activation on fewer elements.

    MaxPool(f(x)) = f(MaxPool(x))        for every non-decreasing elementwise f

because the largest of f(x₁) … f(xₙ) is f of the largest xᵢ.

Conditions: f is non-decreasing for the given parameters and defined on all reals (Log and Sqrt are
not: if a window holds a negative value, the two sides differ); f's parameters are constant over
each window; the pool's Indices are unused; every window holds a real element, because f of padding
is not padding; nothing else reads f's result.

Profit: the pool must make the map smaller, and onnxruntime must not fuse f into the operator before
it anyway: it fuses Relu, LeakyRelu, Sigmoid, Tanh, Clip and HardSigmoid into a Conv, and then the
swap gains nothing.

BITWISE for piecewise linear f. ROUNDED for a transcendental f, whose kernel may round differently
at another position, for BatchNormalization, and for Round of float16.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.algebra.elementwise import ELEMENTWISE, NOT_MONOTONE, exactness_of, monotone
from bnfold.algebra.fusions import fused_by_runtime
from bnfold.algebra.pooling import Pool
from bnfold.rewriting.contract import Common, Exactness, Refusal, Replace, require, rewrite, same_op
from bnfold.rewriting.query import is_used, producer, shape_of, sole_use


class Why(Refusal):
    """Reasons to leave a pool after its activation."""

    NOT_SMALLER = "the pool has stride 1, so the activation would not get fewer elements"
    FUSED_BY_RUNTIME = "onnxruntime fuses the activation into the operator before it"


@rewrite(
    "pool-before-activation",
    roots=["MaxPool"],
    exactness=Exactness.BITWISE,
    refusals=[
        *Why,
        *NOT_MONOTONE,
        Common.INDICES_USED,
        Common.PADDING_ONLY_WINDOW,
        Common.SHARED,
    ],
)
def pool_before_activation(node: ir.Node) -> Replace | None:
    """Replace ``MaxPool ∘ f`` by ``f ∘ MaxPool``, where it is exact and pays off."""
    activation = producer(node, 0, *ELEMENTWISE)
    if activation is None:
        return None
    pool = Pool.of(node)
    index = monotone(activation, pool.spatial_rank)
    require(not any(map(is_used, node.outputs[1:])), Common.INDICES_USED)
    require(sole_use(activation.outputs[0]), Common.SHARED, activation)
    data = activation.inputs[index]
    assert data is not None
    require(pool.every_window_is_real(data), Common.PADDING_ONLY_WINDOW)
    require(any(stride > 1 for stride in pool.strides), Why.NOT_SMALLER)
    require(not fused_by_runtime(activation), Why.FUSED_BY_RUNTIME, activation)

    shape = _of_pooled(node, data)
    pooled = same_op(node, [data], shape=shape, type_of=data)
    inputs = [pooled if i == index else value for i, value in enumerate(activation.inputs)]
    outputs = {node.outputs[0]: same_op(activation, inputs)}
    return Replace(
        [activation, node], outputs, f"across {activation.op_type}", exactness_of(activation)
    )


def _of_pooled(pool: ir.Node, data: ir.Value) -> ir.Shape | None:
    """Return the shape of the pooled data: the activation may widen one channel to several."""
    before, after = shape_of(data), shape_of(pool.outputs[0])
    if before is None or after is None or before.rank() != after.rank():
        return None
    return ir.Shape([*before.dims[:2], *after.dims[2:]])
