"""Pictures show the numbers that they are made from, and are small."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from bnfold.record.data import SHARES, NodeSketch, TruthOutput
from bnfold.report import drawing, pictures
from bnfold.report.sketches import MOST_NODES, in_words, typical
from bnfold.report.summary import OperatorChange
from tests.support.pages import Element, parse
from tests.support.records import BRANCHES, CONV_BN, compared, fold, merge, output, speed, strip


def element(svg: str) -> Element:
    (picture,) = parse(svg).all("svg")
    return picture


def texts(svg: str) -> list[str]:
    return [each.text for each in element(svg).all("text")]


def test_yardsticks_name_each_output_and_what_stands_beside_it() -> None:
    svg = pictures.yardsticks(compared(), "one")
    assert {"logits", "features", "noise floor", "tolerance", "disabled", "all"} <= {*texts(svg)}
    assert "logits 9.90e-06 of 5.50e-04" in element(svg).attributes["aria-label"]


def test_what_has_no_place_on_a_logarithmic_scale_is_left_out() -> None:
    exact = output(max_abs=0.0)
    wild = output("wild", max_abs=float("inf"))
    provider = compared(outputs=[exact, wild], levels=[], noise_floor=[exact, wild])
    svg = pictures.yardsticks(provider, "one")
    assert {"logits", "wild"} <= {*texts(svg)}
    assert "nan" not in svg


def test_the_distribution_counts_elements() -> None:
    svg = pictures.distribution([("disabled", output()), ("all", output(share=0.5))], "one")
    assert "fails" in texts(svg)
    assert "1,800 up to 1e-3" in element(svg).attributes["aria-label"]
    assert len(output().shares) == len(SHARES) + 1


def test_the_truth_is_drawn_before_and_after() -> None:
    svg = pictures.truth([TruthOutput("logits", "float32", 4e-7, 3e-7, 5e-8)], "one")
    assert {"original", "optimized", "logits"} <= {*texts(svg)}
    assert "4.00e-07 → 3.00e-07" in element(svg).attributes["aria-label"]


def test_speed_draws_samples_and_the_control() -> None:
    record = speed()
    svg = pictures.speed(record, "one")
    assert {"optimized", "control"} <= {*texts(svg)}
    assert len(element(svg).all("use")) > 100
    assert "optimized" not in texts(pictures.speed(speed(alone=True), "one"))


def test_one_hiccup_does_not_hide_the_rest() -> None:
    record = speed()
    record.samples[0].run_ms["optimized"].append(record.original_ms / 1000)
    record.samples[0].run_ms["original"].append(record.original_ms)
    ticks = [float(each) for each in texts(pictures.speed(record, "one")) if re.match(r"\d", each)]
    assert max(ticks) < 2


def test_operators_are_counted_at_their_bars() -> None:
    svg = pictures.operators([OperatorChange("Conv", 12, 7)], "one")
    assert {"Conv", "12", "7", "before", "after"} <= {*texts(svg)}


@pytest.mark.parametrize("name", ["one", "two"])
def test_ids_are_the_pictures_own(name: str) -> None:
    root = element(pictures.speed(speed(), name))
    ids = [each.attributes["id"] for each in root.all() if "id" in each.attributes]
    assert ids
    assert all(each.startswith(f"{name}-") for each in ids)


def test_a_picture_is_the_same_each_time_and_small() -> None:
    svg = pictures.speed(speed(), "one")
    assert svg == pictures.speed(speed(), "one")
    assert len(svg) < 50_000


def test_dollar_signs_are_text() -> None:
    svg = pictures.operators([OperatorChange("$\\alpha$", 1, 0), OperatorChange("$", 1, 0)], "one")
    assert "$\\alpha$" in texts(svg)


# --- Neighbourhoods -------------------------------------------------------------------------------


def test_a_neighbourhood_shows_both_sides() -> None:
    svg = drawing.neighbourhood(BRANCHES, [NodeSketch("Conv", [-1])], "one", "words")
    assert counted(texts(svg)) == {"before": 1, "after": 1, "Conv": 3, "Add": 1}
    assert element(svg).attributes["aria-label"] == "words"


def counted(found: list[str]) -> dict[str, int]:
    return {each: found.count(each) for each in found}


def test_where_nothing_is_left_the_value_passes() -> None:
    assert in_words(strip("/d")) == "before: Dropout; after: nothing, the value passes"
    svg = drawing.neighbourhood([NodeSketch("Dropout", [-1])], [], "one", "words")
    assert texts(svg).count("Dropout") == 1


@pytest.mark.parametrize("reads", [[5], [0], [1], [-7], []])
def test_a_drawing_that_makes_no_sense_is_drawn_all_the_same(reads: list[int]) -> None:
    sketch = [NodeSketch("Conv", reads), NodeSketch("Relu", [0])]
    assert "Relu" in texts(drawing.neighbourhood(sketch, [], "one", "words"))


def test_the_typical_rewrite_is_of_the_most_frequent_shape() -> None:
    passes_a_pool = [CONV_BN[0], NodeSketch("MaxPool", [0]), NodeSketch("BatchNormalization", [1])]
    rare = fold("/rare", before=passes_a_pool)
    assert typical([rare, fold("/a"), fold("/b")]) == fold("/a")


def test_what_is_too_large_or_unknown_is_not_drawn() -> None:
    large = replace(merge("/x"), before=[NodeSketch("Conv", [-1])] * (MOST_NODES + 1))
    assert typical([large, replace(large, before=[])]) is None
