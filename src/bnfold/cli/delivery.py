"""Delivers the record of a run: to its reports, and to the terminal or as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from bnfold.cli.config import command_line
from bnfold.cli.streams import spare_output
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


def new_console(*, stderr: bool = False) -> Console:
    """Return a console on a standard stream that shows all characters as they are."""
    from rich.console import Console

    return Console(emoji=False, stderr=stderr)


def deliver(
    record: Record,
    reports: Reports,
    json: bool,
    render: Callable[[Console, Record, Detail], None],
    detail: Detail,
    *,
    stderr: bool = False,
) -> None:
    """Write the reports of a run, then print its record."""
    record = replace(record, command=command_line())
    reports.write(record)
    is_in_file = record.output is not None and record.output.written and not stderr
    if reports or is_in_file:
        spare_output()
    if json:
        print(record.to_json())
    else:
        render(new_console(stderr=stderr), record, detail)
