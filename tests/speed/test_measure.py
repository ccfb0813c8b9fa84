"""Timings of real sessions, in this process: that samples are complete, and what is planned.

No test depends on how fast anything is.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from bnfold.errors import SessionError, UsageError
from bnfold.options import InputOptions
from bnfold.running.runtime import Level
from bnfold.speed.measure import MOST_BLOCKS, compare_speed
from bnfold.speed.statistics import summarize
from tests.support.cli import REWRITTEN
from tests.support.graphs import build


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
    assert "an interval takes 3 blocks; allow " in record.note


def test_a_model_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    onnx.save(build("(float[2,5] x) => (float[2,5] y) { y = Neg(x) }"), path)
    with pytest.raises(SessionError, match="onnxruntime cannot run"):
        compare_speed(REWRITTEN, path, seconds=0.1)
    with pytest.raises(UsageError, match="no input 'nothing'"):
        compare_speed(REWRITTEN, None, request=InputOptions(shapes={"nothing": [1]}), seconds=0.1)
