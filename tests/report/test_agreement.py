"""The terminal, Markdown and HTML reports agree with each other and with the record."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from bnfold.record.data import LevelComparison, Record
from bnfold.report import html, markdown, terminal
from bnfold.report.terminal.lines import Detail
from tests.support.pages import parse
from tests.support.records import RECORDS, output

pytestmark = pytest.mark.usefixtures("without_pictures")

OPTIMIZATIONS = ("pass", "tuned", "fail", "not-verified", "identical", "not checked", "large")


def on_a_terminal(record: Record, width: int = 400, detail: Detail = Detail.VERBOSE) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, emoji=False)
    if record.output is not None:
        terminal.print_optimization(console, record, detail)
    elif record.equivalence is not None:
        terminal.print_comparison(console, record, detail)
    elif record.speed:
        terminal.print_speed(console, record, detail)
    else:
        terminal.print_explanation(console, record, detail)
    return out.getvalue()


def renderings(name: str) -> dict[str, str]:
    """Return the text of every rendering, with single spaces."""
    record = RECORDS[name]()
    unescaped = markdown.render(record).replace("\\", "").replace("|", "")
    texts = {
        "terminal": on_a_terminal(record),
        "Markdown": unescaped.replace("`", ""),
        "HTML": parse(html.render(record)).text,
    }
    return {where: " ".join(text.split()) for where, text in texts.items()}


def missing(name: str, facts: list[str]) -> list[tuple[str, str]]:
    assert facts
    return [
        (where, fact) for where, text in renderings(name).items() for fact in facts
        if fact not in text
    ]  # fmt: skip


@pytest.mark.parametrize("name", [*OPTIMIZATIONS, "check"])
def test_they_agree_on_the_verdict_and_its_reason(name: str) -> None:
    equivalence = RECORDS[name]().equivalence
    facts = ["not timed"] if equivalence is None else [equivalence.verdict, equivalence.reason]
    assert not missing(name, facts)


@pytest.mark.parametrize("name", ["pass", "tuned", "large", "bench", "bench alone", "not measured"])
def test_they_agree_on_speed(name: str) -> None:
    facts = []
    for speed in RECORDS[name]().speed:
        if speed.control_ci95 is None:
            facts += [speed.verdict or "", speed.note]
            continue
        low, high = speed.control_ci95
        facts.append(f"{speed.control:.3f} [{low:.3f}, {high:.3f}]")
        if speed.speedup is not None and speed.ci95 is not None and speed.verdict is not None:
            facts.append(f"{speed.speedup:.3f} [{speed.ci95[0]:.3f}, {speed.ci95[1]:.3f}]")
            facts += [speed.verdict, f"{speed.original_ms:.4g} → {speed.optimized_ms:.4g}"]
        else:
            facts.append(f"{speed.original_ms:.4g}")
    assert not missing(name, facts)


@pytest.mark.parametrize("name", OPTIMIZATIONS)
def test_they_agree_on_operators(name: str) -> None:
    record = RECORDS[name]()
    assert record.output is not None
    before, after = Counter(record.model.ops), Counter(record.output.ops)
    facts = [
        f"{op} {before[op]} {after[op]} {after[op] - before[op]:+d}"
        for op in before | after
        if before[op] != after[op]
    ]
    total = before.total(), after.total()
    facts.append(f"all nodes {total[0]} {total[1]} {total[1] - total[0]:+d}")
    texts = {where: text.replace(",", "") for where, text in renderings(name).items()}
    assert not [(w, fact) for w, text in texts.items() for fact in facts if fact not in text]


@pytest.mark.parametrize("name", ["pass", "large", "fail"])
def test_they_agree_on_what_was_rewritten(name: str) -> None:
    counts = Counter(
        (rewrite.pass_name, rewrite.exactness, f"{rewrite.op_type} {rewrite.detail}".strip())
        for rewrite in RECORDS[name]().rewrites
    )
    assert counts
    texts = renderings(name)
    for (pass_name, exactness, what), count in counts.items():
        row = f"{pass_name} {exactness} {what} {count}"
        assert not [where for where, text in texts.items() if row not in text]


@pytest.mark.parametrize("name", ["pass", "large", "explain"])
def test_they_agree_on_what_was_kept_and_why(name: str) -> None:
    refusals = RECORDS[name]().refusals
    facts = [refusals[0].reason, refusals[0].message, refusals[0].remedy, refusals[0].site]
    assert not missing(name, facts)


@pytest.mark.parametrize("name", ["pass", "fail", "check"])
def test_they_agree_on_the_errors_of_outputs(name: str) -> None:
    equivalence = RECORDS[name]().equivalence
    assert equivalence is not None
    outputs = [output for level in equivalence.providers[0].levels for output in level.outputs]
    assert not missing(name, [f"{output.max_abs:.2e}" for output in outputs])


# --- The terminal ---------------------------------------------------------------------------------


@pytest.mark.parametrize("detail", Detail)
@pytest.mark.parametrize("name", RECORDS)
def test_a_terminal_of_80_columns_is_enough(name: str, detail: Detail) -> None:
    """A word may be longer than a line, as a path is: it then has a line of its own."""
    text = on_a_terminal(RECORDS[name](), 80, detail)
    assert text
    long = [line for line in text.splitlines() if cell_len(line) > 80]
    assert not [line for line in long if len(line.split()) > 1]


@pytest.mark.parametrize("detail", Detail)
@pytest.mark.parametrize("name", ["pass", "tuned", "large"])
def test_the_last_three_lines_are_the_result(name: str, detail: Detail) -> None:
    lines = on_a_terminal(RECORDS[name](), detail=detail).splitlines()
    starts = [line.split()[0] for line in lines[-3:]]
    assert starts == ["equivalence:", "speed:", "wrote"]
    assert detail > Detail.QUIET or len(lines) == 3


def test_many_outputs_are_shown_on_request() -> None:
    record = RECORDS["check"]()
    assert record.equivalence is not None
    (provider,) = record.equivalence.providers
    outputs = [output(f"output{number}", excused=1) for number in range(40)]
    levels = [LevelComparison("all", "pass", outputs)]
    provider = replace(provider, levels=levels)
    record = replace(record, equivalence=replace(record.equivalence, providers=[provider]))
    usual = on_a_terminal(record, 80, Detail.USUAL)
    assert "and 28 more" in usual
    assert "more notes (--verbose)" in usual
    assert "output39" not in usual
    assert "output39" in on_a_terminal(record, 80, Detail.VERBOSE)


def test_the_middle_of_a_long_name_is_left_out() -> None:
    record = RECORDS["check"]()
    assert record.equivalence is not None
    (provider,) = record.equivalence.providers
    levels = [LevelComparison("all", "pass", [output("/model/head/classifier/Gemm_output_0")])]
    provider = replace(provider, levels=levels, truth=None, noise_floor=[])
    record = replace(record, equivalence=replace(record.equivalence, providers=[provider]))
    assert "  /model/…m_output_0" in on_a_terminal(record, 80)
    assert "  /model/h…mm_output_0" in on_a_terminal(record, 82)
    assert "  /model/head/classifier/Gemm_output_0  " in on_a_terminal(record, 160)
