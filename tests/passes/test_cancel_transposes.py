"""cancel-transposes: elementwise operators between Transposes do without them."""

from __future__ import annotations

import itertools
import re

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from bnfold.rewriting.contract import Common
from tests.support.evaluate import run_plain
from tests.support.graphs import Parameters, build, draw_feeds, normal, operators
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "cancel-transposes"

CONSTANTS: Parameters = {
    "k": normal(3),
    "wide": normal(4, 5, 1),
    "full": normal(1, 4, 5, 3),
    "one": np.array([[2]], np.float32),
    "low": np.array(0, np.float32),
    "high": np.array(6, np.float32),
    "pads": np.array([0, 1, 2, 0, 1, 0, 2, 1]),
    "one_number": np.array(2, np.float32),
    "axes": np.array([2, 1]),
    "scales": np.array([1, 2, 3, 1], np.float32),
    "two": np.array([2, 3], np.float32),
    "sizes": np.array([1, 8, 15, 3]),
    "box": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32),
    "none": np.zeros(0, np.float32),
}

FORTH = "t = Transpose<perm=[0,2,3,1]>(y)"
BACK = "z = Transpose<perm=[0,3,1,2]>(a)"


def model_of(lines: str, *, x: str = "N,3,4,5", r: str = "", opset: int = 17) -> onnx.ModelProto:
    """Return a model of these lines, from y to z, between two other operators."""
    used = {name: array for name, array in CONSTANTS.items() if re.search(rf"\b{name}\b", lines)}
    rank = r or ",".join("abcdef"[: x.count(",") + 1])
    text = f"(float[{x}] x, float[3] v) => (float[{rank}] r) {{ y = Neg(x) {lines} r = Abs(z) }}"
    return build(text, opset=opset, **used)


@pytest.mark.parametrize("line", ["Gelu(t)", "Mish(t)", "PRelu(t, k)", "PRelu(t, one)"])
def test_activations_of_later_operator_sets_are_certified(line: str) -> None:
    model = model_of(f"{FORTH} a = {line} {BACK}", opset=20)
    name = line.partition("(")[0]
    assert_rewritten(model, NAME, ["Neg", name, "Abs"], rtol=0, atol=0, certified=True)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("a = Relu(t)", ["Relu"]),
        ("a = Clip(t, low, high)", ["Clip"]),
        ("h = HardSigmoid(t) a = Mul(t, h)", ["HardSigmoid", "Mul"]),
        ("h = Sigmoid(t) a = Mul(h, t)", ["Sigmoid", "Mul"]),
        ("a = Add(t, k)", ["Add"]),
        ("a = Sub(k, t)", ["Sub"]),
        ("a = PRelu(t, k)", ["PRelu"]),
        ("a = Mul(t, wide)", ["Mul"]),
        ("a = Add(full, t)", ["Add"]),
        ("a = Div(t, one)", ["Div"]),
        ("e = Exp(x) u = Transpose<perm=[0,2,3,1]>(e) a = Add(t, u)", ["Exp", "Add"]),
        ("b = Add(t, k) c = Relu(b) d = Mul(b, c) a = Add(d, t)", ["Add", "Relu", "Mul", "Add"]),
    ],
)
def test_they_cancel(lines: str, expected: list[str]) -> None:
    is_old = "h = " in lines
    model = model_of(f"{FORTH} {lines} {BACK}", opset=13 if is_old else 20)
    whole = ["Neg", *expected, "Abs"]
    is_certified = "PRelu" in lines or "d = " in lines
    assert_rewritten(model, NAME, whole, rtol=0, atol=0, certified=is_certified)


def test_one_that_others_read_stays() -> None:
    model = model_of(f"{FORTH} a = Relu(t) b = Transpose<perm=[0,3,1,2]>(a) s = Exp(t) "
                     "c = Transpose<perm=[0,3,1,2]>(s) z = Add(b, c)")  # fmt: skip
    assert_rewritten(model, NAME, ["Neg", "Relu", "Exp", "Add", "Abs"], rtol=0, atol=0)
    model = model_of(f"{FORTH} a = Relu(t) b = Transpose<perm=[0,3,1,2]>(a) "
                     "s = ReduceMax(t) z = Add(b, s)")  # fmt: skip
    expected = ["Neg", "Transpose", "ReduceMax", "Relu", "Add", "Abs"]
    assert sorted(operators(run_pass(model, NAME).to_proto())) == sorted(expected)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("a = Softmax<axis=3>(t)", ["Softmax"]),
        ("a = LogSoftmax<axis=-2>(t)", ["LogSoftmax"]),
        ("e = Exp(t) a = Concat<axis=3>(t, e)", ["Exp", "Concat"]),
        ("a = Concat<axis=-4>(t, full, t)", ["Concat"]),
        ("a = Pad(t, pads)", ["Pad"]),
        ('a = Pad<mode="edge">(t, pads)', ["Pad"]),
        ("a = Pad(t, pads, one_number)", ["Pad"]),
        ("m = ReduceMax<axes=[1,-2]>(t) a = Sub(t, m)", ["ReduceMax", "Sub"]),
        ("m = ReduceSum(t, axes) a = Sub(t, m)", ["ReduceSum", "Sub"]),
        ("c = Cast<to=10>(t) d = Floor(c) a = Cast<to=1>(d)", ["Cast", "Floor", "Cast"]),
    ],
)
def test_axes_are_named_anew(lines: str, expected: list[str]) -> None:
    model = model_of(f"{FORTH} {lines} {BACK}")
    whole = ["Neg", *expected, "Abs"]
    is_sum = "ReduceSum" in lines
    assert_rewritten(
        model, NAME, whole, rtol=1e-6 * is_sum, atol=1e-6 * is_sum, certified="Cast" not in lines
    )
    (rewrite,) = run_pass(model, NAME).record.rewrites
    assert rewrite.exactness == ("rounded" if "Reduce" in lines else "bitwise")


@pytest.mark.parametrize("opset", [10, 11])
def test_pads_by_operator_set(opset: int) -> None:
    pads = "pads=[0,1,2,0,1,0,2,1]" if opset == 10 else ""
    line = f"a = Pad<{pads}>(t)" if pads else "a = Pad(t, pads)"
    assert_rewritten(model_of(f"{FORTH} {line} {BACK}", opset=opset), NAME, ["Neg", "Pad", "Abs"])


@pytest.mark.parametrize(
    ("axes", "is_free"), [([1, 2], True), ([-2, 1], True), ([3], True), ([0], False), ([2], False)]
)
def test_a_reduction_that_drops_axes_needs_no_transpose_if_the_others_keep_their_order(
    axes: list[int], *, is_free: bool
) -> None:
    model = build(
        f"(float[N,3,4,5] x) => (float[a,b,c,d] z, float[{'e,f' if axes[1:] else 'e,f,g'}] m) "
        "{ y = Neg(x) t = Transpose<perm=[0,2,3,1]>(y) a = Relu(t) "
        f"z = Transpose<perm=[0,3,1,2]>(a) m = ReduceMean<axes={axes}, keepdims=0>(a) }}"
    )
    expected = ["Neg", "Relu", "ReduceMean"] if is_free else None
    result = run_pass(model, NAME)
    left = sorted(operators(result.to_proto()))
    assert left == sorted(expected or ["Neg", "Relu", "Transpose", "ReduceMean"])
    assert_rewritten(model, NAME, operators(result.to_proto()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_a_nearest_resize_does_the_same_in_any_order(opset: int) -> None:
    region = "none" if opset == 11 else ""
    line = f'a = Resize<mode="nearest">(t, {region}, scales)'
    model = model_of(f"{FORTH} {line} b = Relu(a) {BACK.replace('(a)', '(b)')}", opset=opset)
    assert_rewritten(model, NAME, ["Neg", "Resize", "Relu", "Abs"], rtol=0, atol=0, certified=True)


@pytest.mark.parametrize(
    "resize",
    [
        'Resize<mode="linear">(t, , scales)',
        'Resize<mode="nearest", coordinate_transformation_mode="tf_crop_and_resize">'
        "(t, box, scales)",
        'Resize<mode="nearest">(t, , , sizes)',
        'Resize<mode="nearest", axes=[1,2]>(t, , two)',
        'Resize<mode="nearest", axes=[3,2,1,0]>(t, , scales)',
    ],
)
def test_other_resizes_stay(resize: str) -> None:
    result = run_pass(model_of(f"{FORTH} a = {resize} {BACK}", x="1,3,4,5", opset=18), NAME)
    assert not result.record.rewrites


STAGE = """
    t = Transpose<perm=[0,2,3,1]>(y)
    c1 = Conv<pads=[1,1,1,1]>(y, w) u1 = Transpose<perm=[0,2,3,1]>(c1) s1 = Add(t, u1)
    b1 = Transpose<perm=[0,3,1,2]>(s1)
    c2 = Conv<pads=[1,1,1,1]>(b1, w) u2 = Transpose<perm=[0,2,3,1]>(c2) r2 = Relu(u2)
    s2 = Add(r2, s1) p2 = Pad(s2, pads)
    b2 = Transpose<perm=[0,3,1,2]>(p2)
    z = Conv<strides=[2,2]>(b2, w)
"""


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        ("", []),
        ("a = Relu(t)", ["Relu"]),
        ("b = Add(t, k) c = Relu(b) a = Mul(b, c)", ["Add", "Relu", "Mul"]),
        ("b = ReduceMean<axes=[1,2]>(t) a = Mul(t, b)", ["ReduceMean", "Mul"]),
        ("u = Transpose<perm=[0,2,3,1]>(x) b = Abs(u) a = Sub(b, t)", ["Abs", "Sub"]),
    ],
)
@pytest.mark.parametrize("reduction", ["ReduceMean", "ReduceMax"])
def test_a_transpose_before_a_reduction_alone_goes(
    between: str, expected: list[str], reduction: str
) -> None:
    source = "a" if between else "t"
    lines = f"{FORTH} {between} z = {reduction}<axes=[1,-2], keepdims=0>({source})"
    whole = ["Neg", *expected, reduction, "Abs"]
    assert_rewritten(model_of(lines, r="N,3"), NAME, whole, certified=True)


@pytest.mark.parametrize(
    "lines",
    [
        "z = ReduceMean<axes=[2], keepdims=0>(t)",  # the others would be in another order
        "a = Relu(t) z = ReduceMean<axes=[1], keepdims=0>(a)",
        "a = Relu(t) z = ReduceMean<axes=[1,2]>(a)",
        "a = Relu(t) z = ReduceMean<keepdims=0>(a)",
        "z = ReduceMean<axes=[1,2]>(t)",
        "m = ReduceMean<axes=[1,2], keepdims=0>(t) p = Exp(t) z = Add(m, v)",
        "a = Relu(t) m = ReduceMean<axes=[1,2], keepdims=0>(a) p = MatMul(a, t) z = Add(m, v)",
        "a = Relu(t) m = ReduceMean<axes=[1,2], keepdims=0>(a) z = Add(m, t)",
    ],
)
def test_reductions_that_need_the_transpose(lines: str) -> None:
    result = run_pass(model_of(f"{FORTH} {lines}", x="N,3,3,3"), NAME)
    assert not result.record.rewrites
    assert not result.record.refusals


@pytest.mark.parametrize("opset", [13, 17])
def test_sums_of_residual_blocks_are_taken_together(opset: int) -> None:
    """The second sum reads the first one, which a Conv between them also reads."""
    weights: Parameters = {"w": normal(3, 3, 3, 3), "pads": np.array([0, 0, 0, 0, 0, 1, 1, 0])}
    model = build(
        f"(float[N,3,8,9] x) => (float[a,b,c,d] r) {{ y = Neg(x) {STAGE} r = Abs(z) }}",
        opset=opset,
        **weights,
    )
    expected = ["Neg", "Conv", "Add", "Conv", "Relu", "Add", "Pad", "Conv", "Abs"]
    assert_rewritten(model, NAME, expected, rtol=0, atol=0, certified=True)
    (rewrite,) = run_pass(model, NAME).record.rewrites
    assert rewrite.detail == "5 Transposes less"


@pytest.mark.parametrize(
    ("lines", "transposes"),
    [
        (f"{FORTH} a = Add(t, y) {BACK}", 1),
        (f"{FORTH} s = Softmax<axis=1>(y) e = Exp(s) a = Add(t, e) {BACK}", 1),
        (f"{FORTH} a = Relu(t) b = Exp(a) c = Transpose<perm=[0,3,1,2]>(b) h = Hardmax<axis=3>(a) "
         "e = Transpose<perm=[0,3,1,2]>(h) z = Add(c, e)", 2),
    ],
)  # fmt: skip
def test_other_operands_and_readers_take_a_transpose_of_their_own(
    lines: str, transposes: int
) -> None:
    model = model_of(lines, x="3,3,3,3")
    left = operators(run_pass(model, NAME).to_proto())
    assert left.count("Transpose") == transposes
    assert_rewritten(model, NAME, left, rtol=0, atol=0, certified=True)


@pytest.mark.parametrize(
    "lines",
    [
        "a = Add(t, y) z = Transpose<perm=[0,3,1,2]>(a) r = Hardmax<axis=3>(a)",
        "e = Exp(y) s = Add(t, e) a = Mul(s, y) z = Transpose<perm=[0,3,1,2]>(a)",
        "a = Relu(t) z = Transpose<perm=[0,3,1,2]>(a) r = Hardmax<axis=3>(a) o = Hardmax(t)",
    ],
)
def test_as_many_transposes_elsewhere_are_no_gain(lines: str) -> None:
    outputs = [f"float[{name}1,{name}2,{name}3,{name}4] {name}" for name in "zro"]
    named = ", ".join(each for each in outputs if f"{each[-1]} =" in lines)
    model = build(f"(float[3,3,3,3] x) => ({named}) {{ y = Neg(x) {FORTH} {lines} }}")
    assert_refused(model, NAME, Common.NO_GAIN)


@pytest.mark.parametrize(
    "lines",
    [
        f"{FORTH} a = Relu(t) z = Transpose<perm=[0,2,3,1]>(a)",
        f"{FORTH} a = Hardmax<axis=1>(t) {BACK}",
        f"a = Relu(y) {BACK}",
        f"a = Add(full, k) {BACK}",
        f"{FORTH} a = Add(t, v) {BACK}",
        f"u = Transpose<perm=[0,3,2,1]>(y) {FORTH} e = Exp(u) a = ReduceMax(e) {BACK}",
        f"t = Transpose(y) a = Relu(t) {BACK}",
    ],
)
def test_others_stay(lines: str) -> None:
    assert not run_pass(model_of(lines, x="3,3,3,3"), NAME).record.rewrites


@pytest.mark.parametrize("line", ["a = Pad(t, p)", "a = ReduceSum(t, p)", "a = ReduceMax(t)"])
def test_axes_and_widths_that_are_computed_or_not_named_stay(line: str) -> None:
    """A reduction of all axes has nothing to name."""
    model = build(
        "(float[N,3,4] x, int64[six] p) => (float[a,b,c] z) { t = Transpose<perm=[0,2,1]>(x) "
        f"{line} z = Transpose<perm=[0,2,1]>(a) }}"
    )
    assert not run_pass(model, NAME).record.rewrites


def test_a_reader_of_a_constant_with_more_axes_is_another_reader() -> None:
    model = build(
        "(float[3,4] x) => (float[a,b] z, float[c,d] e) { t = Transpose<perm=[1,0]>(x) "
        'a = Relu(t) z = Transpose<perm=[1,0]>(a) e = Einsum<equation="ab,abc->bc">(a, k) }',
        k=normal(4, 3, 2),
    )
    assert_rewritten(model, NAME, ["Relu", "Transpose", "Einsum"], rtol=0, atol=0)


@pytest.mark.parametrize("outputs", [["z", "w"], ["z"], ["w"]])
def test_two_transposes_of_the_same_value(outputs: list[str]) -> None:
    shapes = ", ".join(f"float[{name}1,{name}2] {name}" for name in outputs)
    model = build(
        f"(float[2,3] x) => ({shapes}, float[a,b] r) {{ t = Transpose<perm=[1,0]>(x) "
        "a = Sigmoid(t) z = Transpose<perm=[1,0]>(a) w = Transpose<perm=[1,0]>(a) r = Sub(z, w) }"
    )
    left = operators(run_pass(model, NAME).to_proto())
    assert "Transpose" not in left
    assert_rewritten(model, NAME, left, rtol=0, atol=0)


@pytest.mark.parametrize("place", ["then_branch", "else_branch"])
def test_transposes_in_a_body_that_goes_meanwhile(place: str) -> None:
    """The If is over a constant, or nobody reads it."""
    other = "else_branch" if place == "then_branch" else "then_branch"
    bodies = (
        f"{place} = g () => (float[2,5] v) {{ v = Neg(x) }}, {other} = h () => (float[2,5] w) {{ "
        "e = Transpose<perm=[1,0]>(x) f = Neg(e) w = Transpose<perm=[1,0]>(f) }"
    )
    for end in ("z = Identity(y)", "z = Neg(x)"):
        model = build(
            f"(float[2,5] x) => (float[2,5] z) {{ y = If(c) <{bodies}> {end} }}",
            c=np.array(place == "then_branch"),
        )
        assert operators(bnfold.optimize(model).to_proto()) == ["Neg"]


def test_strings_stay() -> None:
    model = build(
        "(string[2,3] x) => (string[a,b] y) { t = Transpose<perm=[1,0]>(x) "
        "a = Concat<axis=0>(t, s) y = Transpose<perm=[1,0]>(a) }",
        s=np.array([["a", "b"]], object),
    )
    assert not run_pass(model, NAME).record.rewrites


def test_a_pad_that_names_axes_stays() -> None:
    model = build(
        "(float[N,3,4] x) => (float[a,b,c] z) { t = Transpose<perm=[0,2,1]>(x) "
        "a = Pad(t, p, , axes) z = Transpose<perm=[0,2,1]>(a) }",
        opset=18,
        p=np.array([1, 0]),
        axes=np.array([1]),
    )
    assert not run_pass(model, NAME).record.rewrites


def test_a_reader_that_would_cost_as_much_as_it_saves_is_left_out() -> None:
    """With the sum, two Transposes go and two come; without it, only one comes."""
    model = build(
        "(float[N,3,3] x, float[N,3,3] s) => (float[a,b,c] z, float[d,e,f] r) { "
        "t = Transpose<perm=[0,2,1]>(x) a = Relu(t) z = Transpose<perm=[0,2,1]>(a) r = Add(a, s) }"
    )
    assert_rewritten(model, NAME, ["Relu", "Transpose", "Add"], rtol=0, atol=0)


def test_softmax_below_operator_set_13_is_over_several_axes() -> None:
    model = model_of(f"{FORTH} a = Softmax<axis=3>(t) {BACK}", opset=12)
    assert not run_pass(model, NAME).record.rewrites


@pytest.mark.parametrize(("count", "is_rewritten"), [(255, True), (256, True), (257, False)])
def test_a_region_has_at_most_256_operators(count: int, *, is_rewritten: bool) -> None:
    chain = " ".join(f"a{n + 1} = Neg(a{n})" for n in range(count - 1))
    last = f"z = Transpose<perm=[0,3,1,2]>(a{count - 1})"
    model = model_of(f"{FORTH} a0 = Neg(t) {chain} {last}")
    assert ("Transpose" not in operators(run_pass(model, NAME).to_proto())) == is_rewritten


def test_before_opset_7_an_axis_says_where_an_operand_goes() -> None:
    model = model_of(f"{FORTH} a = Add<broadcast=1, axis=3>(t, k) {BACK}", opset=6)
    assert not run_pass(model, NAME).record.rewrites


def test_what_is_an_output_or_read_by_a_body_takes_a_transpose() -> None:
    model = build(
        "(float[N,3,4] x) => (float[a,b,c] a, float[d,e,f] z) { t = Transpose<perm=[0,2,1]>(x) "
        "a = Relu(t) z = Transpose<perm=[0,2,1]>(a) }"
    )
    assert_rewritten(model, NAME, ["Relu", "Transpose"], rtol=0, atol=0, certified=True)
    model = build(
        "(float[N,3,4] x, bool p) => (float[a,b,c] y, float[d,e,f] z) { "
        "t = Transpose<perm=[0,2,1]>(x) a = Relu(t) z = Transpose<perm=[0,2,1]>(a) "
        "y = If (p) <then_branch = g () => (float[a,b,c] m) { m = Neg(a) }, "
        "else_branch = h () => (float[a,b,c] n) { n = Exp(a) }> }"
    )
    assert_rewritten(model, NAME, ["Relu", "Transpose", "If"], rtol=0, atol=0)
    model = build(
        "(float[N,3,4] x, bool p) => (float[a,b,c] y) { "
        "t = Transpose<perm=[0,2,1]>(x) a = Relu(t) "
        "y = If (p) <then_branch = g () => (float[a,b,c] m) { m = Transpose<perm=[0,2,1]>(a) }, "
        "else_branch = h () => (float[a,b,c] n) { n = Exp(x) }> }"
    )
    assert not run_pass(model, NAME).record.rewrites


def test_a_constant_that_a_caller_may_override_stays() -> None:
    model = build(
        "(float[N,3,4] x, float[3] k) => (float[a,b,c] z) { t = Transpose<perm=[0,2,1]>(x) "
        "a = Add(t, k) z = Transpose<perm=[0,2,1]>(a) }",
        k=normal(3),
    )
    assert not run_pass(model, NAME).record.rewrites


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_random_operators_between(data: st.DataObject) -> None:
    """Any order of axes, any constants, readers and other operands: equal, and twice is once."""
    rank = data.draw(st.integers(2, 4))
    order = data.draw(st.permutations(range(rank)))
    sizes = [2, 3, 4, 5][:rank]
    weights: Parameters = {}
    shapes = {"y": sizes, "t": [sizes[axis] for axis in order]}
    lines = [f"t = Transpose<perm={list(order)}>(y)"]
    kinds = ["Relu", "Add", "Sub", "Constant", "Concat", "Softmax", "Pad", "ReduceMax", "Transpose"]
    for number in range(data.draw(st.integers(1, 6))):
        kind = data.draw(st.sampled_from(kinds))
        name, one = f"a{number}", data.draw(st.sampled_from(list(shapes)))
        shape, axis = list(shapes[one]), data.draw(st.integers(0, rank - 1))
        alike = [each for each, other in shapes.items() if other == shape]
        if kind in ("Add", "Sub"):
            lines.append(f"{name} = {kind}({one}, {data.draw(st.sampled_from(alike))})")
        elif kind == "Constant":
            kept = data.draw(st.lists(st.booleans(), min_size=rank, max_size=rank))
            wide = [size if keep else 1 for size, keep in zip(shape, kept, strict=True)]
            weights[f"k{number}"] = normal(*wide[data.draw(st.integers(0, rank)) :])
            operands = data.draw(st.permutations([one, f"k{number}"]))
            lines.append(f"{name} = Sub({', '.join(operands)})")
        elif kind == "Concat":
            lines.append(f"{name} = Concat<axis={axis - rank}>({one}, {one})")
            shape[axis] *= 2
        elif kind == "Softmax":
            lines.append(f"{name} = Softmax<axis={axis}>({one})")
        elif kind == "ReduceMax":
            lines.append(f"{name} = ReduceMax<axes=[{axis}]>({one})")
            shape[axis] = 1
        elif kind == "Pad":
            widths = data.draw(st.lists(st.integers(0, 1), min_size=2 * rank, max_size=2 * rank))
            weights[f"k{number}"] = np.array(widths)
            lines.append(f"{name} = Pad({one}, k{number})")
            shape = [shape[a] + widths[a] + widths[rank + a] for a in range(rank)]
        elif kind == "Transpose":
            back = data.draw(st.sampled_from([[int(a) for a in np.argsort(order)], list(order)]))
            lines.append(f"{name} = Transpose<perm={back}>({one})")
            shape = [shape[axis] for axis in back]
        else:
            lines.append(f"{name} = Relu({one})")
        shapes[name] = shape
    last = f"a{len(lines) - 2}"
    lines.append(f"z = Transpose<perm={[int(a) for a in np.argsort(order)]}>({last})")
    outputs = [data.draw(st.sampled_from(list(shapes))), last]
    lines += [f"o{place} = Abs({name})" for place, name in enumerate(outputs)] + ["r = Abs(z)"]
    names = ", ".join(
        f"float[{','.join(f'{name}{axis}' for axis in range(rank))}] {name}"
        for name in ("o0", "o1", "r")
    )
    x = ",".join(map(str, sizes))
    model = build(f"(float[{x}] x) => ({names}) {{ y = Neg(x) {' '.join(lines)} }}", **weights)
    optimized = run_pass(model, NAME).to_proto()
    feeds = draw_feeds(model)
    for pair in zip(run_plain(model, feeds), run_plain(optimized, feeds), strict=True):
        np.testing.assert_allclose(*pair, rtol=1e-6, atol=1e-6)
    before, after = (operators(each).count("Transpose") for each in (model, optimized))
    rewrites = run_pass(model, NAME).record.rewrites
    assert after < before if rewrites else after == before
    assert not run_pass(optimized, NAME).record.rewrites


def test_all_orders_of_three_axes() -> None:
    for order in list(itertools.permutations(range(3)))[1:]:
        for back in (order, tuple(order.index(axis) for axis in range(3))):
            first, last = (f"Transpose<perm={list(perm)}>" for perm in (order, back))
            model = model_of(f"t = {first}(y) a = Relu(t) z = {last}(a)", x="2,3,4")
            is_undone = [order[axis] for axis in back] == [0, 1, 2]
            assert bool(run_pass(model, NAME).record.rewrites) == is_undone
