"""Pictures show their numbers, and are small."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import replace

import pytest

from bnfold.record.data import SHARES, NodeSketch, TruthOutput
from bnfold.report import drawing, pictures
from bnfold.report.changes import OperatorChange
from bnfold.report.sketches import MOST_NODES, in_words, typical
from tests.support.pages import Element, parse
from tests.support.records import BRANCHES, CONV_BN, compared, fold, merge, output, speed, strip


def element(svg: str) -> Element:
    (picture,) = parse(svg).all("svg")
    return picture


def texts(svg: str) -> list[str]:
    return [label.text for label in element(svg).all("text")]


def test_yardsticks_name_each_output_and_series() -> None:
    svg = pictures.yardsticks(compared(), "one")
    assert {"logits", "features", "noise floor", "tolerance", "disabled", "all"} <= {*texts(svg)}
    assert "logits 9.90e-06 of 5.50e-04" in element(svg).attributes["aria-label"]


def test_values_that_a_logarithmic_scale_cannot_show_are_omitted() -> None:
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


def test_an_outlier_does_not_hide_the_rest() -> None:
    record = deepcopy(speed())
    record.samples[0].run_ms["optimized"].append(record.original_ms / 1000)
    record.samples[0].run_ms["original"].append(record.original_ms)
    ticks = [float(text) for text in texts(pictures.speed(record, "one")) if re.match(r"\d", text)]
    assert max(ticks) < 2


def test_bars_are_labelled_with_their_counts() -> None:
    svg = pictures.operators([OperatorChange("Conv", 12, 7)], "one")
    assert {"Conv", "12", "7", "before", "after"} <= {*texts(svg)}


@pytest.mark.parametrize("name", ["one", "two"])
def test_ids_start_with_the_name_of_the_picture(name: str) -> None:
    root = element(pictures.speed(speed(), name))
    ids = [node.attributes["id"] for node in root.all() if "id" in node.attributes]
    assert ids
    assert all(id_.startswith(f"{name}-") for id_ in ids)


def test_a_picture_is_deterministic_and_small() -> None:
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


def counted(labels: list[str]) -> dict[str, int]:
    return {label: labels.count(label) for label in labels}


def test_without_nodes_after_it_the_value_passes_through() -> None:
    assert in_words(strip("/d")) == "before: Dropout; after: nothing, the value passes through"
    svg = drawing.neighbourhood([NodeSketch("Dropout", [-1])], [], "one", "words")
    assert texts(svg).count("Dropout") == 1


@pytest.mark.parametrize("reads", [[5], [0], [1], [-7], []])
def test_an_inconsistent_drawing_is_still_drawn(reads: list[int]) -> None:
    sketch = [NodeSketch("Conv", reads), NodeSketch("Relu", [0])]
    assert "Relu" in texts(drawing.neighbourhood(sketch, [], "one", "words"))


def test_the_typical_rewrite_has_the_most_common_shape() -> None:
    passes_a_pool = [CONV_BN[0], NodeSketch("MaxPool", [0]), NodeSketch("BatchNormalization", [1])]
    rare = fold("/rare", before=passes_a_pool)
    assert typical([rare, fold("/a"), fold("/b")]) == fold("/a")


def test_large_or_unknown_neighbourhoods_are_not_drawn() -> None:
    large = replace(merge("/x"), before=[NodeSketch("Conv", [-1])] * (MOST_NODES + 1))
    assert typical([large, replace(large, before=[])]) is None
