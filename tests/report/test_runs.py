"""Several runs on one page: a table to compare them, then each of them, folded."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from bnfold.record.data import Record
from bnfold.report import html, markdown
from bnfold.report.runs import run_rows, title_of, tone_of_all, verdicts_of
from tests.report.noted import LINEAR, certified, unknown
from tests.support.cli import run
from tests.support.pages import Element, parse
from tests.support.records import HOSTILE_NAMES, RECORDS, hostile, optimized

NAMES = ("pass", "fail", "check", "bench alone", "explain", "identical", "older", "hasty")


def records() -> list[Record]:
    return [RECORDS[name]() for name in NAMES]


def page(*several: Record) -> Element:
    return parse(html.render_runs(several or records()))


# --- Rows -----------------------------------------------------------------------------------------


def test_a_row_has_what_matters() -> None:
    row = run_rows([optimized()])[0]
    assert (row.name, row.verdict, row.tone, row.share) == ("resnet.onnx", "pass", "good", "2.4 %")
    assert re.fullmatch(r"1\.1\d\d \[1\.\d{3}, 1\.\d{3}\]", row.speed)
    assert row.speed_tone == "good"
    assert (row.nodes, row.parameters) == ("172 → 122", "25.6 → 25.55 M")
    assert (row.megabytes, row.certified) == ("102.4 → 102.2", "–")
    assert row.when == "2026-03-01 08:30:00 UTC, took 1 min 12 s"


def test_what_does_not_apply_is_a_dash() -> None:
    row = run_rows([RECORDS["explain"]()])[0]
    assert {row.speed, row.ms, row.share, row.parameters, row.certified} == {"–"}
    assert run_rows([RECORDS["older"]()])[0].megabytes == "102.4 → 102.3"
    assert run_rows([certified(LINEAR, unknown())])[0].certified == "1 of 2"
    assert run_rows([RECORDS["hasty"]()])[0].speed == "not measured"


def test_models_of_one_name_are_told_apart_by_their_folders() -> None:
    made = [optimized(), RECORDS["check"](), RECORDS["bench"]()]
    assert [row.name for row in run_rows(made)] == [
        "resnet.onnx",
        "a.onnx and b.onnx",
        "a.onnx and b.onnx",
    ]
    other = replace(optimized(), model=replace(optimized().model, path="old/resnet.onnx"))
    names = [row.name for row in run_rows([optimized(), other])]
    assert names == ["models/resnet.onnx", "old/resnet.onnx"]


def test_the_worst_run_gives_the_tone() -> None:
    rows = run_rows(records())
    assert tone_of_all(rows) == "bad"
    assert tone_of_all([row for row in rows if row.tone == "good"]) == "good"
    assert verdicts_of(rows)[0] == ("pass", 4)
    assert title_of(rows).startswith("4 pass, 1 fail")


# --- HTML -----------------------------------------------------------------------------------------


def test_each_run_is_folded_below_the_table_and_linked() -> None:
    root = page(RECORDS["bench alone"](), RECORDS["bench alone"](), RECORDS["identical"]())
    ids = Counter(each.attributes["id"] for each in root.all() if "id" in each.attributes)
    assert not [name for name, number in ids.items() if number > 1]
    links = [link.attributes["href"] for link in root.all("a")]
    assert {link.removeprefix("#") for link in links} <= {*ids}
    assert links[:3] == ["#run-1-run", "#run-2-run", "#run-3-run"]
    for picture in root.all("svg"):
        for used in picture.all("use"):
            assert used.attributes["href"].removeprefix("#") in ids
    folded = [each for each in root.all("details") if each.attributes.get("class", "")[:3] == "run"]
    assert [each.attributes["class"] for each in folded] == [
        "run neutral",
        "run neutral",
        "run good",
    ]
    assert [len(each.all("svg")) for each in folded] == [3, 3, 1]


@pytest.mark.usefixtures("without_pictures")
def test_the_page_has_one_outline() -> None:
    root = page()
    assert len(root.all("html")) == len(root.all("main")) == len(root.all("h1")) == 1
    levels = [int(each.tag[1]) for each in root.all("h1", "h2", "h3", "h4")]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert root.all("h1")[0].text == "bnfold report on 8 runs"
    rows = root.all("table")[0].own("tbody")[0].own("tr")
    assert len(rows) == len(NAMES)
    assert "<title>4 pass, 1 fail" in html.render_runs(records())
    assert html.render_runs(records()) == html.render_runs(records())


@pytest.mark.usefixtures("without_pictures")
def test_hostile_names_are_harmless_on_a_page_of_several() -> None:
    tags = {each.tag for each in page(optimized(), RECORDS["fail"]()).all()}
    root = page(hostile(), hostile())
    assert {each.tag for each in root.all()} <= tags | {"dl", "dt", "dd", "br", "em", "small"}
    assert not root.all("script", "img")


# --- Markdown -------------------------------------------------------------------------------------


def test_markdown_has_a_table_and_the_page_of_each() -> None:
    text = markdown.render_runs(records())
    root = parse(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    assert root.all("h3")[0].text.startswith("❌ bnfold: 8 runs, 4 pass, 1 fail")
    rows = root.all("table")[0].all("tbody")[0].all("tr")
    assert rows[0].all("td")[0].text == "models/resnet.onnx"
    assert len(root.all("details")) == len(root.all("summary")) == len(rows) == len(NAMES)
    for record in records():
        assert markdown.render(record) in text


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_add_no_elements_to_markdown(name: str) -> None:
    def tags(path: str) -> list[str]:
        record = RECORDS["identical"]()
        record = replace(record, model=replace(record.model, path=path))
        text = markdown.render_runs([record, record])
        root = parse(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
        return [each.tag for each in root.all()]

    assert tags(name) == tags("usual.onnx")


# --- The command ----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, name in zip(paths, ("identical", "explain"), strict=True):
        path.write_text(RECORDS[name]().to_json())
    return paths


def test_the_command_renders_several_records(files: list[Path], tmp_path: Path) -> None:
    places = tmp_path / "runs.html", tmp_path / "runs.md"
    assert run("report", *files, "-o", places[0], "-o", places[1]).code == 0
    assert "bnfold report on 2 runs" in places[0].read_text("utf-8")
    printed = run("report", *files)
    assert (printed.code, printed.out) == (0, places[1].read_text("utf-8"))


def test_several_records_are_no_json(files: list[Path], tmp_path: Path) -> None:
    place = tmp_path / "runs.json"
    run("report", *files, "-o", place).failed(2, "one run", ".html or .md")
    run("report", *files, "--json").failed(2, "one run")
    assert not place.exists()
    run("report", *files, "-o", files[1].with_suffix(".md"), "-o", files[0]).failed(2, "RUN.json")
