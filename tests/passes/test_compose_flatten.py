"""compose-flatten: exact for any Conv on a map of a fixed size, and only where it costs less."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import bnfold
import bnfold_passes.compose_flatten
from bnfold.rewriting.contract import Common, Refusal
from tests.support.evaluate import RuntimeException, run_plain
from tests.support.graphs import (
    Array,
    Parameters,
    build,
    draw_feeds,
    make_overridable,
    named_in,
    normal,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, parameters, run_pass

NAME = "compose-flatten"
WEIGHTS: Parameters = {
    "w": normal(8, 4, 3, 3),
    "b": normal(8),
    "m": normal(160, 6),  # 8 channels on 4×5
    "mt": normal(6, 160),
    "d": normal(6),
    "rows": normal(2, 1),
    "flat": np.array([-1, 160], np.int64),
    "keep": np.array([0, -1], np.int64),
    "one": normal(8, 4, 4, 5),  # the whole map
    "v": normal(8, 6),
    "space": np.array([2, 3], np.int64),
}
CONV = "c = Conv<pads=[1,1,1,1]>(x, w, b)"


@pytest.fixture
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose at any cost."""
    monkeypatch.setattr(bnfold_passes.compose_flatten, "_READ", -1)


def model_of(lines: str, *, batch: str = "N", size: str = "4,5", **more: Array) -> onnx.ModelProto:
    used = named_in(lines, WEIGHTS | more)
    interface = f"(float[{batch},4,{size}] x) => (float[N,k] y)"
    return build(f"{interface} {{ {lines} }}", **used)


@pytest.mark.parametrize("batch", ["N", "2"])
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (f"{CONV} f = Flatten(c) y = Gemm(f, m, d)", "Gemm"),
        (f"{CONV} f = Flatten<axis=-3>(c) y = Gemm(f, m)", "Gemm"),
        (f"{CONV} f = Reshape(c, flat) y = Gemm<transB=1, alpha=0.5, beta=-2.0>(f, mt, d)", "Gemm"),
        (f"{CONV} f = Reshape(c, keep) y = MatMul(f, m)", "Gemm"),
        ("c = Conv<pads=[1,1,1,1]>(x, w) f = Flatten(c) y = MatMul(f, m)", "MatMul"),
        ("c = Conv<pads=[1,1,1,1]>(x, w) f = Flatten(c) y = Gemm(f, m)", "Gemm"),
        ('c = Conv<auto_pad="SAME_UPPER">(x, w) f = Flatten(c) y = MatMul(f, m)', "MatMul"),
        ("c = Conv(x, one) f = Squeeze(c, space) y = MatMul(f, v)", "MatMul"),
        ("c = Conv(x, one) f = Flatten(c) y = Gemm(f, v, d)", "Gemm"),
    ],
)
def test_one_product(lines: str, expected: str, batch: str) -> None:
    optimized = assert_rewritten(model_of(lines, batch=batch), NAME, ["Flatten", expected])
    shapes = {array.shape for array in parameters(optimized).values()}
    assert (80, 6) in shapes


def test_a_bias_by_rows() -> None:
    lines = f"{CONV} f = Flatten(c) y = Gemm(f, m, rows)"
    assert_rewritten(model_of(lines, batch="2"), NAME, ["Flatten", "Gemm"])


def test_the_matrix_is_rounded_once() -> None:
    weights: Parameters = {"u": normal(8, 4, 1, 1), "m": normal(160, 6)}
    model = model_of("c = Conv(x, u) f = Flatten(c) y = MatMul(f, m)", **weights)
    (matrix,) = parameters(assert_rewritten(model, NAME, ["Flatten", "MatMul"])).values()
    kernel, columns = (weights[name].astype(np.float64) for name in "um")
    exact = np.einsum("oi,opn->ipn", kernel[:, :, 0, 0], columns.reshape(8, 20, 6))
    np.testing.assert_array_equal(matrix, exact.reshape(80, 6).astype(np.float32))


@pytest.mark.parametrize(
    ("lines", "reason", "subject"),
    [
        (f"{CONV} f = Flatten(c) y = Gemm(f, m, d) z = Neg(c)", Common.SHARED, "Conv c"),
        (f"{CONV} f = Flatten(c) y = Gemm(f, m, d) z = Neg(f)", Common.SHARED, "Flatten f"),
        ("c = Conv(x, few) f = Flatten(c) y = Gemm(f, n, d)", Common.NO_GAIN, "Conv c"),
        (
            'c = Conv<auto_pad="SAME_UPPER", dilations=[2,2]>(x, w) f = Flatten(c) '
            "y = Gemm(f, m, d)",
            Common.PADDED_BY_SIZE,
            "Conv c",
        ),
    ],
)
def test_refusals(lines: str, reason: Refusal, subject: str) -> None:
    model = model_of(lines, few=normal(1, 4, 1, 1), n=normal(20, 6))
    assert_refused(model, NAME, reason, in_the_way=subject)


def test_refuses_sizes_that_are_not_known() -> None:
    lines = f"{CONV} f = Reshape(c, flat) y = Gemm(f, m, d)"
    assert_refused(model_of(lines, size="H,W"), NAME, Common.SHAPE_UNKNOWN, in_the_way="Conv c")


@pytest.mark.parametrize("name", ["w", "b", "m", "d"])
def test_refuses_what_a_caller_may_override(name: str) -> None:
    model = model_of(f"{CONV} f = Flatten(c) y = Gemm(f, m, d)")
    assert_refused(make_overridable(model, name), NAME, Common.WEIGHT_OVERRIDABLE)


def test_refuses_a_weight_that_is_computed() -> None:
    model = build(
        "(float[N,4,4,5] x, float[8,4,1,1] u) => (float[N,6] y) "
        "{ c = Conv(x, u) f = Flatten(c) y = Gemm(f, m, d) }",
        m=WEIGHTS["m"],
        d=WEIGHTS["d"],
    )
    assert_refused(model, NAME, Common.WEIGHT_NOT_CONSTANT)


def test_as_many_multiplications_are_few_enough() -> None:
    """4·o·(20 + 4) and 20·o·6·5 before, 80·6·5 after: as many for 80 / 23.2 channels."""
    for outputs, composes in ((3, False), (4, True)):
        weights: Parameters = {"u": normal(outputs, 4, 1, 1), "n": normal(20 * outputs, 6)}
        model = model_of("c = Conv(x, u) f = Flatten(c) y = MatMul(f, n)", **weights)
        if composes:
            assert_rewritten(model, NAME, ["Flatten", "MatMul"])
        else:
            assert_refused(model, NAME, Common.NO_GAIN)


@pytest.mark.parametrize(
    "lines",
    [
        f"{CONV} r = Relu(c) f = Flatten(r) y = Gemm(f, m, d)",
        "f = Flatten(x) y = Gemm(f, n, d)",
        f"{CONV} f = Flatten<axis=2>(c) y = Gemm(f, n20, d)",
        f"{CONV} f = Flatten(c) y = Gemm<transA=1>(f, two, d)",
        f"{CONV} f = Reshape(c, parts) y = MatMul(f, half)",
        f"{CONV} f = Reshape(c, halves) y = MatMul(f, half)",
        f"{CONV} f = Reshape(c, deep) y = MatMul(f, m)",
        f"{CONV} f = Flatten(c) y = MatMul( m6, f)",
    ],
)
def test_others_stay_without_a_refusal(lines: str) -> None:
    more: Parameters = {
        "n": normal(80, 6),
        "n20": normal(20, 6),
        "two": normal(2, 6),
        "half": normal(80, 6),
        "m6": normal(3, 2),
        "parts": np.array([2, 2, 80], np.int64),
        "deep": np.array([2, 1, 160], np.int64),
        "halves": np.array([-1, 80], np.int64),
    }
    record = run_pass(model_of(lines, batch="2", **more), NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_a_gemm_that_reads_the_transpose_stays() -> None:
    lines = f"{CONV} f = Flatten(c) y = Gemm<transA=1>(f, m, d)"
    record = run_pass(model_of(lines, batch="160"), NAME).record
    assert not record.rewrites
    assert not record.refusals


@pytest.mark.parametrize("size", ["4,5", "1,1"])
def test_it_is_certified(size: str) -> None:
    conv = "c = Conv(x, u)" if size == "1,1" else CONV
    weights: Parameters = {"u": normal(8, 4, 1, 1), "m": normal(8 if size == "1,1" else 160, 6)}
    model = model_of(f"{conv} f = Flatten(c) y = Gemm(f, m, d)", size=size, **weights)
    result = bnfold.optimize(model, only=[NAME], certify="always")
    (rewrite,) = result.record.rewrites
    assert rewrite.certificate is not None
    assert (rewrite.certificate.verdict, rewrite.certificate.kind) == ("certified", "linear")


def test_padding_of_any_width_takes_no_memory() -> None:
    """A billion positions, of which the Conv reads the first, the middle and the last."""
    model = build(
        "(float[N,2,1] x) => (float[N,k] y) { c = Conv<pads=[1000000000,1000000000], "
        "strides=[1000000000]>(x, u) f = Flatten(c) y = MatMul(f, m) }",
        u=normal(4, 2, 1),
        m=normal(12, 3),
    )
    assert operators(run_pass(model, NAME).to_proto()) == ["Flatten", "MatMul"]


@st.composite
def flattened_convs(draw: st.DrawFn) -> onnx.ModelProto:
    rank, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    sizes = [draw(st.integers(1, 6)) for _ in range(rank)]
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilations = [draw(st.sampled_from([1, 1, 2])) for _ in range(rank)]
    pads = [draw(st.integers(0, 3)) for _ in range(2 * rank)]
    counts = [
        (size + pads[a] + pads[a + rank] - (kernel[a] - 1) * dilations[a] - 1) // strides[a] + 1
        for a, size in enumerate(sizes)
    ]
    if min(counts) < 1:
        reject()
    rows, columns = 6 * int(np.prod(counts)), draw(st.integers(1, 5))
    biased = draw(st.booleans())
    weights: Parameters = {"w": normal(6, 6 // groups, *kernel)}
    if biased:
        weights["b"] = normal(6)
    transposed = draw(st.integers(0, 1))
    weights["m"] = normal(*((columns, rows) if transposed else (rows, columns)))
    weights["d"] = normal(columns)
    return build(
        f"(float[N,6,{','.join(map(str, sizes))}] x) => (float[N,{columns}] y) {{ "
        f"c = Conv<group={groups}, strides={strides}, dilations={dilations}, pads={pads}>"
        f"(x, w{', b' if biased else ''}) f = Flatten(c) "
        f"y = Gemm<alpha=1.5, transB={transposed}>(f, m, d) }}",
        **weights,
    )


@pytest.mark.usefixtures("_always")
@settings(max_examples=12, deadline=None)
@given(flattened_convs())
def test_random_convs(model: onnx.ModelProto) -> None:
    try:
        run_plain(model, draw_feeds(model))
    except RuntimeException:
        reject()
    result = run_pass(model, NAME)
    assert not result.record.refusals
    assert_rewritten(model, NAME, ["Flatten", "Gemm"], rtol=1e-4, atol=1e-5)
    assert operators(result.to_proto()) == ["Flatten", "Gemm"]
