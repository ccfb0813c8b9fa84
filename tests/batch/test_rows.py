"""The rows of an index: exit codes, what is said of a failure, what is read back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnfold.batch.asked import Asked, data_of, hash_model
from bnfold.batch.estimate import Estimate
from bnfold.batch.rows import row_of, speeds_of, told
from bnfold.errors import NotEquivalentError, UsageError
from bnfold.options import CheckOptions, ExecutionOptions, InputOptions, PassOptions, TimingOptions
from bnfold.record.batch import GRAVEST_FIRST, FileRecord, Index, Row, gravest, read_index
from bnfold.report.batch import proven
from tests.report.noted import certified, exact
from tests.support import records
from tests.support.batch import foldable, save
from tests.support.cli import parse_strictly
from tests.support.files import save_external
from tests.support.graphs import normal


@given(st.lists(st.sampled_from([0, *GRAVEST_FIRST])))
def test_the_gravest_exit_code_counts(codes: list[int]) -> None:
    """Wrong values first, then what is not known, then what was asked wrongly, then speed."""
    worst = gravest(codes)
    assert worst in (codes or [0])
    order = (*GRAVEST_FIRST, 0)
    assert order.index(worst) == min((order.index(code) for code in codes), default=7)


def test_the_order_of_exit_codes() -> None:
    assert GRAVEST_FIRST == (1, 70, 5, 3, 4, 2, 6)
    assert gravest([6, 1, 5]) == 1
    assert gravest([6, 130, 1]) == 130
    assert gravest([]) == gravest([0, 0]) == 0


def test_a_row_of_a_record() -> None:
    record = records.optimized()
    row = row_of("m.onnx", "in/m.onnx", record, None, data_bytes=10)
    assert (row.verdict, row.exit_code, row.reason) == ("pass", 0, "")
    assert row.batchnorm == [53, 3]
    assert row.nodes == [172, 122]
    assert row.bytes == [102_400_010, 102_300_000]
    assert (row.rewrites, row.certified, row.certificates) == (50, 0, "")
    speeds = speeds_of(record.speed, "a machine", "m.onnx.html")
    assert [speed.level for speed in speeds] == ["all", "disabled"]
    assert dataclasses.replace(row, speeds=speeds).machines == ["a machine"]


def test_changes_of_meaning_are_counted_apart() -> None:
    record = certified(exact("copying"), None)
    record.rewrites[1] = dataclasses.replace(record.rewrites[1], exactness="semantic")
    row = row_of("m", "m", record, None)
    assert (row.rewrites, row.certified, row.requested) == (2, 1, 1)
    assert proven(row) == "1 of 1"


def test_a_row_of_a_failure() -> None:
    failed = row_of("m", "m", records.failed(), NotEquivalentError("not\nequivalent"))
    assert (failed.verdict, failed.exit_code, failed.reason) == ("fail", 1, "not equivalent")
    assert failed.batchnorm == [53, 3]
    lost = row_of("m", "m", None, UsageError("no input 'x'"))
    assert (lost.verdict, lost.exit_code, lost.batchnorm) == ("failed", 2, None)
    assert told(MemoryError()) == (70, "out of memory")
    code, reason = told(RuntimeError("no way"))
    assert code == 70
    assert reason.startswith("unexpected RuntimeError: no way; please report it")


def index() -> Index:
    row = row_of("m\ud800.onnx", "m", records.optimized(), None)
    speeds = speeds_of(records.optimized().speed, "x", "m.html")
    files = [FileRecord("m", "00")]
    return Index([dataclasses.replace(row, speeds=speeds, files=files), Row("n", "n", 3, "failed")])


def test_an_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    text = index().to_json()
    parse_strictly(text)
    (tmp_path / "index.json").write_text(text)
    assert read_index(tmp_path / "index.json") == index()
    assert index().exit_code == 3
    assert read_index(tmp_path / "none.json") is None


OTHERS = [
    "",
    "[]",
    "{}",
    "[" * 9999,
    *(f'{{"schema": "bnfold.{x}/1"}}' for x in ("report", "batch")),
]


@pytest.mark.parametrize("text", OTHERS, ids=range(len(OTHERS)))
def test_a_file_that_is_no_index(tmp_path: Path, text: str) -> None:
    path = tmp_path / "index.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"index\.json is not the index of a batch; name another"):
        read_index(path)


def test_an_index_of_another_shape(tmp_path: Path) -> None:
    content = json.loads(index().to_json())
    content["rows"][0]["exit_code"] = "0"
    (tmp_path / "index.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"rows\[0\]\.exit_code is str"):
        read_index(tmp_path / "index.json")


# --- Hashes ---------------------------------------------------------------------------------------


def test_every_option_changes_the_hash(tmp_path: Path) -> None:
    data = tmp_path / "x.npz"
    data.write_bytes(b"1")
    several = [
        Asked(),
        Asked(check=False),
        Asked(bench=False),
        Asked(tune=True),
        Asked(drop_culprit=True),
        Asked(PassOptions(only=["a"])),
        Asked(PassOptions(skip=["a"])),
        Asked(PassOptions(set_shapes={"x": [1]})),
        Asked(execution=ExecutionOptions(threads=2)),
        Asked(execution=ExecutionOptions(inputs=InputOptions(seed=1))),
        Asked(execution=ExecutionOptions(inputs=InputOptions(arrays={"x": normal(2)}))),
        Asked(execution=ExecutionOptions(inputs=InputOptions(arrays={"x": normal(2) + 1}))),
        Asked(execution=ExecutionOptions(inputs=InputOptions(data=data))),
        Asked(checking=CheckOptions(rtols={"y": 0.1})),
        Asked(timing=TimingOptions(seconds=1.0)),
    ]
    hashes = {asked.sha256() for asked in several}
    assert len(hashes) == len(several)
    assert hashes == {asked.sha256() for asked in several}
    data.write_bytes(b"2")
    assert several[12].sha256() not in hashes
    once = Asked(PassOptions(only=iter(["a", "b"])))
    assert once.sha256() != Asked(PassOptions(only=[])).sha256()


def hashed(path: Path) -> str:
    return hash_model(path, data_of(path))


def test_the_hash_of_a_model_includes_its_data(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    first = hashed(path)
    assert first == hashed(path)
    content = bytearray((tmp_path / "m.data").read_bytes())
    content[0] ^= 1
    (tmp_path / "m.data").write_bytes(content)
    assert hashed(path) not in ("", first)
    (tmp_path / "m.data").unlink()
    assert hashed(path) == ""
    assert hashed(tmp_path) == ""
    plain = save(tmp_path / "p.onnx", foldable())
    assert hashed(plain) != hashed(save(tmp_path / "q.onnx", foldable(1)))


# --- The estimate ---------------------------------------------------------------------------------


def test_the_time_that_is_left_is_learnt_from_each_phase() -> None:
    now = [100.0]
    estimate = Estimate(4, 3, 6.0, clock=lambda: now[0])
    estimate.begin("check")
    assert estimate.seconds_left() is None
    now[0] += 10
    estimate.end_one("check")
    estimate.end_one("check")
    assert estimate.seconds_left() == 2 * 5 + 3 * 6
    assert (estimate.done, estimate.total) == (2, 7)
    estimate.end_one("check")
    estimate.end_one("check")
    estimate.drop_one("time")
    estimate.begin("time")
    assert estimate.seconds_left() == 2 * 6
    now[0] += 9
    estimate.end_one("time")
    assert estimate.seconds_left() == 9
    estimate.end_one("time")
    assert (estimate.seconds_left(), estimate.done, estimate.total) == (0, 6, 6)
