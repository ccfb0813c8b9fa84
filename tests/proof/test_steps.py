"""Past a step (Round, Cast, Greater, ArgMax) an element is excused that the original moves, too.

Or that lies one step away. Never because something upstream compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import bnfold
from bnfold.arrays import Array
from bnfold.options import CheckOptions
from bnfold.proof.comparison import STEP_FACTOR, Accumulator
from bnfold.proof.noise import Noise
from bnfold.proof.tolerance import Allowance, within_tolerance
from bnfold.record.data import OutputComparison
from tests.support.checks import compared_on_cpu
from tests.support.graphs import Parameters, batch_norm, build, normal


def compare(
    original: Array,
    optimized: Array,
    draws: Sequence[Array] = (),
    *,
    jumps: bool = True,
    unit: str = "float32",
    has_neighbours: bool = True,
    **asked: Any,
) -> OutputComparison:
    noise = Noise([original], jumps=jumps)
    for draw in draws:
        noise.add([draw])
    allowance = Allowance(CheckOptions(**asked), unit, {0: original}, noise)
    accumulator = Accumulator("y", allowance, jumps=jumps, has_neighbours=has_neighbours)
    accumulator.add(0, original, optimized, draws)
    return accumulator.comparison()


def passes(*arguments: Any, **options: Any) -> bool:
    return within_tolerance(compare(*arguments, **options))


def changed(values: Array, places: Sequence[int], by: float) -> Array:
    found = values.copy()
    found.reshape(-1)[list(places)] += np.array(by).astype(values.dtype)
    return found


UINT8 = np.random.default_rng(0).integers(10, 200, (4, 50)).astype(np.uint8)
CLASSES = np.random.default_rng(1).integers(0, 1000, (4, 50))
GRID = np.random.default_rng(2).integers(0, 20, (8, 100)).astype(np.float32) * np.float32(0.05)


# --- Integers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16])
@pytest.mark.parametrize(
    ("places", "by", "passing"),
    [([], 0, True), ([7], 1, True), ([7], 2, False), ([7, 8], 1, False)],
)
def test_one_quantized_element_may_be_one_step_away(
    dtype: type, places: list[int], by: int, passing: bool
) -> None:
    original: Array = (UINT8 // 2).astype(dtype)
    found = compare(original, changed(original, places, by), unit=np.dtype(dtype).name)
    assert within_tolerance(found) is passing
    assert found.excused == (1 if passing and places else 0)


def test_without_a_step_no_integer_is_excused() -> None:
    other = changed(UINT8, [7], 1)
    assert not passes(UINT8, other, unit="uint8", jumps=False)
    assert not passes(UINT8, other, [other], unit="uint8", jumps=False)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32])
def test_classes_have_no_neighbours(dtype: type) -> None:
    original: Array = CLASSES.astype(dtype)
    assert not passes(original, changed(original, [7], 1), unit="int64")
    assert passes(original, changed(original, [7], 1), [changed(original, [7], 1)], unit="int64")


def test_classes_of_eight_bits_have_no_neighbours_either() -> None:
    other = changed(UINT8, [7], 1)
    assert passes(UINT8, other)
    assert not passes(UINT8, other, has_neighbours=False)
    assert passes(UINT8, other, [other], has_neighbours=False)


@pytest.mark.parametrize("original", [UINT8, CLASSES, CLASSES % 2 == 0], ids=["u8", "i64", "bool"])
def test_what_a_draw_of_the_original_gives_is_excused(original: Array) -> None:
    other = original.copy()
    other[2, 11:19] = original[3, 11:19]
    draws = [original, other]
    differ = int(np.count_nonzero(other != original))
    found = compare(original, other, draws, unit=str(original.dtype))
    assert within_tolerance(found)
    assert found.excused == differ > 0
    elsewhere = original.copy()
    elsewhere[1, 11:19] = original[3, 11:19]
    assert not passes(original, elsewhere, draws, unit=str(original.dtype))


def test_that_an_element_jumps_in_a_draw_excuses_no_other_value_there() -> None:
    draw = changed(CLASSES, [7], 5)
    assert passes(CLASSES, changed(CLASSES, [7], 5), [draw], unit="int64")
    assert not passes(CLASSES, changed(CLASSES, [7], 6), [draw], unit="int64")
    assert not passes(CLASSES, changed(CLASSES, [7], -5), [draw], unit="int64")


def test_several_draws_may_each_excuse_some() -> None:
    draws = [changed(CLASSES, [7], 5), changed(CLASSES, [9], 3)]
    assert passes(CLASSES, changed(draws[0], [9], 3), draws, unit="int64")


@pytest.mark.parametrize("jumped", [0, 1, 5])
def test_neighbours_may_be_about_as_many_as_jump_in_a_draw(jumped: int) -> None:
    """In the draw that has most, not in all of them together."""
    draws = [
        changed(UINT8, range(100, 100 + jumped), 1),
        changed(UINT8, range(150, 150 + jumped), 1),
    ]
    most = STEP_FACTOR * jumped + 1
    for count, passing in ((most, True), (most + 1, False)):
        other = changed(UINT8, range(count), 1)
        assert passes(UINT8, other, draws, unit="uint8") is passing


def test_no_neighbour_is_excused_where_they_are_too_many() -> None:
    found = compare(UINT8, changed(UINT8, range(9), 1), unit="uint8")
    assert found.excused == 0
    assert "differs at 9 of 200 places" in found.mismatch


def test_what_draws_explain_is_not_counted_among_the_neighbours() -> None:
    draw = changed(UINT8, range(50), 1)
    other = changed(draw, range(60, 60 + STEP_FACTOR * 50 + 1), 1)
    assert passes(UINT8, other, [draw], unit="uint8")


def test_a_neighbour_beside_a_wrong_element_does_not_hide_it() -> None:
    other = changed(changed(UINT8, [7], 1), [9], 20)
    found = compare(UINT8, other, unit="uint8")
    assert not within_tolerance(found)
    assert found.excused == 1
    assert "differs at 1 of 200 places" in found.mismatch
    assert found.worst is not None
    assert found.worst.index == [0, 9]


def test_the_largest_difference_is_told_though_it_is_excused() -> None:
    draw = changed(UINT8, [7], 40)
    assert compare(UINT8, draw, [draw], unit="uint8").max_abs == 40


def test_a_draw_of_another_shape_excuses_nothing() -> None:
    assert not passes(CLASSES, changed(CLASSES, [7], 5), [CLASSES[:3]], unit="int64")


def test_words_may_jump_too() -> None:
    words = np.array(["cat", "dog", "cat"], object)
    other = np.array(["cat", "cat", "cat"], object)
    assert not passes(words, other, [words], unit="object")
    assert passes(words, other, [words, other], unit="object")


# --- Floats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("places", "by", "passing"),
    [([7], 0.05, True), ([7], -0.05, True), ([7], 0.1, False), ([7, 8], 0.05, False)],
)
def test_one_dequantized_element_may_be_one_step_away(
    places: list[int], by: float, passing: bool
) -> None:
    assert passes(GRID, changed(GRID, places, by)) is passing
    assert not passes(GRID, changed(GRID, places, by), jumps=False)


def test_what_is_no_grid_has_no_neighbours() -> None:
    """Each value is its own step: the next one is no step away."""
    original = normal(4, 50)
    smallest = float(np.diff(np.sort(original.reshape(-1))).max())
    assert not passes(original, changed(original, [7], smallest / 2))
    constant = np.ones((4, 50), np.float32)
    assert not passes(constant, changed(constant, [7], 0.1))


def test_neighbours_on_a_grid_of_uneven_steps() -> None:
    """Steps 0, 1, 10: from 1, ten is one step away, and from 0 only one is."""
    original = np.repeat(np.array([0, 1, 10], np.float32), 20)
    for place, by, passing in ((0, 1, True), (0, 2, False), (25, 9, True), (45, -9, True)):
        assert passes(original, changed(original, [place], by)) is passing
    assert not passes(original, changed(original, [45], -10))
    assert passes(original, changed(original, [45], 5))


def test_a_jump_that_a_draw_makes_is_excused_there_alone() -> None:
    original = normal(4, 50)
    draw = changed(original, [7, 60], 1.0)
    assert passes(original, draw, [original, draw])
    assert passes(original, changed(original, [7], 1.0), [original, draw])
    assert not passes(original, changed(original, [7, 61], 1.0), [original, draw])
    assert not passes(original, changed(original, [7], 1.5), [original, draw])
    assert not passes(original, draw, [original, draw], jumps=False, atol=1e-3)


def test_past_a_step_an_elements_own_noise_is_no_licence() -> None:
    """A jump of 1 in a draw does not allow anything up to several times as much."""
    original = normal(400, 500)
    draw = changed(original, [7], 1.0)
    assert not passes(original, changed(original, [7], 0.5), [draw])
    assert passes(original, changed(original, [7], 0.5), [draw], jumps=False)


def test_excused_elements_are_not_the_worst() -> None:
    original = normal(400, 500)
    draw = changed(original, [7], 1.0)
    other = changed(draw, [30], 3e-3)
    found = compare(original, other, [draw])
    assert found.excused == 1
    assert found.worst is not None
    assert found.worst.index == [0, 30]
    assert sum(found.shares) == original.size


# --- From end to end ------------------------------------------------------------------------------


BRANCH = (
    "(float[N,3,12,12] x) => (float[N,8,10,10] y) { c = Conv(x, w, bias) g = Greater(c, zero) "
    "f = Cast<to=1>(g) h = Mul(f, small) y = Add(c, h) }"
)
BRANCH_WEIGHTS: dict[str, Any] = {
    "w": normal(8, 3, 3, 3),
    "bias": normal(8),
    "zero": np.zeros(1, np.float32),
    "small": np.full(1, 1e-3, np.float32),
}


@pytest.mark.parametrize("off", [3.0, 0.1, 0.01])
@pytest.mark.parametrize("channels", [[0, 3, 5], [2]])
def test_a_branch_that_compares_excuses_no_wrong_channel(off: float, channels: list[int]) -> None:
    bias = BRANCH_WEIGHTS["bias"].copy()
    bias[channels] += off
    model = build(BRANCH, **BRANCH_WEIGHTS)
    assert (
        compared_on_cpu(model, build(BRANCH, **BRANCH_WEIGHTS | {"bias": bias})).verdict == "fail"
    )


def test_a_branch_that_compares_excuses_no_wrong_element() -> None:
    bias = np.zeros((1, 8, 10, 10), np.float32)
    text = BRANCH.replace("y = Add(c, h)", "s = Add(c, h) y = Add(s, bits)")
    model = build(text, bits=bias, **BRANCH_WEIGHTS)
    for size in (0.5, 0.02):
        wrong = bias.copy()
        wrong[0, 3, 4, 5] = size
        assert compared_on_cpu(model, build(text, bits=wrong, **BRANCH_WEIGHTS)).verdict == "fail"


QUANTIZED = (
    "(float[N,3,32,32] x) => (uint8[N,8,30,30] y) { c = Conv(x, w) "
    "n = BatchNormalization(c, s, b, m, v) y = QuantizeLinear(n, scale, zero) }"
)


def quantized(seed: int = 0) -> dict[str, Any]:
    return batch_norm(8, seed=seed) | {
        "w": normal(8, 3, 3, 3, seed=seed),
        "scale": np.array(0.05, np.float32),
        "zero": np.array(128, np.uint8),
    }


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "kind",
    [
        "quantized",
        "dequantized",
        "round",
        "argmax",
        "dynamic",
    ],
)
def test_right_folds_before_a_step_pass(seed: int, kind: str) -> None:
    declared, lines = {
        "quantized": ("uint8[N,8,30,30]", "y = QuantizeLinear(n, scale, zero)"),
        "dequantized": (
            "float[N,8,30,30]",
            "q = QuantizeLinear(n, scale, zero) y = DequantizeLinear(q, scale, zero)",
        ),
        "round": ("float[N,8,30,30]", "t = Div(n, scale) r = Round(t) y = Mul(r, scale)"),
        "argmax": ("int64[N,1,30,30]", "y = ArgMax<axis=1>(n)"),
        "dynamic": ("uint8[N,8,30,30]", "y, ys, yz = DynamicQuantizeLinear(n)"),
    }[kind]
    head = QUANTIZED.replace("uint8[N,8,30,30]", declared).partition("y = ")[0]
    model = build(f"{head}{lines} }}", **quantized(seed))
    record = bnfold.optimize(model, seed=seed).record
    assert record.rewrites[0].pass_name == "fold-batchnorm"
    assert record.equivalence is not None
    assert (record.equivalence.verdict, record.equivalence.reason) == ("pass", "")


@pytest.mark.parametrize(("off", "count"), [(255, 21), (3, 21), (2, 5), (40, 1)])
def test_quantized_elements_off_by_more_than_a_step_fail(off: int, count: int) -> None:
    """At a few places of each sample."""
    text = QUANTIZED.replace("y = Quan", "q = Quan").replace(") }", ") y = Add(q, wrong) }")
    right = np.zeros((1, 8, 30, 30), np.uint8)
    wrong = right.copy()
    places = np.random.default_rng(count).choice(right.size, count, replace=False)
    wrong.reshape(-1)[places] = off
    weights = quantized()
    assert compared_on_cpu(
        build(text, wrong=right, **weights), build(text, wrong=right, **weights)
    ).verdict
    other = build(text, wrong=wrong, **weights)
    assert compared_on_cpu(build(text, wrong=right, **weights), other).verdict == "fail"


def test_a_whole_channel_one_step_away_fails() -> None:
    weights = quantized()
    b = weights["b"].copy()
    b[3] += 0.05
    assert (
        compared_on_cpu(build(QUANTIZED, **weights), build(QUANTIZED, **weights | {"b": b})).verdict
        == "fail"
    )


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_few_wrong_classes_of_many_fail(count: int) -> None:
    """Off by several classes, at places that are not near a tie."""
    text = (
        "(float[1,3,224,224] x) => (int64[1,1,224,224] y) "
        "{ c = Conv(x, w) a = ArgMax<axis=1>(c) y = Add(a, wrong) }"
    )
    w = normal(9, 3, 1, 1)
    right = np.zeros((1, 1, 224, 224), np.int64)
    wrong = right.copy()
    wrong.reshape(-1)[np.random.default_rng(count).choice(right.size, count, replace=False)] = 4
    one, other = build(text, w=w, wrong=right), build(text, w=w, wrong=wrong)
    assert compared_on_cpu(one, other, samples=2).verdict == "fail"


def test_a_class_that_the_original_itself_may_choose_is_excused() -> None:
    """Two of the scores tie up to rounding, everywhere."""
    text = (
        "(float[N,4] x) => (int64[N] y, float[N,4] z) { m = MatMul(x, w) a = Mul(m, third) "
        "b = Mul(a, three) t = Concat<axis=1>(m, b) y = ArgMax<axis=1, keepdims=0>(t) z = Neg(m) }"
    )
    weights: dict[str, Any] = {
        "w": normal(4, 4),
        "third": np.full(1, 1 / 3, np.float32),
        "three": np.full(1, 3, np.float32),
    }
    other = build(text.replace("Mul(m, third)", "Div(m, three)"), **weights)
    right = compared_on_cpu(build(text, **weights), other)
    assert (right.verdict, right.reason) == ("pass", "")
    wrong = build(text.replace("ArgMax", "ArgMin"), **weights)
    assert compared_on_cpu(build(text, **weights), wrong).verdict == "fail"


def test_where_every_element_jumps_the_output_is_not_taken_for_equal() -> None:
    text = (
        "(float[N,8] x) => (float[N,8] y, float[N,8] z) { z = Neg(x) a = Mul(x, third) "
        "b = Mul(a, three) c = Greater(b, x) f = Cast<to=1>(c) g = Mul(f, w) y = Add(g, one) }"
    )
    weights: dict[str, Any] = {
        "third": np.full(1, 1 / 3, np.float32),
        "three": np.full(1, 3, np.float32),
        "one": np.ones(1, np.float32),
    }
    one, other = (build(text, w=np.full(1, w, np.float32), **weights) for w in (1, 100))
    assert compared_on_cpu(one, other).verdict != "pass"


@pytest.mark.parametrize("seed", [0, 1, 2, 4])  # of seed 3, no row of any sample lies between
def test_a_threshold_between_rows_of_floats_is_tried_on_enough_of_them(seed: int) -> None:
    text = (
        "(float[N,8] x) => (float[N,4] y) { p = MatMul(x, w) c = Greater(p, t) "
        "a = MatMul(x, u) b = MatMul(x, v) y = Where(c, a, b) }"
    )
    weights: Parameters = {
        "w": normal(8, 1, seed=seed),
        "u": normal(8, 4),
        "v": normal(8, 4, seed=9),
    }
    right, wrong = (build(text, t=np.array([at], np.float32), **weights) for at in (0.5, 0.8))
    assert compared_on_cpu(right, right).verdict == "pass"
    assert compared_on_cpu(right, wrong).verdict == "fail"
