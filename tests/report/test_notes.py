"""All renderings say what the numbers of a check do not: which samples count, and why it passes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from bnfold.record.data import (
    Divergence,
    LevelComparison,
    ProviderEquivalence,
    Record,
    Truth,
    TruthOutput,
)
from bnfold.report import html, markdown
from bnfold.report.notes import (
    Name,
    Sentence,
    counted,
    divergence_note,
    draws_note,
    exact_note,
    joined,
    no_truth_note,
    output_notes,
    remarks,
    unit_note,
)
from bnfold.report.summary import headline
from tests.report.noted import noted, without_new_fields
from tests.report.test_agreement import on_a_terminal
from tests.support.pages import Element, parse
from tests.support.records import HOSTILE_NAMES, equivalence, hostile, output, speed

pytestmark = pytest.mark.usefixtures("without_pictures")

NOTES = (
    "the two models first diverge at boxes (Sigmoid /net/act): max |Δ| 1.25e-03; "
    "12 values compared",
    "output mask of the original is 0 throughout and proves nothing",
    "the original's rounding noise is estimated from 7 runs",
    "beyond its tolerance, but the original's own rounding is as large (float64)",
    "1 element beyond tolerance is ignored: the last bit decides its step",
    "3 elements beyond tolerance are ignored: the last bit decides their step",
    "2 rows changed places: the values that order them tie",
)


def renderings(record: Record) -> dict[str, str]:
    """Return the text of every rendering, with single spaces."""
    texts = {
        "terminal": on_a_terminal(record),
        "Markdown": rendered(record).text,
        "HTML": parse(html.render(record)).text,
    }
    return {where: " ".join(text.split()) for where, text in texts.items()}


def rendered(record: Record) -> Element:
    return parse(MarkdownIt("commonmark").enable("table").render(markdown.render(record)))


def with_provider(record: Record, **changes: Any) -> Record:
    """Return the record with these changes to what is said of its provider."""
    assert record.equivalence is not None
    (provider,) = record.equivalence.providers
    changed = replace(provider, **changes)
    return replace(record, equivalence=replace(record.equivalence, providers=[changed]))


# --- All renderings -------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["terminal", "Markdown", "HTML"])
def test_every_rendering_has_all_notes(where: str) -> None:
    text = renderings(noted())[where].replace("( ", "(").replace(" )", ")").casefold()
    assert not [note for note in NOTES if note.casefold() not in text]


@pytest.mark.parametrize("where", ["terminal", "Markdown", "HTML"])
def test_every_rendering_says_how_many_samples_count_where_not_all_do(where: str) -> None:
    text = renderings(noted())[where]
    assert "2 of 3 samples" in text
    assert "3 of 3 samples" not in text


def test_every_rendering_says_how_far_the_two_differ_in_float64() -> None:
    texts = renderings(noted())
    assert "logits 4.10e-04 3.80e-04 1.6e-03 5.20e-05 0.25" in texts["terminal"]
    far = "3.2 times what rounding explains, at index 3 of axis 1, sample 0"
    assert far in texts["terminal"]
    assert "5.20e-05 (0.25 × rounding)" in texts["Markdown"]
    assert far in texts["Markdown"]
    assert "5.20e-05, 0.25 times what rounding explains at [0, 1]" in texts["HTML"]
    assert "3.2 times what rounding explains at index 3 of axis 1, sample 0" in texts["HTML"]


@pytest.mark.parametrize("where", ["terminal", "Markdown", "HTML"])
def test_every_rendering_names_a_rounding_unit_that_is_not_the_type(where: str) -> None:
    text = renderings(noted())[where]
    assert text.count("rounding unit float16") >= 1
    assert "rounding unit float32" not in text


@pytest.mark.parametrize("where", ["terminal", "Markdown", "HTML"])
@pytest.mark.parametrize(
    ("truth", "note"),
    [
        (Truth(0, "it takes too long"), "o float64 evaluation: it takes too long"),
        (Truth(1, "all round", needless=True), "loat64 evaluation not needed: all round"),
    ],
)
def test_every_rendering_says_why_there_is_no_float64_evaluation(
    where: str, truth: Truth, note: str
) -> None:
    assert note in renderings(with_provider(noted(), truth=truth))[where]


def test_the_headline_names_what_is_inconclusive_and_what_passes_by_float64() -> None:
    meaning = headline(noted()).meaning
    assert "3 outputs on cpu, 1 inconclusive" in meaning
    assert "the worst element uses" not in meaning  # elements of boxes are ignored
    assert "1 output exceeds its tolerance, but the original's own rounding is as large" in meaning


def test_an_output_that_passes_by_float64_is_not_the_worst() -> None:
    outputs = [output("a", 3.0, by_float64=True), output("b", 3.0, by_float64=True), output("c")]
    record = with_provider(noted(), levels=[LevelComparison("all", "pass", outputs)])
    meaning = headline(record).meaning
    assert "the worst element uses 2 % of its tolerance" in meaning
    assert "2 outputs exceed their tolerance" in meaning


@pytest.mark.parametrize("where", ["terminal", "Markdown", "HTML"])
def test_a_record_of_an_earlier_version_has_no_notes(tmp_path: Path, where: str) -> None:
    record = without_new_fields(noted(), tmp_path)
    text = renderings(record)[where]
    assert "logits" in text
    for words in (
        "diverge",
        "proves nothing",
        "estimated from",
        "as large",
        "ignored:",
        "changed places",
        "of 3 samples",
        "rounding explains",
        "× rounding",
        "rounding unit",
    ):
        assert words not in text


def test_without_notes_nothing_is_added() -> None:
    page = rendered(with_provider(noted(), levels=[], truth=None, inconclusive=[], draws=0))
    assert len(page.all("li")) == 1  # the divergence


# --- Each rendering -------------------------------------------------------------------------------


def test_notes_fit_a_terminal_of_80_columns() -> None:
    lines = on_a_terminal(noted(), 80).splitlines()
    assert len(lines) > 20
    assert not [line for line in lines if len(line) > 80]


def test_on_a_terminal_notes_follow_the_numbers() -> None:
    lines = [line.strip() for line in on_a_terminal(noted()).splitlines()]
    (at,) = [place for place, line in enumerate(lines) if line.split() == ["labels", "equal"]]
    (note,) = [place for place, line in enumerate(lines) if line.startswith("labels (disabled): ")]
    assert at < note
    assert lines[note].endswith(
        "3 elements beyond tolerance are ignored: the last bit decides their step"
    )


def test_markdown_stays_within_60_lines_with_any_notes() -> None:
    names = [f"output{number}" for number in range(50)]
    levels = [
        LevelComparison("all", "pass", [output(name, excused=1, exchanged=1) for name in names])
    ]
    record = with_provider(replace(hostile(), speed=[speed()] * 20), levels=levels, draws=3)
    text = markdown.render(record)
    assert len(text.splitlines()) <= markdown.MOST_LINES
    assert "- … and 97 more\n" in text


def test_a_page_with_many_notes_says_how_many_it_omits() -> None:
    outputs = [output(f"output{number}", excused=1) for number in range(50)]
    record = with_provider(noted(), levels=[LevelComparison("all", "pass", outputs)])
    text = parse(html.render(record)).text
    assert text.count("is ignored: the last bit") == 12
    assert "and 38 more, which the JSON record lists" in text


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_in_notes_are_harmless(name: str) -> None:
    record, harmless = noted(f"{name}0", f"{name}1", f"{name}2", f"{name}3"), noted()
    for render in (lambda record: parse(html.render(record)), rendered):
        page, usual = render(record), render(harmless)
        assert [p.tag for p in page.all("p", "li")] == [p.tag for p in usual.all("p", "li")]
        assert {element.tag for element in page.all()} == {element.tag for element in usual.all()}
    lines = on_a_terminal(record, 10**6).splitlines()
    assert len(lines) == len(on_a_terminal(harmless, 10**6).splitlines())
    assert "\x1b" not in "".join(lines)


# --- Sentences ------------------------------------------------------------------------------------


def spelled(parts: Sentence) -> str:
    return joined(parts, plain=str, name=lambda text: f"<{text}>")


def test_names_are_told_from_text() -> None:
    assert joined(["in ", Name("x")], plain=str.upper, name=repr) == "IN 'x'"


def test_a_divergence_at_a_node_without_a_name() -> None:
    place = Divergence("h", "Relu", "", 1, 0.5, None)
    assert spelled(divergence_note(place)) == (
        "the two models first diverge at <h> (<Relu>): max |Δ| 5.00e-01; 1 value compared"
    )


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (None, ""),
        (0.0, "in float64, the two are equal"),
        (0.001, "in float64, the two differ by 5.00e-08, < 0.01 times what rounding explains"),
        (0.451, "in float64, the two differ by 5.00e-08, 0.45 times what rounding explains"),
        (
            1234.5,
            "in float64, the two differ by 5.00e-08, 1,234 times what rounding explains, at [0]",
        ),
        (
            math.inf,
            "in float64, the two differ by 5.00e-08, > 1,000,000 times what rounding explains, "
            "at [0]",
        ),
    ],
)
def test_the_difference_in_float64(ratio: float | None, text: str) -> None:
    found = TruthOutput("y", "float32", 1e-7, 1e-7, 5e-8, ratio=ratio, where="[0]")
    assert exact_note(found) == text


def test_a_rounding_unit_is_named_if_it_is_known_and_another_type() -> None:
    found = TruthOutput("y", "float16", 1e-3, 1e-3, 5e-4)
    assert unit_note(found) == ""
    assert unit_note(replace(found, ratio=0.5)) == "rounding unit float32"
    assert unit_note(replace(found, ratio=0.5, unit="float16")) == ""


def test_why_there_is_no_float64_evaluation() -> None:
    known = TruthOutput("y", "float32", 1e-7, 1e-7, 5e-8)
    assert no_truth_note(Truth(1, "", [known])) == ""
    assert no_truth_note(Truth(0, "")) == ""
    assert no_truth_note(Truth(0, "too slow")) == "no float64 evaluation: too slow"


@pytest.mark.parametrize(("samples", "text"), [(0, ""), (1, "1 of 3 samples"), (3, ""), (5, "")])
def test_how_many_samples_count(samples: int, text: str) -> None:
    assert counted(output(samples=samples), equivalence()) == text
    assert counted(output(samples=samples), replace(equivalence(), inputs=None)) == ""


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"excused": 1}, ["1 element beyond tolerance is ignored: the last bit decides its step"]),
        ({"exchanged": 1}, ["1 row changed places: the values that order them tie"]),
        ({"by_float64": True}, [NOTES[3]]),
    ],
)
def test_remarks_on_an_output(changes: dict[str, Any], found: list[str]) -> None:
    assert remarks(output(**changes)) == found


def test_a_remark_that_holds_at_both_levels_appears_once() -> None:
    twice = output("boxes", exchanged=2)
    (provider,) = equivalence().providers
    levels = [LevelComparison("disabled", "pass", [twice]), LevelComparison("all", "pass", [twice])]
    provider = replace(provider, levels=levels, tf32=[output("boxes", exchanged=1)])
    assert list(map(spelled, output_notes(provider))) == [
        "<boxes> (disabled and all): 2 rows changed places: the values that order them tie",
        "<boxes> (TF32 allowed): 1 row changed places: the values that order them tie",
    ]


@pytest.mark.parametrize(("draws", "runs"), [(0, ""), (1, "1 run"), (7, "7 runs")])
def test_how_often_the_noise_was_drawn(draws: int, runs: str) -> None:
    provider = ProviderEquivalence("cpu", "pass", "", [], [], [], draws=draws)
    assert draws_note(provider).endswith(runs)
    assert bool(draws_note(provider)) == bool(draws)
