"""Prints what became of the models of a batch."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from bnfold.cli.batch_progress import duration
from bnfold.record.batch import Index, Row
from bnfold.report.batch import proven, summary_of
from bnfold.report.terminal.lines import cell, say, styled, table

_MOST_ROWS = 40
_STYLES = {"pass": "green", "certified": "green", "identical": "green", "waiting": ""}


def print_index(console: Console, index: Index, out: Path, *, quiet: bool) -> None:
    """Print a table if it is short, then the failures, the counts and the place of the index."""
    if not quiet and len(index.rows) <= _MOST_ROWS:
        _print_rows(console, index.rows)
        console.print()
    if not quiet:
        for row in index.rows:
            if row.exit_code:
                say(console, f"{row.name} (exit code {row.exit_code}): {row.reason}")
        for row in index.rows:
            for note in dict.fromkeys(row.notes):
                say(console, f"{row.name}: {note}")
    say(console, f"{summary_of(index)}; in {duration(index.seconds)} by {index.engine}")
    say(console, f"index: {out / 'index.html'}")


def _print_rows(console: Console, rows: list[Row]) -> None:
    shown = table("model", "verdict", "certified", "BN", "nodes", "times as fast", numbers=False)
    for row in rows:
        shown.add_row(
            cell(console, row.name),
            styled(row.verdict, _STYLES.get(row.verdict, "red")),
            proven(row),
            _pair(row.batchnorm),
            _pair(row.nodes),
            _speed(row),
        )
    console.print(shown)


def _pair(values: list[int] | None) -> str:
    return "–" if values is None else f"{values[0]:,} → {values[1]:,}"


def _speed(row: Row) -> str:
    for speed in row.speeds:
        if speed.level == "all" and speed.speedup is not None and speed.ci95 is not None:
            low, high = speed.ci95
            return f"{speed.speedup:.2f} [{low:.2f}, {high:.2f}]"
    return "–"
