"""All renderings say which rewrites are proven, how exactly, and what a certified model is."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from bnfold.record.data import (
    Certificate,
    CertificateKind,
    CertificateVerdict,
    Inconclusive,
    ModelCertificate,
    OpenWindow,
    OverallVerdict,
    Record,
)
from bnfold.record.reading import read_record
from bnfold.report import html, markdown
from bnfold.report.certificates import MEANINGS, certificate_groups, certificate_summary, kind_of
from bnfold.report.summary import headline
from bnfold.report.terminal import pages
from bnfold.report.wording import at_most
from tests.report.noted import (
    LINEAR,
    blamed,
    certified,
    differing,
    exact,
    sampled,
    undecided,
    unknown,
)
from tests.report.test_agreement import on_a_terminal
from tests.report.test_notes import rendered, renderings
from tests.support.pages import parse
from tests.support.records import HOSTILE_NAMES, RECORDS, hostile, speed

pytestmark = pytest.mark.usefixtures("without_pictures")

PLACES = ("terminal", "Markdown", "HTML")
ALL = (LINEAR, exact("copying"), exact("selection"), sampled(), unknown(), differing())


def said(record: Record) -> str:
    return headline(record).certificates


# --- The line beside the verdict ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("certificates", "text"),
    [
        (
            [LINEAR, exact("copying")],
            "2 of 2 rewrites certified for all inputs (each output to 9.5e-07 of its row's norm, "
            "with probability 1 − 1e-09)",
        ),
        (
            [LINEAR, replace(LINEAR, bound=2e-7), exact("maximum", bound=1e-7, doubt=4e-9)],
            "3 of 3 rewrites certified for all inputs (each output to 9.5e-07 of its row's norm, "
            "with probability 1 − 6e-09)",
        ),
        ([exact("copying")], "1 of 1 rewrite certified for all inputs (bit by bit)"),
        (
            [exact("constant"), exact("copying")],
            "2 of 2 rewrites certified for all inputs (bit by bit)",
        ),
        (
            [exact("copying"), exact("selection")],
            "2 of 2 rewrites certified for all inputs (to rounding)",
        ),
        (
            [LINEAR, exact("selection")],
            "2 of 2 rewrites certified for all inputs (each output to 9.5e-07 of its row's norm, "
            "selections to rounding, with probability 1 − 1e-09)",
        ),
        (
            [replace(LINEAR, bound=0.0)],
            "1 of 1 rewrite certified for all inputs (no difference in float64, "
            "with probability 1 − 1e-09)",
        ),
        (
            [exact("copying"), sampled(), sampled()],
            "1 of 3 rewrites certified for all inputs (bit by bit); "
            "2 sampled: no difference found, but no proof",
        ),
        (
            [exact("copying"), unknown(), unknown("another reason")],
            "1 of 3 rewrites certified for all inputs (bit by bit); "
            "2 open: its input 'x' is of integers",
        ),
        ([unknown("")], "0 of 1 rewrite certified; 1 open"),
        ([None, exact("copying")], "1 of 2 rewrites certified for all inputs (bit by bit); "
         "1 not tried"),
        (
            [differing(), differing()],
            "0 of 2 rewrites certified; 2 differ: fold-batchnorm at /bn0, y at [3, 0]: 1.5 → 2.25",
        ),
        (
            [differing(index=[], before=None, after=None, mismatch="float32[2] becomes int64[2]")],
            "0 of 1 rewrite certified; 1 differs: fold-batchnorm at /bn0, "
            "y: float32[2] becomes int64[2]",
        ),
        ([None, None], ""),
        ([], ""),
    ],
)  # fmt: skip
def test_how_many_are_certified(certificates: list[Certificate | None], text: str) -> None:
    assert said(certified(*certificates)) == text


def test_changes_of_meaning_are_counted_apart() -> None:
    """Both sides of the proofs and of the check have them."""
    record = certified(exact("copying"), None, None)
    record.rewrites[1:] = [
        replace(rewrite, exactness="semantic") for rewrite in record.rewrites[1:]
    ]
    lead = "1 of 1 rewrite certified for all inputs"
    apart = "2 more change the model's meaning as requested: nothing to prove"
    assert said(record) == f"{lead} (bit by bit); {apart}"
    for text in renderings(record).values():
        assert lead in text
        assert apart in text
        assert "not tried" not in text
    page = html.render(record)
    assert "nothing to prove: changes the meaning, as requested" in page
    assert "1 of 1: copying" in page
    summary = certificate_summary(record)
    assert summary is not None
    assert summary.is_complete
    record.rewrites.pop()
    assert "1 more changes the model's meaning" in said(record)


def test_every_rendering_has_each_part() -> None:
    texts = renderings(certified(*ALL))
    for part in (
        "3 of 6 rewrites certified for all inputs",
        "each output to 9.5e-07 of its row's norm",
        "selections to rounding",
        "with probability 1 − 1e-09",
        "1 sampled: no difference found, but no proof",
        "1 open: its input 'x' is of integers",
        "1 differs: fold-batchnorm at /bn5, y at [3, 0]: 1.5 → 2.25",
    ):
        assert {where: text.count(part) for where, text in texts.items()} == dict.fromkeys(
            PLACES, 1
        )


@pytest.mark.parametrize("dropped", [False, True])
def test_what_a_culprit_says_is_not_said_again(dropped: bool) -> None:
    detail = "'y' at [3, 0]: 1.5 before, 2.25 after"
    times = {"terminal": 1, "Markdown": 0 if dropped else 1, "HTML": 1 if dropped else 2}
    for where, text in renderings(blamed(dropped)).items():
        assert ("1 differs" in text) != dropped
        assert "1.5 → 2.25" not in text
        assert "of sample 0" not in text
        assert "with fold-batchnorm at /bn1" not in text
        assert "because of" not in text
        assert text.count(detail) == times[where]  # the page has it in the headline and below


def test_a_reason_that_the_verdict_gives_is_not_given_again() -> None:
    record = certified(exact("copying"), unknown())
    assert record.equivalence is not None
    reason = "1 of 2 rewrites could not be certified: its input 'x' is of integers"
    needed = replace(record.equivalence, verdict="not-verified", reason=reason)
    assert said(replace(record, equivalence=needed)).endswith("; 1 open")
    for text in renderings(replace(record, equivalence=needed)).values():
        assert reason in text


# --- The verdict ----------------------------------------------------------------------------------


def test_a_certified_model_is_good_and_every_rendering_says_why_no_run_counts() -> None:
    record = undecided([LINEAR, exact("copying")])
    why = "while running both models could not decide: cpu: the original disagrees with itself"
    for text in renderings(record).values():
        assert "certified" in text
        assert why in text
        assert "2 of 2 rewrites certified for all inputs" in text
    assert headline(record).meaning == f"each rewrite is proven, {why}"
    of_check = headline(replace(record, rewrites=[]))
    assert of_check.meaning == f"each output is proven, {why}"
    assert headline(record).tone == of_check.tone == "good"
    assert markdown.render(record).startswith("### ✅ bnfold: certified, `resnet.onnx`\n")
    page = html.render(record)
    assert '<body class="good">' in page
    assert "<title>certified: " in page


@pytest.mark.parametrize("verdict", get_args(OverallVerdict))
def test_every_verdict_has_a_tone_a_sign_and_a_colour(verdict: OverallVerdict) -> None:
    assert verdict in pages._VERDICT_STYLES
    record = certified(LINEAR)
    assert record.equivalence is not None
    record = replace(record, equivalence=replace(record.equivalence, verdict=verdict))
    assert headline(record).tone in ("good", "bad", "open")
    assert f"bnfold: {verdict}" in markdown.render(record)


def test_certified_is_green_on_a_terminal() -> None:
    assert pages._VERDICT_STYLES["certified"] == pages._VERDICT_STYLES["pass"] == "green"


# --- Each rewrite and each kind -------------------------------------------------------------------


def test_each_kind_and_each_verdict_is_explained() -> None:
    made = [*(Certificate("certified", kind) for kind in get_args(CertificateKind) if kind)]
    made += [Certificate(verdict, "sampled") for verdict in get_args(CertificateVerdict)]
    assert {kind_of(certificate) for certificate in made} == {*MEANINGS}
    for meaning in MEANINGS.values():
        assert meaning.endswith(".")


def test_what_is_no_proof_comes_first() -> None:
    groups = certificate_groups(certified(*ALL, LINEAR, None).rewrites)
    assert [group.kind for group in groups[3:]] == ["linear", "copying", "selection"]
    assert {group.kind for group in groups[:3]} == {"sampled", "open", "differs"}
    linear = groups[3]
    assert (linear.number, linear.probes, linear.seconds) == (2, 48, 0.5)
    assert (linear.bound, linear.doubt) == (9.41e-7, 1e-9)
    assert groups[4].bound is None


def test_markdown_has_a_table_by_kind() -> None:
    page = rendered(certified(LINEAR, LINEAR, exact("copying")))
    (table,) = [each for each in page.all("table") if each.text.startswith("certificates")]
    rows = [[cell.text for cell in row.all("th", "td")] for row in table.all("tr")]
    assert rows == [
        ["certificates", "count", "probes", "largest bound", "seconds"],
        ["linear", "2", "48", "9.5e-07", "0.50"],
        ["copying", "1", "3", "–", "0.01"],
    ]


def test_markdown_stays_within_60_lines() -> None:
    record = replace(hostile(), speed=[speed()] * 20)
    every = [*ALL, exact("constant"), exact("maximum", bound=1e-7)]
    rewrites = [
        replace(rewrite, certificate=every[number % len(every)])
        for number, rewrite in enumerate(record.rewrites)
    ]
    assert record.equivalence is not None
    (provider,) = record.equivalence.providers
    useless = [Inconclusive(f"output{number}", "is 0 throughout") for number in range(30)]
    provider = replace(provider, inconclusive=useless, draws=3)
    record = replace(
        record,
        rewrites=rewrites,
        equivalence=replace(record.equivalence, providers=[provider]),
        environment={"processors": 2, "load": 9.5, "onnxruntime": {"version": "1"}},
    )
    text = markdown.render(record)
    assert len(text.splitlines()) <= markdown.MOST_LINES
    assert text.count("… and ") >= 7
    for words in ("**time by operator**", "multiply-adds", "the machine is busy: load 9.5", "took"):
        assert words in text


def test_the_page_has_the_certificate_of_each_rewrite() -> None:
    page = parse(html.render(certified(*ALL, None)))
    (table,) = [each for each in page.all("table") if each.text.startswith("Each site of")]
    rows = [[cell.text for cell in row.all("th", "td")] for row in table.all("tr")]
    assert rows[0][3:] == ["proof", "probes", "bound", "doubt", "sizes of the inputs"]
    cells = {row[0]: row[3:] for row in rows[1:]}
    assert cells["/bn0"][0].split() == ["linear", *LINEAR.note.split()]
    assert cells["/bn0"][1:4] == ["24", "9.5e-07", "1e-09"]
    assert cells["/bn0"][4].split() == ["2×16×6×6", "2×16×5×5"]
    assert cells["/bn1"] == ["copying", "3", "–", "–", "–"]
    assert cells["/bn4"][0].split() == ["open", *unknown().note.split()]
    assert cells["/bn5"][0].split() == ["differs", "y", "at", "[3,", "0]:", "1.5", "→", "2.25"]
    assert cells["/bn6"] == ["not tried", "–", "–", "–", "–"]


def test_the_page_explains_the_kinds_that_occur() -> None:
    text = " ".join(parse(html.render(certified(LINEAR, sampled()))).text.split())
    assert "Certificates: each rewrite by itself" in text
    for kind, meaning in MEANINGS.items():
        assert (meaning in text) == (kind in ("linear", "sampled"))


# --- Two models from any tool ---------------------------------------------------------------------


def compared(certificate: ModelCertificate) -> Record:
    record = RECORDS["check"]()
    assert record.equivalence is not None
    return replace(record, equivalence=replace(record.equivalence, certificate=certificate))


@pytest.mark.parametrize(
    ("certificate", "text"),
    [
        (
            ModelCertificate(12, 7.9e-7, 2e-9, [], 1.0),
            "12 values certified for all inputs (each to 7.9e-07 of its row's norm, with "
            "probability 1 − 2e-09)",
        ),
        (ModelCertificate(1, None, 0.0, [], 1.0), "1 value certified for all inputs"),
        (
            ModelCertificate(3, None, 0.0, [OpenWindow("y", "no time"), OpenWindow("z", "?")], 1.0),
            "3 values certified for all inputs; not certified: y, z (no time)",
        ),
    ],
)
def test_how_far_two_models_are_proven_is_said(certificate: ModelCertificate, text: str) -> None:
    record = compared(certificate)
    assert said(record) == text
    parts = re.split(r"[;(),] ?", text)
    for place, rendering in renderings(record).items():
        flat = " ".join(rendering.split())
        assert all(part.strip() in flat for part in parts), place


# --- What must not change, or break ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["fail", "check", "explain", "identical", "not checked"])
def test_without_certificates_nothing_is_said(name: str) -> None:
    text = "".join(renderings(RECORDS[name]()).values()).casefold()
    for word in ("certif", "by itself", "probes", "doubt", "proof", "not tried"):
        assert word not in text


def test_a_record_of_an_earlier_version_is_rendered(tmp_path: Path) -> None:
    content = json.loads(certified(LINEAR).to_json())
    for rewrite in content["rewrites"]:
        del rewrite["certificate"]
    (tmp_path / "old.json").write_text(json.dumps(content), encoding="utf-8")
    record = read_record(tmp_path / "old.json")
    assert certificate_summary(record) is None
    assert "certif" not in "".join(renderings(record).values()).casefold()


def test_certificates_fit_a_terminal_of_80_columns() -> None:
    lines = on_a_terminal(certified(*ALL), 80).splitlines()
    (at,) = [place for place, line in enumerate(lines) if line.startswith("certificates: ")]
    end = lines.index("", at)
    assert end - at >= 6
    assert all(line.startswith("  ") for line in lines[at + 1 : end])
    assert lines[end + 1].startswith("equivalence: ")
    assert not [line for line in lines if len(line) > 80]
    simple = on_a_terminal(certified(LINEAR, exact("copying")))
    assert (
        "certificates: 2 of 2 rewrites certified for all inputs\n"
        "  each output to 9.5e-07 of its row's norm, with probability 1 − 1e-09\n"
    ) in simple


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_in_certificates_are_harmless(name: str) -> None:
    def made(text: str) -> Record:
        shapes = [{text: [1, 2]}]
        proofs = (replace(LINEAR, note=text, shapes=shapes), unknown(text), differing(text))
        record = certified(*proofs, site=f"{text}/")
        assert record.equivalence is not None
        found = replace(record.equivalence, verdict="certified", reason=f"cpu: {text}")
        return replace(record, equivalence=found)

    record, harmless = made(name), made("usual")
    for render in (lambda each: parse(html.render(each)), rendered):
        page, usual = render(record), render(harmless)
        for tags in (("p", "li", "td", "tr"), ("div", "h3")):
            assert [each.tag for each in page.all(*tags)] == [each.tag for each in usual.all(*tags)]
        assert {each.tag for each in page.all()} == {each.tag for each in usual.all()}
    text = on_a_terminal(record, 10**6)
    assert len(text.splitlines()) == len(on_a_terminal(harmless, 10**6).splitlines())
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (1e-9, "1e-09"),
        (123 * 1e-9, "1.3e-07"),
        (sum([1e-9] * 4), "4e-09"),
        (9.41e-7, "9.5e-07"),
        (9.5e-7, "9.5e-07"),
        (9.91e-7, "1e-06"),
        (1.0000001e-6, "1.1e-06"),
        (float("inf"), "inf"),
    ],
)
def test_a_bound_is_rounded_up(value: float | None, text: str) -> None:
    assert at_most(value) == text
    if value:
        assert float(text) >= value * (1 - 1e-9)
