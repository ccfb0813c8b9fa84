"""Linear windows are proven within their rounding, and the bounds hold at the stated rate."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.proof.certificates import linear
from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.linear import bound_factor, norm_factor
from bnfold.proof.certificates.windows import Window
from tests.support.graphs import Array, Parameters, batch_norm, normal, scalar
from tests.support.windows import (
    BORDER,
    KERNEL,
    MAP,
    POOL,
    ROW,
    W33,
    affine_of,
    certified,
    differs,
    folded,
    replaced,
    scaled,
    window,
)

pytestmark = pytest.mark.usefixtures("without_weights")


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("size", ["", "9"])
def test_a_fold_into_conv(rank: int, group: int, size: str) -> None:
    certificate = certified(certify(folded(rank, group=group, size=size)), "linear")
    assert certificate.bound is not None
    assert 1e-8 < certificate.bound < 2e-6
    assert certificate.doubt is not None
    assert certificate.doubt <= 1e-8


@pytest.mark.parametrize(
    "attributes",
    [
        "strides=[2,3]",
        "dilations=[2,1]",
        "pads=[1,0,2,1]",
        'auto_pad="SAME_UPPER", strides=[2,2]',
        'auto_pad="SAME_LOWER"',
        "strides=[8,8], pads=[1,1,1,1]",
    ],
)
@pytest.mark.parametrize("size", ["", "40"])
def test_attributes_of_conv(attributes: str, size: str) -> None:
    certificate = certified(certify(folded(attributes=attributes, size=size)), "linear")
    assert bool(certificate.note) == bool(size)


@pytest.mark.parametrize(
    ("dtype", "name", "most"),
    [
        (np.float16, "float16", 2e-2),
        (ml_dtypes.bfloat16, "bfloat16", 2e-1),
        (np.float64, "double", 1e-14),
    ],
)
def test_types(dtype: Any, name: str, most: float) -> None:
    certificate = certified(certify(folded(dtype=dtype, name=name)), "linear")
    assert certificate.bound is not None
    assert certificate.bound < most


@pytest.mark.parametrize("opset", [9, 11, 13, 15, 18, 21])
def test_opsets(opset: int) -> None:
    weights = {"g": normal(4, 1, 1), "w": normal(3, 4, 1, 1)}
    others = {"w2": scaled(weights["w"], weights["g"].reshape(-1), 1)}
    certificate = certify(
        window(MAP, "a = Mul(x, g) y = Conv(a, w)", "y = Conv(x, w2)", weights, others, opset=opset)
    )
    certified(certificate, "linear")


@pytest.mark.parametrize(
    "attributes",
    [
        "output_padding=[1,1]",
        'auto_pad="SAME_UPPER"',
        'auto_pad="SAME_LOWER"',
        "output_shape=[4,5]",
    ],
)
def test_conv_transpose(attributes: str) -> None:
    old = {"k": normal(4, 3, 3, 3), **batch_norm(6)}
    scale, shift = affine_of(old)
    new = np.concatenate([scaled(old["k"][:2], scale[:3], 1), scaled(old["k"][2:], scale[3:], 1)])
    conv = f"ConvTranspose<group=2, strides=[2,2], {attributes}>"
    after = f"y = {conv}(x, k2, d)"
    before = f"c = {conv}(x, k) y = BatchNormalization(c, s, b, m, v)"
    others = {"k2": new, "d": shift.astype(np.float32)}
    certified(certify(window(MAP, before, after, old, others)), "linear")
    others["k2"] = scaled(old["k"], scale[:3], 1)  # of the wrong group
    differs(certify(window(MAP, before, after, old, others)))


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(transposed: int) -> None:
    w, g = normal(4, 3), normal(3)
    new = scaled(w, g, 1)
    if transposed:
        w, new = w.T.copy(), new.T.copy()
    gemm = f"Gemm<transB={transposed}>"
    weights, others = {"w": w, "g": g, "d": normal(3)}, {"w2": new, "d2": scaled(normal(3), g)}
    before, after = f"h = {gemm}(x, w, d) y = Mul(h, g)", f"y = {gemm}(x, w2, d2)"
    certified(certify(window(ROW, before, after, weights, others)), "linear")


@pytest.mark.parametrize("sizes", ["N,4", "N,T,4", "N,7,4", "2,3,5,4", "4"])
def test_matmul(sizes: str) -> None:
    w, g = normal(4, 3), normal(3)
    text = f"(float[{sizes}] x) => (float[{','.join('m' * (sizes.count(',') + 1))}] y)"
    before, after = "h = MatMul(x, w) y = Mul(h, g)", "y = MatMul(x, w2)"
    others = {"w2": scaled(w, g, 1)}
    certified(certify(window(text, before, after, {"w": w, "g": g}, others)), "linear")


@pytest.mark.parametrize("scale", [1e-8, 1e8, 1e-30])
@pytest.mark.parametrize("seed", range(3))
def test_extreme_scales_are_no_difference(scale: float, seed: int) -> None:
    old = {"k": normal(8, 4, 3, 3, seed=seed) * np.float32(scale), **batch_norm(8, seed=seed)}
    factor, shift = affine_of(old)
    new = {"k2": scaled(old["k"], factor), "d": shift.astype(np.float32)}
    before = "c = Conv(x, k) y = BatchNormalization(c, s, b, m, v)"
    certified(certify(window(MAP, before, "y = Conv(x, k2, d)", old, new)), "linear")


@pytest.mark.parametrize("inputs", [5, 480])
def test_weights_that_become_too_small_are_set_to_zero(inputs: int) -> None:
    """There are as many of them as inputs, of which there may be many more than outputs."""
    weights = np.full((inputs, 2), 1.9 * 2.0**-126, np.float32)
    weights[:, 1] = 1
    half = np.full(1, 0.5, np.float32)
    new = weights / 2
    new[:, 0] = 0
    text = f"(float[N,{inputs}] x) => (float[N,m] y)"
    before, after = "h = Mul(x, half) y = MatMul(h, w)", "y = MatMul(x, w2)"
    right = window(text, before, after, {"w": weights, "half": half}, {"w2": new})
    certified(certify(right), "linear")
    wrong = window(text, before, after, {"w": weights * 1000, "half": half}, {"w2": new * 1000})
    differs(certify(wrong))


def test_zero_rows_subnormal_weights_and_cancelling_biases_are_no_difference() -> None:
    old = {"k": normal(8, 4, 3, 3), **batch_norm(8)}
    old["k"][0], old["k"][1] = 0, old["k"][1] * np.float32(1e-40)
    old["b"][:4] = (old["m"] * affine_of(old)[0])[:4].astype(np.float32)
    factor, shift = affine_of(old)
    new = {"k2": scaled(old["k"], factor), "d": shift.astype(np.float32)}
    before = "c = Conv(x, k) y = BatchNormalization(c, s, b, m, v)"
    certified(certify(window(MAP, before, "y = Conv(x, k2, d)", old, new)), "linear")


def test_where_large_addends_cancel_their_rounding_is_no_difference() -> None:
    """As a chain of rewrites leaves it, which round a sum each."""
    old = {"v": normal(4, 1, 1, 1), "w": normal(4, 1, 1, 1, seed=1)}
    total = old["v"] + old["w"]
    old["g"] = (-total * np.float32(1 + 3e-5)).reshape(4, 1, 1)
    conv = "Conv<group=4>"
    before = f"a = {conv}(x, v) b = {conv}(x, w) c = Add(a, b) d = Mul(x, g) y = Add(c, d)"
    new = {"k": total + old["g"].reshape(total.shape)}
    certificate = certified(certify(window(MAP, before, f"y = {conv}(x, k)", old, new)), "linear")
    assert certificate.bound is not None
    assert certificate.bound > 1e-4  # it says so
    new["k"] = new["k"] * np.float32(1.5)
    differs(certify(window(MAP, before, f"y = {conv}(x, k)", old, new)))


@pytest.mark.parametrize(("pads", "ok"), [("2,1,1,3", True), ("1,1,1,3", False)])
@pytest.mark.parametrize("size", ["H,W", "40,41"])
def test_pads_before_a_conv(pads: str, ok: bool, size: str) -> None:
    before = "p = Pad(x, border) y = Conv<strides=[2,1], pads=[1,1,1,1]>(p, w)"
    after = f"y = Conv<strides=[2,1], pads=[{pads}]>(x, w)"
    weights: Parameters = {"border": BORDER, "w": W33}
    certificate = certify(window(MAP.replace("H,W", size), before, after, weights))
    if ok:
        certified(certificate, "linear")
    else:
        differs(certificate)


def maximum(scale: Array, **changed: Array) -> Window:
    """Return a BatchNormalization after a pool, and its fold into the Conv before."""
    old = {"k": normal(4, 4, 3, 3), **batch_norm(4), "s": scale}
    factor, shift = affine_of(old)
    new = {"k2": scaled(old["k"], factor), "d": shift.astype(np.float32)} | changed
    before = f"c = Conv(x, k) p = {POOL}(c) y = BatchNormalization(p, s, b, m, v)"
    return window(MAP, before, f"c = Conv(x, k2, d) y = {POOL}(c)", old, new)


def test_a_fold_across_a_pool() -> None:
    scale = np.abs(batch_norm(4)["s"])
    certified(certify(maximum(scale)), "maximum")
    differs(certify(maximum(-scale)))
    scale[2] *= -1
    differs(certify(maximum(scale)))
    differs(certify(maximum(np.abs(scale), d=np.zeros(4, np.float32))))


def test_weights_that_are_not_finite_prove_nothing() -> None:
    old = {"w": np.array([[np.inf], [np.inf], [1], [1]], np.float32)}
    new = {"v": np.array([[np.inf], [-np.inf], [1], [5]], np.float32)}
    wrong = window(ROW, "y = MatMul(x, w)", "y = MatMul(x, v)", old, new)
    assert certify(wrong).verdict != "certified"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_division_by_zero_is_not_linear() -> None:
    certificate = certify(
        window(ROW, "y = Div(x, k)", "y = Div(x, l)", {"k": scalar(0)}, {"l": scalar(-0.0)})
    )
    assert certificate.verdict != "certified"


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("turned", [0, 1])
def test_what_a_gemm_adds_may_say_how_many_rows_there_are(turned: int, columns: int) -> None:
    weights = {"w": normal(4, 3), "c": normal(7, columns), "two": scalar(2)}
    others = {"w": weights["w"] * 2, "c": weights["c"] * 2}
    interface = f"(float[{'4,N' if turned else 'N,4'}] x) => (float[N,m] y)"
    gemm = f"Gemm<transA={turned}>(x, w, c)"
    certified(
        certify(window(interface, f"p = {gemm} y = Mul(p, two)", f"y = {gemm}", weights, others)),
        "linear",
    )
    others["c"] = weights["c"]
    differs(
        certify(window(interface, f"p = {gemm} y = Mul(p, two)", f"y = {gemm}", weights, others))
    )


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize(
    ("body", "weight", "axis"),
    [
        ("Conv(x, w)", normal(3, 4, 2), 0),
        ("Conv(x, w)", normal(3, 4, 2, 2), 0),
        ("ConvTranspose(x, w)", normal(4, 3, 2), 1),
        ("Gemm(x, w)", normal(4, 3), 1),
        ("Gemm<transA=1, transB=1>(x, w)", normal(3, 4), 0),
    ],
)
def test_what_reads_an_input_says_its_rank(
    body: str, weight: Array, axis: int, wrong: bool
) -> None:
    factors = np.array([2, 3, 5], np.float32)
    new = scaled(weight, factors, axis)
    if wrong:
        new.flat[-1] *= -1
    pair = window(
        "(float[N] x) => (float[n] y)",
        f"c = {body} y = Mul(c, k)",
        f"y = {body}",
        {"w": weight, "k": factors.reshape(3, *[1] * (weight.ndim - 2))},
        {"w": new},
    )
    for model in pair.models:
        model.graph.input[0].type.tensor_type.ClearField("shape")
    assert certify(pair).verdict == ("differs" if wrong else "certified")


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 2),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_random_folds_are_certified(seed: int, group: int, stride: int, pads: list[int]) -> None:
    attributes = f"pads={pads}, strides=[{stride},1]"
    certified(certify(folded(group=group, attributes=attributes, seed=seed)), "linear")


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(*[st.integers(0, size - 1) for size in (8, 4, 3, 3)]), st.floats(-4, 0), st.booleans()
)
def test_a_weight_off_by_a_ten_thousandth_of_its_row_is_found(
    index: tuple[int, ...], exponent: float, up: bool
) -> None:
    change = np.linalg.norm(KERNEL[index[0]]) * 10**exponent * (1 if up else -1)
    certificate = differs(certify(folded(k2=replaced(KERNEL, index, KERNEL[index] + change))))
    assert certificate.worst is not None
    assert certificate.worst.index[0] == index[0]


@pytest.mark.parametrize("doubt", [0.05, 0.4])
def test_the_bounds_hold_at_the_stated_rate(doubt: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doubt of a probability is one half for the norm of the difference, one for the row's."""
    monkeypatch.setattr(linear, "DOUBT", doubt)
    generator = np.random.default_rng(0)
    probes, trials = 8, 40_000
    products = generator.standard_normal((trials, probes))  # d·x, where ‖d‖ is 1
    beyond = np.mean(np.abs(products).max(axis=1) * bound_factor(probes, 1) < 1)
    assert 0.2 * doubt / 2 < beyond <= doubt / 2 + 4 * np.sqrt(doubt / trials)
    norms = np.sqrt(np.mean(generator.standard_normal((trials, probes)) ** 2, axis=1))
    assert np.mean(norms > norm_factor(probes, 1)) <= doubt / 2 + 4 * np.sqrt(doubt / trials)


def test_the_bound_of_a_window_holds_at_the_stated_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of planted differences of a known norm, the bound is too small no more often than stated."""
    monkeypatch.setattr(linear, "DOUBT", 0.2)
    monkeypatch.setattr(linear, "PROBES", 4)
    missed = 0
    for seed in range(60):
        row, change = normal(4, 1, seed=seed), normal(4, 1, seed=seed + 1000)
        size = 2e-7 * float(np.linalg.norm(row))
        new = (row + change / np.linalg.norm(change) * size).astype(np.float32)
        true = np.linalg.norm(new.astype(np.float64) - row) / np.linalg.norm(row.astype(np.float64))
        certificate = certify(
            window(ROW, "y = MatMul(x, w)", "y = MatMul(x, v)", {"w": row}, {"v": new})
        )
        missed += int(certificate.bound is not None and certificate.bound < true)
    assert missed <= 60 * 0.2 + 3 * np.sqrt(60 * 0.2)
