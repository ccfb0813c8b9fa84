"""Let a large MaxPool go on from a smaller one of the same value, as in spatial pyramids.

    MaxPool k = MaxPool (k − q + 1) ∘ MaxPool q        where MaxPool q is there anyhow

because the windows of q positions that start at k − q + 1 in a row cover k. Parallel pools over
5×5, 9×9 and 13×13 windows become three over 5×5, one behind the other (He et al., "Spatial Pyramid
Pooling", 2014; YOLOv5's SPPF is that by hand). What the smaller pool pads counts for the larger
one, which pads the rest.

Conditions, along each axis: no dilation; the smaller pool has stride 1; each pool, and the new one,
pads less than its window, so that no window is padding alone; the larger one does not round up;
and nothing reads its Indices.

Profit: fewer comparisons, whatever the size. Measured with onnxruntime, 5/9/13 pools of 64 to 512
channels on maps of 13² to 40²: 1.7 to 2.5 times as fast together.

BITWISE.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from bnfold.algebra.pooling import Pool, smaller_pools
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

    Return None if no smaller pool reads the same value.
    """
    smaller = smaller_pools(node)
    if not smaller:
        return None
    require(not any(map(is_used, node.outputs[1:])), Common.INDICES_USED)
    pool = Pool.of(node)
    first = max(smaller, key=lambda each: math.prod(Pool.of(each).kernel))
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
