"""The row of an output: its differences at all levels, and the most of its tolerance."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bnfold.record.data import LevelComparison
from bnfold.report import html
from bnfold.report.outputs import OutputRow, output_rows
from tests.support.pages import parse
from tests.support.records import RECORDS, compared, equivalence, output


def rows(*levels: LevelComparison) -> list[OutputRow]:
    provider = compared()
    provider = replace(provider, levels=list(levels)) if levels else provider
    return output_rows(provider, equivalence())


def test_an_output_has_the_difference_at_each_level_and_the_largest_share() -> None:
    logits, features = rows()
    provider = compared()
    assert logits.errors == [level.outputs[0].max_abs for level in provider.levels]
    assert features.errors == [level.outputs[1].max_abs for level in provider.levels]
    assert (logits.share, features.share) == pytest.approx((0.024, 0.008))
    assert logits.floor == provider.noise_floor[0].max_abs
    assert logits.truth is not None
    assert logits.truth.name == "logits"


def test_what_is_not_known_is_left_out() -> None:
    logits, features = rows(
        LevelComparison("disabled", "pass", [output("logits", 0.5), output("features", 0.1)]),
        LevelComparison("all", "fail", [output("logits", needed=None)]),
    )
    assert logits.share is None
    assert features.errors[1] is None
    assert features.share == pytest.approx(0.1)


@pytest.mark.usefixtures("without_pictures")
def test_more_than_the_tolerance_is_red() -> None:
    for name, is_red in (("pass", False), ("fail", True)):
        root = parse(html.render(RECORDS[name]()))
        (table,) = [t for t in root.all("table") if t.text.startswith("Outputs, the largest")]
        marked = [each.attributes["class"] for each in table.all("span")]
        assert marked == (["is bad"] * 2 if is_red else [])
