"""The rows of a page's table of rewrites."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bnfold.record.data import PassRecord
from bnfold.report import html
from bnfold.report.rewrites import rewrite_rows
from tests.report.noted import LINEAR, certified, differing, exact, sampled
from tests.support.pages import parse
from tests.support.records import fold, merge, optimized, strip

FOLDING = PassRecord("fold-batchnorm", "rounded", "Fold it.\n\n    y = x\n\nOnly if.\n\nROUNDED.")


def test_kinds_of_one_pass_are_side_by_side_and_the_first_has_the_identity() -> None:
    rewrites = [
        *(fold(f"/a{n}") for n in range(3)),
        *(merge(f"/m{n}") for n in range(2)),
        fold("/b", detail="into Gemm"),
        strip("/d"),
    ]
    rows = rewrite_rows(optimized(rewrites=rewrites, passes=[FOLDING]))
    assert [(row.pass_name, len(row.rewrites), row.is_first) for row in rows] == [
        ("fold-batchnorm", 3, True),
        ("fold-batchnorm", 1, False),
        ("merge-branches", 2, True),
        ("strip-dropout", 1, True),
    ]
    identity = rows[0].identity
    assert identity is not None
    assert (identity.lead, identity.formulas) == ("Fold it.", ["y = x"])
    assert (identity.conditions, identity.exactness) == (["Only if."], "ROUNDED.")
    assert [row.identity for row in rows[1:]] == [None, None, None]
    assert [row.summary for row in rows[:3]] == [
        "drawing, identity and 3 sites",
        "drawing and 1 site",
        "drawing and 2 sites",
    ]
    assert [row.key for row in rows] == ["rewrite-0", "rewrite-2", "rewrite-1", "rewrite-3"]


def test_a_rewrite_without_a_drawing_has_its_sites() -> None:
    (row,) = rewrite_rows(optimized(rewrites=[fold("/a", before=[], after=[])]))
    assert (row.summary, row.words) == ("1 site", "")


def test_a_row_says_how_many_are_certified_and_how() -> None:
    record = certified(LINEAR, replace(LINEAR, bound=2e-6), exact("copying"), sampled(), None)
    (row,) = rewrite_rows(record)
    assert row.proven == "3 of 5: 2 linear, 1 copying, 1 sampled, 1 not tried"
    assert row.bound == 2e-6
    (row,) = rewrite_rows(certified(LINEAR, LINEAR))
    assert row.proven == "2 of 2: linear"
    (row,) = rewrite_rows(certified(differing()))
    assert (row.proven, row.bound) == ("0 of 1: differs", None)


@pytest.mark.usefixtures("without_pictures")
def test_all_that_a_row_unfolds_to_is_below_it() -> None:
    root = parse(html.render(optimized(passes=[FOLDING])))
    (table,) = [t for t in root.all("table") if t.text.startswith("Rewrites by pass")]
    rows = table.own("tbody")[0].own("tr")
    assert [row.attributes["class"] for row in rows] == ["lead", "more"] * 3
    assert rows[0].text == "fold-batchnorm rounded BatchNormalization into Conv 48"
    (unfolded,) = rows[1].own("details")[:1]
    assert "open" not in unfolded.attributes
    for words in ("drawing, identity and 48 sites", "Fold it.", "/layer47/bn", "before: Conv"):
        assert words in unfolded.text
