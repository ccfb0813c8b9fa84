"""Compute a large MaxPool from a smaller one of the same value, as in spatial pyramids.

    MaxPool k = MaxPool (k − q + 1) ∘ MaxPool q        where MaxPool q exists anyway

because k − q + 1 consecutive windows of q positions cover k positions. Parallel pools over 5×5, 9×9
and 13×13 windows become a chain of three over 5×5 (He et al., "Spatial Pyramid Pooling", 2014;
YOLOv5's SPPF does this by hand). The padding of the smaller pool counts for the larger one, which
pads the rest. Each pool is computed from the largest possible one, the largest pool first.

Conditions, along each axis: no dilation; the smaller pool has stride 1; each pool, including the
new one, pads less than its window, so that no window is only padding; the larger one does not round
up; and its Indices are unused.

Profit: fewer comparisons, at any size. Measured with onnxruntime, 5/9/13 pools of 64 to 512
channels on maps of 13² to 40²: 1.7 to 2.5 times as fast together.

BITWISE.
"""

from __future__ import annotations

import onnx_ir as ir

from bnfold.algebra.pooling import Pool, feeds_larger_pool, next_smaller_pool
from bnfold.rewriting.contract import Common, Exactness, Op, Replace, require, rewrite
from bnfold.rewriting.query import is_used


@rewrite(
    "cascade-max-pool",
    roots=["MaxPool"],
    exactness=Exactness.BITWISE,
    refusals=[Common.INDICES_USED],
)
def cascade_max_pool(node: ir.Node) -> Replace | None:
    """Replace a MaxPool by one of the largest smaller pool's result.

    Return None if no smaller pool reads the same value, or if a larger one does that can be
    computed from this one: it comes first, because then this one no longer reads that value.
    """
    first = None if feeds_larger_pool(node) else next_smaller_pool(node)
    if first is None:
        return None
    require(not any(map(is_used, node.outputs[1:])), Common.INDICES_USED)
    pool = Pool.of(node)
    rest = pool.after(Pool.of(first))
    assert rest is not None
    attributes = [
        ir.AttrInt64s("kernel_shape", rest.kernel),
        ir.AttrInt64s("strides", rest.strides),
        ir.AttrInt64s("pads", [*(b for b, _ in rest.pads), *(a for _, a in rest.pads)]),
    ]
    cascaded = Op("MaxPool", [first.outputs[0]], attributes, node)
    detail = f"{'×'.join(map(str, pool.kernel))} from {'×'.join(map(str, Pool.of(first).kernel))}"
    return Replace([node], {node.outputs[0]: cascaded}, detail)
