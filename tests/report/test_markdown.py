"""The Markdown is short and renders the same everywhere."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from bnfold.report import markdown
from bnfold.report.wording import shortened
from tests.support.pages import Element, parse
from tests.support.records import HOSTILE_NAMES, RECORDS, hostile, output, speed

COLUMNS = {"rewritten by": 4, "kept": 4, "operators": 4, "output": 8, "speed": 5}


def rendered(text: str) -> Element:
    return parse(MarkdownIt("commonmark").enable("table").render(text))


def page(name: str) -> Element:
    return rendered(markdown.render(RECORDS[name]()))


@pytest.mark.parametrize("name", RECORDS)
def test_it_has_at_most_60_lines(name: str) -> None:
    text = markdown.render(RECORDS[name]())
    assert len(text.splitlines()) <= markdown.MOST_LINES
    assert text.endswith("\n")


def test_it_has_at_most_60_lines_for_a_large_record() -> None:
    record = replace(hostile(), speed=[speed()] * 20)
    text = markdown.render(record)
    assert len(text.splitlines()) <= markdown.MOST_LINES
    assert len(re.findall("^… and [0-9]+ more$", text, re.MULTILINE)) == 5


@pytest.mark.parametrize("name", RECORDS)
def test_its_tables_are_tables(name: str) -> None:
    root = page(name)
    assert len(root.all("h3")) == 1
    for table in root.all("table"):
        heads = [cell.text for cell in table.all("thead")[0].all("th")]
        assert len(heads) == COLUMNS[heads[0]]
        for row in table.all("tbody")[0].all("tr"):
            assert len(row.all("td")) == len(heads)
            assert all(cell.text for cell in row.all("td"))


def test_it_shows_what_matters() -> None:
    text = page("pass").text
    for words in (
        "✅ bnfold: pass, resnet.onnx",
        "the worst element uses 2.4 % of its tolerance",
        "BatchNormalization 53 → 3",
        "fold-batchnorm rounded BatchNormalization into Conv 48",
        "TRAINING_MODE",
        "bnfold optimize models/resnet.onnx 'out dir/fast.onnx'",
    ):
        assert words in text


def test_a_failure_names_its_culprit_first() -> None:
    heading, first, *_ = page("fail").all("h3", "p")
    assert "❌ bnfold: fail" in heading.text
    assert "because of merge-branches at /add" in first.text


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_are_harmless(name: str) -> None:
    shown = shortened(name)
    for text in (markdown.code(name), markdown.plain(shown)):
        root = rendered(f"### {text}\n")
        assert {element.tag for element in root.all()} <= {"h3", "code"}
        assert len(root.text) > 3


def test_hostile_names_add_no_elements_to_the_page() -> None:
    text = {"h3", "p", "strong", "code", "br", "sub"}
    assert {element.tag for element in page("hostile").all()} == {
        *text,
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }


@pytest.mark.parametrize("text", ["a|b", "`", "``a`", "a\\", "\\`", " ", "", "a``b`c", "\\|"])
def test_a_code_span_holds_all_of_its_text(text: str) -> None:
    (code,) = rendered(f"x {markdown.code(text)} y").all("code")
    assert "".join(map(str, code.children)).strip() == text.strip()


def test_mentions_are_escaped() -> None:
    assert "@team" not in markdown.plain("ask @team")


def test_the_worst_of_many_outputs_are_shown() -> None:
    record = RECORDS["pass"]()
    assert record.equivalence is not None
    (provider,) = record.equivalence.providers
    provider.levels[1].outputs.extend(output(f"small{n}", 0.001) for n in range(50))
    provider.levels[1].outputs.append(output("large", 0.9))
    record.speed.extend(speed() for _ in range(20))
    text = markdown.render(record)
    assert len(text.splitlines()) <= markdown.MOST_LINES
    tables = rendered(text).all("table")
    (table,) = [table for table in tables if table.text.startswith("output")]
    assert "large" in table.all("tbody")[0].all("tr")[0].text
    assert "… and 50 more" in text
