"""What two models hold and compute, and where their time goes, side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bnfold.record.data import ModelProfile, NodeDifference, OperatorTime
from bnfold.report import html, markdown
from bnfold.report.figures import (
    figure_rows,
    figures_line,
    in_units,
    interface,
    node_changes,
    relative,
    shown_time_rows,
    time_line,
    time_rows,
)
from tests.support.pages import Element, parse
from tests.support.records import RECORDS, figures, optimized, speed

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (100, 100, "0"),
        (0, 0, "0"),
        (0, 5, "new"),
        (100, 90, "−10 %"),
        (100, 0, "−100 %"),
        (3, 4, "+33.3 %"),
        (1, 30, "+2,900 %"),
        (10**9, 10**9 - 1, "< 0.01 %"),
    ],
)
def test_a_change_is_in_percent(before: int, after: int, text: str) -> None:
    assert relative(before, after) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([25_600_000, 25_550_000], "25.6 → 25.55 M"),
        ([25_600_000, 25_600_001], "25.6 M"),
        ([999], "999"),
        ([0, 0], "0"),
        ([2e12], "2 T"),
        ([1_500_000, 900], "1.5 → 0.0009 M"),
    ],
)
def test_large_numbers_have_the_unit_of_the_first(numbers: list[float], text: str) -> None:
    assert in_units(*numbers) == text


def test_figures_of_both_models() -> None:
    rows = {row.title: (row.before, row.after, row.change) for row in figure_rows(optimized())}
    assert rows["nodes"] == ("172", "122", "−29.1 %")
    assert rows["parameters"] == ("25,600,000", "25,550,000", "−0.195 %")
    assert rows["multiply-adds"] == ("4,100,000,000", "4,100,000,000", "0")
    assert rows["bytes, with external data"][0] == "102,400,000"
    assert "not counted" not in " ".join(rows)
    assert figures_line(optimized()) == (
        "25.6 → 25.55 M parameters, 4.1 G multiply-adds, 102.4 → 102.2 MB"
    )


def test_figures_of_one_model_and_of_none() -> None:
    alone = replace(RECORDS["bench alone"](), figures=[replace(figures(), unknown=3)])
    rows = [(row.title, row.before, row.after) for row in figure_rows(alone)]
    assert rows[0] == ("parameters", "25,600,000", "–")
    assert rows[-1] == ("operators of unknown sizes, not counted", "3", "–")
    assert figures_line(RECORDS["older"]()) == ""
    assert [row.title for row in figure_rows(RECORDS["older"]())] == ["nodes"]
    assert figure_rows(RECORDS["explain"]()) == []
    assert figures_line(replace(alone, figures=[replace(figures(), bytes=950)])).endswith(" 950 B")


def test_the_interface_of_both_models() -> None:
    assert interface([]) is None
    same = interface([figures(), figures()])
    assert same is not None
    assert same.is_same
    assert [(side, name) for side, name, *_ in same.values] == [
        ("input", "images"),
        ("output", "logits"),
        ("output", "features"),
    ]
    other = interface([figures(), figures(inputs="image")])
    assert other is not None
    assert not other.is_same
    assert other.values[:2] == [
        ("input", "images", "float32[N,3,224,224]", ""),
        ("input", "image", "", "float32[N,3,224,224]"),
    ]


def test_nodes_that_differ() -> None:
    nodes = NodeDifference(
        gone={"a": "Conv"},
        new={"b": "Gemm"},
        changed={"c": ["Relu", "Relu"], "d": ["Add", "Conv"], "of a damaged record": []},
    )
    assert node_changes(nodes) == [
        ("c", "rewired", "Relu", "Relu"),
        ("d", "replaced", "Add", "Conv"),
        ("a", "gone", "Conv", "–"),
        ("b", "new", "–", "Gemm"),
    ]
    assert node_changes(None) == []


# --- Where time goes ------------------------------------------------------------------------------


def profile(**ms: float) -> ModelProfile:
    operators = [OperatorTime(name, 2, each) for name, each in ms.items()]
    return ModelProfile(9, sum(ms.values()), operators, [])


def test_operators_of_either_model_are_listed_the_longest_first() -> None:
    rows = time_rows([profile(Conv=5.0, BatchNormalization=2.0), profile(Conv=4.5, FusedConv=3)])
    assert [(row.op_type, row.nodes, row.ms, row.change) for row in rows] == [
        ("Conv", [2, 2], [5.0, 4.5], "−0.5"),
        ("FusedConv", [0, 2], [0.0, 3], "+3"),
        ("BatchNormalization", [2, 0], [2.0, 0.0], "−2"),
        ("all nodes", [4, 4], [7.0, 7.5], "+0.5"),
    ]
    assert time_rows([profile(Conv=5.0)])[0].change == "–"
    assert time_rows([profile(Conv=5.0), profile(Conv=5.0)])[0].change == "0"


def test_operators_that_take_little_are_one_row() -> None:
    rows = shown_time_rows([profile(Conv=99.0, Relu=0.5, Add=0.25)])
    assert [(row.op_type, row.nodes, row.ms) for row in rows] == [
        ("Conv", [2], [99.0]),
        ("2 others", [4], [0.75]),
        ("all nodes", [6], [99.75]),
    ]
    one = shown_time_rows([profile(Conv=99.0, Relu=0.5)])
    assert [row.op_type for row in one] == ["Conv", "Relu", "all nodes"]
    assert [row.op_type for row in shown_time_rows([profile()])] == ["all nodes"]


def test_a_line_names_what_takes_longest() -> None:
    assert time_line(optimized()).startswith("Conv 16 → 14.29, Add 2.4 → 2.4, ")
    assert time_line(optimized()).endswith(", all nodes 18.53 → 16.82 ms")
    assert time_line(RECORDS["older"]()) == ""


# --- On the page ----------------------------------------------------------------------------------


def table(name: str, caption: str) -> list[list[str]]:
    """Return the rows of the table whose caption begins so."""
    root = parse(html.render(RECORDS[name]()))
    (found,) = [t for t in root.all("table") if t.own("caption")[0].text.startswith(caption)]
    return [[cell.text for cell in row.own("th", "td")] for row in found.own("tr")]


def test_the_page_has_the_time_by_operator_and_the_nodes_that_take_longest() -> None:
    rows = table("pass", "Milliseconds in a run")
    assert rows[1] == ["Conv", "53 → 53", "16 → 14.29", "−1.71"]
    assert rows[-1][0] == "all nodes"
    longest = table("pass", "The nodes that take longest, original")
    assert longest[1] == ["/layer1/conv0", "Conv", "1.5", "8.09 %"]
    assert len(longest) == 11
    assert len(table("pass", "The nodes that take longest, optimized")) == 11


def test_the_page_says_why_the_time_by_operator_is_missing() -> None:
    text = parse(html.render(RECORDS["hasty"]())).text
    assert "The time by operator was not measured: the time is too short." in text
    assert "(no interval)" in text
    assert "time by operator" not in parse(html.render(RECORDS["older"]())).text.casefold()


def test_the_page_has_figures_interface_and_nodes_of_both_models() -> None:
    assert ["parameters", "25,600,000", "25,550,000", "−0.195 %"] in table("pass", "Size and cost")
    assert table("pass", "Inputs and outputs, the same")[1] == [
        "input",
        "images",
        "float32[N,3,224,224]",
    ]
    assert table("check", "Inputs and outputs, which differ")[1:3] == [
        ["input", "images", "float32[N,3,224,224]", "–"],
        ["input", "image", "–", "float16[1,3,224,224]"],
    ]
    rows = table("pass", "Each node that differs")
    assert rows[1] == ["/layer0/bn_output", "replaced", "BatchNormalization", "Conv"]
    assert len(rows) == 1 + 96
    assert "No node differs in its operator" in text_of("check").text


def text_of(name: str) -> Element:
    return parse(html.render(RECORDS[name]()))


def test_every_rendering_says_when_the_run_was_and_how_long_it_took() -> None:
    said = "2026-03-01 08:30:00 UTC, took 1 min 12 s"
    assert text_of("pass").text.count(said) == 2
    assert said in markdown.render(optimized())
    for text in (text_of("older").text, markdown.render(RECORDS["older"]())):
        assert "took" not in text
        assert "UTC" not in text


def test_only_a_timing_with_all_optimizations_is_profiled() -> None:
    assert [bool(each.profile) for each in (speed(), speed(1.31, "disabled"))] == [True, False]
