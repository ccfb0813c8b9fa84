"""Maxima and minima over axes are proven, where what is before or after them has changed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.normal_forms.extremes import with_extremes_apart
from bnfold.proof.certificates.windows import Window
from tests.support.evaluate import run_float64
from tests.support.graphs import Parameters, batch_norm, build, normal
from tests.support.windows import affine_of, scaled, window

pytestmark = pytest.mark.usefixtures("without_weights")

KERNEL = normal(4, 3, 3, 3)
POSITIVE = batch_norm(4) | {"s": np.array([0.5, 2, 1, 3], np.float32)}
INTERFACE = "(float[N,3,H,W] x) => (float[n] y)"

EXTREMES = {
    "GlobalMaxPool(c)": "(4,1,1)",
    "ReduceMax<axes=[2,3]>(c)": "(4,1,1)",
    "ReduceMin<axes=[2,3], keepdims=0>(c)": "(4,)",
    "ReduceMax<axes=[-1], keepdims=0>(c)": "(4,1)",
    "ReduceMin<axes=[2]>(c)": "(4,1,1)",
}


def described(pair: Window) -> Window:
    """Return the window with the shapes of what is within it, as those of rewrites have."""
    return Window(*map(onnx.shape_inference.infer_shapes, pair.models))


def absorbed(extreme: str, lines: str, *, off: float = 0.0) -> Window:
    """Return a Conv, an extreme and maps, and the Conv that has absorbed the scale and shift."""
    shape = [int(size) for size in EXTREMES[extreme].strip("(,)").split(",")]
    scale, shift = np.abs(normal(4)) + 0.5, normal(4, seed=1)
    before: Parameters = {"w": KERNEL, "k": scale.reshape(shape), "t": shift.reshape(shape)}
    scale = scale.copy()
    scale[2] += off
    after: Parameters = {"w": scaled(KERNEL, scale), "t": shift}
    changed = f"c = Conv(x, w, t) y = {extreme}"
    return described(
        window(INTERFACE, f"c = Conv(x, w) g = {extreme} {lines}", changed, before, after)
    )


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("lines", ["m = Mul(g, k) y = Add(t, m)"])
def test_what_a_conv_before_absorbs(extreme: str, lines: str) -> None:
    certificate = certify(absorbed(extreme, lines))
    assert (certificate.verdict, certificate.kind) == ("certified", "linear")
    assert certify(absorbed(extreme, lines, off=1e-3)).verdict == "differs"


@pytest.mark.parametrize(
    ("extreme", "last"),
    [
        ("GlobalMaxPool(c)", "Conv(g, u, d)"),
        ("ReduceMax<axes=[2,3]>(c)", "Conv(g, u, d)"),
        ("ReduceMin<axes=[2,3], keepdims=0>(c)", "Gemm(g, u, d)"),
        ("ReduceMax<axes=[-1,-2], keepdims=0>(c)", "Gemm(g, u, d)"),
    ],
)
def test_what_an_operator_after_absorbs(extreme: str, last: str) -> None:
    kernel = normal(4, 5) if "Gemm" in last else normal(5, 4, 1, 1)
    axis = 0 if "Gemm" in last else 1
    scale, shift = affine_of(POSITIVE)
    summed = np.tensordot(shift, kernel.astype(np.float64), (0, axis)).reshape(5)
    bias = normal(5)

    def pair(factor: float) -> Window:
        return window(
            INTERFACE.replace("3,H", "4,H"),
            f"c = BatchNormalization(x, s, b, m, v) g = {extreme} y = {last}",
            f"g = {extreme.replace('(c)', '(x)')} y = {last}",
            {"u": kernel, "d": bias, **POSITIVE},
            {
                "u": scaled(kernel, scale, axis),
                "d": (bias + factor * summed).astype(np.float32),
            },
        )

    certificate = certify(described(pair(1.0)))
    assert (certificate.verdict, certificate.kind) == ("certified", "linear")
    assert certify(described(pair(1.001))).verdict == "differs"


def test_two_in_a_row() -> None:
    lines = "g = ReduceMin<axes=[3], keepdims=0>(c) h = ReduceMax<axes=[-1], keepdims=0>(g)"
    kernel, scale, shift = normal(4, 5), np.abs(normal(4)), normal(4, seed=1)
    pair = window(
        INTERFACE.replace("3,H", "4,H"),
        f"a = Mul(x, k) c = Add(a, t) {lines} y = Gemm(h, u, d)",
        f"{lines.replace('(c)', '(x)')} y = Gemm(h, u, d)",
        {"u": kernel, "d": normal(5), "k": scale.reshape(4, 1, 1), "t": shift.reshape(4, 1, 1)},
        {
            "u": scaled(kernel, scale),
            "d": (normal(5) + shift.astype(np.float64) @ kernel).astype(np.float32),
        },
    )
    assert certify(described(pair)).verdict == "certified"


@pytest.mark.parametrize(
    ("lines", "weights"),
    [
        ("m = Mul(x, k) y = GlobalMaxPool(m)", {"k": -np.abs(normal(4, 1, 1))}),
        ("m = Mul(x, k) y = GlobalMaxPool(m)", {"k": normal(4, 1, 6) ** 2}),
        ("g = ReduceMax<axes=[3]>(x) y = Mul(g, k)", {"k": normal(4, 1, 6) ** 2}),
        ("g = ReduceMax<axes=[3]>(x) y = Mul(g, k)", {"k": normal(1, 1, 1, 1, 1) ** 2}),
        ("m = Sub(k, x) y = ReduceMin<axes=[2]>(m)", {"k": normal(4, 1, 1)}),
        ("m = Mul(x, x) y = GlobalMaxPool(m)", {}),
        ("m = Mul(x, k) g = GlobalMaxPool(m) y = Sub(g, m)", {"k": normal(4, 1, 1) ** 2}),
        ("m = BatchNormalization(x, s, b, m0, v) g = ReduceMax<axes=[1]>(m) y = Sigmoid(g)",
         {"m0": POSITIVE["m"], **{n: POSITIVE[n] for n in "sbv"}}),
        ("g = GlobalMaxPool(x) m = Mul(g, k) y = Sub(m, g)", {"k": normal(4, 1, 1) ** 2}),
        ("g = ReduceMax<keepdims=1>(x) y = Mul(g, k)", {"k": normal(4, 1, 1) ** 2}),
    ],
)  # fmt: skip
def test_others_stay(lines: str, weights: Parameters) -> None:
    model = build(f"(float[2,4,5,6] x) => (float[n] y) {{ {lines} }}", **weights)
    model = onnx.shape_inference.infer_shapes(model)
    moved = with_extremes_apart(Window(model, model)).before
    assert [node.op_type for node in moved.graph.node] == [n.op_type for n in model.graph.node]


def test_what_is_read_outside_stays() -> None:
    model = build(
        "(float[2,4,5,6] x) => (float[n] m, float[n] y) "
        "{ m = Mul(x, k) g = GlobalMaxPool(m) y = Sigmoid(g) }",
        k=normal(4, 1, 1) ** 2,
    )
    model = onnx.shape_inference.infer_shapes(model)
    moved = with_extremes_apart(Window(model, model)).before
    assert [node.op_type for node in moved.graph.node] == ["Mul", "GlobalMaxPool", "Sigmoid"]


@st.composite
def chains(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw maps of each element, some of them decreasing, with extremes between."""
    lines: list[str] = []
    weights: Parameters = {}
    value = "x"
    axes = [0, 1, 2, 3]
    sizes = {0: 2, 1: 4, 2: 3, 3: 5}
    for step in range(draw(st.integers(1, 6))):
        name, rank = f"v{step}", len(axes)
        if draw(st.booleans()) and rank > 2:
            at = draw(st.integers(0, rank - 1))
            kind = draw(st.sampled_from(["ReduceMax", "ReduceMin"]))
            keep = draw(st.integers(0, 1))
            shown = at - rank if draw(st.booleans()) else at
            lines.append(f"{name} = {kind}<axes=[{shown}], keepdims={keep}>({value})")
            sizes[axes[at]] = 1
            if not keep:
                axes.pop(at)
        else:
            kind = draw(st.sampled_from(["Add", "Mul", "Sub", "Div"]))
            full = [draw(st.sampled_from([1, sizes[axis]])) for axis in axes]
            content = normal(*full[draw(st.integers(0, rank - 1)) :], seed=step)
            is_positive = draw(st.booleans())
            weights[f"k{step}"] = np.abs(content) + 0.1 if is_positive else content
            order = [value, f"k{step}"]
            if kind in ("Add", "Mul", "Sub") and draw(st.booleans()):
                order.reverse()
            lines.append(f"{name} = {kind}({', '.join(order)})")
        value = name
    result = f"(float[2,4,3,5] x) => (float[{','.join('abcd'[: len(axes)])}] {value})"
    return onnx.shape_inference.infer_shapes(build(f"{result} {{ {' '.join(lines)} }}", **weights))


@settings(max_examples=30, deadline=None)
@given(chains())
def test_what_moves_is_the_same(model: onnx.ModelProto) -> None:
    moved = with_extremes_apart(Window(model, model)).before
    x = normal(2, 4, 3, 5, seed=9)
    (expected,), (actual,) = run_float64(model, {"x": x}), run_float64(moved, {"x": x})
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("error", [0.0, 1e-3])
@pytest.mark.parametrize("column", [0, 5])
def test_an_extreme_of_one_of_several_outputs(error: float, column: int) -> None:
    """As of queries in Hiera: what the outputs share differs, and each of them does not."""
    start = "m = MatMul(x, w) p = Transpose(m) l = Slice(p, zero, four, zero)"
    last = "r = Slice(p, four, eight, zero) z = Neg(r)"
    places = {"zero": np.array([0]), "four": np.array([4]), "eight": np.array([8])}
    w = normal(3, 8)
    other = w.copy()
    other[:, :4] *= np.float32(0.25)
    other[1, column] *= np.float32(1 + error)
    pair = window(
        "(float[4,3] x) => (float[a,b] y, float[a,b] z)",
        f"{start} g = ReduceMax<axes=[1]>(l) y = Mul(g, k) {last}",
        f"{start} y = ReduceMax<axes=[1]>(l) {last}",
        {"w": w, "k": np.array(0.25, np.float32), **places},
        {"w": other, **places},
    )
    assert certify(described(pair)).verdict == ("differs" if error else "certified")
