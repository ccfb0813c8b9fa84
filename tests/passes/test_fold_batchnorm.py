"""fold-batchnorm: each operator that absorbs, each refusal by name, and random graphs."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.algebra.affine_maps.affine import NotAffine
from bnfold.algebra.affine_maps.carrying import NotCarried
from bnfold.algebra.affine_maps.linear import NotAbsorbed
from bnfold.algebra.affine_maps.reach import NotReached
from bnfold.algebra.weights import NotStorable
from bnfold.arrays import float_limits
from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.normal_forms.projections import _with_projections
from bnfold.rewriting.contract import Common
from tests.support.evaluate import assert_equivalent, run_plain
from tests.support.graphs import (
    Array,
    Parameters,
    batch_norm,
    build,
    draw_feeds,
    initializer,
    make_overridable,
    named_in,
    normal,
    only_node,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, parameters, run_pass
from tests.support.windows import window

NAME = "fold-batchnorm"


def conv_bn(
    opset: int = 17, bn: str = "", ir_version: int = 8, **replaced: Array
) -> onnx.ModelProto:
    weights: Parameters = {"w": normal(4, 3, 3, 3), **batch_norm(4), **replaced}
    return build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) "
        f"{{ c = Conv(x, w) y = BatchNormalization{bn}(c, s, b, m, v) }}",
        opset=opset,
        ir_version=ir_version,
        **weights,
    )


# --- Convolutions ---------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("spatial_rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_folds_into_conv(spatial_rank: int, groups: int, bias: bool) -> None:
    size = ",".join(["7"] * spatial_rank)
    out = ",".join(["5"] * spatial_rank)
    weights: Parameters = {"w": normal(8, 4 // groups, *[3] * spatial_rank), **batch_norm(8)}
    if bias:
        weights["d"] = normal(8)
    model = build(
        f"(float[N,4,{size}] x) => (float[N,8,{out}] y) "
        f"{{ c = Conv<group={groups}>(x, w{', d' if bias else ''}) "
        "y = BatchNormalization(c, s, b, m, v) }",
        **weights,
    )
    assert_rewritten(model, NAME, ["Conv"])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("spatial_rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_folds_into_conv_transpose(spatial_rank: int, groups: int, bias: bool) -> None:
    size = ",".join(["5"] * spatial_rank)
    out = ",".join(["11"] * spatial_rank)
    weights: Parameters = {"w": normal(4, 8 // groups, *[3] * spatial_rank), **batch_norm(8)}
    if bias:
        weights["d"] = normal(8)
    model = build(
        f"(float[N,4,{size}] x) => (float[N,8,{out}] y) "
        f"{{ c = ConvTranspose<group={groups}, strides={[2] * spatial_rank}>"
        f"(x, w{', d' if bias else ''}) y = BatchNormalization(c, s, b, m, v) }}",
        **weights,
    )
    assert_rewritten(model, NAME, ["ConvTranspose"])


@pytest.mark.parametrize("given", ["", ", d", ", d, mask", ", , mask"])
@pytest.mark.parametrize(("groups", "of_offsets"), [(1, 1), (2, 1), (2, 2)])
def test_folds_into_deform_conv(given: str, groups: int, of_offsets: int) -> None:
    """Whatever its offsets and its mask are: they are inputs."""
    weights: Parameters = {"w": normal(6, 4 // groups, 2, 2), **batch_norm(6)}
    if "d" in given:
        weights["d"] = normal(6)
    mask = f", float[N,{4 * of_offsets},3,3] mask" if "mask" in given else ""
    model = build(
        f"(float[N,4,4,4] x, float[N,{8 * of_offsets},3,3] o{mask}) => (float[N,6,3,3] y) "
        f"{{ c = DeformConv<group={groups}, offset_group={of_offsets}>(x, w, o{given}) "
        "y = BatchNormalization(c, s, b, m, v) }",
        opset=19,
        ir_version=9,
        **weights,
    )
    assert_rewritten(model, NAME, ["DeformConv"], certified=True)


def test_a_deform_conv_whose_filters_vary_is_none() -> None:
    model = build(
        "(float[N,4,4,4] x, float[N,8,3,3] o, float[6,4,2,2] w) => (float[N,6,3,3] y) "
        "{ c = DeformConv(x, w, o) y = BatchNormalization(c, s, b, m, v) }",
        opset=19,
        ir_version=9,
        **batch_norm(6),
    )
    assert_refused(model, NAME, Common.WEIGHT_NOT_CONSTANT)


@pytest.mark.parametrize(("groups", "bias"), [(1, ""), (2, ", d")])
def test_what_a_deform_conv_reads_and_what_weighs_it_are_the_same(groups: int, bias: str) -> None:
    """The proof writes it so."""
    weights: Parameters = {"w": normal(6, 4 // groups, 2, 2), "d": normal(6, seed=3)}
    interface = "(float[2,4,4,4] x, float[2,8,3,3] o, float[2,4,3,3] mask) => (float[2,6,3,3] y)"
    line = f"DeformConv<group={groups}>(x, w, o{bias or ', '}, mask)"
    model = build(f"{interface} {{ y = {line} }}", opset=19, ir_version=9, **weights)
    written = _with_projections(model)
    assert operators(written) == ["DeformConv", "Conv"]
    written.graph.output[0].CopyFrom(model.graph.output[0])
    assert_equivalent(model, written, draw_feeds(model))


def test_a_deform_conv_that_is_folded_otherwise_differs() -> None:
    """What cannot be proven is not evaluated: that takes minutes."""
    interface = "(float[N,4,4,4] x, float[N,8,3,3] o) => (float[N,6,3,3] y)"
    weights: Parameters = {"w": normal(6, 4, 2, 2), **batch_norm(6)}
    before = "c = DeformConv(x, w, o) y = BatchNormalization(c, s, b, m, v)"
    pair = window(interface, before, "y = DeformConv(x, w, o)", weights, opset=19)
    found = certify(pair)
    assert found.verdict != "certified"
    pair = window(
        interface,
        "y = DeformConv(x, w, o)",
        "a = Neg(x) b = Neg(a) y = DeformConv(b, w, o)",
        weights,
        opset=19,
    )
    assert "DeformConv, which takes too long" in certify(pair).note


def test_conv_transpose_bias_reaches_positions_that_no_kernel_covers() -> None:
    model = build(
        "(float[N,3,4,4] x) => (float[N,2,12,12] y) { "
        "c = ConvTranspose<strides=[3,3], output_padding=[2,2]>(x, w) "
        "y = BatchNormalization(c, s, b, m, v) }",
        w=normal(3, 2, 1, 1),
        **batch_norm(2),
    )
    assert_rewritten(model, NAME, ["ConvTranspose"])


def test_empty_bias_counts_as_none() -> None:
    model = conv_bn()
    model.graph.node[0].input.append("")
    assert_rewritten(model, NAME, ["Conv"])


@pytest.mark.parametrize("pads", ["pads=[1,1,1,1]", 'auto_pad="SAME_UPPER"'])
def test_padding_of_the_producer_does_not_matter(pads: str) -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,8,8] y) "
        f"{{ c = Conv<{pads}>(x, w) y = BatchNormalization(c, s, b, m, v) }}",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    assert_rewritten(model, NAME, ["Conv"])


# --- Gemm and MatMul ------------------------------------------------------------------------

_C_SHAPES: list[tuple[int, ...] | None] = [None, (), (1,), (6,), (1, 6), (5, 1), (5, 6), (1, 1)]


@pytest.mark.parametrize("shape", _C_SHAPES)
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_folds_into_gemm(
    transposed: tuple[int, int], beta: float, shape: tuple[int, ...] | None
) -> None:
    trans_a, trans_b = transposed
    weights: Parameters = {"w": normal(*((6, 4) if trans_b else (4, 6))), **batch_norm(6)}
    if shape is not None:
        weights["d"] = np.asarray(normal(*shape))
    model = build(
        f"(float[{'4,5' if trans_a else '5,4'}] x) => (float[5,6] y) "
        f"{{ c = Gemm<alpha=0.7, beta={beta}, transA={trans_a}, transB={trans_b}>"
        f"(x, w{'' if shape is None else ', d'}) y = BatchNormalization(c, s, b, m, v) }}",
        **weights,
    )
    assert_rewritten(model, NAME, ["Gemm"])


def test_matmul_becomes_gemm() -> None:
    model = build(
        "(float[N,4] x) => (float[N,6] y) "
        "{ c = MatMul(x, w) y = BatchNormalization(c, s, b, m, v) }",
        w=normal(4, 6),
        **batch_norm(6),
    )
    assert_rewritten(model, NAME, ["Gemm"])


@pytest.mark.parametrize("order", ["c, d", "d, c"])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (1,), ()])
def test_matmul_and_bias_become_gemm(order: str, shape: tuple[int, ...]) -> None:
    model = build(
        f"(float[N,4] x) => (float[N,6] y) {{ c = MatMul(x, w) a = Add({order}) "
        "y = BatchNormalization(a, s, b, m, v) }",
        w=normal(4, 6),
        d=np.asarray(normal(*shape)),
        **batch_norm(6),
    )
    assert_rewritten(model, NAME, ["Gemm"])


def test_refuses_matmul_whose_channels_are_those_of_an_input() -> None:
    """They are the rows of what it reads, which a linear operator before it would scale."""
    model = build(
        "(float[N,6,4] x) => (float[N,6,4] y) "
        "{ c = MatMul(x, w) y = BatchNormalization(c, s, b, m, v) }",
        w=normal(4, 4),
        **batch_norm(6),
    )
    assert_refused(model, NAME, NotReached.GRAPH_INPUT)


def test_refuses_matmul_with_a_bias_per_row() -> None:
    model = build(
        "(float[6,4] x) => (float[6,6] y) { c = MatMul(x, w) a = Add(c, d) "
        "y = BatchNormalization(a, s, b, m, v) }",
        w=normal(4, 6),
        d=normal(6, 1),
        **batch_norm(6),
    )
    assert_refused(model, NAME, NotReached.NOT_LINEAR)


def test_refuses_matmul_of_unknown_rank() -> None:
    model = build(
        "(float[N,4] x, int64[K] shape) => (y) { r = Reshape(x, shape) c = MatMul(r, w) "
        "y = BatchNormalization(c, s, b, m, v) }",
        w=normal(4, 6),
        **batch_norm(6),
    )
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    assert_refused(model, NAME, Common.SHAPE_UNKNOWN)


def test_refuses_residual_add() -> None:
    model = build(
        "(float[N,4] x) => (float[N,4] y) { c = MatMul(x, w) a = Add(c, x) "
        "y = BatchNormalization(a, s, b, m, v) }",
        w=normal(4, 4),
        **batch_norm(4),
    )
    assert_refused(model, NAME, NotReached.GRAPH_INPUT)


SUMS = {
    "of any sizes": "p = Conv(x, w) q = Conv(z, u)",
    "with one of each channel": "p = Conv(x, w) g = GlobalAveragePool(z) q = Conv(g, u)",
    "of one of each channel": "f = GlobalAveragePool(x) p = Conv(f, w) q = Conv(z, u)",
    "resized": "p = Conv(x, w) k = Conv(z, u) q = Resize(k, , twice)",
    "of fewer axes": "p = Conv(x, w) h = ReduceMean<axes=[0]>(z) i = Conv(h, u) "
    "q = Squeeze(i, zero)",
}


@pytest.mark.parametrize("op", ["Add", "Sub", "Sum"])
@pytest.mark.parametrize("branches", SUMS.values(), ids=SUMS)
@pytest.mark.parametrize("order", ["p, q", "q, p"])
def test_folds_into_both_operands_of_a_sum_that_broadcasts(
    op: str, branches: str, order: str
) -> None:
    """As of an octave convolution, which adds maps of half the size, where sizes are free."""
    more: Parameters = {"twice": np.array([1, 1, 2, 2], np.float32), "zero": np.array([0])}
    weights = named_in(branches, more)
    model = build(
        "(float[2,3,H,W] x, float[2,3,G,V] z) => (float[a,b,c,d] y) "
        f"{{ {branches} o = {op}({order}) y = BatchNormalization(o, s, b, m, v) }}",
        w=normal(4, 3, 1, 1),
        u=normal(4, 3, 1, 1, seed=1),
        **weights,
        **batch_norm(4),
    )
    half = 1 + ("Resize" in branches)
    sizes = {"H": 6, "W": 4, "G": 6 // half, "V": 4 // half}
    expected = operators(run_pass(model, NAME).to_proto())
    assert sorted([*expected, "BatchNormalization"]) == sorted(operators(model))
    certified = (op, order) == ("Add", "q, p")
    assert_rewritten(model, NAME, expected, sizes=sizes, certified=certified)


@pytest.mark.parametrize(
    "branches",
    [
        "p = Conv(x, w) r = Conv(x, u) q = ReduceMean<axes=[1]>(r)",
        "p = Conv(x, w) r = Conv(x, u) q = ReduceMean<axes=[0,1], keepdims=0>(r)",
    ],
)
def test_refuses_a_sum_that_broadcasts_along_the_channels(branches: str) -> None:
    model = build(
        f"(float[N,3,H,W] x) => (float[N,4,H,W] y) {{ {branches} o = Add(p, q) "
        "y = BatchNormalization(o, s, b, m, v) }",
        w=normal(4, 3, 1, 1),
        u=normal(4, 3, 1, 1, seed=1),
        **batch_norm(4),
    )
    assert_refused(model, NAME, NotCarried.BROADCAST, in_the_way="Add o")


def test_refuses_a_sum_whose_axes_an_attribute_aligns() -> None:
    model = build(
        "(float[N,3,5,5] x) => (float[N,4,5,5] y) { p = Conv(x, w) k = ReduceMean<axes=[0]>(x) "
        "q = Conv(k, u) o = Add<broadcast=1>(p, q) "
        "y = BatchNormalization<is_test=1>(o, s, b, m, v) }",
        w=normal(4, 3, 1, 1),
        u=normal(4, 3, 1, 1, seed=1),
        opset=6,
        **batch_norm(4),
    )
    assert_refused(model, NAME, NotReached.NOT_LINEAR)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("p = Add(k, d) q = Add(v, d)", ["Add", "Add"]),
        ("p = Sub(k, d) q = Relu(v)", ["Add", "Add", "Relu"]),
        ("p = Relu(k) q = Relu(v)", None),
        ("p = Add(k, z) q = Relu(v)", None),
    ],
)
def test_a_bias_that_is_there_takes_the_shift(lines: str, expected: list[str] | None) -> None:
    """As of keys and values: a BatchNormalization before two products, each with a bias."""
    model = build(
        "(float[N,4,T] x, float[N,T,4] z) => (float[N,T,4] p, float[N,T,4] q) "
        "{ n = BatchNormalization(x, s, b, m, v0) t = Transpose<perm=[0,2,1]>(n) "
        f"k = MatMul(t, w) v = MatMul(t, u) {lines} }}",
        w=normal(4, 4),
        u=normal(4, 4, seed=1),
        d=normal(4),
        **{"v0" if name == "v" else name: each for name, each in batch_norm(4).items()},
    )
    if expected is None:
        record = run_pass(model, NAME).record
        assert not record.rewrites
        assert "NO_GAIN" in str(record.refusals[0])
        return
    result = run_pass(model, NAME, "fold-scale-shift").to_proto()
    left = [each for each in operators(result) if each not in ("MatMul", "Transpose")]
    assert sorted(left) == expected
    assert_equivalent(model, result, draw_feeds(model))
    assert not run_pass(result, NAME, "fold-scale-shift").record.rewrites


# --- Opsets and modes -----------------------------------------------------------------------


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 14, 15, 17, 21])
def test_folds_at_every_opset(opset: int) -> None:
    assert_rewritten(conv_bn(opset, ir_version=10 if opset > 20 else 8), NAME, ["Conv"])


@pytest.mark.parametrize("opset", [1, 6])
def test_folds_at_old_opsets_with_is_test(opset: int) -> None:
    consumed = ", consumed_inputs=[0,0,0,0,0]" if opset == 1 else ""
    result = run_pass(conv_bn(opset, f"<is_test=1{consumed}>", ir_version=3), NAME)
    assert operators(result.to_proto()) == ["Conv"]
    plain = run_pass(conv_bn(9), NAME)
    for name in ("w.folded", "w.bias.folded"):
        np.testing.assert_array_equal(
            initializer(result.to_proto(), name), initializer(plain.to_proto(), name)
        )


@pytest.mark.parametrize(
    ("opset", "bn"), [(6, ""), (14, "<training_mode=1>"), (17, "<training_mode=1>")]
)
def test_refuses_training_mode(opset: int, bn: str) -> None:
    assert_refused(conv_bn(opset, bn), NAME, Common.TRAINING_MODE)


@pytest.mark.parametrize("opset", [7, 9, 13])
def test_refuses_outputs_that_select_training_mode(opset: int) -> None:
    model = conv_bn(opset)
    model.graph.node[1].output.extend(["mean", "var"])
    assert_refused(model, NAME, NotAffine.TRAINING_OUTPUTS)


def test_refuses_an_extra_output_that_is_read() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y, float[4] z) "
        "{ c = Conv(x, w) y, mean, var = BatchNormalization(c, s, b, m, v) z = Relu(mean) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    assert_refused(model, NAME, NotAffine.EXTRA_OUTPUT_USED)


@pytest.mark.parametrize("opset", [7, 8])
def test_refuses_statistics_per_activation(opset: int) -> None:
    assert_refused(conv_bn(opset, "<spatial=0>"), NAME, NotAffine.PER_ACTIVATION)


def test_epsilon_counts() -> None:
    weights: Parameters = {"v": np.full(4, 1e-3, np.float32)}
    assert_rewritten(conv_bn(bn="<epsilon=0.1>", **weights), NAME, ["Conv"])


# --- Constants ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s", "b", "m", "v"])
def test_refuses_an_overridable_parameter(name: str) -> None:
    assert_refused(make_overridable(conv_bn(), name), NAME, NotAffine.PARAMETER_OVERRIDABLE)


def test_refuses_an_overridable_weight() -> None:
    assert_refused(make_overridable(conv_bn(), "w"), NAME, Common.WEIGHT_OVERRIDABLE)


def test_refuses_a_computed_parameter() -> None:
    model = build(
        "(float[N,3,8,8] x, float[4] s) => (float[N,4,6,6] y) "
        "{ c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        **{name: content for name, content in batch_norm(4).items() if name != "s"},
    )
    assert_refused(model, NAME, Common.PARAMETER_NOT_CONSTANT)


def test_refuses_a_computed_weight() -> None:
    model = build(
        "(float[N,3,8,8] x, float[4,3,3,3] w) => (float[N,4,6,6] y) "
        "{ c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }",
        **batch_norm(4),
    )
    assert_refused(model, NAME, Common.WEIGHT_NOT_CONSTANT)


def test_reads_constants_from_nodes_and_through_identity() -> None:
    weights = batch_norm(4)
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) { i = Identity(s) j = Identity(i) "
        "c = Conv(x, w) y = BatchNormalization(c, j, k, m, v) }",
        w=normal(4, 3, 3, 3),
        **{name: content for name, content in weights.items() if name != "b"},
    )
    constant = onnx.helper.make_node(
        "Constant", [], ["k"], value_floats=[float(value) for value in weights["b"]]
    )
    model.graph.node.insert(0, constant)
    assert_rewritten(model, NAME, ["Conv"])


def test_ir_version_3_lists_initializers_as_inputs_and_they_are_constants() -> None:
    model = conv_bn(8, ir_version=3)
    result = run_pass(model, NAME)
    assert operators(result.to_proto()) == ["Conv"]
    assert result.to_proto().ir_version == 4
    assert [value.name for value in result.to_proto().graph.input] == ["x"]
    assert_equivalent(model, result.to_proto(), draw_feeds(model))


# --- Other readers --------------------------------------------------------------------------


def test_refuses_a_result_that_something_else_reads() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] z) "
        "{ c = Conv(x, w) z = Relu(c) y = BatchNormalization(c, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    assert_refused(model, NAME, Common.SHARED, in_the_way="Conv c")


def test_refuses_a_result_that_is_a_graph_output() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] c) "
        "{ c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    assert_refused(model, NAME, Common.SHARED)


CAPTURED = """(float[N,3,8,8] x, bool cond) => (float[N,4,6,6] y, float[N,4,6,6] z) {
    c = Conv(x, w)
    y = BatchNormalization(c, s, b, m, v)
    z = If (cond) <
        then_branch = then () => (float[N,4,6,6] t) { t = Relu(c) },
        else_branch = other () => (float[N,4,6,6] e) { e = Neg(y) }
    >
}"""


def test_refuses_a_result_that_a_body_captures() -> None:
    model = build(CAPTURED, w=normal(4, 3, 3, 3), **batch_norm(4))
    assert_refused(model, NAME, Common.SHARED)


def test_folds_inside_a_body_with_weights_from_outside() -> None:
    model = build(
        """(float[N,3,8,8] x, bool cond) => (float[N,4,6,6] z) {
            z = If (cond) <
                then_branch = then () => (float[N,4,6,6] t) {
                    c = Conv(x, w)
                    t = BatchNormalization(c, s, b, m, v)
                },
                else_branch = other () => (float[N,4,6,6] e) { e = Conv(x, w) }
            >
        }""",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    result = run_pass(model, NAME)
    assert [rewrite.site for rewrite in result.record.rewrites] == ["z/then_branch/t"]
    for cond in (True, False):
        feeds = {**draw_feeds(model), "cond": np.array(cond)}
        assert_equivalent(model, result.to_proto(), feeds)


def test_refuses_an_operator_outside_the_body() -> None:
    model = build(
        """(float[N,3,8,8] x, bool cond) => (float[N,4,6,6] z) {
            c = Conv(x, w)
            z = If (cond) <
                then_branch = then () => (float[N,4,6,6] t) {
                    t = BatchNormalization(c, s, b, m, v)
                },
                else_branch = other () => (float[N,4,6,6] e) { e = Identity(c) }
            >
        }""",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    assert_refused(model, NAME, NotReached.OTHER_GRAPH)


def test_a_shared_weight_is_not_edited_under_its_other_reader() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] z) "
        "{ c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) z = Conv(x, w) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    optimized = assert_rewritten(model, NAME, ["Conv", "Conv"])
    np.testing.assert_array_equal(initializer(optimized, "w"), initializer(model, "w"))
    assert set(parameters(optimized)) == {"w", "w.folded", "w.bias.folded"}


def test_new_names_are_unique() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] z) { c = Conv(x, w) "
        "y = BatchNormalization(c, s, b, m, v) z = Relu(y) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    model.graph.node[2].output[0] = model.graph.output[1].name = "w.folded"
    optimized = assert_rewritten(model, NAME, ["Conv", "Relu"])
    assert set(parameters(optimized)) == {"w.folded_1", "w.bias.folded"}


def test_chain_of_batch_normalizations_folds_whole() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) { c = Conv(x, w) "
        "d = BatchNormalization(c, s, b, m, v) e = BatchNormalization(d, b, s, v, v) "
        "y = BatchNormalization(e, s, m, b, v) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    assert_rewritten(model, NAME, ["Conv"])


# --- Producers ------------------------------------------------------------------------------


def test_refuses_a_graph_input() -> None:
    model = build(
        "(float[N,4,8,8] x) => (float[N,4,8,8] y) { y = BatchNormalization(x, s, b, m, v) }",
        **batch_norm(4),
    )
    assert_refused(model, NAME, NotReached.GRAPH_INPUT)


def test_refuses_an_activation_and_names_it() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) "
        "{ c = Conv(x, w) r = Relu(c) y = BatchNormalization(r, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    assert_refused(model, NAME, NotCarried.ACTIVATION_SHIFT, in_the_way="Relu r")


def test_refuses_a_foreign_operator_of_the_same_name() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) "
        "{ c = custom.Conv(x, w) y = BatchNormalization(c, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    model.opset_import.append(onnx.helper.make_opsetid("custom", 1))
    assert_refused(model, NAME, NotReached.NOT_LINEAR)


def test_refuses_parameters_of_another_length() -> None:
    model = conv_bn(**{name: content[:3] for name, content in batch_norm(4).items()})
    assert_refused(model, NAME, NotAbsorbed.CHANNELS_DIFFER)


def test_refuses_malformed_parameters() -> None:
    assert_refused(conv_bn(s=normal(3)), NAME, NotAffine.PARAMETERS_MALFORMED)


# --- Numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "replaced",
    [
        {"v": np.full(4, -1, np.float32)},
        {"s": np.array([1, np.nan, 1, 1], np.float32)},
        {"m": np.array([1, np.inf, 1, 1], np.float32)},
        {"s": np.full(4, 3e38, np.float32)},
    ],
)
def test_refuses_a_weight_that_is_not_finite(replaced: Parameters) -> None:
    assert_refused(conv_bn(**replaced), NAME, NotStorable.NOT_REPRESENTABLE)


def test_an_infinite_scale_beside_a_bias_is_refused_without_a_warning() -> None:
    """∞ · bias − ∞ · mean is NaN, of which numpy warns."""
    infinite = batch_norm(4) | {"s": np.array([1, np.inf, 1, 1], np.float32)}
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) "
        "{ c = Conv(x, w, bias) y = BatchNormalization(c, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        bias=np.ones(4, np.float32),
        **infinite | {"m": np.ones(4, np.float32)},
    )
    assert_refused(model, NAME, NotStorable.NOT_REPRESENTABLE)


def test_refuses_a_half_that_overflows() -> None:
    parameters16 = batch_norm(4, dtype=np.float16) | {"v": np.full(4, 1e-7, np.float16)}
    model = build(
        "(float16[N,3,8,8] x) => (float16[N,4,6,6] y) "
        "{ c = Conv(x, w) y = BatchNormalization<epsilon=0.0>(c, s, b, m, v) }",
        w=normal(4, 3, 3, 3, dtype=np.float16) * np.float16(100),
        **parameters16,
    )
    assert_refused(model, NAME, NotStorable.NOT_REPRESENTABLE)


def test_new_weights_are_computed_in_float64_and_rounded_once() -> None:
    model = conv_bn()
    optimized = run_pass(model, NAME).to_proto()
    w, s, b, m, v = (initializer(model, name).astype(np.float64) for name in "wsbmv")
    scale = s / np.sqrt(v + float(np.float32(1e-5)))
    np.testing.assert_array_equal(
        initializer(optimized, "w.folded"), (w * scale[:, None, None, None]).astype(np.float32)
    )
    np.testing.assert_array_equal(
        initializer(optimized, "w.bias.folded"), (b - m * scale).astype(np.float32)
    )


def test_half_weights_with_single_statistics_stay_half() -> None:
    model = build(
        "(float16[N,3,8,8] x) => (float16[N,4,6,6] y) "
        "{ c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }",
        w=normal(4, 3, 3, 3, dtype=np.float16),
        **batch_norm(4),
    )
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized) == ["Conv"]
    assert {array.dtype for array in parameters(optimized).values()} == {np.dtype(np.float16)}


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_types_keep_their_type(dtype: Any) -> None:
    name = {"float64": "double"}.get(np.dtype(dtype).name, np.dtype(dtype).name)
    model = build(
        f"({name}[N,3,8,8] x) => ({name}[N,4,6,6] y) "
        "{ c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }",
        opset=22,
        ir_version=10,
        w=normal(4, 3, 3, 3, dtype=dtype),
        **batch_norm(4, dtype=dtype),
    )
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized) == ["Conv"]
    w, s, v = (initializer(model, name).astype(np.float64) for name in "wsv")
    exact = w * (s / np.sqrt(v + float(np.float32(1e-5))))[:, None, None, None]
    folded = initializer(optimized, "w.folded")
    assert folded.dtype == np.dtype(dtype)
    epsilon = float(float_limits(np.dtype(dtype)).eps)
    spacing = np.abs(exact) * epsilon / 2
    assert (np.abs(folded.astype(np.float64) - exact) <= spacing * 1.0001).all()


def test_refuses_weights_that_would_all_become_zero() -> None:
    model = conv_bn(w=normal(4, 3, 3, 3) * np.float32(1e-39))
    assert_refused(model, NAME, NotStorable.LOSES_DIGITS)


def test_refuses_halves_that_would_lose_digits() -> None:
    model = build(
        "(float16[N,3,8,8] x) => (float16[N,4,6,6] y) "
        "{ c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }",
        w=normal(4, 3, 3, 3, dtype=np.float16) * np.float16(0.1),
        **batch_norm(4, dtype=np.float16) | {"s": np.full(4, 1e-5, np.float16)},
    )
    assert_refused(model, NAME, NotStorable.LOSES_DIGITS)


def test_subnormal_weights_of_a_dead_channel_become_zero_and_are_counted() -> None:
    w = normal(4, 3, 3, 3)
    w[0] = 1e-40
    result = run_pass(conv_bn(w=w), NAME)
    assert result.record.rewrites[0].detail == "into Conv; 27 subnormal weights set to zero"
    assert not initializer(result.to_proto(), "w.folded")[0].any()


# --- Interface ------------------------------------------------------------------------------


def test_the_node_keeps_its_name_attributes_and_metadata() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,4,4] y) { c = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w) "
        "y = BatchNormalization(c, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    conv = model.graph.node[0]
    conv.name, conv.doc_string = "stem", "the first"
    conv.metadata_props.add(key="source", value="model.py:7")
    folded = only_node(assert_rewritten(model, NAME, ["Conv"]), "Conv")
    assert (folded.name, folded.doc_string) == ("stem", "the first")
    assert [(entry.key, entry.value) for entry in folded.metadata_props] == [
        ("source", "model.py:7")
    ]
    assert list(folded.output) == ["y"]


# --- Random graphs --------------------------------------------------------------------------


@st.composite
def linear_then_batch_norm(draw: st.DrawFn) -> onnx.ModelProto:
    groups = draw(st.integers(1, 3))
    per_group_in, per_group_out = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    channels_in, channels = groups * per_group_in, groups * per_group_out
    rank = draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    transposed = draw(st.booleans())
    shape = (channels_in, per_group_out) if transposed else (channels, per_group_in)
    weights: Parameters = {"w": normal(*shape, *kernel, seed=draw(st.integers(0, 99)))}
    weights |= batch_norm(channels, seed=draw(st.integers(0, 99)))
    inputs = "x, w"
    if draw(st.booleans()):
        weights["d"] = normal(channels)
        inputs = "x, w, d"
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 2)) for _ in range(rank)]
    pads = [0] * 2 * rank if transposed else [draw(st.integers(0, 2)) for _ in range(2 * rank)]
    free, channel_axis = ",".join("HWD"[:rank]), f"float[N,{channels_in}"
    op_type = "ConvTranspose" if transposed else "Conv"
    opset = draw(st.sampled_from([7, 9, 11, 13, 15, 17, 19]))
    epsilon = draw(st.sampled_from([0.0, 1e-5, 0.1]))
    return build(
        f"({channel_axis},{free}] x) => (float[N,{channels},{free.lower()}] y) {{ c = {op_type}"
        f"<group={groups}, strides={strides}, dilations={dilations}, pads={pads}>({inputs}) "
        f"y = BatchNormalization<epsilon={epsilon}>(c, s, b, m, v) }}",
        opset=opset,
        **weights,
    )


@settings(max_examples=12, deadline=None)
@given(linear_then_batch_norm())
def test_random_convolutions(model: onnx.ModelProto) -> None:
    (expected,) = {node.op_type for node in model.graph.node} - {"BatchNormalization"}
    assert_rewritten(model, NAME, [expected], sizes={"H": 9, "W": 8, "D": 7})


@pytest.mark.parametrize("mode", ["", '<mode="edge">', '<mode="reflect">'])
@pytest.mark.parametrize("widths", [[0, 0, -1, -2, 0, 0, -1, 0], [0, 0, -1, 0, 0, 0, 0, 0]])
def test_a_pad_that_crops_has_no_border(mode: str, widths: list[int]) -> None:
    model = build(
        "(float[N,3,9,9] x) => (float[N,4,h,l] y) { c = Conv(x, w) "
        f"p = Pad{mode}(c, pads, value) y = BatchNormalization(p, s, b, m, v) }}",
        pads=np.array(widths),
        value=np.array(3, np.float32),
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    result = run_pass(model, NAME).to_proto()
    assert operators(result) == ["Conv", "Pad"]
    feeds = draw_feeds(model)  # onnx's reference evaluation does not crop
    (expected,), (found,) = run_plain(model, feeds), run_plain(result, feeds)
    np.testing.assert_allclose(found, expected, 1e-4, 1e-5)


def test_a_pad_that_crops_channels_stays_between() -> None:
    model = build(
        "(float[N,3,9,9] x) => (float[N,4,h,l] y) { c = Conv(x, w) "
        "p = Pad(c, pads) y = BatchNormalization(p, s, b, m, v) }",
        pads=np.array([0, -1, 0, 0, 0, 0, 0, 0]),
        w=normal(5, 3, 3, 3),
        **batch_norm(4),
    )
    assert not run_pass(model, NAME).record.rewrites
