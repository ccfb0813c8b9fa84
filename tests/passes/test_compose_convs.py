"""compose-convs: exact to the border, and only where it costs no more."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import bnfold
from bnfold.algebra.spatial.operators import NotOneConv
from bnfold.rewriting.contract import Common, Refusal
from bnfold_passes.compose_convs import Why
from tests.support.evaluate import run_float64, run_plain
from tests.support.graphs import (
    Array,
    Parameters,
    build,
    draw_feeds,
    make_overridable,
    named_in,
    normal,
    only_node,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "compose-convs"
HALVES = "AveragePool<kernel_shape=[2,2], strides=[2,2]>"
WEIGHTS: Parameters = {
    "one": normal(8, 4, 1, 1),  # 4 to 8 channels
    "three": normal(8, 4, 3, 3),
    "back": normal(4, 8, 1, 1),  # 8 to 4
    "back3": normal(4, 8, 3, 3),
    "d8": normal(8),
    "d4": normal(4),
    "deep": normal(8, 1, 3, 3),  # depthwise
    "deeper": normal(8, 1, 1, 1),
    "pairs": normal(8, 2, 3, 3),  # two groups
    "quads": normal(4, 2, 1, 1),  # four groups
}


def in_a_row(lines: str, *, size: str = "9,10", **weights: Array) -> onnx.ModelProto:
    used = named_in(lines, WEIGHTS | weights)
    return build(f"(float[N,4,{size}] x) => (float[N,c,h,w] y) {{ {lines} }}", **used)


def attributes(model: onnx.ModelProto) -> dict[str, object]:
    return {
        attribute.name: onnx.helper.get_attribute_value(attribute)
        for attribute in only_node(model, "Conv").attribute
    }


@pytest.mark.parametrize("size", ["9,10", "H,W"])
@pytest.mark.parametrize(
    "lines",
    [
        "a = Conv(x, one, d8) y = Conv(a, back, d4)",
        "a = Conv<pads=[1,1,1,1]>(x, three, d8) y = Conv(a, back)",
        "a = Conv<pads=[1,2,0,1]>(x, one, d8) y = Conv(a, back3, d4)",
        "a = Conv(x, one) y = Conv<pads=[1,1,1,1]>(a, back3, d4)",
        "a = Conv<strides=[2,2]>(x, one) y = Conv<pads=[0,1,1,0]>(a, back3)",
        "a = Conv(x, one, d8) y = Conv<strides=[3,2], dilations=[2,1]>(a, back3, d4)",
        "a = Conv<strides=[2,1], dilations=[1,2]>(x, three) y = Conv<strides=[1,2]>(a, back)",
        f"a = Conv<pads=[1,1,1,1]>(x, three, d8) y = {HALVES}(a)",
        "a = Conv<pads=[1,1,1,1]>(x, three) "
        'y = AveragePool<kernel_shape=[2,3], strides=[2,3], auto_pad="VALID">(a)',
        "a = Conv<pads=[2,2,2,2]>(x, three) y = AveragePool"
        "<kernel_shape=[2,2], strides=[2,2], pads=[1,1,1,1], count_include_pad=1>(a)",
        "a = Conv<group=2>(x, pairs, d8) y = Conv<group=4>(a, quads)",
        'a = Conv<auto_pad="SAME_UPPER">(x, three, d8) y = Conv(a, back)',
        'a = Conv(x, one) y = Conv<auto_pad="SAME_LOWER">(a, back3)',
        'a = Conv<auto_pad="SAME_LOWER", strides=[2,1]>(x, one) y = Conv(a, back3)',
    ],
)
def test_two_become_one(lines: str, size: str) -> None:
    model = in_a_row(lines, size=size)
    assert_rewritten(model, NAME, ["Conv"], sizes={"H": 9, "W": 11})


def test_three_become_one_from_the_end() -> None:
    """The 3×3 Conv and the depthwise one do not pay; with the pool, both do."""
    model = in_a_row(
        f"a = Conv<pads=[1,1,1,1]>(x, three, d8) b = Conv<group=8>(a, deep) y = {HALVES}(b)",
        size="H,W",
    )
    assert_rewritten(model, NAME, ["Conv"], sizes={"H": 9, "W": 11})


def test_what_the_product_looks_like() -> None:
    model = in_a_row(f"a = Conv<pads=[1,1,1,1]>(x, three, d8) y = {HALVES}(a)")
    product = assert_rewritten(model, NAME, ["Conv"])
    assert attributes(product) == {
        "kernel_shape": [4, 4],
        "strides": [2, 2],
        "dilations": [1, 1],
        "pads": [1, 1, 1, 1],
        "group": 1,
    }


def test_taps_that_share_a_dilation_keep_it() -> None:
    model = in_a_row(
        "a = Conv<strides=[2,2]>(x, one, d8) y = Conv<dilations=[1,2]>(a, back3)", size="15,15"
    )
    product = assert_rewritten(model, NAME, ["Conv"])
    assert attributes(product)["kernel_shape"] == [3, 3]
    assert attributes(product)["dilations"] == [2, 4]


@pytest.mark.parametrize(
    "lines",
    [
        "a = Conv<dilations=[2,3]>(x, three, d8) y = Conv(a, back)",
        "a = Conv(x, one, d8) y = Conv<dilations=[2,3]>(a, back3)",
    ],
)
def test_a_single_tap_has_no_dilation_to_share(lines: str) -> None:
    product = assert_rewritten(in_a_row(lines), NAME, ["Conv"])
    assert attributes(product)["kernel_shape"] == [3, 3]
    assert attributes(product)["dilations"] == [2, 3]


def test_depthwise_stays_depthwise() -> None:
    model = in_a_row(
        "a = Conv(x, one) b = Relu(a) c = Conv<group=8>(b, deep) y = Conv<group=8>(c, deeper)"
    )
    product = run_pass(model, NAME).to_proto()
    assert operators(product) == ["Conv", "Relu", "Conv"]
    assert [a.i for n in product.graph.node for a in n.attribute if a.name == "group"] == [8]


@pytest.mark.parametrize("rank", [1, 3])
def test_any_rank(rank: int) -> None:
    space, ones, twos = ",".join(["40" if rank == 1 else "9"] * rank), [1] * 2 * rank, [2] * rank
    model = build(
        f"(float[N,4,{space}] x) => (float[N,c,{','.join('abc'[:rank])}] y) {{ "
        f"a = Conv<pads={ones}>(x, w, d) "
        f"y = AveragePool<kernel_shape={twos}, strides={twos}>(a) }}",
        w=normal(8, 4, *[3] * rank),
        d=normal(8),
    )
    assert_rewritten(model, NAME, ["Conv"])


# The second pads: exact only where the first computes 0 there.
PADDED = "y = Conv<pads=[1,1,1,1]>(a, back3)"


@pytest.mark.parametrize(
    "first",
    [
        "a = Conv(x, one, d8)",  # its bias is not in the padding
        "a = Conv<pads=[1,1,1,1]>(x, w)",  # a position outside reads one inside
        "a = Conv<strides=[2,2]>(x, two)",  # the last row may be cut off, and be read outside
        "a = Conv<pads=[1,1,0,0]>(x, two)",
        "a = Conv<pads=[0,0,1,1]>(x, two)",
        "a = Conv<pads=[1,1,1,0]>(x, two)",
    ],
)
def test_refuses_what_is_another_at_the_border(first: str) -> None:
    weights: Parameters = {"w": normal(16, 4, 3, 3), "two": normal(16, 4, 2, 2)}
    wide = "one" not in first
    second = "y = Conv<pads=[1,1,1,1]>(a, v)" if wide else PADDED
    weights |= {"v": normal(1, 16, 2, 2)} if wide else {}
    model = in_a_row(f"{first} {second}", size="9,9", **weights)
    assert_refused(model, NAME, NotOneConv.PADDED_BETWEEN)


@pytest.mark.parametrize(
    ("size", "composes"), [("8,8", True), ("8,9", False), ("9,8", False), ("H,W", False)]
)
def test_patches_fill_the_map_or_not(size: str, *, composes: bool) -> None:
    """Outside, patches of 2×2 read only padding, unless one is cut off at the end."""
    model = in_a_row(
        "a = Conv<strides=[2,2]>(x, two) y = Conv<pads=[1,1,1,1]>(a, v)",
        size=size,
        two=normal(16, 4, 2, 2),
        v=normal(2, 16, 2, 2),
    )
    if composes:
        assert_rewritten(model, NAME, ["Conv"])
    else:
        assert_refused(model, NAME, NotOneConv.PADDED_BETWEEN)


@pytest.mark.parametrize(
    ("size", "composes"), [("8", True), ("9", False), ("8,8,8", True), ("8,8,9", False)]
)
def test_patches_of_other_ranks_fill_the_map_or_not(size: str, *, composes: bool) -> None:
    rank = size.count(",") + 1
    model = build(
        f"(float[9,4,{size}] x) => (float[9,2,{','.join('abc'[:rank])}] y) {{ "
        f"a = Conv<strides={[2] * rank}>(x, u) y = Conv<pads={[1] * 2 * rank}>(a, v) }}",
        u=normal(32, 4, *[2] * rank),
        v=normal(2, 32, *[2] * rank),
    )
    if composes:
        assert_rewritten(model, NAME, ["Conv"])
    else:
        assert_refused(model, NAME, NotOneConv.PADDED_BETWEEN)


def test_a_full_convolution_may_be_padded() -> None:
    model = in_a_row(
        "a = Conv<pads=[2,1,2,2]>(x, w) y = Conv<pads=[1,1,1,0]>(a, v)",
        size="H,W",
        w=normal(16, 4, 3, 3),
        v=normal(2, 16, 1, 1),
    )
    # Above, the first position outside reads rows −3 to −1; on the left, columns −2 to 0.
    assert_refused(model, NAME, NotOneConv.PADDED_BETWEEN)
    full = in_a_row(
        "a = Conv<pads=[2,2,2,2]>(x, w) y = Conv<pads=[3,1,1,0]>(a, v)",
        size="H,W",
        w=normal(16, 4, 3, 3),
        v=normal(2, 16, 1, 1),
    )
    assert_rewritten(full, NAME, ["Conv"], sizes={"H": 4, "W": 7})


@pytest.mark.parametrize(
    "lines",
    [
        "a = Conv(x, back4) y = Conv(a, mix)",
        "a = Conv<group=4>(x, w4) y = Conv<group=4>(a, w4)",
        "a = Conv(x, three) y = AveragePool<kernel_shape=[3,3]>(a)",
    ],
)
def test_refuses_without_gain(lines: str) -> None:
    weights: Parameters = {
        "w4": normal(4, 1, 3, 3),
        "mix": normal(4, 4, 1, 1) if "back4" not in lines else normal(4, 1, 1, 1),
        "back4": normal(1, 4, 1, 1),
    }
    assert_refused(in_a_row(lines, **weights), NAME, Common.NO_GAIN)


@pytest.mark.parametrize(
    ("size", "pads", "kernel", "step", "composes"),
    [
        ("H", [1, 1], 2, 2, True),
        ("H", [1, 1], 3, 2, True),
        ("1", [1, 1], 2, 2, False),  # onnxruntime's pool makes 1
        ("1", [1, 1], 3, 2, False),  # it makes none, and a Conv fails
        ("2", [1, 1], 2, 2, True),
        ("2", [1, 1], 3, 3, False),
        ("3", [1, 1], 3, 3, True),
    ],
)
def test_a_map_is_as_large_as_the_window(
    size: str, pads: list[int], kernel: int, step: int, *, composes: bool
) -> None:
    model = build(
        f"(float[N,9,{size},W] x) => (float[N,9,c,d] y) {{ "
        f"a = Conv<pads=[{pads[0]},0,{pads[1]},0]>(x, w) "
        f"y = AveragePool<kernel_shape=[{kernel},1], strides=[{step},1]>(a) }}",
        w=normal(9, 9, 3, 1),
    )
    result = run_pass(model, NAME)
    if composes:
        assert_rewritten(model, NAME, ["Conv"], sizes={"H": 3})
    else:
        reasons = [refusal.reason for refusal in result.record.refusals]
        assert (operators(result.to_proto()), reasons) == (
            ["Conv", "AveragePool"],
            [NotOneConv.SMALLER_THAN_WINDOW.name],
        )


@pytest.mark.parametrize("padding", [0, 1])
def test_padding_of_the_pool_counts(padding: int) -> None:
    model = build(
        "(float[N,9,1,W] x) => (float[N,9,c,d] y) { a = Conv<pads=[2,0,2,0]>(x, w) y = AveragePool"
        f"<kernel_shape=[4,1], strides=[4,1], pads=[{padding},0,0,0], count_include_pad=1>(a) }}",
        w=normal(9, 9, 3, 1),
    )
    if padding:
        assert_rewritten(model, NAME, ["Conv"])
    else:
        assert_refused(model, NAME, NotOneConv.SMALLER_THAN_WINDOW)


@pytest.mark.parametrize(("size", "stays"), [(4, True), (8, False), ("H", False)])
def test_on_a_small_map_weights_count(size: int | str, *, stays: bool) -> None:
    model = in_a_row(f"a = Conv<pads=[1,1,1,1]>(x, three) y = {HALVES}(a)", size=f"{size},{size}")
    if stays:
        assert_refused(model, NAME, Common.NO_GAIN)
    else:
        assert_rewritten(model, NAME, ["Conv"], sizes={"H": 6})


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("a = Conv(x, one) y = Conv(a, back) z = Neg(a)", Common.SHARED),
        ("a = Conv(x, three) y = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(a)",
         NotOneConv.UNEVEN_WINDOWS),
        ("a = Conv(x, three) y = AveragePool<kernel_shape=[2,2], strides=[2,2], pads=[1,1,0,0]>(a)",
         NotOneConv.UNEVEN_WINDOWS),
        ('a = Conv(x, three) y = AveragePool<kernel_shape=[2,2], auto_pad="SAME_UPPER">(a)',
         NotOneConv.UNEVEN_WINDOWS),
        ('a = Conv(x, three) '
         'y = AveragePool<kernel_shape=[2,2], auto_pad="SAME_UPPER", ceil_mode=1>(a)',
         NotOneConv.UNEVEN_WINDOWS),
        ("a = Conv(x, three) b = Conv(a, back) y = GlobalAveragePool(b)", Why.POOL_GOES_FIRST),
    ],
)  # fmt: skip
def test_refusals(lines: str, reason: Refusal) -> None:
    assert_refused(in_a_row(lines), NAME, reason)


@pytest.mark.parametrize("size", ["9,10", "H,W"])
@pytest.mark.parametrize(
    "lines",
    [
        'a = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, three) y = Conv(a, back)',
        'a = Conv(x, one) y = Conv<auto_pad="SAME_LOWER", strides=[2,3]>(a, back3)',
    ],
)
def test_padding_that_a_size_decides(lines: str, size: str) -> None:
    if size == "H,W":
        assert_refused(in_a_row(lines, size=size), NAME, Common.PADDED_BY_SIZE)
    else:
        assert_rewritten(in_a_row(lines), NAME, ["Conv"])


OVERWRITTEN = "a = Conv(x, one) p = Pad(a, around) "


@pytest.mark.parametrize("last", ["Conv(s, back3)", f"{HALVES}(s)"])
@pytest.mark.parametrize(
    ("lines", "is_border"),
    [
        (f"{OVERWRITTEN} s = ScatterND(p, place, u)", True),
        (f"{OVERWRITTEN} t = Transpose(p) v = ScatterND(t, place, u) s = Transpose(v)", True),
        (f"{OVERWRITTEN} t = Transpose(p) s = Transpose(t)", False),
        (f"{OVERWRITTEN} r = Relu(p) s = ScatterND(r, place, u)", False),
        ("a = Conv(x, one) s = ScatterND(a, place, u)", False),
        ("p = Pad(x, around) s = ScatterND(p, place, u)", False),
    ],
)
def test_a_border_that_is_written_over(lines: str, is_border: bool, last: str) -> None:
    """As in DBB, whose blocks pad with the shift of their BatchNormalization."""
    weights: Parameters = {
        "around": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "place": np.zeros((1, 4), np.int64),
        "u": np.ones(1, np.float32),
    }
    if "Conv" not in lines:
        last = last.replace("back3", "three")
    model = in_a_row(f"{lines} y = {last}", **weights)
    if is_border:
        subject = "Transpose" if "Transpose" in lines else "ScatterND"
        assert_refused(model, NAME, Why.BORDER_OVERWRITTEN, in_the_way=f"{subject} s")
    else:
        record = run_pass(model, NAME).record
        assert not record.rewrites
        assert not record.refusals


def test_refuses_weights_that_are_not_constant() -> None:
    model = in_a_row("a = Conv(x, one) y = Conv(a, back)")
    assert_refused(make_overridable(model, "one"), NAME, Common.WEIGHT_OVERRIDABLE)
    model = build(
        "(float[N,4,9,9] x, float[8,4,1,1] u) => (float[N,4,h,w] y) "
        "{ a = Conv(x, u) y = Conv(a, v) }",
        v=normal(4, 8, 1, 1),
    )
    assert_refused(model, NAME, Common.WEIGHT_NOT_CONSTANT)


@pytest.mark.parametrize(
    "lines",
    [
        "a = Conv(x, one) b = Relu(a) y = Conv(b, back)",
        f"a = Conv(x, one) y = {HALVES}(a)",
        f"a = {HALVES}(x) y = Conv(a, one)",
        "a = Conv<pads=[1,1,1,1]>(x, three) y = Conv<group=8, pads=[1,1,1,1]>(a, deep)",
        "a = Conv(x, one) y = Conv<group=8>(a, deep)",
        f"a = {HALVES}(x) y = {HALVES}(a)",
    ],
)
def test_others_stay_without_a_refusal(lines: str) -> None:
    record = run_pass(in_a_row(lines), NAME).record
    assert not record.rewrites
    assert not record.refusals


@pytest.mark.parametrize("average", [HALVES, "GlobalAveragePool"])
def test_a_pool_goes_before_a_pointwise_conv_first(average: str) -> None:
    model = in_a_row(f"a = Conv(x, three) b = Conv(a, back, d4) y = {average}(b)")
    result = run_pass(model, NAME, "pool-before-conv")
    assert result.record.rewrites[0].pass_name == "pool-before-conv"
    again = run_pass(result.to_proto(), NAME, "pool-before-conv").record
    assert not again.rewrites


def test_a_pool_goes_after_a_wider_conv() -> None:
    model = in_a_row("a = Conv(x, one) b = Conv(a, back3, d4) y = GlobalAveragePool(b)")
    assert_rewritten(model, NAME, ["Conv", "GlobalAveragePool"])


def test_batch_normalizations_fold_first() -> None:
    model = build(
        "(float[N,4,9,9] x) => (float[N,4,h,w] y) { a = Conv(x, one) "
        "n = BatchNormalization(a, s, b, m, v) c = Conv(n, back3) "
        "y = BatchNormalization(c, q, q, q, p) }",
        one=normal(8, 4, 1, 1), back3=normal(4, 8, 3, 3),
        s=normal(8), b=normal(8), m=normal(8), v=np.abs(normal(8)) + 1,
        q=normal(4), p=np.abs(normal(4)) + 1,
    )  # fmt: skip
    result = run_pass(model)
    assert operators(result.to_proto()) == ["Conv"]


def test_half_precision() -> None:
    model = build(
        "(float16[N,4,9,9] x) => (float16[N,4,h,w] y) { a = Conv(x, one) y = Conv(a, back) }",
        one=normal(8, 4, 1, 1, dtype=np.float16),
        back=normal(4, 8, 1, 1, dtype=np.float16),
    )
    assert_rewritten(model, NAME, ["Conv"], rtol=1e-2, atol=1e-2)


def test_the_product_is_certified() -> None:
    lines = f"a = Conv<pads=[1,1,1,1]>(x, three, d8) y = {HALVES}(a)"
    for size in ("9,10", "H,W"):
        result = bnfold.optimize(in_a_row(lines, size=size), only=[NAME], certify="always")
        (certificate,) = [rewrite.certificate for rewrite in result.record.rewrites]
        assert certificate is not None
        assert (certificate.verdict, certificate.kind) == ("certified", "linear")


@st.composite
def chains(draw: st.DrawFn) -> onnx.ModelProto:
    """Two operators in a row with many channels between, so that a product often pays."""
    rank = draw(st.integers(1, 2))
    groups = [draw(st.sampled_from([1, 1, 2, 3, 6])) for _ in range(2)]
    weights: Parameters = {}
    lines = []
    data = "x"
    for index, (inputs, outputs) in enumerate([(6, 24), (24, 6)]):
        size = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank)]
        strides = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank)]
        dilations = [draw(st.sampled_from([1, 1, 2])) for _ in range(rank)]
        pads = [draw(st.sampled_from([0, 0, 1, 2])) for _ in range(2 * rank)]
        result = f"v{index}"
        if index == 1 and draw(st.booleans()):
            counts = "" if not any(pads) else ", count_include_pad=1"
            pads = [min(p, k - 1) for p, k in zip(pads, [*size, *size], strict=True)]
            lines.append(
                f"{result} = AveragePool<kernel_shape={size}, strides={strides}, pads={pads}"
                f"{counts}>({data})"
            )
        else:
            weights[f"w{index}"] = normal(outputs, inputs // groups[index], *size, seed=index)
            bias = draw(st.booleans())
            if bias:
                weights[f"b{index}"] = normal(outputs, seed=index)
            lines.append(
                f"{result} = Conv<group={groups[index]}, strides={strides}, dilations={dilations},"
                f" pads={pads}>({data}, w{index}{f', b{index}' if bias else ''})"
            )
        data = result
    sizes = [draw(st.integers(1, 12)) for _ in range(rank)]
    is_free = draw(st.booleans())
    declared = ["HW"[axis] if is_free else str(size) for axis, size in enumerate(sizes)]
    return build(
        f"(float[N,6,{','.join(declared)}] x) => (float[N,c,{','.join('hw'[:rank])}] y) "
        f"{{ {' '.join(lines)} y = Neg({data}) }}",
        **weights,
    )


@settings(max_examples=15, deadline=None)
@given(chains(), st.integers(1, 12), st.integers(1, 12))
def test_random_chains(model: onnx.ModelProto, height: int, width: int) -> None:
    sizes = {"H": height, "W": width}
    feeds = draw_feeds(model, sizes=sizes)
    is_free = model.graph.input[0].type.tensor_type.shape.dim[2].HasField("dim_param")
    try:
        run_plain(model, feeds)
        assume(not is_free or run_float64(model, feeds)[0].size)  # ONNX defines a position
    except Exception:
        assume(False)
    result = run_pass(model, NAME)
    assert_rewritten(model, NAME, operators(result.to_proto()), sizes=sizes)


def test_refuses_a_pool_of_more_positions_than_a_kernel_should_have() -> None:
    """Written out, it would take gigabytes."""
    model = build(
        "(float[N,1,5] x) => (float[N,1,c] y) { a = Conv(x, w) y = AveragePool<"
        "kernel_shape=[1000000001], pads=[500000000, 500000000], count_include_pad=1>(a) }",
        w=normal(1, 1, 3),
    )
    assert_refused(model, NAME, NotOneConv.COSTLIER)
