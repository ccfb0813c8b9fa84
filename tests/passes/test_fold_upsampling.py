"""fold-upsampling: exact to the border for whole factors, only where it pays."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from onnx import helper

import bnfold_passes.fold_upsampling
from bnfold.algebra.spatial.repetition import NotRepeated
from bnfold.modelfile.loading import load
from bnfold.options import PROVIDER_CHOICES, PassOptions
from bnfold.proof.certificates.certificate import certify
from bnfold.rewriting.contract import Common, General, Refusal
from bnfold.rewriting.engine import run_passes
from bnfold.rewriting.registry import choose_passes
from bnfold.running.learning import TOOLS
from bnfold.workflow.variants import Variants
from bnfold.workflow.windows import Cutter
from bnfold_passes.fold_upsampling import Why
from tests.support.evaluate import RuntimeException, run_plain
from tests.support.graphs import (
    Array,
    Parameters,
    batch_norm,
    build,
    draw_feeds,
    make_overridable,
    named_in,
    normal,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "fold-upsampling"
DOUBLE = np.array([1, 1, 2, 2], np.float32)
NEAREST = 'Resize<coordinate_transformation_mode="asymmetric", nearest_mode="floor">'
INTERLEAVED = ["Concat", "Concat", "Concat", "Reshape", "Transpose", "Reshape"]


@pytest.fixture
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewrite small kernels, too."""
    monkeypatch.setattr(bnfold_passes.fold_upsampling, "_LEAST_SAVED", 0)


def after_resize(
    resize: str = f"{NEAREST}(x, , double)",
    *,
    conv: str = "y = Conv<pads=[1,1,1,1]>(r, w)",
    opset: int = 17,
    size: str = "5,6",
    **weights: Array,
) -> onnx.ModelProto:
    used: Parameters = {"w": normal(3, 64, 3, 3), "double": DOUBLE, **weights}
    text = f"(float[N,64,{size}] x) => (float[N,c,h,l] y) {{ r = {resize} {conv} }}"
    return build(text, opset=opset, **{n: array for n, array in used.items() if f" {n}" in text})


@pytest.mark.parametrize(
    ("conv", "expected"),
    [
        ("y = Conv<pads=[1,1,1,1]>(r, w)", ["Conv"] * 4),
        ("y = Conv<pads=[1,1,1,1]>(r, w, d)", ["Conv"] * 4),
        ("t = Conv<pads=[1,1,1,1]>(r, w, d) y = Relu(t)", ["Conv", "Relu"] * 4),
        ("t = Conv<pads=[1,1,1,1]>(r, w) y = Clip(t, low, high)", ["Conv", "Clip"] * 4),
        ('y = Conv<auto_pad="SAME_UPPER">(r, w)', ["Conv"] * 4),
        ('y = Conv<auto_pad="SAME_LOWER">(r, w)', ["Conv"] * 4),
    ],
)
def test_a_conv_for_each_phase(conv: str, expected: list[str]) -> None:
    weights: Parameters = {
        "d": normal(3),
        "low": np.array(-1, np.float32),
        "high": np.array(2, np.float32),
    }
    model = after_resize(conv=conv, **weights)
    optimized = run_pass(model, NAME).to_proto()
    assert sorted(operators(optimized)) == sorted([*expected, *INTERLEAVED])
    assert_rewritten(model, NAME, operators(optimized), rtol=1e-4, atol=1e-4)


def test_the_kernels_are_smaller_and_named_once() -> None:
    optimized = run_pass(after_resize(), NAME).to_proto()
    shapes = [list(tensor.dims) for tensor in optimized.graph.initializer if len(tensor.dims) == 4]
    assert shapes == [[3, 64, 2, 2]] * 4
    names = [node.name for node in optimized.graph.node if node.name]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("size", "feeds"), [("H,W", {"N": 2, "H": 3, "W": 4}), ("3,W", {"W": 5})])
def test_free_sizes(size: str, feeds: dict[str, int]) -> None:
    model = after_resize(size=size)
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized).count("Conv") == 4
    assert ("Shape" in operators(optimized)) == (size == "H,W" or "N" not in feeds)
    assert_rewritten(model, NAME, operators(optimized), sizes=feeds, rtol=1e-4, atol=1e-4)


def to_sizes(sizes: str, interface: str = "float[N,64,H,W] x") -> onnx.ModelProto:
    """Return upsampling to sizes that are computed, as torch exports free ones."""
    integers = {"zero": [0], "two": [2], "three": [3], "four": [4], "twice": [2, 2], "odd": [2, 3]}
    used: Parameters = {n: np.array(v, np.int64) for n, v in integers.items() if f" {n}" in sizes}
    return build(
        f"({interface}) => (float[N,3,h,l] y) {{ a = Conv<pads=[1,1,1,1]>(x, v) {sizes} "
        f"r = {NEAREST}(a, , , to) y = Conv<pads=[1,1,1,1]>(r, w) }}",
        v=normal(64, 64, 3, 3) / 24,
        w=normal(3, 64, 3, 3),
        **used,
    )


REST = "n = Slice(s, zero, two) to = Concat<axis=0>(n, m)"


@pytest.mark.parametrize(
    "sizes",
    [
        f"s = Shape(a) e = Slice(s, two, four) m = Mul(e, twice) {REST}",
        f"s = Shape(x) e = Slice(s, two, four) m = Mul(e, odd) {REST}",
        f"s = Shape(a) e = Slice(s, two, three) f = Slice(s, three, four) g = Mul(e, two) "
        f"k = Mul(f, three) m = Concat<axis=0>(g, k) {REST}",
    ],
)
def test_sizes_that_are_computed(sizes: str) -> None:
    model = to_sizes(sizes)
    result = run_pass(model, NAME)
    assert [rewrite.pass_name for rewrite in result.record.rewrites] == [NAME]
    feeds = draw_feeds(model, sizes={"H": 5, "W": 4})
    (expected,), (actual,) = run_plain(model, feeds), run_plain(result.to_proto(), feeds)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-3)
    assert not run_pass(result.to_proto(), NAME).record.rewrites


@pytest.mark.parametrize("skip", ["", "float[N,5,K,L] z"])
def test_free_sizes_are_certified_on_small_maps(skip: str) -> None:
    """Also where a map of another size is read beside: those sizes go together."""
    conv = "y = Conv<pads=[1,1,1,1]>(r, w)"
    if skip:
        conv = "c = Concat<axis=1>(z, r) y = Conv<pads=[1,1,1,1]>(c, w)"
    model = after_resize(conv=conv, size="H,W", w=normal(3, 69 if skip else 64, 3, 3))
    if skip:
        model.graph.input.append(
            helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N", 5, "K", "L"])
        )
    loaded = load(model).ir
    cutter = Cutter(loaded)
    run_passes(loaded, choose_passes(only=[NAME]), watch=cutter.watch, tools=TOOLS)
    (cut,) = cutter.cuts
    certificate = certify(cut.window())
    assert certificate.verdict == "certified"
    assert "smaller" in certificate.note


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        # of another axis, of another value, of something else besides
        (f"s = Shape(a) e = Slice(s, three, four) m = Concat<axis=0>(e, e) {REST}", "unknown"),
        (f"p = MaxPool<kernel_shape=[2,2]>(a) s = Shape(p) e = Slice(s, two, four) "
         f"m = Mul(e, twice) {REST}", "unknown"),
        (f"s = Shape(a) e = Slice(s, two, four) m = Add(e, twice) {REST}", "unknown"),
        (f"s = Shape(a) m = Slice(s, two, four) {REST}", "same"),
        ("s = Shape(a) n = Slice(s, zero, two) k = Mul(n, twice) m = Slice(s, two, four) "
         "to = Concat<axis=0>(k, m)", "same"),
    ],
)  # fmt: skip
def test_sizes_that_are_no_multiples(sizes: str, reason: str) -> None:
    expected = Common.SHAPE_UNKNOWN if reason == "unknown" else NotRepeated.NOT_WHOLE
    assert_refused(to_sizes(sizes), NAME, expected)


MODES = list(
    itertools.product(
        [
            *("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"),
            *("half_pixel_symmetric", "tf_half_pixel_for_nn"),
        ],
        ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"],
        [2, 3, 4],
    )
)


@pytest.mark.usefixtures("_always")
@pytest.mark.parametrize(("way", "nearest", "factor"), MODES)
def test_modes_that_repeat_each_element_and_no_others(way: str, nearest: str, factor: int) -> None:
    """The Resize itself says which these are, at several sizes."""
    opset = 19 if way == "half_pixel_symmetric" else 12
    resize = f'Resize<coordinate_transformation_mode="{way}", nearest_mode="{nearest}">'
    scales = np.array([1, 1, factor], np.float32)
    repeats = True
    for size in (1, 2, 3, 7, 10):
        plain = build(
            f"(float[1,1,{size}] x) => (float[1,1,l] y) {{ y = {resize}(x, none, s) }}",
            opset=opset,
            s=scales,
            none=np.zeros(6, np.float32),
        )
        x = np.arange(size, dtype=np.float32).reshape(1, 1, -1)
        (y,) = run_plain(plain, {"x": x})
        repeats &= np.array_equal(y, x.repeat(factor, 2))
    model = build(
        f"(float[1,2,7] x) => (float[1,2,l] y) "
        f"{{ r = {resize}(x, none, s) y = Conv<pads=[1,1]>(r, w) }}",
        opset=opset,
        s=scales,
        none=np.zeros(6, np.float32),
        w=normal(2, 2, 3),
    )
    assert bool(run_pass(model, NAME).record.rewrites) == repeats


@pytest.mark.usefixtures("_always")
@pytest.mark.parametrize(
    ("resize", "opset"),
    [
        ("Resize(x, double)", 10),
        ("Upsample(x, double)", 9),
        ("Upsample<scales=[1.0, 1.0, 2.0, 2.0]>(x)", 7),
        ("Resize(x, , , sizes)", 17),
        ("Resize<axes=[-1,2]>(x, , , space)", 18),
        (f"{NEAREST}(x, , wide)", 17),
        (f"{NEAREST}(x, , high)", 17),
    ],
)
def test_ways_to_say_the_factors(resize: str, opset: int) -> None:
    model = after_resize(
        resize,
        opset=opset,
        sizes=np.array([2, 64, 10, 12], np.int64),
        space=np.array([12, 10], np.int64),
        wide=np.array([1, 1, 1, 3], np.float32),
        high=np.array([1, 1, 3, 1], np.float32),
    )
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized).count("Conv") > 1
    feeds = draw_feeds(model)
    (expected,), (actual,) = run_plain(model, feeds), run_plain(optimized, feeds)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("resize", "conv", "reason"),
    [
        (f"{NEAREST}(x, , double) z = Neg(r)", "", Common.SHARED),
        ('Resize<mode="linear">(x, , double)', "", NotRepeated.INTERPOLATED),
        ('Resize<nearest_mode="ceil">(x, , double)', "", NotRepeated.INTERPOLATED),
        (f"{NEAREST}(x, , half)", "", NotRepeated.NOT_WHOLE),
        (f"{NEAREST}(x, , more)", "", NotRepeated.NOT_WHOLE),
        (f"{NEAREST}(x, , same)", "", NotRepeated.NOT_WHOLE),
        (f"{NEAREST}(x, , large)", "", Common.NO_GAIN),
        ("", "y = Conv<pads=[1,1,1,1], strides=[2,2]>(r, w)", Why.STRIDED),
        ("", "y = Conv<pads=[1,1,1,0]>(r, w)", Why.UNEVEN),
        ("", "y = Conv<pads=[1,1,1,1], group=64>(r, each)", Common.NO_GAIN),
        ("", "y = Conv<pads=[2,2,2,2], dilations=[2,2]>(r, w)", Common.NO_GAIN),
        ("", 'y = Conv<auto_pad="SAME_UPPER", dilations=[2,2]>(r, w)', Common.PADDED_BY_SIZE),
        ("", "t = Conv<pads=[1,1,1,1]>(r, w) y = Mul(t, k)", Why.AFFINE_NEXT),
        (
            'Resize<coordinate_transformation_mode="tf_crop_and_resize">(x, region, double)',
            "",
            Common.CROPPED,
        ),
    ],
)
def test_refusals(resize: str, conv: str, reason: Refusal) -> None:
    model = after_resize(
        resize or f"{NEAREST}(x, , double)",
        conv=conv or "y = Conv<pads=[1,1,1,1]>(r, w)",
        half=np.array([1, 1, 1.5, 2], np.float32),
        more=np.array([1, 2, 2, 2], np.float32),
        same=np.ones(4, np.float32),
        large=np.array([1, 1, 5, 5], np.float32),
        each=normal(64, 1, 3, 3),
        k=normal(3, 1, 1),
        region=np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32),
        w=normal(3, 128 if "more" in resize else 64, 3, 3),
    )
    assert_refused(model, NAME, reason)


def test_refuses_a_weight_that_a_caller_may_override_or_computes() -> None:
    model = make_overridable(after_resize(), "w")
    assert_refused(model, NAME, Common.WEIGHT_OVERRIDABLE)
    model = build(
        f"(float[N,64,5,6] x, float[3,64,3,3] w) => (float[N,c,h,l] y) "
        f"{{ r = {NEAREST}(x, , double) y = Conv<pads=[1,1,1,1]>(r, w) }}",
        double=DOUBLE,
    )
    assert_refused(model, NAME, Common.WEIGHT_NOT_CONSTANT)


def test_refuses_sizes_that_are_computed() -> None:
    model = build(
        "(float[N,64,H,W] x, int64[4] sizes) => (float[N,c,h,l] y) "
        "{ r = Resize(x, , , sizes) y = Conv<pads=[1,1,1,1]>(r, w) }",
        w=normal(3, 64, 3, 3),
    )
    assert_refused(model, NAME, Common.SHAPE_UNKNOWN)


def test_a_pointwise_conv_is_left_to_another_pass() -> None:
    model = after_resize(conv="y = Conv(r, p)", p=normal(3, 64, 1, 1))
    record = run_pass(model, NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_a_batch_normalization_folds_first() -> None:
    model = after_resize(
        conv="t = Conv<pads=[1,1,1,1]>(r, w) n = BatchNormalization(t, s, b, m, v) y = Relu(n)",
        **batch_norm(3),
    )
    assert_refused(model, NAME, Why.AFFINE_NEXT)
    optimized = run_pass(model).to_proto()
    assert sorted(operators(optimized)) == sorted([*["Conv", "Relu"] * 4, *INTERLEAVED])


UNET = "(float[N,64,5,6] x, float[N,{skip},10,12] s) => (float[N,c,h,l] y) "


@pytest.mark.parametrize(
    ("concat", "kernel"),
    [("r, s", 70), ("s, r", 70), ("s, r, s", 76)],
)
def test_upsampling_beside_a_skip_connection(concat: str, kernel: int) -> None:
    model = build(
        UNET.format(skip=6) + f"{{ r = {NEAREST}(x, , double) k = Concat<axis=1>({concat}) "
        "t = Conv<pads=[1,1,1,1]>(k, w, d) y = Relu(t) }",
        w=normal(3, kernel, 3, 3),
        d=normal(3),
        double=DOUBLE,
    )
    for number, node in enumerate(model.graph.node):
        node.name = f"node{number}"
    rest = ["Concat"] if concat.count("s") > 1 else []
    expected = [*["Conv"] * 5, *INTERLEAVED, *rest, "Add", "Relu"]
    optimized = run_pass(model, NAME).to_proto()
    assert sorted(operators(optimized)) == sorted(expected)
    assert_rewritten(model, NAME, operators(optimized), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("k = Concat<axis=1>(r, s) y = Conv<pads=[1,1,1,1]>(k, w) z = Neg(k)", Common.SHARED),
        ("k = Concat<axis=1>(r, s) y = Conv<pads=[1,1,1,1]>(k, w) z = Neg(r)", Common.SHARED),
        (
            "k = Concat<axis=1>(r, s) y = Conv<pads=[1,1,1,1],group=2>(k, half)",
            Why.GROUPED_INPUT,
        ),
        ("k = Concat<axis=1>(r, s) y = Conv<pads=[2,2,2,2],dilations=[2,2]>(k, w)", Common.NO_GAIN),
        (
            "k = Concat<axis=1>(r, s) t = Conv<pads=[1,1,1,1]>(k, w) y = Mul(t, two)",
            Why.AFFINE_NEXT,
        ),
    ],
)
def test_refusals_beside_a_skip_connection(lines: str, reason: Refusal) -> None:
    used: Parameters = {
        "w": normal(4, 72, 3, 3),
        "half": normal(4, 36, 3, 3),
        "two": np.array(2, np.float32),
    }
    model = build(
        UNET.format(skip=8) + f"{{ r = {NEAREST}(x, , double) {lines} }}",
        double=DOUBLE,
        **named_in(lines, used),
    )
    assert_refused(model, NAME, reason)


def test_a_concat_of_other_values_or_along_another_axis_stays_without_a_refusal() -> None:
    for lines in (
        "k = Concat<axis=1>(s, s) y = Conv<pads=[1,1,1,1]>(k, w)",
        f"r = {NEAREST}(x, , double) k = Concat<axis=2>(r, s) y = Conv<pads=[1,1,1,1]>(k, v)",
    ):
        model = build(
            UNET.format(skip=64) + f"{{ {lines} }}",
            double=DOUBLE,
            w=normal(3, 128, 3, 3),
            v=normal(3, 64, 3, 3),
        )
        record = run_pass(model, NAME).record
        assert not record.rewrites
        assert not record.refusals


@st.composite
def upsampled_convs(draw: st.DrawFn) -> tuple[onnx.ModelProto, dict[str, int]]:
    rank = draw(st.integers(1, 3))
    factors = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    groups = draw(st.sampled_from([1, 2]))
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [draw(st.sampled_from([1, 2])) if f == 1 else 1 for f in factors]
    before, after = [], []
    for k, d, f in zip(kernel, dilations, factors, strict=True):
        before.append(draw(st.integers(0, 4)))
        rest = (d * (k - 1) - before[-1]) % f
        after.append(rest + f * draw(st.integers(0, 1)))
    sizes = [draw(st.sampled_from([str(draw(st.integers(9, 11))), f"D{i}"])) for i in range(rank)]
    bias = draw(st.booleans())
    conv = (
        f"Conv<pads={[*before, *after]}, strides={strides}, dilations={dilations}, group={groups}>"
    )
    relu = draw(st.booleans())
    weights: Parameters = {"w": normal(4, 4 // groups, *kernel)}
    if bias:
        weights["d"] = normal(4)
    space = ",".join(f"l{i}" for i in range(rank))
    model = build(
        f"(float[N,4,{','.join(sizes)}] x) => (float[N,4,{space}] y) "
        f"{{ r = {NEAREST}(x, , f) t = {conv}(r, w{', d' if bias else ''}) "
        f"y = {'Relu' if relu else 'Neg'}(t) }}",
        f=np.array([1, 1, *factors], np.float32),
        **weights,
    )
    return model, {f"D{i}": 9 + i for i in range(rank)}


@pytest.mark.usefixtures("_always")
@settings(max_examples=12, deadline=None)
@given(upsampled_convs())
def test_random_convs(drawn: tuple[onnx.ModelProto, dict[str, int]]) -> None:
    model, sizes = drawn
    try:
        run_plain(model, draw_feeds(model, sizes=sizes))
    except RuntimeException:
        reject()  # the kernel reaches over the whole map
    result = run_pass(model, NAME)
    assert {refusal.reason for refusal in result.record.refusals} <= {"NOT_WHOLE", "NO_GAIN"}
    assert_rewritten(model, NAME, operators(result.to_proto()), sizes=sizes, rtol=1e-4, atol=1e-4)


def test_it_is_left_out_where_models_are_slower_with_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(after_resize(), path)

    def refused(*providers: str, only: Sequence[str] = ()) -> set[str]:
        variant = Variants(path, PassOptions(only=only), providers=providers).without()
        reasons = {refusal.reason for refusal in variant.outcome.refusals}
        rewritten = NAME in {rewrite.pass_name for rewrite in variant.outcome.rewrites}
        assert rewritten != (General.SLOWER_ON_PROVIDER.name in reasons)
        return reasons

    assert not refused("cpu")
    assert refused("cuda") == refused("cpu", "cuda") == {"SLOWER_ON_PROVIDER"}
    assert not refused("cuda", only=[NAME])


def test_passes_are_slower_on_providers_that_there_are() -> None:
    slower = {each.name: each.slower_on for each in choose_passes() if each.slower_on}
    assert slower == {NAME: ("cuda",)}
    assert {*slower[NAME]} <= {*PROVIDER_CHOICES}
