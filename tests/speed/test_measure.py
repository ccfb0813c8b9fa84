"""Speed: the statistics, on synthetic samples, and that real sessions give complete samples.

No test depends on how fast anything is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfold.errors import SessionError, UsageError
from bnfold.options import InputOptions
from bnfold.record.data import SpeedBlock, SpeedVerdict
from bnfold.running.runtime import Level
from bnfold.speed.measure import MOST_BLOCKS, compare_speed
from bnfold.speed.statistics import FEWEST_TURNS, summarize
from tests.support.cli import REWRITTEN
from tests.support.graphs import build


def synthetic_blocks(
    seed: int, factor: float, *, blocks: int = 5, turns: int = 40
) -> list[SpeedBlock]:
    """Return samples of a model `factor` times as fast, with the noise of a shared machine.

    Each session is off by a constant of about 0.5 %, each turn by 5 % for all three, and each run
    by 2 %; one run in twenty takes 50 % longer.
    """
    generator = np.random.default_rng(seed)
    samples = []
    for _ in range(blocks):
        shared = 10 * generator.lognormal(0, 0.05, turns)
        run_ms = {}
        for name, speed in (("original", 1.0), ("optimized", factor), ("control", 1.0)):
            own = generator.lognormal(0, 0.005) * generator.lognormal(0, 0.02, turns)
            hiccups = np.where(generator.random(turns) < 0.05, 1.5, 1.0)
            run_ms[name] = list(shared * own * hiccups / speed)
        samples.append(SpeedBlock(dict.fromkeys(run_ms, 1.0), run_ms))
    return samples


def test_a_model_against_itself_shows_no_significant_difference() -> None:
    verdicts = [summarize(synthetic_blocks(seed, 1.0)).verdict for seed in range(100)]
    assert verdicts.count("no significant difference") >= 99


@pytest.mark.parametrize(("factor", "verdict"), [(1.03, "faster"), (0.97, "slower")])
def test_three_percent_are_detected(factor: float, verdict: SpeedVerdict) -> None:
    summaries = [summarize(synthetic_blocks(seed, factor, turns=100)) for seed in range(30)]
    assert [summary.verdict for summary in summaries].count(verdict) >= 27
    assert np.mean([summary.speedup or 0 for summary in summaries]) == pytest.approx(
        factor, abs=0.002
    )


def test_a_difference_within_the_controls_error_is_not_significant() -> None:
    blocks = synthetic_blocks(0, 1.02)
    for block in blocks:
        block.run_ms["control"] = [ms / 1.02 for ms in block.run_ms["control"]]
    summary = summarize(blocks)
    assert summary.ci95 is not None
    assert summary.ci95[0] > 1
    assert summary.verdict == "no significant difference"


def test_few_turns_allow_no_verdict() -> None:
    blocks = synthetic_blocks(0, 2.0, blocks=1, turns=FEWEST_TURNS)
    assert summarize(blocks).verdict == "faster"
    short = {name: times[:-1] for name, times in blocks[0].run_ms.items()}
    few = summarize([SpeedBlock({}, short)])
    assert few.speedup == pytest.approx(2, rel=0.6)
    assert few.verdict == "no significant difference"


def test_the_same_samples_give_the_same_figures() -> None:
    assert summarize(synthetic_blocks(1, 1.1)) == summarize(synthetic_blocks(1, 1.1))


def blocks_of(*ratios: list[float]) -> list[SpeedBlock]:
    """Return blocks in which the other model is so many times as fast, turn by turn."""
    return [
        SpeedBlock({}, {"original": turns, "optimized": [1.0] * len(turns), "control": turns})
        for turns in ratios
    ]


def test_the_interval_is_as_wide_as_sessions_differ() -> None:
    """Within a session all turns agree: more of them say nothing of how far sessions differ."""
    offs = [0.9, 0.95, 1.0, 1.05, 1.1]
    for turns in (10, 100, 1000):
        summary = summarize(blocks_of(*([ratio] * turns for ratio in offs)))
        assert summary.speedup == pytest.approx(1.0)
        assert summary.ci95 == pytest.approx([0.9, 1.1])


def test_the_interval_of_one_session_is_as_wide_as_its_turns_differ() -> None:
    turns = list(np.random.default_rng(0).normal(1.0, 0.1, 101))
    (low, high) = summarize(blocks_of(turns)).ci95 or [1.0, 1.0]
    # The median of n normal values has a standard deviation of 1.25 σ / √n.
    assert high - low == pytest.approx(2 * 1.96 * 1.253 * 0.1 / np.sqrt(101), rel=0.4)


def test_each_session_counts_alike() -> None:
    """However many turns there was time for."""
    summary = summarize(blocks_of([0.9] * 400, [1.0] * 20, [1.1] * 20, [1.0] * 20, [1.0] * 20))
    assert summary.ci95 == pytest.approx([0.9, 1.1])


@pytest.mark.parametrize("level", Level)
def test_samples_of_two_models(level: Level) -> None:
    record = compare_speed(REWRITTEN, REWRITTEN, level=level, threads=1, seconds=0.3)
    assert record.level == level.value
    assert record.threads == 1
    assert 1 <= len(record.samples) <= MOST_BLOCKS
    for block in record.samples:
        assert list(block.run_ms) == ["original", "optimized", "control"]
        assert len({len(times) for times in block.run_ms.values()}) == 1
        assert min(min(times) for times in block.run_ms.values()) > 0
    summary = summarize(record.samples)
    assert (record.speedup, record.ci95) == (summary.speedup, summary.ci95)
    assert (record.control, record.control_ci95) == (summary.control, summary.control_ci95)
    assert record.verdict == summary.verdict
    assert len(record.load_ms) == 2


def test_one_model_alone_is_timed_with_its_control() -> None:
    record = compare_speed(REWRITTEN, None, seconds=0.2)
    assert list(record.samples[0].run_ms) == ["original", "control"]
    assert (record.optimized_ms, record.speedup, record.ci95, record.verdict) == (None,) * 4
    assert record.original_ms > 0
    assert len(record.load_ms) == 1


def test_a_single_image_is_the_default() -> None:
    assert compare_speed(REWRITTEN, None, seconds=0.1).shapes == {"images": [1, 1, 8, 8]}
    request = InputOptions(batch_sizes=(7,))
    assert compare_speed(REWRITTEN, None, request=request, seconds=0.1).shapes["images"][0] == 7


def test_too_little_time_is_noted() -> None:
    record = compare_speed(REWRITTEN, None, seconds=1e-9)
    assert len(record.samples) == 1
    assert "too few turns (1)" in record.note


def test_a_model_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    onnx.save(build("(float[2,5] x) => (float[2,5] y) { y = Neg(x) }"), path)
    with pytest.raises(SessionError, match="onnxruntime cannot run"):
        compare_speed(REWRITTEN, path, seconds=0.1)
    with pytest.raises(UsageError, match="no input 'nothing'"):
        compare_speed(REWRITTEN, None, request=InputOptions(shapes={"nothing": [1]}), seconds=0.1)
