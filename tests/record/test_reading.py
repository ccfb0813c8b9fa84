"""Reading a written record returns an equal one; anything else is a clear error."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from bnfold.errors import UsageError
from bnfold.record.data import Record
from bnfold.record.reading import read_record
from bnfold.report import render
from tests.support.cli import MODELS, run
from tests.support.records import RECORDS, optimized


def write(folder: Path, content: Any) -> Path:
    path = folder / "run.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def changed(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(optimized().to_json())
    return content | changes


@pytest.mark.parametrize("name", RECORDS)
def test_reading_returns_the_written_record(tmp_path: Path, name: str) -> None:
    record = RECORDS[name]()
    assert read_record(write(tmp_path, record.to_json())) == record


def test_the_record_of_a_command_can_be_read(tmp_path: Path) -> None:
    place = tmp_path / "run.json"
    run("optimize", MODELS / "dropout_before_pool.onnx", tmp_path / "out.onnx", "--report", place)
    record = read_record(place)
    assert record.to_json() + "\n" == place.read_text()
    assert record.equivalence is not None
    assert record.equivalence.providers[0].outputs[0].name == "logits"


def test_non_finite_numbers_survive(tmp_path: Path) -> None:
    record = optimized()
    assert record.equivalence is not None
    (provider,) = record.equivalence.providers
    wild = [
        dataclasses.replace(provider.outputs[0], max_abs=value)
        for value in (math.inf, -math.inf, math.nan)
    ]
    provider = dataclasses.replace(provider, outputs=wild)
    equivalence = dataclasses.replace(record.equivalence, providers=[provider])
    written = dataclasses.replace(record, equivalence=equivalence).to_json()
    read = read_record(write(tmp_path, written))
    assert read.equivalence is not None
    values = [output.max_abs for output in read.equivalence.providers[0].outputs]
    assert values[:2] == [math.inf, -math.inf]
    assert math.isnan(values[2])


def test_fields_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    assert isinstance(read_record(write(tmp_path, changed(novelty=[1]))), Record)


def test_fields_missing_in_an_earlier_version_get_their_defaults(tmp_path: Path) -> None:
    content = changed()
    del content["tuning"]
    assert read_record(write(tmp_path, content)).tuning is None


@pytest.mark.usefixtures("without_pictures")
def test_timings_of_an_earlier_version_keep_their_intervals(tmp_path: Path) -> None:
    """It gave some of a single block, decided trials by them, and did not know the load."""
    content: dict[str, Any] = json.loads(RECORDS["tuned"]().to_json())
    del content["tuning"]["confidence"]
    for trial in content["tuning"]["trials"]:
        del trial["interval"]
    for timing in content["speed"]:
        timing["samples"] = timing["samples"][:1]
        timing["note"] = "too few turns (1) for a verdict; allow about 3 seconds per level"
    for name in ("processors", "affinity", "load"):
        del content["environment"][name]
    record = read_record(write(tmp_path, content))
    assert record.tuning is not None
    assert [trial.interval for trial in record.tuning.trials] == [None, None]
    (low, high) = record.speed[0].ci95 or []
    for suffix in (".html", ".md"):
        page = render(record, suffix)
        assert f"[{low:.3f}, {high:.3f}]" in page
        assert "at the start" not in page
    assert "[0.940, 0.960]" in render(record, ".html")
    assert "[0.930, 0.970]" in render(RECORDS["tuned"](), ".html")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "invalid JSON"),
        ("\x00\x01", "invalid JSON"),
        ("[" * 100_000, "invalid JSON"),
        ("[]", "has no schema"),
        ("null", "has no schema"),
        ({"schema": "bnfold.report/2"}, "'bnfold.report/2'"),
        ({"schema": ["bnfold.report/1"]}, "schema"),
        ({"schema": "bnfold.report/1"}, "record has no 'command'"),
        (changed(command="optimize"), "record.command is str"),
        (changed(command=[1]), "record.command[0] is int, not str"),
        (changed(model=None), "record.model is NoneType"),
        (changed(rewrites=[{}]), "record.rewrites[0] has no 'pass'"),
        (changed(speed=[[]]), "record.speed[0] is list"),
        (changed(tuning={"seconds": True, "trials": []}), "record.tuning.seconds is bool"),
        (changed(tuning={"seconds": "soon", "trials": []}), "record.tuning.seconds is str"),
        (changed(tuning={"seconds": 10**400, "trials": []}), "too large"),
    ],
)
def test_an_invalid_record_is_a_one_line_error(tmp_path: Path, content: Any, words: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UsageError, match=r"--report FILE\.json") as raised:
        read_record(path)
    assert words in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("without_pictures")
def test_a_record_may_lack_a_version(tmp_path: Path) -> None:
    record = read_record(write(tmp_path, changed(tool={})))
    for suffix in (".html", ".md"):
        assert render(record, suffix)


def test_a_file_that_is_missing_or_binary(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_record(tmp_path / "none.json")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07\xff\xfe")
    with pytest.raises(UsageError, match="invalid JSON"):
        read_record(tmp_path / "model.onnx")
