"""The rule of the verdict, on comparisons that are made up."""

from __future__ import annotations

import dataclasses
from typing import get_args

import numpy as np
import pytest

from bnfold.proof.tolerance import within_tolerance
from bnfold.proof.truth_errors import NEGLIGIBLE, truth_limit
from bnfold.proof.truth_slices import TRUTH_FACTOR
from bnfold.proof.verdict import Findings, decide, is_near_limit, worst_verdict
from bnfold.record.data import (
    LevelComparison,
    LevelName,
    NonFinite,
    OutputComparison,
    Tolerance,
    Truth,
    TruthOutput,
    Verdict,
    Worst,
)

CLOSE = OutputComparison(
    name="y",
    dtype="float32",
    shape=[1],
    max_abs=1e-6,
    max_rel=1e-6,
    rms=1e-6,
    cosine=1.0,
    worst=Worst(0, [3], 1.0, 1.5),
    tolerance=Tolerance(1e-4, 1e-5),
    needed=Tolerance(1e-5, 1e-6),
    nonfinite=NonFinite(0, 0, same=True),
)
FAR = dataclasses.replace(CLOSE, needed=Tolerance(1e-3, 1e-4))


def level(name: LevelName, output: OutputComparison) -> LevelComparison:
    return LevelComparison(name, "pass" if output is CLOSE else "fail", [output])


def truth(original: float, optimized: float) -> Truth:
    limit = truth_limit("float32", original, 0.0)
    return Truth(
        1, "", [TruthOutput("y", "float32", original, optimized, 0.0, 0.0, limit, ratio=0.0)]
    )


@pytest.mark.parametrize(
    ("plain", "optimized", "floor", "verdict", "words"),
    [
        (CLOSE, CLOSE, CLOSE, "pass", ""),
        (FAR, FAR, CLOSE, "fail", "'y' is 1.5 at [3] of sample 0, not 1; it would pass with"),
        (FAR, CLOSE, FAR, "fail", "--rtol 0.001 --atol 0.0001"),
        (CLOSE, FAR, CLOSE, "fail", "with onnxruntime's optimizations, output 'y'"),
        (CLOSE, FAR, FAR, "not-verified", "onnxruntime's own optimizations change the original"),
        (CLOSE, CLOSE, FAR, "pass", ""),
    ],
)
def test_levels(
    plain: OutputComparison,
    optimized: OutputComparison,
    floor: OutputComparison,
    verdict: str,
    words: str,
) -> None:
    levels = [level("disabled", plain), level("all", optimized)]
    found, reason = decide(Findings(levels, [floor]))
    assert found == verdict
    assert words in reason
    assert bool(reason) == (verdict != "pass")


PASSING = [level("disabled", CLOSE), level("all", CLOSE)]


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (truth(1e-6, 1e-6), "pass"),
        (truth(1e-6, 0.99 * TRUTH_FACTOR * 1e-6), "pass"),
        (truth(1e-6, 1.01 * TRUTH_FACTOR * 1e-6), "fail"),
        (truth(0.0, 0.99 * NEGLIGIBLE * 2**-23), "pass"),
        (truth(0.0, 1.01 * NEGLIGIBLE * 2**-23), "fail"),
        (Truth(0, "no way"), "pass"),
        (None, "pass"),
    ],
)
def test_truth(found: Truth | None, verdict: str) -> None:
    decided, reason = decide(Findings(PASSING, [CLOSE], found))
    assert decided == verdict
    assert ("off the float64 evaluation" in reason) == (verdict == "fail")


def test_truth_that_is_needed() -> None:
    assert decide(Findings(PASSING, truth=truth(0, 0), needs_truth=True)) == ("pass", "")
    assert decide(Findings(PASSING, truth=Truth(0, "no way"), needs_truth=True)) == (
        "not-verified",
        "there is no float64 evaluation: no way",
    )
    assert decide(Findings(PASSING, needs_truth=True))[0] == "not-verified"
    needless = Truth(1, "all of float64", needless=True)
    assert decide(Findings(PASSING, truth=needless, needs_truth=True)) == ("pass", "")


def test_what_float64_decides_passes() -> None:
    decided = dataclasses.replace(FAR, by_float64=True)
    assert within_tolerance(decided)
    levels = [LevelComparison(name, "pass", [decided]) for name in get_args(LevelName)]
    assert decide(Findings(levels, [CLOSE])) == ("pass", "")


@pytest.mark.parametrize(("ratio", "verdict"), [(0.99, "pass"), (1.01, "fail"), (np.inf, "fail")])
def test_what_differs_in_float64_fails_unless_a_tolerance_was_asked_for(
    ratio: float, verdict: str
) -> None:
    output = TruthOutput("y", "float32", 1e-6, 1e-6, 1e-6, ratio=ratio, where="index 3 of axis 1")
    findings = Findings(PASSING, [CLOSE], Truth(1, "", [output]))
    decided, reason = decide(findings)
    assert decided == verdict
    assert ("index 3 of axis 1" in reason) == (verdict == "fail")
    assert decide(dataclasses.replace(findings, asked=frozenset({"y"})))[0] == "pass"


@pytest.mark.parametrize(
    ("ratios", "is_near"),
    [
        ([], False),
        ([None], False),
        ([0.39], False),
        ([0.41], True),
        ([None, 0.1, 1.0], True),
        ([0.5, 1.01], False),  # that fails as it is
    ],
)
def test_what_is_near_the_limit(ratios: list[float | None], is_near: bool) -> None:
    outputs = [TruthOutput("y", "float32", 0.1, 0.1, 0.1, ratio=ratio) for ratio in ratios]
    assert is_near_limit(Truth(3, "", outputs)) is is_near


@pytest.mark.parametrize(
    ("ratio", "difference", "verdict"),
    [(0.5, 1e-5, "pass"), (0.5, 0.1, "not-verified"), (None, 0.0, "not-verified")],
)
def test_an_output_that_is_never_settled_needs_float64(
    ratio: float | None, difference: float, verdict: str
) -> None:
    output = TruthOutput("y", "float32", 0.5, 0.5, difference, ratio=ratio, limit=9.0)
    findings = Findings(PASSING, [CLOSE], Truth(1, "", [output]), never_settled={"y": 0.5})
    decided, reason = decide(findings)
    assert decided == verdict
    assert ("on every sample" in reason) == (verdict != "pass")


def test_an_output_that_is_settled_once_is_told_from_one_that_never_is() -> None:
    never = {"y": 0.5, "z": 0.5}
    findings = Findings(PASSING, never_settled=never, settled_once=frozenset({"y"}))
    assert "'y'" in decide(findings)[1]
    assert "on all samples but one" in decide(findings)[1]


def test_an_output_of_which_float64_shows_nothing_is_not_verified() -> None:
    """Unless a tolerance was asked for."""
    open_ = TruthOutput("y", "float32", 1e-6, 1e-6, 0.0, limit=9.0)
    findings = Findings(PASSING, [CLOSE], Truth(1, "", [open_]))
    verdict, reason = decide(findings)
    assert verdict == "not-verified"
    assert "most of output 'y' jumps" in reason
    assert decide(dataclasses.replace(findings, asked=frozenset({"y"})))[0] == "pass"


def test_no_tolerance_is_offered_that_is_far_beyond_the_allowed_one() -> None:
    near = dataclasses.replace(FAR, needed=Tolerance(2e-4, 2e-5))
    far = dataclasses.replace(FAR, needed=Tolerance(2e-2, 2e-3))
    for output, words in ((near, "with --rtol 0.0002 --atol 2e-05"), (far, "200 times what is")):
        levels = [level("disabled", output), level("all", CLOSE)]
        assert words in decide(Findings(levels))[1]
    assert "--rtol" not in decide(Findings([level("disabled", far), level("all", CLOSE)]))[1]


@pytest.mark.parametrize(
    ("original", "optimized", "words"),
    [
        (1.0, 1.5, "is 1.5 at [3] of sample 0, not 1, and"),
        (-7.834201, -7.8342, "is -7.8342 at [3] of sample 0, not -7.834201, and"),
        (float(np.float32(-7.8342004)), float(np.float32(-7.8342)), "is -7.8341999 at [3]"),
        (float(np.nextafter(-7.8342, 0)), -7.8342, "not -7.834199999999999, and no difference"),
    ],
)
def test_the_two_values_are_shown_with_digits_that_differ(
    original: float, optimized: float, words: str
) -> None:
    worst = Worst(0, [3], original, optimized)
    exact = dataclasses.replace(FAR, worst=worst, tolerance=Tolerance(0.0, 0.0), needed=None)
    _, reason = decide(Findings([level("disabled", exact), level("all", exact)]))
    assert words in reason


def test_coarser_types_may_be_further_from_the_truth() -> None:
    limits = [truth_limit(dtype, 0.0, 0.0) for dtype in ("float32", "float16", "bfloat16")]
    assert limits == sorted(limits)
    assert len(set(limits)) == 3


def test_noise_counts_as_an_error_of_the_original() -> None:
    assert truth_limit("float32", 1e-6, 1e-5) == pytest.approx(TRUTH_FACTOR * 1e-5)


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "not-verified"], "not-verified"),
        (["not-verified", "fail"], "fail"),
        ([], "not-verified"),
    ],
)
def test_the_worst_verdict_counts(verdicts: list[Verdict], worst: str) -> None:
    assert worst_verdict(verdicts) == worst
