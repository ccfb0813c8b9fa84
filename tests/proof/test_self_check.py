"""A model is always equal to itself, saved with another text in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import bnfold
from bnfold.record.data import ProviderEquivalence
from tests.support.checks import compared_on_cpu
from tests.support.cli import SAMPLES
from tests.support.evaluate import RuntimeException, run_plain
from tests.support.graphs import build, draw_feeds, make_overridable, normal


def against_itself(model: onnx.ModelProto) -> ProviderEquivalence:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.doc_string = "another file"
    return compared_on_cpu(model, other)


def passes(model: onnx.ModelProto) -> None:
    found = against_itself(model)
    assert (found.verdict, found.reason) == ("pass", ""), onnx.printer.to_text(model.graph)


# --- Random graphs --------------------------------------------------------------------------------

WEIGHTS: dict[str, Any] = {
    "conv": normal(3, 3, 3, 3),
    "s": np.array([0.5, -1, 2], np.float32),
    "b": normal(3),
    "m": normal(3, seed=1),
    "v": np.array([0.5, 1, 2], np.float32),
    "half": np.array(0.5, np.float32),
    "zero": np.array([0]),
    "one": np.array([1]),
    "three": np.array([3]),
    "last": np.array([-1]),
    "spatial": np.array([2, 3]),
    "starts": np.array([0, 1]),
    "ends": np.array([2**31, -1]),
    "twice": np.array([1, 1, 2, 2], np.float32),
    "doubled": np.array([1, 1, 2, 2]),
    "flat": np.array([-1]),
    "pads": np.array([0, 0, 1, 0, 0, 0, 0, 2]),
    "nothing": np.array([], np.float32),
    "wide": np.ones((1, 3, 1, 1), np.float32),
    "step": np.array(0.1, np.float32),
    "middle": np.array(128, np.uint8),
}

BLOCKS = {  # from {x} to {y}, of four axes and three channels; {n} makes names distinct
    "relu": "{y} = Relu({x})",
    "tanh": "{y} = Tanh({x})",
    "exp": "t{n} = Tanh({x}) {y} = Exp(t{n})",
    "half": "{y} = Mul({x}, half)",
    "negative": "{y} = Neg({x})",
    "norm": "{y} = BatchNormalization({x}, s, b, m, v)",
    "conv": "{y} = Conv<pads=[1,1,1,1]>({x}, conv)",
    "pool": "{y} = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>({x})",
    "average": "{y} = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>({x})",
    "reshape": (
        "h{n} = Shape({x}) k{n} = Gather(h{n}, zero) c{n} = Concat<axis=0>(k{n}, three, flat) "
        "f{n} = Reshape({x}, c{n}) g{n} = Sigmoid(f{n}) {y} = Reshape(g{n}, h{n})"
    ),
    "constant": (
        "h{n} = Shape({x}) o{n} = ConstantOfShape<value=float[1] {{0.25}}>(h{n}) "
        "{y} = Add({x}, o{n})"
    ),
    "slice": "{y} = Slice({x}, starts, ends, spatial)",
    "half_slice": (
        "h{n} = Shape({x}) w{n} = Slice(h{n}, last, ends_of_all) "
        "d{n} = Add(w{n}, one) e{n} = Div(d{n}, two) "
        "{y} = Slice({x}, zero, e{n}, last)"
    ),
    "expand": ("h{n} = Shape({x}) e{n} = Expand(wide, h{n}) {y} = Sub({x}, e{n})"),
    "resize": (
        'h{n} = Shape({x}) z{n} = Mul(h{n}, doubled) {y} = Resize<mode="nearest">({x}, , , z{n})'
    ),
    "linear": (
        "h{n} = Shape({x}) z{n} = Mul(h{n}, doubled) "
        '{y} = Resize<mode="linear", coordinate_transformation_mode="half_pixel">({x}, , , z{n})'
    ),
    "pad": "{y} = Pad({x}, pads)",
    "reflect": '{y} = Pad<mode="reflect">({x}, pads)',
    "half_type": "h{n} = Cast<to=10>({x}) t{n} = Sigmoid(h{n}) {y} = Cast<to=1>(t{n})",
    "compare": "g{n} = Greater({x}, half) f{n} = Cast<to=1>(g{n}) {y} = Add({x}, f{n})",
    "where": "g{n} = Less({x}, half) {y} = Where(g{n}, {x}, half)",
    "quantize": (
        "q{n} = QuantizeLinear({x}, step, middle) {y} = DequantizeLinear(q{n}, step, middle)"
    ),
    "round": "t{n} = Tanh({x}) r{n} = Round(t{n}) {y} = Sub(t{n}, r{n})",
    "mean": "a{n} = ReduceMean<axes=[2,3]>({x}) {y} = Add({x}, a{n})",
    "softmax": "{y} = Softmax<axis=1>({x})",
    "size": "h{n} = Size({x}) f{n} = Cast<to=1>(h{n}) i{n} = Div(half, f{n}) {y} = Add({x}, i{n})",
    "split": "l{n}, r{n} = Split<axis=1>({x}, parts) {y} = Concat<axis=1>(r{n}, l{n})",
}

OUTPUTS = {
    "float": ("float[A{n},B{n},C{n},D{n}]", "{y} = Identity({x})"),
    "rows": ("float[A{n},B{n}]", "{y} = Flatten({x})"),
    "shape": ("int64[S{n}]", "{y} = Shape({x})"),
    "class": ("int64[A{n},B{n},C{n},D{n}]", "{y} = ArgMax<axis=1>({x})"),
    "half": ("float16[A{n},B{n},C{n},D{n}]", "{y} = Cast<to=10>({x})"),
    "bool": ("bool[A{n},B{n},C{n},D{n}]", "{y} = Greater({x}, half)"),
    "bytes": ("uint8[A{n},B{n},C{n},D{n}]", "{y} = QuantizeLinear({x}, step, middle)"),
    "scalar": ("float", "{y} = ReduceMean<keepdims=0>({x})"),
    "zeros": ("float[S{n}]", "z{n} = Shape({x}) {y} = ConstantOfShape(z{n})"),
    "best": ("float[A{n},B{n},C{n},K{n}]", "{y}, i{n} = TopK<axis=1>({x}, one)"),
}

MORE: dict[str, Any] = {
    "ends_of_all": np.array([2**31]),
    "two": np.array([2]),
    "parts": np.array([1, 2]),
}

SIZES = ("N,3,H,W", "2,3,8,8", "N,3,9,8", "1,3,H,8", "N,3,S,S", "?,3,?,?")


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw a chain of blocks, with outputs from anywhere in it."""
    blocks = draw(st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=6))
    values, lines = ["x"], []
    for number, block in enumerate(blocks):
        values.append(f"x{number}")
        lines.append(BLOCKS[block].format(x=values[-2], y=values[-1], n=number))
    declared = []
    kinds = draw(st.lists(st.sampled_from(sorted(OUTPUTS)), min_size=1, max_size=3))
    for number, kind in enumerate(kinds):
        source = values[-1] if number == 0 else draw(st.sampled_from(values))
        shape, line = OUTPUTS[kind]
        declared.append(f"{shape.format(n=100 + number)} y{number}")
        lines.append(line.format(x=source, y=f"y{number}", n=100 + number))
    sizes = draw(st.sampled_from(SIZES))
    text = f"(float[{sizes}] x) => ({', '.join(declared)}) {{ {' '.join(lines)} }}"
    model = build(text, **WEIGHTS, **MORE)
    if draw(st.booleans()):
        make_overridable(model, "b")
    return model


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(model=models())
def test_any_model_is_equal_to_itself(model: onnx.ModelProto) -> None:
    sizes = dict.fromkeys(["H", "W", "S"], 8)
    drawn = draw_feeds(model, sizes=sizes)
    feeds = {name: np.resize(each, [n or 8 for n in each.shape]) for name, each in drawn.items()}
    try:
        outputs = run_plain(model, feeds)
    except RuntimeException:
        assume(False)
    assume(all(output.size for output in outputs))
    assume(any(output.min() != output.max() for output in outputs))
    found = against_itself(model)
    if "throughout" in found.reason:  # one class, say, on all samples: nothing that can be compared
        assert found.verdict == "not-verified"
        assert {each.output for each in found.inconclusive} == {v.name for v in model.graph.output}
    else:
        assert (found.verdict, found.reason) == ("pass", ""), onnx.printer.to_text(model.graph)


@pytest.mark.parametrize(
    ("mode", "then"),
    [
        ("nearest", "y = Identity(r)"),
        pytest.param(
            "nearest",
            "n = BatchNormalization(r, s, b, m, v) i = Round(n) y = Sub(i, n)",
            marks=(),
        ),
        pytest.param("linear", "y = Identity(r)", marks=()),
        pytest.param("cubic", "y = Identity(r)", marks=()),
    ],
)
def test_a_resize_by_scales_is_equal_to_itself(mode: str, then: str) -> None:
    """Its scales are floats, but no weights."""
    text = (
        "(float[N,3,8,8] x) => (float[A,B,C,D] y) "
        f'{{ r = Resize<mode="{mode}">(x, nothing, twice) {then} }}'
    )
    passes(build(text, **WEIGHTS))


# --- Models that are there ------------------------------------------------------------------------


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_samples_are_equal_to_themselves(path: Any) -> None:
    found = against_itself(onnx.load(path))
    if found.verdict == "not-verified":  # training mode draws at random
        assert "disagrees with itself" in found.reason
        assert path.stem == "training_mode"
    else:
        assert (found.verdict, found.reason) == ("pass", "")


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,3] x) => (float[A,B] y) { h = Shape(x) y = Reshape(x, h) }",
        "(float[2,3] x) => (float[A,B,C] y) { u = Unsqueeze(x, zero) y = Neg(u) }",
        "(float[N,3] x) => (int64[K] y, float[N,3] z) { y = Shape(x) z = Neg(x) }",
        "(float[N,3] x) => (float[N,3] y, float[3] c) { y = Neg(x) c = Identity(s) }",
        "(float16[N,3] x) => (float16[N,3] y) { t = Cast<to=1>(x) e = Exp(t) y = Cast<to=10>(e) }",
        "(double[N,3] x) => (double[N,3] y) { y = Exp(x) }",
        "(int64[N,3] x) => (int64[N,3] y) { y = Mul(x, x) }",
        "(bool[N,3] x) => (bool[N,3] y) { y = Not(x) }",
        "(float x) => (float y) { y = Neg(x) }",
        "(float[N,3] x) => (int64[2,K] y) { y = NonZero(x) }",
        "(float[N,3] x) => (float[N,3] y, int64[N,3] i) { y, i = TopK(x, three) }",
        "(float[N,3] x) => (float[K] y) { y = Unique(x) }",
        "(float[N,3] x) => (float[N,3] y) { y = Div(x, x) }",
        "(float[N,3] x) => (float[N,3] y) { y = Log(x) }",
        pytest.param(
            "(float[N,3] x) => (seq(float[N,3]) y) { y = SequenceConstruct(x, x) }",
        ),
    ],
)
def test_small_models_are_equal_to_themselves(text: str) -> None:
    model = build(text, **WEIGHTS)
    found = against_itself(model)
    words = "of the original is 1 throughout" if "Div" in text else ""
    assert found.verdict == ("not-verified" if words else "pass")
    assert words in found.reason


@pytest.mark.parametrize("last", ["Squeeze(z)", "Squeeze(a)", "Squeeze(i)"])
def test_the_rank_of_an_output_may_depend_on_the_sizes(last: str) -> None:
    """A model for one sound at a time, which squeezes all axes, gives a scalar for a batch of 1."""
    text = f"(float[N,4] x) => (float y) {{ z = MatMul(x, v) a = Exp(z) i = ArgMax(x) y = {last} }}"
    model = build(text, v=normal(4, 1))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    if "i)" in last:
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    found = bnfold.check(model, model).equivalence
    assert found is not None
    assert (found.verdict, found.reason) == ("pass", "")
    assert found.inputs is not None
    assert 1 in {shapes["x"][0] for shapes in found.inputs.shapes}


def test_a_model_whose_shape_depends_on_the_optimization_level_equals_itself() -> None:
    """onnxruntime infers 4×4 for a pool in a function, puts it into the graph, and computes 3×3."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 19, "f" : 1]>
        g (float[1,3,8,8] x, float[1] k) => (float[a,b,c,d] y) {
            r = f.pool(x) s = Shape(r) y = Expand(k, s)
        }
        <domain: "f", opset_import: ["" : 19]>
        pool (h) => (k) {
            k = AveragePool<kernel_shape=[3,3], strides=[3,3], pads=[1,1,1,1], ceil_mode=1>(h)
        }
    """)
    wrong = build(
        "(float[1,3,8,8] x, float[1] k) => (float[a,b,c,d] y) { y = Expand(k, s) }",
        opset=19,
        s=np.array([1, 3, 4, 4], np.int64),
    )
    passes(model)
    found = bnfold.check(model, wrong).equivalence
    assert found is not None
    assert found.verdict == "fail"
    assert "float32[1,3,4,4]" in found.reason
