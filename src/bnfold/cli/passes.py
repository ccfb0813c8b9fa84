"""Prints the list of passes, and the details of one."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bnfold.report.wording import legible
from bnfold.rewriting.contract import Pass


def _text(content: str, style: str = "") -> Text:
    return Text(legible(content), style)


def _say(console: Console, *parts: str | Text) -> None:
    """Print one line, however long."""
    line = Text.assemble(*(_text(part) if isinstance(part, str) else part for part in parts))
    console.print(line, soft_wrap=True)


def print_passes(console: Console, passes: list[Pass]) -> None:
    """Print a table of passes."""
    table = Table("pass", "exactness", "what it does", box=None, pad_edge=False)
    for pass_ in passes:
        first_line = pass_.documentation.split("\n", 1)[0]
        table.add_row(pass_.name, pass_.exactness.value, _text(first_line))
    console.print(table)


def print_pass(console: Console, pass_: Pass) -> None:
    """Print the documentation of a pass and its reasons to refuse."""
    console.print(Text.assemble((pass_.name, "bold"), f" ({pass_.exactness.value})\n"))
    console.print(Text(pass_.documentation))
    console.print("\nreasons to refuse:" if pass_.refusals else "\nreports no refusals")
    for reason in pass_.refusals:
        remedy = f" → {reason.remedy}" if reason.remedy else ""
        _say(console, f"  {reason.name}: {reason.message}{remedy}")
