"""Renders a record as Markdown, for a pull request or the summary of a CI job.

The page has at most 60 lines for any model: tables and notes are cut. Names are in code spans,
where they are harmless.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from bnfold.record.data import Equivalence, OutputComparison, Record, TruthOutput
from bnfold.report.certificates import certificate_groups
from bnfold.report.changes import operator_changes, operators_after, refusal_groups, rewrite_groups
from bnfold.report.figures import figures_line, time_line
from bnfold.report.notes import counted, joined, notes, unit_note
from bnfold.report.runs import RunRow, run_rows, tone_of_all, verdicts_of
from bnfold.report.summary import headline, machine_line, share_of_tolerance
from bnfold.report.wording import (
    at_most,
    command_line,
    interval,
    milliseconds,
    number,
    percent,
    shortened,
    sizes,
    times,
    when,
)

MOST_LINES = 60

_SIZES = ((5, 12), (5, 5), (4, 5), (3, 5), (2, 5))
"""The most rows of each table and the most notes: the first that fit are taken. The last always do:
each of six tables has at most seven lines, the notes have six, and all else has eleven."""

_MOST_SITES = 2
_BAR = "¦"
"""Replaces | in tables: after a backslash, an escaped | would still end the cell."""

_ESCAPES = str.maketrans(
    {sign: f"\\{sign}" for sign in "\\`*_{}[]#~!"}
    | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "@\u2060"}
)

_SIGNS = {"good": "✅", "bad": "❌", "open": "⚠️", "neutral": "ℹ️"}


def render(record: Record) -> str:
    """Return the page as text; every line ends with a newline."""
    pages = (_lines(record, rows, notes) for rows, notes in _SIZES)
    lines = next(lines for lines in pages if len(lines) <= MOST_LINES)
    return "".join(f"{line}\n" for line in lines)


def render_runs(records: Sequence[Record]) -> str:
    """Return a page with a table of several runs and, folded below it, the page of each."""
    rows = run_rows(records)
    verdicts = plain(", ".join(f"{number} {verdict}" for verdict, number in verdicts_of(rows)))
    lines = [f"### {_SIGNS[tone_of_all(rows)]} bnfold: {len(rows)} runs, {verdicts}", ""]
    lines += _table(
        [
            "model", "verdict", "certified", "#of tolerance", "#times as fast", "#ms", "#nodes",
            "#parameters", "#MB", "when",
        ],
        [_run_cells(row) for row in rows],
        len(rows),
    )  # fmt: skip
    text = "".join(f"{line}\n" for line in lines)
    for row, record in zip(rows, records, strict=True):
        summary = f"{_SIGNS[row.tone]} {html.escape(shortened(row.name, 60))}: {row.verdict}"
        text += f"\n<details><summary>{summary}</summary>\n\n{render(record)}\n</details>\n"
    return text


def _run_cells(row: RunRow) -> list[str]:
    verdict = f"{_SIGNS[row.tone]} {row.verdict}"
    speed = f"**{row.speed}**" if row.speed_tone in ("good", "bad") else row.speed
    texts = [row.certified, row.share, row.ms, row.nodes, row.parameters, row.megabytes, row.when]
    certified, share, *others = map(plain, texts)
    return [code(row.name), verdict, certified, share, speed, *others]


def _lines(record: Record, most: int, most_notes: int) -> list[str]:
    """Return the page with at most so many rows in each table, and so many notes."""
    first = headline(record)
    name = PurePath(record.model.path).name if record.model.path is not None else "–"
    lines = [f"### {_SIGNS[first.tone]} bnfold: {first.verdict}, {code(name)}"]
    lines += ["", f"**{first.verdict}**: {plain(first.meaning)}  "]
    if first.certificates:
        lines.append(f"**certificates**: {plain(first.certificates)}  ")
    if first.speed:
        parts = [*first.speed, *filter(None, [machine_line(record)])]
        lines.append(f"**speed**: {plain('; '.join(parts))}  ")
    if time := time_line(record):
        lines.append(f"**time by operator**: {plain(time)}  ")
    if change := "; ".join(filter(None, [first.change, figures_line(record)])):
        lines.append(f"**changed**: {plain(change)}")
    for section in (
        _rewrites(record, most),
        _certificates(record, most),
        _refusals(record, most),
        _operators(record, most),
        _outputs(record.equivalence, most),
        _notes(record.equivalence, most_notes),
        _speed(record, most),
    ):
        lines += ["", *section] if section else []
    return [*lines, "", code(command_line(record.command), 300), "", _footer(record)]


def code(text: str, most: int = 60) -> str:
    """Return the text as a code span that nothing in it can close."""
    content = shortened(text, most) or " "
    longest = max((len(run) for run in re.findall("`+", content)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if longest else ""
    return f"{fence}{padding}{content}{padding}{fence}"


def plain(text: str) -> str:
    """Escape all characters that are special in Markdown, HTML or on GitHub."""
    return text.translate(_ESCAPES)


def _table(titles: Sequence[str], rows: Sequence[Iterable[str]], most: int) -> list[str]:
    """Return a table of at most so many rows, or nothing without rows.

    A title that begins with # is of numbers.
    """
    if not rows:
        return []
    rules = ["---:" if title.startswith("#") else "---" for title in titles]
    heads = [title.lstrip("#") for title in titles]
    cells = [[cell.replace("|", _BAR) for cell in row] for row in rows[:most]]
    lines = [f"| {' | '.join(row)} |" for row in [heads, rules, *cells]]
    more = len(rows) - most
    return [*lines, *(["", f"… and {more:,} more"] if more > 0 else [])]


def _rewrites(record: Record, most: int) -> list[str]:
    rows = [
        (code(group.pass_name), plain(group.exactness), code(group.what), str(len(group.rewrites)))
        for group in rewrite_groups(record.rewrites)
    ]
    return _table(["rewritten by", "exactness", "what", "#count"], rows, most)


def _certificates(record: Record, most: int) -> list[str]:
    rows = [
        (
            plain(group.kind),
            f"{group.number:,}",
            f"{group.probes:,}",
            at_most(group.bound),
            f"{group.seconds:.2f}",
        )
        for group in certificate_groups(record.rewrites)
    ]
    return _table(["certificates", "#count", "#probes", "#largest bound", "#seconds"], rows, most)


def _refusals(record: Record, most: int) -> list[str]:
    rows = []
    for group in refusal_groups(record.refusals):
        sites = ", ".join(code(refusal.site, 80) for refusal in group.refusals[:_MOST_SITES])
        because = plain(shortened(group.message, 160))
        remedy = f" → {plain(shortened(group.remedy, 160))}" if group.remedy else ""
        reason = f"{code(group.reason)}: {because}{remedy}"
        rows.append((str(len(group.refusals)), code(group.op_type, 40), reason, sites))
    return _table(["#kept", "operator", "why", "for example"], rows, most)


def _operators(record: Record, most: int) -> list[str]:
    after = operators_after(record)
    if after is None:
        return []
    *changes, total = operator_changes(record.model.ops, after)
    # If rows are omitted, the total comes first so that it is not one of them.
    shown = [*changes, total] if len(changes) < most else [total, *changes]
    rows = [(code(e.name, 40), str(e.before), str(e.after), e.change) for e in shown]
    return _table(["operators", "#before", "#after", "#change"], rows, most)


def _outputs(equivalence: Equivalence | None, most: int) -> list[str]:
    """Return the table of outputs, those that use most of their tolerance first."""
    if equivalence is None:
        return []
    providers = equivalence.providers
    truths = {
        (provider.provider, output.name): (_errors(output), _difference(output))
        for provider in providers
        for output in (provider.truth.outputs if provider.truth is not None else [])
    }
    comparisons = [
        (provider.provider, level.level, output)
        for provider in providers
        for level in provider.levels
        for output in level.outputs
    ]
    rows = [
        (
            code(output.name, 40),
            ", ".join(filter(None, (plain(provider), plain(level), counted(output, equivalence)))),
            number(output.max_abs),
            number(output.tolerance.rtol),
            number(output.tolerance.atol),
            percent(share_of_tolerance(output)),
            *truths.get((provider, output.name), ("–", "–")),
        )
        for provider, level, output in sorted(
            comparisons, key=lambda comparison: _share_or_inf(comparison[2]), reverse=True
        )
    ]
    titles = ["output", "where", "#max abs Δ", "#rtol", "#atol", "#of tolerance", "#float64 error"]
    return _table([*titles, "#Δ in float64"], rows, most)


def _errors(output: TruthOutput) -> str:
    """Return the errors of both models against float64, and the largest allowed."""
    limit = f" (≤ {number(output.limit)})" if output.limit is not None else ""
    unit = f", {plain(note)}" if (note := unit_note(output)) else ""
    return f"{number(output.original)} → {number(output.optimized)}{limit}{unit}"


def _difference(output: TruthOutput) -> str:
    """Return the difference in float64, and as a multiple of what rounding explains."""
    ratio = f" ({plain(times(output.ratio))} × rounding)" if output.ratio is not None else ""
    return f"{number(output.computed_exactly)}{ratio}"


def _notes(equivalence: Equivalence | None, most: int) -> list[str]:
    """Return the notes on the check as a list, the most important first."""
    found = notes(equivalence) if equivalence is not None else []
    shown = found if len(found) <= most else found[: most - 1]
    more = len(found) - len(shown)
    lines = [joined(note, plain=_shortened, name=code) for note in shown]
    return [f"- {line}" for line in [*lines, *([f"… and {more:,} more"] if more else [])]]


def _shortened(text: str) -> str:
    return plain(shortened(text, 160))


def _share_or_inf(output: OutputComparison) -> float:
    share = share_of_tolerance(output)
    return math.inf if share is None else share


def _speed(record: Record, most: int) -> list[str]:
    rows = []
    for speed in record.speed:
        shapes = "".join(f", {sizes(shape)}" for shape in speed.shapes.values())
        ratio = "–"
        if speed.speedup is not None:
            ratio = interval(speed.speedup, speed.ci95)
        rows.append(
            (
                f"{plain(speed.provider)}, {plain(speed.level)}{shapes}",
                f"{milliseconds(speed.original_ms)} → {milliseconds(speed.optimized_ms)}",
                ratio,
                interval(speed.control, speed.control_ci95),
                plain(speed.verdict or "–"),
            )
        )
    return _table(["speed", "#ms", "#times as fast", "#control", "verdict"], rows, most)


def _footer(record: Record) -> str:
    runtime = record.environment.get("onnxruntime")
    version = runtime.get("version") if isinstance(runtime, dict) else None
    machine = record.environment.get("cpu", "")
    parts = [f"bnfold {record.tool.get('version', '')}"]
    parts += [f"onnxruntime {version}"] if version else []
    parts += [str(machine)] if machine else []
    parts += [date] if (date := when(record.started, record.seconds)) else []
    parts += [f"original sha256 {record.model.sha256[:16]}"] if record.model.sha256 else []
    return f"<sub>{plain(shortened(' · '.join(parts), 300))}</sub>"
