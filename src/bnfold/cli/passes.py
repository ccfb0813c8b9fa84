"""Prints the list of passes, and the details of one."""

from __future__ import annotations

import re

from rich.console import Console
from rich.text import Text

from bnfold.report.terminal.lines import say, styled, table
from bnfold.rewriting.contract import Pass

_ITEM = re.compile(r"[-*] ")
"""The start of an item of a list."""


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
    for line in _unwrapped(pass_.documentation):
        if _is_set(line):
            console.print(styled(line), soft_wrap=True)
        else:
            say(console, line, hang=2 if _ITEM.match(line) else 0)
    console.print("\nreasons to refuse:" if pass_.refusals else "\nreports no refusals")
    for reason in pass_.refusals:
        remedy = f" → {reason.remedy}" if reason.remedy else ""
        say(console, f"{reason.name}: {reason.message}{remedy}", indent=2)


def _is_set(line: str) -> bool:
    """Say whether a line of a docstring stays as it is: a formula, a table, or a blank line."""
    return not line.strip() or line.startswith("    ")


def _unwrapped(documentation: str) -> list[str]:
    """Return the lines of a docstring, with each paragraph and each item of a list on one line."""
    lines: list[str] = []
    for line in documentation.splitlines():
        if lines and not (_is_set(line) or _ITEM.match(line) or _is_set(lines[-1])):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line.rstrip())
    return lines
