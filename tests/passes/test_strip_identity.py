"""strip-identity: operators that change nothing are removed, and no others."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from tests.support.evaluate import assert_equal_outputs, run_plain
from tests.support.graphs import Array, Parameters, build, draw_feeds, named_in, operators
from tests.support.passes import assert_rewritten, run_pass

NAME = "strip-identity"
LAST = 2**63 - 1


def sliced(size: str, *parameters: list[int] | None, opset: int = 17) -> onnx.ModelProto:
    """Slice x, of this size, by starts, ends, axes and steps; None omits one."""
    names = [
        name if content is not None else ""
        for name, content in zip(("starts", "ends", "axes", "steps"), parameters, strict=False)
    ]
    weights: dict[str, Array] = {
        name: np.array(content, np.int64)
        for name, content in zip(names, parameters, strict=True)
        if content is not None
    }
    model = build(
        f"(float[{size}] x) => (float[a,b,c] z) {{ y = Neg(x) s = Slice(y) z = Abs(s) }}",
        opset=opset,
    )
    model.graph.node[1].input.extend(names)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(content, name) for name, content in weights.items()
    )
    return model


def is_stripped(model: onnx.ModelProto) -> bool:
    """Return whether the pass removes the Slice; assert equal bits and a fixpoint."""
    optimized = run_pass(model, NAME).to_proto()
    stripped = operators(optimized) == ["Neg", "Abs"]
    assert stripped or operators(optimized) == operators(model)
    feeds = draw_feeds(model, sizes={"C": 3})
    assert_equal_outputs(model, optimized, feeds)
    assert not run_pass(optimized, NAME).record.rewrites
    return stripped


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("2,3,4", ([0], [3], [1], [1])),
        ("2,3,4", ([0], [3], [1])),
        ("2,3,4", ([0], [99], [-2], None)),
        ("2,3,4", ([0, 0], [2, 3])),
        ("2,3,4", ([0, -4], [LAST, 4], [0, 2], [1, 1])),
        ("2,3,4", ([-99], [4], [2])),
        ("N,3,W", ([0, 0], [LAST, 3], [2, 1])),
        ("N,3,W", ([0], [2**31 - 1], [0])),
    ],
)
def test_a_slice_that_keeps_everything_is_removed(
    size: str, parameters: tuple[list[int] | None, ...]
) -> None:
    assert is_stripped(sliced(size, *parameters))


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("2,3,4", ([0], [2], [1], [1])),
        ("2,3,4", ([1], [3], [1], [1])),
        ("2,3,4", ([0], [3], [1], [2])),
        ("2,3,4", ([0], [-1], [1])),
        ("2,3,4", ([-1], [-99], [1], [-1])),
        ("2,3,4", ([0, 0], [3, 3], [1, 2])),
        ("N,3,W", ([0], [64], [2])),
        ("N,3,W", ([-99], [LAST], [2])),
    ],
)
def test_any_other_slice_stays(size: str, parameters: tuple[list[int] | None, ...]) -> None:
    assert not is_stripped(sliced(size, *parameters))


@pytest.mark.parametrize(("ends", "stripped"), [("[9,3]", True), ("[9,2]", False)])
def test_before_opset_10_the_parameters_are_attributes(ends: str, stripped: bool) -> None:
    graph = f"y = Neg(x) s = Slice<starts=[0,0], ends={ends}, axes=[2,1]>(y) z = Abs(s)"
    model = build(f"(float[2,3,4] x) => (float[a,b,c] z) {{ {graph} }}", opset=9)
    assert is_stripped(model) == stripped


def test_parameters_may_be_computed_from_constants() -> None:
    model = build(
        "(float[N,3,4] x) => (float[a,b,c] z) "
        "{ y = Neg(x) e = Add(one, two) s = Slice(y, o, e, one) z = Abs(s) }",
        o=np.array([0]),
        one=np.array([1]),
        two=np.array([2]),
    )
    assert is_stripped(model)


def test_parameters_at_run_time_stay() -> None:
    model = build(
        "(float[2,3,4] x, int64[1] e) => (float[a,b,c] z) "
        "{ y = Neg(x) s = Slice(y, o, e, one) z = Abs(s) }",
        o=np.array([0]),
        one=np.array([1]),
    )
    assert not run_pass(model, NAME).record.rewrites


@given(
    st.lists(
        st.tuples(st.integers(-6, 6), st.integers(-6, 6), st.sampled_from([1, 1, 1, 2, -1])),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_exactly_those_by_which_numpy_keeps_everything(
    taken: list[tuple[int, int, int]], free: bool
) -> None:
    starts, ends, steps = (list(values) for values in zip(*taken, strict=True))
    model = sliced("N,3,W" if free else "2,3,4", starts, ends, list(range(len(taken))), steps)
    x = np.arange(24).reshape(2, 3, 4)
    result = x[
        tuple(slice(start, end, step) if step > 0 else slice(0, 0) for start, end, step in taken)
    ]
    takes_all = result.shape == x.shape and all(step == 1 for step in steps)
    stripped = is_stripped(model)
    assert not stripped or takes_all
    assert stripped or free or not takes_all


# --- Other operators ------------------------------------------------------------------------------

X = "float[2,3,4,1]"
CHANGES_NOTHING = [
    ("Identity(y)", X),
    ("Cast<to=1>(y)", X),
    ("CastLike(y, x)", X),
    ("Add(y, zero)", X),
    ("Add(zeros, y)", X),
    ("Sub(y, zeros)", X),
    ("Mul(ones, y)", X),
    ("Div(y, one)", X),
    ("Pow(y, one)", X),
    ("Pow(y, whole)", X),
    ("Sum(y)", X),
    ("Mean(y)", X),
    ("Max(y)", X),
    ("Min(y)", X),
    ("Concat<axis=1>(y)", X),
    ("Split<axis=1, num_outputs=1>(y)", X),
    ("Pad(y, none)", X),
    ("Reshape(y, shape)", X),
    ("Reshape(y, shape)", "float[N,3,4,1]"),
    ("Reshape(y, free)", "float[N,3,4,1]"),
    ("Reshape(y, guess)", "float[N,3,4,1]"),
    ("Reshape(y, free)", "float[N,3,W,1]"),
    ("Flatten<axis=1>(y)", "float[N,3]"),
    ("Squeeze(y)", "float[2,3]"),
    ("Expand(y, unit)", X),
    ("Expand(y, unit)", "float[N,3,H,W]"),
    ("Tile(y, unit)", X),
    ("Transpose<perm=[0,1,2,3]>(y)", "float[N,3,4,W]"),
    ("Transpose<perm=[1,0,2]>(y)", "float[1,1,4]"),
    ("Transpose(y)", "float[N]"),
    ("Resize(y, , unit_scales)", X),
    ('Resize<mode="cubic">(y, , , shape)', "float[2,3,4,1]"),
    ("ReduceMean<axes=[3]>(y)", X),
    ("ReduceMax<axes=[-1]>(y)", X),
    ("GlobalAveragePool(y)", "float[N,3,1,1]"),
    ("MaxPool<kernel_shape=[1,1]>(y)", X),
    ("AveragePool<kernel_shape=[1,1], strides=[1,1]>(y)", X),
]
CHANGES_SOMETHING = [
    ("Cast<to=10>(y)", X),
    ("CastLike(y, half)", X),
    ("Add(y, wide)", X),
    ("Add(y, one)", X),
    ("Add(y, zeros)", "float[2,3,1,1]"),
    ("Add(y, zeros)", "float[2,C,4,1]"),
    ("Sub(zero, y)", X),
    ("Mul(y, almost)", X),
    ("Div(one, y)", X),
    ("Pow(one, y)", X),
    ("Max(y, x)", X),
    ("Concat<axis=1>(y, y)", X),
    ("Pad(y, some)", X),
    ("Pad(y, crop)", X),
    ("Reshape(y, turned)", X),
    ("Flatten<axis=2>(y)", "float[N,3]"),
    ("Flatten<axis=1>(y)", "float[N,3,W]"),
    ("Squeeze(y)", X),
    ("Expand(y, shape)", "float[2,3,1,1]"),
    ("Expand(y, shape)", "float[N,3,4,1]"),
    ("Tile(y, twice)", X),
    ("Transpose<perm=[0,2,1,3]>(y)", "float[2,4,4,1]"),
    ("Transpose<perm=[0,2,1,3]>(y)", "float[2,1,4,1]"),
    ("Transpose(y)", "float[2,2]"),
    ("Resize(y, , scales)", X),
    ("Resize(y, , slightly)", X),
    ("ReduceMean<axes=[2]>(y)", X),
    ("ReduceMean<axes=[3]>(y)", "float[2,3,4,W]"),
    ("ReduceMean<axes=[3], keepdims=0>(y)", X),
    ("ReduceL2<axes=[3]>(y)", X),
    ("GlobalAveragePool(y)", X),
    ("MaxPool<kernel_shape=[1,1], strides=[1,2]>(y)", "float[2,3,4,3]"),
    ("MaxPool<kernel_shape=[2,1], pads=[1,0,0,0]>(y)", X),
]
WEIGHTS: Parameters = {
    "zero": np.zeros((), np.float32),
    "zeros": np.zeros((3, 4, 1), np.float32),
    "one": np.ones((), np.float32),
    "ones": np.ones((1, 3, 1, 1), np.float32),
    "whole": np.ones((), np.int64),
    "half": np.ones((), np.float16),
    "wide": np.zeros((3, 1, 5), np.float32),
    "almost": np.full((3, 1, 1), [[[1]], [[1]], [[1.5]]], np.float32),
    "none": np.zeros(8, np.int64),
    "some": np.array([0, 0, 0, 0, 0, 0, 0, 1]),
    "crop": np.array([0, 0, 0, 0, 0, 0, -1, 0]),
    "shape": np.array([2, 3, 4, 1]),
    "turned": np.array([2, 4, 3, 1]),
    "free": np.array([0, 0, -1, 1]),
    "guess": np.array([-1, 3, 4, 1]),
    "unit": np.ones(4, np.int64),
    "twice": np.array([1, 2, 1, 1]),
    "unit_scales": np.ones(4, np.float32),
    "scales": np.array([1, 1, 2, 1], np.float32),
    "slightly": np.array([1, 1, 1.1, 1], np.float32),
}


def between(operator: str, x: str, opset: int = 17) -> onnx.ModelProto:
    """Return a model with this operator between two others, and the weights that it reads."""
    kind = "float16" if "half" in operator or "to=10" in operator else "float"
    model = build(
        f"({x} x) => ({kind} z) {{ y = Neg(x) s = {operator} z = Abs(s) }}",
        opset=18 if "num_outputs" in operator else opset,
        **named_in(operator, WEIGHTS),
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize(("operator", "x"), CHANGES_NOTHING)
def test_an_operator_that_changes_nothing_is_removed(operator: str, x: str) -> None:
    assert is_stripped(between(operator, x))


@pytest.mark.parametrize(("operator", "x"), CHANGES_SOMETHING)
def test_an_operator_that_may_change_something_stays(operator: str, x: str) -> None:
    assert not is_stripped(between(operator, x))


@pytest.mark.parametrize(
    ("operator", "opset"),
    [
        ("Pad<paddings=[0,0,0,0,0,0,0,0]>(y)", 1),
        ("Pad<pads=[0,0,0,0,0,0,0,0]>(y)", 10),
        ("Upsample(y, unit_scales)", 9),
        ("Resize(y, unit_scales)", 10),
        ("ReduceSum(y, last)", 13),
    ],
)
def test_early_opsets(operator: str, opset: int) -> None:
    model = between(operator, X, max(opset, 7))
    model.opset_import[0].version = opset
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3]), "last"))
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized) == ["Neg", "Abs"]


def test_a_size_beside_one_that_may_be_0_does_not_follow() -> None:
    model = build(
        "(float[N,M] x) => (float[a,b] y) { t = Relu(x) y = Reshape(t, shape) }",
        shape=np.array([0, 7], np.int64),
    )
    optimized = run_pass(model, NAME).to_proto()
    (result,) = run_plain(optimized, {"x": np.zeros((0, 5), np.float32)})
    assert result.shape == (0, 7)


def test_integers_have_neutral_elements_too() -> None:
    model = build(
        "(int64[N,3] x) => (int64 z) "
        "{ a = Add(x, zero) b = Mul(one, a) c = Div(b, one) z = Abs(c) }",
        zero=np.zeros(3, np.int64),
        one=np.ones(1, np.int64),
    )
    assert operators(run_pass(model, NAME).to_proto()) == ["Abs"]


def test_inputs_and_outputs_keep_their_names() -> None:
    model = build(
        "(float[N] x) => (float[N] a, float[N] b, float[N] c, float[N] d) "
        "{ a = Identity(x) y = Neg(x) b = Identity(y) c = Identity(b) d = Cast<to=1>(y) }"
    )
    optimized = run_pass(model, NAME).to_proto()
    assert [output.name for output in optimized.graph.output] == ["a", "b", "c", "d"]
    assert operators(optimized) == ["Identity", "Neg", "Identity", "Cast"]
    feeds = draw_feeds(model)
    assert_equal_outputs(model, optimized, feeds)


def test_what_a_body_passes_on_stays() -> None:
    model = build(
        """(float[N] x, bool c) => (float[N] z) {
            y = Neg(x)
            z = If (c) <
                then_branch = t () => (float[N] a) { a = Identity(y) },
                else_branch = e () => (float[N] b) { k = Identity(y) m = Identity(k) b = Abs(m) }
            >
        }"""
    )
    optimized = run_pass(model, NAME).to_proto()
    branches = {a.name: [n.op_type for n in a.g.node] for a in optimized.graph.node[1].attribute}
    assert branches == {"then_branch": ["Identity"], "else_branch": ["Abs"]}


def test_an_operand_that_a_caller_may_override_is_not_neutral() -> None:
    model = build("(float[N,3] x, float one) => (float z) { y = Mul(x, one) z = Abs(y) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.float32), "one"))
    assert operators(run_pass(model, NAME).to_proto()) == ["Mul", "Abs"]


def test_a_parameter_of_the_enclosing_function_is_not_known() -> None:
    model = build(
        """(float[2,3] x) => (float z) { z = local.f<perm=[0,1], to=1>(x) }
        <domain: "local", opset_import: ["" : 17]>
        f <perm, to> (p) => (q) {
            t = Transpose<perm: ints = @perm>(p) c = Cast<to: int = @to>(t) q = Abs(c)
        }"""
    )
    model.opset_import.append(onnx.helper.make_opsetid("local", 1))
    passes = bnfold.PassOptions(only=[NAME], keep_functions=True)
    result = bnfold.optimize(model, check=False, passes=passes)
    assert not result.record.rewrites
    assert operators(run_pass(model, NAME).to_proto()) == ["Abs"]


def test_each_removal_is_certified() -> None:
    sampled = ("Pow", "ReduceMax")
    chosen = [operator for operator, x in CHANGES_NOTHING if x == X and "Split" not in operator]
    chosen = [operator for operator in chosen if not operator.startswith(sampled)]
    lines, last = [], "v"
    for number, operator in enumerate(chosen):
        lines.append(f"v{number} = " + re.sub(r"\by\b", last, operator))
        last = f"v{number}"
    model = build(
        f"({X} x) => (float z) {{ v = Neg(x) {' '.join(lines)} z = Abs({last}) }}",
        **named_in(" ".join(lines), WEIGHTS),
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    record = bnfold.optimize(model, passes=bnfold.PassOptions(only=[NAME])).record
    assert len(record.rewrites) == len(chosen)
    assert {rewrite.certificate and rewrite.certificate.verdict for rewrite in record.rewrites} == {
        "certified"
    }


@pytest.mark.parametrize("opset", [7, 17])
@pytest.mark.parametrize(
    ("line", "is_stripped"),
    [
        ("And(y, true)", True),
        ("And(trues, y)", True),
        ("Or(false, y)", True),
        ("Or(y, falses)", True),
        ("Xor(y, false)", True),
        ("Xor(falses, y)", True),
        ("And(y, false)", False),
        ("Or(y, true)", False),
        ("Xor(y, trues)", False),
        ("And(y, mixed)", False),
        ("And(y, wide)", False),
    ],
)
def test_what_is_true_or_false_everywhere(line: str, is_stripped: bool, opset: int) -> None:
    constants = {
        "true": np.array(True),
        "trues": np.ones((3, 1), np.bool_),
        "false": np.array([[False]]),
        "falses": np.zeros(2, np.bool_),
        "mixed": np.array([True, False]),
        "wide": np.ones((4, 3, 2), np.bool_),
    }
    used: Parameters = {n: array for n, array in constants.items() if re.search(rf"\b{n}\b", line)}
    shape = "4,3,2" if "wide" in line else "3,2"
    model = build(
        f"(bool[3,2] x) => (bool[{shape}] z) {{ y = Not(x) w = {line} z = Not(w) }}",
        opset=opset,
        **used,
    )
    if not is_stripped:
        assert not run_pass(model, NAME).record.rewrites
        return
    assert_rewritten(model, NAME, ["Not", "Not"], rtol=0, atol=0, certified=True)
