"""Prints what passes there are, and all about one."""

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
    line = Text.assemble(*(_text(each) if isinstance(each, str) else each for each in parts))
    console.print(line, soft_wrap=True)


def print_passes(console: Console, passes: list[Pass]) -> None:
    """Print a table of passes."""
    table = Table("pass", "exactness", "what it does", box=None, pad_edge=False)
    for each in passes:
        first_line = each.documentation.split("\n", 1)[0]
        table.add_row(each.name, each.exactness.value, _text(first_line))
    console.print(table)


def print_pass(console: Console, each: Pass) -> None:
    """Print all that there is to know about a pass."""
    console.print(Text.assemble((each.name, "bold"), f" ({each.exactness.value})\n"))
    console.print(Text(each.documentation))
    console.print("\nreasons to refuse:" if each.refusals else "\nreports no refusals")
    for reason in each.refusals:
        remedy = f" → {reason.remedy}" if reason.remedy else ""
        _say(console, f"  {reason.name}: {reason.message}{remedy}")
