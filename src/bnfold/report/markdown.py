"""Renders a record as a page of Markdown, for a pull request or the summary of a CI job.

It has 60 lines at most, however large the model. Names stand in code spans, where they are
harmless.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from bnfold.record.data import Equivalence, OutputComparison, Record
from bnfold.report.summary import (
    headline,
    operator_changes,
    operators_after,
    refusal_groups,
    rewrite_groups,
    share_of_tolerance,
)
from bnfold.report.wording import (
    command_line,
    interval,
    milliseconds,
    number,
    percent,
    shortened,
    sizes,
)

MOST_LINES = 60

_MOST_ROWS = 5
_MOST_SITES = 2
_BAR = "¦"
"""Stands for | in tables: there, an escaped one is still a border behind a backslash."""

_ESCAPES = str.maketrans(
    {sign: f"\\{sign}" for sign in "\\`*_{}[]#~!"}
    | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "@\u2060"}
)

_SIGNS = {"good": "✅", "bad": "❌", "open": "⚠️", "neutral": "ℹ️"}


def render(record: Record) -> str:
    """Return the page as text, each line ended."""
    first = headline(record)
    name = PurePath(record.model.path).name if record.model.path is not None else "–"
    lines = [f"### {_SIGNS[first.tone]} bnfold: {first.verdict}, {code(name)}"]
    lines += ["", f"**{first.verdict}**: {plain(first.meaning)}  "]
    if first.speed:
        lines.append(f"**speed**: {plain('; '.join(first.speed))}  ")
    if first.change:
        lines.append(f"**changed**: {plain(first.change)}")
    for section in (
        _rewrites(record),
        _refusals(record),
        _operators(record),
        _outputs(record.equivalence),
        _speed(record),
    ):
        lines += ["", *section] if section else []
    lines += ["", code(command_line(record.command), 300), "", _footer(record)]
    return "".join(f"{line}\n" for line in lines)


def code(text: str, most: int = 60) -> str:
    """Return the text as a code span that nothing in it can leave."""
    content = shortened(text, most) or " "
    longest = max((len(run) for run in re.findall("`+", content)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if longest else ""
    return f"{fence}{padding}{content}{padding}{fence}"


def plain(text: str) -> str:
    """Return the text so that no character of it means anything to Markdown, HTML or GitHub."""
    return text.translate(_ESCAPES)


def _table(titles: Sequence[str], rows: Sequence[Iterable[str]]) -> list[str]:
    """Return a table whose titles that begin with # are of numbers; nothing without rows."""
    if not rows:
        return []
    rules = ["---:" if title.startswith("#") else "---" for title in titles]
    heads = [title.lstrip("#") for title in titles]
    cells = [[cell.replace("|", _BAR) for cell in row] for row in rows[:_MOST_ROWS]]
    found = [f"| {' | '.join(row)} |" for row in [heads, rules, *cells]]
    more = len(rows) - _MOST_ROWS
    return [*found, *(["", f"… and {more:,} more"] if more > 0 else [])]


def _rewrites(record: Record) -> list[str]:
    rows = [
        (code(each.pass_name), plain(each.exactness), code(each.what), str(len(each.rewrites)))
        for each in rewrite_groups(record.rewrites)
    ]
    return _table(["rewritten by", "exactness", "what", "#times"], rows)


def _refusals(record: Record) -> list[str]:
    rows = []
    for each in refusal_groups(record.refusals):
        sites = ", ".join(code(refusal.site, 80) for refusal in each.refusals[:_MOST_SITES])
        because = plain(shortened(each.message, 160))
        remedy = f" → {plain(shortened(each.remedy, 160))}" if each.remedy else ""
        reason = f"{code(each.reason)}: {because}{remedy}"
        rows.append((str(len(each.refusals)), code(each.op_type, 40), reason, sites))
    return _table(["#kept", "operator", "why", "for example"], rows)


def _operators(record: Record) -> list[str]:
    after = operators_after(record)
    if after is None:
        return []
    *changes, total = operator_changes(record.model.ops, after)
    # The sum comes first where rows will be left out: it must not be among them.
    shown = [*changes, total] if len(changes) < _MOST_ROWS else [total, *changes]
    rows = [(code(e.name, 40), str(e.before), str(e.after), e.change) for e in shown]
    return _table(["operators", "#before", "#after", "#change"], rows)


def _outputs(equivalence: Equivalence | None) -> list[str]:
    """Return the outputs that come closest to their tolerance, or exceed it most, first."""
    providers = equivalence.providers if equivalence is not None else []
    truths = {
        (provider.provider, output.name): f"{number(output.original)} → {number(output.optimized)}"
        for provider in providers
        for output in (provider.truth.outputs if provider.truth is not None else [])
    }
    found = [
        (provider.provider, level.level, output)
        for provider in providers
        for level in provider.levels
        for output in level.outputs
    ]

    rows = [
        (
            code(output.name, 40),
            f"{plain(provider)}, {plain(level)}",
            number(output.max_abs),
            number(output.tolerance.rtol),
            number(output.tolerance.atol),
            percent(share_of_tolerance(output)),
            truths.get((provider, output.name), "–"),
        )
        for provider, level, output in sorted(
            found, key=lambda each: _closeness(each[2]), reverse=True
        )
    ]
    titles = ["output", "where", "#max abs Δ", "#rtol", "#atol", "#of tolerance", "#float64 error"]
    return _table(titles, rows)


def _closeness(output: OutputComparison) -> float:
    share = share_of_tolerance(output)
    return math.inf if share is None else share


def _speed(record: Record) -> list[str]:
    rows = []
    for each in record.speed:
        shapes = "".join(f", {sizes(shape)}" for shape in each.shapes.values())
        ratio = "–"
        if each.speedup is not None and each.ci95 is not None:
            ratio = interval(each.speedup, each.ci95)
        rows.append(
            (
                f"{plain(each.provider)}, {plain(each.level)}{shapes}",
                f"{milliseconds(each.original_ms)} → {milliseconds(each.optimized_ms)}",
                ratio,
                interval(each.control, each.control_ci95),
                plain(each.verdict or "–"),
            )
        )
    return _table(["speed", "#ms", "#times as fast", "#control", "verdict"], rows)


def _footer(record: Record) -> str:
    runtime = record.environment.get("onnxruntime")
    version = runtime.get("version") if isinstance(runtime, dict) else None
    machine = record.environment.get("cpu", "")
    parts = [f"bnfold {record.tool.get('version', '')}"]
    parts += [f"onnxruntime {version}"] if version else []
    parts += [str(machine)] if machine else []
    parts += [f"original sha256 {record.model.sha256[:16]}"] if record.model.sha256 else []
    return f"<sub>{plain(shortened(' · '.join(parts), 300))}</sub>"
