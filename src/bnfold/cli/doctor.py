"""Prints what of this machine and its packages works."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from bnfold.report.terminal.lines import styled, table
from bnfold.running.diagnosis import Finding


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print a table with a row for each finding."""
    rows = table("", "works", "", numbers=False)
    for finding in findings:
        works = styled("yes", "green") if finding.works else styled("no", "red")
        rows.add_row(finding.name, works, styled(finding.detail))
    console.print(rows)
