"""``bnfold report`` and ``--report`` write the requested files, or print a one-line error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bnfold.report import SUFFIXES
from tests.support.cli import (
    MODELS,
    REWRITTEN,
    UNCHANGED,
    names,
    parse_strictly,
    plant_wrong_pass,
    run,
)
from tests.support.pages import parse
from tests.support.records import RECORDS, hostile, optimized


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "run.json"
    path.write_text(optimized().to_json())
    return path


def reports(folder: Path) -> dict[str, Path]:
    return {suffix: folder / f"report{suffix}" for suffix in SUFFIXES}


def options(folder: Path, option: str = "--report") -> list[str]:
    return [word for path in reports(folder).values() for word in (option, str(path))]


@pytest.mark.parametrize(
    ("command", "verdict"),
    [
        (["optimize", REWRITTEN, "{folder}/out.onnx"], "pass"),
        (["optimize", UNCHANGED, "{folder}/out.onnx"], "identical"),
        (["optimize", REWRITTEN, "{folder}/out.onnx", "--no-check"], "not checked"),
        (["check", REWRITTEN, UNCHANGED], "fail"),
        (["bench", REWRITTEN, "--no-memory"], "timed"),
        (
            ["bench", REWRITTEN, MODELS / "conv_bn_conv.onnx", "--no-memory"],
            "not measured",
        ),
    ],
)
def test_every_command_writes_every_format(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    command: list[str | Path],
    verdict: str,
) -> None:
    if verdict not in ("pass", "timed"):
        request.getfixturevalue("without_pictures")
    words = [str(word).format(folder=tmp_path) for word in command]
    outcome = run(*words, *options(tmp_path), "--json")
    files = reports(tmp_path)
    assert outcome.record == parse_strictly(files[".json"].read_text())
    assert verdict in parse(files[".html"].read_text()).all("header")[0].text
    assert f"bnfold: {verdict}" in files[".md"].read_text()


@pytest.mark.usefixtures("without_pictures")
def test_a_failure_also_writes_its_reports(tmp_path: Path) -> None:
    with plant_wrong_pass():
        outcome = run("optimize", REWRITTEN, tmp_path / "out.onnx", *options(tmp_path))
    outcome.failed(1, "not equivalent")
    files = reports(tmp_path)
    assert names(tmp_path) == {path.name for path in files.values()}
    assert "<title>fail: " in files[".html"].read_text()


def test_rendering_the_record_again_gives_the_same_files(tmp_path: Path) -> None:
    assert run("optimize", REWRITTEN, tmp_path / "out.onnx", *options(tmp_path)).code == 0
    files = reports(tmp_path)
    before = {suffix: path.read_bytes() for suffix, path in files.items()}
    record = files[".json"].rename(tmp_path / "run.json")
    assert run("report", record, *options(tmp_path, "-o")).code == 0
    assert {suffix: path.read_bytes() for suffix, path in files.items()} == before


def test_without_a_file_markdown_is_printed(record: Path, tmp_path: Path) -> None:
    printed = run("report", record)
    assert (printed.code, printed.err) == (0, "")
    assert run("report", record, "-o", tmp_path / "run.md") == (type(printed)(0, "", ""))
    assert printed.out == (tmp_path / "run.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("without_pictures")
def test_with_json_the_record_is_printed(record: Path, tmp_path: Path) -> None:
    outcome = run("report", record, "--json", "-o", tmp_path / "run.html")
    assert outcome.record == json.loads(record.read_text())
    assert (tmp_path / "run.html").exists()


@pytest.mark.parametrize("name", RECORDS)
def test_the_exit_code_of_rendering_is_not_that_of_the_run(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(RECORDS[name]().to_json())
    assert run("report", path).code == 0


def test_hostile_names_print_on_any_terminal(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(hostile().to_json())
    assert run("report", path, encoding="ascii").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{folder}/none.json"], ["none.json", "No such file"]),
        (["{folder}"], ["Is a directory"]),
        ([str(REWRITTEN)], ["conv_bn_relu_pool.onnx is not a bnfold record", "--report FILE.json"]),
        (["{folder}/run.json", "-o", "{folder}/run.pdf"], ["-o", "run.pdf", ".html, .md, .json"]),
        (["{folder}/run.json", "-o", "{folder}/no/run.md"], ["-o", "does not exist"]),
        ([], ["RUN.json"]),
    ],
)
@pytest.mark.usefixtures("record")
def test_wrong_usage_is_a_one_line_error(
    tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    before = names(tmp_path)
    run("report", *(argument.format(folder=tmp_path) for argument in arguments)).failed(2, *words)
    assert names(tmp_path) == before


def test_a_record_of_another_schema(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"schema": "bnfold.report/9"}')
    run("report", path).failed(2, "'bnfold.report/9'", "'bnfold.report/1'")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_record_is_read_as_powershell_writes_it(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "run.json"
    assert run("check", REWRITTEN, REWRITTEN, "--truth", "off", "--report", path).code == 0
    expected = run("report", path)
    path.write_text(path.read_text("utf-8"), encoding)
    assert run("report", path) == expected
    assert expected.code == 0
