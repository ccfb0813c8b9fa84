"""What rounding explains in float64, where a few elements hold nearly all of a slice's rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.proof.noise import Noise
from bnfold.proof.truth_errors import measure
from bnfold.proof.truth_slices import (
    Evaluation,
    Sample,
    exact_ratio,
    is_as_exact,
    is_yardstick,
)
from tests.support.checks import verdict_and_reason
from tests.support.evaluate import run_float64, run_plain
from tests.support.graphs import Array, Parameters, batch_norm, build, draw_feeds
from tests.support.networks import floats, folded_elsewhere, off_by_a_unit, with_weights
from tests.support.slow import few

# --- Made up --------------------------------------------------------------------------------------

ROWS, COLUMNS = 12, 500


def evaluation(seed: int, share: float, times: float = 0.0, *, high: int = 20) -> Evaluation:
    """Return a sample whose rounding is a thousand times as large at a few elements as elsewhere.

    The other model differs in float64 by a share of each element's own rounding; in the column of
    a high element, by so many times the column's root mean square, spread over its rows.
    """
    generator = np.random.default_rng([9, seed])
    places = generator.choice(ROWS * COLUMNS, high, replace=False)
    rounding = np.full((ROWS, COLUMNS), 1e-9)
    rounding.flat[places] = 1e-6
    truth = rounding * 1e6 * generator.uniform(0.5, 1, rounding.shape)

    def off(scale: Array) -> Array:
        return np.asarray(scale * generator.standard_normal(scale.shape))

    original = truth + off(rounding)
    noise = Noise([original])
    for _ in range(3):
        noise.add([original + off(rounding)])
    exact = truth + off(share * rounding)
    if times:
        column = int(places[0]) % COLUMNS
        exact[:, column] = truth[:, column] + off(times * _rms(rounding[:, column]))
    single = original.astype(np.float32)
    sample = Sample(
        {}, {"y": single}, {"y": single}, {"y": noise.largest[0]}, {"y": noise.slices(0)}
    )
    return Evaluation(sample, {"y": truth}, {"y": exact})


def test_nothing_is_as_exact_as_nothing() -> None:
    none = np.zeros((0, 3), np.float32)
    sample = Sample({}, {"y": none}, {"y": none}, {"y": np.zeros((0, 3))})
    made = Evaluation(sample, {"y": none.astype(np.float64)}, {"y": none.astype(np.float64)})
    assert is_as_exact("y", none, none, made, "float32")
    assert not is_as_exact("y", none, none[:, :2], made, "float32")


def _rms(values: Array) -> Array:
    return np.full(values.shape, np.sqrt(np.mean(values**2)))


def away(share: float, noise: float) -> Evaluation:
    """Return a sample on which float64 is off from both models by a share of the values."""
    single = np.random.default_rng(5).standard_normal((20, 30)).astype(np.float32)
    drawn = Noise([single])
    drawn.add([(single * (1 + noise)).astype(np.float32)])
    sample = Sample(
        {}, {"y": single}, {"y": single}, {"y": drawn.largest[0]}, {"y": drawn.slices(0)}
    )
    wide = single.astype(np.float64) * (1 + share)
    return Evaluation(sample, {"y": wide}, {"y": wide})


@pytest.mark.parametrize(
    ("share", "noise", "counts"),
    [(0.009, 0.0, True), (0.011, 0.0, False), (0.011, 0.003, True), (0.015, 0.003, False)],
)
def test_what_is_further_off_than_noise_explains_is_no_yardstick(
    share: float, noise: float, counts: bool
) -> None:
    sample = away(share, noise)
    assert is_yardstick("y", "float32", sample, jumps=False) == counts
    other = np.asarray(sample.truth["y"], np.float32)
    assert is_as_exact("y", sample.sample.original["y"], other, sample, "float32") == counts


@pytest.mark.parametrize(
    ("original", "counts"),
    [
        ([2.0**-25, 0, 2.0**-24, 0], True),
        ([2.0**-25, 0, 2.0**-24, 2.0**-40], False),
        ([0, 0, 0, 2.0**-22], False),
    ],
    ids=["multiples of its grain", "not all of them", "beyond it"],
)
def test_the_tail_of_a_sigmoid_is_no_finer_than_its_grain(
    original: list[float], counts: bool
) -> None:
    truth = np.array([1e-8, 1e-9, 2e-8, 1e-10])
    values = np.array(original, np.float32)
    still = Noise([values])
    still.add([values])
    noise = {"y": still.largest[0]}
    sample = Sample({}, {"y": values}, {"y": values}, noise, {"y": still.slices(0)})
    given = Evaluation(sample, {"y": truth}, {"y": truth})
    assert is_yardstick("y", "float32", given, jumps=False) == counts


def test_samples_without_yardstick_explain_nothing() -> None:
    """On one of two, float64 is far off; there, any difference would be small."""
    good, bad = away(1e-8, 1e-7), away(0.5, 1e-7)
    wrong = replace(bad, exact={"y": bad.truth["y"] * 1.01})
    (output,) = measure([good, wrong], {}, frozenset()).outputs
    assert output.ratio == 0
    assert not measure([wrong, wrong], {}, frozenset()).outputs


def ratio(*evaluations: Evaluation) -> float:
    return exact_ratio("y", "float32", evaluations)[0]


@pytest.mark.parametrize(("share", "high"), [(0.25, 5), (0.25, 20), (0.25, 100), (0.5, 20)])
def test_a_share_of_each_elements_own_rounding_is_explained(share: float, high: int) -> None:
    assert max(ratio(evaluation(seed, share, high=high)) for seed in range(100)) < 1


@pytest.mark.parametrize("high", [5, 20, 100])
def test_a_wrong_column_is_not_explained(high: int) -> None:
    """At three times its rounding, now and then, if the draws of its one element are large."""
    found = {t: [ratio(evaluation(s, 0.25, t, high=high)) for s in range(100)] for t in (3, 10)}
    assert np.mean(np.array(found[3]) > 1) >= 0.9
    assert min(found[10]) > 1


def test_several_samples_of_concentrated_rounding() -> None:
    for seed in range(20):
        right = [evaluation(10 * seed + number, 0.5) for number in range(3)]
        wrong = [evaluation(10 * seed + number, 0.25, 3.0) for number in range(3)]
        assert ratio(*right) < 1 < ratio(*wrong)


# --- Past a step ----------------------------------------------------------------------------------


def jumping(
    seed: int,
    own: dict[int, float],
    in_float64: dict[int, float],
    *,
    values: Array | None = None,
) -> Evaluation:
    """Return a sample of 2000 values on which single elements jump, by so much.

    Those in `own` do so in a draw of the noise, those in `in_float64` in the other model.
    """
    generator = np.random.default_rng([10, seed])
    truth = generator.uniform(0.5, 1, (40, 50)) if values is None else values
    rounding = 1e-7 * generator.standard_normal((5, *truth.shape))
    original = truth + rounding[0]
    noise = Noise([original], jumps=True)
    for draw in range(1, 4):
        result = original + rounding[draw]
        for place, size in own.items() if draw == 2 else ():
            result.flat[place] += size
        noise.add([result])
    exact = truth + 0.25 * rounding[4]
    for place, size in in_float64.items():
        exact.flat[place] += size
    single = original.astype(np.float32)
    sample = Sample(
        {}, {"y": single}, {"y": single}, {"y": noise.largest[0]}, {"y": noise.slices(0)}
    )
    return Evaluation(sample, {"y": truth}, {"y": exact})


def jump_ratio(*evaluations: Evaluation) -> float:
    return exact_ratio("y", "float32", evaluations, jumps=True)[0]


@pytest.mark.parametrize("seed", range(20))
def test_an_element_may_jump_in_float64_as_far_as_one_does_in_a_draw(seed: int) -> None:
    own = {7: 1e-3}
    assert jump_ratio(jumping(seed, own, {})) < 1
    assert jump_ratio(jumping(seed, own, {1234: -1e-3})) < 1
    assert jump_ratio(jumping(seed, own, {1234: 2e-3})) > 1
    assert jump_ratio(jumping(seed, {}, {1234: 1e-3})) > 1


@pytest.mark.parametrize("seed", range(20))
def test_no_more_elements_jump_in_float64_than_in_draws_and_one_more(seed: int) -> None:
    own = {7: 1e-3, 800: 1e-3, 1900: 1e-3}
    places = [100, 300, 500, 700, 900]
    for count, is_right in ((3, True), (4, True), (5, False)):
        found = jump_ratio(jumping(seed, own, dict.fromkeys(places[:count], 1e-3)))
        assert (found < 1) == is_right


def test_without_a_step_nothing_is_excused() -> None:
    evaluations = [jumping(0, {7: 1e-3}, {1234: 1e-3})]
    assert exact_ratio("y", "float32", evaluations, jumps=False)[0] > 1


@pytest.mark.parametrize("seed", range(20))
def test_one_element_of_few_values_may_be_one_step_away(seed: int) -> None:
    """Though none jumps in a draw."""
    steps = np.random.default_rng(seed).integers(0, 9, (40, 50)).astype(np.float64)
    at = int(np.flatnonzero((steps > 1) & (steps < 7))[0])
    exactly = jumping(seed, {}, {}, values=steps)
    others = []
    for changes in ({at: 1.0}, {at: 2.0}, {at: 1.0, at + 1: 1.0, at + 2: 1.0}):
        exact = steps.copy()
        for place, size in changes.items():
            exact.flat[place] += size
        others.append(jump_ratio(Evaluation(exactly.sample, {"y": steps}, {"y": exact})))
    assert others[0] < 1 < min(others[1:])


def test_without_a_step_no_deviation_is_limited() -> None:
    """One element alone is not beyond what it may be off by; its column is."""
    evaluation_ = jumping(0, {}, {})
    exact = evaluation_.truth["y"].copy()
    exact[7, 3] += 9e-7
    (one,) = [Evaluation(evaluation_.sample, evaluation_.truth, {"y": exact})]
    assert exact_ratio("y", "float32", [one])[0] > jump_ratio(one)


def test_a_slice_beyond_what_rounding_explains_is_not_excused_past_a_step() -> None:
    """Each of its elements is off by no more than one may be."""
    evaluation_ = jumping(0, {7: 1e-3}, {})
    exact = evaluation_.exact["y"].copy()
    exact[:, 3] += 4e-7 * np.random.default_rng(0).choice([-1, 1], 40)
    assert jump_ratio(Evaluation(evaluation_.sample, evaluation_.truth, {"y": exact})) > 1


def of_measure(evaluations: list[Evaluation]) -> float | None:
    return measure(evaluations, {"y": "float32"}, frozenset({"y"})).outputs[0].ratio


def test_where_most_elements_jump_only_equality_shows_anything() -> None:
    """On half of the samples, at least."""
    own = dict.fromkeys(range(2000), 0.01)
    jumps = dict.fromkeys(range(0, 2000, 3), 0.01)
    equal = [jumping(seed, own, {}) for seed in range(4)]
    differing = [jumping(seed, own, jumps) for seed in range(4)]
    assert (of_measure(equal) or 0) < 1
    assert of_measure(equal) is not None
    assert of_measure(differing) is None
    assert of_measure(equal[:2] + differing[:2]) is not None
    assert of_measure(equal[:1] + differing[:3]) is None
    assert of_measure([*equal[:2], *differing, jumping(9, own, jumps)]) is None
    assert of_measure(differing[:1]) is None
    assert of_measure(equal[:1]) is not None


# --- Networks -------------------------------------------------------------------------------------


def peaked(seed: int, gain: float) -> onnx.ModelProto:
    """Return a classifier of 12 positions; the larger the gain, the fewer classes are likely."""
    generator = np.random.default_rng([8, seed])
    weights: Parameters = {
        "w0": np.asarray(generator.standard_normal((32, 16, 1, 1)) / 4, np.float32),
        "w1": np.asarray(generator.standard_normal((32, 500)) * gain / np.sqrt(32), np.float32),
        "two": np.array([2]),
    }
    return build(
        "(float[N,16,1,12] x) => (float[N,12,500] y) { c = Conv(x, w0) "
        "n = BatchNormalization(c, s, b, m, v) a = Relu(n) q = Squeeze(a, two) "
        "t = Transpose<perm=[0,2,1]>(q) l = MatMul(t, w1) y = Softmax<axis=2>(l) }",
        **weights,
        **batch_norm(32, seed=seed),
    )


def with_a_class_off(model: onnx.ModelProto, times: float, seed: int) -> onnx.ModelProto:
    """Return the model with the logit of one class off: its output by so many times its noise.

    It is the class with the most noise, estimated from eight draws.
    """
    drawn = draw_feeds(model, seed=seed, sizes={"N": 5}).items()
    feeds = {name: np.asarray(value / 3, np.float32) for name, value in drawn}
    truth, single = run_float64(model, feeds)[0], run_plain(model, feeds)[0]
    draws = [single - truth] + [
        run_plain(off_by_a_unit(model, draw), feeds)[0] - single for draw in range(8)
    ]
    noise = np.sqrt(np.mean(np.square(draws), axis=(0, 1, 2)))
    chosen = int(noise.argmax())
    base, step = floats(model)["w1"], 1e-5
    for _ in range(20):
        changed = base.copy()
        changed[:, chosen] *= 1 + step
        other = with_weights(model, {"w1": changed})
        error = (run_float64(other, feeds)[0] - truth)[..., chosen]
        found = float(np.sqrt(np.mean(error**2)) / noise[chosen])
        if times <= found <= 1.5 * times:
            return other
        step *= 1.2 * times / found if found else 10
    raise AssertionError("no step is right")


@pytest.mark.parametrize("seed", few(range(8), [0, 1]))
def test_a_peaked_softmax_passes_folded(seed: int) -> None:
    model = peaked(seed, 10.0)
    for right in (bnfold.optimize(model, check=False).to_proto(), folded_elsewhere(model)):
        assert verdict_and_reason(model, right) == ("pass", "")


@pytest.mark.parametrize(
    ("times", "seeds", "fewest"), few([(3.0, 10, 9), (10.0, 5, 5)], [(10.0, 5, 5)])
)
def test_a_peaked_softmax_with_a_wrong_class_fails(times: float, seeds: int, fewest: int) -> None:
    pairs = [
        (model, with_a_class_off(model, times, seed))
        for seed, model in enumerate(peaked(seed, 10.0) for seed in range(seeds))
    ]
    assert [verdict_and_reason(*pair)[0] for pair in pairs].count("fail") >= fewest
