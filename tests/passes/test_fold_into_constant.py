"""Maps of what is picked of a constant, such as a table of embeddings, fold into the constant."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from bnfold.algebra.affine_maps.carrying import NotCarried
from bnfold.algebra.affine_maps.reach import NotReached
from bnfold.algebra.weights import NotStorable
from bnfold.rewriting.contract import Common
from tests.support.graphs import batch_norm, build, make_overridable, normal, operators
from tests.support.passes import assert_refused, assert_rewritten, parameters, run_pass

NAME, SCALE = "fold-batchnorm", "fold-scale-shift"


@pytest.mark.parametrize("opset", [7, 13, 21])
@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_a_table_takes_the_map(kind: str, opset: int) -> None:
    model = build(
        f"({kind}[N] i) => (float[N,4] y) "
        "{ e = Gather(t, i) y = BatchNormalization(e, s, b, m, v) }",
        opset=opset,
        t=normal(6, 4),
        **batch_norm(4),
    )
    optimized = assert_rewritten(model, NAME, ["Gather"], certified=True)
    assert list(parameters(optimized)) == ["t.folded"]


@pytest.mark.parametrize("shape", ["N,3", "2,3", "N,L"])
def test_the_rows_of_sequences(shape: str) -> None:
    model = build(
        f"(int64[{shape}] i) => (float[a,4,c] y) {{ e = Gather(t, i) "
        "f = Transpose<perm=[0,2,1]>(e) y = BatchNormalization(f, s, b, m, v) }",
        t=normal(6, 4),
        **batch_norm(4),
    )
    assert_rewritten(model, NAME, ["Gather", "Transpose"], sizes={"L": 5}, certified=True)


@pytest.mark.parametrize(("kind", "dtype"), [("float16", np.float16), ("double", np.float64)])
def test_other_types_and_a_constant_node(kind: str, dtype: type[np.generic]) -> None:
    model = build(
        f"(int64[N,2] i) => ({kind}[N,2,4] y) {{ t = Constant() e = Gather(t, i) y = Mul(e, k) }}",
        k=np.array(2.5, dtype),
    )
    table = onnx.numpy_helper.from_array(normal(6, 4, dtype=dtype))
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("value", table))
    assert_rewritten(model, SCALE, ["Gather"], rtol=1e-2, atol=1e-2, certified=True)


def test_a_constant_branch_of_a_concat() -> None:
    model = build(
        "(float[1,3,4] x) => (float[1,4,4] y) "
        "{ c = Conv(x, w) g = Concat<axis=1>(c, t) y = BatchNormalization(g, s, b, m, v) }",
        w=normal(2, 3, 1),
        t=normal(1, 2, 4),
        **batch_norm(4),
    )
    assert_rewritten(model, NAME, ["Conv", "Concat"], certified=True)
    (rewrite,) = run_pass(model, NAME).record.rewrites
    assert rewrite.detail == "into Conv, a constant"


def test_a_table_that_is_also_used_elsewhere_stays() -> None:
    """As in language models whose last layer multiplies with the embeddings."""
    model = build(
        "(int64[N,3] i) => (float[N,3,4] y, float[N,3,6] z) "
        "{ e = Gather(t, i) y = Mul(e, k) u = Transpose(t) z = MatMul(e, u) }",
        t=normal(6, 4),
        k=np.array(2.5, np.float32),
    )
    assert operators(run_pass(model, SCALE).to_proto()) == operators(model)
    shared = build(
        "(int64[N] i, float[N,4] x) => (float[N,4] y, float[N,6] z) { e = Gather(t, i) "
        "u = Transpose(t) z = MatMul(x, u) y = BatchNormalization(e, s, b, m, v) }",
        t=normal(6, 4),
        **batch_norm(4),
    )
    assert_refused(shared, NAME, NotReached.CONSTANT_SHARED)


def rows(**others: Any) -> onnx.ModelProto:
    return build(
        "(int64[N,4] i) => (float[N,4,c] y) "
        "{ e = Gather(t, i) y = BatchNormalization(e, s, b, m, v) }",
        **{"t": normal(6, 4), **batch_norm(4), **others},
    )


def test_a_table_that_may_be_overridden_stays() -> None:
    assert_refused(make_overridable(rows(), "t"), NAME, Common.WEIGHT_OVERRIDABLE)


def test_channels_that_are_indices_stay() -> None:
    assert_refused(rows(), NAME, NotCarried.AXIS_LOST)


def test_a_table_of_masks_stays() -> None:
    table = normal(6, 4)
    table[2] = -np.inf
    model = build(
        "(int64[N] i) => (float[N,4] y) { e = Gather(t, i) y = BatchNormalization(e, s, b, m, v) }",
        t=table,
        **batch_norm(4),
    )
    assert_refused(model, NAME, NotStorable.NOT_REPRESENTABLE)


def test_a_table_that_is_computed_is_followed_to_what_is_stored() -> None:
    model = build(
        "(int64[N] i) => (float[N,4] y) "
        "{ u = Neg(t) e = Gather(u, i) y = BatchNormalization(e, s, b, m, v) }",
        t=normal(6, 4),
        **batch_norm(4),
    )
    assert_rewritten(model, NAME, ["Neg", "Gather"], certified=True)


def test_what_can_be_evaluated_is_not_folded() -> None:
    model = build(
        "(float[N,4] x) => (float[N,4] y) { n = BatchNormalization(t, s, b, m, v) y = Add(x, n) }",
        t=normal(2, 4),
        **batch_norm(4),
    )
    assert_refused(model, NAME, Common.NO_GAIN)
