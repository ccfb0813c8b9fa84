"""Verdicts: what passes, what fails, and what cannot be decided. Values that differ never pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

import bnfold
from bnfold.arrays import Array
from bnfold.options import CheckOptions
from bnfold.proof.noise import Noise
from bnfold.proof.outputs import flat
from bnfold.proof.tolerance import Allowance
from bnfold.record.data import Equivalence
from tests.support.checks import compared, verdict
from tests.support.graphs import Parameters, batch_norm, build, named_in, normal


def compare(reference: str, candidate: str, **weights: Any) -> Equivalence:
    return compared(build(reference, **weights), build(candidate, **weights))


CHANNELS = normal(4, 3, 3, 3) * np.array([1e4, 1, 1, 1e-3], np.float32).reshape(4, 1, 1, 1)


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ("(float[N,4] x) => (float[N,4] y) { y = Neg(x) }", "{ y = Sigmoid(x) }"),
        (
            "(float[N,4] x) => (float[N,8] y) { e = Exp(x) y = Concat<axis=1>(e, x) }",
            "{ e = Exp(x) n = Neg(x) y = Concat<axis=1>(e, n) }",
        ),
        (
            "(float[N,4] x) => (float[N,4] y) { e = Exp(x) y = Add(e, one) }",
            "{ e = Exp(x) y = Add(e, five) }",
        ),
        ("(float[N,3,8,8] x) => (float[N,4,6,6] y) { y = Conv(x, w) }", "{ y = Conv(x, turned) }"),
        (
            "(float[N,9,4] x) => (float[N,9,8] y) "
            "{ s = Sigmoid(x) l = Mul(s, many) y = Concat<axis=2>(l, s) }",
            "{ s = Sigmoid(x) l = Mul(s, many) t = Mul(s, near) y = Concat<axis=2>(l, t) }",
        ),
        (
            "(uint8[N,4] x) => (float[N,4] y) { c = Cast<to=1>(x) y = Mul(c, c) }",
            "{ y = Cast<to=1>(x) }",
        ),
        ("(int64[N,4] x) => (int64[N,4] y) { y = Mul(x, x) }", "{ y = Identity(x) }"),
        ("(float[N,4] x) => (bool[N,4] y) { y = Less(x, one) }", "{ y = Less(x, five) }"),
    ],
)
def test_another_function_fails(reference: str, candidate: str) -> None:
    weights = {
        "one": np.ones(1, np.float32),
        "five": np.full(1, 5, np.float32),
        "many": np.full(1, 640, np.float32),
        "near": np.full(1, 1.01, np.float32),
        "w": CHANNELS,
        "turned": CHANNELS * np.array([1, 1, 1, -1], np.float32).reshape(4, 1, 1, 1),
    }
    interface = reference.partition("{")[0]
    assert compare(reference, reference, **weights).verdict == "pass"
    assert compare(reference, interface + candidate, **weights).verdict == "fail"


@pytest.mark.parametrize(
    ("reference", "candidate", "reason"),
    [
        ("(float[N,4] x) => (float[N,4] y)", "(float[2,4] x) => (float[2,4] y)", "input 'x' is"),
        ("(float[N,4] x) => (float[N,4] y)", "(float[N,4] x) => (float[N,4] z)", "outputs are"),
        ("(float[N,4] x) => (float[N,4] y)", "(float[N,4] u) => (float[N,4] y)", "inputs are"),
        (
            "(float[N,4] x) => (float[N,4] y)",
            "(double[N,4] x) => (double[N,4] y)",
            "tensor(double)",
        ),
    ],
)
def test_another_interface_fails_with_words(reference: str, candidate: str, reason: str) -> None:
    bodies = []
    for interface in (reference, candidate):
        names = [part.split("]")[1].strip(" )") for part in interface.split("=>")]
        bodies.append(f"{interface} {{ {names[1]} = Neg({names[0]}) }}")
    equivalence = compare(*bodies)
    assert equivalence.verdict == "fail"
    assert reason in equivalence.reason


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("(float[N,4] x) => (float[N,4] y) { a = Add(x, low) y = Relu(a) }", "is 0 throughout"),
        ("(float[N,4] x) => (float[N,4] y) { a = Add(x, low) y = Log(a) }", "NaN throughout"),
        (
            "(float[N,4] x) => (float[N,4] y) { y = RandomNormalLike(x) }",
            "RandomNormalLike 'y' is random",
        ),
        ("(float[0,4] x) => (float[0,4] y) { y = Neg(x) }", "has no elements"),
        ("(float[N,4] x) => (float[N,4] y) { y = acme.Magic(x) }", "onnxruntime cannot load"),
    ],
)
def test_what_cannot_be_decided_is_not_verified(model: str, reason: str) -> None:
    proto = build(model, low=np.full(1, -1e6, np.float32))
    proto.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    other.doc_string = "another file"
    equivalence = bnfold.check(proto, other, certify="off").equivalence
    assert equivalence is not None
    assert equivalence.verdict == "not-verified"
    assert reason in equivalence.reason


def test_nan_only_at_the_same_places() -> None:
    weights = {"a": np.array([1, np.nan, 1], np.float32), "b": np.array([1, 1, np.nan], np.float32)}
    interface = "(float[N,3] x) => (float[N,3] y) "
    same = f"{interface}{{ y = Mul(x, a) }}"
    assert compare(same, same, **weights).verdict == "pass"
    equivalence = compare(
        f"{interface}{{ y = Mul(x, a) }}", f"{interface}{{ y = Mul(x, b) }}", **weights
    )
    assert equivalence.verdict == "fail"
    assert "NaN or infinite" in equivalence.reason


def test_a_scalar_input_is_no_obstacle() -> None:
    interface = "(float x) => (float y) "
    twice = "{ a = Neg(x) b = Neg(a) y = Neg(b) }"
    assert compare(f"{interface}{{ y = Neg(x) }}", f"{interface}{twice}").verdict == "pass"


def test_one_weight_off_by_a_thousandth_fails_and_by_one_ulp_passes() -> None:
    text = (
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) "
        "{ c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }"
    )
    weights = batch_norm(4) | {"w": normal(4, 3, 3, 3)}
    reference = build(text, **weights)
    for off, expected in ((1e-3, "fail"), (float(np.spacing(weights["w"].flat[5])), "pass")):
        changed = weights["w"].copy()
        changed.flat[5] += np.float32(off)
        assert verdict(reference, build(text, **weights | {"w": changed})) == expected


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 7e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_weight_that_is_not_finite_fails(poison: float, dtype: type) -> None:
    """7e4 is finite in float32, and another weight; in float16 it is what a fold overflows to."""
    element = "float16" if dtype is np.float16 else "float"
    text = f"({element}[N,3,8,8] x) => ({element}[N,4,6,6] y) {{ y = Conv(x, w) }}"
    weights = normal(4, 3, 3, 3, dtype=dtype)
    poisoned = weights.copy()
    with np.errstate(over="ignore"):
        poisoned[2, 1, 1, 1] = poison
    equivalence = bnfold.check(build(text, w=weights), build(text, w=poisoned)).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"
    assert "output 'y' is" in equivalence.reason


@pytest.mark.parametrize(
    ("interface", "words"),
    [
        ("(float[N,4] x) => (float[N,4] b, float[N,4] a)", "outputs are ['b', 'a']"),
        ("(float[N,4] x) => (float[N,4] a, float[N,4] c)", "outputs are ['a', 'c']"),
        ("(float[N,4] x) => (float[N,4] a)", "outputs are ['a']"),
        ("(float[N,4] x) => (float[N,4] a, double[N,4] b)", "is tensor(double)"),
        ("(float[N,4] x) => (float[N,4] a, float[N,4,1] b)", "'b' is tensor(float)[N,4,1]"),
    ],
    ids=["reordered", "renamed", "missing", "retyped", "reshaped"],
)
def test_other_outputs_fail_with_words(interface: str, words: str) -> None:
    reference = build(
        "(float[N,4] x) => (float[N,4] a, float[N,4] b) { a = Exp(x) b = Neg(x) }",
    )
    lines = "a = Exp(x) n = Neg(x) b = Identity(n) c = Identity(n)"
    if "double" in interface:
        lines = "a = Exp(x) n = Neg(x) b = Cast<to=11>(n)"
    if "4,1]" in interface:
        lines = "a = Exp(x) n = Neg(x) b = Unsqueeze(n, axes)"
    candidate = build(f"{interface} {{ {lines} }}", axes=np.array([2]))
    equivalence = bnfold.check(reference, candidate).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"
    assert words in equivalence.reason


def test_a_wrong_fusion_of_zero_padding_into_a_max_pool_fails() -> None:
    """With inputs from 0 to 1 alone, nobody would notice."""
    interface = "(float[N,3,8,8] x) => (float[N,3,4,4] y) "
    pool = "MaxPool<kernel_shape=[3,3], strides=[2,2]{}>"
    padded = f"{{ p = Pad(x, pads) y = {pool.format('')}(p) }}"
    fused = f"{{ y = {pool.format(', pads=[1,1,0,0]')}(x) }}"
    pads = np.array([0, 0, 1, 1, 0, 0, 0, 0], np.int64)
    assert compare(interface + padded, interface + fused, pads=pads).verdict == "fail"


CHAOTIC = "(float[N,64] x) => (float[N,64] y) { k = Mul(x, factor) y = Sin(k) }"


def test_a_sample_on_which_the_original_is_not_settled_says_nothing() -> None:
    """The sine of large numbers is the sine of their last bits."""
    original = build(CHAOTIC, factor=np.full(1, 3e4, np.float32))
    shifted = CHAOTIC.replace("Sin(k)", "Sin(l)").replace("y =", "l = Add(k, circle) y =")
    circle = np.full(1, 2 * np.pi, np.float32)
    other = build(shifted, factor=np.full(1, 3e4, np.float32), circle=circle)
    equivalence = bnfold.check(original, other, rtol=0, atol=0.002).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "pass"
    (provider,) = equivalence.providers
    assert [(each.sample, each.output) for each in provider.unsettled] == [(1, "y")]
    assert provider.unsettled[0].noise > 1e-3
    off = build(shifted, factor=np.full(1, 3e4, np.float32), circle=circle / 2)
    equivalence = bnfold.check(original, off, rtol=0, atol=0.002).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"


def test_an_original_that_is_never_settled_is_not_verified() -> None:
    original = build(CHAOTIC, factor=np.full(1, 1e7, np.float32))
    twice = CHAOTIC.replace("k = Mul(x, factor)", "t = Mul(x, three) k = Mul(t, factor)")
    other = build(twice, factor=np.full(1, 1e7 / 3, "f"), three=np.full(1, 3, "f"))
    equivalence = bnfold.check(original, other, certify="off").equivalence
    assert equivalence is not None
    assert equivalence.verdict == "not-verified"
    assert "inputs and weights change by their last bit" in equivalence.reason


STEPS = (
    "(float[N,3,32,32] x) => (float[N,8,30,30] y) { c = Conv(x, w) "
    "n = BatchNormalization(c, s, b, m, v) q = QuantizeLinear(n, scale, zero) "
    "y = DequantizeLinear(q, scale, zero) }"
)
STEP_WEIGHTS = batch_norm(8) | {
    "w": normal(8, 3, 3, 3),
    "scale": np.array(0.05, np.float32),
    "zero": np.array(0, np.int8),
}


@pytest.mark.parametrize("seed", range(3))
def test_steps_that_the_last_bit_decides_are_excused(seed: int) -> None:
    """A few of 80,000 elements lie so near to a step that folding moves them to another one."""
    weights = STEP_WEIGHTS | {"w": normal(8, 3, 3, 3, seed=seed)}
    model = build(STEPS, **weights)
    record = bnfold.optimize(model, seed=seed, samples=9).record
    assert [each.pass_name for each in record.rewrites] == ["fold-batchnorm"]
    assert record.equivalence is not None
    assert record.equivalence.verdict == "pass"


def test_steps_do_not_excuse_a_channel() -> None:
    reference = build(STEPS, **STEP_WEIGHTS)
    other = STEP_WEIGHTS["b"].copy()
    other[3] += 0.1
    equivalence = bnfold.check(reference, build(STEPS, **STEP_WEIGHTS | {"b": other})).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"


@pytest.mark.parametrize(
    ("line", "inconclusive"),
    [("y = Relu(low)", ["y"]), ("y = Identity(k)", []), ("y = Neg(x)", [])],
)
def test_an_output_that_never_changes_shows_nothing_unless_it_cannot(
    line: str, inconclusive: list[str]
) -> None:
    """The verdict rests on the other one, and says so."""
    text = f"(float[N,4] x) => (float[N,4] y, float[N,4] z) {{ low = Sub(x, k) z = Exp(x) {line} }}"
    model = build(text, k=np.full(1, 1e6, np.float32))
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.doc_string = "another"
    equivalence = bnfold.check(model, other).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "pass"
    (provider,) = equivalence.providers
    assert [output.output for output in provider.inconclusive] == inconclusive


def test_an_output_that_never_changes_is_compared_all_the_same() -> None:
    text = (
        "(float[N,4] x) => (float[N,4] y, float[N,4] z) "
        "{ low = Sub(x, k) z = Exp(x) y = Relu(low) }"
    )
    model = build(text, k=np.full(1, 1e6, np.float32))
    other = build(text.replace("Relu(low)", "Neg(low)"), k=np.full(1, 1e6, np.float32))
    equivalence = bnfold.check(model, other).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"


def test_a_small_channel_on_the_last_axis_counts() -> None:
    text = "(float[N,3,8,8,4] x) => (float[N,3,8,8,4] y) { y = Mul(x, k) }"
    scales = np.array([1000, 1000, 1000, 0.002], np.float32)
    reference, other = build(text, k=scales), build(text, k=scales * np.array([1, 1, 1, 0], "f"))
    equivalence = bnfold.check(reference, other).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"


def test_a_model_may_take_more_inputs_than_the_original() -> None:
    fixed = "(float[1,4] x) => (float[1,4] y) { y = Neg(x) }"
    free = "(float[N,4] x) => (float[1,4] y) { y = Neg(x) }"
    assert compare(fixed, free).verdict == "pass"
    assert compare(free, fixed).verdict == "fail"


def allowance(originals: list[Array], noise: Noise | None = None) -> Allowance:
    return Allowance(CheckOptions(), "float32", dict(enumerate(originals)), noise)


def test_noise_is_allowed_by_its_scale_in_the_slice() -> None:
    """The second column is a thousand times smaller than the first; only one of them is noisy."""
    original = np.ones((1000, 2), np.float32) * np.array([1, 1e-3], np.float32)
    for noisy in (0, 1):
        noise = Noise([original])
        for seed in range(4):
            shift = np.zeros_like(original)
            shift[:, noisy] = 1e-5 * normal(1000, seed=seed)
            noise.add([original + shift])
        allowed = np.broadcast_to(allowance([original], noise).atol(0), original.shape)
        quiet = allowed[:, 1 - noisy]
        assert quiet.max() <= 2.1e-5 * original[0, 1 - noisy]
        assert 2e-5 < allowed[:, noisy].min() < 4e-4


def test_an_outlier_in_a_draw_excuses_no_slice() -> None:
    original = np.ones((1, 8, 64, 64), np.float32)
    noise = Noise([original], jumps=True)
    for seed in range(3):
        shift = 1e-6 * normal(1, 8, 64, 64, seed=seed)
        shift[0, 3, 5, 7] = 0.5
        noise.add([original + shift])
    assert noise.scale(0).max() < 5e-5
    assert noise.largest[0].max() == pytest.approx(0.5, rel=1e-3)


def test_few_values_say_little_of_a_channels_size() -> None:
    """One in a thousand logits is tiny in all of three samples, by chance."""
    originals = [normal(1, 1000, seed=seed) for seed in range(3)]
    allowed = allowance(originals)
    assert min(float(allowed.atol(sample).min()) for sample in range(3)) > 1e-5


# --- Sequences and maps ---------------------------------------------------------------------------


def classifier(coefficients: Array, labels: list[int] | None = None) -> onnx.ModelProto:
    """Return a model whose second output is a map from classes to scores for each row."""
    labels = labels or [0, 1, 2]
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["x"],
            ["label", "scores"],
            domain="ai.onnx.ml",
            classlabels_ints=labels,
            coefficients=coefficients.reshape(-1).tolist(),
            intercepts=[0.0, 0.1, 0.2],
            post_transform="SOFTMAX",
        ),
        helper.make_node(
            "ZipMap", ["scores"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=labels
        ),
    ]
    maps = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
            helper.make_value_info("maps", helper.make_sequence_type_proto(maps)),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_sequences_of_maps_are_compared_however_long_they_are() -> None:
    """Their length is the batch, and that differs from sample to sample."""
    coefficients = normal(3, 4)
    model = classifier(coefficients)
    assert verdict(model, model) == "pass"
    assert verdict(model, classifier(np.nextafter(coefficients, np.float32(9)))) == "pass"
    wrong = coefficients.copy()
    wrong[1, 2] *= np.float32(1.001)
    assert verdict(model, classifier(wrong)) == "fail"
    assert verdict(model, classifier(coefficients, [0, 1, 3])) == "fail"


def test_numbers_of_a_map_have_the_type_of_the_model() -> None:
    """Python's floats are float64 always."""
    single = flat({"m": {3: float(np.float32(0.1)), 4: 2.0}})
    assert single["m values"].dtype == np.float32
    assert flat({"m": {3: 0.1}})["m values"].dtype == np.float64
    assert flat({"m": {3: "word"}})["m values"].dtype.kind == "U"
    assert flat({"m": {3: 7}})["m values"].dtype == np.int64


def test_a_function_may_cast_to_a_type_that_its_caller_names() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> '
        "graph (float[2,3] x) => (float[2,3] y) { y = own.to<dtype = 1>(x) } "
        '<domain: "own", opset_import: ["" : 17]> to <dtype>(a) => (b) '
        "{ b = Cast<to: int = @dtype>(a) }"
    )
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.doc_string = "another file"
    assert verdict(model, other) == "pass"


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ("y = Clip(x, less, more)", {"more": 50}),
        ("y = Clip(x, less, more)", {"less": -90}),
        ("c = Greater(x, more) n = Neg(x) y = Where(c, n, x)", {"more": 130}),
        ("r = Reshape(x, flat) m = Min(r, more) y = Abs(m)", {"more": 80}),
    ],
)
def test_what_differs_beyond_what_is_drawn_elsewhere_fails(
    body: str, wrong: dict[str, float]
) -> None:
    """At numbers that an input is compared with, in either model."""
    limits = {"less": -100, "more": 100}

    def model(**changes: float) -> onnx.ModelProto:
        given = limits | changes
        numbers: Parameters = {n: np.array(given[n], np.float32) for n in given if n in body}
        shape: dict[str, Any] = {"flat": np.array([0, 8])} if "flat" in body else {}
        return build(f"(float[N,8] x) => (float[N,8] y) {{ {body} }}", **numbers, **shape)

    for one, other in ((model(), model(**wrong)), (model(**wrong), model())):
        found = bnfold.check(one, other, certify="off").equivalence
        assert found is not None
        assert found.verdict == "fail"
    same = bnfold.check(model(), model()).equivalence
    assert same is not None
    assert same.verdict == "pass"


SATURATED = "m = Mul(x, small) h = Add(m, bias)"


@pytest.mark.parametrize(
    ("line", "bias", "verdict"),
    [
        ("y = Sigmoid(h)", -18.5, "pass"),
        ("n = Neg(h) e = Exp(n) d = Add(e, one) y = Reciprocal(d)", -17.5, "pass"),
        ("y = Sigmoid(h)", -12.0, "fail"),
    ],
)
def test_a_column_of_a_sigmoid_that_is_as_small_as_its_rounding(
    line: str, bias: float, verdict: str
) -> None:
    text = "(float[N,3] x) => (float[N,3] y)"
    weights = {
        "small": np.array([1e-3, 1, 1], np.float32),
        "bias": np.array([-17.5, 0, 0], np.float32),
        "one": np.array(1, np.float32),
    }
    lines = [f"{SATURATED} y = Sigmoid(h)", f"{SATURATED} {line}"]
    changed = weights | {"bias": np.array([bias, 0, 0], np.float32)}
    one, other = (
        build(f"{text} {{ {each} }}", **named_in(each, known))
        for each, known in zip(lines, (weights, changed), strict=True)
    )
    equivalence = bnfold.check(one, other, certify="off", truth="off").equivalence
    assert equivalence is not None
    assert equivalence.verdict == verdict


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ("c = Clip(x, five, five) y = Mul(c, one)", "c = Clip(x, five, five) y = Mul(c, two)",
         "fail"),
        ("c = Clip(x, five, five) y = Mul(c, one)", "c = Clip(x, five, five) y = Mul(c, one)",
         "not-verified"),
        # zero may be what rounding leaves
        ("s = Mul(x, nought) y = Abs(s)", "s = Mul(x, tiny) y = Abs(s)", "not-verified"),
        ("c = Clip(x, five, five) y = Floor(c)", "c = Clip(x, five, five) f = Sub(c, one) "
         "y = Floor(f)", "fail"),
    ],
)  # fmt: skip
def test_another_number_than_the_same_throughout_fails(one: str, other: str, verdict: str) -> None:
    numbers: Parameters = {
        "five": np.array(5, np.float32),
        "one": np.array(1, np.float32),
        "two": np.array(2, np.float32),
        "nought": np.array(0, np.float32),
        "tiny": np.array(1e-9, np.float32),
    }
    pair = [
        build(f"(float[N,3] x) => (float[N,3] y) {{ {lines} }}", **named_in(lines, numbers))
        for lines in (one, other)
    ]
    equivalence = bnfold.check(*pair, certify="off").equivalence
    assert equivalence is not None
    assert equivalence.verdict == verdict
