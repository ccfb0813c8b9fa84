"""The command `bnfold report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bnfold.cli.options import (
    json_option,
)
from bnfold.cli.outputs import Reports
from bnfold.cli.pipes import Pipes
from bnfold.cli.streams import spare_output


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN.json",
            help="Records from --report FILE.json, or -: several make one page.",
            show_default=False,
        ),
    ],
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.html|.md|.json",
            help="Output file (repeatable). Default: print Markdown.",
        ),
    ] = None,
    json: Annotated[bool, json_option("Print the record as JSON, not as Markdown.")] = False,
) -> None:
    """Render records of runs as HTML, Markdown or JSON."""
    from bnfold.record.reading import read_record
    from bnfold.report import render, render_runs

    with Pipes() as pipes:
        runs = [pipes.incoming(run) for run in runs]
        with Reports(output, [("RUN.json", run) for run in runs], option="-o") as reports:
            records = [read_record(run) for run in runs]
            reports.write(*records)
    if output:
        spare_output()
    if json or not output:
        suffix = ".json" if json else ".md"
        several = len(records) > 1
        print(render_runs(records, suffix) if several else render(records[0], suffix), end="")
