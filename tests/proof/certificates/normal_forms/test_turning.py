"""Transposes that cancel around elementwise operators are proven; others are not."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.algebra.channel_removal.broadcasting import ELEMENTWISE
from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.normal_forms.turning import (
    _ELEMENTWISE,
    with_transposes_first,
    with_transposes_last,
)
from bnfold.proof.certificates.windows import Window
from tests.support.evaluate import assert_equal_outputs, run_plain
from tests.support.graphs import Parameters, batch_norm, build, draw_feeds, normal, operators

INTERFACE = "(float[N,3,4] x, float[N,4,3] z, float[3] v) => (float[a,b,c] y)"
FULL = normal(2, 4, 3)
TABLE = normal(4, 3)
CONSTANTS: Parameters = {
    "k": normal(3),
    "k_": normal(3).reshape(1, 3, 1),
    "g": TABLE,
    "g_": TABLE.T[np.newaxis],
    "bad": TABLE.reshape(3, 4),
    "f": FULL,
    "f_": FULL.transpose(0, 2, 1),
    "one": np.array([[2]], np.float32),
    "low": np.array(-1, np.float32),
    "high": np.array(0.5, np.float32),
    "scales": np.array([1, 2, 3], np.float32),
    "two": np.array([2, 3], np.float32),
    "sizes": np.array([2, 8, 9]),
    "box": np.array([0, 0, 0.5, 1, 1, 1], np.float32),
    "slope": np.array([0.5, 0.25, 0.125], np.float32),
    **{f"bn_{name}": array for name, array in batch_norm(4).items()},
}
FORTH, BACK = "t = Transpose<perm=[0,2,1]>(x)", "y = Transpose<perm=[0,2,1]>(a)"
GATE = "h = Sigmoid(t) a = Mul(t, h)"


def of(lines: str, *, interface: str = INTERFACE, opset: int = 17) -> onnx.ModelProto:
    """Return a model of these lines, of which the types of all values are known."""
    read = {n: array for n, array in CONSTANTS.items() if re.search(rf"\b{n}\b", lines)}
    model = build(f"{interface} {{ {lines} }}", opset=opset, **read)
    return onnx.shape_inference.infer_shapes(model)


def turned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with its Transposes first; assert that it computes the same bits."""
    made, _ = with_transposes_first(Window(model, model)).models
    last, _ = with_transposes_last(Window(made, made)).models
    feeds = draw_feeds(model)
    expected = run_plain(model, feeds)
    for each in (made, last):
        for one, other in zip(expected, run_plain(each, feeds), strict=True):
            np.testing.assert_array_equal(one, other)
    return made


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (GATE, "h = Sigmoid(x) y = Mul(x, h)"),
        ("h = Exp(t) a = Sub(k, h)", "h = Exp(x) y = Sub(k_, h)"),
        ("h = Exp(t) a = Div(h, g)", "h = Exp(x) y = Div(h, g_)"),
        ("h = Exp(t) a = Add(f, h)", "h = Exp(x) y = Add(f_, h)"),
        ("h = Cast<to=10>(t) i = Cast<to=1>(h) a = PRelu(i, k)",
         "h = Cast<to=10>(x) i = Cast<to=1>(h) y = PRelu(i, k_)"),
        ("h = Exp(t) a = Mul(one, h)", "h = Exp(x) y = Mul(one, h)"),
        ("h = Clip(t, low, high) a = Mul(h, t)", "h = Clip(x, low, high) y = Mul(h, x)"),
        ("h = Elu<alpha=0.5>(t) a = Max(h, t, g)", "h = Elu<alpha=0.5>(x) y = Max(h, x, g_)"),
        ("h = Abs(t) i = Pow(h, k) a = Min(i, k)", "h = Abs(x) i = Pow(h, k_) y = Min(i, k_)"),
        ("h = Exp(z) a = Sum(t, h, t)",
         "h = Exp(z) i = Transpose<perm=[0,2,1]>(h) y = Sum(x, i, x)"),
        ("h = Softmax(t) a = Mul(t, h)",
         "h = Softmax(t) i = Transpose<perm=[0,2,1]>(h) y = Mul(x, i)"),
        ("h = Exp(t) a = Mul(h, v)",
         f"h = Exp(x) i = Transpose<perm=[0,2,1]>(h) a = Mul(i, v) {BACK}"),
    ],
)  # fmt: skip
def test_what_transposes_less_is_certified(before: str, after: str) -> None:
    after = after if "(t)" not in after else f"{FORTH} {after}"
    pair = Window(of(f"{FORTH} {before} {BACK}"), of(after))
    found = certify(with_transposes_first(pair))
    assert (found.verdict, found.kind) == ("certified", "constant")
    if before == GATE:
        assert certify(pair).verdict == "certified"


def test_those_that_are_left_stand_before_elementwise_operators() -> None:
    model = of(f"{FORTH} s = Hardmax(t) h = Neg(s) i = Add(h, z) a = Mul(i, t) {BACK}")
    made = operators(turned(model))
    assert [op for op in made if op != "Identity"] == (
        ["Transpose", "Hardmax", "Transpose", "Neg", "Transpose", "Add", "Mul"]
    )
    assert operators(turned(of(f"{FORTH} {GATE} {BACK}"))) == ["Sigmoid", "Mul", "Identity"]


def test_without_a_transpose_nothing_is_made() -> None:
    pair = Window(of("h = Sigmoid(x) y = Mul(x, h)"), of("y = HardSwish(x)"))
    assert with_transposes_first(pair) is pair


def test_before_opset_7_an_axis_says_where_an_operand_goes() -> None:
    model = of(f"{FORTH} a = Add<broadcast=1, axis=1>(t, k) {BACK}", opset=6)
    pair = Window(model, model)
    assert with_transposes_first(pair) is pair


def test_all_that_is_elementwise_is_known() -> None:
    assert {*ELEMENTWISE} <= _ELEMENTWISE


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (GATE, "h = Sigmoid(x) y = Mul(h, h)"),
        (GATE, "y = Sigmoid(x)"),
        ("h = Exp(t) a = Sub(k, h)", "h = Exp(x) y = Sub(k, h)"),
        ("h = Exp(t) a = Sub(k, h)", "h = Exp(x) y = Sub(h, k_)"),
        ("h = Exp(t) a = Add(g, h)", "h = Exp(x) y = Add(bad, h)"),
        ("h = Exp(t) a = Mul(h, v)", "h = Exp(x) y = Mul(h, v)"),
        ("h = Exp(z) a = Add(t, h)", "h = Exp(z) y = Add(x, h)"),
        ("h = Softmax<axis=1>(t) a = Mul(t, h)", "h = Softmax<axis=1>(x) y = Mul(x, h)"),
        ("h = Exp(t) a = BatchNormalization(h, bn_s, bn_b, bn_m, bn_v)",
         "h = Exp(x) y = BatchNormalization(h, bn_s, bn_b, bn_m, bn_v)"),
        ("h = Sin(t) a = PRelu(h, slope)", "h = Sin(x) y = PRelu(h, slope)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_not_certified(before: str, after: str) -> None:
    """Sizes are such that both run, and the result has the same shape."""
    square = INTERFACE.replace("3,4", "4,4").replace("4,3", "4,4").replace("[3]", "[4]")
    if re.search(r"\b(g|k|slope|bad|v)\b", before):
        square = square.replace("4", "3")
    if "bad" in after:
        square = square.replace("3,3", "3,4", 1).replace("3,3", "4,3", 1)
    pair = Window(of(f"{FORTH} {before} {BACK}", interface=square), of(after, interface=square))
    for model in pair.models:
        assert run_plain(model, draw_feeds(model))[0].size
    assert certify(pair).verdict == "differs"


@pytest.mark.parametrize(
    ("forth", "back", "is_undone"),
    [
        ("<perm=[1,2,0]>", "<perm=[2,0,1]>", True),
        ("<perm=[1,2,0]>", "<perm=[1,2,0]>", False),
        ("<perm=[1,2,0]>", "<perm=[0,2,1]>", False),
        ("<perm=[1,2,0]>", "<perm=[0,1,2]>", False),
        ("<perm=[2,1,0]>", "<perm=[2,1,0]>", True),
        ("<perm=[1,2,0]>", "", False),
    ],
)
def test_orders_of_axes(forth: str, back: str, is_undone: bool) -> None:
    interface = "(float[3,3,3] x) => (float[3,3,3] y)"
    text = f"t = Transpose{forth}(x) {GATE} y = Transpose{back}(a)"
    pair = Window(
        of(text, interface=interface), of("h = Sigmoid(x) y = Mul(x, h)", interface=interface)
    )
    assert certify(pair).verdict == ("certified" if is_undone else "differs")


@pytest.mark.parametrize(
    "lines",
    [
        f"t = Transpose(x) {GATE} y = Transpose(a)",
        f"{FORTH} h = BatchNormalization(t, bn_s, bn_b, bn_m, bn_v) a = Neg(h) {BACK}",
        f"{FORTH} h = PRelu(t, slope) a = Neg(h) {BACK}",
        f"{FORTH} h = Cast<to=7>(t) i = Cast<to=1>(h) a = Neg(i) {BACK}",
        f"{FORTH} h = Dropout(t) a = Neg(h) {BACK}",
        f"{FORTH} h = Add(t, v) a = Neg(h) {BACK}",
        f"{FORTH} r = ReduceMax<keepdims=0>(z) h = Clip(t, low, r) a = Neg(h) {BACK}",
        "t = Transpose<perm=[2,0,1]>(x) h = Neg(t) a = Transpose<perm=[1,0,2]>(h) "
        "y = Transpose<perm=[1,2,0]>(a)",
        f"{FORTH} h = Add(k, g) a = Mul(h, t) {BACK}",
        f"{FORTH} h, i = Split<axis=1>(t) a = Neg(i) {BACK}",
        f'{FORTH} h = Resize<mode="nearest">(t, , scales) a = Neg(h) {BACK}',
        't = Transpose<perm=[1,2,0]>(x) h = Resize<mode="nearest">(t, , scales) a = Neg(h) '
        "y = Transpose<perm=[2,0,1]>(a)",
        f'{FORTH} h = Resize<mode="nearest", axes=[2,0,1]>(t, , scales) a = Neg(h) {BACK}',
        f'{FORTH} h = Resize<mode="nearest", axes=[1,2]>(t, , two) a = Neg(h) {BACK}',
        f'{FORTH} h = Resize<mode="nearest">(t, , , sizes) a = Neg(h) {BACK}',
        f'{FORTH} h = Resize<mode="nearest", coordinate_transformation_mode="tf_crop_and_resize">'
        f"(t, box, scales) a = Neg(h) {BACK}",
    ],
)  # fmt: skip
def test_the_same_bits_are_computed(lines: str) -> None:
    turned(of(lines, opset=18 if "Resize" in lines else 17))


CHANNELS_LAST = "(float[2,3,40,50] x, float[2,40,50,4] z) => (float[a,b,c,d] y)"
LAST: Parameters = {
    "w": normal(4, 3, 3, 3),
    "w_": 2 * normal(4, 3, 3, 3),
    "two": np.array(2, np.float32),
    "k": normal(4),
    "r": normal(40, 50, 4),
}
CONV = "c = Conv<pads=[1,1,1,1]>(x, w) t = Transpose<perm=[0,2,3,1]>(c)"
DOUBLED = "c = Conv<pads=[1,1,1,1]>(x, w_) t = Transpose<perm=[0,2,3,1]>(c)"


def channels_last(lines: str) -> onnx.ModelProto:
    """Return a model of these lines, of which nothing is described but its inputs."""
    used = {name: array for name, array in LAST.items() if re.search(rf"\b{name}\b", lines)}
    return build(f"{CHANNELS_LAST} {{ {lines} }}", **used)


@pytest.mark.parametrize(
    ("before", "after", "is_equal"),
    [
        (f"{CONV} y = Mul(t, two)", f"{DOUBLED} y = Identity(t)", True),
        (f"{CONV} y = Mul(two, t)", f"{CONV} y = Add(t, t)", True),
        (f"{CONV} a = Mul(t, two) y = Sub(k, a)", f"{DOUBLED} y = Sub(k, t)", True),
        (f"{CONV} a = Mul(t, two) y = Add(a, r)", f"{DOUBLED} y = Add(t, r)", True),
        (f"{CONV} a = Mul(t, two) b = Relu(a) y = Max(b, k)",
         f"{DOUBLED} b = Relu(t) y = Max(b, k)", True),
        (f"{CONV} a = Mul(t, two) y = Add(a, z)", f"{DOUBLED} y = Add(t, z)", True),
        (f"{CONV} y = Mul(t, two)", f"{DOUBLED} y = Neg(t)", False),
        (f"{CONV} a = Mul(t, two) y = Sub(k, a)", f"{DOUBLED} y = Sub(t, k)", False),
        (f"{CONV} a = Mul(t, two) y = Add(a, z)", f"{CONV} y = Add(t, z)", False),
    ],
)  # fmt: skip
def test_what_follows_a_conv_that_is_transposed_follows_the_conv(
    before: str, after: str, is_equal: bool
) -> None:
    pair = Window(channels_last(before), channels_last(after))
    for model in pair.models:
        feeds = draw_feeds(model)
        (made, _) = with_transposes_last(Window(model, model)).models
        assert operators(made)[-1] == "Transpose"
        np.testing.assert_array_equal(run_plain(made, feeds)[0], run_plain(model, feeds)[0])
    found = certify(pair)
    assert found.verdict == ("certified" if is_equal else "differs")
    if is_equal and "z" not in before and "r" not in before:
        assert found.note == "at smaller sizes, with all of the border"


ALONG = [
    ("a = Softmax<axis=2>(t)", "y = Softmax<axis=1>(x)", "y = Softmax<axis=2>(x)"),
    ("a = LogSoftmax(t)", "y = LogSoftmax<axis=1>(x)", "y = LogSoftmax(x)"),
    ("a = Concat<axis=1>(t, z, t)",
     "i = Transpose<perm=[0,2,1]>(z) y = Concat<axis=2>(x, i, x)",
     "i = Transpose<perm=[0,2,1]>(z) y = Concat<axis=2>(i, x, x)"),
    ("a = Pad(t, p)", "y = Pad(x, p_)", "y = Pad(x, q_)"),
    ('a = Pad<mode="edge">(t, p)', 'y = Pad<mode="edge">(x, p_)', "y = Pad(x, p_)"),
    ("m = ReduceMax<axes=[-1]>(t) a = Sub(t, m)", "m = ReduceMax<axes=[1]>(x) y = Sub(x, m)",
     "m = ReduceMax<axes=[2]>(x) y = Sub(x, m)"),
    ("m = ReduceSum(t, two) a = Sub(t, m)", "m = ReduceSum(x, one_) y = Sub(x, m)",
     "m = ReduceSum(x, two) y = Sub(x, m)"),
]  # fmt: skip
NUMBERS: Parameters = {
    "p": np.array([0, 1, 2, 0, 0, 1]),
    "p_": np.array([0, 2, 1, 0, 1, 0]),
    "q_": np.array([0, 1, 2, 0, 0, 1]),
    "two": np.array([2]),
    "one_": np.array([1]),
}


@pytest.mark.parametrize(("before", "right", "wrong"), ALONG)
def test_axes_are_named_anew(before: str, right: str, wrong: str) -> None:
    square = "(float[N,4,4] x, float[N,4,4] z) => (float[a,b,c] y)"

    def one(lines: str) -> onnx.ModelProto:
        used = {n: array for n, array in NUMBERS.items() if re.search(rf"\b{n}\b", lines)}
        return onnx.shape_inference.infer_shapes(build(f"{square} {{ {lines} }}", **used))

    original = one(f"{FORTH} {before} {BACK}")
    if "Sum" not in before:  # which adds in another order
        assert "Transpose" not in operators(turned(original)) or "z" in before
    found = certify(Window(original, one(right)))
    assert (found.verdict, found.kind) == ("certified", "constant")
    assert certify(Window(original, one(wrong))).verdict == "differs"


@pytest.mark.parametrize(("axes", "order", "is_free"), [
    ([1, 2], [0, 2, 3, 1], True), ([-1], [0, 2, 3, 1], True), ([0], [0, 2, 3, 1], False),
    ([2], [0, 2, 3, 1], False), ([0, 3], [3, 1, 0, 2], False), ([1], [3, 1, 0, 2], False),
    ([0, 1, 2], [3, 1, 0, 2], True),
])  # fmt: skip
@pytest.mark.parametrize("drop", ["y = ReduceMax<axes={}, keepdims=0>(r)",
                                  "m = ReduceMax<axes={}>(r) y = Squeeze(m, drop)"])  # fmt: skip
def test_what_drops_axes_reads_what_was_transposed(
    drop: str, axes: list[int], order: list[int], *, is_free: bool
) -> None:
    rank = ",".join("cdef"[: 4 - len(axes)])
    lines = f"t = Transpose<perm={order}>(x) r = Relu(t) {drop.format(axes)}"
    text = f"(float[2,3,4,5] x) => (float[{rank}] y) {{ {lines} }}"
    weights: Parameters = {"drop": np.array(axes)} if "drop)" in drop else {}
    model = build(text, **weights)
    made = turned(onnx.shape_inference.infer_shapes(model))
    assert ("Transpose" not in operators(made)) == is_free
    (one,), (other,) = (run_plain(each, draw_feeds(model)) for each in (model, made))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("line", "taken", "content"),
    [
        ("s = ReduceSum(t, taken) a = Sub(t, s)", "axes [1]", [2]),
        ("a = Pad(t, taken)", "pads [0, 0, 1, 0, 0, 1]", [0, 1, 0, 0, 1, 0]),
        ("a = Mul(t, taken)", "k by 0 2 1", [2.0]),
    ],
)
def test_a_name_that_is_taken_is_not_made(line: str, taken: str, content: list[float]) -> None:
    dtype = np.float32 if isinstance(content[0], float) else np.int64
    model = build(
        f"(float[2,3,3] x) => (float[a,b,c] y) {{ {FORTH} {line} {BACK} }}",
        taken=np.array(content, dtype),
    )
    for tensor in model.graph.initializer:
        tensor.name = taken
    for node in model.graph.node:
        node.input[:] = [taken if name == "taken" else name for name in node.input]
    turned(onnx.shape_inference.infer_shapes(model))


def test_sums_of_sums_are_searched_once() -> None:
    """Each of sixty reads the one before it twice: there are 2⁶⁰ ways back to x."""
    sums = " ".join(f"a{n + 1} = Add(a{n}, a{n})" for n in range(60))
    model = of(f"a0 = Neg(x) {sums} {FORTH} a = Neg(t) y = Relu(a60)")
    pair = Window(model, model)
    assert with_transposes_last(pair) is pair


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ("y = Neg(x)", f"{FORTH} a = Transpose<perm=[0,2,1]>(t) y = Neg(a)", "open"),
        (f"{FORTH} a = Transpose<perm=[0,2,1]>(t) y = Neg(a)", "y = Neg(x)", "certified"),
        (f"n = Neg(x) {FORTH.replace('x', 'n')} y = Transpose<perm=[0,2,1]>(t)", "y = Neg(x)",
         "certified"),
    ],
)  # fmt: skip
def test_new_transposes_that_cancel_are_for_one_number_of_axes(
    before: str, after: str, verdict: str
) -> None:
    pair = Window(*(build(f"(float[A] x) => (float[] y) {{ {each} }}") for each in (before, after)))
    for model in pair.models:
        model.graph.input[0].type.tensor_type.ClearField("shape")
        model.graph.output[0].type.tensor_type.ClearField("shape")
    assert certify(pair).verdict == verdict


def test_outputs_of_which_one_is_read_by_another() -> None:
    model = build(
        "(float[2,3,4] x) => (float[a,b,c] y, float[d,e,f] z, float[g,h,i] v) { "
        "t = Transpose<perm=[0,2,1]>(x) y = Relu(t) z = Neg(y) v = Softmax(y) }"
    )
    made, _ = with_transposes_last(Window(model, model)).models
    assert [output.name for output in made.graph.output] == ["y", "z", "v"]
    feeds = draw_feeds(model)
    assert_equal_outputs(model, made, feeds)


@pytest.mark.parametrize("lines", ["y = Hardmax(t)", "a = Hardmax(t) y = Neg(a)"])
def test_what_is_no_function_of_single_elements_of_a_transposed_value_stays(lines: str) -> None:
    pair = Window(of(f"{FORTH} {lines}"), of(f"{FORTH} {lines}"))
    assert with_transposes_last(pair) is pair


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_random_operators_between_any_transposes(data: st.DataObject) -> None:
    """Any orders of axes, operands of any shape: equal bits."""
    rank = data.draw(st.integers(2, 4))
    sizes = [2, 3, 4, 5][:rank]
    weights: Parameters = {}
    shapes: dict[str, list[int]] = {"x": sizes}
    lines: list[str] = []
    for number in range(data.draw(st.integers(2, 6))):
        kind = data.draw(st.sampled_from(["Transpose", "Relu", "Sub", "Max", "Softmax", "Add"]))
        name, one = f"a{number}", data.draw(st.sampled_from(list(shapes)))
        shape = shapes[one]
        if kind == "Transpose":
            order = data.draw(st.permutations(range(rank)))
            lines.append(f"{name} = Transpose<perm={list(order)}>({one})")
            shape = [shape[axis] for axis in order]
        elif kind in ("Relu", "Softmax"):
            lines.append(f"{name} = {kind}({one})")
        else:
            others = [n for n, each in shapes.items() if each == shape]
            if data.draw(st.booleans()):
                start = data.draw(st.integers(0, rank))
                kept = data.draw(st.lists(st.booleans(), min_size=rank, max_size=rank))
                wide = [size if keep else 1 for size, keep in zip(shape, kept, strict=True)]
                others = [f"k{number}"]
                weights[others[0]] = np.asarray(normal(*wide[start:], seed=number))
            pair = data.draw(st.permutations([one, data.draw(st.sampled_from(others))]))
            lines.append(f"{name} = {kind}({', '.join(pair)})")
        shapes[name] = shape
    text = f"(float[{','.join(map(str, sizes))}] x) => (float[{','.join('abcd'[:rank])}] y)"
    model = build(f"{text} {{ {' '.join(lines)} y = Neg({list(shapes)[-1]}) }}", **weights)
    turned(onnx.shape_inference.infer_shapes(model))
