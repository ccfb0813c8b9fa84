"""Renders the index of a batch: a row a model, as a page that needs no network, and as Markdown."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from urllib.parse import quote

from jinja2 import Environment

from bnfold.record.batch import WAITING, Index, Row, Speed
from bnfold.report import wording
from bnfold.report.templating import style, templates

_TONES = {
    "pass": "good",
    "certified": "good",
    "identical": "good",
    "not checked": "neutral",
    WAITING: "neutral",
    "not-verified": "open",
    "too slow": "open",
}
"""Of a verdict; any other is bad."""

_LONGEST_REASON = 300


@dataclass(frozen=True)
class Cell:
    """A text, and what to sort it by."""

    text: str
    key: float | str
    link: str = ""


@dataclass(frozen=True)
class Line:
    """A row as it is shown."""

    row: Row
    tone: str
    verdict: str
    link: str
    certificate: Cell
    batchnorm: Cell
    nodes: Cell
    megabytes: Cell
    speeds: list[Cell]
    """In the order of the columns."""
    seconds: Cell
    remarks: list[str]


@dataclass(frozen=True)
class Column:
    """A kind of machine and a provider, with a letter if there are several."""

    machine: str
    provider: str
    letter: str

    @property
    def title(self) -> str:
        return f"speed-up on {self.letter}" if self.letter else "speed-up"


def html(index: Index) -> str:
    """Return the page as text."""
    columns = columns_of(index.rows)
    return (
        _environment()
        .get_template("batch.html.j2")
        .render(
            index=index,
            css=style(),
            lines=[_line(row, columns) for row in index.rows],
            columns=columns,
            counts=counts_of(index.rows),
            tone=tone_of(index),
            summary=summary_of(index),
            command=wording.command_line(index.command),
        )
    )


@cache
def _environment() -> Environment:
    return templates()


def markdown(index: Index) -> str:
    """Return the index as Markdown, for a pull request or a terminal."""
    columns = columns_of(index.rows)
    titles = ["model", "verdict", "certified", "BN", "nodes", "MB"]
    titles += [column.title for column in columns] + ["seconds"]
    lines = [
        f"# bnfold batch: {summary_of(index)}",
        "",
        f"| {' | '.join(titles)} |",
        "|---|---|" + "---:|" * (len(titles) - 2),
    ]
    for line in (_line(row, columns) for row in index.rows):
        name = _cell(line.row.name)
        link = f"[{name}]({line.link})" if line.link else name
        cells = [line.certificate, line.batchnorm, line.nodes, line.megabytes]
        texts = [cell.text for cell in (*cells, *line.speeds, line.seconds)]
        lines.append(f"| {' | '.join([link, line.verdict, *map(_cell, texts)])} |")
    remarks = [
        f"- {_cell(line.row.name)}: {_cell(remark)}"
        for line in (_line(row, columns) for row in index.rows)
        for remark in line.remarks
    ]
    machines = [
        f"- {column.letter + ': ' if column.letter else ''}{_cell(column.machine)}, "
        f"{column.provider}"
        for column in columns
    ]
    for title, items in (("What to know", remarks), ("Machines", machines)):
        lines += ["", f"## {title}", "", *items] if items else []
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    escaped = wording.shortened(text, _LONGEST_REASON)
    for letter in "\\`*_[]<>|":
        escaped = escaped.replace(letter, f"\\{letter}")
    return escaped


# --- What all of it says --------------------------------------------------------------------------


def counts_of(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """Return how many models have each verdict, the most frequent first."""
    return Counter(wording.shortened(row.verdict) for row in rows).most_common()


def summary_of(index: Index) -> str:
    """Return the counts in a line."""
    counts = ", ".join(f"{number:,} {verdict}" for verdict, number in counts_of(index.rows))
    unfinished = "" if index.finished else " (not finished)"
    return f"{wording.count(len(index.rows), 'model')}: {counts}{unfinished}"


def tone_of(index: Index) -> str:
    """Return the tone of the page: that of its worst row."""
    tones = {_tone(row) for row in index.rows}
    return next((tone for tone in ("bad", "open", "neutral") if tone in tones), "good")


def _tone(row: Row) -> str:
    return _TONES.get(row.verdict, "bad")


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """Return a column for each kind of machine and provider that anything was timed on."""
    found = dict.fromkeys((speed.machine, speed.provider) for row in rows for speed in row.speeds)
    several = len(found) > 1
    return [
        Column(machine, provider, _letters(number) if several else "")
        for number, (machine, provider) in enumerate(found)
    ]


def _letters(number: int) -> str:
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")


# --- Rows -----------------------------------------------------------------------------------------


def _line(row: Row, columns: Sequence[Column]) -> Line:
    to_certify = row.rewrites - row.requested
    share = row.certified / to_certify if to_certify else -1.0
    reason = f"exit code {row.exit_code}: {row.reason}" if row.exit_code else ""
    seconds = "" if row.verdict == WAITING else f"{row.seconds:.1f}"
    return Line(
        row=row,
        tone=_tone(row),
        verdict=wording.shortened(row.verdict),
        link=_link(row.page),
        certificate=Cell(proven(row), share),
        batchnorm=_pair(row.batchnorm),
        nodes=_pair(row.nodes),
        megabytes=_pair(row.bytes, 1e6),
        speeds=[_speed(row, column) for column in columns],
        seconds=Cell(seconds or "–", row.seconds),
        remarks=[each for each in (reason, row.speed_note, *_others(row)) if each],
    )


def proven(row: Row) -> str:
    """Return how many rewrites are certified, of those of which something is to prove."""
    total = row.rewrites - row.requested
    return f"{row.certified:,} of {total:,}" if row.certificates else "–"


def _others(row: Row) -> list[str]:
    return [note for note in dict.fromkeys(row.notes) if note != row.speed_note]


def _pair(values: Sequence[int] | None, unit: float = 1) -> Cell:
    if values is None:
        return Cell("–", -1.0)
    before, after = (_number(value / unit if unit != 1 else value) for value in values)
    return Cell(before if before == after else f"{before} → {after}", values[0] / unit)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _speed(row: Row, column: Column) -> Cell:
    """Return the speed-up with all of onnxruntime's optimizations."""
    mine = [
        speed
        for speed in row.speeds
        if (speed.machine, speed.provider) == (column.machine, column.provider)
    ]
    best: Speed | None = next((speed for speed in mine if speed.level == "all"), None)
    if best is None or best.speedup is None or best.ci95 is None:
        return Cell("not yet" if row.pending else "–", -1.0)
    verdict = {"no significant difference": "no difference"}.get(best.verdict, best.verdict)
    interval = f"[{best.ci95[0]:.2f}, {best.ci95[1]:.2f}]"
    return Cell(f"{best.speedup:.2f} {interval} {verdict}", best.speedup, _link(best.page))


def _link(path: str) -> str:
    """Return a path as a link: its bytes, where it has any."""
    try:
        return quote(os.fsencode(path))
    except UnicodeEncodeError:
        return quote(path.encode(errors="replace"))
