"""Prints the list of passes, and the details of one."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from bnfold.report.terminal.lines import say, styled, table
from bnfold.rewriting.contract import Pass


def print_passes(console: Console, passes: list[Pass]) -> None:
    """Print a table of passes."""
    rows = table("pass", "exactness", "what it does", numbers=False)
    for pass_ in passes:
        first_line = pass_.documentation.split("\n", 1)[0]
        rows.add_row(pass_.name, pass_.exactness.value, styled(first_line))
    console.print(rows)


def print_pass(console: Console, pass_: Pass) -> None:
    """Print the documentation of a pass and its reasons to refuse."""
    console.print(Text.assemble((pass_.name, "bold"), f" ({pass_.exactness.value})\n"))
    console.print(Text(pass_.documentation))
    console.print("\nreasons to refuse:" if pass_.refusals else "\nreports no refusals")
    for reason in pass_.refusals:
        remedy = f" → {reason.remedy}" if reason.remedy else ""
        say(console, f"{reason.name}: {reason.message}{remedy}", indent=2)
