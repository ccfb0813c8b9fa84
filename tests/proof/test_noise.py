"""The original's noise: its scale, what counts as settled, and changes that mean nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.arrays import Array
from bnfold.options import CheckOptions
from bnfold.proof.noise import (
    MOST_DEVIATIONS,
    UNSETTLED,
    Noise,
    distance,
    headroom,
    moved,
    root_mean_square,
    widened,
)
from bnfold.proof.tolerance import COARSE, DEFAULT_TOLERANCES, DEVIATIONS, Allowance
from tests.support.graphs import normal


def noise_of(original: Array, *draws: Array, jumps: bool = False) -> Noise:
    noise = Noise([original], jumps=jumps)
    for draw in draws:
        noise.add([draw])
    return noise


# --- Measures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], 0.0), ([0, 0], 0.0), ([3, -4], math.sqrt(12.5)), ([1e200, 1e200], 1e200), ([-2], 2)],
)
def test_root_mean_square(values: Sequence[float], expected: float) -> None:
    assert root_mean_square(np.array(values, np.float64)) == pytest.approx(expected)


def test_what_is_not_finite_is_0_when_widened() -> None:
    found = widened(np.array([1.5, np.nan, np.inf, -np.inf, -2], np.float16))
    assert found.dtype == np.float64
    assert found.tolist() == [1.5, 0, 0, 0, -2]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, -2.0], [-1.0, -2.5], [2.0, 0.5]),
        ([np.nan, 1.0, np.inf], [np.nan, np.inf, np.inf], [0.0, 0.0, 0.0]),
        ([1, 2], [3, 1], [2, 1]),
        ([True, False], [False, False], [1, 0]),
        (["a", "b"], ["a", "c"], [0, 0]),
        ([1.0, 2.0], [1.0], [0.0, 0.0]),
    ],
)
def test_distance(one: list[Any], other: list[Any], expected: list[float]) -> None:
    assert distance(np.array(one), np.array(other)).tolist() == expected


def test_distances_of_small_unsigned_integers_do_not_wrap() -> None:
    one, other = np.array([0, 255], np.uint8), np.array([255, 0], np.uint8)
    assert distance(one, other).tolist() == [255, 255]


# --- Scales ---------------------------------------------------------------------------------------


def test_the_largest_draw_at_each_element_is_kept() -> None:
    zero = np.zeros(3, np.float32)
    noise = noise_of(zero, np.array([1, 0, 2]), -np.array([0, 3, 1]), zero)
    assert noise.draws == 3
    np.testing.assert_array_equal(noise.largest[0], [1, 3, 2])


def test_without_draws_there_is_no_noise() -> None:
    noise = Noise([normal(4, 3)])
    assert noise.draws == 0
    assert noise.share(0) == 0.0
    assert noise.is_settled(0, "float32")
    assert [slices.scale.shape for slices in noise.slices(0)] == [(4, 1), (1, 3)]
    assert not noise.scale(0).any()
    assert Noise([]).draws == 0


def test_scales_are_root_mean_squares_over_slices_and_draws() -> None:
    original = normal(5, 4, 3)
    shifts = [normal(5, 4, 3, seed=seed).astype(np.float64) for seed in (1, 2)]
    noise = noise_of(original.astype(np.float64), *(original + shift for shift in shifts))
    squares = np.stack(shifts) ** 2
    for axis, (slices, count) in enumerate(zip(noise.slices(0), (24, 30, 40), strict=True)):
        others = tuple(other for other in range(4) if other != axis + 1)
        expected = np.sqrt(squares.mean(axis=others)).reshape(
            [size if place == axis else 1 for place, size in enumerate(original.shape)]
        )
        np.testing.assert_allclose(slices.scale, expected, rtol=1e-5)
        assert slices.count == count
    least = np.broadcast_to(noise.scale(0), original.shape)
    for index in np.ndindex(*original.shape):
        assert least[index] == pytest.approx(
            min(
                float(slices.scale.reshape(-1)[index[axis]]) * headroom(slices.count)
                for axis, slices in enumerate(noise.slices(0))
            )
        )


def test_samples_have_their_own_noise() -> None:
    originals = [np.ones((2, 3)), np.ones((4, 3))]
    noise = Noise(originals)
    noise.add([originals[0] + 0.5, originals[1]])
    assert (noise.share(0), noise.share(1)) == (0.5, 0.0)
    assert noise.scale(0).min() >= 0.5
    assert not noise.scale(1).any()


def test_a_scalar_is_a_slice_of_its_own() -> None:
    noise = noise_of(np.array(1.0), np.array(1.25), np.array(1.0), np.array(0.75))
    (slices,) = noise.slices(0)
    assert slices.count == 3
    assert float(slices.scale) == pytest.approx(0.25 * math.sqrt(2 / 3))
    assert noise.scale(0).shape == ()


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4)])
def test_an_output_without_elements_has_no_noise(shape: tuple[int, ...]) -> None:
    noise = noise_of(np.zeros(shape), np.zeros(shape))
    assert noise.share(0) == 0.0
    assert [slices.scale.size for slices in noise.slices(0)] == list(shape)
    assert np.broadcast_to(noise.scale(0), shape).shape == shape


def test_a_further_draw_counts() -> None:
    original = np.zeros((4, 4))
    noise = noise_of(original, original)
    assert not noise.scale(0).any()
    noise.add([original + 1])
    assert noise.scale(0).min() > 0.7
    assert noise.slices(0)[0].count == 8


def test_a_draw_of_another_shape_says_nothing() -> None:
    noise = noise_of(np.zeros(4), np.ones(3))
    assert not noise.largest[0].any()


def test_noise_near_the_largest_and_the_smallest_number_is_kept() -> None:
    for size in (1e30, 1e-30):
        original = np.full((8, 8), size, np.float32)
        noise = noise_of(original, original * np.float32(1 + 1e-3))
        assert float(noise.slices(0)[0].scale.min()) == pytest.approx(1e-3 * size, rel=1e-3)


def test_an_outlier_widens_a_scale_unless_it_is_past_a_step() -> None:
    original = np.zeros((1, 4, 1000))
    draw = 1e-3 * normal(1, 4, 1000).astype(np.float64)
    draw[0, 2, 500] = 1.0
    plain = noise_of(original, draw).slices(0)[1].scale.reshape(-1)
    limited = noise_of(original, draw, jumps=True).slices(0)[1].scale.reshape(-1)
    assert plain[2] > 30e-3
    assert 0.9e-3 < limited[2] < 6e-3
    np.testing.assert_allclose(limited[[0, 1, 3]], plain[[0, 1, 3]], rtol=1e-2)
    assert noise_of(original, draw, jumps=True).largest[0].max() == pytest.approx(1.0)


def test_outliers_count_as_the_limit() -> None:
    """One value among n has at most √n deviations: beyond 25 it is limited, twice."""
    draw = np.zeros((1, 400))
    draw[0, 7] = 1.0
    (scale,) = noise_of(np.zeros((1, 400)), draw, jumps=True).slices(0)[0].scale.reshape(-1)
    once = MOST_DEVIATIONS**2 / 400
    assert scale**2 == pytest.approx(1 / 400 * once**2)


# --- What is settled ------------------------------------------------------------------------------


def test_the_largest_draw_is_a_share_of_the_values() -> None:
    original = np.array([3.0, 4.0])
    noise = noise_of(original, 1.1 * original, 1.01 * original)
    assert noise.share(0) == pytest.approx(0.1)
    assert noise_of(np.zeros(2), np.ones(2)).share(0) == math.inf
    assert noise_of(np.zeros(2), np.zeros(2)).share(0) == 0.0


@pytest.mark.parametrize("unit", UNSETTLED)
def test_what_is_settled_depends_on_the_unit(unit: str) -> None:
    original = np.ones(8)
    for factor, settled in ((0.99, True), (1.01, False)):
        assert (
            noise_of(original, original + factor * UNSETTLED[unit]).is_settled(0, unit) is settled
        )


def test_an_unknown_unit_is_settled_without_noise_alone() -> None:
    assert noise_of(np.ones(2), np.ones(2)).is_settled(0, "int64")
    assert not noise_of(np.ones(2), np.array([1, 1 + 1e-6])).is_settled(0, "int64")


# --- Headroom -------------------------------------------------------------------------------------


def test_headroom_falls_towards_one() -> None:
    found = [headroom(count) for count in range(1, 4000)]
    assert found[0] > 1000
    assert found[0] == found[1] == found[2] > found[3]  # half of them count, and one at least
    assert all(value > 1 for value in found)
    # Where the approximation changes, it may jump a little.
    assert all(after <= before * 1.25 for before, after in itertools.pairwise(found))
    assert headroom(10**6) < 1.01
    assert headroom(120) < 1.8


@pytest.mark.parametrize("count", [1, 2, 4, 10, 40, 119, 120, 1000, 10_000])
def test_a_scale_falls_short_by_more_than_its_headroom_once_in_ten_thousand(count: int) -> None:
    """Half of the values are independent."""
    independent = max(count // 2, 1)
    generator = np.random.default_rng(count)
    sums = generator.chisquare(independent, 200_000) / independent
    short = np.count_nonzero(np.sqrt(sums) * headroom(count) < 1)
    assert short < 40  # 20 are expected
    assert short > 2 or 100 < count < 2000  # there it is more than need be


# --- Allowances -----------------------------------------------------------------------------------


def allowance(originals: Sequence[Array], noise: Noise | None = None, **asked: Any) -> Allowance:
    unit = str(originals[0].dtype)
    return Allowance(CheckOptions(**asked), unit, dict(enumerate(originals)), noise)


def test_the_noise_is_allowed_by_the_number_of_elements() -> None:
    for size in (1, 8, 1000):
        original = normal(size, 1)
        noise = noise_of(original, original + np.float32(1e-3))
        plain, wide = allowance([original]), allowance([original], noise)
        assert wide.deviations == DEVIATIONS * math.sqrt(2 * math.log(max(size, 8)))
        added = wide.atol(0) - plain.atol(0)
        expected = wide.deviations * np.maximum(noise.scale(0), noise.largest[0])
        np.testing.assert_allclose(np.broadcast_to(added, original.shape), expected, rtol=1e-3)


def test_all_samples_count_for_the_number_of_elements() -> None:
    original = normal(500, 2)
    one, three = allowance([original]), allowance([original] * 3)
    assert one.deviations == DEVIATIONS * math.sqrt(2 * math.log(1000))
    assert three.deviations == DEVIATIONS * math.sqrt(2 * math.log(3000))


def test_an_elements_own_draw_counts_if_wanted() -> None:
    original = np.ones((100, 100), np.float32)
    draw = original.copy()
    draw[7, 9] += 1
    allowed = allowance([original], noise_of(original, draw))
    own = np.broadcast_to(allowed.atol(0), (100, 100))
    shared = np.broadcast_to(allowed.atol(0, with_own_noise=False), (100, 100))
    assert own[7, 9] == pytest.approx(allowed.deviations, rel=1e-2)
    assert shared[7, 9] < 0.2 * own[7, 9]
    assert own[8, 8] == shared[8, 8] == pytest.approx(2e-5, rel=0.1)


def test_what_is_asked_for_replaces_the_default_and_the_noise() -> None:
    original = normal(4, 4)
    noise = noise_of(original, original + 1)
    asked = allowance([original], noise, rtol=0.5, atol=0.25)
    assert (asked.rtol, float(asked.atol(0))) == (0.5, 0.25)
    assert float(allowance([original], noise, atol=0.0).atol(0)) == 0.0
    default = allowance([original], noise)
    only_rtol = allowance([original], noise, rtol=0.5)
    assert only_rtol.rtol == 0.5
    np.testing.assert_array_equal(only_rtol.atol(0), default.atol(0))
    assert default.rtol == DEFAULT_TOLERANCES["float32"].rtol


def test_what_is_no_float_must_be_equal() -> None:
    contents: list[tuple[str, Array]] = [("float32", np.arange(4)), ("int64", normal(4))]
    for unit, content in contents:
        exact = Allowance(CheckOptions(rtol=0.5), unit, {0: content}, noise_of(content, content))
        assert exact.is_exact
        assert exact.rtol == 0.0
    assert not Allowance(CheckOptions(), "bfloat16", {0: normal(4)}).is_exact


def test_the_unit_decides_not_the_type() -> None:
    coarse = Allowance(CheckOptions(), "float16", {0: normal(4)})
    assert coarse.rtol == DEFAULT_TOLERANCES["float16"].rtol


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_of_small_values_is_not_excused_by_large_ones(axis: int) -> None:
    scales = np.ones((8, 1, 1))
    scales[3] = 1e-3
    original = np.moveaxis(np.abs(normal(8, 30, 40)) * scales, 0, axis).astype(np.float32)
    allowed = np.broadcast_to(allowance([original]).atol(0), original.shape)
    of_slice = np.moveaxis(allowed, axis, 0)
    assert of_slice[3].max() < 1e-6 * 0.1
    assert of_slice[4].min() > 2e-5 * 1.5


def test_a_sample_of_small_values_is_not_excused_by_large_ones() -> None:
    original = normal(30, 40)
    allowed = allowance([original, original * np.float32(1e-3)])
    assert float(allowed.atol(0).min()) > 1e-5
    assert float(allowed.atol(1).max()) < 1e-3 * float(allowed.atol(0).max()) * 1.001


def test_other_samples_tell_how_large_a_channel_is() -> None:
    """It is 0 throughout in one of them, as after a Relu."""
    one, other = (np.abs(normal(2, 4, 8, 8, seed=seed)) for seed in (0, 1))
    other[:, 2] = 0
    allowed = np.broadcast_to(allowance([one, other]).atol(1), other.shape)
    assert allowed[:, 2].min() > 2e-5
    alone = np.broadcast_to(allowance([other]).atol(0), other.shape)
    assert not alone[:, 2].any()


# --- Changes that mean nothing --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "unit", "step"),
    [
        (np.float32, "float32", 2.0**-23),
        (np.float32, "float64", 2.0**-23),
        (np.float16, "float32", 2.0**-10),
        (np.float32, "float16", 2.0**-10),
        (np.float64, "float32", 2.0**-23),
        (np.float64, "float64", 2.0**-52),
        (np.float32, "bfloat16", 2.0**-7),
        (np.float64, "int64", 2.0**-52),
    ],
)
@pytest.mark.parametrize("steps", [1, 4])
def test_floats_move_by_steps_of_the_coarser_of_unit_and_type(
    dtype: type, unit: str, step: float, steps: int
) -> None:
    content: Array = np.ones(1000, dtype)
    found = moved({"x": content}, 0, unit, steps)["x"]
    assert found.dtype == dtype
    relative = np.unique((found.astype(np.float64) - 1) / step)
    assert relative.tolist() == pytest.approx([-steps, steps])
    assert 400 < np.count_nonzero(found > 1) < 600


def test_what_is_no_float_stays() -> None:
    arrays = {
        "i": np.arange(4),
        "b": np.array([True]),
        "s": np.array(["a"], object),
        "u": np.array([255], np.uint8),
    }
    found = moved(arrays, 0)
    assert list(found) == list(arrays)
    assert all(found[name] is arrays[name] for name in arrays)


def test_zero_and_what_is_not_finite_stay_and_nothing_overflows() -> None:
    largest = np.finfo(np.float32).max
    content: Array = np.array([0, np.inf, -np.inf, np.nan, largest, -largest] * 20, np.float32)
    found = moved({"x": content}, 0)["x"]
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(content))
    np.testing.assert_array_equal(found[~np.isfinite(content)], content[~np.isfinite(content)])
    assert not found[content == 0].any()


def test_moves_depend_on_the_seed_alone_and_change_nothing_in_place() -> None:
    content = normal(50)
    before = content.copy()
    once, again, other = (moved({"x": content}, seed)["x"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(content, before)
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)
    assert moved({"x": np.ones((), np.float32)}, 0)["x"].shape == ()


@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.floats(width=32), max_size=20), seed=st.integers(0, 1000))
def test_a_move_is_by_a_few_units_in_the_last_place(values: list[float], seed: int) -> None:
    content = np.array(values, np.float32)
    found = moved({"x": content}, seed)["x"]
    finite = np.isfinite(content)
    np.testing.assert_array_equal(np.isfinite(found), finite)
    off = np.abs(found[finite].astype(np.float64) - content[finite].astype(np.float64))
    size = np.abs(content[finite].astype(np.float64))
    assert (off <= 2.0**-22 * size + 2.0**-148).all()


@pytest.mark.parametrize("unit", ["float32", "float16"])
def test_what_a_sigmoid_gives_may_be_off_however_small_it_is(unit: str) -> None:
    content = np.zeros((4, 3), np.float32)
    content[:, 1] = 1
    options = CheckOptions()
    for is_coarse, least in ((True, COARSE), (False, 0.0)):
        allowance = Allowance(options, unit, {0: content}, is_coarse=is_coarse)
        atol = np.broadcast_to(allowance.atol(0), content.shape)
        assert set(atol[:, 0]) == {least}
        assert atol[0, 1] > 1e-5
    asked = Allowance(CheckOptions(atol=0.0), unit, {0: content}, is_coarse=True)
    assert not asked.atol(0).any()
