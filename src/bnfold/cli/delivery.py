"""Delivers the record of a run: to its reports, and to the terminal or as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from bnfold.cli.config import command_line
from bnfold.cli.ending import say
from bnfold.cli.pipes import STREAM
from bnfold.cli.streams import spare_output
from bnfold.errors import NotEquivalentError, NotVerifiedError, UsageError

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
    exit_code: int = 0,
) -> None:
    """Write the reports of a run, then print its record.

    `exit_code` is that of the run: unless it is 0, it counts more than a report that cannot be
    written, which is told.

    Raises:
        UsageError: if one cannot be written; all else is.
    """
    record = replace(record, command=command_line())
    output = record.output.path if record.output is not None and record.output.written else None
    failure: UsageError | None = None
    try:
        reports.write(record, beside=[] if output is None else [_shown(output)])
    except UsageError as error:
        failure = error
    if (reports and failure is None) or (output is not None and not stderr):
        spare_output()
    if json:
        print(record.to_json())
    else:
        render(new_console(stderr=stderr), record, detail)
    if failure is not None and not exit_code:
        raise failure
    if failure is not None:
        say(str(failure))


def _shown(output: str) -> str:
    return "OUTPUT, to standard output" if output == STREAM else output
