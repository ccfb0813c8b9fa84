"""Conditions that hold passes together: each, if dropped, gives a wrong or unrunnable model.

These are the cases that no test of a single pass covered: a mutant of the code survived all of
them. `assert_kept` also compares values, so that a rewrite which is right may come later.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import bnfold
from bnfold.algebra.affine_maps.carrying import NotCarried
from bnfold.rewriting.contract import Common, Refusal
from tests.support.evaluate import assert_equivalent, run_float64
from tests.support.graphs import (
    Parameters,
    batch_norm,
    build,
    draw_feeds,
    normal,
    only_node,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, run_pass

FOLD, SCALE = "fold-batchnorm", "fold-scale-shift"


def assert_kept(model: onnx.ModelProto, *, sizes: dict[str, int] | None = None) -> None:
    """Assert that all passes together leave the model equal to itself."""
    optimized = bnfold.optimize(model, check=False).to_proto()
    assert_equivalent(model, optimized, draw_feeds(model, sizes=sizes))


# --- Modes and opsets -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["true", "computed"])
@pytest.mark.parametrize("opset", [12, 13, 22])
def test_training_mode_dropout_stays(opset: int, mode: str) -> None:
    text = "(float[N,4] x, bool m) => (float[N,4] y) { y = Dropout(x, r, t) }"
    weights: Parameters = {"r": np.array(0.5, np.float32)}
    if mode == "computed":
        text = text.replace("r, t", "r, m")
    else:
        weights["t"] = np.array(True)
    model = build(text, opset=opset, ir_version=8 if opset < 22 else 10, **weights)
    result = run_pass(model, "strip-dropout")
    assert operators(result.to_proto()) == ["Dropout"]
    (refusal,) = result.record.refusals
    expected = {"true": "TRAINING_MODE", "computed": "MODE_NOT_CONSTANT"}
    assert refusal.reason == expected[mode]


@pytest.mark.parametrize("opset", [12, 13])
def test_inference_dropout_goes_at_the_opsets_that_have_the_mode_as_an_input(opset: int) -> None:
    weights: Parameters = {"r": np.array(0.5, np.float32), "t": np.array(False)}
    text = "(float[N,4] x) => (float[N,4] y) { d = Dropout(x, r, t) y = Neg(d) }"
    assert_rewritten(build(text, opset=opset, **weights), "strip-dropout", ["Neg"])


@pytest.mark.parametrize("read", ["x", "u"])
@pytest.mark.parametrize("branch", ["then", "else"])
def test_a_body_whose_only_node_is_a_dropout(branch: str, read: str) -> None:
    """Its output is then a value of the graph outside, which a body may only return by a node."""
    bodies = dict.fromkeys(("then", "else"), "r () => (float[N,4] o) { o = Sin(x) }")
    bodies[branch] = f"d () => (float[N,4] p) {{ p = Dropout({read}) }}"
    model = build(
        "(float[N,4] x, bool c) => (float[N,4] y, float[N,4] z) { u = Abs(x) z = Neg(u) "
        f"y = If(c) <then_branch = {bodies['then']}, else_branch = {bodies['else']}> }}"
    )
    optimized = run_pass(model, "strip-dropout").to_proto()
    onnx.checker.check_model(optimized, full_check=True)
    kinds = {
        attribute.name: [node.op_type for node in attribute.g.node]
        for attribute in only_node(optimized, "If").attribute
    }
    assert kinds[f"{branch}_branch"] == ["Identity"]
    for choice in (True, False):
        feeds = {**draw_feeds(model), "c": np.array(choice)}
        assert_equivalent(model, optimized, feeds)


@pytest.mark.parametrize("is_test", [0, 1])
def test_opset_6_tells_inference_by_an_attribute(is_test: int) -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) "
        f"{{ c = Conv(x, w) y = BatchNormalization<is_test={is_test}>(c, s, b, m, v) }}",
        opset=6,
        ir_version=3,
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    if is_test:
        assert operators(run_pass(model, FOLD).to_proto()) == ["Conv"]
    else:
        assert_refused(model, FOLD, Common.TRAINING_MODE)


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_opset_6_broadcasts_by_an_attribute(operator: str) -> None:
    """Without it, a bias of one value a column is refused there, and by no checker."""
    product = f"p = {operator}(x, w, z)" if operator == "Gemm" else f"p = {operator}(x, w)"
    model = build(
        f"(float[N,3] x) => (float[N,4] y) {{ {product} "
        "y = BatchNormalization<is_test=1>(p, s, b, m, v) }",
        opset=6,
        ir_version=3,
        w=normal(3, 4),
        **({"z": normal(1, 4)} if operator == "Gemm" else {}),
        **batch_norm(4),
    )
    if operator == "Gemm":
        model.graph.node[0].attribute.append(helper.make_attribute("broadcast", 1))
    optimized = run_pass(model, FOLD).to_proto()
    assert operators(optimized) == ["Gemm"]
    attributes = {each.name: each.i for each in only_node(optimized, "Gemm").attribute}
    assert attributes["broadcast"] == 1
    (rewrite,) = bnfold.optimize(model, only=[FOLD]).record.rewrites
    assert rewrite.certificate is not None
    assert rewrite.certificate.verdict == "certified"
    feeds = draw_feeds(model)
    onnx.checker.check_model(optimized, full_check=True)
    (expected,), (values,) = run_float64(model, feeds), run_float64(optimized, feeds)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


# --- Axes -----------------------------------------------------------------------------------------


def test_a_map_along_another_axis_of_equal_length_is_no_branch() -> None:
    """The factor varies over the rows of the map, of which there are as many as channels."""
    rows = normal(4).reshape(1, 1, 4, 1)
    model = build(
        "(float[N,4,4,5] x) => (float[N,4,4,5] y) "
        "{ c = Conv(x, w) k = Mul(x, rows) y = Add(c, k) }",
        w=normal(4, 4, 1, 1),
        rows=rows,
    )
    assert not run_pass(model, "merge-branches").record.rewrites
    assert_kept(model)


@pytest.mark.parametrize("permutation", [[0, 2, 3, 1], [0, 3, 1, 2], [3, 0, 1, 2], [1, 2, 3, 0]])
def test_an_axis_follows_a_permutation_that_is_no_involution(permutation: list[int]) -> None:
    """To the output, channels of axis 1 are where 1 stands in it; to the input, what stands there.

    All sizes are equal, so that a wrong axis is no error of its own.
    """
    transposed = ",".join(map(str, permutation))
    last = permutation.index(1) == 3
    after = build(
        "(float[4,4,4,4] x) => (float[4,4,4,4] y) { r = Relu(x) "
        "n = BatchNormalization(r, s, b, m, v) "
        f"t = Transpose<perm=[{transposed}]>(n) y = MatMul(t, w) }}",
        w=normal(4, 4),
        **batch_norm(4),
    )
    result = run_pass(after, FOLD)
    assert ("BatchNormalization" not in operators(result.to_proto())) == last
    assert_equivalent(after, result.to_proto(), draw_feeds(after))
    to_conv = permutation[3] == 1
    before = build(
        "(float[4,4,4,4] x) => (float[4,4,4,4] y) "
        f"{{ c = Conv(x, w) t = Transpose<perm=[{transposed}]>(c) y = Mul(t, k) }}",
        w=normal(4, 4, 1, 1),
        k=normal(4),
    )
    result = run_pass(before, SCALE)
    assert ("Mul" not in operators(result.to_proto())) == to_conv
    assert_equivalent(before, result.to_proto(), draw_feeds(before))


def test_batched_matrices_raise_the_rank_of_a_product() -> None:
    """Matrices (N, 3) times a batch of them: the result has three axes, though x has two."""
    model = build(
        "(float[N,3] x) => (float[2,N,4] y) { p = MatMul(x, w) y = Mul(p, k) }",
        w=normal(2, 3, 4),
        k=normal(4),
    )
    for declared in (True, False):
        if not declared:
            del model.graph.value_info[:]
        result = run_pass(model, SCALE)
        assert_equivalent(model, result.to_proto(), draw_feeds(model))
        assert operators(result.to_proto()) == ["MatMul"]


def test_batched_products_are_no_gemm() -> None:
    model = build(
        "(float[2,N,3] x) => (float[2,N,4] y) { p = MatMul(x, w) q = Mul(p, k) y = Add(q, t) }",
        w=normal(3, 4),
        k=normal(4),
        t=normal(4, seed=1),
    )
    assert_rewritten(model, SCALE, ["MatMul", "Add"])


@pytest.mark.parametrize("order", ["c, k", "k, c"])
@pytest.mark.parametrize("kind", ["Mul", "Add"])
def test_a_uniform_map_joins_one_along_an_axis_from_either_side(kind: str, order: str) -> None:
    first, second = ("n = Mul(a, k)", "y = {}(n, c)"), ("n = {}(a, c)", "y = Mul(n, k)")
    lines = " ".join(first if order == "c, k" else second).format(kind)
    model = build(
        f"(float[N,3,6,6] x) => (float[N,4,4,4] y) {{ a = Conv(x, w) {lines} }}",
        w=normal(4, 3, 3, 3),
        k=normal(4, 1, 1),
        c=np.array(-1.5, np.float32),
    )
    assert_rewritten(model, SCALE, ["Conv"])


@pytest.mark.parametrize("axes", [[-3], [-3, -1], [1]])
@pytest.mark.parametrize("opset", [17, 18])
def test_a_mean_over_the_channels_carries_nothing(axes: list[int], opset: int) -> None:
    listed = ",".join(map(str, axes))
    mean = f"ReduceMean<axes=[{listed}]>(n)" if opset < 18 else "ReduceMean(n, axes)"
    weights: Parameters = batch_norm(4)
    weights |= {"b0": weights.pop("b")} | ({"axes": np.array(axes)} if opset >= 18 else {})
    model = build(
        "(float[N,4,6,6] x) => (float[N,a,b,d] y) "
        f"{{ n = BatchNormalization(x, s, b0, m, v) r = {mean} y = Conv(r, w) }}",
        opset=opset,
        w=normal(2, 1, 1, 1),
        **weights,
    )
    (refusal,) = run_pass(model, FOLD).record.refusals
    assert refusal.also_reason == NotCarried.AXIS_POOLED.name
    assert_kept(model)


def test_a_resize_that_scales_channels_carries_nothing() -> None:
    model = build(
        "(float[N,3,6,6] x) => (float[N,8,8,8] y) { c = Conv(x, w) "
        'r = Resize<mode="nearest", coordinate_transformation_mode="asymmetric">(c, , scales) '
        "y = BatchNormalization(r, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        scales=np.array([1, 2, 2, 2], np.float32),
        **batch_norm(8),
    )
    assert_refused(model, FOLD, NotCarried.AXIS_POOLED)
    assert_kept(model)


def test_a_pad_on_channels_carries_nothing() -> None:
    model = build(
        "(float[N,3,6,6] x) => (float[N,6,4,4] y) { c = Conv(x, w) p = Pad(c, pads) "
        "y = BatchNormalization(p, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        pads=np.array([0, 1, 0, 0, 0, 1, 0, 0]),
        **batch_norm(6),
    )
    assert_refused(model, FOLD, NotCarried.AXIS_POOLED)
    assert_kept(model)


@pytest.mark.parametrize("axis", [-1, 3])
def test_an_axis_added_at_the_end(axis: int) -> None:
    model = build(
        "(float[N,3,8] x) => (float[N,4,6,1] y) { c = Conv(x, w) u = Unsqueeze(c, axes) "
        "y = BatchNormalization(u, s, b, m, v) }",
        w=normal(4, 3, 3),
        axes=np.array([axis]),
        **batch_norm(4),
    )
    assert_rewritten(model, FOLD, ["Conv", "Unsqueeze"])


@pytest.mark.parametrize("axis", [-2, 2])
def test_an_axis_added_before_the_last_leaves_channels_where_they_are(axis: int) -> None:
    model = build(
        "(float[N,3,8] x) => (float[N,4,1,6] y) { c = Conv(x, w) u = Unsqueeze(c, axes) "
        "y = BatchNormalization(u, s, b, m, v) }",
        w=normal(4, 3, 3),
        axes=np.array([axis]),
        **batch_norm(4),
    )
    assert_rewritten(model, FOLD, ["Conv", "Unsqueeze"])


def test_an_axis_added_first_moves_the_channels() -> None:
    model = build(
        "(float[N,3,8] x) => (float[1,N,4,6] y) { c = Conv(x, w) u = Unsqueeze(c, axes) "
        "y = Mul(u, k) }",
        w=normal(4, 3, 3),
        axes=np.array([-4]),
        k=normal(4, 1),
    )
    assert_rewritten(model, SCALE, ["Conv", "Unsqueeze"])


# --- Pools ----------------------------------------------------------------------------------------


def pooled(pool: str, outputs: str = "float[N,4,h,w] y") -> onnx.ModelProto:
    return build(
        f"(float[N,3,9,9] x) => ({outputs}) {{ c = Conv(x, k) {pool} "
        "y = BatchNormalization(p, s, b, m, v) }",
        k=normal(4, 3, 3, 3),
        **(batch_norm(4) | {"s": np.abs(batch_norm(4)["s"])}),
    )


def test_a_pool_whose_indices_are_read_carries_nothing() -> None:
    model = pooled(
        "p, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)",
        "float[N,4,h,w] y, int64[N,4,h,w] i",
    )
    assert_refused(model, FOLD, Common.INDICES_USED)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("ceil_mode=1, count_include_pad=1", NotCarried.PADDED_AVERAGE),
        ("pads=[1,1,1,1], count_include_pad=1", NotCarried.PADDED_AVERAGE),
        ('auto_pad="SAME_UPPER", count_include_pad=1', NotCarried.PADDED_AVERAGE),
        ("pads=[1,1,1,1]", None),
        ("ceil_mode=1", None),
        ("count_include_pad=1", None),
    ],
)
def test_an_average_that_counts_padding_carries_no_shift(
    attributes: str, reason: Refusal | None
) -> None:
    model = pooled(f"p = AveragePool<kernel_shape=[2,2], strides=[2,2], {attributes}>(c)")
    model.opset_import[0].version = 19
    model.ir_version = 9
    if reason is None:
        assert operators(run_pass(model, FOLD).to_proto()) == ["Conv", "AveragePool"]
    else:
        assert_refused(model, FOLD, reason)
    assert_kept(model)


# --- Bodies ---------------------------------------------------------------------------------------


def test_a_shape_in_a_body_without_inputs_is_not_fixed() -> None:
    """What a body captures may have another size at another time, whatever the file claims."""
    body = (
        "b () => (float[p,q] o) { s = Shape(u) h = Slice(s, zero, one) l = Concat<axis=0>(h, rest) "
        "o = Reshape(u, l) }"
    )
    model = build(
        "(float[N,4] x, bool c) => (float[p,q] y) { u = Abs(x) y = If(c) <then_branch = "
        f"{body}, else_branch = {body.replace('b ()', 'e ()')}> }}",
        zero=np.array([0]),
        one=np.array([1]),
        rest=np.array([4]),
    )
    model.graph.value_info.append(helper.make_tensor_value_info("u", TensorProto.FLOAT, [2, 4]))
    optimized = bnfold.optimize(model, check=False).to_proto()
    del model.graph.value_info[:], optimized.graph.value_info[:]
    for rows in (2, 5):
        for choice in (True, False):
            feeds = {**draw_feeds(model, sizes={"N": rows}), "c": np.array(choice)}
            assert_equivalent(model, optimized, feeds)


def test_a_bias_that_a_beta_of_zero_hides_is_replaced_by_one_that_broadcasts() -> None:
    """Before opset 7, a Gemm broadcasts its bias only if an attribute says so."""
    model = build(
        "(float[2,3] x) => (float[2,4] y) { p = Gemm<beta=0.0>(x, w, z) "
        "y = BatchNormalization<is_test=1>(p, s, b, m, v) }",
        opset=6,
        ir_version=3,
        w=normal(3, 4),
        z=normal(2, 4),
        **batch_norm(4),
    )
    optimized = run_pass(model, FOLD).to_proto()
    attributes = {each.name: each.i for each in only_node(optimized, "Gemm").attribute}
    assert attributes["broadcast"] == 1


def test_a_map_along_the_rows_is_no_map_of_as_many_channels() -> None:
    model = build(
        "(float[N,3,6,6] x) => (float[N,4,4,4] y) { c = Conv(x, w) y = Mul(c, rows) }",
        w=normal(4, 3, 3, 3),
        rows=normal(4, 1),
    )
    assert not run_pass(model, SCALE).record.rewrites
    assert_kept(model)
