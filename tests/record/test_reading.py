"""A record that is written and read again is the same; what is no record is told so."""

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
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    record = RECORDS[name]()
    assert read_record(write(tmp_path, record.to_json())) == record


def test_what_a_command_has_written_is_read_again(tmp_path: Path) -> None:
    place = tmp_path / "run.json"
    run("optimize", MODELS / "dropout_before_pool.onnx", tmp_path / "out.onnx", "--report", place)
    record = read_record(place)
    assert record.to_json() + "\n" == place.read_text()
    assert record.equivalence is not None
    assert record.equivalence.providers[0].outputs[0].name == "logits"


def test_numbers_that_json_lacks_come_back(tmp_path: Path) -> None:
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
    found = [each.max_abs for each in read.equivalence.providers[0].outputs]
    assert found[:2] == [math.inf, -math.inf]
    assert math.isnan(found[2])


def test_a_later_versions_fields_are_left_out(tmp_path: Path) -> None:
    assert isinstance(read_record(write(tmp_path, changed(novelty=[1]))), Record)


def test_fields_that_an_earlier_version_lacked_get_their_defaults(tmp_path: Path) -> None:
    content = changed()
    del content["tuning"]
    assert read_record(write(tmp_path, content)).tuning is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is no JSON"),
        ("\x00\x01", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "names no schema"),
        ("null", "names no schema"),
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
def test_what_is_no_record_is_told_in_one_line(tmp_path: Path, content: Any, words: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UsageError, match=r"--report FILE\.json") as raised:
        read_record(path)
    assert words in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_record_may_lack_a_version(tmp_path: Path) -> None:
    record = read_record(write(tmp_path, changed(tool={})))
    for suffix in (".html", ".md"):
        assert render(record, suffix)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_record(tmp_path / "none.json")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07\xff\xfe")
    with pytest.raises(UsageError, match="is no JSON"):
        read_record(tmp_path / "model.onnx")
