"""Delivers the record of a run: to its reports, and to the terminal or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from bnfold.errors import NotEquivalentError, NotVerifiedError

if TYPE_CHECKING:
    from rich.console import Console

    from bnfold.cli.outputs import Reports
    from bnfold.record.data import Record
    from bnfold.report.terminal.lines import Detail

EXIT_CODES = {
    "pass": 0,
    "certified": 0,
    "identical": 0,
    "fail": NotEquivalentError.exit_code,
    "not-verified": NotVerifiedError.exit_code,
}
"""The exit code of each verdict on two models."""


def new_console() -> Console:
    """Return a console on standard output that shows all characters as they are."""
    from rich.console import Console

    return Console(emoji=False)


def deliver(
    record: Record,
    reports: Reports,
    json: bool,
    render: Callable[[Console, Record, Detail], None],
    detail: Detail,
) -> None:
    """Write the reports of a run, then print its record."""
    record = replace(record, command=sys.argv[:])
    reports.write(record)
    if json:
        print(record.to_json())
    else:
        render(new_console(), record, detail)
