"""The page is self-contained and shows the whole record, and no name breaks it."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from bnfold.record.data import PassRecord
from bnfold.report import drawing, html, pictures
from bnfold.report.wording import legible
from bnfold.rewriting.contract import Pass
from bnfold.rewriting.registry import all_passes
from tests.support.pages import Element, parse
from tests.support.records import HOSTILE_NAMES, RECORDS, fold, large, optimized

DRAWINGS = [
    (drawing, "neighbourhood"),
    *((pictures, each) for each in ("distribution", "operators", "speed", "times", "truth")),
    (pictures, "yardsticks"),
]
DRAWN: dict[tuple[str, str], str] = {}

TAGS_OF_PICTURES = {"svg", "g", "path", "text", "use", "defs", "clippath", "rect"}


@cache
def text_of_page(name: str) -> str:
    """Return a page. Most show the same pictures as another: each one is drawn once."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name_of_drawing in DRAWINGS:
            draw = getattr(module, name_of_drawing)
            patch.setattr(module, name_of_drawing, drawn_once(draw))
        return html.render(RECORDS[name]())


def drawn_once(draw: Callable[..., str]) -> Callable[..., str]:
    def once(*arguments: Any) -> str:
        key = draw.__name__, repr(arguments)
        if key not in DRAWN:
            DRAWN[key] = draw(*arguments)
        return DRAWN[key]

    return once


@cache
def page(name: str) -> Element:
    return parse(text_of_page(name))


pages = pytest.mark.parametrize("name", RECORDS)


@pages
def test_the_page_needs_nothing_else(name: str) -> None:
    elements = page(name).all()
    tags = {element.tag for element in elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    for element in elements:
        references = {key for key in element.attributes if key in ("src", "href", "srcset", "data")}
        within = element.tag == "a" and element.attributes["href"].startswith("#")
        assert element.tag == "use" or within or not references, element
        assert not [key for key in element.attributes if key.startswith("on")], element
    (style,) = [element for element in elements if element.tag == "style"]
    assert "url(" not in "".join(map(str, style.children))
    assert "@import" not in "".join(map(str, style.children))


@pages
def test_every_link_leads_to_a_place_on_the_page(name: str) -> None:
    root = page(name)
    places = {element.attributes.get("id") for element in root.all()}
    links = [link.attributes["href"].removeprefix("#") for link in root.all("a")]
    assert set(links) <= places
    headings = [h.attributes["id"] for h in root.all("h2")]
    assert links == (headings if len(headings) > 1 else [])


@pages
def test_the_page_has_a_proper_outline(name: str) -> None:
    root = page(name)
    assert root.all("html")[0].attributes["lang"] == "en"
    assert len(root.all("main")) == len(root.all("h1")) == len(root.all("title")) == 1
    headings = root.all("h1", "h2", "h3", "h4")
    levels = [int(heading.tag[1]) for heading in headings]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(heading.text for heading in headings)


@pages
def test_every_table_has_headers_and_a_caption(name: str) -> None:
    tables = page(name).all("table")
    assert tables
    for table in tables:
        assert len(table.own("caption")) == 1
        assert table.own("caption")[0].text
        head, body = table.own("thead")[0], table.own("tbody")[0]
        titles = [cell.text for cell in head.all("th")]
        assert all(cell.attributes.get("scope") == "col" for cell in head.all("th"))
        for row in body.own("tr"):
            cells = row.own("th", "td")
            if row.attributes.get("class") == "more":
                assert [cell.attributes["colspan"] for cell in cells] == [str(len(titles))]
                continue
            assert [cell.attributes["data-label"] for cell in cells] == titles, table.text
            assert [cell.attributes["scope"] for cell in row.own("th")] == ["row"]


@pages
def test_every_picture_has_an_alternative_and_a_caption(name: str) -> None:
    root = page(name)
    pictures = root.all("svg")
    assert all(picture.attributes["role"] == "img" for picture in pictures)
    assert all(len(picture.attributes["aria-label"]) > 20 for picture in pictures)
    assert len(root.all("figure")) == len(pictures)
    assert all(figure.all("figcaption")[0].text for figure in root.all("figure"))
    ids = Counter(node.attributes["id"] for node in root.all() if "id" in node.attributes)
    assert not [id_ for id_, count in ids.items() if count > 1]
    for picture in pictures:
        assert {element.tag for element in [picture, *picture.all()]} <= TAGS_OF_PICTURES
        for used in picture.all("use"):
            assert used.attributes["href"].removeprefix("#") in ids


def test_pictures_have_the_colours_of_the_page() -> None:
    for picture in page("tuned").all("svg"):
        styles = " ".join(element.attributes.get("style", "") for element in picture.all())
        assert "var(--" in styles
        assert not re.search("#[0-9a-f]{6}", styles)


def test_everything_is_drawn() -> None:
    alternatives = " ".join(picture.attributes["aria-label"] for picture in page("pass").all("svg"))
    for words in (
        "before: Conv, BatchNormalization; after: Conv",
        "Largest difference of each output",
        "Elements by share of tolerance",
        "against the float64 evaluation",
        "Speed against the original",
        "BatchNormalization 53 → 3",
    ):
        assert words in alternatives


@pytest.mark.slow  # `report` renders the same files in the quick tests, from a record as written
def test_the_same_record_gives_the_same_page() -> None:
    assert html.render(optimized()) == html.render(optimized())


def test_the_page_works_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    with_pictures = page("pass")
    assert with_pictures.all("svg")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    root = parse(html.render(optimized()))
    assert not root.all("svg", "figure")
    assert "bnfold[report]" in root.text
    assert "before: Conv, BatchNormalization; after: Conv" in root.text
    assert len(root.all("table")) == len(with_pictures.all("table"))


# --- Content --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("pass_", all_passes(), ids=lambda pass_: pass_.name)
def test_a_rewrite_is_shown_with_its_identity_and_exactness(pass_: Pass) -> None:
    described = PassRecord(pass_.name, pass_.exactness.value, pass_.documentation)
    record = optimized(rewrites=[fold("/bn", pass_name=pass_.name)], passes=[described])
    root = parse(html.render(record))
    lead, *_ = pass_.documentation.split("\n\n", 1)
    formulas = re.findall(r"(?:^ {4}\S.*\n?)+", pass_.documentation, re.MULTILINE)
    assert " ".join(lead.split()) in root.text
    assert formulas
    shown = " ".join(pre.text for pre in root.all("pre"))
    assert all(" ".join(formula.split()) in shown for formula in formulas)


@pytest.mark.usefixtures("without_pictures")
def test_a_pass_that_an_older_record_does_not_describe_has_no_identity() -> None:
    record = optimized(rewrites=[fold("/bn", pass_name="of-another-package")])
    assert "does not include the identity" in parse(html.render(record)).text


def test_each_site_is_listed() -> None:
    text = page("pass").text
    record = optimized()
    assert all(rewrite.site in text for rewrite in record.rewrites)
    assert all(refusal.site in text for refusal in record.refusals)


def test_a_refusal_says_why_and_how_to_enable_the_rewrite() -> None:
    text = page("pass").text
    assert "it uses the batch's own statistics" in text
    assert "export with model.eval()" in text


def test_a_failure_names_its_culprit_at_the_top_and_in_place() -> None:
    root = page("fail")
    assert "because of merge-branches at /add" in root.all("header")[0].text
    assert "Culprit The check fails with merge-branches at /add (3 branches" in root.text
    assert "3.731 at [0, 17] of sample 1, not 3.5" in root.text
    assert "Nothing was written." in root.text


def test_excluded_samples_are_listed() -> None:
    root = page("pass")
    assert "1 comparison excluded" in root.all("header")[0].text
    (table,) = [table for table in root.all("table") if "by their last bit" in table.text]
    assert table.all("tbody")[0].text == "2 features 3.4 %"


def test_a_dropped_culprit_is_listed_but_not_in_the_verdict() -> None:
    root = page("culprit dropped")
    header = root.all("header")[0].text
    assert "because of" not in header
    assert "1 rewrite dropped after the check failed" in header
    assert "Dropped culprit" in root.text


def test_the_page_has_all_that_is_needed_to_reproduce_it() -> None:
    text = page("pass").text
    record = optimized()
    assert record.output is not None
    assert record.equivalence is not None
    assert record.equivalence.inputs is not None
    assert "bnfold optimize models/resnet.onnx 'out dir/fast.onnx'" in text
    for fact in (
        record.model.sha256,
        record.output.sha256,
        record.equivalence.inputs.sha256,
        "onnxruntime version 1.23.0",
        "Example CPU",
        record.tool["version"],
    ):
        assert str(fact) in text


def test_tuning_says_what_was_dropped() -> None:
    text = page("tuned").text
    assert "2 of fold-batchnorm slower kept 0.950 [0.930, 0.970]" in text
    assert "1 of merge-branches faster dropped 0.950" in text


# --- Size and hostile names -----------------------------------------------------------------------


def test_a_large_model_makes_a_page_of_less_than_2_mb() -> None:
    assert len(text_of_page("large").encode()) < 2e6
    long = [table.text for table in page("large").all("table") if len(rows_of(table)) > 100]
    folded = [t.text for d in page("large").all("details") for t in d.all("table")]
    assert long
    assert set(long) <= set(folded)


def rows_of(table: Element) -> list[Element]:
    return table.own("tbody")[0].own("tr")


@pytest.mark.usefixtures("without_pictures")
def test_the_number_of_omitted_rows_is_shown() -> None:
    record = large(30_000)
    rendered = html.render(record)
    assert len(rendered.encode()) < 2e6
    more = len(record.rewrites) - html.MOST_ROWS
    assert f"and {more:,} more, which the JSON record lists" in rendered


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_are_harmless_and_legible(name: str) -> None:
    root = page("hostile")
    shown = " ".join(legible(name[:120]).split())
    names = [element for element in root.all("bdi") if element.text.startswith(shown)]
    assert names
    assert len(names[0].text) < 200
    assert not root.all("script", "img")
    assert len(root.all("style")) == 1


def test_invisible_and_bidi_characters_are_replaced() -> None:
    content = text_of_page("hostile")
    assert not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", content
    )
    assert "left\\u202etfel\\u2066" in content
    assert "bell␇ and␊new line␉tab␛[31m" in content
    assert "(10,000 characters)" in content


# --- Light and dark -------------------------------------------------------------------------------


def palettes() -> dict[str, dict[str, str]]:
    """Return the colours of the page in light, in dark and in print."""
    style = re.search("<style>(.*?)</style>", text_of_page("pass"), re.DOTALL)
    assert style is not None
    blocks = re.findall(r":root \{(.*?)\}", style[1], re.DOTALL)
    colours = [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in blocks]
    return dict(zip(("light", "dark", "print"), colours, strict=True))


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("palette", ["light", "dark", "print"])
@pytest.mark.parametrize("colour", ["ink", "muted", "good", "bad", "open", "neutral"])
@pytest.mark.parametrize("ground", ["paper", "panel"])
def test_contrast_meets_the_accessibility_guidelines(
    palette: str, colour: str, ground: str
) -> None:
    colours = palettes()[palette]
    bright, dark = sorted((luminance(colours[name]) for name in (colour, ground)), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.usefixtures("without_pictures")
def test_ignored_elements_are_listed() -> None:
    text = re.sub(r"\s+", " ", page("steps").text)
    assert "logits (disabled): 3 elements beyond tolerance are ignored" in text
    assert "compared with the original with the same optimizations" in text
    assert "uses 900" not in text
