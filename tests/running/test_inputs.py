"""The inputs that models are compared on: drawn, of requested shapes, or given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bnfold
from bnfold.errors import SessionError, UsageError
from bnfold.options import InputOptions
from bnfold.running.hints import Hints
from bnfold.running.input_files import parse_input_options
from bnfold.running.input_search import make_inputs
from bnfold.running.inputs import SHIFTS, Inputs, UnsupportedInput
from bnfold.running.runtime import Level, Session
from tests.support.checks import compared, verdict
from tests.support.cli import MODELS, REWRITTEN, run
from tests.support.graphs import Array, Parameters, build, make_overridable, normal
from tests.support.slow import in_turn

ADD = build("(float[N,K] a, float[N,K] b) => (float[N,K] y) { y = Add(a, b) }")


def inputs_for(model: onnx.ModelProto, **request: Any) -> Inputs:
    session = Session(model.SerializeToString(), "cpu", Level.DISABLED)
    return make_inputs(session, InputOptions(**request))


def flattened_to(features: int) -> onnx.ModelProto:
    """Return a model that needs an image of this many elements, but does not declare its shape."""
    return build(
        "(float[N,C,H,W] x) => (float[N,2] y) { f = Flatten(x) y = MatMul(f, w) }",
        w=normal(features, 2),
    )


# --- Shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "shape"),
    [
        ("N,3,8,8", (2, 3, 8, 8)),
        ("N,C,H,W", (2, 3, 64, 64)),
        ("?,5,?,?", (2, 5, 64, 64)),
        ("N,L", (2, 64)),
        ("4,L,L", (4, 64, 64)),
        ("7", (7,)),
    ],
)
def test_free_dimensions_are_filled(declared: str, shape: tuple[int, ...]) -> None:
    model = build(f"(float[{declared}] x) => (float y) {{ y = ReduceMax <keepdims = 0> (x) }}")
    assert inputs_for(model).shapes[0] == {"x": shape}


@pytest.mark.parametrize("element", ["float", "int64", "bool", "string"])
def test_a_scalar_has_nothing_to_fill(element: str) -> None:
    model = build(f"({element} x) => ({element} y) {{ y = Identity(x) }}")
    assert inputs_for(model).shapes[0] == {"x": ()}


@pytest.mark.parametrize("size", [224, 32, 8])
def test_sizes_are_tried_until_the_model_accepts_one(size: int) -> None:
    shapes = inputs_for(flattened_to(3 * size * size)).shapes[0]
    assert shapes["x"][1:] == (3, size, size)


def test_a_batch_of_one_is_tried_where_two_will_not_do() -> None:
    model = build("(float[N,6] x) => (float[1,2,3] y) { y = Reshape(x, s) }", s=np.array([1, 2, 3]))
    assert inputs_for(model).shapes[0] == {"x": (1, 6)}


def test_where_no_size_will_do_a_shape_is_asked_for() -> None:
    with pytest.raises(SessionError, match="give a shape with --input NAME:1,3"):
        inputs_for(flattened_to(17))


def test_a_size_that_the_graph_has_written_is_tried_where_no_other_runs() -> None:
    """As attention that was traced at one length, exported with free sizes."""
    model = build(
        "(float[b,t,4] x) => (float[u,v,w] y) { a = Transpose<perm=[1,0,2]>(x) y = Reshape(a, s) }",
        s=np.array([20, -1, 2]),
    )
    record = bnfold.check(model, model).equivalence
    assert record is not None
    assert record.verdict == "pass"


def test_a_shape_that_was_asked_for_is_used() -> None:
    assert inputs_for(flattened_to(17), shapes={"x": [5, 1, 1, 17]}).shapes[0] == {
        "x": (5, 1, 1, 17)
    }


def test_dimensions_of_one_name_get_one_size() -> None:
    assert inputs_for(ADD).shapes[0] == {"a": (2, 64), "b": (2, 64)}
    assert inputs_for(ADD, shapes={"b": [5, 7]}).shapes[0] == {"a": (5, 7), "b": (5, 7)}
    given = {"a": normal(6, 4)}
    assert inputs_for(ADD, arrays=given).shapes[0] == {"a": (6, 4), "b": (6, 4)}


# --- Content ------------------------------------------------------------------------------------


def test_samples_are_signed_and_of_various_scales() -> None:
    samples = [feeds["a"] for feeds in inputs_for(ADD, samples=6).feeds()]
    assert len(samples) == 6
    for sample, scale, shift in zip(
        samples, [*InputOptions.scales, *InputOptions.scales], [*SHIFTS, 0.0], strict=True
    ):
        assert sample.dtype == np.float32
        assert abs(shift) > 1 or sample.min() < 0 < sample.max()
        assert sample.std() == pytest.approx(scale, rel=0.25)
        assert sample.mean() == pytest.approx(shift * scale, abs=0.35 * scale)
    assert not np.array_equal(samples[2], samples[5])


def test_some_samples_have_a_negative_mean_and_some_a_positive_one() -> None:
    """What a model does where a mean is below zero shows only there."""
    interface = "(float[N,64] x) => (float[N,64] y) "
    right = build(f"{interface} {{ m = ReduceMean<axes=[0,1]>(x) r = Relu(m) y = Add(x, r) }}")
    wrong = build(f"{interface} {{ m = ReduceMean<axes=[0,1]>(x) r = Abs(m) y = Add(x, r) }}")
    equivalence = bnfold.check(right, wrong).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"


def test_a_batch_of_one_is_among_the_samples() -> None:
    """The second model is wrong for a batch of one alone."""
    interface = "(float[N,4] x) => (float[N,4] y) "
    right = build(f"{interface} {{ y = Neg(x) }}")
    wrong = build(
        f"{interface} {{ s = Shape<end=1>(x) one = Equal(s, single) z = Cast<to=1>(one) "
        "n = Neg(x) y = Sub(n, z) }",
        single=np.array([1]),
    )
    equivalence = bnfold.check(right, wrong).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"


def test_sizes_go_beyond_where_a_slice_cuts() -> None:
    """The cut comes after a stride of two, and the second model does without it."""
    interface = "(float[N,3,H,W] x) => (float[N,4,h,w] y) "
    weights: Parameters = {
        "w": normal(4, 3, 3, 3),
        "s": np.array([0]),
        "e": np.array([320]),
        "a": np.array([2]),
    }
    right = build(
        f"{interface} {{ c = Conv<strides=[2,2]>(x, w) y = Slice(c, s, e, a) }}", **weights
    )
    wrong = build(f"{interface} {{ y = Conv<strides=[2,2]>(x, w) }}", **weights)
    equivalence = bnfold.check(right, wrong).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"


def cutting(sizes: str, *cuts: tuple[int, int]) -> onnx.ModelProto:
    """Return a model that cuts its input off along some axes, each by itself."""
    nodes = [f"y{i} = Slice(x, zero, end{i}, axis{i})" for i in range(len(cuts))]
    outputs = ", ".join(f"float[a{i},b{i},c{i}] y{i}" for i in range(len(cuts)))
    numbers = {"zero": 0}
    for i, (axis, end) in enumerate(cuts):
        numbers |= {f"axis{i}": axis, f"end{i}": end}
    weights: Parameters = {name: np.array([number]) for name, number in numbers.items()}
    return build(f"(float[{sizes}] x) => ({outputs}) {{ {' '.join(nodes)} }}", **weights)


def shapes_drawn(model: onnx.ModelProto, **options: Any) -> list[list[int]]:
    inputs = compared(model, model, certify="off", **options).inputs
    assert inputs is not None
    return [shapes["x"] for shapes in inputs.shapes]


def test_a_shape_that_is_given_is_kept() -> None:
    """A batch of 47 would take 47 times as long as the batch of one that is asked for."""
    model = cutting("N,3,W", (2, 30), (0, 5))
    shapes = shapes_drawn(model, shapes={"x": [1, 3, 17]})
    assert shapes == [[1, 3, 17]] * len(shapes)


def test_sizes_go_far_beyond_the_largest_cut_of_each_axis() -> None:
    shapes = shapes_drawn(cutting("N,3,W", (2, 30), (0, 5), (2, 20), (0, 3)))
    assert [shape for shape in shapes[:5] if shape[0] > 5 * 8] == [[47, 3, 64]]
    assert [shape for shape in shapes[:5] if shape[2] > 20 * 8] == [[2, 3, 247]]


def test_large_inputs_go_beyond_a_cut_by_less() -> None:
    shapes = shapes_drawn(cutting("N,300,400", (0, 5), (0, 3)))
    assert max(batch for batch, _, _ in shapes) == 5 + 7


def test_two_switches_take_all_combinations() -> None:
    text = (
        "(float[N,4] x, bool a, bool b) => (float[N,4] y) "
        "{ t = {} u = Cast<to=1>(t) y = Add(x, u) }"
    )
    right = build(text.replace("{}", "Xor(a, b)"))
    for wrong in ("And(a, n) n = Not(b)", "And(n, b) n = Not(a)", "Or(a, b)"):
        head, _, tail = wrong.partition(") ")
        lines = f"{tail} t = {head})" if tail else f"t = {wrong}"
        other = build(text.replace("t = {}", lines))
        equivalence = bnfold.check(right, other).equivalence
        assert equivalence is not None
        assert equivalence.verdict == "fail"


def test_few_switches_take_all_combinations() -> None:
    text = (
        "(float[N,4] x, bool a, bool b, bool c, bool d) => (float[N,4] y) { n = Not(c) "
        "p = And(a, b) q = And(n, d) r = And(p, q) m = Mul(x, k) y = Where(r, m, x) }"
    )
    right, wrong = (build(text, k=np.array(k, np.float32)) for k in (2, 3))
    equivalence = bnfold.check(right, wrong).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"


def test_masks_take_no_combinations_from_switches() -> None:
    text = (
        "(bool[4] m, bool[4] n, bool s, bool t, float[4] x) => (float[4] y) { u = Not(s) "
        "r = And(t, u) v = And(m, n) k = Mul(x, f) z = Where(v, x, k) w = Mul(z, f) "
        "y = Where(r, w, z) }"
    )
    right = build(text, f=np.array(2, np.float32))
    wrong = build(
        text.replace("y = Where(r, w, z)", "q = Neg(w) y = Where(r, q, z)"),
        f=np.array(2, np.float32),
    )
    equivalence = bnfold.check(right, wrong, certify="off").equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"


@pytest.mark.parametrize(("one", "other"), [(0, 3), (3, 0), (1, 4)])
def test_any_two_of_many_integers_take_combinations(one: int, other: int) -> None:
    names = ", ".join(f"int64 i{number}" for number in range(5))
    read = " ".join(f"e{number} = Equal(i{number}, k)" for number in range(5))
    text = (
        f"({names}, float[N] x) => (float[N] y) {{ {read} n = Not(e{other}) r = And(e{one}, n) "
        "m = Mul(x, f) y = Where(r, m, x) }"
    )
    right, wrong = (build(text, k=np.array(5), f=np.array(f, np.float32)) for f in (2, 3))
    equivalence = bnfold.check(right, wrong, certify="off").equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8"])
def test_two_integers_take_all_combinations_of_what_they_are_compared_with(kind: str) -> None:
    text = (
        f"({kind} a, {kind}[1] b, float[N] x) => (float[N] y) {{ e = Equal(a, i) f = Equal(b, i) "
        "{} m = Mul(x, k) y = Where(r, m, x) }"
    )
    for lines in ("n = Not(f) r = And(e, n)", "n = Not(e) r = And(n, f)", "r = And(e, f)"):
        pair = [
            build(
                text.replace("{}", lines),
                i=np.array(1, kind),
                k=np.array(k, np.float32),
            )
            for k in (2, 3)
        ]
        equivalence = bnfold.check(*pair).equivalence
        assert equivalence is not None
        assert equivalence.verdict == "fail"


def test_integers_take_the_values_that_the_model_compares_them_with() -> None:
    """A rate that is one of two numbers would hardly be drawn by chance."""
    text = (
        "(float[N,4] x, int64 rate) => (float[N,4] y) "
        "{ e = Equal(rate, known) c = Cast<to=1>(e) y = Mul(x, c) }"
    )
    right, wrong = (build(text, known=np.array(rate)) for rate in (16000, 8000))
    equivalence = bnfold.check(right, wrong).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"


def test_indices_that_are_clipped_first_go_beyond_the_table() -> None:
    text = "(int64[N] i) => (float[N,4] y) { c = Clip(i, low, high) y = Gather(table, c) }"
    weights: Parameters = {"table": normal(500, 4), "low": np.array(0), "high": np.array(499)}
    right = build(text, **weights)
    wrong = build(text, **weights | {"high": np.array(498)})
    equivalence = bnfold.check(right, wrong).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"


def test_the_ratio_of_a_dropout_is_one() -> None:
    model = build("(float[N,4] x, float r) => (float[N,4] y) { y = Dropout(x, r) }")
    equivalence = bnfold.check(model, model).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "pass"


def test_overridable_initializers_are_overridden() -> None:
    """The second model has made a constant of what callers may override."""
    text = "(float[N,4] x) => (float[N,4] y) { y = Mul(x, k) }"
    original = make_overridable(build(text, k=normal(4)), "k")
    frozen = build(text, k=normal(4))
    equivalence = bnfold.check(original, frozen).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"
    assert "override the initializers ['k']" in equivalence.reason
    unused = build(
        "(float[N,4] x) => (float[N,4] y) { y = Mul(x, j) z = Neg(k) }", k=normal(4), j=normal(4)
    )
    equivalence = bnfold.check(original, make_overridable(unused, "k")).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"


OVERRIDABLE: list[tuple[str, str, Parameters]] = [
    (
        "(float[N,4] x) => (float[N,4] y) { g = Greater(k, zero) y = Where(g, x, zero) }",
        "(float[N,4] x) => (float[N,4] y) { g = Neg(k) y = Identity(x) }",
        {"k": np.array([3], np.float32)},
    ),
    (
        "(float[N,4] x, int64[N] i) => (float[N,4] y) { s = Mul(i, k) y = Gather(table, s) }",
        "(float[N,4] x, int64[N] i) => (float[N,4] y) { s = Neg(k) y = Gather(table, i) }",
        {"k": np.array(1)},
    ),
    (
        "(float[N,4] x) => (float[N,4] y) { y = Where(k, x, zero) }",
        "(float[N,4] x) => (float[N,4] y) { n = Not(k) y = Identity(x) }",
        {"k": np.array(True)},
    ),
]


@pytest.mark.parametrize(("text", "frozen", "content"), OVERRIDABLE)
def test_overrides_take_other_signs_and_are_integers_and_switches_too(
    text: str, frozen: str, content: Parameters
) -> None:
    """The second model has decided what a caller may still choose."""
    more = {"zero": np.zeros(1, np.float32), "table": normal(100, 4), **content}
    original, other = (make_overridable(build(each, **more), "k") for each in (text, frozen))
    assert verdict(original, original) == "pass"
    assert verdict(original, other) == "fail"


def test_an_override_that_fits_only_some_sizes_is_left_out() -> None:
    """The batch may be split in halves of any size, but not in one more than halves."""
    text = "(float[N,4] x) => (float[M,L] y) { y = Reshape(x, k) }"
    model = make_overridable(build(text, k=np.array([-1, 2])), "k")
    assert verdict(model, model) == "pass"


def test_signs_do_not_turn_where_that_gives_no_numbers() -> None:
    text = "(float[N,4] x) => (float[N,4] y) { r = Sqrt(k) y = Mul(x, r) }"
    session = Session(
        make_overridable(build(text, k=np.ones(4, np.float32)), "k").SerializeToString(),
        "cpu",
        Level.DISABLED,
    )
    hints = Hints(overrides={"k": np.ones(4, np.float32)})
    found = make_inputs(session, InputOptions(), hints)
    assert (set(found.overrides), found.turns, found.samples) == ({"k"}, False, 3)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_integers_of_eight_bits_take_their_whole_range(dtype: str) -> None:
    """Past it, they start again from the other end; a Clip does not."""
    limits = np.iinfo(dtype)
    text = f"({dtype}[N,50] x) => ({dtype}[N,50] y) "
    wraps = build(f"{text}{{ y = Add(x, k) }}", k=np.array([3], dtype))
    code = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    clips = build(
        f"{text}{{ c = Cast<to=6>(x) a = Add(c, k) l = Clip(a, low, high) "
        f"y = Cast<to={code}>(l) }}",
        k=np.array([3], np.int32),
        low=np.array(limits.min, np.int32),
        high=np.array(limits.max, np.int32),
    )
    assert verdict(wraps, wraps) == "pass"
    assert verdict(wraps, clips) == "fail"


def test_integers_of_eight_bits_that_are_positions_stay_within_the_table() -> None:
    text = "(uint8[N] i) => (float[N,4] y) { n = Cast<to=7>(i) m = Mul(n, two) y = Gather(t, m) }"
    model = build(text, t=normal(30, 4), two=np.array(2))
    assert verdict(model, model) == "pass"


@pytest.mark.parametrize(
    ("compared", "size"),
    in_turn(["Greater(n, t)", "Less(n, t)", "Equal(n, t)"], ["Gather(q, at)", "Squeeze(part)"]),
)
def test_sizes_are_tried_on_both_sides_of_where_the_model_compares_them(
    size: str, compared: str
) -> None:
    text = (
        "(float[N,T] x) => (float[N,T] y) { q = Shape(x) part = Slice(q, one, two) "
        f"n = {size} c = {compared} f = Cast<to=1>(c) g = Mul(f, k) y = Add(x, g) }}"
    )
    weights: Parameters = {
        "at": np.array(-1),
        "one": np.array([1]),
        "two": np.array([2]),
        "t": np.array(20),
    }
    right, wrong = (
        build(text, k=np.array([factor], np.float32), **weights) for factor in (1, 1.01)
    )
    assert verdict(right, right) == "pass"
    assert verdict(right, wrong) == "fail"


def test_free_sizes_that_share_a_name_need_not_be_one_size() -> None:
    """Old exporters call all of them "?"; a batch of one size would not fit these channels."""
    model = build(
        "(float[u,u,u,u] x) => (float[u,u,u,u] y) { y = Conv(x, w) }", w=normal(4, 3, 3, 3)
    )
    equivalence = bnfold.check(model, model).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "pass"


def test_the_first_free_axis_of_a_state_may_be_the_batch() -> None:
    """As of an LSTM, (layers, batch, features), in a file that names no sizes."""
    model = build(
        "(float[b,2,t] x, float[1,c,4] h) => (float[1,b,8] y) { "
        "m = Conv(x, w) g = GlobalMaxPool(m) q = Transpose<perm=[2,0,1]>(g) "
        "y = Concat<axis=2>(q, h) }",
        w=normal(4, 2, 5),
    )
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            size.ClearField("dim_param")
    shapes = inputs_for(model, samples=3).shapes
    assert all(each["x"][0] == each["h"][1] for each in shapes)
    assert {each["x"][0] for each in shapes} > {2}
    assert verdict(model, model) == "pass"


def test_inputs_of_one_sample_differ() -> None:
    feeds = next(inputs_for(ADD).feeds())
    assert not np.array_equal(feeds["a"], feeds["b"])


def test_feeds_are_the_same_each_time() -> None:
    inputs = inputs_for(ADD)
    for first, second in zip(inputs.feeds(), inputs.feeds(), strict=True):
        for name in ("a", "b"):
            np.testing.assert_array_equal(first[name], second[name])


def test_the_digest_tells_inputs_apart() -> None:
    requests: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"samples": 2},
        {"arrays": {"a": np.zeros((2, 64), np.float32)}},
        {"arrays": {"a": np.ones((2, 64), np.float32)}},
        {"arrays": {"b": np.ones((2, 64), np.float32)}},
    ]
    digests = [inputs_for(ADD, **request).record().sha256 for request in requests]
    assert len(set(digests)) == len(requests)
    assert digests == [inputs_for(ADD, **request).record().sha256 for request in requests]


def test_the_command_line_tells_seed_samples_and_digest() -> None:
    def record(*options: str) -> dict[str, Any]:
        outcome = run("check", REWRITTEN, REWRITTEN, "--json", *options)
        inputs: dict[str, Any] = outcome.record["equivalence"]["inputs"]
        return inputs

    first, again, other = record(), record("--seed", "0"), record("--seed", "7", "--samples", "2")
    assert first == again
    assert (other["seed"], other["samples"]) == (7, 2)
    assert first["sha256"] != other["sha256"]
    assert record("--input", "images:5,1,8,8")["shapes"][0] == {"images": [5, 1, 8, 8]}


@pytest.mark.parametrize(
    "element",
    [
        *("float16", "double", "bool", "string"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    ],
)
def test_inputs_of_every_type_are_drawn_and_compared(element: str) -> None:
    model = build(f"({element}[N,3] x) => ({element}[N,3] y) {{ y = Identity(x) }}")
    record = bnfold.check(model, model)
    assert record.equivalence is not None
    assert record.equivalence.verdict == "pass"
    assert record.equivalence.inputs is not None
    assert record.equivalence.inputs.shapes[0] == {"x": [2, 3]}
    values = {str(value) for feeds in inputs_for(model).feeds() for value in feeds["x"].flat}
    assert len(values) > 1


def test_integers_index_any_table() -> None:
    model = build(
        "(int64[N] x) => (float[N,3] y) { y = Gather(table, x) }",
        table=normal(2, 3),
    )
    values = {int(value) for feeds in inputs_for(model).feeds() for value in feeds["x"]}
    assert values == {-1, 0, 1}  # -1 is the last row, too


def sequence_model() -> onnx.ModelProto:
    inner = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    length = helper.make_tensor_value_info("y", TensorProto.INT64, [])
    graph = helper.make_graph([helper.make_node("SequenceLength", ["x"], ["y"])], "g", [inner], [])
    graph.output.append(length)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (sequence_model(), "seq(tensor(float))"),
        (build("(bfloat16[4] x) => (bfloat16[4] y) { y = Identity(x) }"), "tensor(bfloat16)"),
    ],
    ids=["sequence", "bfloat16"],
)
def test_what_numpy_cannot_hold_is_not_verified(model: onnx.ModelProto, reason: str) -> None:
    with pytest.raises(UnsupportedInput):
        inputs_for(model)
    record = bnfold.check(model, model, certify="off")
    assert record.equivalence is not None
    assert record.equivalence.verdict == "not-verified"
    assert reason in record.equivalence.reason


# --- Given content ------------------------------------------------------------------------------


def test_where_everything_is_given_there_is_one_sample() -> None:
    given = {"a": normal(2, 3), "b": normal(2, 3, seed=1)}
    inputs = inputs_for(ADD, arrays=given)
    (feeds,) = inputs.feeds()
    assert feeds["a"] is given["a"]
    assert feeds["b"] is given["b"]
    record = inputs.record()
    assert (record.samples, record.source) == (1, "given")


def test_where_something_is_given_the_rest_is_drawn() -> None:
    given = normal(2, 3)
    inputs = inputs_for(ADD, arrays={"a": given})
    feeds = list(inputs.feeds())
    assert len(feeds) == 3
    assert all(sample["a"] is given for sample in feeds)
    assert not np.array_equal(feeds[0]["b"], feeds[1]["b"])
    assert "normal" in inputs.record().source


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"arrays": {"a": np.zeros((2, 3))}}, "'a' needs float32, .* has float64"),
        ({"arrays": {"c": normal(2, 3)}}, "no input 'c'; it has a, b"),
        ({"shapes": {"c": [1]}}, "no input 'c'; it has a, b"),
    ],
)
def test_what_does_not_fit_is_refused(request_: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        inputs_for(ADD, **request_)


def test_an_archive_is_read_by_name_and_may_hold_more(tmp_path: Path) -> None:
    content = normal(2, 3)
    np.savez(tmp_path / "data.npz", b=content, labels=np.arange(2))
    inputs = inputs_for(ADD, data=tmp_path / "data.npz")
    assert np.array_equal(next(inputs.feeds())["b"], content)
    assert inputs.shapes[0]["a"] == (2, 3)


def test_the_samples_run_on_real_digits() -> None:
    outcome = run("check", REWRITTEN, REWRITTEN, "--data", MODELS / "digits.npz", "--json")
    inputs = outcome.record["equivalence"]["inputs"]
    assert outcome.code == 0
    assert inputs["source"] == "given"
    assert inputs["shapes"][0] == {"images": [360, 1, 8, 8]}


def save_tensors(folder: Path, *contents: Array) -> None:
    for number, content in enumerate(contents):
        tensor = numpy_helper.from_array(content)
        (folder / f"input_{number}.pb").write_bytes(tensor.SerializeToString())


def test_a_test_data_folder_is_read_by_position(tmp_path: Path) -> None:
    """The eleventh file is input_10.pb, which would be third in alphabetical order."""
    contents = [np.full((1,), number, np.float32) for number in range(11)]
    save_tensors(tmp_path, *contents)
    (tmp_path / "output_0.pb").write_bytes(b"not read")
    declared = ", ".join(f"float[1] x{number}" for number in range(11))
    names = ", ".join(f"x{number}" for number in range(11))
    model = build(f"({declared}) => (float[1] y) {{ y = Sum({names}) }}")
    (feeds,) = inputs_for(model, data=tmp_path).feeds()
    assert {name: float(feeds[name][0]) for name in feeds} == {f"x{n}": n for n in range(11)}


@pytest.mark.parametrize(
    "content",
    [np.array([[True, False, True]]), np.array([["a", "ä", ""]], object), np.array([[1, -2, 3]])],
    ids=["bool", "string", "int64"],
)
def test_a_test_data_folder_may_hold_other_types(tmp_path: Path, content: Array) -> None:
    save_tensors(tmp_path, content)
    element = {"b": "bool", "O": "string", "i": "int64"}[content.dtype.kind]
    model = build(f"({element}[N,3] x) => ({element}[N,3] y) {{ y = Identity(x) }}")
    (feeds,) = inputs_for(model, data=tmp_path).feeds()
    np.testing.assert_array_equal(feeds["x"], content)


def test_an_input_given_by_itself_counts_more_than_the_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=normal(2, 3), b=normal(2, 3, seed=1))
    np.save(tmp_path / "a.npy", normal(2, 3, seed=2))
    onnx.save(ADD, tmp_path / "m.onnx")
    arrays, _ = parse_input_options([f"a={tmp_path / 'a.npy'}"])
    (feeds,) = inputs_for(ADD, data=tmp_path / "data.npz", arrays=arrays).feeds()
    np.testing.assert_array_equal(feeds["a"], normal(2, 3, seed=2))
    np.testing.assert_array_equal(feeds["b"], normal(2, 3, seed=1))


def test_content_given_on_the_command_line_is_what_is_compared(tmp_path: Path) -> None:
    """The two models differ only at negative values."""
    for name, line in (("relu", "y = Relu(x)"), ("same", "y = Identity(x)")):
        onnx.save(build(f"(float[N] x) => (float[N] y) {{ {line} }}"), tmp_path / name)
    np.save(tmp_path / "positive.npy", np.array([1, 2], np.float32))
    arguments = ("check", tmp_path / "relu", tmp_path / "same")
    assert run(*arguments).code == 1
    assert run(*arguments, "--input", f"x={tmp_path / 'positive.npy'}").code == 0


# --- Options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "name", "shape"),
    [
        ("x:1,3,224,224", "x", [1, 3, 224, 224]),
        ("x:7", "x", [7]),
        ("serving_default:0:2,3", "serving_default:0", [2, 3]),
        ("a=b:2,3", "a=b", [2, 3]),
        ("a b/c:2", "a b/c", [2]),
    ],
)
def test_a_shape_is_told_by_digits_after_the_last_colon(
    option: str, name: str, shape: list[int]
) -> None:
    assert parse_input_options([option]) == ({}, {name: shape})


@pytest.mark.parametrize("name", ["x", "serving_default:0", "a b/c", "x:1,2", "a=b"])
@pytest.mark.parametrize("file", ["content.npy", "with:colon.npy"])
def test_content_is_told_by_an_equals_sign(tmp_path: Path, name: str, file: str) -> None:
    np.save(tmp_path / file, np.arange(3))
    arrays, shapes = parse_input_options([f"{name}={tmp_path / file}"])
    assert shapes == {}
    assert list(arrays) == [name]
    np.testing.assert_array_equal(arrays[name], np.arange(3))


def test_options_may_be_repeated(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.arange(3))
    arrays, shapes = parse_input_options(["a:1", "b:2,3", f"c={tmp_path / 'c.npy'}"])
    assert (list(arrays), shapes) == (["c"], {"a": [1], "b": [2, 3]})


@pytest.mark.parametrize("option", ["", "x", "x:", "x:a", "x:1,", "x:-1", "x:1.5", "=f", ":"])
def test_an_option_that_is_neither(option: str) -> None:
    with pytest.raises(UsageError, match=r"neither NAME=FILE\.npy nor NAME:1,3,224,224") as raised:
        parse_input_options([option])
    assert json.dumps(option)[1:-1] in str(raised.value)


@pytest.mark.parametrize("sizes", ["1,3,8,8", "[1, 3, 8, 8]", "1x3x8x8", "(1,3,8,8)", "1 3 8 8"])
def test_a_shape_where_a_file_should_be_is_told_how_to_write(sizes: str) -> None:
    with pytest.raises(UsageError, match=r"if a shape is meant: a=b:1,3,8,8$"):
        parse_input_options([f"a=b={sizes}"])


def test_a_file_whose_name_is_a_number_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("17").write_bytes(b"no array")
    with pytest.raises(UsageError, match="17 cannot be read"):
        parse_input_options(["x=17"])


def test_pickled_content_is_never_loaded(tmp_path: Path) -> None:
    pickled = np.array(["a", None], object)
    np.save(tmp_path / "x.npy", pickled, allow_pickle=True)
    np.savez(tmp_path / "x.npz", images=pickled)
    with pytest.raises(UsageError, match="cannot be read"):
        parse_input_options([f"x={tmp_path / 'x.npy'}"])
    run("check", REWRITTEN, REWRITTEN, "--data", tmp_path / "x.npz").failed(2, "cannot be read")


# --- Several sizes, tables, data sets, and inputs that are saved ----------------------------------


def test_free_dimensions_take_more_than_one_size() -> None:
    model = build(
        "(float[N,3,H,W] x) => (float[N,3] y) { y = ReduceMax<axes=[2,3], keepdims=0>(x) }"
    )
    shapes = [feeds["x"].shape for feeds in inputs_for(model).feeds()]
    assert shapes == [(2, 3, 64, 64), (3, 3, 47, 33), (1, 3, 33, 47)]
    recorded = inputs_for(model).record().shapes
    assert [tuple(sample["x"]) for sample in recorded] == shapes


def test_where_only_one_size_runs_there_is_one() -> None:
    shapes = {feeds["x"].shape[2:] for feeds in inputs_for(flattened_to(3 * 32 * 32)).feeds()}
    assert shapes == {(32, 32)}


def test_a_fault_at_another_size_is_found() -> None:
    """The second model is correct only at the first size."""
    interface = "(float[N,3,H,W] x) => (float[N,3,1,1] y) "
    right = build(f"{interface} {{ y = GlobalAveragePool(x) }}")
    wrong = build(
        f"{interface} {{ s = ReduceSum<keepdims=1>(x, axes) y = Div(s, count) }}",
        axes=np.array([2, 3]),
        count=np.array(64 * 64, np.float32),
    )
    equivalence = bnfold.check(right, wrong).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"
    assert "of sample 1" in equivalence.reason
    equivalence = bnfold.check(right, wrong, samples=1).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "pass"


def test_a_known_table_is_used_in_full() -> None:
    model = build("(int64[N] x) => (float[N,3] y) { y = Gather(table, x) }", table=normal(999, 3))
    session = Session(model.SerializeToString(), "cpu", Level.DISABLED)
    inputs = make_inputs(session, InputOptions(samples=9), Hints(largest={"x": 998}))
    largest = max(int(feeds["x"].max()) for feeds in inputs.feeds())
    assert 99 < largest <= 998


def test_a_folder_of_data_sets_is_a_sample_each(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        folder = tmp_path / f"test_data_set_{number}"
        folder.mkdir()
        save_tensors(folder, np.full((2, number + 1), number, np.float32), normal(2, number + 1))
    samples = list(inputs_for(ADD, data=tmp_path).feeds())
    assert [float(feeds["a"][0, 0]) for feeds in samples] == [0, 2, 10]
    assert [feeds["b"].shape for feeds in samples] == [(2, 1), (2, 3), (2, 11)]
    assert inputs_for(ADD, data=tmp_path).record().samples == 3


def test_saved_inputs_give_the_same_check_again(tmp_path: Path) -> None:
    onnx.save(ADD, tmp_path / "m.onnx")
    arguments = ("check", tmp_path / "m.onnx", tmp_path / "m.onnx", "--json")
    saved = run(*arguments, "--save-inputs", tmp_path / "saved").record["equivalence"]["inputs"]
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        f"sample_{number}.npz" for number in range(3)
    }
    again = run(*arguments, "--data", tmp_path / "saved").record["equivalence"]["inputs"]
    assert again["sha256"] == saved["sha256"]
    assert again["shapes"] == saved["shapes"]
    assert (saved["source"].split()[0], again["source"]) == ("normal,", "given")


def test_what_cannot_be_saved_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    onnx.save(ADD, tmp_path / "m.onnx")
    arguments = ("check", tmp_path / "m.onnx", tmp_path / "m.onnx", "--save-inputs")
    run(*arguments, tmp_path / "file").failed(2, "cannot be saved")
    run(*arguments, tmp_path / "no" / "folder").failed(2, "cannot be saved")
    assert run(*arguments, tmp_path / "saved").code == 0
    run(*arguments, tmp_path / "saved").failed(2, "already contains samples")


@pytest.mark.parametrize("name", ["file", "allow_pickle", "a/b", "x:0"])
def test_inputs_of_any_name_are_saved(tmp_path: Path, name: str) -> None:
    model = build("(float[2,3] x) => (float[2,3] y) { y = Neg(x) }")
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    onnx.save(model, tmp_path / "m.onnx")
    arguments = ("check", tmp_path / "m.onnx", tmp_path / "m.onnx", "--json")
    saved = run(*arguments, "--save-inputs", tmp_path / "saved").record["equivalence"]["inputs"]
    again = run(*arguments, "--data", tmp_path / "saved").record["equivalence"]["inputs"]
    assert again["sha256"] == saved["sha256"]


def test_boolean_inputs_are_tested_as_true_and_as_false() -> None:
    model = build(
        "(bool[1] b, float[3] x) => (float[3] y) { s = Squeeze(b) y = If(s) <"
        "then_branch = t () => (float[3] u) { u = Neg(x) }, "
        "else_branch = e () => (float[3] v) { v = Exp(x) }> }"
    )
    for seed in range(4):
        switched = [bool(feeds["b"][0]) for feeds in inputs_for(model, seed=seed).feeds()]
        assert set(switched) == {True, False}


def test_integers_may_be_negative_where_the_model_takes_them() -> None:
    plain = build("(int64[N] x) => (int64[N] y) { y = Abs(x) }")
    values = np.concatenate([feeds["x"] for feeds in inputs_for(plain).feeds()])
    assert values.min() < 0 < values.max()
    table = build("(int64[N] x) => (float[N,3] y) { y = Gather(table, x) }", table=normal(2, 3))
    session = Session(table.SerializeToString(), "cpu", Level.DISABLED)
    inputs = make_inputs(session, InputOptions(samples=4), Hints(largest={"x": 1}))
    assert min(int(feeds["x"].min()) for feeds in inputs.feeds()) == 0


def test_data_for_some_inputs_is_used_in_full(tmp_path: Path) -> None:
    for number in range(5):
        folder = tmp_path / f"test_data_set_{number}"
        folder.mkdir()
        save_tensors(folder, np.full((2, 3), number, np.float32))
    inputs = inputs_for(ADD, data=tmp_path)
    assert [float(feeds["a"][0, 0]) for feeds in inputs.feeds()] == [0, 1, 2, 3, 4]
    assert inputs.record().source.startswith("a given; else normal")


def test_an_image_size_is_for_images() -> None:
    image = build("(float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Neg(x) }")
    volume = build("(float[N,3,D,H,W] x) => (float[N,3,D,H,W] y) { y = Neg(x) }")
    assert inputs_for(image, image_size=96).shapes[0] == {"x": (2, 3, 96, 96)}
    assert inputs_for(volume, image_size=96).shapes[0] == {"x": (2, 3, 64, 64, 64)}
    whole = flattened_to(3 * 32 * 32)
    assert inputs_for(whole, image_size=96).shapes[0]["x"][1:] == (3, 32, 32)
