"""The page of each pass: all sections, a real example, and what to do about each refusal."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

from bnfold.rewriting.contract import Pass
from bnfold.rewriting.registry import all_passes
from docs.generate.drawing import draw_pair
from docs.generate.examples import FOLDER, Example, example_of
from docs.generate.passes import SECTIONS, documentation_of, page_of
from docs.generate.remedies import remedy_of
from tests.support.evaluate import run_plain
from tests.support.graphs import build, draw_feeds, normal

PASSES = [pass_ for pass_ in all_passes() if not pass_.origin]
ROOT = FOLDER.parent.parent


@cache
def rewritten(pass_name: str) -> Example:
    return example_of(pass_name, check=False)


def sections(page: str) -> dict[str, str]:
    """Return the text below each heading."""
    parts = re.split(r"^## (.+)\n", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("pass_", PASSES, ids=lambda pass_: pass_.name)
def test_every_pass_has_a_page_with_all_sections(pass_: Pass) -> None:
    example = rewritten(pass_.name)
    page = page_of(pass_, example)
    assert page.startswith(f"# {pass_.name}\n")
    found = sections(page)
    assert tuple(found) == SECTIONS
    for heading, text in found.items():
        assert text.strip(), heading
    assert "    " in found["Identity"], "the identity is an indented formula"
    assert pass_.exactness.name in found["Exactness"]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", found["Reasons to refuse"], re.MULTILINE)
    assert [name for name, _, _ in rows] == sorted(reason.name for reason in pass_.refusals)


@pytest.mark.parametrize("pass_", PASSES, ids=lambda pass_: pass_.name)
def test_every_example_is_rewritten_by_its_pass_and_equal(pass_: Pass) -> None:
    example = rewritten(pass_.name)
    assert example.record.rewrites
    assert {rewrite.pass_name for rewrite in example.record.rewrites} == {pass_.name}
    feeds = draw_feeds(example.before)
    pairs = zip(run_plain(example.before, feeds), run_plain(example.after, feeds), strict=True)
    for before, after in pairs:
        rounding = 16 * np.finfo(np.float32).eps * np.abs(before).max()
        np.testing.assert_allclose(after, before, rtol=0, atol=rounding)


def test_there_is_no_example_without_its_pass() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {pass_.name for pass_ in PASSES}


def test_a_section_that_is_missing_is_an_error() -> None:
    pass_, example = PASSES[0], rewritten(PASSES[0].name)
    for heading in ("Conditions", "Profit"):
        text = re.sub(
            rf"^{heading}.*?\n\n", "", pass_.documentation, flags=re.DOTALL | re.MULTILINE
        )
        assert heading not in documentation_of(replace(pass_, documentation=text)).sections
        with pytest.raises(KeyError, match=heading):
            page_of(replace(pass_, documentation=text), example)


def test_a_pass_without_an_example_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        example_of("no-such-pass", check=False)


def test_a_checked_example_says_that_it_is_certified() -> None:
    (pass_,) = [each for each in PASSES if each.name == "fold-batchnorm"]
    page = page_of(pass_, example_of(pass_.name, check=True))
    assert "The check: *pass*; certified for all inputs as [weights](../certificates.md)" in page


def test_a_remedy_is_a_sentence_and_the_reasons_own_comes_first() -> None:
    for pass_ in PASSES:
        for reason in pass_.refusals:
            remedy = remedy_of(reason)
            assert remedy[0].isupper()
            assert remedy[-1] == "."
            assert reason.remedy[1:] in remedy


def test_the_overview_lists_each_pass_once() -> None:
    """A link in the repository names the file of the pass; on the site it leads to its page."""
    overview = (ROOT / "docs" / "passes" / "README.md").read_text()
    rows = re.findall(r"^\| \[`([\w-]+)`\]\(\.\./\.\./passes/(\w+)\.py\) ", overview, re.MULTILINE)
    assert sorted(name for name, _ in rows) == [pass_.name for pass_ in PASSES]
    assert all(name.replace("-", "_") == file for name, file in rows)
    assert all((ROOT / "passes" / f"{file}.py").exists() for _, file in rows)


def test_a_drawing_marks_what_only_one_side_has() -> None:
    example = rewritten("fold-batchnorm")
    drawing = ElementTree.fromstring(draw_pair(example.before, example.after, "fold-batchnorm"))
    marked = [
        [(group.attrib["class"], group[1].text) for group in svg.iter("g")]
        for svg in drawing.iter("svg")
    ]
    assert marked == [
        [
            ("terminal", "x  1×3×32×32"),
            ("changed", "Conv"),
            ("changed", "BatchNormalization"),
            ("same", "Relu"),
            ("terminal", "y  1×16×32×32"),
        ],
        [
            ("terminal", "x  1×3×32×32"),
            ("changed", "Conv"),
            ("same", "Relu"),
            ("terminal", "y  1×16×32×32"),
        ],
    ]
    labels = [svg.attrib["aria-label"] for svg in drawing.iter("svg")]
    assert labels[1] == "fold-batchnorm, after: Conv, Relu"


def test_an_operator_with_other_weights_is_marked() -> None:
    text = "(float[1,4] x) => (float[1,4] y) { y = MatMul(x, w) }"
    one, other = (build(text, w=normal(4, 4, seed=seed)) for seed in (0, 1))
    assert 'class="changed"' in draw_pair(one, other, "weights")
    assert 'class="changed"' not in draw_pair(one, one, "weights")


def test_every_drawing_is_well_formed_and_has_every_operator() -> None:
    for pass_ in PASSES:
        example = rewritten(pass_.name)
        drawing = ElementTree.fromstring(draw_pair(example.before, example.after, pass_.name))
        for svg, model in zip(drawing.iter("svg"), (example.before, example.after), strict=True):
            drawn = [
                group[1].text for group in svg.iter("g") if group.attrib["class"] != "terminal"
            ]
            assert drawn == [node.op_type for node in model.graph.node]


def test_a_name_in_a_drawing_is_text() -> None:
    node = onnx.helper.make_node("Relu", ["<x>"], ["&"])
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["<N>"])
        for name in ("<x>", "&")
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:]))
    drawing = ElementTree.fromstring(draw_pair(model, model, '<">'))
    assert [text.text for text in drawing.iter("text")][:3] == ["<x>  <N>", "Relu", "&  <N>"]
