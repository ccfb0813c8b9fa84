"""The command `bnfold report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bnfold.cli.options import (
    Json,
)
from bnfold.cli.outputs import Reports
from bnfold.cli.pipes import Pipes
from bnfold.cli.streams import spare_output


def report(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN.json", help="A record from --report FILE.json, or -.", show_default=False
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
    json: Json = False,
) -> None:
    """Render the record of a run as HTML, Markdown or JSON."""
    from bnfold.record.reading import read_record
    from bnfold.report import render

    with Pipes() as pipes:
        run = pipes.incoming(run)
        with Reports(output, [("RUN.json", run)], option="-o") as reports:
            record = read_record(run)
            reports.write(record)
    if output:
        spare_output()
    if json or not output:
        print(render(record, ".json" if json else ".md"), end="")
